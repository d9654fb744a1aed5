"""`examples/publish.py`: a checkpoint with its card, from a tiny shop, interrupted and repeated."""

import json
from pathlib import Path

import pytest
from loaded_script import loaded_script
from small_shop import write_shop

from patchrec_hf import PatchRecommender
from patchrec_hf.commands.recipe_files import read_recipe
from patchrec_hf.commands.train_arguments import make_parser
from patchrec_hf.runs import claim_run


ROOT = Path(__file__).parents[2]


@pytest.fixture
def publish():
    with loaded_script(ROOT / "examples" / "publish.py") as script:
        yield script


def test_computing_time_adds_up_over_sessions(publish, tmp_path):
    path = tmp_path / "seconds.json"
    path.write_text("100.0")
    (tmp_path / "final").mkdir()
    with publish.ComputingTime(path):
        sum(range(10**6))
    assert 100 < publish.read_seconds(path) < 200
    with publish.ComputingTime(tmp_path / "missing" / "seconds.json"):
        pass
    assert publish.read_seconds(tmp_path / "missing" / "seconds.json") == 0


def test_a_run_that_ends_before_its_first_checkpoint_can_be_corrected(publish, tmp_path):
    """As if the memory had been too small for the batch."""
    claim_run(tmp_path, {"batch_size": 64})
    with pytest.raises(MemoryError), publish.ComputingTime(tmp_path / "seconds.json"):
        raise MemoryError
    claim_run(tmp_path, {"batch_size": 8})
    (tmp_path / "pretrain" / "checkpoint-1").mkdir(parents=True)
    with publish.ComputingTime(tmp_path / "seconds.json"):
        pass
    assert (tmp_path / "seconds.json").is_file()


@pytest.mark.parametrize("name", ["publish_goodreads", "publish_ml_100k"])
def test_the_recipes_are_recipes(name):
    keys = make_parser("A parser.")._keys()
    assert read_recipe(ROOT / "examples" / "recipes" / f"{name}.yaml", keys)["preset"] == "all-patch"


@pytest.mark.slow
def test_one_command_makes_the_checkpoint_and_its_card(publish, tmp_path, capsys, monkeypatch):
    (tmp_path / "tea.yaml").write_text("preset: all-patch\nmax_history: 6\nmax_steps: 4\nuse_cpu: true\n")
    options = [*map(str, write_shop(tmp_path)), "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    publish.main(str(tmp_path / "tea.yaml"), options, "Teas", None)
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    for text in ("| size of the checkpoint | ", "| computing time | ", "| co-visitation | ", "| item head + fusion | ",
                 "## Fusion", "with 95% intervals by resampling users"):  # fmt: skip
        assert text in card
    table = capsys.readouterr().out.split("items to rank:\n")[-1].split("\n\n")[0]
    assert table in card
    trained = (tmp_path / "run" / "results.json").stat().st_mtime_ns
    pushed = {}

    class Hub:
        def create_repo(self, repo_id, exist_ok):
            assert exist_ok

        def upload_folder(self, repo_id, folder_path, commit_message):
            pushed.update({path.name: path.read_bytes() for path in folder_path.iterdir()}, repo_id=repo_id)

    monkeypatch.setattr(publish, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    publish.main(str(tmp_path / "tea.yaml"), options, "Teas", "user/teas")
    assert pushed["repo_id"] == "user/teas"
    assert table in pushed["README.md"].decode()
    assert 'from_pretrained("user/teas")' in pushed["README.md"].decode()
    assert pushed["README.md"] == (tmp_path / "run" / "final" / "README.md").read_bytes()
    assert {"model.safetensors", "catalog.parquet", "processor_config.json"} <= pushed.keys()
    assert (tmp_path / "run" / "results.json").stat().st_mtime_ns == trained
    assert capsys.readouterr().out.split("items to rank:\n")[-1].split("\n\n")[0] == table
    assert json.loads((tmp_path / "run" / "seconds.json").read_text()) > 0
    assert len(PatchRecommender.from_pretrained(tmp_path / "run" / "final").recommend(["SKU-001"], k=3)) == 3
