"""A trainer checks, loads and completes its inputs before training."""

import datasets
import pytest
import torch
from datasets import Dataset, IterableDataset
from trainer_parts import as_stream, logged

from patchrec_hf import (
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    TextLayout,
)
from patchrec_hf.tiny import build_tiny_backbone


def test_model_by_name(make_trainer, catalog, tmp_path):
    """A path to a bare backbone and one to a PatchRec checkpoint both train."""
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    trainer = make_trainer("pretrain", model=str(tmp_path / "backbone"), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "pretrained"))
    again = make_trainer("finetune", model=str(tmp_path / "pretrained"), max_steps=1)
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_collators_that_contradict_the_checkpoint(make_trainer, processor):
    with pytest.raises(ValueError, match="with_layout"):
        make_trainer("finetune", collator=PatchDataCollator(processor, TextLayout()))
    with pytest.raises(TypeError, match="must be a `PatchPretrainDataCollator`"):
        make_trainer("pretrain", collator=PatchDataCollator(processor))


def test_collators_learn_the_models_context(make_trainer, model, processor):
    model.config.text_config.max_position_embeddings = 40
    for collator in (None, PatchDataCollator(processor)):
        trainer = make_trainer("finetune", model=model, collator=collator)
        with pytest.raises(ValueError, match="reads at most 40"):
            trainer.train()


def test_names_are_loaded_in_float32(make_trainer, catalog, tmp_path):
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    backbone.to(torch.bfloat16).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    trainer = make_trainer("finetune", model=tmp_path / "backbone")
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_bare_backbones_are_refused(make_trainer, catalog):
    with pytest.raises(TypeError, match="from_backbone"):
        make_trainer("finetune", model=build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)[0])


def test_model_of_another_tokenizer(make_trainer, model):
    model.config.patch_token_id = 5
    with pytest.raises(ValueError, match="not made for each other"):
        make_trainer("finetune", model=model)


def test_data_sets_are_checked(make_trainer, rows):
    with pytest.raises(ValueError, match="needs `user_id`, `item_ids` and `target_positions`"):
        make_trainer("finetune", train_dataset=rows.remove_columns("target_positions"))
    with pytest.raises(ValueError, match="is empty"):
        make_trainer("finetune", eval_dataset=rows.select([]))
    with pytest.raises(TypeError, match="got `list`"):
        make_trainer("finetune", eval_dataset=[1, 2])


@pytest.mark.parametrize("name", ["args", "processing_class", "train_dataset"])
def test_wrong_kind_of_argument(model, processor, rows, tmp_path, name):
    args = PatchFinetuneConfig(str(tmp_path), use_cpu=True)
    kwargs = {"args": args, "processing_class": processor, "train_dataset": rows} | {name: object()}
    with pytest.raises(TypeError, match=rf"`{name}` must be"):
        PatchFinetuneTrainer(model, **kwargs)


def test_rows_with_one_target_are_packed_on_demand_only(make_trainer):
    assert not make_trainer("finetune").data_collator.tree_packing
    assert make_trainer("finetune", tree_packing=True).data_collator.tree_packing


def test_packing_looks_at_the_rows_that_are_trained_on(make_trainer, blocks, rows):
    mixed = datasets.concatenate_datasets([blocks, rows.cast(blocks.features)])
    assert make_trainer("finetune", train_dataset=mixed).data_collator.tree_packing
    single = mixed.select(range(len(blocks), len(mixed)))
    assert not make_trainer("finetune", train_dataset=single).data_collator.tree_packing


def test_the_first_rows_of_a_stream_are_read_once(make_trainer, rows):
    reads = []

    def generate():
        reads.append(1)
        yield from rows

    make_trainer("finetune", train_dataset=IterableDataset.from_generator(generate))
    assert len(reads) == 2  # SFTTrainer reads the first row once more


def test_collator_that_packs_against_the_arguments(make_trainer, processor):
    with pytest.raises(ValueError, match="tree_packing=False"):
        make_trainer("finetune", collator=PatchDataCollator(processor, tree_packing=True), tree_packing=False)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([3, 2], r"target positions \[3, 2\] must ascend. It is row 5 of"),
        ([2, 2], r"must ascend. It is row 5 of"),
        ([], r"Row 5 \(user 77\) has the target positions \[\]"),
        ([2, None], r"Row 5 \(user 77\) has the target positions \[2, None\]"),
        (None, r"Row 5 \(user 77\) has the target positions None"),
        ([0], r"position 0 must lie between 1 and 9; .* It is row 5 of"),
        ([3, 10], r"position 10 must lie between 1 and 9; .* It is row 5 of"),
        ([1, 9], r"must lie less than `max_history` \(8\) apart.* It is row 5 of"),
    ],
)
def test_bad_targets_are_found_before_training(make_trainer, rows, targets, message):
    bad = {"user_id": 77, "item_ids": rows[0]["item_ids"][:1] * 10, "target_positions": targets}
    dataset = Dataset.from_list([*rows.select(range(5)).to_list(), bad], features=rows.features)
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", train_dataset=dataset)
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", eval_dataset=dataset)


def test_rows_are_checked_as_they_are_selected(make_trainer, rows):
    bad = {"user_id": 77, "item_ids": rows[0]["item_ids"][:2], "target_positions": [2]}
    dataset = Dataset.from_list([bad, *rows.to_list()], features=rows.features)
    make_trainer("finetune", train_dataset=dataset.filter(lambda row: row["user_id"] != 77).shuffle(seed=0))
    with pytest.raises(ValueError, match="target position 2 must lie between 1 and 1"):
        make_trainer("finetune", train_dataset=dataset.shuffle(seed=0))


def test_users_must_be_whole_numbers(make_trainer, rows):
    dataset = rows.remove_columns("user_id").add_column("user_id", [f"u{row}" for row in range(len(rows))])
    with pytest.raises(TypeError, match=r"Column `user_id` must hold whole numbers, got string. Number the users"):
        make_trainer("finetune", train_dataset=dataset)


@pytest.mark.parametrize("targets", [1, 1.5, [1.5], None, ["1"]])
def test_target_positions_must_be_lists_of_whole_numbers(make_trainer, rows, targets):
    dataset = rows.remove_columns("target_positions").add_column("target_positions", [targets] * len(rows))
    with pytest.raises(TypeError, match=r"Column `target_positions` must hold lists of whole numbers, got"):
        make_trainer("finetune", train_dataset=dataset)


def test_collator_of_another_processor_is_refused(make_trainer, processor):
    with pytest.raises(ValueError, match="must hold the processor that is passed as `processing_class`"):
        make_trainer("finetune", collator=PatchDataCollator(processor.with_layout(processor.layout)))


def test_a_stream_with_several_targets_is_packed(make_trainer, rows):
    several = rows.map(lambda row: {"target_positions": [len(row["item_ids"]) - 2, len(row["item_ids"]) - 1]})
    trainer = make_trainer("finetune", train_dataset=as_stream(several))
    assert trainer.data_collator.tree_packing
    trainer.train()
    assert len(logged(trainer, "loss")) == 6


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"max_steps": -1}, "A stream of rows has no length, so `max_steps` must be set to at least 1, got -1"),
        ({"train_sampling_strategy": "group_by_length"}, "needs a `Dataset`, but the rows are streamed"),
    ],
)
def test_settings_that_a_stream_cannot_have(make_trainer, rows, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        make_trainer(train_dataset=as_stream(rows), **kwargs)


def test_a_stream_without_rows(make_trainer, rows):
    with pytest.raises(ValueError, match="is empty"):
        make_trainer(train_dataset=as_stream(rows).filter(lambda row: False))


def test_bad_rows_of_a_stream_are_seen_before_training(make_trainer, rows):
    bad = rows.map(lambda row: {"target_positions": [0]})
    with pytest.raises(ValueError, match="target position 0 must lie between"):
        make_trainer(train_dataset=as_stream(bad))
