"""Loaders: which rows make which batch, by hand."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerState

from patchrec_hf import PatchFinetuneConfig
from patchrec_hf.batches.filled import FillerRow
from patchrec_hf.batches.sampling import ScheduledRow, ScheduledStream
from patchrec_hf.training.loaders import data_seed, make_eval_loader, make_stream, make_train_loader


ROWS = Dataset.from_list([{"user_id": i, "item_ids": [i, i + 1], "target_positions": [1]} for i in range(5)])


def make_args(tmp_path, **settings):
    return PatchFinetuneConfig(str(tmp_path), use_cpu=True, max_steps=3, report_to="none", **settings)


def test_training_rows_come_with_their_step(tmp_path):
    args = make_args(tmp_path, per_device_train_batch_size=2)
    loader = make_train_loader(ROWS, list, args, 2, lambda: TrainerState(max_steps=3), None)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert all(isinstance(row, ScheduledRow) for batch in batches for row in batch)
    assert [row.step for batch in batches for row in batch] == [0, 0, 1, 1, 2]
    assert sorted(row.row["user_id"] for batch in batches for row in batch) == list(range(5))


def test_incomplete_batches_can_be_dropped(tmp_path):
    args = make_args(tmp_path, per_device_train_batch_size=2, dataloader_drop_last=True)
    loader = make_train_loader(ROWS, list, args, 2, lambda: TrainerState(max_steps=3), None)
    assert [len(batch) for batch in loader] == [2, 2]
    # No evaluation row is dropped: fillers complete the last batch.
    args = make_args(tmp_path, per_device_eval_batch_size=2, dataloader_drop_last=True)
    evaluation = list(make_eval_loader(ROWS, list, args))
    assert [[isinstance(row, FillerRow) for row in batch] for batch in evaluation] == [
        [False, False], [False, False], [False, True]
    ]  # fmt: skip


def test_evaluation_rows_stay_in_order(tmp_path):
    batches = list(make_eval_loader(ROWS, list, make_args(tmp_path, per_device_eval_batch_size=2)))
    assert [[row["user_id"] for row in batch] for batch in batches] == [[0, 1], [2, 3], [4]]


def test_only_streams_become_streams(tmp_path):
    args = make_args(tmp_path, gradient_accumulation_steps=2, data_seed=7)
    assert make_stream(ROWS, args, 2) is None
    stream = make_stream(ROWS.to_iterable_dataset(), args, 2)
    assert isinstance(stream, ScheduledStream)
    assert (stream.rows_per_micro_batch, stream.accumulation_steps, stream.seed, stream.max_steps) == (2, 2, 7, 3)
    loader = make_train_loader(stream, list, args, 2, lambda: TrainerState(max_steps=3), None)
    assert [len(batch) for batch in loader] == [2] * 6


@pytest.mark.parametrize(("settings", "seed"), [({}, 42), ({"seed": 3}, 3), ({"seed": 3, "data_seed": 4}, 4)])
def test_the_seed_of_the_order(tmp_path, settings, seed):
    assert data_seed(make_args(tmp_path, **settings)) == seed


def test_settings_reach_the_loader(tmp_path):
    settings = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True}
    args = make_args(tmp_path, **settings)
    loader = make_train_loader(ROWS, list, args, 2, lambda: TrainerState(max_steps=3), None)
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 3, True)
    assert not make_eval_loader(ROWS, list, args).persistent_workers
    assert loader.pin_memory is torch.accelerator.is_available()
