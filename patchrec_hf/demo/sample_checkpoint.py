"""The sample checkpoint: a tiny recommender of the embedded sample, trained once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..data.downloads import cache_directory
from ..data.loading import load_recommendation_data
from ..runtime.long_layouts import BudgetLayout
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.processing import PatchRecProcessor
from ..runtime.prompts import BOOK_PROMPT_INSTRUCTION_FIRST
from ..tiny import build_tiny_backbone
from ..training.arguments import ALL_PATCH_PRESET, PatchFinetuneConfig
from ..training.fusion_fit import fit_fusion
from ..training.trainers import PatchFinetuneTrainer


_ROWS: dict[str, Any] = {"max_history": 20, "targets_per_row": 8}
_LAYOUT = {"max_tokens": 64, "min_tokens": 6}
_TRAINING: dict[str, Any] = {
    **ALL_PATCH_PRESET.training,
    "objective": "both",
    "title_normalizer": "catalog",
    "tree_packing": True,  # the histories of a row share their beginnings, within any budget
    "train_sampling_strategy": "random",
    "learning_rate": 1e-2,
    "max_steps": 400,
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
}
# Without titles: they have a column of their own, and would make the fusion as slow as they are.
_PARTS = ("item", "co_visits", "transitions", "similar_titles", "seen")


def sample_checkpoint(cache_dir: str | os.PathLike | None = None, max_steps: int | None = None) -> Path:
    """
    Returns a checkpoint of the embedded sample that has all methods of the page: it learns items and titles, reads
    histories within any budget from 6 to 64 positions, and has a fusion. The first call trains it, in some minutes on
    two CPU cores, and says so. An interrupted training leaves nothing behind, and starts anew.

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where the checkpoint is kept (see [`cache_directory`]).
        max_steps (`int`, *optional*):
            Number of training steps, if not as many as the page needs.

    Returns:
        `pathlib.Path`: the directory of the checkpoint.

    Raises:
        PermissionError: If the directory is not writable.
    """
    training = _TRAINING if max_steps is None else {**_TRAINING, "max_steps": max_steps}
    settings = json.dumps([version("patchrec-hf"), _ROWS, _LAYOUT, _PARTS, training], sort_keys=True)
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    cache = cache_directory(cache_dir)
    final = cache / f"demo_sample_{key}"
    with FileLock(cache / f"demo_sample_{key}.lock"):  # a second demo waits for the checkpoint of the first
        if final.is_dir():
            print(f"The sample's checkpoint: {final}", flush=True)
            return final
        print(f"Training a tiny model on the embedded sample, once. It will be kept in {final}", flush=True)
        part = Path(tempfile.mkdtemp(prefix="demo_sample_part_", dir=cache))
        try:
            _train(part, training, cache)
            part.rename(final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _train(directory: Path, training: dict[str, Any], cache: Path) -> None:
    splits, catalog = load_recommendation_data("sample", **_ROWS, cache_dir=cache)
    backbone, tokenizer = build_tiny_backbone(catalog)
    processor = PatchRecProcessor(
        tokenizer,
        catalog,
        BOOK_PROMPT_INSTRUCTION_FIRST,
        BudgetLayout(**_LAYOUT),
        _ROWS["max_history"],
        separate_patches=False,
        item_residuals=True,
    )
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    args = PatchFinetuneConfig(str(directory), **training)
    trainer = PatchFinetuneTrainer(model, args, train_dataset=splits["train"], processing_class=processor)
    trainer.train()
    trainer.save_model(str(directory))
    print("Fitting the fusion.", flush=True)
    fused = fit_fusion(trainer.model, processor, splits["train"], splits["validation"], _PARTS)
    fused.save_pretrained(directory)
