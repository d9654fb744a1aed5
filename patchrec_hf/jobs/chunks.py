"""Chunks: reads users and their histories from a Parquet file, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from .history_files import HistoryFile


_BUFFER_BYTES = 1 << 20
"""Bytes of a column that are read at a time, so that a large row group never stands in memory."""


@dataclass(frozen=True)
class UserChunks:
    """
    Reads users in chunks.

    Args:
        path (`pathlib.Path`):
            A Parquet file with one row per user.
        columns (`Sequence[str]`):
            The columns to read, under the file's names.
        expressions (`Sequence[polars.Expr]`):
            Read these columns under the library's names (see [`HistoryFile.expressions`]).
        user_type (`polars.DataType`):
            Type of the users' ids.
        num_users (`int`):
            Number of users.
        users_per_chunk (`int`):
            Number of users of a chunk; the last one may have fewer.
    """

    path: Path
    columns: Sequence[str]
    expressions: Sequence[pl.Expr]
    user_type: pl.DataType
    num_users: int
    users_per_chunk: int

    @classmethod
    def of(cls, file: HistoryFile, users_per_chunk: int, with_timestamps: bool) -> UserChunks:
        """
        Finds out how the chunks of a file are read.

        Args:
            file ([`HistoryFile`]):
                The histories, one row per user, in Parquet.
            users_per_chunk (`int`):
                Number of users of a chunk.
            with_timestamps (`bool`):
                Whether timestamps are read.

        Raises:
            ValueError: If a column has another type than it must have, or there is no user.
        """
        names = {ours: theirs for ours, theirs in file.names.items() if with_timestamps or ours != "timestamps"}
        schema = pl.scan_parquet(file.path).collect_schema()
        expressions = replace(file, names=names).expressions(schema)
        num_users = pq.read_metadata(file.path).num_rows
        if num_users == 0:
            raise ValueError(f"{file.path} holds no user.")
        user_type = schema.to_frame().select(expressions[0]).schema["user_id"]
        return cls(file.path, list(dict.fromkeys(names.values())), expressions, user_type, num_users, users_per_chunk)

    def read(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """
        Reads chunks in their order.

        Args:
            wanted (`Collection[int]`, *optional*):
                Numbers of the chunks to read, counted from 0. All if not given.

        Returns:
            `Iterator[tuple[int, polars.DataFrame]]`: the number of each chunk, and its users.

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            for number, rows in read_chunks(self.path, self.columns, self.users_per_chunk, wanted):
                yield number, rows.select(self.expressions)
        except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from error


def read_chunks(
    path: Path, columns: Sequence[str], rows_per_chunk: int, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, pl.DataFrame]]:
    """
    Reads a Parquet file in chunks of rows. Row groups without a wanted row are not read.

    Args:
        path (`pathlib.Path`):
            The file.
        columns (`Sequence[str]`):
            The columns to read.
        rows_per_chunk (`int`):
            Number of rows of a chunk n; the last one may have fewer. At most n rows stand in memory beside a chunk.
        wanted (`Collection[int]`, *optional*):
            Numbers of the chunks to read, counted from 0. All if not given.

    Returns:
        `Iterator[tuple[int, polars.DataFrame]]`: the number of each chunk, and its rows.
    """
    with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).tolist()
        num_rows = starts[-1]
        asked = range(-(-num_rows // rows_per_chunk)) if wanted is None else frozenset(wanted)
        pieces: list[pa.RecordBatch] = []
        for group, start in enumerate(starts[:-1]):
            of_group = range(start // rows_per_chunk, -(-starts[group + 1] // rows_per_chunk))
            if not any(number in asked for number in of_group):
                continue
            row = start
            for batch in file.iter_batches(rows_per_chunk, row_groups=[group], columns=list(columns)):
                used = 0
                while used < len(batch):
                    number = row // rows_per_chunk
                    stop = min((number + 1) * rows_per_chunk, num_rows)
                    piece = batch.slice(used, stop - row)
                    used, row = used + len(piece), row + len(piece)
                    if number not in asked:
                        continue
                    pieces.append(piece)
                    if row == stop:
                        yield number, pl.DataFrame(pa.Table.from_batches(pieces))
                        pieces = []
