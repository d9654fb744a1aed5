"""A training run that kills itself; `training/test_checkpoints.py` starts it again and again."""

import json
import os
import signal
import threading
from pathlib import Path

import torch
from conftest import ITEM_IDS, TITLES
from datasets import Dataset
from transformers import TrainerCallback

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
)
from patchrec_hf.training.checkpoints import last_checkpoint


NUM_STEPS = 100


class Killer(TrainerCallback):
    """
    Kills the process some time after some steps, wherever it then is: writing a checkpoint, or in the next forward.
    There it stops, however fast it is.
    """

    def __init__(self, num_steps, seconds):
        self.num_steps, self.seconds = num_steps, seconds

    def on_step_end(self, args, state, control, **kwargs):
        if self.num_steps < 0:
            threading.Event().wait()
        if self.num_steps == 0:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        self.num_steps -= 1


def make_trainer(directory, killer=None):
    """Pre-training with dropout, so that p, the order of rows and the random state must all be right."""
    torch.set_num_threads(1)
    catalog = Catalog.from_titles(TITLES)
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    backbone.config.attention_dropout = 0.2
    for layer in backbone.model.layers:
        layer.self_attn.attention_dropout = 0.2
    rows = []
    for user in range(14):
        items = [ITEM_IDS[(user + 5 * place) % 12] for place in range(4 + user % 7)]
        rows.append({"user_id": user, "item_ids": items, "target_positions": [len(items) - 1]})
    args = PatchPretrainConfig(
        str(directory), use_cpu=True, max_steps=NUM_STEPS, per_device_train_batch_size=2, learning_rate=3e-3,
        logging_steps=1, save_strategy="steps", save_steps=1, save_total_limit=1, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    return PatchPretrainTrainer(
        PatchRecForCausalLM.from_backbone(backbone, tokenizer),
        args,
        train_dataset=Dataset.from_list(rows),
        processing_class=PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, ItemPatchLayout(2), max_history=8),
        callbacks=[] if killer is None else [killer],
    )


def train(directory, num_steps=None, seconds=0.0):
    """Goes on from the last whole checkpoint; killed some `seconds` after `num_steps` steps, if they are given."""
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    trainer = make_trainer(directory, None if num_steps is None else Killer(num_steps, seconds))
    trainer.train(resume_from_checkpoint=last_checkpoint(directory))
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    trainer.save_model(str(Path(directory) / "final"))
    (Path(directory) / "losses.json").write_text(json.dumps(losses))
