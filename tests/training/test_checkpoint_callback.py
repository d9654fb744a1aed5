"""Checkpoints that any Trainer keeps whole: marked, rotated and pushed in this order."""

from concurrent.futures import Future
from threading import Timer

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from patchrec_hf import CheckpointCallback, last_checkpoint
from patchrec_hf.training import checkpoint_callback
from patchrec_hf.training.checkpoints import RUN_NAME


class Line(nn.Module):
    """A model that knows nothing of this library."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        predicted = self.slope * x
        return {"loss": ((predicted - labels) ** 2).mean(), "logits": predicted}


ROWS = Dataset.from_list([{"x": float(i), "labels": 2.0 * i} for i in range(4)]).with_format("torch")


class Events(TrainerCallback):
    """Notes which checkpoint is the last whole one, at each event."""

    def __init__(self, directory):
        self.directory = directory
        self.seen = []

    def note(self, event):
        last = last_checkpoint(self.directory)
        self.seen.append((event, last and int(last.rpartition("-")[2])))

    def on_step_begin(self, args, state, control, **kwargs):
        self.note("step")

    def on_push_begin(self, args, state, control, **kwargs):
        self.note("push")


def make_trainer(directory, callbacks=(), limit=None, strategy="end", get_facts=dict, **settings):
    args = TrainingArguments(
        str(directory),
        **{
            "use_cpu": True,
            "max_steps": 3,
            "save_strategy": "steps",
            "save_steps": 1,
            "per_device_train_batch_size": 2,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        | settings,
    )
    trainer = Trainer(Line(), args, train_dataset=ROWS, eval_dataset=ROWS, callbacks=list(callbacks))
    trainer.add_callback(CheckpointCallback(trainer, limit, strategy, get_facts))
    return trainer


def checkpoints(directory):
    return sorted(path.name for path in directory.glob("checkpoint-*"))


def test_a_plain_trainer_gets_whole_checkpoints(tmp_path):
    events = Events(tmp_path)
    make_trainer(tmp_path, [events], limit=1, get_facts=lambda: {"rows": 4}).train()
    assert events.seen == [("step", None), ("step", 1), ("step", 2)]
    assert checkpoints(tmp_path) == ["checkpoint-3"]
    assert (tmp_path / "checkpoint-3" / RUN_NAME).read_text() == '{\n  "rows": 4\n}'


def test_a_plain_trainer_resumes_from_the_last_whole_checkpoint(tmp_path):
    make_trainer(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / RUN_NAME).unlink()
    trainer = make_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=last_checkpoint(tmp_path))
    assert trainer.state.global_step == 3
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")


def test_a_checkpoint_that_is_written_again_is_not_whole_meanwhile(tmp_path, monkeypatch):
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}
    settings |= {"metric_for_best_model": "loss", "greater_is_better": False, "learning_rate": 0.01}
    make_trainer(tmp_path, **settings).train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    seen = []
    save = Trainer.save_model

    def noted(trainer, *args, **kwargs):
        seen.append(checkpoints_marked(tmp_path))
        save(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_model", noted)
    make_trainer(tmp_path, **settings).train()
    assert seen == [["checkpoint-4"], ["checkpoint-2"]]
    assert checkpoints_marked(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def checkpoints_marked(directory):
    return sorted(path.parent.name for path in directory.glob(f"checkpoint-*/{RUN_NAME}"))


@pytest.mark.parametrize("save_only_model", [False, True])
def test_only_the_best_checkpoint_stays_after_training_with_a_limit_of_one(tmp_path, save_only_model):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "loss", "greater_is_better": True, "learning_rate": 0.01}
    trainer = make_trainer(tmp_path, limit=1, save_only_model=save_only_model, **settings)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert checkpoints(tmp_path) == ["checkpoint-1"]


def test_hyperparameter_searches_are_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = trainer.callback_handler.callbacks[-1]
    with pytest.raises(ValueError, match=r"hyperparameter search. Set `save_strategy='no'`"):
        callback.on_train_begin(trainer.args, TrainerState(is_hyper_param_search=True), trainer.control)


@pytest.mark.parametrize(
    "settings", [{"save_total_limit": 2}, {"push_to_hub": True, "hub_strategy": "every_save", "hub_token": "t"}]
)
def test_rotation_and_pushing_by_trainer_itself_are_refused(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self: None)
    with pytest.raises(ValueError, match=r"(limit=2|strategy='every_save')`.*pass it to `CheckpointCallback`"):
        make_trainer(tmp_path, **settings)


class Hub:
    """Stands for `HfApi` and records each upload, which `finish` or, by default, its start completes."""

    def __init__(self):
        self.uploads = []
        self.pending = []
        self.finishes_at_once = True

    def upload_folder(self, folder_path, path_in_repo, commit_message, **kwargs):
        upload = Future()
        self.pending.append(upload)
        if self.finishes_at_once:
            self.finish()
        self.uploads.append((folder_path.name, path_in_repo, commit_message, "*.pt" in kwargs["ignore_patterns"]))
        return upload

    def finish(self):
        while self.pending:
            self.pending.pop().set_result("a commit")


class FinishesLater(TrainerCallback):
    """Finishes all uploads a moment after the end of training, from another thread."""

    def __init__(self, hub):
        self.hub = hub

    def on_train_end(self, args, state, control, **kwargs):
        Timer(0.2, self.hub.finish).start()


@pytest.fixture
def hub(monkeypatch):
    made = Hub()
    monkeypatch.setattr(checkpoint_callback, "HfApi", lambda token: made)
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self: setattr(self, "hub_model_id", "user/name"))
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self, *args, **kwargs: None)
    return made


def pushing(strategy):
    return {"push_to_hub": True, "hub_strategy": "end", "hub_token": "t", "strategy": strategy}


def test_whole_checkpoints_are_pushed(tmp_path, hub):
    """First the model alone, for those who use it; then all of it, to resume from. Callbacks hear of each push."""
    events = Events(tmp_path)
    make_trainer(tmp_path, [events], max_steps=2, **pushing("checkpoint")).train()
    assert hub.uploads == [
        ("checkpoint-1", None, "Training in progress, step 1", True),
        ("checkpoint-1", "last-checkpoint", "Training in progress, step 1", False),
        ("checkpoint-2", None, "Training in progress, step 2", True),
        ("checkpoint-2", "last-checkpoint", "Training in progress, step 2", False),
    ]
    assert [event for event in events.seen if event[0] == "push"] == [("push", 1), ("push", 2)]


def test_pushes_are_named_by_epoch_where_saves_are(tmp_path, hub):
    settings = {"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}
    make_trainer(tmp_path, **settings, **pushing("all_checkpoints")).train()
    assert [upload[1:3] for upload in hub.uploads] == [
        (None, "Training in progress, epoch 1"),
        ("checkpoint-2", "Training in progress, epoch 1"),
        (None, "Training in progress, epoch 2"),
        ("checkpoint-4", "Training in progress, epoch 2"),
    ]


def test_nothing_is_pushed_before_the_end_unless_it_is_asked_for(tmp_path, hub):
    make_trainer(tmp_path, **pushing("end")).train()
    assert hub.uploads == []


def test_a_push_waits_for_the_one_before_it(tmp_path, hub):
    """
    While an upload runs, no other checkpoint is pushed or deleted, unless `hub_always_push` is set. Training ends when
    all uploads have finished.
    """
    hub.finishes_at_once = False
    make_trainer(tmp_path, [FinishesLater(hub)], limit=1, **pushing("every_save")).train()
    assert hub.pending == []
    assert [upload[0] for upload in hub.uploads] == ["checkpoint-1"]
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    hub.uploads.clear()
    make_trainer(tmp_path, [FinishesLater(hub)], limit=1, hub_always_push=True, **pushing("every_save")).train()
    assert hub.pending == []
    assert [upload[0] for upload in hub.uploads] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
