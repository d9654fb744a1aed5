"""A trainer names what its model cannot read when it is made."""

import pytest
from conftest import TITLES
from datasets import Dataset
from item_parts import item_processor

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
)
from patchrec_hf.tiny import build_tiny_backbone


LONG = "A very long title " * 30


@pytest.fixture(scope="module")
def parts():
    """The catalog of `conftest.py` and item 99 with a long title, for a model with a context of 175 tokens."""
    catalog = Catalog.from_titles({**TITLES, 99: LONG})
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=32, vocab_size=400, max_position_embeddings=175)
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, ItemPatchLayout(2), max_history=8)
    return backbone, tokenizer, processor


def make(parts, tmp_path, train, evaluation=None, trainer=PatchFinetuneTrainer, config=PatchFinetuneConfig, **kwargs):
    backbone, tokenizer, processor = parts
    if kwargs.get("objective") == "item":
        processor = item_processor(processor, catalog=processor.catalog)
    args = config(str(tmp_path), use_cpu=True, report_to="none", max_steps=1, **kwargs)
    return trainer(
        PatchRecForCausalLM.from_backbone(backbone, tokenizer),
        args,
        train_dataset=train,
        processing_class=processor,
        eval_dataset=evaluation,
    )


def rows_of(*histories):
    return Dataset.from_list(
        [{"user_id": 7, "item_ids": items, "target_positions": [len(items) - 1]} for items in histories]
    )


SHORT, FOLDED, READ = [10, 11, 12], [99, 10, 11, 12], [18, 19, 20, 21, 99, 17]


def test_training_rows(parts, tmp_path):
    with pytest.raises(ValueError, match=r"user 7 takes \d+ tokens.* row 1 of the training rows.* item 99, 'A very"):
        make(parts, tmp_path, rows_of(SHORT, READ))
    make(parts, tmp_path, rows_of(SHORT, FOLDED))  # one position


def test_the_first_rows_of_a_stream(parts, tmp_path):
    with pytest.raises(ValueError, match=r"row 1 of the training rows.* item 99, 'A very"):
        make(parts, tmp_path, rows_of(SHORT, READ).to_iterable_dataset())


def test_rows_that_are_read_as_text_in_pretraining(parts, tmp_path):
    text = [18, 19, 20, 21, 99, 17, 16, 10]
    with pytest.raises(ValueError, match=r"row 0 of the training rows.* item 99, 'A very"):
        make(parts, tmp_path, rows_of(text), trainer=PatchPretrainTrainer, config=PatchPretrainConfig)


def test_evaluation_rows(parts, tmp_path):
    """The loss reads the item's title. The ranking needs room for it behind every history."""
    with pytest.raises(ValueError, match=r"row 0 of the evaluation rows.* item 99, 'A very"):
        make(parts, tmp_path, rows_of(SHORT), {"validation": rows_of(READ)}, eval_ks=[])
    with pytest.raises(ValueError, match=r"with the longest title of the catalog \(item 99.*of the evaluation rows"):
        make(parts, tmp_path, rows_of(SHORT), rows_of([18, 19, 20, 21, 17, 16, 10, 11]))
    make(parts, tmp_path, rows_of(SHORT), rows_of([18, 19, 20, 21, 17, 16, 10, 11]), eval_ks=[])


def test_items_need_no_room_for_titles(parts, tmp_path):
    make(parts, tmp_path, rows_of(SHORT), rows_of([18, 19, 20, 21, 17, 16, 10, 11]), objective="item")


def test_a_title_that_no_prompt_leaves_room_for(tmp_path, parts):
    catalog = Catalog.from_titles({**TITLES, 99: LONG * 2})
    tokenizer = parts[1]
    backbone, _ = build_tiny_backbone(catalog, hidden_size=32, vocab_size=400, max_position_embeddings=175)
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, ItemPatchLayout(2), max_history=8)
    with pytest.raises(ValueError, match=r"The title of item 99, 'A very long.*Shorten the title, or leave the item"):
        make((backbone, tokenizer, processor), tmp_path, rows_of(SHORT))
