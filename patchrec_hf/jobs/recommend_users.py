"""Recommending for users: a job that recommends for all users of a file, and that can be interrupted and shared."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ..data.keywords import name_nearest_keyword
from ..runs import from_main_process, process_state
from ..runtime.configuration import Normalizer
from ..runtime.index_settings import IndexKind
from ..runtime.item_index import ItemIndex
from ..runtime.progress import progress_bar
from ..runtime.ranking_config import Method
from ..runtime.recommender import PatchRecommender
from .job import JobSummary, open_job
from .user_ranker import RankingSettings


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
    quote_char: str | None = None,
    has_header: bool = True,
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
        quote_char (`str`, *optional*):
            Character around values of a CSV file; an empty text if there is none (see [`load_recommendation_data`]).
        has_header (`bool`, *optional*, defaults to `True`):
            Whether the first line of a CSV file names the columns. If not, they are `column_1`, `column_2` and so on.
        exclude_seen, unique_titles, method, num_beams, max_title_tokens, normalizer, max_tokens:
            See [`PatchRecommender.recommend`].
        moment (`int`, *optional*):
            The moment of asking, in whole seconds since 1970 UTC: `times` of [`PatchRecommender.recommend`].
        index ([`ItemIndex`], `"flat"`, `"ivf"`, `"ivfpq"` or `"hnsw"`, *optional*):
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
    with open_job(
        recommender,
        histories,
        output,
        settings,
        index=index,
        columns=columns,
        time_unit=time_unit,
        date_format=date_format,
        separator=separator,
        quote_char=quote_char,
        has_header=has_header,
        drop_unknown=drop_unknown,
        on_error=on_error,
        batch_size=batch_size,
        users_per_part=users_per_part,
        show_progress=show_progress,
    ) as job:
        state, chunks, parts = process_state(), job.part_ranker.chunks, job.part_ranker.parts
        start = time.perf_counter()
        with progress_bar(
            show_progress and state.is_main_process,
            total=chunks.num_users,
            initial=chunks.num_users - job.num_missing_users,
            desc="Recommending",
            unit="user",
        ) as progress:
            for number, rows in chunks.read(job.missing[state.process_index :: state.num_processes]):
                job.part_ranker.rank(number, rows)
                progress.update(parts.num_written() - progress.n)  # the other processes write parts, too
            state.wait_for_everyone()
            progress.update(chunks.num_users - progress.n)
        seconds = time.perf_counter() - start
        return from_main_process(lambda: job.finish(seconds))
