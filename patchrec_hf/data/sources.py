"""Sources: finds the raw data set behind a name or a path, and how to read and filter it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .amazon import AMAZON_FILTERS, read_amazon
from .downloads import AMAZON_TERMS, GOODREADS_TERMS, MOVIELENS_TERMS, download
from .files import unpack
from .filters import Filters
from .goodreads import GOODREADS_FILTERS, read_goodreads
from .movielens import MOVIELENS_100K_FILTERS, MOVIELENS_FILTERS, clean_movie_title, read_movielens
from .raw import RawData
from .tables import is_table, read_tables


TitleRule = Callable[[str], str]


@dataclass(frozen=True)
class Source:
    """
    A raw data set on disk.

    Args:
        files (`tuple[pathlib.Path, ...]`):
            Files of the data set.
        read (`Callable[[float | None], RawData]`):
            Function that reads the data set. It leaves out ratings below its argument.
        filters ([`Filters`]):
            Filters of the paper if it uses this data set, or else the default ones.
        title_rule (`Callable[[str], str]`, *optional*):
            Function that turns a published title into the title to use.
        keeps_all_items (`bool`):
            Whether items without interactions belong to the catalog.
        license_terms (`str`, *optional*):
            Terms of the data set, if it is public.
    """

    files: tuple[Path, ...]
    read: Callable[[float | None], RawData]
    filters: Filters
    title_rule: TitleRule | None
    keeps_all_items: bool
    license_terms: str | None


def find_source(
    name_or_path: str | Path,
    cache: Path,
    columns: Mapping[str, str] | None = None,
    items: str | Path | None = None,
    time_unit: str = "s",
) -> Source:
    """
    Finds a raw data set. A public data set that is given by its name is downloaded.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            A directory or zip archive as published, your own table, or the name of a public data set (see
            [`download`]).
        cache (`pathlib.Path`):
            Directory for downloads and unpacked archives.
        columns, items, time_unit:
            As for [`read_tables`]. `items` and `time_unit` apply to your own tables only; `columns` also applies to
            Goodreads.

    Returns:
        [`Source`]

    Raises:
        FileNotFoundError: If no data set has that name, the directory holds no known data set, or the file of `items`
            does not exist.
        ValueError: If an argument does not apply to the data set, a file is of no known kind, or an archive is
            damaged.
    """
    path = Path(name_or_path).expanduser()
    if not path.exists():
        downloaded = download(str(name_or_path), cache)
        if downloaded is None:
            raise FileNotFoundError(
                f"There is no file, directory or public data set {str(name_or_path)!r}. The known names are ml-100k, "
                "ml-1m, ml-latest-small, ml-32m, goodreads, goodreads/<genre>, amazon-2023/<Category> and sample."
            )
        path = downloaded
    if path.suffix == ".zip":
        stat = path.stat()
        path = unpack(path, cache / "unpacked" / f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}")
    if path.is_file():
        if not is_table(path):
            raise ValueError(
                f"{path} is of no known kind; it must be a table (CSV, JSON lines, Parquet) or a zip archive."
            )
        items_path = None if items is None else Path(items).expanduser()
        if items_path is not None and not items_path.is_file():
            raise FileNotFoundError(f"There is no file {items_path}, which `items` names.")
        return Source(
            (path,) if items_path is None else (path, items_path),
            lambda min_rating: read_tables(path, items_path, columns, min_rating, time_unit),
            Filters(),
            None,
            keeps_all_items=True,
            license_terms=None,
        )
    if items is not None or time_unit != "s":
        raise ValueError(
            f"`items` and `time_unit` apply to your own log file only, but {path} is a directory. Leave them out."
        )
    published = _find_published(path, columns)
    if columns and published.license_terms != GOODREADS_TERMS:
        raise ValueError(
            f"`columns` applies to your own log file or to Goodreads, but {path} is neither. Leave it out."
        )
    return published


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _find_published(directory: Path, columns: Mapping[str, str] | None) -> Source:
    names = {path.name for path in directory.iterdir()}

    def files(*patterns: str) -> tuple[Path, ...]:
        matches = (path for pattern in patterns for path in directory.rglob(pattern))
        # Skip hidden directories: the Hub's client keeps download records there and writes them anew at every call.
        return tuple(sorted(path for path in matches if not _is_hidden(path.relative_to(directory))))

    def movielens(filters: Filters, *patterns: str) -> Source:
        return Source(
            files(*patterns),
            lambda min_rating: read_movielens(directory, min_rating),
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
            lambda min_rating: read_goodreads(directory, min_rating, columns),
            GOODREADS_FILTERS,
            None,
            keeps_all_items=False,
            license_terms=GOODREADS_TERMS,
        )
    if files("meta_*.jsonl*"):
        return Source(
            files("*.jsonl*", "*.csv*"),
            lambda min_rating: read_amazon(directory, min_rating),
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
