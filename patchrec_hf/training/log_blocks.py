"""Log blocks: shows a run's progress as one bar, and each log entry as a few lines that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments


_WIDTH = 110
# Entries that the first line of a block shows, or that nobody reads.
_HIDDEN = ("epoch", "total_flos")


def format_block(logs: Mapping[str, Any], state: TrainerState) -> str:
    """
    Formats a log entry as a block of lines.

    Args:
        logs (`Mapping[str, Any]`):
            The entry.
        state ([`~transformers.TrainerState`]):
            The trainer's state.
    """
    shown = {name: value for name, value in logs.items() if name not in _HIDDEN}
    values = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()
    ]
    head = f"step {state.global_step} of {state.max_steps}, epoch {logs.get('epoch', state.epoch or 0.0):.2f}"
    indent = "  "
    lines = fill(
        "  ".join(values),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{head}\n{lines}"


class BlockProgress(ProgressCallback):
    """A bar of the optimizer steps, with log entries as blocks above it. Evaluations show their own bar of targets."""

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Shows no bar: the ranking that follows takes longer, and shows one."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs:
            self.training_bar.write(format_block(logs, state))


class BlockPrinter(PrinterCallback):
    """Prints log entries as blocks while a run trains."""

    def __init__(self) -> None:
        self.is_training = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_training = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_training = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.is_training and state.is_world_process_zero and logs:
            print(format_block(logs, state), flush=True)


def show_blocks(trainer: Trainer) -> None:
    """Replaces the callback by which a trainer shows its progress. Callbacks of other classes stay as they are."""
    for shown, replacement in ((ProgressCallback, BlockProgress), (PrinterCallback, BlockPrinter)):
        for callback in trainer.callback_handler.callbacks:
            if type(callback) is shown:
                trainer.remove_callback(callback)
                trainer.add_callback(replacement())
                return
