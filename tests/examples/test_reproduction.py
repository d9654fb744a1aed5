"""The reproduction of the paper's tables, in seconds: it runs what is missing, resumes, and writes results."""

import json
import os
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
from processes import run_process

from patchrec_hf import PatchRecommender
from patchrec_hf.training.checkpoints import last_checkpoint


ROOT = Path(__file__).parents[2]
REPRODUCE = ROOT / "examples" / "reproduce_paper.py"
METHODS = [
    *("CoVisitation", "SASRec", "Vanilla", "PatchRec-I", "Fusion", "All-patch", "All-patch + fusion"),
    "Vanilla (equal time)",
]


def run(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many as the tests have, so that sums are the same
    return run_process([sys.executable, script, *arguments], env=environment)


@pytest.fixture
def scripts(monkeypatch):
    """Both scripts as modules: calling them saves the time of a new process."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return import_module("reproduce_paper"), import_module("write_results")


@pytest.mark.slow
def test_table_2(tmp_path, scripts, capsys):
    reproduce, write = scripts
    settings = ["--scale", "tiny", "--table", "2", "--output_dir", tmp_path / "study"]
    done = run(REPRODUCE, *settings, "--methods", *METHODS)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "study" / "table_2" / "results.json").read_text())
    rows = {row["method"]: row for row in results["methods"]}
    assert list(rows) == METHODS
    budgets = [None, None, "equal examples", "equal examples", None, "own budget", "own budget", "equal time"]
    assert [row["budget"] for row in rows.values()] == budgets
    vanilla, reference, longer = (rows[name] for name in ("Vanilla", "PatchRec-I", "Vanilla (equal time)"))
    assert vanilla["examples_seen"] == reference["examples_seen"] == 320
    assert [stage["examples"] for stage in reference["stages"]] == [160, 160]
    ratio = reference["train_seconds"] / vanilla["train_seconds"]
    assert longer["examples_seen"] == round(320 * ratio)
    assert reference["history_tokens"] < vanilla["history_tokens"]
    assert reference["compression_ratio"] > vanilla["compression_ratio"] == 1.0
    assert rows["Vanilla"]["latency"] == 1.0
    assert rows["PatchRec-I"]["latency"] > 0
    # On what its weights were fitted on, a fusion's likelihood is at least as high as its parts'.
    parts = {"co_visits", "item", "popularity", "seen", "similar_titles", "transitions"}
    for name, expected in (("Fusion", {"PatchRec-I", "CoVisitation", "SASRec"}), ("All-patch + fusion", parts)):
        fusion = rows[name]["settings"]
        assert fusion["log-likelihood"] >= max(fusion["log-likelihood of the parts"].values())
        assert set(fusion["weights"]) == set(fusion["log-likelihood of the parts"]) == expected
    # Both methods with the all-patch recipe share its training; the fusion adds its fit.
    item, fused = rows["All-patch"], rows["All-patch + fusion"]
    assert item["stages"] == fused["stages"]
    assert item["examples_seen"] == fused["examples_seen"] == results["rows"]["train"]
    assert fused["train_seconds"] > item["train_seconds"] == item["stages"][0]["seconds"]
    assert item["settings"]["objective"] == "item"
    loaded = PatchRecommender.from_pretrained(tmp_path / "study" / "methods" / "all_patch___fusion" / "final")
    assert set(loaded.processor.fusion.weights) == parts
    # The scale's loss is the loss of every stage, and the checkpoint scores titles by it.
    config = PatchRecommender.from_pretrained(
        tmp_path / "study" / "methods" / "patchrec_i" / "finetune" / "final"
    ).model.config
    assert (config.title_normalizer, config.title_temperature) == ("catalog", 1.0)
    assert rows["PatchRec-I"]["settings"]["title_normalizer"] == "catalog"
    for row in rows.values():
        assert (row["less_bar"] is None) == (row["method"] == "CoVisitation")
        assert (row["less_reference"] is None) == (row["method"] == "PatchRec-I")
        assert {"coverage@20", "novelty@20", "popularity_bias@20", "calibration_error"} <= set(row["beyond_accuracy"])
        value, low, high = row["test"]["hr@20"]
        assert low <= value <= high
    table = (tmp_path / "study" / "table_2" / "table.md").read_text()
    assert re.search(r"\| Vanilla \(equal time\) \| [+-].* \| [+-].* \| equal time \|", table)
    assert re.search(r"\| All-patch \+ fusion \| [+-].* \| [+-].* \| own budget \|", table)
    assert "| method | coverage@20 | novelty@20 | popularity bias@20 | calibration error |" in table
    assert "Beside the paper" not in table  # which has no figures on the sample
    assert (tmp_path / "study" / "table_2" / "plot.svg").exists()

    # As if it had been stopped while it ranked: what was trained stays.
    directory = tmp_path / "study" / "methods" / "patchrec_i"
    (directory / "results.json").unlink()
    before = (directory / "finetune" / "stage.json").stat().st_mtime_ns
    # And as if it had been stopped between its training's end and the note of it: its seconds are those it took.
    pretraining = tmp_path / "study" / "stages" / "pretrain_10_160" / "stage.json"
    seconds = json.loads(pretraining.read_text())["seconds"]
    pretraining.unlink()
    reproduce.main(
        reproduce.Arguments(
            table=2, scale="tiny", output_dir=str(tmp_path / "study"), methods=["PatchRec-I", "SASRec"]
        )
    )
    assert "2 of 2: SASRec is done." in capsys.readouterr().out
    assert (directory / "finetune" / "stage.json").stat().st_mtime_ns == before
    assert json.loads(pretraining.read_text())["seconds"] == pytest.approx(seconds)
    repeated = json.loads((tmp_path / "study" / "table_2" / "results.json").read_text())
    planned = METHODS[:-1]  # methods of another plan are shown if they are asked for
    assert {row["method"]: row["test"] for row in repeated["methods"]} == {
        name: rows[name]["test"] for name in planned
    }

    page = tmp_path / "page" / "results.md"
    write.main([tmp_path / "study" / "table_2"], page)
    text = page.read_text()
    assert "--scale tiny --table 2 --dataset sample --methods CoVisitation" in text
    pictures = re.findall(r"\]\(([^)#]+\.svg)\)", text)
    assert pictures
    assert all((tmp_path / "page" / name).exists() for name in pictures)
    write.main([], page)
    assert page.read_text() == text  # made of what is kept, it is the same


@pytest.mark.slow
def test_a_directory_holds_one_study(tmp_path, scripts):
    """Finished results of another seed are not taken for this one's."""
    reproduce, _ = scripts
    settings = {"table": 2, "scale": "tiny", "output_dir": str(tmp_path), "methods": ["Popularity"]}
    settings["max_eval_rows"] = 20
    reproduce.main(reproduce.Arguments(**settings))
    table = (tmp_path / "table_2" / "table.md").read_text()
    assert "--dataset sample --max_eval_rows 20 --methods Popularity`" in table
    assert "\n20 test rows" in table
    with pytest.raises(SystemExit, match="seed: old 0, new 1"):
        reproduce.main(reproduce.Arguments(**settings, seed=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": 9}, "There is no table 9"),
        ({}, "exactly one of --table, --figure and --ablation"),
        ({"table": 2, "figure": 5}, "exactly one of --table, --figure and --ablation"),
        ({"ablation": "no-prompt"}, "There is no ablation no-prompt here. Choose --table 2, 3, 4 or --figure 2"),
        ({"table": 2, "methods": ["BERT4Rec"]}, "There is no method 'BERT4Rec'"),
        ({"table": 2, "methods": ["Fusion"]}, "needs 'PatchRec-I' and at least one baseline"),
        ({"table": 2, "methods": ["Vanilla (equal time)"]}, "'PatchRec-I' and 'Vanilla'. Run these methods first"),
        ({"table": 2, "num_examples": 0}, "--num_examples must be at least 1, got 0"),
        ({"table": 2, "max_eval_rows": -5}, "--max_eval_rows must be at least 1, got -5"),
        ({"table": 2, "data_dir": "."}, "The sample comes with the library"),
        ({"table": 2, "ties": "release"}, "--ties release needs the order of the raw file"),
        (
            {"figure": 8, "methods": ["Vanilla"]},
            "'Vanilla' ranks all users, but Figure 8 ranks users with more than 50",
        ),
        (
            {"table": 2, "methods": ["Vanilla (long histories)"]},
            "'Vanilla (long histories)' ranks users with more than 50 interactions, but Table 2 ranks all users",
        ),
        ({"table": 2, "epochs": ["Vanilla"]}, "--epochs takes METHOD=EPOCHS, such as Vanilla=2"),
        (
            {"table": 2, "epochs": ["Vanila=2"]},
            "--epochs names 'Vanila', which trains no LLM for epochs; did you mean 'Vanilla'?",
        ),
        ({"table": 2, "epochs": ["PatchRec-I=2"]}, "each stage of 'PatchRec-I' (pretrain, finetune), got 2. Write it"),
        (
            {"table": 2, "epochs": ["Vanilla=nan"]},
            "one number above 0 for each stage of 'Vanilla' (finetune), got nan.",
        ),
        (
            {"table": 2, "epochs": ["Vanilla=inf"]},
            "one number above 0 for each stage of 'Vanilla' (finetune), got inf.",
        ),
        ({"table": 2, "epochs": ["Vanilla=2", "Vanilla=3"]}, "--epochs names 'Vanilla' twice"),
        ({"table": 2, "epochs": ["Vanilla=0"]}, "one number above 0 for each stage of 'Vanilla' (finetune), got 0."),
    ],
)
def test_mistakes_are_named(tmp_path, scripts, arguments, message):
    reproduce, _ = scripts
    with pytest.raises(SystemExit, match=re.escape(message)):
        reproduce.main(reproduce.Arguments(scale="tiny", output_dir=str(tmp_path), **arguments))


def test_a_figure_needs_users_in_both_splits(tmp_path, scripts, monkeypatch):
    reproduce, _ = scripts
    study_class = import_module("reproduction.study").Study
    splits, _ = study_class("sample", None, "tiny", tmp_path).all_rows(10)
    validation, test = (set(splits[split]["user_id"]) for split in ("validation", "test"))
    (user, *_) = test - validation
    monkeypatch.setattr(study_class, "_num_interactions", {**dict.fromkeys(validation | test, 9), user: 60})
    with pytest.raises(SystemExit, match="Figure 8 ranks users with more than 50 interactions, but the validation"):
        reproduce.main(reproduce.Arguments(scale="tiny", figure=8, output_dir=str(tmp_path / "study")))
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.parametrize("loads_times", [True, False])
def test_recent_popularity_needs_times(tmp_path, scripts, monkeypatch, capsys, loads_times):
    """It counts all rows up to each moment of asking. Data without timestamps leaves it out, and the table says so."""
    reproduce, _ = scripts
    study_class = import_module("reproduction.study").Study
    if not loads_times:
        monkeypatch.setattr(study_class, "has_times", lambda study: False)
    settings = {"table": 2, "scale": "tiny", "methods": ["Popularity", "RecentPopularity"], "max_eval_rows": 20}
    reproduce.main(reproduce.Arguments(**settings, output_dir=str(tmp_path)))
    rows = json.loads((tmp_path / "table_2" / "results.json").read_text())["methods"]
    table = (tmp_path / "table_2" / "table.md").read_text()
    if loads_times:
        assert [row["settings"] for row in rows] == [{}, {"window in days": 7}]
        assert "is left out" not in table
        return
    assert [row["method"] for row in rows] == ["Popularity"]
    assert "2 of 2: RecentPopularity is left out: the rows have no timestamps." in capsys.readouterr().out
    assert "- RecentPopularity is left out: the rows have no timestamps." in table
    assert "RecentPopularity" not in table.split("Not run:")[1].splitlines()[0]


@pytest.mark.slow
def test_all_patch_resumes_after_an_epoch(tmp_path, scripts, monkeypatch):
    """An epoch's checkpoint has the seconds until then, without the rankings that choose the epoch."""
    trainings, stages = (import_module(f"reproduction.{name}") for name in ("trainings", "stages"))
    changes = {"all_patch_training": {"num_train_epochs": 2}, "max_eval_rows": 10}
    study = import_module("reproduction.study").Study("sample", None, "tiny", tmp_path, changes=changes)
    (stage,) = stages.stages_of(study, "All-patch")
    assert stage == stages.stages_of(study, "All-patch + fusion")[0]
    count = trainings.Stopwatch.on_epoch_end

    def stop_in_the_second_epoch(watch, args, state, control, **kwargs):
        if state.epoch > 1:
            raise KeyboardInterrupt
        count(watch, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainings.Stopwatch, "on_epoch_end", stop_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            trainings.train_stage(study, stage, study.backbone)
    kept = json.loads((stage.directory / "seconds.json").read_text())
    assert [Path(last_checkpoint(stage.directory)).name] == [f"checkpoint-{step}" for step in kept]
    values = trainings.train_stage(study, stage, study.backbone)
    assert values["seconds"] > max(kept.values())
    assert (values["epochs"], values["examples"]) == (2, 2 * study.num_train_examples)
    assert values["best_epoch"] in (1, 2)
    assert values == trainings.train_stage(study, stage, study.backbone)  # which is finished


def test_results_stand_under_the_name_of_their_data(tmp_path, scripts):
    reproduce, _ = scripts
    (tmp_path / "u.data").touch()
    arguments = {"table": 2, "scale": "tiny", "data_dir": str(tmp_path), "output_dir": str(tmp_path / "study")}
    with pytest.raises(SystemExit, match=r"holds ml-100k, not ml-1m\. Pass --dataset ml-100k"):
        reproduce.main(reproduce.Arguments(dataset="ml-1m", **arguments))
    # What cannot be read leaves no directory behind, which would belong to it.
    with pytest.raises(SystemExit, match=r"u\.data"):
        reproduce.main(reproduce.Arguments(dataset="ml-100k", **arguments))
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_studies_that_differ_in_a_change_are_kept_apart(tmp_path, scripts):
    reproduce, write = scripts
    for rows in (20, 30):
        settings = {"table": 2, "scale": "tiny", "methods": ["Popularity"], "max_eval_rows": rows}
        reproduce.main(reproduce.Arguments(**settings, output_dir=str(tmp_path / str(rows))))
    page = tmp_path / "page" / "results.md"
    write.main([tmp_path / "20" / "table_2", tmp_path / "30" / "table_2"], page)
    text = page.read_text()
    assert "\n20 test rows of 20 users" in text
    assert "\n30 test rows of 30 users" in text
    assert "--max_eval_rows 20 --methods Popularity`" in text
    assert "- Not run: RecentPopularity, CoVisitation" in text
    with pytest.raises(SystemExit, match="20 is no table or figure"):
        write.main([tmp_path / "20"], page)


def test_a_backbone_of_the_hub_has_a_place_on_the_page(tmp_path, scripts):
    _, write = scripts
    values = json.loads((ROOT / "docs" / "results" / "ml-100k-laptop-0-table_2" / "results.json").read_text())
    values["scale"]["backbone"] = values["changes"]["backbone"] = "some/model"
    study = tmp_path / "study" / "table_2"
    study.mkdir(parents=True)
    (study / "results.json").write_text(json.dumps(values))
    write.main([study], tmp_path / "page" / "results.md")
    assert "--backbone some/model" in (tmp_path / "page" / "results.md").read_text()


@pytest.mark.slow
def test_the_page_of_results_is_what_the_command_writes(tmp_path, scripts):
    """Nothing in docs/results.md is typed by hand."""
    _, write = scripts
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "results")
    write.main([], tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()
