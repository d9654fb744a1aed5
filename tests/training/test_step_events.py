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
    events = StepEvents(stream, StepStatistics(), int)
    events.on_epoch_begin(args, TrainerState(global_step=4), TrainerControl())
    assert stream.first_step == 4


def test_a_bad_loss_is_raised_at_the_end_of_an_epoch(args):
    events, state = StepEvents(None, bad_statistics(), int), TrainerState(global_step=2)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 1. Lower `learning_rate`"):
        events.on_epoch_end(args, state, TrainerControl())


def test_tokens_are_counted_before_a_save(args):
    calls = []
    events = StepEvents(None, StepStatistics(), lambda: calls.append("counted"))
    events.on_step_end(args, TrainerState(), TrainerControl())
    assert calls == []
    events.on_step_end(args, TrainerState(), TrainerControl(should_save=True))
    assert calls == ["counted"]


def test_an_epoch_without_a_step_keeps_nothing(args):
    events, control = StepEvents(None, StepStatistics(), int), TrainerControl(True, True, True, True, True)
    events.on_epoch_begin(args, TrainerState(global_step=4), control)
    events.on_epoch_end(args, TrainerState(global_step=5), control)
    assert control.should_save
    events.on_epoch_end(args, TrainerState(global_step=4), control)
    assert (control.should_save, control.should_evaluate, control.should_log) == (False, False, False)
