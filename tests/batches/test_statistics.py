"""Statistics of batches, and of a model's predictions of their labels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from trees import plain

from patchrec_hf.batches.packing import pack_histories
from patchrec_hf.batches.statistics import BatchSums, StepStatistics, batch_token_counts, score_labels
from patchrec_hf.runtime.encoding import pad_histories


def test_what_a_padded_batch_feeds():
    """Prompts of 3, 2 and 4 tokens, of which the first and the third count as twins; 2 of 15 positions are padding."""
    batch = pad_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 9, 7], 2), plain([5, 6, 7, 9, 3], 4)], 0)
    assert batch_token_counts(batch).tolist() == [3, 3 + 2 + 4, 3 + 4, 15, 2, 4, 0]


def test_what_a_packed_batch_feeds():
    """The two prompts share their first two tokens, which are read once but count for both."""
    batch = pack_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 6, 7, 9, 3], 4)])
    assert batch_token_counts(batch).tolist() == [2, 3 + 4, 3, 8, 0, 3, 0]


def test_entropy_and_hits_by_hand():
    """One position is torn between two tokens, and another is three quarters sure of the right one."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    entropy, hits = score_labels(logits, torch.tensor([1, 0]))
    expected = math.log(2) - 0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert entropy.item() == pytest.approx(expected)
    assert hits == 1


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_sums_over_batches_start_again_after_they_are_read(accelerator):
    """Two batches with 4 and 3 labels, whose mean losses are 2 and 1."""
    statistics = StepStatistics()
    assert statistics.reduce(accelerator) is None
    padded = pad_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 9, 7], 2), plain([5, 6, 7, 9, 3], 4)], 0)
    packed = pack_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 6, 7, 9, 3], 4)])
    # Logits that are equal for all ten tokens: an entropy of ln 10, and the first token is taken for the largest.
    statistics.add(padded, torch.tensor(2.0), 0, torch.zeros(4, 10))
    statistics.add(packed, torch.tensor(1.0), 1, torch.zeros(3, 10))
    sums = statistics.reduce(accelerator)
    assert sums == pytest.approx(BatchSums(5, 16, 10, 23, 2, 7, 0, 11.0, 0.0, 7, 7 * math.log(10), 0))
    assert sums.batch_metrics() == pytest.approx(
        {"prompt_tokens": 16 / 5, "positions_per_example": 23 / 5, "padding_share": 2 / 23}
    )
    assert sums.prediction_metrics() == pytest.approx({"entropy": math.log(10), "mean_token_accuracy": 0.0})
    assert statistics.reduce(accelerator) is None


def test_tokens_are_counted_on_their_own(accelerator):
    """A log entry does not reset them; batches without logits are counted by SFTTrainer."""
    statistics = StepStatistics()
    batch = pad_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 9, 7], 2)], 0)  # 8 tokens and 2 positions of padding
    statistics.add(batch, torch.tensor(2.0), 0, torch.zeros(3, 10))
    statistics.add(batch, torch.tensor(2.0), 0)
    statistics.reduce(accelerator)
    statistics.add(batch, torch.tensor(2.0), 1, torch.zeros(3, 10))
    assert statistics.take_tokens(accelerator) == 16
    assert statistics.take_tokens(accelerator) == 0
    assert statistics.reduce(accelerator).scored_labels == 3


def test_the_first_loss_that_is_no_number_is_kept():
    statistics = StepStatistics()
    batch = pad_histories([plain([5, 6, 9], 2)], 0)
    assert statistics.first_bad_loss() is None
    for step, loss in enumerate((1.0, math.inf, math.nan)):
        statistics.add(batch, torch.tensor(loss), step)
    assert statistics.first_bad_loss() == (1, math.inf)


def test_a_batch_without_labels_adds_no_loss(accelerator):
    statistics = StepStatistics()
    statistics.add(pad_histories([plain([5, 6, 9], 3)], 0), torch.tensor(math.nan), 0)
    statistics.add(pad_histories([plain([5, 6, 9], 2)], 0), torch.tensor(2.0), 0)
    sums = statistics.reduce(accelerator)
    assert (sums.loss, sums.labels) == (2.0, 1)


def with_items(history, targets, ends):
    """A history whose items end at `ends`, each of which predicts one of `targets`."""
    numbers = np.arange(len(ends))
    return replace(
        history, items=numbers, item_ends=np.array(ends), item_targets=np.array(targets), items_before=numbers + 1
    )


@pytest.mark.parametrize("pack", [False, True])
def test_item_targets_are_counted(pack):
    """Where only items are predicted, each target is a history of the length that it reads. -100 is no target."""
    histories = [
        with_items(plain([5, 6, 9, 8], 4), [7, 3], [1, 3]),
        with_items(plain([5, 2], 2), [4], [1]),
        with_items(plain([5, 3], 2), [-100], [1]),
    ]
    batch = pack_histories(histories) if pack else pad_histories(histories, 0)
    counts = batch_token_counts(batch).tolist()
    # 5 stands once in a packed batch: 5 6 9 8, 2 and 3. A padded one has 3 · 4 positions.
    assert counts == [3, 2 + 4 + 2, 2 + 2, *((6, 0) if pack else (12, 4)), 0, 3]


@pytest.mark.parametrize("pack", [False, True])
def test_labels_and_item_targets_are_counted(pack):
    """With titles, a history is what stands before its title."""
    histories = [with_items(plain([5, 6, 9, 1, 2], 3), [7], [1]), with_items(plain([5, 9, 7], 2), [4], [0])]
    batch = pack_histories(histories) if pack else pad_histories(histories, 0)
    assert batch_token_counts(batch).tolist() == [2, 3 + 2, 3, *((7, 0) if pack else (10, 2)), 3, 2]


def test_the_two_losses_are_summed_apart(accelerator):
    """Of 3 labels and 2 item targets with mean losses 1 and 0.5, and of 2 item targets alone with mean loss 2."""
    statistics = StepStatistics()
    both = [with_items(plain([5, 6, 9, 1, 2], 3), [7], [1]), with_items(plain([5, 9, 7], 2), [4], [0])]
    statistics.add(pad_histories(both, 0), torch.tensor(1.5), 0, torch.zeros(3, 10), torch.tensor(0.5))
    items = [with_items(plain([5, 6, 9], 3), [7, 3], [1, 2]), with_items(plain([5, 6], 2), [-100], [1])]
    statistics.add(pad_histories(items, 0), torch.tensor(2.0), 1, item_loss=torch.tensor(2.0))
    assert statistics.take_tokens(accelerator) == 8 + 5
    sums = statistics.reduce(accelerator)
    assert (sums.labels, sums.item_targets) == (3, 4)
    assert (sums.loss, sums.item_loss) == pytest.approx((3.0, 5.0))
    assert sums.mean_loss == pytest.approx(1.0 + 1.25)
