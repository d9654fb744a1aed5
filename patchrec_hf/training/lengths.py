"""Lengths: checks before training that the model can read all rows, and rank behind those that it evaluates"""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from ..batches.collators import PatchDataCollator
from ..batches.length_checks import check_row_lengths, check_title_lengths
from ..evaluation.prompt_lengths import check_prompt_lengths
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.ranking_config import ITEM_METHODS
from .arguments import PatchFinetuneConfig
from .inputs import evaluation_sets


def check_lengths(
    first_rows: Dataset,
    eval_dataset: Any,
    collator: PatchDataCollator,
    model: PatchRecForCausalLM,
    args: PatchFinetuneConfig,
) -> None:
    """
    Checks that the model can read all rows of a trainer, and rank behind those that it evaluates.

    Args:
        first_rows, eval_dataset:
            See [`~patchrec_hf.training.inputs.check_data_sets`].
        collator ([`PatchDataCollator`]):
            The collator, with the longest sequence that the model reads.
        model ([`PatchRecForCausalLM`]):
            The model.
        args ([`PatchFinetuneConfig`]):
            Training arguments.

    Raises:
        ValueError: If a title of the catalog, a row or a history is too long. The message names it.
        KeyError: If the catalog lacks an item of a row.
    """
    processor, method = collator.processor, args.eval_method
    ranks_titles = args.objective == "title" if method is None else method not in ITEM_METHODS
    if args.objective != "item" or (ranks_titles and args.eval_ks):
        check_title_lengths(processor, model.max_length)
    check_row_lengths(first_rows, collator, "the training rows")
    title_length = processor.trie.max_depth if ranks_titles else None
    for rows in [] if eval_dataset is None else evaluation_sets(eval_dataset):
        check_row_lengths(rows, collator, "the evaluation rows")
        if args.eval_ks:
            check_prompt_lengths(
                rows, processor, model.max_length, title_length, seed=collator.seed, name="the evaluation rows"
            )
