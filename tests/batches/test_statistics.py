"""What a batch feeds, and how sure a model is of its labels."""

import math

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
    assert batch_token_counts(batch).tolist() == [3, 3 + 2 + 4, 3 + 4, 15, 2, 4]


def test_what_a_packed_batch_feeds():
    """The two prompts share their first two tokens, which are read once but count for both."""
    batch = pack_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 6, 7, 9, 3], 4)])
    assert batch_token_counts(batch).tolist() == [2, 3 + 4, 3, 8, 0, 3]


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
    batches = [
        pad_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 9, 7], 2), plain([5, 6, 7, 9, 3], 4)], 0),
        pack_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 6, 7, 9, 3], 4)]),
    ]
    for step, (batch, loss) in enumerate(zip(batches, (2.0, 1.0), strict=True)):
        statistics.add(batch, torch.tensor(loss), step)
    statistics.add_predictions(torch.zeros(7, 2), torch.zeros(7, dtype=torch.int64))
    assert statistics.num_tokens(accelerator) == 13 + 8
    sums = statistics.reduce(accelerator)
    entropy = 7 * math.log(2)
    assert sums == pytest.approx(BatchSums(5, 16, 10, 23, 2, 7, 11.0, 7, entropy, 7))
    assert statistics.reduce(accelerator) is None
    assert statistics.num_tokens(accelerator) == 0


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
