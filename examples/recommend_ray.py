"""
Recommends items for all users of a file on the workers of Ray Data, with the rows that `patchrec recommend` writes.

    python examples/recommend_ray.py outputs/final --histories users.parquet --output top.parquet --workers 2
    python examples/recommend_ray.py outputs/final --histories /shared/users.parquet --output /shared/top.parquet \
        --workers 16 --gpus_per_worker 1 --address auto

All options of `patchrec recommend` apply, except --device. On several machines, the checkpoint, the histories and the
output lie where all of them see them. The same command continues an interrupted job, and so does `patchrec recommend`.

options of this script:
  --workers N           workers, each with the whole checkpoint (default: 2)
  --cpus_per_worker N   CPU cores of a worker (default: 1)
  --gpus_per_worker N   GPUs of a worker; 0.5 lets two workers share one (default: 0, the CPU)
  --address ADDRESS     a running cluster: auto, or its HOST:PORT. Without it, a cluster of this machine is started
"""

import argparse
import logging
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from patchrec_hf import PatchRecommender
from patchrec_hf.commands import recommend
from patchrec_hf.commands.errors import errors_in_one_line
from patchrec_hf.commands.index_options import SAVED_INDEX
from patchrec_hf.jobs.chunks import UserChunks
from patchrec_hf.jobs.history_files import HistoryFile, find_histories
from patchrec_hf.jobs.job import Job, JobSummary, PartRanker, check_arguments, open_job
from patchrec_hf.jobs.job_index import INDEX_DIRECTORY
from patchrec_hf.jobs.job_parts import JobParts
from patchrec_hf.jobs.user_ranker import RankingSettings, UserRanker
from patchrec_hf.jobs.user_requests import RequestReader, UsersError
from patchrec_hf.runtime.progress import progress_bar


TRIES = 2
"""How often a worker tries a part before it names the part as failed."""
SPANS_PER_WORKER = 32
"""A worker reads the histories of consecutive parts in one pass. More of these spans balance workers better."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Only numbers of parts pass through Ray, so that a cluster of one machine needs little shared memory."""
SECONDS_TO_CONNECT = 10
TRIES_TO_START = 3
"""How often a cluster of this machine is started: Ray waits for half a minute, which is short on a busy machine."""
_RETRIES = {"max_restarts": 2, "max_task_retries": 1}
"""A worker that dies is started again, and its span is tried twice. Ray's own default is without end. The argument
that takes these settings goes away in Ray 2.64, which the extra therefore excludes."""


@dataclass(frozen=True)
class WorkerSettings:
    """The settings by which a worker ranks parts. All paths are absolute."""

    checkpoint: str
    loading: dict[str, Any]
    fingerprint: dict[str, str]
    settings: RankingSettings
    batch_size: int
    drop_unknown: bool
    on_error: str
    file: HistoryFile
    directory: Path
    users_per_part: int
    index: str | Path | None
    on_gpu: bool

    @property
    def of_index(self) -> dict[str, str]:
        """Arguments that load the checkpoint's own index: its revision. An index that the job has built has none."""
        is_saved = self.index == self.checkpoint and "revision" in self.loading
        return {"revision": self.loading["revision"]} if is_saved else {}


class Worker:
    """An actor of Ray: holds the checkpoint, and ranks the parts whose numbers it gets."""

    def __init__(self, settings: WorkerSettings) -> None:
        recommender = PatchRecommender.from_pretrained(settings.checkpoint, **settings.loading)
        if dict(recommender.fingerprint) != settings.fingerprint:
            raise ValueError(
                f"{settings.checkpoint} is another checkpoint on {socket.gethostname()} than where the job was "
                "started. Give all machines the same one."
            )
        recommender.model.to("cuda" if settings.on_gpu else "cpu")
        index = None if settings.index is None else recommender.load_index(settings.index, **settings.of_index)
        ranker = UserRanker(recommender, settings.settings, settings.batch_size, index)
        reader = RequestReader(recommender.catalog, settings.drop_unknown)
        chunks = UserChunks.of(settings.file, settings.users_per_part, ranker.reads_timestamps)
        parts = JobParts(settings.directory, chunks.num_users, settings.users_per_part)
        self._part_ranker = PartRanker(ranker, reader, chunks, parts, settings.on_error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Ranks the parts of a span. Each gets one row: its number, and the kind and text of an error, if any."""
        # Ray repeats a span if its worker dies; what it had written stays.
        asked = map(int, batch["parts"][0].as_py().split())
        wanted = [number for number in asked if not self._part_ranker.parts.is_whole(number)]
        rows = []
        for number, users in self._part_ranker.chunks.read(wanted):
            error = self._rank(number, users)
            is_of_users = isinstance(error, UsersError)
            rows.append(
                {
                    "part": number,
                    "is_of_users": is_of_users,
                    "error": ""
                    if error is None
                    else str(error)
                    if is_of_users
                    else f"{type(error).__name__}: {error}",
                }
            )
            if is_of_users:
                break
        return pa.Table.from_pylist(
            rows, pa.schema({"part": pa.int64(), "is_of_users": pa.bool_(), "error": pa.string()})
        )

    def _rank(self, number: int, users: Any) -> Exception | None:
        error: Exception | None = None
        for _ in range(TRIES):
            try:
                self._part_ranker.rank(number, users)
                return None
            except UsersError as found:
                return found
            except Exception as found:  # whatever it is, the other parts go on, and this one is named
                error = found
        return error


def parse(arguments: list[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Parses the options of this script and of `patchrec recommend`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus_per_worker", type=float, default=1)
    parser.add_argument("--gpus_per_worker", type=float, default=0)
    parser.add_argument("--address")
    own, rest = parser.parse_known_args(arguments)
    if own.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {own.workers}.")
    for name, least in (("cpus_per_worker", 0), ("gpus_per_worker", 0)):
        if not math.isfinite(getattr(own, name)) or getattr(own, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(own, name)}.")
    args = recommend.parse(rest)
    if args.device is not None:
        raise ValueError(f"Leave out --device {args.device}: --gpus_per_worker says whether workers have GPUs.")
    return own, args


@contextmanager
def ray_cluster(own: argparse.Namespace) -> Iterator[Any]:
    """Connects to a cluster, or starts one of this machine, and gives the module `ray`."""
    if own.address is None:
        # Ray reads these when it is imported. Its workers are this command: they wait for no other process.
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f'`recommend_ray.py` needs {error.name}: pip install "patchrec-hf[ray]".') from error

    # A cluster may be too small for the workers, of which Ray warns; one of this machine has what they ask for.
    logging.getLogger("ray.data").setLevel(logging.ERROR if own.address is None else logging.WARNING)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if own.address is None:
        # A worker holds its cores, and Ray needs one more for the tasks that hand out the parts.
        cpus = math.ceil(own.workers * own.cpus_per_worker) + 1
        _start(ray, {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False, **quiet})
    else:
        _connect(ray, own.address, quiet)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, settings: dict[str, Any]) -> None:
    for attempt in range(TRIES_TO_START):
        try:
            ray.init("local", **settings)
            return
        except Exception as error:  # Ray raises no narrower one
            ray.shutdown()
            if attempt == TRIES_TO_START - 1:
                raise OSError(
                    f"Ray could not start a cluster on this machine: {error} If the machine is busy, start one by "
                    "`ray start --head`, and give this script `--address auto`."
                ) from error


def _connect(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    mend = "`ray status` on a machine of the cluster shows whether it runs, and `ray start --head` starts one."
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not (host and port.isdecimal()):
            raise ValueError(f"--address must be auto or HOST:PORT, such as 10.0.0.1:6379, got {address!r}.")
        try:  # Ray itself would try for ten minutes
            socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"The Ray cluster at {address} cannot be reached: {error}. {mend}") from None
    try:
        ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"The Ray cluster at {address} cannot be reached: {error} {mend}") from None


def rank_missing(ray: Any, job: Job, worker: WorkerSettings, own: argparse.Namespace) -> None:
    """Ranks the missing parts on the workers. Raises at once for users who cannot be ranked, else at the end."""
    parts, total = job.part_ranker.parts, job.part_ranker.chunks.num_users
    size = -(-len(job.missing) // (own.workers * SPANS_PER_WORKER))
    # As texts, since Ray makes tensors of lists.
    spans = [
        {"parts": " ".join(map(str, job.missing[start : start + size]))} for start in range(0, len(job.missing), size)
    ]
    warnings.filterwarnings("ignore", message=".*ray_remote_args_fn.*")
    workers = ray.data.ActorPoolStrategy(size=min(own.workers, len(spans)), max_tasks_in_flight_per_actor=1)
    ranked = ray.data.from_items(spans, override_num_blocks=len(spans)).map_batches(
        Worker,
        fn_constructor_kwargs={"settings": worker},
        batch_size=1,
        batch_format="pyarrow",
        compute=workers,
        num_cpus=own.cpus_per_worker,
        num_gpus=own.gpus_per_worker or None,
        ray_remote_args_fn=_RETRIES.copy,
    )
    failed: dict[int, str] = {}
    with progress_bar(
        True, total=total, initial=total - job.num_missing_users, desc="Recommending", unit="user"
    ) as progress:
        try:
            for row in ranked.iter_rows():
                if row["is_of_users"]:
                    raise UsersError(row["error"])
                if row["error"]:
                    failed[row["part"]] = row["error"]
                progress.update(parts.num_written() - progress.n)
        except ray.exceptions.RayError as error:
            left = parts.missing()
            reason = str(error.__cause__ or error).strip().splitlines()[-1]
            raise OSError(
                f"Ray gave up a worker: {reason}. {len(left)} of {len(parts)} parts are missing, the first of them "
                f"part {left[0] if left else 0}; the others are kept. The same command ranks the missing ones."
            ) from error
    if failed:
        number, reason = min(failed.items())
        first = number * parts.users_per_part
        raise OSError(
            f"{len(failed)} of {len(parts)} parts failed {TRIES} times: {', '.join(map(str, sorted(failed)))}. "
            f"Part {number} (rows {first} to {first + parts.size(number) - 1}): {reason} All other parts are kept in "
            f"{parts.directory}. The same command ranks the missing ones."
        )


def run(own: argparse.Namespace, args: argparse.Namespace) -> JobSummary:
    """Runs the job: this process checks the settings and merges the parts, and the workers rank them."""
    columns = dict(pair.split("=", 1) for pair in args.columns or ())
    check_arguments(args.output, args.on_error, args.batch_size, args.users_per_part)
    written = (args.time_unit, args.date_format, args.separator, args.quote_char, args.has_header)
    find_histories(args.histories, columns, *written)
    loading = {name: value for name, value in (("dtype", args.dtype), ("revision", args.revision)) if value}
    loading["trust_layout_code"] = args.trust_layout_code
    checkpoint = Path(args.checkpoint)
    name = str(checkpoint.resolve()) if checkpoint.exists() else args.checkpoint
    with ray_cluster(own) as ray:
        recommender = PatchRecommender.from_pretrained(name, **loading)
        of_ranking = {entry.name for entry in fields(RankingSettings)} & set(vars(args))
        settings = RankingSettings(**{field: getattr(args, field) for field in of_ranking})
        revision = {"revision": args.revision} if args.revision else {}
        index = recommender.load_index(name, **revision) if args.index == SAVED_INDEX else args.index
        with open_job(
            recommender,
            Path(args.histories).resolve(),
            Path(args.output).resolve(),
            settings,
            index=index,
            columns=columns,
            time_unit=args.time_unit,
            date_format=args.date_format,
            separator=args.separator,
            quote_char=args.quote_char,
            has_header=args.has_header,
            drop_unknown=args.drop_unknown,
            on_error=args.on_error,
            batch_size=args.batch_size,
            users_per_part=args.users_per_part,
        ) as job:
            # All workers read the index that the job has built, because two builds may miss different items.
            built = None if args.index is None else job.part_ranker.parts.directory / INDEX_DIRECTORY
            worker = WorkerSettings(
                name,
                loading,
                dict(recommender.fingerprint),
                job.part_ranker.ranker.settings,
                args.batch_size,
                args.drop_unknown,
                args.on_error,
                job.file,
                job.part_ranker.parts.directory,
                args.users_per_part,
                name if args.index == SAVED_INDEX else built,
                own.gpus_per_worker > 0,
            )
            start = time.perf_counter()
            if job.missing:
                rank_missing(ray, job, worker, own)
            return job.finish(time.perf_counter() - start)


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        recommend.parse(["--help"])
    try:
        with errors_in_one_line():
            print(recommend.report(run(*parse(arguments))))
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command continues the job.") from None


if __name__ == "__main__":
    main(sys.argv[1:])
