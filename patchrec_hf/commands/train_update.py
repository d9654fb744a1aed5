"""The update of `patchrec train --from`: reads the whole log again, and lets a checkpoint go on with what is new."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig, get_peft_config

from ..data.data_arguments import DataArguments
from ..data.rows import select_spaced
from ..data.update_rows import count_targets, rows_since, show_moment
from ..evaluation.models import evaluate_model
from ..runs import claim_run, finish_run
from ..runtime.catalog import Catalog
from ..runtime.moments import parse_moment
from ..runtime.processing import PatchRecProcessor
from ..runtime.ranking import default_method
from ..runtime.recommender import PatchRecommender
from ..training.arguments import PatchPretrainConfig
from ..training.catalog_growth import merge_catalogs
from ..training.recipes import RECIPES
from ..training.updates import GROWN_NAME, REPLAY_SHARE, read_config, recipe_of, update_checkpoint
from .train_arguments import METRICS, TrainArguments, model_settings


LEFT_NAME = "items_that_left.parquet"
"""File of an update: the items of the checkpoint that the data no longer have."""
_SETTINGS = ("seed", "learning_rate", "num_train_epochs", "max_steps", "objective", "per_device_train_batch_size")


def update(script: TrainArguments, data: DataArguments, backbone: ModelConfig, args: PatchPretrainConfig) -> None:
    """
    Updates a checkpoint by the new interactions and items of a log, and prints what has changed.

    Args:
        script ([`TrainArguments`]):
            The checkpoint, when new interactions begin, and how much is replayed.
        data ([`DataArguments`]):
            The whole log: old and new interactions.
        backbone ([`~trl.ModelConfig`]):
            The revision of the checkpoint, and an adapter to train, if any.
        args ([`PatchPretrainConfig`]):
            Training arguments. `output_dir/final` holds the updated checkpoint.

    Raises:
        ValueError: If the log has no new interactions, it does not fit the checkpoint, or an argument is wrong.
            No trained work is written then: a run with other settings can have the directory.
        FileExistsError: If `output_dir` holds a finished run, or a run with other settings.
        OSError, KeyError, TypeError: As loading the data and training do.
    """
    checkpoint, output_dir, state = str(script.start_from), Path(str(args.output_dir)), PartialState()
    if state.num_processes == 1:  # without a GPU, `accelerate launch` sets one thread per process
        torch.set_num_threads(os.cpu_count() or 1)
    config = read_config(checkpoint, revision=backbone.model_revision)
    since = _begin(checkpoint, script.since, config.trained_until)
    code: dict[str, Any] = {"trust_remote_code": args.trust_remote_code, "trust_layout_code": script.trust_layout_code}
    processor = PatchRecProcessor.from_pretrained(checkpoint, revision=backbone.model_revision, **code)
    known, prepared = processor.catalog, data.prepare()
    titles: Any = script.changed_titles or "refuse"
    catalog = merge_catalogs(known, prepared.catalog, titles)
    targets_per_row = script.targets_per_row or RECIPES[recipe_of(config)].rows["targets_per_row"]
    rows = rows_since(
        prepared.interactions,
        catalog,
        since,
        processor.max_history,
        min(targets_per_row, processor.max_history),
        script.validation_share or 0.0,
    )
    settings = {name: getattr(args, name) for name in _SETTINGS} | {"begin of new interactions": since}
    scratch = [GROWN_NAME, f"{GROWN_NAME}.part"]
    claim_run(output_dir, {**asdict(script), **asdict(data), **asdict(backbone), **settings}, scratch=scratch)
    has_left = ~np.isin(known.id_numbers, prepared.catalog.id_numbers)
    num_old = 0 if rows.old is None else count_targets(rows.old).sum()
    state.print(
        f"{checkpoint} continues with {count_targets(rows.new).sum()} new targets in {len(rows.new)} rows, from "
        f"{show_moment(since)} on; {num_old} targets are older.\n"
        f"{len(known)} items are known, {len(catalog) - len(known)} are new, and {has_left.sum()} have left the data."
    )
    given_kwargs: Any = args.model_init_kwargs or {}
    # The grown checkpoint is loaded by these settings. It is a directory, and has no revision.
    init_kwargs = {name: value for name, value in model_settings(backbone).items() if name != "revision"}
    args.model_init_kwargs = {**init_kwargs, **given_kwargs}
    if rows.validation is None:
        args.eval_strategy = "no"
    final = update_checkpoint(
        checkpoint,
        args,
        rows,
        prepared.catalog,
        replay_share=REPLAY_SHARE if script.replay_share is None else script.replay_share,
        changed_titles=titles,
        peft_config=get_peft_config(backbone),
        max_eval_rows=script.max_eval_rows,
        revision=backbone.model_revision,
        trust_layout_code=script.trust_layout_code,
    )
    if has_left.any():
        # Written after training, because a run that has written a file keeps its directory.
        _write_left(state, known, has_left, output_dir / LEFT_NAME)
    unset_hf_deepspeed_config()  # so that under ZeRO-3, each process loads whole models from here on
    results = []
    if rows.validation is not None:
        compared = {"before": output_dir / GROWN_NAME, "after": final}
        measured = select_spaced(rows.validation, script.max_eval_rows)
        results = [_measure(name, path, measured, known, args, code) for name, path in compared.items()]
        with pl.Config(
            tbl_formatting="ASCII_MARKDOWN", tbl_hide_column_data_types=True, float_precision=3,
            tbl_hide_dataframe_shape=True, tbl_cols=-1, tbl_width_chars=200,
        ):  # fmt: skip
            state.print(
                f"\n{len(measured)} validation rows, on which a fusion was weighed anew; {len(catalog)} items, "
                f"before and after the update:\n{pl.DataFrame(results)}"
            )
    state.print(f"\nThe updated checkpoint: {final}\nThe next update: patchrec train --from {final} ...")
    finish_run(output_dir, results)


def _begin(checkpoint: str, since: str | None, trained_until: int | None) -> int:
    """Returns the moment from which on interactions are new."""
    if since is not None:
        return parse_moment(since)
    if trained_until is None:
        raise ValueError(
            f"{checkpoint} does not say until when it was trained: an earlier version of the library wrote it, or its "
            "rows had no timestamps. Say when new interactions begin: --since 2026-11-20."
        )
    return trained_until + 1


def _write_left(state: PartialState, known: Catalog, has_left: np.ndarray, path: Path) -> None:
    """Writes the items of the checkpoint that left the shop, and says where."""
    if state.is_main_process:
        left = [title for title, gone in zip(known.titles, has_left, strict=True) if gone]
        pl.DataFrame({"item_id": known.item_ids[has_left].tolist(), "title": left}).write_parquet(path)
    state.print(f"The items that left the data stay in the catalog. To leave them out of rankings: {path}")


def _measure(
    name: str, path: Path, rows: Dataset, known: Catalog, args: PatchPretrainConfig, code: dict[str, Any]
) -> dict[str, Any]:
    """Ranks validation rows by a checkpoint."""
    recommender = PatchRecommender.from_pretrained(path, **code)
    model, processor = recommender.model.to(PartialState().device), recommender.processor
    bound = args.eval_max_title_tokens if default_method(model, processor) == "exact" else None
    report = evaluate_model(
        model, processor, rows, max_title_tokens=bound, batch_size=args.per_device_eval_batch_size, show_progress=False
    )
    metrics = report.metrics()
    ranks = report.targets.filter(~pl.col("target_id").is_in(known.item_ids.tolist()))["item_rank"]
    of_new = float((ranks.to_numpy() <= 20).mean()) if len(ranks) > 0 else None
    return {"checkpoint": name, **{metric: metrics[metric] for metric in METRICS}, "hr@20 of new items": of_new}
