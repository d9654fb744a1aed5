"""Updates: a trained checkpoint continues with new interactions and new items, and keeps what it has learned."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftConfig
from transformers import AutoConfig

from ..batches.collators import PatchDataCollator
from ..data.rows import select_spaced
from ..data.update_rows import UpdateRows, mix_replay
from ..runs import from_main_process
from ..runtime.adapters import load_model
from ..runtime.catalog import Catalog
from ..runtime.configuration import PatchRecConfig
from ..runtime.hub_files import CATALOG_NAME, check_path, explained_lookup, hub_kwargs
from ..runtime.processing import PatchRecProcessor
from .arguments import PatchFinetuneConfig
from .catalog_growth import ChangedTitles, grow_catalog, merge_catalogs
from .collation import choose_negatives
from .fusion_recount import recount_fusion, refit_fusion
from .patch_trainer import PatchTrainer
from .recipes import RECIPES, train_stage
from .trainers import PatchFinetuneTrainer


GROWN_NAME = "grown"
REPLAY_SHARE = 0.2
RATE_SHARE = 0.25
"""Share of the learning rate of the first training that an update takes."""
_NUM_EPOCHS = 2


def update_checkpoint(
    checkpoint: str | os.PathLike,
    args: PatchFinetuneConfig,
    rows: UpdateRows,
    items: Catalog,
    *,
    replay_share: float = REPLAY_SHARE,
    changed_titles: ChangedTitles = "refuse",
    peft_config: PeftConfig | None = None,
    max_neighbors: int | None = None,
    max_eval_rows: int | None = None,
    revision: str | None = None,
    trust_layout_code: bool = False,
    show_progress: bool = True,
) -> Path:
    """
    Trains a checkpoint further on new interactions, with a replay of old ones, after its catalog has grown. Its prompt
    and its layout stay. The counts of its fusion are made anew from all rows. If there are validation rows, the
    fusion's weights are fitted on them, and else they stay. Validation rows are counted too, all of them.

    An interrupted call resumes where it stopped when it is called again with the same arguments. `output_dir/grown`
    holds the checkpoint with its new items before any training, and `output_dir/final` the result.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The checkpoint to go on from: a directory or a repository of the Hub. An adapter is merged.
        args ([`PatchFinetuneConfig`]):
            Training arguments (see [`update_settings`] for those that suit the checkpoint).
        rows ([`~patchrec_hf.data.update_rows.UpdateRows`]):
            New rows, old rows, and validation rows (see [`~patchrec_hf.data.update_rows.rows_since`]), made with the
            catalog of [`~patchrec_hf.training.catalog_growth.merge_catalogs`].
        items ([`Catalog`]):
            The items that the shop has now.
        replay_share (`float`, *optional*, defaults to `0.2`):
            Share of old targets among those that the model learns from.
        changed_titles (`"refuse"`, `"keep"` or `"take"`, *optional*, defaults to `"refuse"`):
            Whether an item of the checkpoint may have another title now (see
            [`~patchrec_hf.training.catalog_growth.merge_catalogs`]).
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains an adapter of the grown checkpoint.
        max_neighbors (`int`, *optional*):
            See [`fit_fusion`].
        max_eval_rows (`int`, *optional*):
            Number of validation rows, evenly spaced, on which the model is evaluated during training and the weights
            are fitted. All if not given.
        revision (`str`, *optional*):
            Revision of the checkpoint, if it is a repository of the Hub: a branch, a tag or a commit.
        trust_layout_code (`bool`, *optional*, defaults to `False`):
            Whether the checkpoint's layout may be imported if it is a class of your own (see
            [`PatchRecProcessor.from_pretrained`]).
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether counting shows progress bars.

    Returns:
        `pathlib.Path`: `output_dir/final`.

    Raises:
        ValueError: If the checkpoint has no item head and the objective trains one, old rows are missing for a replay
            or for counts, or an argument is wrong.
        TypeError, OSError, KeyError, FloatingPointError: As loading, growing and training do.

    Example:
    ```python
    >>> from patchrec_hf.data.update_rows import rows_since
    >>> checkpoint, data = "outputs/final", prepare_data("sample")
    >>> processor = PatchRecProcessor.from_pretrained(checkpoint)
    >>> catalog = merge_catalogs(processor.catalog, data.catalog)
    >>> since = read_config(checkpoint).trained_until + 1
    >>> rows = rows_since(data.interactions, catalog, since, processor.max_history, targets_per_row=20)
    >>> args = PatchFinetuneConfig("outputs/week_2", **update_settings(checkpoint))
    >>> update_checkpoint(checkpoint, args, rows, data.catalog)
    ```
    """
    output_dir, state = Path(str(args.output_dir)), PartialState()
    validation = None if rows.validation is None else select_spaced(rows.validation, max_eval_rows)
    mixed = mix_replay(rows.new, rows.old, replay_share, args.seed)
    grown = from_main_process(
        lambda: _grow(checkpoint, output_dir / GROWN_NAME, args, items, changed_titles, revision, trust_layout_code)
    )
    processor = PatchRecProcessor.from_pretrained(
        grown, trust_layout_code=trust_layout_code, trust_remote_code=args.trust_remote_code
    )
    counted = [part for part in (rows.old, rows.new) if part is not None]
    if processor.fusion is not None and processor.fusion.num_items > 0 and rows.old is None:
        raise ValueError(
            "The checkpoint has a fusion, whose counts are made anew from the whole log, but the log has no "
            "interactions before the new ones. Give the whole log."
        )

    def make_trainer() -> PatchTrainer:
        state.print(f"\n== An update, from {checkpoint} ==")
        # All items compete that ever were a target. If only the mix's items did, the others would lose their places.
        is_item = args.objective != "title"
        negatives = choose_negatives(args, processor.catalog, *counted) if is_item else None
        return PatchFinetuneTrainer(
            str(grown),
            replace(args, output_dir=str(output_dir)),
            train_dataset=mixed,
            processing_class=processor,
            eval_dataset=validation,
            data_collator=PatchDataCollator(processor, seed=args.seed, negatives=negatives),
            peft_config=peft_config,
        )

    final = train_stage(make_trainer, output_dir)
    if processor.fusion is not None:
        if rows.validation is None:
            processor = recount_fusion(processor, counted, max_neighbors, show_progress)
        else:
            model = load_model(final, trust_remote_code=args.trust_remote_code).to(state.device)
            processor = refit_fusion(
                model, processor, counted, rows.validation, max_neighbors, show_progress, max_rows=max_eval_rows
            )
        if state.is_main_process:
            processor.save_pretrained(final)
        state.wait_for_everyone()
    return final


def update_settings(checkpoint: str | os.PathLike, **kwargs: Any) -> dict[str, Any]:
    """
    Chooses training arguments for an update: the checkpoint's own objective with the settings of the recipe that
    trains it, two epochs, and a quarter of the learning rate of the first training. A model that knows nothing needs a
    high rate. It would move all vectors of a trained model far, by steps that see few old interactions, and so undo a
    part of what these taught.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The checkpoint.
        **kwargs:
            Arguments that choose files on the Hub, such as `revision` and `token`.

    Returns:
        `dict[str, Any]`: arguments of [`PatchFinetuneConfig`]. There is no `learning_rate` if the checkpoint does not
        say with which one it was trained, because an earlier version of the library wrote it.

    Raises:
        ValueError: If it is no checkpoint of this library.
        OSError: If there is no such checkpoint.
    """
    config = read_config(checkpoint, **kwargs)
    objective = config.objective or ("title" if config.item_head is None else "item")
    settings = dict(RECIPES[recipe_of(config)].training) | {"objective": objective, "num_train_epochs": _NUM_EPOCHS}
    settings.pop("learning_rate", None)
    if config.initial_learning_rate is not None:
        settings["learning_rate"] = RATE_SHARE * config.initial_learning_rate
    if objective != "item":
        settings["title_normalizer"] = config.title_normalizer
        settings["title_temperature"] = config.title_temperature
    return settings


def recipe_of(config: PatchRecConfig) -> str:
    """Returns the name of the recipe in [`RECIPES`] that trains the objective of a checkpoint."""
    return "all-patch" if config.objective in ("item", "both") or config.item_head is not None else "paper"


def read_config(checkpoint: str | os.PathLike, **kwargs: Any) -> PatchRecConfig:
    """
    Reads the configuration of a checkpoint of this library.

    Raises:
        ValueError: If it is another model.
        OSError: If there is no such checkpoint.
    """
    check_path(checkpoint, kwargs)
    with explained_lookup(checkpoint, kwargs):
        config = AutoConfig.from_pretrained(checkpoint, **hub_kwargs(kwargs))
    if not isinstance(config, PatchRecConfig):
        raise ValueError(
            f"An update continues from a checkpoint of this library, but {checkpoint} holds a model of the type "
            f"{config.model_type!r}. To train from such a backbone, leave `--from` out and pass "
            "`--model_name_or_path`."
        )
    return config


def _grow(
    checkpoint: str | os.PathLike,
    directory: Path,
    args: PatchFinetuneConfig,
    items: Catalog,
    titles: ChangedTitles,
    revision: str | None,
    trust_layout_code: bool,
) -> Path:
    """Writes the checkpoint with its grown catalog, unless an interrupted run has done so."""
    loading: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
    if revision is not None:
        loading["revision"] = revision
    processor = PatchRecProcessor.from_pretrained(checkpoint, trust_layout_code=trust_layout_code, **loading)
    catalog = merge_catalogs(processor.catalog, items, titles)
    if directory.is_dir():
        begun = Catalog.from_parquet(directory / CATALOG_NAME)
        if begun.item_ids.tolist() != catalog.item_ids.tolist() or begun.titles != catalog.titles:
            raise ValueError(
                f"{directory} holds the {len(begun)} items with which this update began, but the data now make a "
                f"catalog of {len(catalog)} items. Continue with the data that the update began with, or choose "
                "another output directory."
            )
        return directory
    model = load_model(checkpoint, dtype="auto", **loading)
    if args.objective != "title" and model.item_head is None:
        raise ValueError(
            f"`objective={args.objective!r}` continues with residuals and biases of items, but {checkpoint} has no "
            "item head. Leave the objective unset, so that the update learns titles as the checkpoint does, or train "
            "an item head from the start (`patchrec train --preset all-patch`)."
        )
    grown = grow_catalog(model, processor, catalog)
    part = directory.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    grown.save_pretrained(part)
    part.rename(directory)
    return directory
