"""`examples/train.py`: from a log of your own to a checkpoint that recommends, by the command line only."""

import json
import sys
from pathlib import Path

import pytest
from loaded_script import loaded_script
from processes import run_process
from small_shop import write_shop

from patchrec_hf import PatchRecommender
from patchrec_hf.commands import train as command


TRAIN = Path(__file__).parents[2] / "examples" / "train.py"


def run(*arguments):
    return run_process([sys.executable, TRAIN, *arguments])


@pytest.fixture(scope="module")
def script():
    with loaded_script(TRAIN) as module:
        yield module


def test_the_script_is_the_command(script):
    assert (script.parse, script.main) == (command.parse, command.train)


@pytest.fixture
def shop(tmp_path):
    return [
        *write_shop(tmp_path),
        "--max_steps", "2", "--logging_steps", "1", "--use_cpu", "--max_history", "6", "--max_eval_rows", "8",
        "--max_test_rows", "8", "--output_dir", tmp_path / "run",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_shop_with_texts_as_ids(shop, tmp_path):
    done = run(*shop, "--prompt", "Name the next product. A customer bought {history}")
    assert done.returncode == 0, done.stderr
    assert "12 items; rows: " in done.stdout
    assert "| all-patch " in done.stdout
    assert done.stdout.count("SKU-") >= 4
    final = tmp_path / "run" / "final"
    assert (final / "curves.png").stat().st_size > 1000
    recommender = PatchRecommender.from_pretrained(final)
    assert recommender.processor.fusion is not None
    assert recommender.processor.max_history == 6
    assert recommender.recommend(["SKU-001", "SKU-002"], k=1)[0].item_id.startswith("SKU-")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["method"] for row in results] == ["co-visitation", "all-patch"]

    again = run(*shop, "--prompt", "Name the next product. A customer bought {history}")
    assert again.returncode == 1
    assert "holds a finished run" in again.stderr


@pytest.mark.slow
def test_the_papers_stages_with_an_adapter(shop, tmp_path):
    settings = [*shop, "--preset", "paper", "--layout", "session", "--use_peft", "--lora_r", "2", "--eval_ks", "2"]
    done = run(*settings)
    assert done.returncode == 0, done.stderr
    assert "== PatchRec pre-training, from " in done.stdout
    assert "== PatchRec fine-tuning, from " in done.stdout
    assert (tmp_path / "run" / "final" / "adapter_config.json").is_file()
    assert (tmp_path / "run" / "pretrain" / "final" / "curves.png").is_file()


@pytest.mark.slow
def test_a_failure_before_the_first_step_does_not_keep_the_directory(shop, tmp_path):
    """The backbone that the script has made is written again."""
    failed = run(*shop, "--max_test_rows", "2", "--use_peft", "--lora_target_modules", "nope")
    assert "`target_modules` of the adapter names 'nope'" in failed.stderr
    assert (tmp_path / "run" / "backbone" / "config.json").is_file()
    done = run(*shop, "--max_test_rows", "2", "--max_steps", "1")
    assert done.returncode == 0, done.stderr
    assert "model_init_kwargs" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "{history}. Name one."], "ValueError: This recipe predicts each item"),
        (["--columns", "item_id"], "ValueError: `columns` takes pairs"),
        (["--data", "clicks.csv"], "FileNotFoundError: "),
    ],
)
def test_mistakes_leave_no_files_behind(arguments, message, tmp_path):
    done = run(*arguments, "--output_dir", tmp_path / "run", "--use_cpu")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
