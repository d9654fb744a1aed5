"""Jobs: claims the parts of a job, ranks them one by one, and merges them to the file of recommendations."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout

from ..runs import claim_run, from_main_process, process_state
from ..runtime.index_methods import index_method
from ..runtime.index_settings import IndexKind
from ..runtime.item_index import ItemIndex
from ..runtime.progress import progress_bar
from ..runtime.recommender import PatchRecommender
from .chunks import UserChunks
from .grouping import as_rows
from .history_files import HistoryFile, find_histories
from .job_index import INDEX_DIRECTORY, check_job_index, describe_job_index, index_of_job
from .job_parts import JobParts, merge_parts, part_rows, skipped_users
from .job_settings import job_settings
from .user_ranker import RankingSettings, UserRanker
from .user_requests import Fault, RequestReader, UserRequest, UsersError


ON_ERROR = ("stop", "skip")
_LOCK_NAME, _HISTORIES_NAME = "job.lock", "histories"
_SCRATCH = (_LOCK_NAME, _HISTORIES_NAME, f"{_HISTORIES_NAME}.lock", f"{_HISTORIES_NAME}.part", INDEX_DIRECTORY)


@dataclass(frozen=True)
class JobSummary:
    """
    A finished job.

    Args:
        output (`pathlib.Path`):
            The file with the recommendations.
        skipped (`pathlib.Path`, *optional*):
            The file with the users who got none, and the reasons; `None` if there is no such user.
        num_recommended (`int`):
            Number of users with recommendations.
        num_skipped (`int`):
            Number of users without.
        num_dropped (`int`):
            Number of ids that were left out because the catalog lacks them.
        num_ranked (`int`):
            Number of users whom this run read, by all processes. Users of an interrupted run before it do not count.
        seconds (`float`):
            Seconds that this took.
    """

    output: Path
    skipped: Path | None
    num_recommended: int
    num_skipped: int
    num_dropped: int
    num_ranked: int
    seconds: float

    @property
    def users_per_second(self) -> float:
        """Users of this run per second, by all processes together."""
        return self.num_ranked / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class PartRanker:
    """
    Ranks the users of parts, and writes them.

    Args:
        ranker ([`UserRanker`]):
            Ranks users.
        reader ([`RequestReader`]):
            Looks up their histories.
        chunks ([`UserChunks`]):
            The histories, one chunk for each part.
        parts ([`JobParts`]):
            The parts.
        on_error (`"stop"` or `"skip"`):
            Whether a user who cannot be ranked is an error.
    """

    ranker: UserRanker
    reader: RequestReader
    chunks: UserChunks
    parts: JobParts
    on_error: str

    def rank(self, number: int, rows: pl.DataFrame) -> None:
        """
        Ranks the users of a part, and writes the part.

        Args:
            number (`int`):
                The number of the part.
            rows (`polars.DataFrame`):
                Its users, as [`UserChunks.read`] reads them.

        Raises:
            UsersError: If a user cannot be ranked, and `on_error` is `"stop"`.
        """
        users = list(self.reader.read(rows, number * self.parts.users_per_part))
        ranked = self.ranker.rank([user for user in users if isinstance(user, UserRequest)])
        part = part_rows(users, ranked, self.chunks.user_type, self.reader.catalog.has_text_ids)
        if self.on_error == "stop":
            self.reader.check(skipped_users(part), self.chunks.num_users)
        self.parts.write(number, part)


@dataclass(frozen=True)
class Job:
    """
    A job that this run, with all its processes, has claimed (see [`open_job`]).

    Args:
        output (`pathlib.Path`):
            The file to write.
        file ([`HistoryFile`]):
            The histories, one row per user, in Parquet.
        part_ranker ([`PartRanker`]):
            Ranks the parts.
        missing (`list[int]`):
            Numbers of the parts that were not written when the run began.
    """

    output: Path
    file: HistoryFile
    part_ranker: PartRanker
    missing: list[int]

    @property
    def num_missing_users(self) -> int:
        """Number of users of the parts that were not written when the run began."""
        return sum(map(self.part_ranker.parts.size, self.missing))

    def finish(self, seconds: float) -> JobSummary:
        """
        Merges the parts, puts the output in its place, and deletes the directory of the parts.

        Args:
            seconds (`float`):
                Seconds that this run took.

        Raises:
            UsersError: If an interrupted run skipped users, and this one stops at such users.
        """
        parts = self.part_ranker.parts
        merged = merge_parts(parts)
        if merged.num_skipped and self.part_ranker.on_error == "stop":
            raise UsersError(
                f"{parts.directory} holds {merged.num_skipped} users whom an interrupted job skipped. Continue it "
                "with `on_error='skip'`, or delete the directory to start again."
            )
        skipped = self.output.with_name(f"{self.output.stem}.skipped.parquet")
        merged.publish(self.output, skipped)
        shutil.rmtree(parts.directory, ignore_errors=True)
        counts = (merged.num_recommended, merged.num_skipped, merged.num_dropped, self.num_missing_users)
        return JobSummary(self.output, skipped if merged.num_skipped else None, *counts, seconds)


@contextmanager
def open_job(
    recommender: PatchRecommender,
    histories: str | Path,
    output: str | Path,
    settings: RankingSettings,
    *,
    index: ItemIndex | IndexKind | None = None,
    columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    quote_char: str | None = None,
    has_header: bool = True,
    drop_unknown: bool = False,
    on_error: str = "stop",
    batch_size: int = 8,
    users_per_part: int = 1024,
    show_progress: bool = True,
) -> Iterator[Job]:
    """
    Claims a job: checks all settings, brings the histories into the form with one row per user, and finds the parts
    that are missing. No other run can claim it until the context ends.

    Args:
        settings ([`RankingSettings`]):
            How items are recommended.
        recommender, histories, output, index, columns, time_unit, date_format, separator, quote_char, has_header,
        drop_unknown, on_error, batch_size, users_per_part, show_progress:
            See [`recommend_users`].

    Returns:
        A context that gives the [`Job`]; the same on every process.

    Raises:
        OSError, TypeError, ValueError, FloatingPointError: As [`recommend_users`] does.
    """
    output = Path(output)
    check_arguments(output, on_error, batch_size, users_per_part)
    file = find_histories(histories, columns, time_unit, date_format, separator, quote_char, has_header)
    if index is not None:
        check_job_index(recommender, index, settings)
        settings = replace(settings, method=index_method(settings.method))
    # A kind of index is not built yet, but the other settings can be tried without it.
    is_kind = isinstance(index, str)
    tried = replace(settings, num_candidates=None) if is_kind else settings
    ranker = UserRanker(recommender, tried, batch_size, index if isinstance(index, ItemIndex) else None)
    if ranker.reads_timestamps and not file.has_timestamps:
        raise recommender.processor.missing_timestamps(f"{file.path} has no column of times", ranker.layout)
    reader = RequestReader(recommender.catalog, drop_unknown)
    directory = output.with_name(f"{output.name}.parts")
    values = job_settings(
        recommender,
        file,
        settings,
        index=describe_job_index(index, len(recommender.catalog)),
        drop_unknown=drop_unknown,
        users_per_part=users_per_part,
    )
    try:
        claim_run(directory, values, scratch=_SCRATCH)
    except FileExistsError as error:
        raise FileExistsError(f"{error} The directory belongs to the output; delete it to start again.") from None

    lock = FileLock(directory / _LOCK_NAME)

    def prepare() -> list[int]:
        """Prepares the histories, looks up all users if the job stops at bad ones, and returns the missing parts."""
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OSError(f"Another run is at work in {directory}. Wait for it, or choose another output.") from None
        chunks = UserChunks.of(as_rows(file, directory / _HISTORIES_NAME), users_per_part, ranker.reads_timestamps)
        if on_error == "stop":
            reader.check(_look_up(chunks, reader, ranker, show_progress), chunks.num_users)
        return JobParts(directory, chunks.num_users, users_per_part).missing()

    try:
        missing = from_main_process(prepare)
        if is_kind and missing:
            shows_bar = show_progress and process_state().is_main_process
            built = index_of_job(recommender, index, directory, shows_bar)
            ranker = UserRanker(recommender, settings, batch_size, built)
        # The main process has made the file that is read here, if the histories had another form.
        rows = as_rows(file, directory / _HISTORIES_NAME)
        chunks = UserChunks.of(rows, users_per_part, ranker.reads_timestamps)
        parts = JobParts(directory, chunks.num_users, users_per_part)
        yield Job(output, rows, PartRanker(ranker, reader, chunks, parts, on_error), missing)
    finally:
        lock.release()


def check_arguments(output: str | Path, on_error: str, batch_size: int, users_per_part: int) -> None:
    """
    Checks arguments of [`recommend_users`] for which no model is needed.

    Args:
        output, on_error, batch_size, users_per_part:
            See [`recommend_users`].

    Raises:
        ValueError, TypeError, FileNotFoundError, FileExistsError: As [`recommend_users`] does.
    """
    output = Path(output)
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be 'stop' or 'skip', got {on_error!r}.")
    for name, value in (("batch_size", batch_size), ("users_per_part", users_per_part)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if output.suffix != ".parquet":
        raise ValueError(f"`output` must be a Parquet file, such as top.parquet, got {str(output)!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {output.parent} for {output.name}. Make it first.")
    if output.exists():
        raise FileExistsError(f"{output} exists. Choose another output, or delete it.")


def _look_up(
    chunks: UserChunks, reader: RequestReader, ranker: UserRanker, show_progress: bool
) -> Iterator[UserRequest | Fault]:
    """Looks up all users, before any of them is ranked."""
    with progress_bar(show_progress, total=chunks.num_users, desc="Looking up", unit="user") as progress:
        for number, rows in chunks.read():
            for user in reader.read(rows, number * chunks.users_per_chunk):
                problem = ranker.problem_of(user) if isinstance(user, UserRequest) else None
                yield user if problem is None else Fault(user.row, user.user_id, problem)
            progress.update(len(rows))
