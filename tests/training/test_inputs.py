"""A trainer checks its arguments and rows before training."""

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from tiers import first_fast
from trainer_parts import as_stream

from patchrec_hf import (
    BudgetLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PyramidLayout,
    TimeWindowLayout,
)


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


def test_the_first_rows_of_a_stream_are_read_once(make_trainer, rows):
    reads = []

    def generate():
        reads.append(1)
        yield from rows

    make_trainer("finetune", train_dataset=IterableDataset.from_generator(generate))
    assert len(reads) == 2  # SFTTrainer reads the first row once more


@pytest.mark.parametrize(
    ("targets", "message"),
    first_fast(
        [
            ([3, 2], r"target positions \[3, 2\] must ascend. It is row 5 of"),
            ([2, 2], r"must ascend. It is row 5 of"),
            ([], r"Row 5 \(user 77\) has the target positions \[\]"),
            ([2, None], r"Row 5 \(user 77\) has the target positions \[2, None\]"),
            (None, r"Row 5 \(user 77\) has the target positions None"),
            ([0], r"position 0 must lie between 1 and 9; .* It is row 5 of"),
            ([3, 10], r"position 10 must lie between 1 and 9; .* It is row 5 of"),
            ([1, 9], r"must lie less than `max_history` \(8\) apart.* It is row 5 of"),
        ]
    ),
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


def test_users_are_numbers_or_texts(make_trainer, rows):
    users = rows.remove_columns("user_id")
    make_trainer("finetune", train_dataset=users.add_column("user_id", [f"u{row}" for row in range(len(rows))]))
    with pytest.raises(TypeError, match=r"Column `user_id` must hold whole numbers or texts, got double"):
        make_trainer("finetune", train_dataset=users.add_column("user_id", [0.5] * len(rows)))


@pytest.mark.parametrize("targets", [1, 1.5, [1.5], None, ["1"]])
def test_target_positions_must_be_lists_of_whole_numbers(make_trainer, rows, targets):
    dataset = rows.remove_columns("target_positions").add_column("target_positions", [targets] * len(rows))
    with pytest.raises(TypeError, match=r"Column `target_positions` must hold lists of whole numbers, got"):
        make_trainer("finetune", train_dataset=dataset)


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


def test_a_cpu_does_not_train_in_float16(make_trainer):
    with pytest.raises(ValueError, match=r"`fp16=True` has no effect on a CPU.*`bf16=True`"):
        make_trainer("finetune", fp16=True)


@pytest.mark.parametrize(
    ("make", "message"),
    first_fast(
        [
            (lambda rows, bad: rows.select([]), "is empty"),
            (lambda rows, bad: {"few": rows, "none": rows.select([])}, "is empty"),
            (lambda rows, bad: {}, "dictionary without data sets"),
            (lambda rows, bad: bad, r"Row 0 \(user 0\) has the target positions \[\]"),
            (lambda rows, bad: {"few": rows, "bad": bad}, r"Row 0 \(user 0\) has the target positions \[\]"),
        ]
    ),
)
def test_evaluating_no_rows(make_trainer, rows, make, message):
    bad = Dataset.from_list([{**row, "target_positions": []} for row in rows], features=rows.features)
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", eval_dataset=make(rows, bad))
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", eval_ks=[]).evaluate(make(rows, bad))


def test_layouts_that_read_times_are_checked_before_training(make_trainer, processor, rows):
    windows = processor.with_layout(TimeWindowLayout(3600))
    for stage in ("pretrain", "finetune"):
        with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but a data set has no column"):
            make_trainer(stage, processing_class=windows)
    collator = PatchDataCollator(processor, TimeWindowLayout(3600))
    with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but a data set has no column"):
        make_trainer("finetune", collator=collator)


@pytest.mark.parametrize(
    "layout", first_fast([TimeWindowLayout(3600, 1), PyramidLayout(width=2), BudgetLayout(40, 5)]), ids=repr
)
@pytest.mark.parametrize("objective", first_fast(["title", "item"]))
def test_both_trainers_take_long_layouts(make_trainer, processor, rows, layout, objective):
    timed = rows.map(lambda row: {"timestamps": [1800 * place**2 for place in range(len(row["item_ids"]))]})
    for stage in ("pretrain", "finetune"):
        trainer = make_trainer(
            stage,
            train_dataset=timed,
            processing_class=processor.with_layout(layout),
            objective=objective,
            max_steps=1,
            train_sampling_strategy="group_by_length",
        )
        trainer.train()
        assert np.isfinite(trainer.state.log_history[0]["loss"])
