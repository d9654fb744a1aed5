"""Sources: finds the raw data set behind a name or a path, and how to read and filter it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..runtime.ids import nearest_texts
from .amazon import AMAZON_FILTERS, read_amazon
from .downloads import AMAZON_TERMS, GOODREADS_TERMS, MOVIELENS_TERMS, download
from .files import innermost, is_hidden, place_for, unpack
from .filters import Filters
from .frames import Frame, FrameLike, read_frame
from .goodreads import GOODREADS_FILTERS, read_goodreads
from .keywords import nearest_file
from .movielens import MOVIELENS_100K_FILTERS, MOVIELENS_FILTERS, clean_movie_title, read_movielens
from .part_files import Parts, find_parts
from .raw import RawData
from .table_columns import Source as TableSource
from .table_options import TableOptions, is_csv, is_table, is_text_table
from .tables import read_tables
from .text_files import recode, refuse_spreadsheet


_PUBLIC_NAMES = ("ml-100k", "ml-1m", "ml-latest-small", "ml-32m", "goodreads", "sample")

TitleRule = Callable[[str], str]


@dataclass(frozen=True)
class Source:
    """
    A raw data set.

    Args:
        files (`tuple[pathlib.Path | Frame, ...]`):
            Files or data frames of the data set.
        read (`Callable[[Filters], RawData]`):
            Function that reads the data set. It leaves out the rows that `where` and `min_rating` of the filters leave
            out.
        filters ([`Filters`]):
            Filters of the paper if it uses this data set, or else the default ones.
        title_rule (`Callable[[str], str]`, *optional*):
            Function that turns a published title into the title to use.
        keeps_all_items (`bool`):
            Whether items without interactions belong to the catalog.
        license_terms (`str`, *optional*):
            Terms of the data set, if it is public.
    """

    files: tuple[Path | Frame, ...]
    read: Callable[[Filters], RawData]
    filters: Filters
    title_rule: TitleRule | None
    keeps_all_items: bool
    license_terms: str | None


def find_source(
    data: str | Path | Frame,
    cache: Path,
    options: TableOptions | None = None,
    items: str | Path | FrameLike | None = None,
) -> Source:
    """
    Finds a raw data set. A public data set that is given by its name is downloaded.

    Args:
        data (`str`, `pathlib.Path` or [`Frame`]):
            A directory or zip archive as published, your own table, or the name of a public data set (see
            [`download`]).
        cache (`pathlib.Path`):
            Directory for downloads, unpacked archives and re-encoded files.
        options ([`TableOptions`], *optional*):
            How your own tables are written. `columns` also applies to Goodreads.
        items (`str`, `pathlib.Path` or a data frame, *optional*):
            The titles of your own log (see [`read_tables`]).

    Returns:
        [`Source`]

    Raises:
        FileNotFoundError: If no data set has that name, the directory holds no known data set, or the file of `items`
            does not exist.
        TypeError: If `items` is neither a path nor a data frame.
        ValueError: If an argument does not apply to the data set, a file is of no known kind, or an archive is
            damaged.
    """
    options = options or TableOptions()
    if isinstance(data, Frame):
        return _find_table(data, items, cache, options)
    path = Path(data).expanduser()
    if not path.exists():
        downloaded = download(str(data), cache)
        if downloaded is None:
            alike = nearest_texts(str(data), _PUBLIC_NAMES, n=1)
            question = nearest_file(path) or (f" Did you mean {alike[0]!r}?" if alike else "")
            raise FileNotFoundError(
                f"There is no file, directory or public data set {str(data)!r}.{question} The known names are "
                f"{', '.join(_PUBLIC_NAMES)}, goodreads/<genre> and amazon-2023/<Category>."
            )
        path = downloaded
    if path.is_file():
        refuse_spreadsheet(path)
    if path.suffix.lower() == ".zip":
        path = unpack(path, place_for(path, cache / "unpacked"))
    if path.is_file():
        return _find_table(path, items, cache, options)
    if parts := find_parts(path):
        return _find_table(parts, items, cache, options)
    path = innermost(path)
    if items is not None or replace(options, columns=None) != TableOptions():
        raise ValueError(
            "`items`, `time_unit`, `date_format`, `separator`, `encoding`, `quote_char`, `has_header` and "
            "`item_columns` apply to your own log file or data frame only, but "
            f"{path} is a directory. Leave them out."
        )
    published = _find_published(path, options.columns)
    if options.columns and published.license_terms != GOODREADS_TERMS:
        raise ValueError(f"`columns` applies to your own log or to Goodreads, but {path} is neither. Leave it out.")
    return replace(published, read=_without_condition(published.read, path))


def _without_condition(read: Callable[[Filters], RawData], path: Path) -> Callable[[Filters], RawData]:
    def checked(filters: Filters) -> RawData:
        if filters.where is not None:
            raise ValueError(
                f"The filter `where` applies to your own log or data frame only, but {path} holds a published data "
                "set. Leave it out."
            )
        return read(filters)

    return checked


def _find_table(log: TableSource, items: str | Path | FrameLike | None, cache: Path, options: TableOptions) -> Source:
    if isinstance(log, Path) and not is_table(log):
        raise ValueError(f"{log} is of no known kind; it must be a table (CSV, JSON lines, Parquet) or a zip archive.")
    tables: list[TableSource] = [log]
    if isinstance(items, str | os.PathLike):
        tables.append(_find_items(Path(items).expanduser()))
    elif items is not None:
        tables.append(read_frame(items, "The data frame of `items`"))
    files = [file for table in tables for file in (table.files if isinstance(table, Parts) else (table,))]
    texts = [file for file in files if isinstance(file, Path) and is_text_table(file)]
    has_csv = any(is_csv(file) for file in texts)
    for name, default in (("separator", None), ("encoding", None), ("quote_char", None), ("has_header", True)):
        if getattr(options, name) != default and not (texts if name == "encoding" else has_csv):
            raise ValueError(
                f"`{name}` applies to CSV files" + (" and JSON lines" if name == "encoding" else "") + ", but there "
                f"is no such file among {[str(table) for table in tables]}. Leave it out."
            )
    copies: dict[Path, Path] = {}
    if options.encoding is not None:
        copies = {file: recode(file, options.encoding, cache / "recoded") for file in texts}

    def copy_of(table: TableSource) -> TableSource:
        if isinstance(table, Parts):
            return replace(table, files=tuple(copies.get(file, file) for file in table.files))
        return copies.get(table, table) if isinstance(table, Path) else table

    def read(filters: Filters) -> RawData:
        try:
            return read_tables(copy_of(log), copy_of(tables[1]) if len(tables) > 1 else None, options, filters)
        except ValueError as error:
            message = str(error)
            for file, copy in copies.items():  # a re-encoded copy lies in the cache
                message = message.replace(str(copy), str(file))
            raise ValueError(message) from error

    return Source(
        tuple(copies.get(file, file) if isinstance(file, Path) else file for file in files),
        read,
        Filters(),
        None,
        keeps_all_items=True,
        license_terms=None,
    )


def _find_items(path: Path) -> Path | Parts:
    if path.is_dir() and (parts := find_parts(path)):
        return parts
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}, which `items` names.{nearest_file(path)}")
    refuse_spreadsheet(path)
    return path


def _find_published(directory: Path, columns: Mapping[str, Any] | None) -> Source:
    names = {path.name.lower() for path in directory.iterdir()}

    def files(*patterns: str) -> tuple[Path, ...]:
        matches = (path for path in directory.rglob("*") if any(fnmatch(path.name.lower(), one) for one in patterns))
        # Skip hidden directories: the Hub's client keeps download records there and writes them anew at every call.
        return tuple(sorted(path for path in matches if not is_hidden(path.relative_to(directory)) and path.is_file()))

    def movielens(filters: Filters, *patterns: str) -> Source:
        return Source(
            files(*patterns),
            lambda filters: read_movielens(directory, filters.min_rating),
            filters,
            clean_movie_title,
            keeps_all_items=True,
            license_terms=MOVIELENS_TERMS,
        )

    if "u.data" in names:
        return movielens(MOVIELENS_100K_FILTERS, "u.data", "u.item")
    if "ratings.dat" in names:
        return movielens(MOVIELENS_FILTERS, "ratings.dat", "movies.dat")
    if {"ratings.csv", "movies.csv"} <= names:
        return movielens(MOVIELENS_FILTERS, "ratings.csv", "movies.csv")
    if any(name.startswith("goodreads_") for name in names):
        return Source(
            files("goodreads_*"),
            lambda filters: read_goodreads(directory, filters.min_rating, columns),
            GOODREADS_FILTERS,
            None,
            keeps_all_items=False,
            license_terms=GOODREADS_TERMS,
        )
    if files("meta_*.jsonl*"):
        return Source(
            files("*.jsonl*", "*.csv*"),
            lambda filters: read_amazon(directory, filters.min_rating),
            AMAZON_FILTERS,
            None,
            keeps_all_items=False,
            license_terms=AMAZON_TERMS,
        )
    raise FileNotFoundError(
        f"{directory} holds no known data set: no interactions.parquet and items.parquet (prepared), u.data "
        "(MovieLens-100K), ratings.dat (1M), ratings.csv and movies.csv (the later ones), goodreads_*.json.gz, or "
        f"meta_*.jsonl (Amazon Reviews 2023). It holds {sorted(names)[:10]}. To load your own log, pass its file."
    )
