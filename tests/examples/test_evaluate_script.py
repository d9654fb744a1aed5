"""`examples/evaluate.py` on a log of your own, with a plot and comparisons."""

import sys
from pathlib import Path

import pytest
from loaded_script import loaded_script
from processes import run_process
from small_shop import write_shop

from patchrec_hf import EvaluationReport, load_recommendation_data
from patchrec_hf.baselines import Popularity
from patchrec_hf.commands.evaluate import evaluate
from patchrec_hf.commands.evaluate_arguments import EvaluateArguments


EVALUATE = Path(__file__).parents[2] / "examples" / "evaluate.py"


def run(*arguments):
    return run_process([sys.executable, EVALUATE, *arguments])


@pytest.fixture(scope="module")
def script():
    with loaded_script(EVALUATE) as module:
        yield module


def test_the_script_is_the_command(script):
    assert (script.Arguments, script.main) == (EvaluateArguments, evaluate)


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
