"""A killed run loses no checkpoint. A run refuses checkpoints of other runs."""

import json
import multiprocessing
import random
import signal
from dataclasses import dataclass
from typing import ClassVar

import interrupted_run
import pytest
from safetensors.torch import load_file
from tiers import first_fast
from trainer_parts import STAGES

from patchrec_hf import Catalog, PatchFinetuneConfig, PatchFinetuneTrainer, PatchRecForCausalLM, SessionPatchLayout
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.training.checkpoints import (
    RUN_NAME,
    check_resumable,
    delete_old_checkpoints,
    found_batch_size,
    last_checkpoint,
    mark_whole,
    unmark,
)


NUM_KILLS = 20


@dataclass(frozen=True)
class LatestOnly:
    num_items: int
    name: ClassVar[str] = "latest only"

    def __call__(self, num_items, seed=()):
        return [Segment("text", num_items - min(num_items, self.num_items), num_items)]


@pytest.mark.slow
def test_killed_twenty_times_training_ends_as_if_it_had_not_been(tmp_path):
    # The server has imported what takes long; each run is a fork of it.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["patchrec_hf.training.trainers", "patchrec_hf.tiny"])

    def run(*args):
        process = processes.Process(target=interrupted_run.train, args=args)
        process.start()
        process.join()
        return process.exitcode

    assert run(tmp_path / "unbroken") == 0
    chance, places = random.Random(0), []
    for _ in range(NUM_KILLS):
        exitcode = run(tmp_path / "broken", chance.randrange(3), chance.uniform(0, 0.06))
        assert exitcode == -signal.SIGKILL
        places.append(last_checkpoint(tmp_path / "broken"))
    assert run(tmp_path / "broken") == 0

    assert len(set(places)) > NUM_KILLS // 3  # it went on in between
    broken, unbroken = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("broken", "unbroken"))
    assert broken == unbroken
    assert len(unbroken) == interrupted_run.NUM_STEPS
    one, other = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("broken", "unbroken"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_half_written_checkpoints_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None
    for step in (5, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) is None
    for step in (5, 10):
        mark_whole(tmp_path / f"checkpoint-{step}", {})
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    unmark(tmp_path / "checkpoint-10")
    unmark(tmp_path / "checkpoint-20")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [5, 10, 12, 15, 20, 30]),
        (1, None, [12, 15]),
        (2, None, [12, 15, 30]),
        (1, 5, [5, 12, 15]),
        (3, 5, [5, 12, 15, 30]),
        (9, None, [5, 10, 12, 15, 30]),
    ],
)
def test_what_is_deleted(tmp_path, limit, best, left):
    """
    The latest and the best checkpoint stay. Unfinished checkpoints (20) are deleted. Directories that this library did
    not mark (12) stay.
    """
    (tmp_path / "checkpoint-12").mkdir()
    for step in (5, 10, 15, 20, 30):
        unmark(tmp_path / f"checkpoint-{step}")
        if step != 20:
            mark_whole(tmp_path / f"checkpoint-{step}", {})
    (tmp_path / "checkpoint-best").mkdir()  # somebody's own
    latest, best = str(tmp_path / "checkpoint-15"), best and str(tmp_path / f"checkpoint-{best}")
    delete_old_checkpoints(tmp_path, limit, latest, best)
    found = sorted(int(path.name.rpartition("-")[2]) for path in tmp_path.glob("checkpoint-[0-9]*"))
    assert found == left
    assert (tmp_path / "checkpoint-best").exists()


@pytest.mark.slow
def test_a_checkpoint_is_marked_when_it_is_whole(tmp_path, monkeypatch):
    """An older one goes only then; and one that is written again is not whole meanwhile."""
    trainer = interrupted_run.make_trainer(tmp_path)
    trainer.args.max_steps = 2
    seen = []
    save = PatchRecForCausalLM.save_pretrained
    monkeypatch.setattr(
        PatchRecForCausalLM,
        "save_pretrained",
        lambda self, *args, **kwargs: (seen.append(last_checkpoint(tmp_path)), save(self, *args, **kwargs)),
    )
    trainer.train()
    assert seen == [None, str(tmp_path / "checkpoint-1")]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    # Another run writes both checkpoints again.
    again = interrupted_run.make_trainer(tmp_path)
    again.args.max_steps = 2
    again.train()
    assert seen[2:] == [str(tmp_path / "checkpoint-2"), str(tmp_path / "checkpoint-1")]
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_model_alone_is_no_checkpoint_to_go_on_from(tmp_path):
    trainer = interrupted_run.make_trainer(tmp_path)
    trainer.args.max_steps, trainer.args.save_only_model = 1, True
    trainer.train()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").exists()
    assert last_checkpoint(tmp_path) is None


def test_checkpoints_hold_no_pickled_arguments(tmp_path):
    trainer = interrupted_run.make_trainer(tmp_path)
    trainer.args.max_steps = 1
    trainer.train()
    trainer.save_model()
    assert not list(tmp_path.rglob("training_args.bin"))
    assert {path.suffix for path in tmp_path.glob("*")} <= {".safetensors", ".json", ".jinja", ".parquet", ".md", ""}


@pytest.fixture
def run(tmp_path):
    """A trainer that has written a checkpoint."""
    trainer = interrupted_run.make_trainer(tmp_path)
    trainer.args.max_steps = 1
    trainer.train()
    return trainer


def change(trainer, **settings):
    for name, value in settings.items():
        setattr(trainer.args, name, value)


def test_resuming_by_true_takes_the_last_whole_checkpoint(run, tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    trainer = interrupted_run.make_trainer(tmp_path)
    trainer.args.max_steps = 1
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 1
    unmark(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*last_checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"checkpoint-7 is not a whole checkpoint.*patchrec_run.json"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


@pytest.mark.parametrize(
    ("settings", "message"),
    first_fast(
        [
            ({"seed": 1}, "seed: old 42, new 1"),
            ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps: old 1, new 3"),
            ({"max_steps": 5}, "max_steps: old 1, new 5"),
            ({"num_train_epochs": 5}, "num_train_epochs: old 1.0, new 5"),
        ]
    ),
)
def test_other_settings(run, settings, message):
    change(run, **settings)
    with pytest.raises(ValueError, match=rf"Cannot resume from .* these settings differ: {message}"):
        run.train(resume_from_checkpoint=True)


def test_other_rows_layouts_and_catalogs(run, tmp_path):
    checkpoint, processor = tmp_path / "checkpoint-1", run.processing_class
    facts = run._run_facts()
    assert check_resumable(checkpoint, facts, processor)["num_tokens"] > 0
    with pytest.raises(ValueError, match="training rows: old 14, new 13"):
        check_resumable(checkpoint, {**facts, "training rows": 13}, processor)
    with pytest.raises(ValueError, match="number of processes: old None, new 2"):
        check_resumable(checkpoint, {**facts, "number of processes": 2}, processor)
    with pytest.raises(ValueError, match="twin: old 'compressed', new 'dropped'"):
        check_resumable(checkpoint, {**facts, "twin": "dropped"}, processor)
    with pytest.raises(ValueError, match=r"layout: old \{'name': 'item', .*, new \{'name': 'session'"):
        check_resumable(checkpoint, facts, processor.with_layout(SessionPatchLayout()))
    with pytest.raises(ValueError, match=r"the catalog \(old 12 items, new 13 items\)"):
        check_resumable(checkpoint, facts, processor.with_catalog(processor.catalog.with_items({99: "New"})))
    renamed = Catalog(processor.catalog.item_ids, ("Emmeline", *processor.catalog.titles[1:]))
    with pytest.raises(ValueError, match="the catalog"):
        check_resumable(checkpoint, facts, processor.with_catalog(renamed))
    values = json.loads((checkpoint / "processor_config.json").read_text())
    values["prompt"]["suffix_ids"].append(3)
    (checkpoint / "processor_config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="the prompt's tokens"):
        check_resumable(checkpoint, facts, processor)


def test_a_checkpoint_that_does_not_say_how_titles_were_learned(run, tmp_path):
    """As those of earlier versions, which knew the loss over the vocabulary only."""
    path, facts = tmp_path / "checkpoint-1" / "patchrec_run.json", run._run_facts()
    written = json.loads(path.read_text())
    assert written.pop("title_normalizer") == facts["title_normalizer"] == "vocabulary"
    assert written.pop("title_temperature") == facts["title_temperature"] == 1.0
    path.write_text(json.dumps(written))
    check_resumable(path.parent, facts, run.processing_class)
    changed = {**facts, "title_normalizer": "catalog", "title_temperature": 1.5}
    with pytest.raises(ValueError, match=r"old 'vocabulary', new 'catalog'; title_temperature: old 1\.0, new 1\.5"):
        check_resumable(path.parent, changed, run.processing_class)


def test_other_rows_of_the_same_number(run):
    run.train_dataset = run.train_dataset.map(lambda row: {"item_ids": row["item_ids"][::-1]})
    with pytest.raises(ValueError, match=r"checksum of some training rows: old \d+, new \d+"):
        run.train(resume_from_checkpoint=True)


def test_a_run_with_a_layout_of_ones_own_goes_on(run, tmp_path):
    facts, processor = run._run_facts(), run.processing_class.with_layout(LatestOnly(2))
    processor.save_pretrained(tmp_path / "checkpoint-1")
    assert check_resumable(tmp_path / "checkpoint-1", facts, processor)["num_tokens"] > 0
    with pytest.raises(ValueError, match=r"layout: old .*'num_items': 2\}, new .*'num_items': 3\}"):
        check_resumable(tmp_path / "checkpoint-1", facts, processor.with_layout(LatestOnly(3)))


def test_models_only_are_kept_beside_checkpoints(tmp_path):
    trainer = interrupted_run.make_trainer(tmp_path)
    trainer.args.max_steps, trainer.args.save_only_model = 2, True
    trainer.train()
    (kept,) = tmp_path.glob("checkpoint-*")  # of the last step, as the limit is 1
    assert not list(kept.glob("patchrec_*"))
    unmark(tmp_path / "checkpoint-7")
    mark_whole(tmp_path / "checkpoint-7", {})
    delete_old_checkpoints(tmp_path, 1, str(tmp_path / "checkpoint-7"))
    assert kept.is_dir()


def test_the_mark_is_written_at_once(tmp_path):
    mark_whole(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == [RUN_NAME]


@pytest.mark.slow
def test_changed_settings_of_the_optimizer_are_named_once(make_trainer, tmp_path, caplog):
    """The optimizer's saved state holds them, so a resumed run keeps the old ones."""
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_ks": []}
    make_trainer("finetune", max_steps=2, **settings).train()
    make_trainer("finetune", max_steps=3, **settings).train(resume_from_checkpoint=True)
    assert "have no effect" not in caplog.text
    trainer = make_trainer("finetune", max_steps=4, **settings, learning_rate=0.5, weight_decay=0.3)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    (message,) = [record.message for record in caplog.records if "have no effect" in record.message]
    assert "learning_rate: old 0.01, new 0.5; weight_decay: old 0.0, new 0.3. To train" in message
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.01


def test_a_run_that_has_found_its_batch_size_goes_on_with_it(make_trainer, tmp_path, monkeypatch):
    """The same script resumes it, although it asks for more rows than fit."""

    class Full(PatchFinetuneTrainer):
        def training_step(self, *args, **kwargs):
            if self._train_batch_size > 4:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(*args, **kwargs)

    monkeypatch.setitem(STAGES, "finetune", (Full, PatchFinetuneConfig))
    settings = {"per_device_train_batch_size": 5, "save_strategy": "steps", "save_steps": 4}
    began = make_trainer("finetune", max_steps=4, auto_find_batch_size=True, **settings)
    began.train()
    assert found_batch_size(tmp_path / "run" / "checkpoint-4") == 4
    resumed = make_trainer("finetune", max_steps=8, auto_find_batch_size=True, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert (resumed.state.global_step, resumed._train_batch_size) == (8, 4)
    with pytest.raises(ValueError, match="rows per forward of all processes: old 4, new 5"):
        make_trainer("finetune", max_steps=8, **settings).train(resume_from_checkpoint=True)
    assert found_batch_size(tmp_path) is None
