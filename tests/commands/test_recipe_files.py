"""Recipe files: what is read, what is refused, and the recipes that ship."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.commands.recipe_files import read_recipe, recipe_options, set_environment
from patchrec_hf.commands.train import parse


FOLDER = Path(__file__).parents[2] / "examples" / "recipes"
RECIPES = [path for path in sorted(FOLDER.glob("*.yaml")) if not path.stem.startswith("publish")]
KEYS = ["preset", "max_history", "learning_rate"]


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "recipe.yaml"

    return write


def test_a_recipe_is_read(recipe):
    path = recipe("preset: paper\nmax_history: 50\nenv: {SOME_NAME: 1}\n")
    assert read_recipe(path, KEYS) == {"preset": "paper", "max_history": 50, "env": {"SOME_NAME": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_histroy: 50\n", "recipe.yaml has the unknown key 'max_histroy'; did you mean 'max_history'?"),
        ("zzz: 50\n", "recipe.yaml has the unknown key 'zzz'; `patchrec train --help-all` lists the keys."),
        ("3: 50\n", "recipe.yaml has the unknown key 3;"),
        ("- preset\n", "recipe.yaml must hold options and their values, .*, got \\['preset'\\]"),
        ("", "recipe.yaml must hold options and their values"),
        ("preset: [a\n", "recipe.yaml is no YAML: while parsing"),
        ("env: 3\n", "`env` in .*recipe.yaml must hold variables and their values, got 3"),
    ],
)
def test_wrong_recipes(recipe, text, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe(text), KEYS)


def test_a_missing_recipe_names_the_nearest_file(recipe):
    path = recipe("preset: paper\n")
    with pytest.raises(FileNotFoundError, match=r"There is no recipe .*recipes\.yaml\. Did you mean .*recipe\.yaml\?"):
        read_recipe(path.with_name("recipes.yaml"), KEYS)


def test_values_become_arguments():
    values = {"a": "x y", "b": 5, "c": 1e-5, "d": True, "e": [1, "-2"], "f": None, "g": {"h": 1}, "env": {"N": "1"}}
    options, kept = recipe_options(values)
    assert options == ["--a=x y", "--b=5", "--c=1e-05", "--d=true", "--e", "1", "-2"]
    assert kept == {"f": None, "g": {"h": 1}}


@given(st.floats(allow_nan=False), st.integers(), st.booleans())
def test_numbers_survive_the_way_through_texts(number, whole, switch):
    read = yaml.safe_load(yaml.safe_dump({"number": number, "whole": whole, "switch": switch}))
    texts = dict(option.removeprefix("--").split("=", 1) for option in recipe_options(read)[0])
    assert (float(texts["number"]), int(texts["whole"])) == (number, whole)
    assert texts["switch"] == ("true" if switch else "false")


def test_variables_are_set(monkeypatch):
    monkeypatch.setenv("PATCHREC_TEST_VARIABLE", "old")
    set_environment({"env": {"PATCHREC_TEST_VARIABLE": 2}})
    assert os.environ["PATCHREC_TEST_VARIABLE"] == "2"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_read(path, tmp_path):
    """Every key is known, every value fits, and the comment names the command that runs it."""
    script, data, backbone, args = parse(["--config", str(path), "--use_cpu"])
    assert args.output_dir == f"outputs/{path.stem}"
    assert script.preset == ("paper" if "paper" in path.stem else "all-patch")
    is_pretrained = "pretrained" in path.stem
    assert (data.data == "sample", backbone.model_name_or_path is None) == (not is_pretrained, not is_pretrained)
    assert f"patchrec train --config examples/recipes/{path.name}\n" in path.read_text(encoding="utf-8")
    if path.stem == "paper_pretrained":
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 64


def test_recipes_ship():
    assert len(RECIPES) == 4
