"""Downloads: public data sets from their official addresses, once, checked, and with their terms said."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pooch
from huggingface_hub import hf_hub_download
from transformers.utils import logging


logger = logging.get_logger(__name__)

_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/"
_AMAZON = "McAuley-Lab/Amazon-Reviews-2023"

_MD5 = {
    "ml-100k": "0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-32m": "d472be332d4daa821edc399621853b57",
    "ml-latest-small": None,  # GroupLens changes it in place
}

MOVIELENS_TERMS = (
    "MovieLens (GroupLens, University of Minnesota) is for research: no commercial use without permission, no claim "
    "of endorsement, and cite Harper and Konstan (2015). ml-100k and ml-1m may not be passed on, the others only on "
    "the same terms. In full: the README in the archive, https://grouplens.org/datasets/movielens/."
)
GOODREADS_TERMS = (
    "The UCSD Book Graph (Goodreads) is for academic use only: no commercial use, no redistribution; cite Wan and "
    "McAuley (2018) and Wan et al. (2019). In full: https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html."
)
AMAZON_TERMS = (
    "Amazon Reviews 2023 (McAuley Lab) is published for research; cite Hou et al. (2024). Reviews and metadata are "
    "their authors' and Amazon's. In full: https://amazon-reviews-2023.github.io/."
)


def cache_directory(cache_dir: str | os.PathLike | None = None) -> Path:
    """
    The directory for downloads and prepared data.

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*):
            If not given: the environment variable `PATCHREC_HF_CACHE`, or the user's own directory for caches.

    Raises:
        PermissionError: If nothing can be written there.
    """
    directory = Path(cache_dir or os.environ.get("PATCHREC_HF_CACHE") or pooch.os_cache("patchrec_hf")).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        raise PermissionError(
            f"The cache {directory} cannot be written to. Choose another with `cache_dir`, or with the environment "
            "variable PATCHREC_HF_CACHE."
        )
    return directory


def download(name: str, cache: Path) -> Path | None:
    """
    Downloads a data set that is known by name, unless that is done already.

    Args:
        name (`str`):
            `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"`, `"ml-32m"`; `"goodreads"` or, for one genre,
            `"goodreads/<genre>"`; `"amazon-2023/<Category>"`.
        cache (`pathlib.Path`):
            Where to.

    Returns:
        `pathlib.Path` or `None`: the archive or the directory with its files; nothing if the name is not known.

    Raises:
        ValueError: If what came is not what was published.
        ConnectionError: If it could not be downloaded.
    """
    collection, _, part = name.partition("/")
    target = cache / "downloads" / name
    if name in _MD5:
        say_terms(MOVIELENS_TERMS)
        return fetch(f"{_GROUPLENS}{name}.zip", _MD5[name], target)
    if collection == "goodreads":
        say_terms(GOODREADS_TERMS)
        names = [f"byGenre/goodreads_{kind}_{part}" for kind in ("reviews", "books")]
        for file in names if part else ("goodreads_reviews_dedup", "goodreads_books"):
            fetch(f"{_UCSD}{file}.json.gz", None, target)
        return target
    if collection == "amazon-2023" and part:
        say_terms(AMAZON_TERMS)
        for file in (f"benchmark/5core/rating_only/{part}.csv", f"raw/meta_categories/meta_{part}.jsonl"):
            hf_hub_download(_AMAZON, file, repo_type="dataset", local_dir=target)
        return target
    return None


def fetch(url: str, md5: str | None, directory: Path) -> Path:
    """
    Downloads one file, with a progress bar, unless it is there already.

    Args:
        url (`str`):
            Its address.
        md5 (`str`, *optional*):
            Its checksum, if one is published.
        directory (`pathlib.Path`):
            Where to; the name is the address's.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ValueError: If the checksum differs.
        ConnectionError: If it could not be downloaded.
    """
    path = directory / url.rpartition("/")[2]
    if path.is_file() and md5 is None:
        return path
    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(url, md5 and f"md5:{md5}", path.name, directory, progressbar=not path.is_file())
    except ValueError as error:
        raise ValueError(
            f"What came from {url} is not what was published there: {error} If it goes on after another try, give the "
            "path of a copy of your own."
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"{url} could not be downloaded ({error}). Download it by other means, and give its path."
        ) from error
    if md5 is None:
        logger.info(f"No checksum of {url} is published; its SHA-256 is {pooch.file_hash(str(path))}.")
    return path


@functools.cache
def say_terms(terms: str) -> None:
    """Says a data set's terms, once."""
    logger.warning(terms)
