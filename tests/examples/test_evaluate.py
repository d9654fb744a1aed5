"""`examples/evaluate.py` on a log of your own, with a plot and comparisons."""

import sys
from pathlib import Path

import pytest
from loaded_script import loaded_script
from processes import run_process
from small_shop import write_shop

from patchrec_hf import EvaluationReport, load_recommendation_data
from patchrec_hf.baselines import Popularity


EVALUATE = Path(__file__).parents[2] / "examples" / "evaluate.py"


def run(*arguments):
    return run_process([sys.executable, EVALUATE, *arguments])


@pytest.fixture(scope="module")
def script():
    with loaded_script(EVALUATE) as module:
        yield module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length_penalty": float("nan")}, "--length_penalty must be a finite number, got nan"),
        ({"length_penalty": float("-inf")}, "--length_penalty must be a finite number, got -inf"),
        ({"ks": []}, r"--ks takes cut-offs of at least 1, got \[\]"),
        ({"ks": [10, 0]}, r"--ks takes cut-offs of at least 1, got \[10, 0\]"),
        ({"max_history": 0}, "--max_history must be at least 1, got 0"),
        ({"max_rows": -1}, "--max_rows must be at least 1, got -1"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"num_beams": 0}, "--num_beams must be at least 1, got 0"),
        ({"max_title_tokens": -1}, "--max_title_tokens must be at least 0, got -1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_wrong_numbers(script, arguments, message):
    with pytest.raises(ValueError, match=message):
        script.Arguments("outputs", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of --model and --baseline"),
        ({"model": "a", "baseline": "popularity"}, "exactly one of --model and --baseline"),
        ({"baseline": "popularity", "num_beams": 4}, "scores every item: leave out --num_beams"),
        ({"baseline": "popularity", "protocol": "effects"}, "scores every item: leave out --protocol"),
        ({"model": "a", "protocol": "release", "method": "exact"}, "decodes titles by the method diverse"),
        ({"model": "a", "protocol": "release", "length_penalty": 1.0}, "diverse does not use --length_penalty"),
        ({"model": "a", "protocol": "release", "num_beams": 4}, "diverse does not use --num_beams"),
        ({"model": "a", "protocol": "release-matching", "method": "diverse"}, "choose `--protocol release`"),
        ({"model": "a", "method": "item", "protocol": "effects"}, "needs `--protocol strict`, got effects"),
        ({"model": "a", "method": "item", "length_penalty": 1.0}, "item does not use --length_penalty"),
        ({"model": "a", "method": "all", "max_title_tokens": 9}, "all does not use --max_title_tokens"),
        ({"model": "a", "num_beams": 4}, "exact does not use --num_beams"),
    ],
)
def test_arguments_that_contradict_each_other(script, arguments, message):
    with pytest.raises(ValueError, match=message):
        script.Arguments("outputs", **arguments).check_combination()


def test_the_model_decides_whether_a_penalty_has_an_effect(script):
    arguments = script.Arguments("outputs", model="a", length_penalty=1.0)
    for default in (None, "exact"):
        arguments.check_combination(default)
    with pytest.raises(ValueError, match="The method item does not use --length_penalty"):
        arguments.check_combination("item")
    script.Arguments("outputs", model="a", length_penalty=1.0, protocol="release-matching").check_combination("item")


@pytest.mark.slow
def test_a_wrong_number_leaves_no_directory_behind(tmp_path):
    done = run("--model", tmp_path, "--length_penalty", "nan", "--output_dir", tmp_path / "new")
    assert done.returncode == 1
    assert done.stderr.endswith("--length_penalty must be a finite number, got nan.\n")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def shop(tmp_path):
    return write_shop(tmp_path)


@pytest.mark.slow
def test_a_log_of_your_own(shop, tmp_path):
    settings = ["--baseline", "co-visitation", *shop]
    first = run(*settings, "--output_dir", tmp_path / "first", "--plot", tmp_path / "report.png")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "report.png").stat().st_size > 1000
    assert first.stdout.index("| slice |") < first.stdout.index("| setting |")  # results before settings
    assert EvaluationReport.load(tmp_path / "first").targets["target_id"][0].startswith("SKU-")

    # Other targets are refused before anything is ranked, and the directory stays free.
    unequal = run(*settings, "--output_dir", tmp_path / "second", "--max_rows", "5", "--compare", tmp_path / "first")
    assert unequal.returncode == 1
    assert "Only runs on the same targets can be compared, got 5 and" in unequal.stderr
    assert "Scoring" not in unequal.stderr
    assert not (tmp_path / "second").exists()

    drawn = run(*settings, "--output_dir", tmp_path / "first", "--plot", tmp_path / "again.png")
    assert drawn.returncode == 0, drawn.stderr
    assert "It is drawn as it is" in drawn.stdout
    assert (tmp_path / "again.png").is_file()


@pytest.mark.slow
def test_a_saved_popularity(tmp_path):
    splits, catalog = load_recommendation_data("sample")
    Popularity(catalog).fit(splits["train"]).save_pretrained(tmp_path / "popularity")
    done = run("--baseline", tmp_path / "popularity", "--max_rows", "10", "--output_dir", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert "| ranker | Popularity |" in done.stdout
    wrong = run("--baseline", "popularity", "--columns", "sku", "--output_dir", tmp_path / "other")
    assert wrong.returncode == 1
    assert wrong.stderr.endswith("`columns` takes pairs such as user_id=customer, got 'sku'.\n")
