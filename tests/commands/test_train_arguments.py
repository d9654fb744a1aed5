"""Arguments of `patchrec train`: defaults by the preset and the backbone, recipes, and numbers that are refused."""

import pytest

from patchrec_hf import ALL_PATCH_PRESET
from patchrec_hf.commands.train import parse
from patchrec_hf.commands.train_arguments import LAYOUTS, TrainArguments


@pytest.mark.parametrize(
    "name", ["max_history", "targets_per_row", "max_train_rows", "max_eval_rows", "max_test_rows"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_below_one_are_refused(name, value):
    """Else a wrong number of test rows is found only after the training."""
    with pytest.raises(ValueError, match=f"--{name} must be at least 1, got {value}"):
        parse([f"--{name}", str(value)])


def test_the_recipe_gives_the_defaults(tmp_path):
    base = ["--use_cpu", "--output_dir", str(tmp_path)]
    train, data, _, args = parse(base)
    assert (train.preset, data.data, args.objective) == ("all-patch", "sample", "item")
    assert args.learning_rate == ALL_PATCH_PRESET.training["learning_rate"]
    _, _, _, args = parse([*base, "--learning_rate", "0.5", "--item_dropout", "0"])
    assert (args.learning_rate, args.item_dropout, args.residual_dropout) == (0.5, 0, 0.2)
    _, _, model, args = parse([*base, "--model_name_or_path", "some/model", "--use_peft"])
    assert (args.learning_rate, model.use_peft) == (5e-5, True)
    _, _, _, args = parse([*base, "--preset", "paper"])
    assert (args.objective, args.per_device_train_batch_size * args.gradient_accumulation_steps) == ("title", 32)
    (tmp_path / "run.yaml").write_text("preset: paper\nk_core: true\nlearning_rate: 0.25\n")
    train, data, _, args = parse([*base, "--config", str(tmp_path / "run.yaml")])
    assert (train.preset, data.k_core, args.learning_rate, args.objective) == ("paper", True, 0.25, "title")


def test_a_misspelt_key_of_a_recipe_is_named(tmp_path):
    (tmp_path / "run.yaml").write_text("preset: paper\nlearning_rat: 0.25\n")
    with pytest.raises(
        ValueError, match=r"run\.yaml has the unknown key 'learning_rat'; did you mean 'learning_rate'"
    ):
        parse(["--config", str(tmp_path / "run.yaml")])


def test_a_mapping_in_a_recipe_reaches_the_trainer(tmp_path):
    """The command line cannot express it."""
    text = "preset: paper\nmodel_init_kwargs:\n  attn_implementation: eager\nmax_history: 5\n"
    (tmp_path / "run.yaml").write_text(text)
    script, _, _, args = parse(["--config", str(tmp_path / "run.yaml"), "--use_cpu", "--max_history", "6"])
    assert (script.max_history, args.model_init_kwargs) == (6, {"attn_implementation": "eager"})


def test_layouts_are_named():
    assert TrainArguments(layout="day").layout in LAYOUTS
    with pytest.raises(ValueError, match=r"--layout: invalid choice: 'daily' \(choose from"):
        parse(["--layout", "daily"])
