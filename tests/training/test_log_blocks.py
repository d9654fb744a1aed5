"""A run shows one bar, and log entries that can be read."""

import io
import sys

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerState
from transformers.utils import logging

from patchrec_hf import PatchFinetuneConfig
from patchrec_hf.training.log_blocks import BlockPrinter, BlockProgress, format_block


def test_a_block_by_hand():
    state = TrainerState(global_step=5, max_steps=20, epoch=0.25)
    block = format_block({"loss": 2.345678, "num_tokens": 12, "epoch": 0.25, "total_flos": 3.0}, state)
    assert block == "step 5 of 20, epoch 0.25\n  loss=2.346  num_tokens=12"
    long = format_block({f"a_long_name_{number}": 1.0 for number in range(20)}, state)
    assert len(long.splitlines()) == 5
    assert all(len(line) <= 110 for line in long.splitlines())
    assert all(value.endswith("=1") for value in long.split()[6:])  # no name is torn from its value


@pytest.mark.parametrize(("disable_tqdm", "expected"), [(True, BlockPrinter), (False, BlockProgress)])
def test_the_trainer_shows_blocks(make_trainer, disable_tqdm, expected):
    callbacks = make_trainer("finetune", disable_tqdm=disable_tqdm).callback_handler.callbacks
    assert [type(one) for one in callbacks if isinstance(one, PrinterCallback | ProgressCallback)] == [expected]


@pytest.mark.slow
def test_a_run_whose_output_is_a_file(make_trainer, rows, monkeypatch, capsys):
    """No line is overwritten, and an evaluation is one block too."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    settings = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer("finetune", eval_dataset=rows, disable_tqdm=None, **settings)
    trainer.train()
    shown = capsys.readouterr().out
    assert "\r" not in shown + stream.getvalue()
    assert shown.count("step 2 of 2, epoch 0.50\n") == 3  # the step, the evaluation, and the end of the run
    assert "{" not in shown
    trainer.evaluate()
    assert capsys.readouterr().out == ""  # `evaluate` returns what it has measured


def test_bars_are_on_at_a_terminal_only(monkeypatch, tmp_path):
    logging.set_verbosity_warning()
    assert PatchFinetuneConfig(str(tmp_path), use_cpu=True).disable_tqdm
    monkeypatch.setattr("patchrec_hf.training.arguments.shows_bars", lambda: True)
    assert not PatchFinetuneConfig(str(tmp_path), use_cpu=True).disable_tqdm
    assert PatchFinetuneConfig(str(tmp_path), use_cpu=True, disable_tqdm=True).disable_tqdm
