"""Downloads: fetches public data sets once from their official addresses, checks them and logs their terms."""

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
    "ml-latest-small": None,  # GroupLens replaces this archive under the same name
}

MOVIELENS_TERMS = (
    "MovieLens (GroupLens, University of Minnesota) is for research: no commercial use without permission, no claim "
    "of endorsement, and cite Harper and Konstan (2015). ml-100k and ml-1m may not be redistributed, the others "
    "only on the same terms. Full terms: the README in the archive, https://grouplens.org/datasets/movielens/."
)
GOODREADS_TERMS = (
    "The UCSD Book Graph (Goodreads) is for academic use only: no commercial use, no redistribution; cite Wan and "
    "McAuley (2018) and Wan et al. (2019). Full terms: https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html."
)
AMAZON_TERMS = (
    "Amazon Reviews 2023 (McAuley Lab) is published for research; cite Hou et al. (2024). Reviews and metadata belong "
    "to their authors and to Amazon. Full terms: https://amazon-reviews-2023.github.io/."
)


def cache_directory(cache_dir: str | os.PathLike | None = None) -> Path:
    """
    Returns the directory for downloads and prepared data, and creates it if it does not exist.

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*):
            Directory to use. If not given: the environment variable `PATCHREC_HF_CACHE`, or else the user's cache
            directory.

    Raises:
        PermissionError: If the directory is not writable.
    """
    directory = Path(cache_dir or os.environ.get("PATCHREC_HF_CACHE") or pooch.os_cache("patchrec_hf")).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        raise PermissionError(
            f"The cache {directory} cannot be written to. Choose another with `cache_dir` or the environment variable "
            "PATCHREC_HF_CACHE."
        )
    return directory


def download(name: str, cache: Path) -> Path | None:
    """
    Downloads a public data set by its name. Files that are already in the cache are not downloaded again.

    Args:
        name (`str`):
            `"ml-100k"`, `"ml-1m"`, `"ml-latest-small"`, `"ml-32m"`; `"goodreads"` or, for one genre,
            `"goodreads/<genre>"`; `"amazon-2023/<Category>"`.
        cache (`pathlib.Path`):
            Directory for downloads and prepared data.

    Returns:
        `pathlib.Path` or `None`: the archive or the directory with the files; `None` if the name is unknown.

    Raises:
        ValueError: If the downloaded file differs from the published one.
        ConnectionError: If a file could not be downloaded.
    """
    collection, _, part = name.partition("/")
    target = cache / "downloads" / name
    if name in _MD5:
        log_terms(MOVIELENS_TERMS)
        return fetch(f"{_GROUPLENS}{name}.zip", _MD5[name], target)
    if collection == "goodreads":
        log_terms(GOODREADS_TERMS)
        names = [f"byGenre/goodreads_{kind}_{part}" for kind in ("reviews", "books")]
        for file in names if part else ("goodreads_reviews_dedup", "goodreads_books"):
            fetch(f"{_UCSD}{file}.json.gz", None, target)
        return target
    if collection == "amazon-2023" and part:
        log_terms(AMAZON_TERMS)
        for file in (f"benchmark/5core/rating_only/{part}.csv", f"raw/meta_categories/meta_{part}.jsonl"):
            hf_hub_download(_AMAZON, file, repo_type="dataset", local_dir=target)
        return target
    return None


def fetch(url: str, md5: str | None, directory: Path) -> Path:
    """
    Downloads one file with a progress bar. A file that already exists is not downloaded again.

    Args:
        url (`str`):
            Address of the file.
        md5 (`str`, *optional*):
            Published checksum of the file.
        directory (`pathlib.Path`):
            Directory to write the file to. The file keeps its name in `url`.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ValueError: If the checksum differs.
        ConnectionError: If the file could not be downloaded.
    """
    path = directory / url.rpartition("/")[2]
    if path.is_file() and md5 is None:
        return path
    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(url, md5 and f"md5:{md5}", path.name, directory, progressbar=not path.is_file())
    except ValueError as error:
        raise ValueError(
            f"The file from {url} is not what was published there: {error} Try again. If the checksum still differs, "
            "get the file elsewhere and pass its path."
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"{url} could not be downloaded ({error}). Download it by other means, and pass its path."
        ) from error
    if md5 is None:
        logger.info(
            f"{url} has no published checksum; the SHA-256 of the downloaded file is {pooch.file_hash(str(path))}."
        )
    return path


@functools.cache
def log_terms(terms: str) -> None:
    """Logs the terms of a data set, once per process."""
    logger.warning(terms)
