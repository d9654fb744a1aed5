"""Parts of a job: each is written when it is whole, and all of them are merged one by one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..runtime.recommendations import Recommendation
from .user_requests import Fault, UserRequest


RESULT_COLUMNS = ("user_id", "item_ids", "titles", "scores", "is_exact")
SKIPPED_COLUMNS = ("row", "user_id", "reason")
_ROWS_PER_GROUP = 16_384


@dataclass(frozen=True)
class JobParts:
    """
    The parts of a job in their directory. A part holds one row for each user of one chunk of the histories.

    Args:
        directory (`pathlib.Path`):
            The directory.
        num_users (`int`):
            Number of users of the whole job.
        users_per_part (`int`):
            Number of users of a part; the last part may have fewer.
    """

    directory: Path
    num_users: int
    users_per_part: int

    def __len__(self) -> int:
        return -(-self.num_users // self.users_per_part)

    def path(self, number: int) -> Path:
        """Returns the file of a part."""
        return self.directory / f"part-{number:08d}.parquet"

    def size(self, number: int) -> int:
        """Returns the number of users of a part."""
        return min(self.users_per_part, self.num_users - number * self.users_per_part)

    def missing(self) -> list[int]:
        """Returns the numbers of the parts that are not written, or that a machine broke off while it wrote them."""
        return [number for number in range(len(self)) if not self.is_whole(number)]

    def num_written(self) -> int:
        """Returns how many users have a part. It counts files, and does not open them."""
        numbers = (int(path.stem.removeprefix("part-")) for path in self.directory.glob("part-*.parquet"))
        return sum(map(self.size, numbers))

    def write(self, number: int, rows: pl.DataFrame) -> None:
        """Writes a part (see [`part_rows`]). The file appears when it is whole."""
        path = self.path(number)
        # A process that was cut off from its job may still write the same part, under another name.
        started = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        rows.write_parquet(started)
        started.replace(path)

    def read(self) -> Iterator[pl.DataFrame]:
        """Reads the parts in their order, one at a time."""
        for number in range(len(self)):
            yield pl.read_parquet(self.path(number))

    def is_whole(self, number: int) -> bool:
        """Returns whether a part is written, to its end."""
        try:
            return pq.read_metadata(self.path(number)).num_rows == self.size(number)
        except (OSError, pa.ArrowInvalid):
            return False


def part_rows(
    users: Sequence[UserRequest | Fault],
    ranked: Sequence[list[Recommendation] | str],
    user_type: pl.DataType,
    has_text_ids: bool,
) -> pl.DataFrame:
    """
    Makes the rows of a part.

    Args:
        users (`Sequence[UserRequest | Fault]`):
            The users of a chunk, in their order.
        ranked (`Sequence[list[Recommendation] | str]`):
            The recommendations of each [`UserRequest`] in `users`, or the reason why there are none.
        user_type (`polars.DataType`):
            Type of the users' ids.
        has_text_ids (`bool`):
            Whether the items' ids are texts.

    Returns:
        `polars.DataFrame`: `row` and `user_id`; the lists `item_ids`, `titles` and `scores`, best first, and
        `is_exact`; or `reason`, if there are no recommendations; `num_dropped`, the number of unknown ids.
    """
    results = iter(ranked)
    rows = []
    for user in users:
        result = user.reason if isinstance(user, Fault) else next(results)
        items = None if isinstance(result, str) else result
        rows.append(
            {
                "row": user.row,
                "user_id": user.user_id,
                "item_ids": None if items is None else [item.item_id for item in items],
                "titles": None if items is None else [item.title for item in items],
                "scores": None if items is None else [item.score for item in items],
                "is_exact": None if items is None else all(item.is_exact for item in items),
                "reason": result if isinstance(result, str) else None,
                "num_dropped": 0 if isinstance(user, Fault) else user.num_dropped,
            }
        )
    schema = {
        "row": pl.Int64(),
        "user_id": user_type,
        "item_ids": pl.List(pl.String if has_text_ids else pl.Int64),
        "titles": pl.List(pl.String),
        "scores": pl.List(pl.Float64),
        "is_exact": pl.Boolean(),
        "reason": pl.String(),
        "num_dropped": pl.Int64(),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def skipped_users(rows: pl.DataFrame) -> list[Fault]:
    """Returns the users of a part who have no recommendations."""
    skipped = rows.filter(pl.col("reason").is_not_null()).select(SKIPPED_COLUMNS)
    return [Fault(*values) for values in skipped.iter_rows()]


@dataclass(frozen=True)
class MergedParts:
    """
    Files that hold the rows of all parts, and are not in their places yet.

    Args:
        results, skipped (`pathlib.Path`):
            The recommendations, and the users without any.
        num_recommended, num_skipped, num_dropped (`int`):
            Number of users of each file, and of ids that were left out because the catalog lacks them.
    """

    results: Path
    skipped: Path
    num_recommended: int
    num_skipped: int
    num_dropped: int

    def publish(self, output: Path, skipped: Path) -> None:
        """Puts the files in their places, the recommendations last. There is no file of skipped users without one."""
        if self.num_skipped:
            os.replace(self.skipped, skipped)
        os.replace(self.results, output)


def merge_parts(parts: JobParts) -> MergedParts:
    """
    Merges the parts, one at a time, into a file of recommendations and a file of skipped users. Memory holds one part,
    and the rows of one row group of each file.

    Args:
        parts ([`JobParts`]):
            The parts, all of them written.
    """
    paths = (parts.directory / "results.tmp", parts.directory / "skipped.tmp")
    num_dropped = 0
    with _Writer(paths[0]) as results, _Writer(paths[1]) as skipped:
        for rows in parts.read():
            is_ranked = pl.col("reason").is_null()
            results.add(rows.filter(is_ranked).select(RESULT_COLUMNS))
            skipped.add(rows.filter(~is_ranked).select(SKIPPED_COLUMNS))
            num_dropped += int(rows["num_dropped"].sum())
    return MergedParts(*paths, results.num_rows, skipped.num_rows, num_dropped)


class _Writer:
    """Writes rows to a Parquet file, in row groups that are larger than a part."""

    def __init__(self, path: Path) -> None:
        self.num_rows = 0
        self._path, self._waiting, self._num_waiting = path, list[pa.Table](), 0
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def add(self, rows: pl.DataFrame) -> None:
        self.num_rows += len(rows)
        self._num_waiting += len(rows)
        self._waiting.append(rows.to_arrow())
        if self._num_waiting >= _ROWS_PER_GROUP:
            self._write()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._file.write_table(table, row_group_size=max(1, len(table)))
        self._waiting, self._num_waiting = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._waiting:
            self._write()
        if self._file is not None:
            self._file.close()
