"""The index of a job: one that is given, or one that the job builds once and keeps beside its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runs import from_main_process
from ..runtime.faiss_indexes import import_faiss
from ..runtime.index_methods import check_num_candidates, index_method
from ..runtime.index_settings import IndexKind, IndexSettings
from ..runtime.item_index import INDEX_SETTINGS_NAME, ItemIndex
from ..runtime.recommender import PatchRecommender
from .user_ranker import RankingSettings


INDEX_DIRECTORY = "index"


def check_job_index(recommender: PatchRecommender, index: ItemIndex | IndexKind, settings: RankingSettings) -> None:
    """
    Checks an index of a job before anything is read or built.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        index ([`ItemIndex`] or `str`):
            An index of its item vectors, or the kind of index to build.
        settings ([`RankingSettings`]):
            How items are recommended.

    Raises:
        ImportError: If FAISS is not installed.
        ValueError: If the kind is unknown, the index is another checkpoint's, the model has no item head, or a setting
            does not go with an index.
        TypeError: If `index` is neither an index nor a kind, or `num_candidates` is no whole number.
    """
    index_method(settings.method)
    check_num_candidates(settings.num_candidates, settings.k)
    if isinstance(index, str):
        IndexSettings(index)
        import_faiss()
        recommender.item_scorer  # noqa: B018 (raises without an item head)
    else:
        recommender.check_index(index)


def describe_job_index(index: ItemIndex | IndexKind | None, num_items: int) -> dict[str, Any] | None:
    """
    Returns what the result of a job depends on: JSON-ready settings of the index, and a digest of one that is given.

    Args:
        index ([`ItemIndex`] or `str`, *optional*):
            The index, or the kind of index to build.
        num_items (`int`):
            Number of items of the catalog.
    """
    if index is None:
        return None
    if isinstance(index, ItemIndex):
        return {**index.settings.to_dict(), "digest": index.digest}
    return IndexSettings(index).resolved(num_items).to_dict()


def index_of_job(
    recommender: PatchRecommender, index: ItemIndex | IndexKind | None, directory: Path, show_progress: bool
) -> ItemIndex | None:
    """
    Returns the index of a job, on every process. The main process builds it if the job has not built it before an
    interruption. Two builds of one kind may differ in which items they miss, so a job keeps to the first.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        index ([`ItemIndex`] or `str`, *optional*):
            The index, or the kind of index to build.
        directory (`pathlib.Path`):
            Directory of the job's parts.
        show_progress (`bool`):
            Whether to show a progress bar.

    Raises:
        ImportError: If FAISS is not installed.
    """
    if index is None or isinstance(index, ItemIndex):
        return index
    path, kind = directory / INDEX_DIRECTORY, index

    def build() -> None:
        if not (path / INDEX_SETTINGS_NAME).is_file():
            recommender.build_index(kind, show_progress=show_progress).save_pretrained(path)

    from_main_process(build)
    return recommender.load_index(path)
