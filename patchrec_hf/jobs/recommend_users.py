"""Recommending for users: a job that recommends for all users of a file, and that can be interrupted and shared."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from ..data.keywords import name_nearest_keyword
from ..runs import claim_run, from_main_process, process_state
from ..runtime.configuration import Normalizer
from ..runtime.index_methods import index_method
from ..runtime.index_settings import IndexKind
from ..runtime.item_index import ItemIndex
from ..runtime.progress import progress_bar
from ..runtime.ranking_config import Method
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


@name_nearest_keyword
def recommend_users(
    recommender: PatchRecommender,
    histories: str | Path,
    output: str | Path,
    k: int = 10,
    *,
    columns: Mapping[str, str] | None = None,
    time_unit: str = "s",
    date_format: str | None = None,
    separator: str | None = None,
    exclude_seen: bool = True,
    unique_titles: bool = True,
    method: Method | None = None,
    num_beams: int | None = None,
    max_title_tokens: int | None = None,
    normalizer: Normalizer | None = None,
    max_tokens: int | None = None,
    moment: int | None = None,
    index: ItemIndex | IndexKind | None = None,
    num_candidates: int | None = None,
    drop_unknown: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
    batch_size: int = 8,
    users_per_part: int = 1024,
    show_progress: bool = True,
) -> JobSummary:
    """
    Recommends items for all users of a file, and writes them to a Parquet file.

    The users are ranked in parts. A part is written to the directory `output` + `.parts` when it is whole, and the
    same call continues an interrupted job there. Processes that a launcher started share the parts. Neither changes
    the result, because a part depends on its users only. All histories never stand in memory together.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender. Each process has the whole model.
        histories (`str` or `pathlib.Path`):
            The users, in one of two forms:

            - One row per user, in Parquet or JSON lines: `user_id`, `item_ids` (a list, oldest first), and optionally
              `timestamps` (a list), `exclude` (a list of items that are left out for this user, with all other items
              of their titles) and `candidates` (a list of the only items that may be recommended to this user; a
              missing list stands for the whole catalog).
            - One row per interaction, in Parquet, JSON lines or CSV: `user_id`, `item_id` and `timestamp`, in any
              order. A prepared directory has this form in its `interactions.parquet`. All of its splits are read, and
              `position` orders them.

            Ids are the catalog's: a text such as `"7"` stands for the number 7, and a number for its text, whichever
            of them the catalog has.
        output (`str` or `pathlib.Path`):
            The Parquet file to write: one row per user, in the order of the histories, or of each user's first
            interaction. It has `user_id`, the lists `item_ids`, `titles` and `scores`, best first, and `is_exact`,
            whether the list is proven to be the best one.
        k (`int`, *optional*, defaults to `10`):
            Number of items for each user; fewer if fewer are left.
        columns (`Mapping[str, str]`, *optional*):
            The file's names for columns that it names differently, such as `{"user_id": "customer"}`.
        time_unit (`"s"`, `"ms"`, `"us"` or `"ns"`, *optional*, defaults to `"s"`):
            Unit of times that are numbers.
        date_format (`str`, *optional*):
            Format of times that are texts, for files with one row per interaction (see [`load_recommendation_data`]).
        separator (`str`, *optional*):
            Character between the values of a CSV file. If not given, it is found.
        exclude_seen, unique_titles, method, num_beams, max_title_tokens, normalizer, max_tokens:
            See [`PatchRecommender.recommend`].
        moment (`int`, *optional*):
            The moment of asking, in whole seconds since 1970 UTC: `times` of [`PatchRecommender.recommend`].
        index ([`ItemIndex`], `"flat"`, `"ivf"` or `"hnsw"`, *optional*):
            An index of the recommender's item vectors, for large catalogs, or the kind of index that the job builds
            before it ranks. The job keeps what it has built beside its parts, and a continued job reads it there.
        num_candidates (`int`, *optional*):
            See [`PatchRecommender.recommend`].
        drop_unknown (`bool`, *optional*, defaults to `False`):
            Whether ids that the catalog lacks are left out of histories, exclusions and candidates. Otherwise, they
            are an error of their user.
        on_error (`"stop"` or `"skip"`, *optional*, defaults to `"stop"`):
            `"stop"` looks up all histories before the first one is ranked, and raises if a user cannot be ranked.
            `"skip"` leaves such users out of the output, and writes their rows and the reasons to a second file: for
            `top.parquet`, `top.skipped.parquet`. Users cannot be ranked if their history is empty, holds an id that
            the catalog lacks, lacks timestamps that are read, or is longer than the model's context, or if no item is
            left to recommend. An interrupted job may be continued with the other value.
        batch_size (`int`, *optional*, defaults to `8`):
            Histories per forward. It changes no more than the last digits of the scores, so an interrupted job may be
            continued with another one.
        users_per_part (`int`, *optional*, defaults to `1024`):
            Number of users whose histories are read together.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, on the main process.

    Returns:
        [`JobSummary`], the same on every process.

    Raises:
        FileNotFoundError: If the file of histories does not exist.
        FileExistsError: If the output exists, or an interrupted job had other settings, another checkpoint or other
            histories.
        ValueError: If the histories lack a column or hold values that cannot be read, if a setting is out of range or
            does not fit the checkpoint, if the index is another checkpoint's, or if a user cannot be ranked and
            `on_error` is `"stop"`.
        TypeError: If `k` is no whole number.
        ImportError: If there is an index, and FAISS is not installed.
        FloatingPointError: If the model's scores are not numbers.
        OSError: If another run of the job is at work.
        RuntimeError: If a launcher started several processes, but they do not know of each other.

    Example:
    ```python
    >>> summary = recommend_users(recommender, "users.parquet", "top.parquet", k=20, on_error="skip")
    >>> summary.users_per_second
    ```
    """
    output = Path(output)
    check_arguments(output, on_error, batch_size, users_per_part)
    state = process_state()
    file = find_histories(histories, columns, time_unit, date_format, separator)
    settings = RankingSettings(
        k,
        exclude_seen,
        unique_titles,
        method,
        num_beams,
        max_title_tokens,
        normalizer,
        max_tokens,
        moment,
        num_candidates,
    )
    if index is not None:
        check_job_index(recommender, index, settings)
        settings = replace(settings, method=index_method(method))
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
    try:
        missing = from_main_process(
            lambda: _prepare(file, ranker, reader, directory, users_per_part, on_error, show_progress, lock)
        )
        if is_kind and missing:
            built = index_of_job(recommender, index, directory, show_progress and state.is_main_process)
            ranker = UserRanker(recommender, settings, batch_size, built)
        # The main process has made the file that is read here, if the histories had another form.
        chunks = UserChunks.of(as_rows(file, directory / _HISTORIES_NAME), users_per_part, ranker.reads_timestamps)
        parts = JobParts(directory, chunks.num_users, users_per_part)
        num_ranked, start = sum(map(parts.size, missing)), time.perf_counter()
        with progress_bar(
            show_progress and state.is_main_process,
            total=chunks.num_users,
            initial=chunks.num_users - num_ranked,
            desc="Recommending",
            unit="user",
        ) as progress:
            for number, rows in chunks.read(missing[state.process_index :: state.num_processes]):
                users = list(reader.read(rows, number * users_per_part))
                ranked = ranker.rank([user for user in users if isinstance(user, UserRequest)])
                part = part_rows(users, ranked, chunks.user_type, recommender.catalog.has_text_ids)
                if on_error == "stop":
                    reader.check(skipped_users(part), chunks.num_users)
                parts.write(number, part)
                progress.update(parts.num_written() - progress.n)  # the other processes write parts, too
            state.wait_for_everyone()
            progress.update(chunks.num_users - progress.n)
        seconds = time.perf_counter() - start
        return from_main_process(lambda: _finish(parts, output, on_error, num_ranked, seconds))
    finally:
        lock.release()


def _prepare(
    file: HistoryFile,
    ranker: UserRanker,
    reader: RequestReader,
    directory: Path,
    users_per_part: int,
    on_error: str,
    show_progress: bool,
    lock: FileLock,
) -> list[int]:
    """Prepares the histories, looks up all users if the job stops at bad ones, and returns the missing parts."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"Another run is at work in {directory}. Wait for it, or choose another output.") from None
    chunks = UserChunks.of(as_rows(file, directory / _HISTORIES_NAME), users_per_part, ranker.reads_timestamps)
    if on_error == "stop":
        reader.check(_look_up(chunks, reader, ranker, show_progress), chunks.num_users)
    return JobParts(directory, chunks.num_users, users_per_part).missing()


def _finish(parts: JobParts, output: Path, on_error: str, num_ranked: int, seconds: float) -> JobSummary:
    """Merges the parts, puts the output in its place, and deletes the directory of the parts."""
    merged = merge_parts(parts)
    if merged.num_skipped and on_error == "stop":
        raise UsersError(
            f"{parts.directory} holds {merged.num_skipped} users whom an interrupted job skipped. Continue it with "
            "`on_error='skip'`, or delete the directory to start again."
        )
    skipped = output.with_name(f"{output.stem}.skipped.parquet")
    merged.publish(output, skipped)
    shutil.rmtree(parts.directory, ignore_errors=True)
    counts = (merged.num_recommended, merged.num_skipped, merged.num_dropped, num_ranked)
    return JobSummary(output, skipped if merged.num_skipped else None, *counts, seconds)


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
