"""Part files: a directory into which Spark, Dask or the like wrote one table as several files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .files import is_hidden


_PART = re.compile(r"part[-.]\d+")


@dataclass(frozen=True)
class Parts:
    """
    A table in several files.

    Args:
        directory (`pathlib.Path`):
            The directory.
        files (`tuple[pathlib.Path, ...]`):
            Its files that are not empty, in the order of their numbers.
    """

    directory: Path
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return str(self.directory)


def find_parts(directory: Path) -> Parts | None:
    """
    Finds the files of a table in a directory, such as `part-00000-….snappy.parquet`. Hidden files, checksums and marks
    such as `_SUCCESS` do not count.

    Args:
        directory (`pathlib.Path`):
            The directory.

    Returns:
        [`Parts`], *optional*: the files; `None` if the directory holds no such file.

    Raises:
        ValueError: If files lie in subdirectories, which stand for the values of a column, if other files lie beside
            the parts, or the parts are of several kinds.
    """
    paths = [path for path in directory.iterdir() if not is_hidden(Path(path.name)) and path.name[0] != "_"]
    if folders := sorted(path.name for path in paths if path.is_dir() and "=" in path.name):
        raise ValueError(
            f"{directory} is divided by a column, into directories such as {folders[0]!r}, so the files lack this "
            "column. Read it with `polars.scan_parquet` or `polars.scan_csv`, and pass the frame instead."
        )
    parts = [path for path in paths if path.is_file() and _PART.match(path.name)]
    if not parts:
        return None
    others = sorted(path.name for path in paths if path not in parts and not path.name.endswith(".crc"))
    if others:
        raise ValueError(
            f"{directory} holds parts of a table, such as {parts[0].name!r}, and {others[:3]} beside them. Pass a "
            "directory that holds the parts of one table."
        )
    kinds = sorted({_ending(path) for path in parts})
    if len(kinds) > 1:
        raise ValueError(
            f"{directory} holds parts of several kinds: {kinds}. Pass a directory with parts of one kind."
        )
    parts.sort(key=lambda path: (int(re.findall(r"\d+", path.name)[0]), path.name))
    return Parts(directory, tuple(path for path in parts if path.stat().st_size > 0))


def _ending(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
