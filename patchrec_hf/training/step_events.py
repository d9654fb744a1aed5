"""Events of a training step: where a resumed stream starts, and that no step with a bad loss is saved."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..batches.sampling import ScheduledStream
from ..batches.statistics import StepStatistics


class StepEvents(TrainerCallback):
    """
    Sets a stream to the step at which a resumed run starts, and raises before a step with a bad loss is saved.

    Args:
        stream ([`ScheduledStream`], *optional*):
            The trainer's stream, if its rows are streamed.
        statistics ([`StepStatistics`]):
            The trainer's statistics of training.
    """

    def __init__(self, stream: ScheduledStream | None, statistics: StepStatistics) -> None:
        self.stream = stream
        self.statistics = statistics

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stream is not None:
            self.stream.first_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The check waits for the device, so it runs only where Trainer waits anyway.
        if control.should_log or control.should_save or control.should_evaluate:
            self._check_loss(args)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check_loss(args)

    def _check_loss(self, args: TrainingArguments) -> None:
        bad = self.statistics.first_bad_loss()
        if bad is not None:
            raise FloatingPointError(
                f"The loss is {bad[1]} at step {bad[0]}. Lower `learning_rate` (now {args.learning_rate}), keep "
                "gradient clipping on, or train in bf16 or float32 instead of fp16. Then resume from the last "
                "checkpoint, which was written before this step."
            )
