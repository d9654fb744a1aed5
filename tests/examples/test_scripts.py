"""The examples run as their users run them: from the command line, interrupted and repeated."""

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest
from processes import run_process

from patchrec_hf import EvaluationReport, PatchRecommender, load_recommendation_data
from patchrec_hf.baselines import SASRec


ROOT = Path(__file__).parents[2]
TRAIN, EVALUATE = ROOT / "examples" / "train_goodreads.py", ROOT / "examples" / "evaluate.py"
QUALITY = ROOT / "examples" / "benchmarks" / "quality.py"
LOSSES = ROOT / "examples" / "benchmarks" / "losses.py"
PATCHERS = ROOT / "examples" / "benchmarks" / "patchers.py"
BUDGETS = ROOT / "examples" / "benchmarks" / "budgets.py"
LONG_HISTORY, LAYOUTS = (ROOT / "examples" / "benchmarks" / name for name in ("long_history.py", "layouts.py"))
BENCHMARK = ROOT / "examples" / "benchmarks" / "ranking.py"
TRAIN_STEP, SHARING, PREPARE_BENCHMARK = (
    ROOT / "examples" / "benchmarks" / name for name in ("train_step.py", "sharing.py", "prepare.py")
)
PREPARE_DATA = ROOT / "examples" / "prepare_data.py"


def run(script, *arguments):
    return run_process([sys.executable, script, *arguments])


@pytest.mark.slow
def test_train_goodreads(tmp_path):
    settings = [
        "--output_dir", str(tmp_path / "run"), "--max_steps", "4", "--per_device_train_batch_size", "4",
        "--max_history", "8", "--max_test_rows", "12", "--save_steps", "2",
    ]  # fmt: skip
    first = run(TRAIN, *settings)
    assert first.returncode == 0, first.stderr
    assert "synthetic" in first.stdout
    assert "| all-patch + fusion " in first.stdout
    assert "All-patch + fusion minus co-visitation, hr@20: " in first.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["method"] for row in results] == [
        "popularity", "co-visitation", "vanilla", "PatchRec-I", "all-patch", "all-patch + fusion"
    ]  # fmt: skip

    # As if it had been stopped during the last stage: the finished stages are not trained again.
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "finetune" / "final").rename(tmp_path / "moved")
    resumed = run(TRAIN, *settings)
    assert resumed.returncode == 0, resumed.stderr
    assert "== finetune ==" in resumed.stdout
    assert "== vanilla ==" not in resumed.stdout
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    recommender = PatchRecommender.from_pretrained(tmp_path / "run" / "items" / "final")
    assert recommender.processor.fusion is not None


@pytest.mark.slow
def test_benchmark_of_quality(tmp_path):
    """Checks what is written, not how good it is."""
    done = run(
        QUALITY, "--data", "sample", "--minutes", "0.02", "--json", tmp_path / "quality.json",
        "--output_dir", tmp_path, "--plot", tmp_path / "quality.png", "--hidden_size", "16",
        "--method", "co-visitation", "item-head",
        "item-head-fusion",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "quality.json").read_text())
    names = {"co-visitation", "item-head", "item-head-fusion"}
    for key in ("metrics", "train_seconds", "users_per_second", "minus_co_visitation", "hr@20_intervals"):
        assert results[key].keys() == names, key
    assert results["minus_co_visitation"]["co-visitation"] == [0, 0, 0]
    difference, low, high = results["minus_co_visitation"]["item-head-fusion"]
    assert low <= difference <= high
    by_hand = results["metrics"]["item-head-fusion"]["hr@20"] - results["metrics"]["co-visitation"]["hr@20"]
    assert difference == pytest.approx(by_hand)
    assert (tmp_path / "quality.png").stat().st_size > 0


def test_readme_is_filled_in():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    for name in re.findall(r"\]\(([^)#]+)\)", text):
        assert name.startswith("http") or (ROOT / name).exists(), name


@pytest.mark.slow
def test_evaluate(tmp_path):
    """A report, its comparison with another one, and a refusal to overwrite it."""
    settings = ["--baseline", "popularity", "--max_rows", "40", "--max_history", "10"]
    first = run(EVALUATE, *settings, "--output_dir", tmp_path / "first")
    assert first.returncode == 0, first.stderr
    assert "| history 10–19 | 40 |" in first.stdout
    report = EvaluationReport.load(tmp_path / "first")
    assert len(report.targets) == 40
    assert report.settings["rows"]["test"] > 40
    second = run(
        EVALUATE, *settings, "--exclude_seen", "--output_dir", tmp_path / "second", "--compare", tmp_path / "first"
    )
    assert second.returncode == 0, second.stderr
    assert re.search(r"\| hr@20 +\| 0\.\d+ +\| 0\.\d+ ", second.stdout)
    # A finished report is compared without being made again.
    swapped = run(EVALUATE, *settings, "--output_dir", tmp_path / "first", "--compare", tmp_path / "second")
    assert swapped.returncode == 0, swapped.stderr
    assert "is compared as it is" in swapped.stdout
    assert (tmp_path / "first" / "comparison.md").read_text() in swapped.stdout
    again = run(EVALUATE, *settings, "--output_dir", tmp_path / "first")
    assert again.returncode == 1
    assert "holds a finished run" in again.stderr


@pytest.mark.slow
def test_evaluate_a_saved_baseline(tmp_path):
    _, catalog = load_recommendation_data("sample")
    SASRec.from_catalog(catalog, hidden_size=8).save_pretrained(tmp_path / "sasrec")
    settings = ["--max_rows", "10", "--output_dir", tmp_path / "report"]
    done = run(EVALUATE, "--baseline", tmp_path / "sasrec", *settings)
    assert done.returncode == 0, done.stderr
    assert "| ranker | SASRec |" in done.stdout
    misspelt = run(EVALUATE, "--baseline", "popularitz", *settings)
    assert misspelt.returncode == 1
    assert "popularity, co-visitation, transitions or a saved baseline, got popularitz" in misspelt.stderr


@pytest.mark.slow
def test_benchmark_of_training_steps(tmp_path):
    """Checks no speed. All sides compute the same loss, and so does TRL on the text."""
    done = run(TRAIN_STEP, "--quick", "--rounds", "1", "--output_dir", tmp_path, "--json", tmp_path / "step.json")
    assert done.returncode == 0, done.stderr
    assert "| text, TRL | padded | 1 | 1.0 |" in done.stdout
    results = json.loads((tmp_path / "step.json").read_text())
    assert set(results["ratios"]) == {
        "packed_vs_trl",
        "packed_vs_unpacked",
        "packed_vs_fastest_unpacked",
        "unpacked_vs_trl",
        "item_vs_packed_titles",
        "both_vs_packed_titles",
        *(f"catalog_vs_vocabulary_{batches}_{size}" for batches in ("padded", "packed") for size in (1, 8)),
    }
    assert all(ratio > 0 for ratio in results["ratios"].values())
    assert results["max_relative_loss_difference"] < 1e-5
    tokens = results["tokens_per_example"]
    assert tokens["packed"] < tokens["unpacked"] < tokens["trl"]
    assert 0 < results["peak_share"] < 1.2
    refused = run(TRAIN_STEP, "--output_dir", tmp_path)
    assert refused.returncode == 1
    assert "No user has 100 interactions and then 32 to predict" in refused.stderr


@pytest.mark.slow
def test_benchmark_of_sharing(tmp_path):
    done = run(
        SHARING, "--variants", "1 targets per row", "4 targets per row", "--seeds", "1", "--num_examples", "256",
        "--num_eval_rows", "8", "--output_dir", tmp_path, "--json", tmp_path / "sharing.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| 4 targets per row |" in done.stdout
    one, four = json.loads((tmp_path / "sharing.json").read_text()).values()
    assert len(one["losses"][0]) == len(four["losses"][0]) == 8
    assert four["packed"][0] < 0.8 * one["packed"][0]


@pytest.mark.slow
def test_benchmark_of_losses(tmp_path):
    """Each loss gets its steps, and the model that learned over the vocabulary is ranked by both scores."""
    done = run(
        LOSSES, "--minutes", "0.001", "--max_rows", "8", "--hidden_size", "16", "--temperatures", "1", "2",
        "--json", tmp_path / "losses.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "losses.json").read_text())["results"]
    assert [(row["loss"], row["score"]) for row in results] == [
        ("vocabulary", "vocabulary"),
        ("vocabulary", "catalog"),
        ("catalog, temperature 1", "catalog"),
        ("catalog, temperature 2", "catalog"),
    ]
    assert {row["steps"] for row in results} == {30}
    assert results[0]["hr@20 minus the paper's"] is None
    assert "| catalog, temperature 2 | catalog | 30 |" in done.stdout


@pytest.mark.slow
def test_benchmark_of_patchers(tmp_path):
    """Each patcher and seed gets its steps, and all are compared with the mean on the same targets."""
    done = run(
        PATCHERS, "--minutes", "0.001", "--max_rows", "8", "--hidden_size", "16", "--seeds", "0", "1",
        "--num_negatives", "50", "--json", tmp_path / "patchers.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "patchers.json").read_text())
    assert (written["data"], written["num_negatives"], written["rows"]) == ("sample", 50, 8)
    results = written["results"]
    assert [(row["patcher"], row["seed"]) for row in results] == [
        (patcher, seed) for patcher in ("mean", "attention", "contextual") for seed in (0, 1, None)
    ]
    assert {row["steps"] for row in results} == {20}
    assert all((row["minus mean"] is None) == (row["patcher"] == "mean") for row in results)
    for one, other, both in zip(results[::3], results[1::3], results[2::3], strict=True):
        assert both["hr@20"][0] == pytest.approx((one["hr@20"][0] + other["hr@20"][0]) / 2)
    assert "| attention | all | 20 |" in done.stdout


@pytest.mark.slow
def test_benchmark_of_budgets(tmp_path):
    """Checks what is written, not how good or how fast it is."""
    done = run(
        BUDGETS, "--quick", "--minutes", "0.001", "--hidden_size", "16", "--budgets", "4", "12",
        "--json", tmp_path / "budgets.json", "--plot", tmp_path / "budgets.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "budgets.json").read_text())
    assert [row["budget"] for row in written["results"]] == [4, 12]
    for row in written["results"]:
        by_hand = row["one checkpoint"]["hr@20"] - row["own checkpoint"]["hr@20"]
        difference, low, high = row["hr@20 of one minus own"]
        assert difference == pytest.approx(by_hand)
        assert low <= difference <= high
        assert row["history_tokens"] <= row["budget"]
        assert f"| {row['budget']} | {row['one checkpoint']['hr@20']:.3f} |" in done.stdout
    assert (tmp_path / "budgets.png").stat().st_size > 0


@pytest.mark.slow
def test_benchmark_of_long_histories(tmp_path):
    """Checks what is counted, not how fast it is."""
    done = run(
        LONG_HISTORY, "--lengths", "100", "10000", "--clicks", "3", "--rounds", "1", "--text_tokens", "300",
        "--hidden_size", "16", "--json", tmp_path / "long.json", "--plot", tmp_path / "long.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "long.json").read_text())
    assert set(results["ratios"]) == {"click_10000_vs_100", "click_vs_reread"}
    assert results["positions_per_click"]["item"] == 1
    assert 1 < results["positions_per_click"]["titles"] <= 30
    rows = {(row["layout"], row["items"]): row for row in results["rows"]}
    before = rows["all patches", 100]["positions"] - 100  # what stands before the history
    assert rows["all patches", 10_000]["positions"] == before + 10_000
    assert rows["pyramid", 10_000]["positions"] <= 200
    assert rows["budget of 50", 10_000]["positions"] <= before + 50
    assert rows["latest 100", 10_000]["positions"] == before + 100
    assert rows["text that fits", 10_000]["positions"] <= before + 300
    assert (tmp_path / "long.png").stat().st_size > 0


@pytest.mark.slow
def test_benchmark_of_layouts(tmp_path):
    """Both layouts rank the same targets, which have long histories."""
    done = run(
        LAYOUTS, "--minutes", "0.001", "--min_items", "5", "--latest", "5", "--max_history", "20",
        "--hidden_size", "16", "--json", tmp_path / "layouts.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    latest, pyramid = json.loads((tmp_path / "layouts.json").read_text())["results"]
    assert (latest["layout"], pyramid["layout"]) == ("latest 5", "pyramid")
    assert latest["positions"] == 5 < pyramid["positions"]
    difference, low, high = pyramid["hr@20 minus the latest items'"]
    assert difference == pytest.approx(pyramid["hr@20"] - latest["hr@20"])
    assert low <= difference <= high


@pytest.mark.slow
def test_benchmark_of_rankings(tmp_path):
    """Checks results, not speed. Then evaluates the saved checkpoint."""
    done = run(
        BENCHMARK, "--train_steps", "5", "--num_users", "2", "--num_brute_force", "1", "--max_history", "10",
        "--output_dir", tmp_path, "--json", tmp_path / "ranking.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "ranking.json").read_text())
    assert results["exact_equals_brute_force"] is True
    assert results["exact_equals_all"] is True
    assert results["exact_share"] == 1.0
    assert results["kv_ratio"] > 0
    assert set(results["ratios"]) >= {"exact_vs_generate", "exact_vs_generate_uncached", "item_vs_exact"}
    assert results["ratios"]["normalised_all_vs_all"] > 0
    assert results["normalized_exact_equals_all"] is True
    assert results["normalized_scores_sum_to_1"] is True
    assert results["trie_share_read"]["normalized all"] < 0.5 * results["trie_share_read"]["all"]
    assert 0 <= results["beam_missed_share"] <= 1
    assert results["unequal_users"]["batch_vs_one_by_one_seconds"] > 0
    assert 0.5 < results["unequal_users"]["batch_vs_one_by_one_positions"] < 1.5

    done = run(
        EVALUATE, "--model", tmp_path / "final", "--max_rows", "12", "--max_history", "10", "--protocol", "effects",
        "--output_dir", tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "and the last match counts (release-matching)" in done.stdout
    settings = EvaluationReport.load(tmp_path / "report").settings
    assert settings["protocol"]["take_last_match"] is True
    assert settings["model"] == str(tmp_path / "final")
    assert not (tmp_path / "report" / "parts").exists()

    done = run(
        EVALUATE, "--model", tmp_path / "final", "--max_rows", "6", "--max_history", "10", "--protocol", "release",
        "--ks", "4", "2", "--output_dir", tmp_path / "release",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reports = {2: EvaluationReport.load(tmp_path / "release" / "at_2"), 4: EvaluationReport.load(tmp_path / "release")}
    metrics = json.loads((tmp_path / "release" / "results.json").read_text())
    for k, report in reports.items():
        assert (report.ks, report.depth) == ((k,), k)
        assert metrics[f"hr@{k}"] == report.metrics()[f"hr@{k}"]
    table = (tmp_path / "release" / "release.md").read_text()
    assert "| 2 |" in table
    assert table in done.stdout
    assert "| setting |" not in done.stdout  # the reports hold the settings
    assert str(tmp_path / "release" / "at_2") in done.stdout


@pytest.mark.slow
def test_prepare_data(tmp_path):
    rows = [(f"c{user}", item, 100 * item + user, f"Book {item}") for user in range(20) for item in range(9)]
    table = pl.DataFrame(rows, schema=["customer", "sku", "timestamp", "title"], orient="row")
    table.write_csv(tmp_path / "log.csv")
    settings = [
        tmp_path / "log.csv", tmp_path / "out", "--columns", "user_id=customer", "item_id=sku", "--cuts", "0.6", "0.8",
        "--cache_dir", tmp_path / "cache", "--min_item_users", "3", "--k_core",
        "--where", "sku=0,1,2,3,4,5,6,7,8",
    ]  # fmt: skip
    done = run(PREPARE_DATA, *settings)
    assert done.returncode == 0, done.stderr
    assert "| interactions | 180 |" in done.stdout
    sequences = pl.read_parquet(tmp_path / "out" / "sequences.parquet")
    assert sequences["item_id"].to_list() == [list(range(9))] * 20
    assert (tmp_path / "out" / "README.md").read_text() in done.stdout
    examples, _ = load_recommendation_data(tmp_path / "out")
    assert len(examples["test"]) == 36
    again = run(PREPARE_DATA, *settings)
    assert again.returncode == 1
    assert "out is not empty" in again.stderr


@pytest.mark.slow
def test_benchmark_of_preparation(tmp_path):
    done = run(PREPARE_BENCHMARK, "--rows", "60000", "--repeats", "1", "--json", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ratios"]["vs_pandas"] > 0
    assert 0 < results["peak_gib"] < 4
    assert 0 < results["kept"] < 60_000
