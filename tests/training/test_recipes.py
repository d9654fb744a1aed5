"""Recipes: prompts, and stages that are trained once, each from the one before it."""

import json

import pytest
from peft import LoraConfig

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecommender,
    PatchRecProcessor,
    build_tiny_backbone,
)
from patchrec_hf.training.recipes import RECIPES, train_recipe, train_stage


@pytest.fixture
def backbone(catalog, tmp_path):
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    return str(tmp_path / "backbone")


def settings(tmp_path, **changes):
    return {
        "output_dir": str(tmp_path / "run"), "use_cpu": True, "max_steps": 2, "logging_steps": 1, "save_steps": 1,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "report_to": "none", "disable_tqdm": True,
        **changes,
    }  # fmt: skip


def test_prompts_by_name_and_by_words():
    paper, all_patch = RECIPES["paper"], RECIPES["all-patch"]
    assert paper.prompt("books") == BOOK_PROMPT
    assert all_patch.prompt("books") == BOOK_PROMPT_INSTRUCTION_FIRST
    assert "chosen {history}. Please" in paper.prompt("items").instruction
    assert all_patch.prompt("items").instruction.endswith("chosen {history}")
    own = paper.prompt("A customer bought {history}. Please name the next product.", "You sell.")
    assert (own.instruction[:10], own.system) == ("A customer", "You sell.")
    assert all_patch.prompt("Name the next product. Bought: {history}.").system is None


def test_wrong_prompts_are_named():
    with pytest.raises(ValueError, match=r"items, books, movies, or an instruction that holds \{history\}.*'buch'"):
        RECIPES["paper"].prompt("buch")
    with pytest.raises(ValueError, match=r"never reads '\. Please name one\.'.*Move \{history\} to the end"):
        RECIPES["all-patch"].prompt("A customer bought {history}. Please name one.")


def test_the_all_patch_recipe_is_the_preset():
    recipe = RECIPES["all-patch"]
    assert recipe.training is ALL_PATCH_PRESET.training
    assert recipe.rows is ALL_PATCH_PRESET.rows
    assert recipe.processor is ALL_PATCH_PRESET.processor
    PatchFinetuneConfig("outputs", use_cpu=True, **recipe.training)


@pytest.mark.slow
def test_each_stage_begins_with_the_result_of_the_last(backbone, processor, rows, tmp_path, monkeypatch, capsys):
    starts = []
    for trainer_class in (PatchPretrainTrainer, PatchFinetuneTrainer):
        init = trainer_class.__init__

        def remember(self, model, *args, init=init, **kwargs):
            starts.append((type(self).__name__, model))
            init(self, model, *args, **kwargs)

        monkeypatch.setattr(trainer_class, "__init__", remember)
    processor = PatchRecProcessor.from_backbone(backbone, processor.catalog, BOOK_PROMPT, max_history=8)
    args = PatchPretrainConfig(**settings(tmp_path))
    final = train_recipe(RECIPES["paper"], backbone, args, rows, processor, peft_config=LoraConfig(r=2))
    pretrained = tmp_path / "run" / "pretrain" / "final"
    assert final == tmp_path / "run" / "final"
    assert starts == [("PatchPretrainTrainer", backbone), ("PatchFinetuneTrainer", pretrained)]
    assert args.output_dir == str(tmp_path / "run")
    for directory in (pretrained, final):
        assert (directory / "curves.png").stat().st_size > 1000
    assert json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"] == str(pretrained)
    assert "== PatchRec pre-training, from " in capsys.readouterr().out
    assert len(PatchRecommender.from_pretrained(final).recommend([10, 11], k=2)) == 2

    # A finished recipe is not trained again; without its last result, only the last stage is, from its checkpoint.
    assert train_recipe(RECIPES["paper"], backbone, args, rows, processor) == final
    assert len(starts) == 2


@pytest.mark.slow
def test_an_interrupted_stage_resumes(make_trainer, tmp_path):
    """As if the run had been stopped after training, while it saved its result."""
    made = []

    def make():
        made.append(make_trainer("finetune", save_strategy="steps", save_steps=3))
        return made[-1]

    final = train_stage(make, tmp_path / "run")
    final.rename(tmp_path / "run" / "final.part")
    assert train_stage(make, tmp_path / "run") == final
    assert len(made) == 2
    assert made[1].state.log_history[:6] == made[0].state.log_history[:6]
    assert not (tmp_path / "run" / "final.part").exists()
    train_stage(make, tmp_path / "run")
    assert len(made) == 2
