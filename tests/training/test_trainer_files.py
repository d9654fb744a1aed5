"""Files that a trainer saves: models that recommend, whole checkpoints, and cards."""

import math
from pathlib import Path

import pytest
import torch
from conftest import TITLES
from item_parts import item_processor
from tiers import first_fast
from trainer_parts import as_stream, logged
from transformers import TrainerCallback

from patchrec_hf import (
    PatchRecForCausalLM,
    PatchRecommender,
    last_checkpoint,
)
from patchrec_hf.hub.model_card import write_results


class SavesLate(TrainerCallback):
    """Decides to save after all other callbacks have seen the step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_log = True


def test_saved_checkpoint_recommends(make_trainer, tmp_path):
    trainer = make_trainer("finetune", max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    recommender = PatchRecommender.from_pretrained(tmp_path / "final")
    expected = PatchRecommender(trainer.model, trainer.processing_class).recommend([10, 11], k=3)
    recommended = recommender.recommend([10, 11], k=3)
    assert [item.item_id for item in recommended] == [item.item_id for item in expected]
    assert [item.score for item in recommended] == pytest.approx([item.score for item in expected])


@pytest.mark.slow
def test_model_card(make_trainer, rows, tmp_path):
    trainer = make_trainer("finetune", eval_dataset=rows, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.create_model_card(model_name="my-recommender")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "my-recommender" in card
    assert "ItemPatchLayout(num_text_items=2)" in card
    assert "| hr@5 |" in card


@pytest.mark.slow
def test_the_card_stands_beside_the_model(make_trainer, rows, tmp_path, monkeypatch):
    """Its snippet loads the directory that it stands in, and its table holds what was measured."""
    monkeypatch.chdir(tmp_path)
    settings = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer("finetune", eval_dataset=rows, output_dir="run", **settings)
    trainer.train()
    trainer.save_model("final")
    assert not Path("run/README.md").exists()  # the directory of checkpoints holds no model
    for directory in ("final", "run/checkpoint-1"):
        card = Path(directory, "README.md").read_text()
        assert f"from_pretrained({directory!r})".replace("'", '"') in card
        assert "| hr@5 |" in card
        assert PatchRecommender.from_pretrained(directory).recommend([10, 11], k=1)
    write_results("final", {"hr@5": 0.25}, "Twelve Books")
    card = Path("final/README.md").read_text()
    assert "| hr@5 | 0.2500 |" in card
    assert card.count("hr@5") == 2  # the table and the metadata
    assert "Twelve Books" in card


@pytest.mark.slow
def test_the_card_shows_the_metrics_of_the_best_model(make_trainer, rows, tmp_path):
    """The last evaluation is worse here, so the trainer saves the weights of the first one."""
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(
        "finetune", eval_dataset=rows, load_best_model_at_end=True, metric_for_best_model="loss",
        greater_is_better=True, learning_rate=1e-2, **settings,
    )  # fmt: skip
    trainer.train()
    first, last = (entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert trainer.state.best_global_step == 2
    assert first > last
    trainer.save_model(str(tmp_path / "final"))
    card = (tmp_path / "final" / "README.md").read_text()
    assert f"| loss | {first:.4f} |" in card
    assert "after step 2" in card
    assert f"| loss | {last:.4f} |" in (tmp_path / "run" / "checkpoint-4" / "README.md").read_text()


@pytest.mark.slow
def test_the_card_shows_each_evaluation_set(make_trainer, rows, tmp_path):
    sets = {"few": rows.select(range(4)), "all": rows}
    trainer = make_trainer("finetune", eval_dataset=sets, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    card = (tmp_path / "final" / "README.md").read_text()
    for name in sets:
        (loss,) = logged(trainer, f"eval_{name}_loss")
        assert f"### {name}\n\n| metric | value |\n|---|---|\n| loss | {loss:.4f} |\n" in card
    assert "Not evaluated" not in card


def test_the_card_of_a_model_trained_on_a_stream(make_trainer, rows, tmp_path):
    trainer = make_trainer(train_dataset=as_stream(rows), max_steps=1)
    trainer.train()
    trainer.create_model_card()
    assert "PatchRec pre-training" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("settings", first_fast([{"logging_steps": 100}, {"logging_steps": 100, "save_steps": 2}]))
def test_a_loss_that_is_no_number_is_never_saved(make_trainer, tmp_path, settings):
    """It is found at the next log entry, save or end of an epoch, and the message names the step it began at."""
    trainer = make_trainer("finetune", save_strategy="steps", **{"save_steps": 100} | settings)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[:] = math.nan
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        trainer.train()
    assert trainer.state.global_step <= 4
    assert last_checkpoint(tmp_path / "run") is None


def test_a_callback_that_is_added_later_saves_no_bad_model(make_trainer, tmp_path):
    trainer = make_trainer("finetune", logging_steps=100)
    trainer.add_callback(SavesLate())
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[:] = math.nan
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        trainer.train()
    assert last_checkpoint(tmp_path / "run") is None


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["best", "late"])
def test_a_checkpoint_that_is_written_again_is_not_whole_meanwhile(
    make_trainer, rows, tmp_path, monkeypatch, strategy
):
    """No save strategy leaves an old mark on a checkpoint that is being rewritten."""
    settings = {"max_steps": 2, "eval_dataset": rows, "eval_ks": []}
    if strategy == "best":
        settings |= {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 2}
        settings |= {"metric_for_best_model": "loss", "greater_is_better": False}
    seen, save = [], PatchRecForCausalLM.save_pretrained

    def noted(model, *args, **kwargs):
        seen.append(last_checkpoint(tmp_path / "run"))
        save(model, *args, **kwargs)

    monkeypatch.setattr(PatchRecForCausalLM, "save_pretrained", noted)
    for _ in range(2):
        trainer = make_trainer("finetune", **settings)
        if strategy == "late":
            trainer.add_callback(SavesLate())
        trainer.train()
    first, last = (str(tmp_path / "run" / f"checkpoint-{step}") for step in (1, 2))
    # While checkpoint-2 is written again, checkpoint-1 is the last whole one, if there is one.
    assert seen == ([None, None] if strategy == "best" else [None, first, last, first])
    assert last_checkpoint(tmp_path / "run") == last
    trainer.evaluate()
    assert last_checkpoint(tmp_path / "run") == last


@pytest.mark.slow
def test_a_saved_item_checkpoint_recommends_by_items(make_trainer, processor, tmp_path):
    trainer = make_trainer("finetune", processing_class=item_processor(processor), objective="item")
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    expected = PatchRecommender(trainer.model, trainer.processing_class).recommend([10, 11, 12], k=5)
    again = PatchRecommender.from_pretrained(tmp_path / "final")
    assert again.model.item_head.item_ids.tolist() == list(TITLES)
    for arguments in ({}, {"method": "item"}):
        found = again.recommend([10, 11, 12], k=5, **arguments)
        assert [item.item_id for item in found] == [item.item_id for item in expected]
        assert [item.score for item in found] == pytest.approx([item.score for item in expected], rel=1e-5)
    assert again.recommend([10, 11, 12], k=5, method="exact")[0].score < 0 < expected[0].score
