"""Events of a training step."""

import math

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from trees import plain

from patchrec_hf.batches.sampling import ScheduledStream
from patchrec_hf.batches.statistics import StepStatistics
from patchrec_hf.runtime.encoding import pad_histories
from patchrec_hf.training.step_events import StepEvents


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(str(tmp_path), use_cpu=True)


def bad_statistics():
    statistics = StepStatistics()
    for step, loss in enumerate((1.0, math.nan)):
        statistics.add(pad_histories([plain([5, 6, 9], 2)], 0), torch.tensor(loss), step)
    return statistics


def test_a_stream_starts_at_the_step_of_a_resumed_run(args):
    stream = ScheduledStream(None, 2, 1, 0, 9)
    StepEvents(stream, StepStatistics()).on_epoch_begin(args, TrainerState(global_step=4), TrainerControl())
    assert stream.first_step == 4


@pytest.mark.parametrize("event", ["should_log", "should_save", "should_evaluate"])
def test_a_bad_loss_is_raised_before_anything_is_kept(args, event):
    events, state = StepEvents(None, bad_statistics()), TrainerState(global_step=2)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 1. Lower `learning_rate`"):
        events.on_step_end(args, state, TrainerControl(**{event: True}))
    with pytest.raises(FloatingPointError, match="at step 1"):
        events.on_epoch_end(args, state, TrainerControl())


def test_between_these_events_nothing_waits_for_the_device(args, monkeypatch):
    events = StepEvents(None, bad_statistics())
    monkeypatch.setattr(StepStatistics, "first_bad_loss", lambda self: pytest.fail("it waited"))
    events.on_step_end(args, TrainerState(global_step=2), TrainerControl())
