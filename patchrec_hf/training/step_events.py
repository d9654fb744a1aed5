"""Events of a training run: where a resumed stream starts, and that a finished run does nothing more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..batches.sampling import ScheduledStream
from ..batches.statistics import StepStatistics


class StepEvents(TrainerCallback):
    """
    Sets a stream to the step at which a resumed run starts. An epoch without a step, as when a finished run is
    resumed, saves, evaluates and logs nothing. An epoch whose loss is not finite raises.

    Args:
        stream ([`ScheduledStream`], *optional*):
            The trainer's stream, if its rows are streamed.
        statistics ([`StepStatistics`]):
            The trainer's statistics of training.
        count_tokens (`Callable[[], int]`):
            Brings the trainer's count of tokens up to date. It is called before a save, on every process.
    """

    def __init__(
        self, stream: ScheduledStream | None, statistics: StepStatistics, count_tokens: Callable[[], int]
    ) -> None:
        self.stream = stream
        self.statistics = statistics
        self.count_tokens = count_tokens
        self._first_step = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first_step = state.global_step
        if self.stream is not None:
            self.stream.first_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save:  # the model card of the checkpoint shows the count
            self.count_tokens()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        check_loss(self.statistics, args.learning_rate)
        if state.global_step == self._first_step:
            control.should_save = control.should_evaluate = control.should_log = False


def check_loss(statistics: StepStatistics, learning_rate: float) -> None:
    """
    Checks the losses since the last log entry. Waits for the device.

    Args:
        statistics ([`StepStatistics`]):
            The trainer's statistics of training.
        learning_rate (`float`):
            For the message.

    Raises:
        FloatingPointError: If a loss was NaN or infinite on this process.
    """
    bad = statistics.first_bad_loss()
    if bad is not None:
        raise FloatingPointError(
            f"The loss is {bad[1]} at step {bad[0]}. Lower `learning_rate` (now {learning_rate}), keep "
            "gradient clipping on, or train in bf16 or float32 instead of fp16. Then resume from the last "
            "checkpoint, which was written before this step."
        )
