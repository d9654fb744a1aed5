"""Writes a study's results as tables, as a plot, and as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from patchrec_hf import EvaluationReport
from patchrec_hf.runs import write_json

from .notes import name_of_reference, notes_of, reference_of, shown_budget, time_of
from .plans import BAR, Plan
from .plots import plot
from .settings import DATA, PAPER_BACKBONE
from .study import Study


PAPER = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
_METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
_EARLIER = (
    "**An earlier version of the library measured this**: with the paper's loss at every scale and fewer methods. Its "
    "`Fusion` joins PatchRec-I with one baseline."
)


def write_results(
    study: Study, plan: Plan, names: Sequence[str], latencies: dict[str, float], directory: Path
) -> None:
    """
    Writes `results.json`, `table.md` and `plot.svg`.

    Args:
        study ([`Study`]):
            The study that ran the methods.
        plan ([`Plan`]):
            The plan. Some of its methods may be missing.
        names (`Sequence[str]`):
            The finished methods to show, in order.
        latencies (`dict[str, float]`):
            Ranking time of methods, relative to the first one.
        directory (`pathlib.Path`):
            Where to write; it exists.
    """
    at_least = max((study.methods[name].min_interactions or 0 for name in names if name in study.methods), default=0)
    splits, catalog = study.load(min_interactions=at_least or None)
    results = [result for name in names if (result := study.result(name)) is not None]
    compared = {*names, plan.reference, *([] if at_least else [BAR])}  # the bar ranks all users
    reports = {name: _report(study, name) for name in compared if study.result(name) is not None}
    rows = [
        {
            **result,
            "latency": latencies.get(result["method"]),
            "less_reference": _difference(reports, result["method"], plan.reference),
            "less_bar": _difference(reports, result["method"], BAR),
            "beyond_accuracy": reports[result["method"]].beyond_accuracy((20,)),
        }
        for result in results
    ]
    skipped = {name: reason for name in plan.methods if (reason := study.reason_to_skip(name)) is not None}
    values = {
        "title": plan.title,
        "about": plan.about,
        "paper": plan.paper,
        "axis": plan.axis,
        "reference": plan.reference,
        **study.settings(),
        "planned": list(plan.methods),
        "skipped": skipped,
        "rows": {split: len(part) for split, part in splits.items()},
        "users": {split: len(part.unique("user_id")) for split, part in splits.items()},
        "items": len(catalog),
        "methods": rows,
    }
    write_json(directory / "results.json", values)
    (directory / "table.md").write_text(to_markdown(values), encoding="utf-8")
    plot(values, directory / "plot.svg")


def _difference(reports: dict[str, EvaluationReport], name: str, other: str) -> list[float] | None:
    """
    Returns a method's HR@20 minus another one's, with its interval by paired bootstrap. Returns `None` for the other
    method itself and without its report.
    """
    if other not in reports or name == other:
        return None
    row = reports[name].compare(reports[other]).row(by_predicate=pl.col("metric") == "hr@20", named=True)
    return [row["difference"], row["low"], row["high"]]


def _report(study: Study, name: str) -> EvaluationReport:
    """Returns a method's report on test rows. Methods that read fewer items of a history rank the same targets."""
    report = EvaluationReport.load(study.directory(name) / "test")
    return replace(report, targets=report.targets.with_columns(history_length=pl.lit(0, pl.Int64)))


def to_markdown(values: dict[str, Any]) -> str:
    """Formats the tables of one `results.json`, with notes that explain them."""
    rows, sizes, reference = values["methods"], values["rows"], reference_of(values)
    lines = [
        f"### {values['title']}: {values['dataset']}, {values['scale']['name']} scale",
        "",
        *([values["about"], ""] if "about" in values else []),
        *([_EARLIER, ""] if is_earlier(values) else []),
        f"`{_command(values)}`",
        "",
        f"{sizes['test']:,} test rows of {values['users']['test']:,} users, {values['items']:,} items to rank, "
        f"nothing excluded (HR@20 of a random order: {min(20 / values['items'], 1):.3f}); seed {values['seed']}. With "
        "95% intervals by resampling users.",
        "",
        *_table([_quality(row) for row in rows]),
        "",
        *_beyond_accuracy(rows),
        *_as_released(rows),
        *_beside_the_paper(values),
        "Differences, and what the methods cost:",
        "",
        *_table([_cost(row, reference, name_of_reference(values)) for row in rows]),
        "",
        *notes_of(values),
    ]
    return "\n".join(lines) + "\n"


def _quality(row: dict[str, Any]) -> dict[str, str]:
    return {
        "method": row["method"],
        **{name.upper(): _with_interval(row["test"][name]) for name in _METRICS},
        "compression ratio": _number(row.get("compression_ratio"), ".2f"),
        "HR@20, seen excluded": f"{row['test_seen_excluded']['hr@20'][0]:.3f}",
        "validation HR@20": f"{row['validation']['hr@20'][0]:.3f}",
    }


def _cost(row: dict[str, Any], reference: dict[str, Any] | None, name: str) -> dict[str, str]:
    is_llm = row["budget"] is not None
    time = time_of(row, reference)
    less_bar = row.get("less_bar")
    return {
        "method": row["method"],
        f"HR@20 minus {name}'s": _with_interval(row["less_reference"], "+") if row["less_reference"] else "–",
        **({f"HR@20 minus {BAR}'s": _with_interval(less_bar, "+") if less_bar else "–"} if name != BAR else {}),
        "budget": shown_budget(row, reference),
        "examples seen": f"{row['examples_seen']:,}" if is_llm else "–",
        "training time": _number(time, ".2f"),
        "history tokens": f"{row['history_tokens']:.0f}" if is_llm else "–",
        "title tokens read": f"{row['title_tokens_read']:.0f}" if is_llm else "–",
        "ranking time": _number(row["latency"], ".2f"),
    }


def _beyond_accuracy(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a table of the metrics of the lists and of the probabilities, where they were measured."""
    names = ("coverage@20", "novelty@20", "popularity_bias@20", "calibration_error")
    cells = []
    for row in rows:
        metrics = row.get("beyond_accuracy", {})
        shown = {name.replace("_", " "): _number(metrics.get(name), ".2f") for name in names[:-1]}
        cells.append({"method": row["method"], **shown, "calibration error": _number(metrics.get(names[-1]), ".4f")})
    if not any(row.get("beyond_accuracy") for row in rows):
        return []
    about = (
        "Beyond accuracy, of the 20 best items of each test row ([evaluation.md](evaluation.md) defines the metrics):"
    )
    return [about, "", *_table(cells), ""]


def is_earlier(values: dict[str, Any]) -> bool:
    """Returns whether an earlier version wrote these results: its scales do not say which loss titles had."""
    return "title_normalizer" not in values["scale"]


def _as_released(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a table of the metrics by the released code's decoding, where they were measured."""
    cells = [
        {"method": row["method"], **{name.upper(): _with_interval(row["release"][name]) for name in _METRICS}}
        for row in rows
        if "release" in row
    ]
    if not cells:
        return []
    about = (
        "As released: ranked by the decoding of the authors' code, once for @10 and once for @20, so the two can "
        "contradict each other (see evaluation.md):"
    )
    return [about, "", *_table(cells), ""]


def _beside_the_paper(values: dict[str, Any]) -> list[str]:
    """Returns a table of our figures and the paper's, where the paper has any."""
    figures = PAPER.get(values["dataset"], {})
    rows = [row for row in values["methods"] if row["method"] in figures]
    if not rows:
        return []
    names = (*_METRICS, "compression_ratio")
    cells = []
    for row in rows:
        line = {"method": row["method"]}
        for name in names:
            title = name.replace("_", " ") if "@" not in name else name.upper()
            ours = row["test"][name][0] if "@" in name else row.get(name)
            line[title] = _number(ours, ".3f" if "@" in name else ".2f")
            if "@" in name and any("release" in one for one in rows):
                line[f"{title}, as released"] = _number(row["release"][name][0], ".3f") if "release" in row else "–"
            line[f"paper's {title}"] = _number(figures[row["method"]].get(name), ".4f" if "@" in name else ".2f")
        cells.append(line)
    return [f"Beside the paper's figures, which come from {_origin(values)}:", "", *_table(cells), ""]


def _origin(values: dict[str, Any]) -> str:
    """Returns what our figures share with the paper's."""
    scale = values["scale"]
    has_backbone = scale["backbone"] == PAPER_BACKBONE
    has_budget = not scale.get("num_examples") and not values.get("epochs")  # one epoch a stage
    if has_backbone == has_budget:
        shared = f"{'the same' if has_backbone else 'another'} backbone and budget"
    else:
        shared = "the same backbone and another budget" if has_backbone else "another backbone and the same budget"
    return f"{shared}, and from another loss" if scale.get("title_normalizer") == "catalog" else shared


def _command(values: dict[str, Any]) -> str:
    """Returns the command that makes the same tables."""
    kind, number = values["title"].lower().split()
    options = {"scale": values["scale"]["name"], kind: number, "dataset": values["dataset"], **values["changes"]}
    if "release_metrics" in options:
        options["release_metrics"] = str(options["release_metrics"]).lower()
    if values["data_dir"] is not None:
        options["data_dir"] = "DIRECTORY"
    # Results of earlier versions do not name the order, which was stable. Prepared data has no other order.
    if DATA[values["dataset"]].has_file_order and values.get("ties", "stable") == "stable":
        options["ties"] = "stable"
    if values["seed"] != 0:
        options["seed"] = values["seed"]
    if values.get("epochs"):
        epochs = {name: ",".join(f"{number:g}" for number in given) for name, given in values["epochs"].items()}
        options["epochs"] = " ".join(_quoted(f"{name}={numbers}") for name, numbers in epochs.items())
    names = [row["method"] for row in values["methods"]]
    if names != values["planned"]:
        options["methods"] = " ".join(_quoted(name) for name in names)
    return " ".join(["python examples/reproduce_paper.py", *(f"--{name} {value}" for name, value in options.items())])


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Formats rows of one shape. A column without any value is left out."""
    columns = [name for name in rows[0] if any(row[name] != "–" for row in rows)]
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row[name] for name in columns)} |" for row in rows),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _with_interval(triple: list[float], sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.3f}" for number in triple)
    return f"{value} ({low}{' to ' if sign else '–'}{high})"
