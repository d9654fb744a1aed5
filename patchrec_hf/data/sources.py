"""Sources: what a name or a path stands for, and how the paper treats it."""

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
            What it consists of.
        read (`Callable[[float | None], RawData]`):
            Reads it, without ratings below the given one.
        filters ([`Filters`]):
            The paper's, if the data set is one of its, or the usual ones.
        title_rule (`Callable[[str], str]`, *optional*):
            Makes a title of the published one.
        keeps_all_items (`bool`):
            Whether items without interactions belong to the catalog.
        license_terms (`str`, *optional*):
            Its terms, if it is a public data set.
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
    Finds a raw data set, and downloads it if it is named.

    Args:
        name_or_path (`str` or `pathlib.Path`):
            A directory or zip archive as published, a table of one's own, or a name (see [`download`]).
        cache (`pathlib.Path`):
            Where downloads and unpacked archives go.
        columns, items, time_unit:
            As for [`read_tables`]; the latter two are for tables of one's own only.

    Returns:
        [`Source`]

    Raises:
        FileNotFoundError: If there is nothing of that name, or nothing that is known.
        ValueError: If an argument is not for such data, or an archive is damaged.
    """
    path = Path(name_or_path).expanduser()
    if not path.exists():
        found = download(str(name_or_path), cache)
        if found is None:
            raise FileNotFoundError(
                f"There is no file, directory or public data set {str(name_or_path)!r}. Known by name are ml-100k, "
                "ml-1m, ml-latest-small, ml-32m, goodreads, goodreads/<genre>, amazon-2023/<Category> and sample."
            )
        path = found
    if path.suffix == ".zip":
        stat = path.stat()
        (cache / "unpacked").mkdir(exist_ok=True)
        path = unpack(path, cache / "unpacked" / f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}")
    if path.is_file():
        if not is_table(path):
            raise ValueError(f"{path} is of no known kind: neither a table (CSV, JSON lines, Parquet) nor a zip.")
        items_path = None if items is None else Path(items).expanduser()
        if items_path is not None and not items_path.is_file():
            raise FileNotFoundError(f"There is no file {items_path}, which `items` names.")
        return Source(
            (path,) if items_path is None else (path, items_path),
            lambda least: read_tables(path, items_path, columns, least, time_unit),
            Filters(),
            None,
            keeps_all_items=True,
            license_terms=None,
        )
    if items is not None or time_unit != "s":
        raise ValueError(f"`items` and `time_unit` are for a file of one's own, and {path} is a directory.")
    published = _find_published(path, columns)
    if columns and published.license_terms != GOODREADS_TERMS:
        raise ValueError(f"`columns` is for a file of one's own or for Goodreads, and {path} is neither.")
    return published


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _find_published(directory: Path, columns: Mapping[str, str] | None) -> Source:
    names = {path.name for path in directory.iterdir()}

    def files(*patterns: str) -> tuple[Path, ...]:
        found = (path for pattern in patterns for path in directory.rglob(pattern))
        # Not what the Hub's client keeps of its downloads in a hidden directory, which every call writes anew.
        return tuple(sorted(path for path in found if not _is_hidden(path.relative_to(directory))))

    def movielens(filters: Filters, *patterns: str) -> Source:
        return Source(
            files(*patterns),
            lambda least: read_movielens(directory, least),
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
            lambda least: read_goodreads(directory, least, columns),
            GOODREADS_FILTERS,
            None,
            keeps_all_items=False,
            license_terms=GOODREADS_TERMS,
        )
    if files("meta_*.jsonl*"):
        return Source(
            files("*.jsonl*", "*.csv*"),
            lambda least: read_amazon(directory, least),
            AMAZON_FILTERS,
            None,
            keeps_all_items=False,
            license_terms=AMAZON_TERMS,
        )
    raise FileNotFoundError(
        f"{directory} holds no data set that is known: no interactions.parquet and items.parquet (prepared), u.data "
        "(MovieLens-100K), ratings.dat (1M), ratings.csv and movies.csv (the later ones), goodreads_*.json.gz, or "
        f"meta_*.jsonl (Amazon Reviews 2023). It holds {sorted(names)[:10]}. Of your own logs, give the file."
    )
