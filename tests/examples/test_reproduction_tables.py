"""The tables and plots of a study, from results made by hand."""

import re
from importlib import import_module
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
STAGES = [{"stage": "finetune", "examples": 100, "machine": {"device": "cuda"}}]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return lambda name: import_module(f"reproduction.{name}")


def metrics(value):
    return {name: [value, value - 0.01, value + 0.01] for name in METRICS}


def row(method, value, budget="one epoch a stage", **others):
    return {
        "method": method,
        "budget": budget,
        "examples_seen": 100,
        "train_seconds": 10.0,
        "stages": STAGES,
        "history_tokens": 300.0,
        "compression_ratio": 3.375,
        "title_tokens_read": 40.0,
        "settings": {"max_history": 100},
        "validation": metrics(value),
        "test": metrics(value),
        "test_seen_excluded": metrics(value),
        "latency": 1.0,
        "less_reference": None,
    } | others


def results(rows, **others):
    return {
        "title": "Table 2",
        "about": "All methods.",
        "axis": "HR@20",
        "reference": "PatchRec-I",
        "dataset": "ml-100k",
        "data_dir": None,
        "scale": {"name": "paper", "backbone": "meta-llama/Llama-3.2-1B-Instruct", "baseline_epochs": 200},
        "changes": {},
        "epochs": {},
        "ties": "release",
        "seed": 0,
        "planned": [one["method"] for one in rows],
        "rows": {"train": 100, "validation": 10, "test": 10},
        "users": {"train": 5, "validation": 5, "test": 5},
        "items": 1682,
        "methods": rows,
    } | others


def cells(markdown, method, number):
    """The cells of a method in the table with this number, by column."""
    tables = [part.splitlines() for part in markdown.split("\n\n") if part.startswith("| method")]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[number]]
    return next(dict(zip(lines[0], line, strict=True)) for line in lines if line[0] == method)


def test_our_figures_beside_the_papers(module):
    item = row("PatchRec-I", 0.15, release=metrics(0.14))
    vanilla = row("Vanilla", 0.12, less_reference=[-0.03, -0.05, -0.01], compression_ratio=1.0)
    markdown = module("tables").to_markdown(results([vanilla, item]))
    assert cells(markdown, "PatchRec-I", 1)["HR@20"] == "0.140 (0.130–0.150)"  # as released
    beside = cells(markdown, "PatchRec-I", 2)
    assert {name: beside[name] for name in ("HR@10", "HR@10, as released", "paper's HR@10")} == {
        "HR@10": "0.150",
        "HR@10, as released": "0.140",
        "paper's HR@10": "0.0967",
    }
    assert (beside["compression ratio"], beside["paper's compression ratio"]) == ("3.38", "3.38")
    assert "which come from the same backbone and budget:" in markdown
    assert "once for @10 and once for @20" in markdown
    assert cells(markdown, "Vanilla", 3)["HR@20 minus PatchRec-I's"] == "-0.030 (-0.050 to -0.010)"
    assert "below PatchRec-I: Vanilla" in markdown
    assert "each stage saw the 100 targets of the training set once" in markdown
    assert "`python examples/reproduce_paper.py --scale paper --table 2 --dataset ml-100k`" in markdown


def test_another_backbone_is_said_where_it_is_so(module):
    rows = [row("PatchRec-I", 0.15)]
    scale = {"name": "paper", "backbone": "another/model", "baseline_epochs": 200}
    changes = {"backbone": "another/model", "release_metrics": True}
    markdown = module("tables").to_markdown(results(rows, scale=scale, changes=changes))
    assert "which come from another backbone and the same budget:" in markdown
    assert "--backbone another/model --release_metrics true`" in markdown
    assert "backbone and budget" not in module("tables").to_markdown(results(rows, dataset="sample"))


@pytest.mark.parametrize(
    "others",
    [
        {"epochs": {"PatchRec-I": [1.0, 2.0]}},
        {"scale": {"name": "paper", "backbone": "meta-llama/Llama-3.2-1B-Instruct", "num_examples": 2000}},
    ],
)
def test_another_budget_is_said_where_it_is_so(module, others):
    markdown = module("tables").to_markdown(results([row("PatchRec-I", 0.15)], **others))
    assert "which come from the same backbone and another budget:" in markdown


@pytest.mark.parametrize(
    ("others", "end"),
    [
        ({"changes": {"release_metrics": False}}, "--dataset ml-100k --release_metrics false`"),
        ({"ties": "stable"}, "--dataset ml-100k --ties stable`"),
        ({"ties": None, "data_dir": "prepared"}, "--dataset ml-100k --data_dir DIRECTORY`"),
    ],
)
def test_the_command_of_a_table(module, others, end):
    (command,) = re.findall("`python .*`", module("tables").to_markdown(results([row("PatchRec-I", 0.15)], **others)))
    assert command.endswith(end)


def test_results_of_earlier_versions(module):
    """They name neither a reference nor an axis, and have no compression ratio."""
    item, other = row("PatchRec-I", 0.15, "examples"), row("PatchRec-S", 0.14, "time")
    for one in (item, other):
        del one["compression_ratio"]
    values = results([item, other])
    for name in ("about", "axis", "reference", "epochs", "ties"):
        del values[name]
    markdown = module("tables").to_markdown(values)
    assert [cells(markdown, name, -1)["budget"] for name in ("PatchRec-I", "PatchRec-S")] == [
        "equal examples",
        "equal time",
    ]
    assert "compression ratio" not in markdown.splitlines()[8]
    assert "**An earlier version of the library measured this**" in markdown
    assert "--dataset ml-100k --ties stable`" in markdown


def test_comparisons_with_the_reference_and_with_co_visitation(module):
    """Each difference says whether it is of equal examples, of equal time, or of neither."""
    bar = row("CoVisitation", 0.2, budget=None, less_reference=[0.05, 0.01, 0.09], settings={})
    item = row("PatchRec-I", 0.15, "equal examples", less_bar=[-0.05, -0.09, -0.01])
    session = row(
        "PatchRec-S", 0.14, "equal examples", less_reference=[-0.01, -0.02, 0.01], less_bar=[-0.06, -0.1, -0.02]
    )
    fused = row(
        "All-patch + fusion", 0.25, "own budget", less_reference=[0.1, 0.05, 0.15], less_bar=[0.05, 0.02, 0.08]
    )
    markdown = module("tables").to_markdown(results([bar, item, session, fused]))
    shown = {
        name: cells(markdown, name, -1) for name in ("CoVisitation", "PatchRec-I", "PatchRec-S", "All-patch + fusion")
    }
    budgets = [one["budget"] for one in shown.values()]
    assert budgets == ["own budget", "equal examples", "equal examples and time", "own budget"]
    assert shown["CoVisitation"]["HR@20 minus CoVisitation's"] == "–"
    assert shown["All-patch + fusion"]["HR@20 minus CoVisitation's"] == "+0.050 (+0.020 to +0.080)"
    assert "- Own budget: the difference is of neither equal examples nor equal time." in markdown
    assert "above CoVisitation: All-patch + fusion; below CoVisitation: PatchRec-I, PatchRec-S" in markdown


def test_beyond_accuracy(module):
    metrics = {"coverage@20": 0.5, "novelty@20": 3.25, "popularity_bias@20": 1.5, "calibration_error": 0.0125}
    rows = [row("PatchRec-I", 0.15, beyond_accuracy=metrics), row("PatchRec-S", 0.14, beyond_accuracy={})]
    markdown = module("tables").to_markdown(results(rows))
    assert list(cells(markdown, "PatchRec-I", 1).values()) == ["PatchRec-I", "0.50", "3.25", "1.50", "0.0125"]
    assert list(cells(markdown, "PatchRec-S", 1).values()) == ["PatchRec-S", "–", "–", "–", "–"]
    assert "- Coverage: share of the catalog in any list." in markdown
    assert "Beyond accuracy" not in module("tables").to_markdown(results([row("PatchRec-I", 0.15)]))


def test_the_loss_is_named(module):
    scale = {
        "name": "laptop",
        "backbone": {},
        "num_examples": 9,
        "title_normalizer": "catalog",
        "title_temperature": 1.0,
    }
    rows = [
        row("PatchRec-I", 0.15, settings={"title_normalizer": "catalog", "title_temperature": 1.0}),
        row("PatchRec-I (vocabulary)", 0.14, settings={"title_normalizer": "vocabulary"}),
    ]
    markdown = module("tables").to_markdown(results(rows, scale=scale | {"baseline_epochs": 1}))
    assert '(`title_normalizer="catalog"`, temperature 1). PatchRec-I (vocabulary): the paper\'s loss' in markdown
    assert "another backbone and budget, and from another loss:" in markdown
    assert "An earlier version" not in markdown


def test_fusions_say_their_weights(module):
    settings = {"weights": {"item": 0.71234, "seen": -3.0}, "log-likelihood": -6.123456}
    fused = row("All-patch + fusion", 0.2, "own budget", settings=settings, stages=[STAGES[0] | {"stage": "items"}])
    markdown = module("tables").to_markdown(results([row("PatchRec-I", 0.15), fused]))
    assert "- All-patch + fusion: weights (item 0.7123, seen -3), log-likelihood -6.123." in markdown
    assert "their validation HR@20 is of the rows that the weights come from" in markdown
    assert "- All-patch: trained for the epochs of its recipe" in markdown


@pytest.mark.parametrize(
    ("axis", "places"),
    [
        ("items", {"Vanilla": [20, 100], "PatchRec-I": [100]}),
        ("tokens", {"Vanilla": [150, 450], "PatchRec-I": [180]}),
        ("compression ratio", {"Vanilla": [1, 1], "PatchRec-I": [2.5]}),
        ("time", {"Vanilla": [1, 3], "PatchRec-I": [0.5]}),
    ],
)
def test_a_line_for_each_series(module, monkeypatch, tmp_path, axis, places):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    rows = [
        row("Vanilla", 0.1, history_tokens=450, compression_ratio=1, latency=3),
        row("Vanilla (20 items)", 0.1, settings={"max_history": 20}, history_tokens=150, compression_ratio=1),
        row("PatchRec-I", 0.15, history_tokens=180, compression_ratio=2.5, latency=0.5),
        row("Popularity", 0.05, budget=None, settings={}),
    ]
    module("plots").plot(results(rows, axis=axis), tmp_path / "plot.svg")
    (axes,) = figures[0].axes
    drawn = {lines.get_label(): list(lines.lines[0].get_xdata()) for lines in axes.containers}
    assert drawn == places
    assert axes.get_xlabel()


def test_times_that_were_not_measured(module, tmp_path, recwarn):
    """Several processes measure no ranking time."""
    values = results([row("PatchRec-I", 0.15, latency=None)], axis="time")
    assert "anking time" not in module("tables").to_markdown(values)
    module("plots").plot(values, tmp_path / "plot.svg")
    assert not recwarn.list


def test_bars_for_a_table(module, monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    rows = [row("PatchRec-I", 0.15), row("Popularity", 0.05, budget=None)]
    module("plots").plot(results(rows), tmp_path / "plot.svg")
    bars = figures[0].axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.15, 0.05]
    assert bars[0].get_facecolor() != bars[1].get_facecolor()
