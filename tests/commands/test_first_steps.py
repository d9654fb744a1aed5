"""A new user's ten minutes: from a CSV with texts for ids to recommendations, by the installed command alone."""

import json

import polars as pl
import pytest
from command import patchrec
from served_checkpoint import served
from small_shop import write_shop

from patchrec_hf import EvaluationReport, PatchRecommender


RECIPE = """
preset: all-patch
prompt: Name the next product. A customer bought {history}
max_history: 6
max_steps: 4
logging_steps: 2
max_eval_rows: 8
max_test_rows: 8
use_cpu: true
"""


def succeeds(*arguments):
    done = patchrec(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_a_log_to_recommendations(tmp_path):
    data, run, report = tmp_path / "data", tmp_path / "run", tmp_path / "report"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")

    _, log, *settings = write_shop(tmp_path)
    assert "| interactions | 180 |" in succeeds("prepare", log, data, *settings)

    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(RECIPE.replace("max_history", "max_histroy"), encoding="utf-8")
    refused = patchrec("train", "--config", misspelt, "--data", data, "--output_dir", run)
    assert refused.returncode == 1
    assert refused.stderr.endswith(
        f"ValueError: {misspelt} has the unknown key 'max_histroy'; did you mean 'max_history'?\n"
    )
    assert not run.exists()
    printed = succeeds("train", "--config", recipe, "--data", data, "--output_dir", run, "--max_steps", "2")
    assert "12 items; rows: " in printed
    checkpoint = run / "final"

    printed = succeeds("evaluate", checkpoint, "--data", data, "--max_rows", "8", "--output_dir", report)
    assert "| hr@20 |" in printed
    assert EvaluationReport.load(report).targets["target_id"][0].startswith("SKU-")

    facts = json.loads(succeeds("info", checkpoint, "--json"))
    assert (facts["items"], facts["item_ids"], facts["max_history"]) == (12, "texts", 6)
    assert (facts["objective"], facts["default_method"]) == ("item", "fusion")
    assert "Name the next product. A customer bought" in facts["prompt"]

    top = tmp_path / "top.parquet"
    interactions = data / "interactions.parquet"
    printed = succeeds("recommend", checkpoint, "--histories", interactions, "--output", top, "--k", "3")
    assert "users per second" in printed
    users = pl.read_parquet(top)
    assert sorted(users["user_id"]) == sorted(set(pl.read_parquet(interactions)["user_id"]))
    assert all(item.startswith("SKU-") for item in users["item_ids"].explode())

    recommended = PatchRecommender.from_pretrained(checkpoint).recommend(["SKU-001", "SKU-002"], k=3)
    with served([checkpoint, "--store", tmp_path / "histories.sqlite"]) as server:
        events = {"events": [{"item_id": "SKU-001"}, {"item_id": "SKU-002"}]}
        assert server.ask("/users/ada/events", events)[0] == 200
        status, answer = server.ask("/users/ada/recommendations?k=3")
    assert status == 200
    assert [item["item_id"] for item in answer["recommendations"]] == [item.item_id for item in recommended]
