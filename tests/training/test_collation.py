"""A trainer completes its collator."""

from dataclasses import dataclass
from typing import ClassVar

import datasets
import numpy as np
import pytest
import transformers
from conftest import ITEM_IDS, TITLES
from datasets import Dataset
from trainer_parts import as_stream, logged

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    DropLayout,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchRecProcessor,
    PyramidLayout,
    TextLayout,
)
from patchrec_hf.batches.candidates import NegativeSampling
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.training import collation


def test_collators_that_contradict_the_checkpoint(make_trainer, processor):
    with pytest.raises(ValueError, match="with_layout"):
        make_trainer("finetune", collator=PatchDataCollator(processor, TextLayout()))
    with pytest.raises(TypeError, match="must be a `PatchPretrainDataCollator`"):
        make_trainer("pretrain", collator=PatchDataCollator(processor))


def test_collators_learn_the_models_context(make_trainer, model, processor):
    model.config.text_config.max_position_embeddings = 200
    for collator in (None, PatchDataCollator(processor)):
        assert make_trainer("finetune", model=model, collator=collator).data_collator.max_length == 200
    model.config.text_config.max_position_embeddings = 40
    with pytest.raises(ValueError, match="reads at most 40"):
        make_trainer("finetune", model=model)


def test_rows_with_one_target_are_packed_on_demand_only(make_trainer):
    assert not make_trainer("finetune").data_collator.tree_packing
    assert make_trainer("finetune", tree_packing=True).data_collator.tree_packing


def test_packing_looks_at_the_rows_that_are_trained_on(make_trainer, blocks, rows):
    mixed = datasets.concatenate_datasets([blocks, rows.cast(blocks.features)])
    assert make_trainer("finetune", train_dataset=mixed).data_collator.tree_packing
    single = mixed.select(range(len(blocks), len(mixed)))
    assert not make_trainer("finetune", train_dataset=single).data_collator.tree_packing


@pytest.mark.parametrize(("layout", "is_warned"), [(PyramidLayout(), True), (ItemPatchLayout(0), False)])
def test_targets_that_are_read_one_by_one(make_trainer, processor, blocks, caplog, layout, is_warned):
    own = processor.with_layout(layout)
    transformers.utils.logging.enable_propagation()
    make_trainer("finetune", train_dataset=blocks, processing_class=own, objective="item", tree_packing=False)
    transformers.utils.logging.disable_propagation()
    assert ("Set `tree_packing=True`, so that it reads once" in caplog.text) == is_warned


def test_collator_that_packs_against_the_arguments(make_trainer, processor):
    with pytest.raises(ValueError, match="tree_packing=False"):
        make_trainer("finetune", collator=PatchDataCollator(processor, tree_packing=True), tree_packing=False)


def test_collator_of_another_processor_is_refused(make_trainer, processor):
    with pytest.raises(ValueError, match="must hold the processor that is passed as `processing_class`"):
        make_trainer("finetune", collator=PatchDataCollator(processor.with_layout(processor.layout)))


@pytest.mark.slow
def test_a_stream_with_several_targets_is_packed(make_trainer, rows):
    several = rows.map(lambda row: {"target_positions": [len(row["item_ids"]) - 2, len(row["item_ids"]) - 1]})
    trainer = make_trainer("finetune", train_dataset=as_stream(several))
    assert trainer.data_collator.tree_packing
    trainer.train()
    assert len(logged(trainer, "loss")) == 6


def test_objectives_that_contradict_each_other(make_trainer, processor):
    collator = PatchDataCollator(processor, objective="item")
    for arguments in ({}, {"objective": "both"}):
        with pytest.raises(ValueError, match="`data_collator` has the objective 'item', but the arguments have"):
            make_trainer("finetune", collator=collator, **arguments)
    # A collator without an objective gets the objective of the arguments.
    trainer = make_trainer("finetune", collator=PatchDataCollator(processor), objective="both")
    assert trainer.data_collator.objective == "both"


def test_normalizers_that_contradict_each_other(make_trainer, processor):
    collator = PatchDataCollator(processor, title_normalizer="catalog")
    with pytest.raises(ValueError, match="`data_collator` has the title_normalizer 'catalog', but the arguments have"):
        make_trainer("finetune", collator=collator)
    trainer = make_trainer("finetune", collator=PatchDataCollator(processor), title_normalizer="catalog")
    assert trainer.data_collator.title_normalizer == "catalog"
    assert "trie" in processor.__dict__  # computed before workers are made


def test_a_catalog_that_leaves_nothing_open(make_trainer, tokenizer):
    processor = PatchRecProcessor(tokenizer, Catalog.from_titles(dict.fromkeys(TITLES, "Emma")), BOOK_PROMPT)
    rows = Dataset.from_list([{"user_id": 0, "item_ids": [10, 11], "target_positions": [1]}])
    with pytest.raises(ValueError, match=r"all items have the title 'Emma'.*`title_normalizer='vocabulary'`"):
        make_trainer("finetune", processing_class=processor, train_dataset=rows, title_normalizer="catalog")


def test_more_negatives_than_items(make_trainer):
    with pytest.raises(ValueError, match=r"`num_negatives` must lie between 1 and the catalog's 12 items, got 13"):
        make_trainer("finetune", objective="item", num_negatives=13)


def test_negatives_are_weighted_by_the_targets_of_the_rows(make_trainer, processor, rows, monkeypatch):
    monkeypatch.setattr("patchrec_hf.data.rows.CHUNK_ROWS", 5)
    several = Dataset.from_list([*rows, {"user_id": 1, "item_ids": [10, 11, 11, 11, 11], "target_positions": [2, 4]}])
    counts = np.zeros(12)
    for row in several:
        for position in row["target_positions"]:
            counts[ITEM_IDS.index(row["item_ids"][position])] += 1
    assert counts.min() == 0
    negatives = make_trainer(
        "finetune", train_dataset=several, objective="item", num_negatives=5
    ).data_collator.negatives
    assert negatives.num_negatives == 5
    np.testing.assert_allclose(negatives.weights, np.sqrt(counts))
    # A collator's own are kept.
    own = NegativeSampling(3)
    collator = PatchDataCollator(processor, objective="item", negatives=own)
    trainer = make_trainer("finetune", collator=collator, objective="item", num_negatives=5)
    assert trainer.data_collator.negatives is own


def test_large_catalogs_are_sampled_by_default(make_trainer, monkeypatch):
    monkeypatch.setattr(collation, "_NUM_NEGATIVES", 4)
    assert make_trainer("finetune", objective="item").data_collator.negatives.num_negatives is None
    monkeypatch.setattr(collation, "_MAX_FULL_SOFTMAX", 11)
    assert make_trainer("finetune", objective="item").data_collator.negatives.num_negatives == 4
    assert make_trainer("finetune").data_collator.negatives is None


@dataclass(frozen=True)
class LeavesOutNewest:
    name: ClassVar[str] = "leaves_out_newest"

    def __call__(self, num_items, seed=()):
        return [Segment("text", 0, max(num_items - 1, 1))]


def test_layouts_that_leave_out_the_newest_item(make_trainer, processor):
    other = processor.with_layout(LeavesOutNewest())
    with pytest.raises(ValueError, match="leaves out the newest item"):
        make_trainer("finetune", processing_class=other, objective="item")
    make_trainer("finetune", processing_class=other)
    make_trainer("finetune", processing_class=processor.with_layout(DropLayout(1.0)), objective="item")


def test_items_compete_that_are_targets_of_any_rows(processor, rows):
    targets = {row["item_ids"][row["target_positions"][0]] for row in rows}
    args = PatchFinetuneConfig("outputs", objective="item", use_cpu=True)
    whole = collation.choose_negatives(args, processor.catalog, rows)
    assert set(processor.catalog.item_ids[whole.weights > 0].tolist()) == targets
    parts = collation.choose_negatives(args, processor.catalog, rows.select(range(5)), rows.select(range(5, 14)))
    np.testing.assert_array_equal(parts.weights, whole.weights)
    assert collation.choose_negatives(args, processor.catalog, rows, as_stream(rows)).weights is None
