"""Job settings: everything that the result of a job depends on, as values that are kept beside its parts."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..runs import from_main_process
from ..runtime.hub_files import file_digest
from ..runtime.recommender import PatchRecommender
from .history_files import HistoryFile
from .user_ranker import RankingSettings


def job_settings(
    recommender: PatchRecommender, file: HistoryFile, settings: RankingSettings, **others: Any
) -> dict[str, Any]:
    """
    Returns what the result of a job depends on. The main process reads the histories, and the others wait.

    Args:
        recommender ([`PatchRecommender`]):
            The recommender.
        file ([`HistoryFile`]):
            The histories.
        settings ([`RankingSettings`]):
            How items are recommended.
        **others:
            JSON-ready settings of the job.

    Returns:
        `dict[str, Any]`: JSON-ready values. The checkpoint and the content of the histories are digests.
    """
    content = from_main_process(lambda: file_digest(file.path))
    form = {name: value for name, value in asdict(file).items() if name != "path"}
    return {
        "checkpoint": _checkpoint_digests(recommender),
        "histories": {"content": content, **form},
        **asdict(settings),
        **others,
    }


def _checkpoint_digests(recommender: PatchRecommender) -> dict[str, str]:
    processor = recommender.processor
    catalog = [processor.catalog.item_ids.tolist(), processor.catalog.titles]
    digests = {
        **recommender.fingerprint,
        "the processors": _digest(json.dumps(processor.to_dict(), sort_keys=True)),
        "the catalogs": _digest(json.dumps(catalog)),
    }
    if processor.fusion is not None:
        with tempfile.TemporaryDirectory() as directory:
            processor.fusion.save_files(directory)
            files = sorted(Path(directory).iterdir())
            digests["the fusions"] = _digest(json.dumps([(path.name, file_digest(path)) for path in files]))
    return digests


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
