import pytest
from accelerate.data_loader import IterableDatasetShard
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerState

from patchrec_hf.batches.sampling import ScheduledDataset, ScheduledIndex, ScheduledRow, ScheduledStream, StepSampler


def make_sampler(num_rows=10, rows_per_micro_batch=2, accumulation_steps=1, num_processes=1, drop_last=False, **state):
    trainer_state = TrainerState(max_steps=state.pop("max_steps", 5), **state)
    return StepSampler(
        num_rows, rows_per_micro_batch, accumulation_steps, num_processes, drop_last, 0, lambda: trainer_state
    )


def test_every_row_once_and_steps_ascend():
    indices = list(make_sampler())
    assert sorted(index.row_number for index in indices) == list(range(10))
    assert [index.step for index in indices] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [index.progress for index in indices[::2]] == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_accumulation_keeps_micro_batches_of_a_step_together():
    # Five micro-batches of two rows, two to a step: the last step has one.
    assert [index.step for index in make_sampler(accumulation_steps=2)] == [0] * 4 + [1] * 4 + [2] * 2


def test_later_epochs_go_on_counting_in_another_order():
    first, second = list(make_sampler(max_steps=10)), list(make_sampler(max_steps=10, global_step=5))
    assert [index.step for index in second] == [5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert [index.row_number for index in first] != [index.row_number for index in second]


def test_resuming_within_an_epoch_repeats_its_order():
    assert list(make_sampler()) == list(make_sampler(global_step=3))


def test_shares_of_several_processes_are_filled_up_with_the_right_step():
    indices = list(make_sampler(num_rows=9, rows_per_micro_batch=4, num_processes=2))
    assert [index.step for index in indices] == [0] * 4 + [1] * 4 + [2] * 4
    assert [index.row_number for index in indices[9:]] == [index.row_number for index in indices[:3]]


@pytest.mark.parametrize("global_step", [0, 3])
def test_a_run_ends_within_an_epoch(global_step):
    """Trainer would take one more step when it resumes after the last one."""
    indices = list(make_sampler(max_steps=3, global_step=global_step))
    assert [index.step for index in indices] == [0, 0, 1, 1, 2, 2]


def test_dropping_the_last_micro_batch():
    sampler = make_sampler(num_rows=9, rows_per_micro_batch=4, drop_last=True)
    assert sampler.num_micro_batches == 2


@pytest.mark.parametrize("fetch", ["one", "many"])
def test_rows_carry_their_step(fetch):
    dataset = ScheduledDataset(Dataset.from_list([{"item_ids": [i, i + 1]} for i in range(3)]))
    index = ScheduledIndex(2, 7, 0.25)
    row = dataset[index] if fetch == "one" else dataset.__getitems__([index])[0]
    assert row == ScheduledRow({"item_ids": [2, 3]}, 7, 0.25)


def make_stream(first_step=0):
    rows = Dataset.from_list([{"item_ids": [i]} for i in range(10)]).to_iterable_dataset(num_shards=2)
    stream = ScheduledStream(rows, rows_per_micro_batch=4, accumulation_steps=2, seed=0, max_steps=3)
    stream.first_step = first_step
    return stream


def test_processes_share_the_micro_batches_of_a_stream():
    whole = list(make_stream())
    assert [row.step for row in whole] == [0] * 8 + [1] * 8 + [2] * 8
    shares = [list(IterableDatasetShard(make_stream(), 2, False, 2, process)) for process in range(2)]
    together = [row for start in range(0, 12, 2) for share in shares for row in share[start : start + 2]]
    assert together == whole


def test_a_stream_begins_at_a_later_step():
    assert list(make_stream(first_step=2)) == list(make_stream())[16:]


@pytest.mark.slow
def test_workers_do_not_disturb_each_others_order():
    """Workers pass 500 epochs of twelve rows, each at its own pace, with a data set whose epoch they share."""
    rows = Dataset.from_list([{"item_ids": [i]} for i in range(12)]).to_iterable_dataset(num_shards=4)
    stream = ScheduledStream(rows, rows_per_micro_batch=4, accumulation_steps=1, seed=0, max_steps=1500)
    alone, helped = (
        list(DataLoader(stream, batch_size=4, num_workers=workers, collate_fn=list)) for workers in (0, 2)
    )
    assert alone == helped


def test_streams_of_two_seeds_differ():
    rows = Dataset.from_list([{"item_ids": [i]} for i in range(12)]).to_iterable_dataset()
    orders = [[row.row["item_ids"] for row in ScheduledStream(rows, 4, 1, seed, 3)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_scheduled_rows_carry_their_timestamps():
    rows = [{"item_ids": [i, i + 1], "timestamps": [5, 6 + i]} for i in range(3)]
    scheduled = ScheduledDataset(Dataset.from_list(rows))[ScheduledIndex(2, 7, 0.25)]
    assert scheduled.row["timestamps"] == [5, 8]
    stream = ScheduledStream(Dataset.from_list(rows).to_iterable_dataset(), 1, 1, 0, 3)
    assert sorted(row.row["timestamps"][1] for row in stream) == [6, 7, 8]
