"""The plans of the paper's tables and figures, held against the paper's sections 4.1 to 4.6."""

import ast
import json
import os
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from patchrec_hf import (
    DropLayout,
    EvaluationReport,
    ItemPatchLayout,
    SessionPatchLayout,
    TextLayout,
    load_recommendation_data,
)


ROOT = Path(__file__).parents[2]
TEXT, ITEM, BOTH = TextLayout(), ItemPatchLayout(5), ("pretrain", "finetune")
LENGTHS = (" (20 items)", " (40 items)", " (60 items)", " (80 items)", "")  # of 100
TEXT_COUNTS = (5, 25, 50, 75)  # the paper does not say how many items stay text in Figures 2, 6 and 7


def item(count):
    return "PatchRec-I" if count == 5 else f"PatchRec-I ({count} as text)"


def like(count):
    return "Vanilla (tokens of PatchRec-I)" if count == 5 else f"Vanilla (tokens of PatchRec-I, {count} as text)"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return lambda name: import_module(f"reproduction.{name}")


@pytest.fixture
def script(module):
    return import_module("reproduce_paper")


def table_of(output, method):
    """The cells of a method's lines in what a dry run prints, by column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:] if line[0] == method]


@pytest.mark.parametrize(
    ("kind", "number", "methods"),
    [
        (
            "table",
            2,
            ["GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec", "Vanilla", "PatchRec-I", "PatchRec-S"],
        ),
        (
            "table",
            3,
            ["PatchRec-I without pre-training", "PatchRec-I", "PatchRec-S without pre-training", "PatchRec-S"],
        ),
        ("table", 4, ["Vanilla", "Dropout", "Patch Pre-training"]),
        (
            "figure",
            5,
            [f"{name}{length}" for name in ("Vanilla", "PatchRec-I") for length in LENGTHS],
        ),
        ("figure", 6, [name for count in TEXT_COUNTS for name in (like(count), item(count))]),
        (
            "figure",
            7,
            [
                "Vanilla",
                *(item(count) for count in TEXT_COUNTS),
                "PatchRec-S (groups of 2)",
                "PatchRec-S",
                "PatchRec-S (groups of 10)",
                "PatchRec-S (groups of 20)",
            ],
        ),
        (
            "figure",
            8,
            ["Vanilla (long histories)", "PatchRec-I (long histories)", "PatchRec-S (long histories)"],
        ),
    ],
)
def test_the_methods_of_each(module, kind, number, methods):
    plans = module("plans")
    given = {"table": None, "figure": None, "ablation": None, kind: number}
    plan = plans.find_plan(**given, max_history=100, session_group_size=5)
    # The paper's Table 2 lacks these.
    own = {"Popularity", "RecentPopularity", "CoVisitation", "Transitions", "Fusion", "PatchRec-I (vocabulary)"}
    own |= {"All-patch", "All-patch + fusion"}
    assert [name for name in plan.methods if name not in own] == methods
    assert own <= set(plan.methods) or (kind, number) != ("table", 2)
    assert plan.title == f"{kind.title()} {number}"


def test_figures_2_and_7_show_the_same_methods(module):
    find = module("plans").find_plan
    two, seven = (find(None, figure, None, 100, 5) for figure in (2, 7))
    assert two.methods == seven.methods
    assert two.axis == seven.axis == "compression ratio"


@pytest.mark.parametrize(
    ("name", "layout", "stages", "others"),
    [
        ("Vanilla", TEXT, ("finetune",), {}),
        ("PatchRec-I", ITEM, BOTH, {}),
        ("PatchRec-S", SessionPatchLayout(20), BOTH, {}),  # 20 on MovieLens-100K
        ("PatchRec-I without pre-training", ITEM, ("finetune",), {}),
        ("PatchRec-S without pre-training", SessionPatchLayout(20), ("finetune",), {}),
        ("Dropout", TEXT, ("dropout",), {}),  # nothing is dropped at test
        ("Patch Pre-training", ITEM, ("pretrain",), {}),
        ("Vanilla (40 items)", TEXT, ("finetune",), {"max_history": 40}),
        ("PatchRec-I (40 items)", ITEM, BOTH, {"max_history": 40}),
        ("PatchRec-I (75 as text)", ItemPatchLayout(75), BOTH, {}),
        (like(75), TEXT, ("finetune",), {"tokens_of": "PatchRec-I (75 as text)"}),
        ("PatchRec-S (groups of 10)", SessionPatchLayout(10), BOTH, {}),
        ("Vanilla (long histories)", TEXT, ("finetune",), {"max_history": 150, "min_interactions": 500}),
        ("PatchRec-I (long histories)", ItemPatchLayout(20), BOTH, {"max_history": 350, "min_interactions": 500}),
        ("PatchRec-S (long histories)", SessionPatchLayout(20), BOTH, {"max_history": "all", "min_interactions": 500}),
        ("Drop 90%", DropLayout(0.9), ("finetune",), {}),
        ("PatchRec-I (vocabulary)", ITEM, BOTH, {"title_normalizer": "vocabulary"}),
        ("All-patch", ItemPatchLayout(0), ("items",), {}),
        ("All-patch + fusion", ItemPatchLayout(0), ("items",), {"has_fusion": True}),
    ],
)
def test_what_each_method_is(module, name, layout, stages, others):
    plans = module("plans")
    assert plans.llm_methods(20, 100)[name] == plans.LLMMethod(layout, stages, **others)


@pytest.mark.parametrize("max_history", [10, 20, 100])
def test_every_plan_names_methods_that_exist(module, max_history):
    plans = module("plans")
    known = {*plans.llm_methods(5, max_history), *plans.BASELINES, plans.FUSION}
    choices = [("table", plans.TABLES), ("figure", plans.FIGURES), ("ablation", plans.ABLATIONS)]
    for kind, values in choices:
        for value in values:
            given = {"table": None, "figure": None, "ablation": None, kind: value}
            plan = plans.find_plan(**given, max_history=max_history, session_group_size=5)
            assert len(set(plan.methods)) == len(plan.methods) >= 3
            assert set(plan.methods) <= known
            assert plan.reference in plan.methods
            waits_for = [name.removesuffix(" (equal time)") for name in plan.methods]
            assert set(waits_for) <= set(plan.methods)


def test_scales_differ_in_settings_only():
    """No line of code asks for a scale by its name."""
    scripts = [*(ROOT / "examples" / "reproduction").glob("*.py"), ROOT / "examples" / "reproduce_paper.py"]
    names = {"paper", "laptop", "smoke", "tiny"}
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                compared = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
                assert not compared & names, f"{script.name}, line {node.lineno}"


@pytest.mark.parametrize(
    ("scale", "normalizer"), [("paper", "vocabulary"), ("laptop", "catalog"), ("tiny", "catalog")]
)
def test_the_loss_of_each_scale(module, tmp_path, scale, normalizer):
    study, stages_of = module("study").Study("sample", None, scale, tmp_path), module("stages").stages_of
    own, papers = (stages_of(study, name) for name in ("PatchRec-I", "PatchRec-I (vocabulary)"))
    assert {stage.title_normalizer for stage in own} == {normalizer}
    assert {stage.title_normalizer for stage in papers} == {"vocabulary"}
    is_same = normalizer == "vocabulary"
    assert (own[0].directory == papers[0].directory) == is_same  # pre-training with another loss is another one
    reason = "at this scale, PatchRec-I has this loss" if is_same else None
    assert study.reason_to_skip("PatchRec-I (vocabulary)") == reason


def test_the_budget_of_the_all_patch_recipe(module, tmp_path):
    study, stages = module("study").Study("sample", None, "laptop", tmp_path), module("stages")
    (stage,) = stages.stages_of(study, "All-patch")
    assert stage.num_examples == 10 * 27_012  # the recipe's epochs
    assert (stage.learning_rate, stages.budget_of(study, "All-patch")) == (4e-3, "own budget")
    given = module("study").Study("sample", None, "laptop", tmp_path, epochs={"All-patch": (2.0,)})
    assert stages.stages_of(given, "All-patch")[0].num_examples == 2 * 27_012
    assert stages.budget_of(given, "All-patch") == "2 epochs"


def test_the_papers_figures_belong_to_methods(module):
    plans, paper = module("plans"), module("tables").PAPER
    known = {*plans.llm_methods(5, 100), *plans.PAPER_BASELINES}
    assert {name for methods in paper.values() for name in methods} <= known
    assert paper["ml-1m"]["PatchRec-I"]["compression_ratio"] == 3.44
    assert paper["ml-1m"]["Patch Pre-training"]["hr@20"] == 0.161
    assert paper["goodreads"]["PatchRec-S"]["hr@20"] == 0.1013


def dry_run(script, capsys, **arguments):
    script.main(script.Arguments(**{"scale": "paper", "dataset": "ml-100k", "dry_run": True} | arguments))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "examples", "batch_size"),
    [("ml-100k", 47_749, 64), ("goodreads", 149_773, 32)],
)
def test_a_dry_run_of_the_paper(script, module, capsys, tmp_path, dataset, examples, batch_size):
    output = dry_run(script, capsys, table=2, dataset=dataset, device_memory=80, output_dir=str(tmp_path / "study"))
    for method, num_stages in (("Vanilla", 1), ("PatchRec-I", 2), ("PatchRec-S", 2)):
        stages = table_of(output, method)
        assert len(stages) == num_stages
        for stage in stages:
            assert stage["budget"] == "one epoch a stage"
            assert stage["steps"] == f"{-(-examples // batch_size):,}"
            assert stage["rows a step"] == str(batch_size)
            assert batch_size % int(stage["rows a forward"]) == 0
            assert "too much" not in stage["GiB"]
    assert table_of(output, "PatchRec-S")[0]["time"] == "shared"  # one pre-training serves both
    paper = module("tables").PAPER[dataset]
    for method in ("Vanilla", "PatchRec-I", "PatchRec-S"):
        ratio = table_of(output, method)[-1]["compression"]
        assert ratio == f"{paper[method]['compression_ratio']:.2f}"  # as in Table 2
    assert "pass --device_tflops" in output
    targets = f"{10 * examples:,} targets, up to 100 in a sequence, at the learning rate 5e-05"
    assert f"- All-patch and All-patch + fusion: {targets}" in output
    assert not table_of(output, "PatchRec-I (vocabulary)")  # PatchRec-I has this loss already
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_dry_run_of_every_table_and_figure(script, module, capsys):
    plans = module("plans")
    for kind, values in (("table", plans.TABLES), ("figure", plans.FIGURES[:-1]), ("ablation", plans.ABLATIONS)):
        for value in values:
            output = dry_run(script, capsys, device_memory=80, device_tflops=100, **{kind: value})
            assert "of training, without ranking and baselines, at 40% of 100 TFLOP/s a device" in output
            assert "on 1 × cuda with 80 GiB, in bfloat16" in output


def test_tokens_of_a_dry_run(script, module, capsys):
    """By hand: the tokens of each of the 20 typical histories, as text and in PatchRec-I's layout."""
    output = dry_run(script, capsys, figure=5, device_memory=80)
    facts, around = module("settings").DATA["ml-100k"].facts, 100 + 4.86
    for method, length, tokens in (
        ("Vanilla (20 items)", 20, lambda items: 4.86 * items),
        ("Vanilla", 100, lambda items: 4.86 * items),
        ("PatchRec-I (60 items)", 60, lambda items: 4.86 * min(items, 5) + 2 * max(items - 5, 0)),
    ):
        expected = 47_749 * np.mean([around + tokens(min(items, length)) for items in facts.histories])
        assert table_of(output, method)[-1]["tokens"] == f"{expected / 1e6:.1f} M"


def test_as_many_tokens(script, module, capsys):
    """Vanilla's histories take as many tokens on average as PatchRec-I's, and one more item would take too many."""
    (fitted,) = table_of(dry_run(script, capsys, figure=6, device_memory=80), like(25))
    histories, length = module("settings").DATA["ml-100k"].facts.histories, int(fitted["items"])
    shorter, longer = (sum(4.86 * min(items, number) for items in histories) for number in (length, length + 1))
    lengths = [min(items, 100) for items in histories]
    assert shorter <= sum(4.86 * min(items, 25) + 2 * max(items - 25, 0) for items in lengths) < longer


def test_the_device_of_a_dry_run(script, capsys):
    here = dry_run(script, capsys, table=4, methods=["Vanilla"])
    assert "on 1 × cpu" in here
    assert re.search(r"about [\d.,]+ (s|min|h|days) of training", here)
    slow, fast = (
        dry_run(script, capsys, table=4, methods=["Vanilla"], device_memory=80, device_tflops=number)
        for number in (1, 10)
    )
    assert table_of(slow, "Vanilla")[0]["time"] == "4.76 days"  # 8 x 1.236e9 x 16.7e6 operations at 0.4e12 a second
    assert table_of(fast, "Vanilla")[0]["time"] == "11.4 h"


def test_fewer_rows_a_forward_where_memory_is_short(script, capsys):
    rows = {}
    for memory in (30, 640):
        output = dry_run(script, capsys, table=4, methods=["Vanilla"], device_memory=memory)
        rows[memory] = int(table_of(output, "Vanilla")[0]["rows a forward"])
    assert rows[30] < rows[640] == 64
    given = dry_run(script, capsys, table=4, methods=["Vanilla"], device_memory=640, per_device_batch_size=4)
    assert table_of(given, "Vanilla")[0]["rows a forward"] == "4"
    assert "(too much)" in dry_run(script, capsys, table=4, methods=["Vanilla"], device_memory=4)


def test_the_process_with_least_memory_decides(module, monkeypatch):
    costs = module("costs")
    gathered: list[int | None] = [40, 30]
    monkeypatch.setattr(costs, "gather_object", lambda own: gathered)
    assert costs.this_device().memory == 30
    gathered[0] = None
    assert costs.this_device().memory is None


def test_a_resumed_stage_keeps_its_rows_a_forward(script, module, tmp_path):
    """A checkpoint can only be resumed with the same forwards, although the free memory may have changed."""
    trainings, checkpoints = module("trainings"), import_module("patchrec_hf.training.checkpoints")
    study = module("study").Study("sample", None, "paper", tmp_path, changes={"num_examples": 64})
    (stage,) = module("stages").stages_of(study, "Vanilla")
    checkpoint = stage.directory / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    facts = {"rows per forward of all processes": 2, "gradient_accumulation_steps": 16}
    (checkpoint / checkpoints.RUN_NAME).write_text(json.dumps(facts))
    assert trainings.rows_per_forward(study, stage, 4.0) == 2
    given = module("study").Study("sample", None, "paper", tmp_path, 4, changes={"num_examples": 64})
    assert trainings.rows_per_forward(given, stage, 4.0) == 4


def test_epochs_of_a_method(script, capsys):
    epochs = ["Vanilla=2", "PatchRec-I=1,3"]
    output = dry_run(script, capsys, table=2, methods=["Vanilla", "PatchRec-I"], epochs=epochs)
    assert [stage["steps"] for stage in table_of(output, "Vanilla")] == ["1,494"]
    assert [stage["steps"] for stage in table_of(output, "PatchRec-I")] == ["747", "2,241"]
    assert table_of(output, "PatchRec-I")[0]["budget"] == "1 + 3 epochs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": 2, "backbone": "nobody/knows-this"}, "The size of the backbone 'nobody/knows-this' is not known"),
        ({"table": 4, "per_device_batch_size": 5}, "A step has 64 rows, which cannot be divided into forwards of 5"),
        ({"table": 4, "device_memory": 0}, "--device_memory must be above 0 and finite, got 0"),
        ({"table": 4, "device_memory": 80, "dry_run": False}, "--device_memory belongs to --dry_run"),
        (
            {"figure": 8},
            "with more than 500 interactions, but no user of ml-100k who is ranked has more than 322",
        ),
    ],
)
def test_what_a_dry_run_cannot_know(script, capsys, arguments, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        dry_run(script, capsys, **arguments)


@pytest.mark.slow
def test_a_dry_run_knows_the_longest_history(script, capsys):
    """Rows hold no more items than the scale's histories, but users have more."""
    output = dry_run(script, capsys, scale="tiny", dataset="sample", figure=8)
    lengths = [table_of(output, f"{name} (long histories)")[-1]["items"] for name in ("Vanilla", "PatchRec-S")]
    assert lengths == ["15", "119"]


def test_a_dry_run_with_a_backbone_without_tokenizer(script, capsys, tmp_path):
    config = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "vocab_size": 300}))
    with pytest.raises(SystemExit, match=r"tokenizer of the backbone .* cannot be read, so the tokens of titles"):
        dry_run(script, capsys, table=4, dataset="sample", backbone=str(tmp_path))


def test_a_dry_run_without_data(script, capsys, tmp_path):
    with pytest.raises(SystemExit, match=rf"{tmp_path} cannot be loaded.*Pass its directory as --data_dir"):
        dry_run(script, capsys, table=2, dataset="ml-1m", data_dir=str(tmp_path))


@pytest.mark.slow
def test_a_real_run_takes_the_steps_of_the_dry_run(script, capsys, tmp_path):
    settings = {"scale": "tiny", "dataset": "sample", "table": 4, "methods": ["Dropout"], "max_eval_rows": 10}
    settings |= {"output_dir": str(tmp_path), "epochs": ["Dropout=0.002"]}
    planned = table_of(dry_run(script, capsys, **settings), "Dropout")
    script.main(script.Arguments(**settings))
    (row,) = json.loads((tmp_path / "table_4" / "results.json").read_text())["methods"]
    assert [f"{stage['steps']:,}" for stage in row["stages"]] == [stage["steps"] for stage in planned]
    assert row["budget"] == "0.002 epochs"
    assert row["settings"]["layout"] == "TextLayout()"
    assert row["compression_ratio"] == 1.0
    assert "--epochs Dropout=0.002 --methods Dropout`" in (tmp_path / "table_4" / "table.md").read_text()


@pytest.mark.slow
def test_release_metrics(script, tmp_path):
    """Each cut-off has a decoding of its own. The table shows its metrics beside the exact ranking's."""
    settings = {"scale": "tiny", "table": 4, "methods": ["Vanilla"], "num_examples": 16, "max_eval_rows": 6}
    script.main(script.Arguments(**settings, release_metrics=True, output_dir=str(tmp_path)))
    (row,) = json.loads((tmp_path / "table_4" / "results.json").read_text())["methods"]
    assert {name for name in row["release"] if "title" not in name} == {"hr@10", "ndcg@10", "hr@20", "ndcg@20"}
    reports = [EvaluationReport.load(tmp_path / "methods" / "vanilla" / f"release_{k}") for k in (10, 20)]
    assert [report.ks for report in reports] == [(10,), (20,)]
    assert row["release"]["hr@20"][0] == reports[1].metrics()["hr@20"]
    assert "--release_metrics true --methods Vanilla`" in (tmp_path / "table_4" / "table.md").read_text()


@pytest.mark.slow
def test_every_table_and_figure_runs(script, module, tmp_path):
    plans = module("plans")
    for kind, values in (("table", plans.TABLES), ("figure", plans.FIGURES)):
        for value in values:
            settings = {"scale": "tiny", "num_examples": 32, "max_eval_rows": 8, "output_dir": str(tmp_path)}
            if (kind, value) == ("table", 2):
                settings["methods"] = ["CoVisitation", "Vanilla", "PatchRec-I", "PatchRec-S"]
            script.main(script.Arguments(**settings, **{kind: value}))
            directory = tmp_path / f"{kind}_{value}"
            results = json.loads((directory / "results.json").read_text())
            expected = settings.get("methods", results["planned"])
            assert [row["method"] for row in results["methods"]] == expected
            assert (directory / "plot.svg").stat().st_size > 0
    lengths = {row["method"]: row["settings"]["max_history"] for row in results["methods"]}
    assert list(lengths.values()) == [15, 35, 119]  # 119: all items of the user with most of them
    assert results["rows"]["test"] == 8
    assert results["users"]["test"] <= 43  # who have more than 50 interactions


@pytest.mark.parametrize(
    ("dataset", "variable"), [("ml-100k", "PATCHREC_ML100K_DIR"), ("goodreads", "PATCHREC_GOODREADS_DIR")]
)
def test_known_counts_are_those_of_the_data(module, dataset, variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    facts = module("settings").DATA[dataset].facts
    splits, _ = load_recommendation_data(os.environ[variable], 10**6, targets_per_row=10**6)
    targets = np.concatenate([np.asarray(positions) for positions in splits["train"]["target_positions"]])
    assert len(targets) == facts.num_train_examples == facts.num_train_rows
    assert module("costs").twentieths(targets) == facts.histories
    assert np.minimum(targets, 60).mean() == pytest.approx(facts.mean(float, 60), abs=0.05)
    assert max(len(items) - 1 for items in splits["test"]["item_ids"]) == facts.longest_history


def test_ties_change_nearly_all_test_rows_of_ml_100k():
    """docs/baselines.md states this number."""
    if "PATCHREC_ML100K_DIR" not in os.environ:
        pytest.skip("PATCHREC_ML100K_DIR is not set")
    rows = [
        load_recommendation_data(os.environ["PATCHREC_ML100K_DIR"], ties=ties)[0]["test"].to_list()
        for ties in ("stable", "release")
    ]
    assert len(rows[0]) == len(rows[1]) == 1024
    assert sum(one == other for one, other in zip(*rows, strict=True)) == 5
