"""Writes a study's results as a table that also has the paper's figures, as a plot, and as one JSON file."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from patchrec_hf import EvaluationReport
from patchrec_hf.runs import write_json

from .plans import REFERENCE
from .study import Study


PAPER = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
_NOT_SHOWN = ("setting", "of")  # shown in results.json only: the chosen grid point, and the baselines to choose from
_STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}
_PAPER_COLUMNS = {"paper HR@20": "hr@20", "paper NDCG@10": "ndcg@10"}
_METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
_SAME_TIME = 0.05  # two trainings count as equally long if their times differ by no more than this share


def write_results(study: Study, title: str, names: list[str], planned: list[str], latencies: dict[str, float]) -> Path:
    """
    Writes `results.json`, `table.md` and `plot.svg` into a directory of the study.

    Args:
        study ([`Study`]):
            The study that ran the methods.
        title (`str`):
            Title of the table or figure, such as `"Table 2"`.
        names (`list[str]`):
            The finished methods to show, in order.
        planned (`list[str]`):
            All methods of the table or figure, finished or not.
        latencies (`dict[str, float]`):
            Ranking time of methods, relative to the first one.

    Returns:
        `pathlib.Path`: the directory.
    """
    directory = study.output_dir / title.lower().replace(" ", "_")
    directory.mkdir(parents=True, exist_ok=True)
    splits, catalog = study.load()
    results = [result for name in names if (result := study.result(name)) is not None]
    rows = [
        {
            **result,
            "latency": latencies.get(result["method"]),
            "paper": PAPER.get(study.dataset, {}).get(result["method"], {}),
            "less_reference": _less_reference(study, result),
        }
        for result in results
    ]
    values = {
        "title": title,
        **study.settings(),
        "planned": planned,
        "rows": {split: len(part) for split, part in splits.items()},
        "users": {split: len(part.unique("user_id")) for split, part in splits.items()},
        "items": len(catalog),
        "methods": rows,
    }
    write_json(directory / "results.json", values)
    (directory / "table.md").write_text(to_markdown(values), encoding="utf-8")
    plot(values, directory / "plot.svg")
    return directory


def _less_reference(study: Study, result: dict[str, Any]) -> list[float] | None:
    """
    Returns HR@20 minus the reference's HR@20, with its interval by paired bootstrap. Returns `None` for the reference
    itself, without results of the reference, and for a method that ranked other rows (other history lengths).
    """
    reference = study.result(REFERENCE)
    length = result["settings"].get("max_history", study.scale.max_history)
    if reference is None or result["method"] == REFERENCE or length != study.scale.max_history:
        return None
    this, other = (EvaluationReport.load(study.directory(name) / "test") for name in (result["method"], REFERENCE))
    row = this.compare(other).row(by_predicate=pl.col("metric") == "hr@20", named=True)
    return [row["difference"], row["low"], row["high"]]


def to_markdown(values: dict[str, Any]) -> str:
    """Formats the table of one `results.json`, with notes that explain it."""
    rows, sizes = values["methods"], values["rows"]
    reference = next((row for row in rows if row["method"] == REFERENCE), None)
    known = {name for row in rows for name in row["paper"]}
    paper_columns = {title: name for title, name in _PAPER_COLUMNS.items() if name in known}
    columns = [
        "method",
        "budget",
        *(name.upper() for name in _METRICS),
        f"HR@20 minus {REFERENCE}'s",
        "HR@20, seen excluded",
        "validation HR@20",
        "history tokens",
        "examples seen",
        "training time",
        "title tokens read",
        "ranking time",
        *paper_columns,
    ]
    lines = [
        f"### {values['title']}: {values['dataset']}, {values['scale']['name']} scale",
        "",
        f"`{_command(values)}`",
        "",
        f"{sizes['test']:,} test rows of {values['users']['test']:,} users, {values['items']:,} items to rank, "
        f"nothing excluded (HR@20 of a random order: {min(20 / values['items'], 1):.3f}); seed {values['seed']}. With "
        "95% intervals by resampling users. “Seen excluded”: items of the history cannot be recommended.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(_cells(row, reference, paper_columns))} |" for row in rows),
        "",
    ]
    if reference is not None:
        stages = ", ".join(f"{stage['examples']:,} in {_STAGES[stage['stage']]}" for stage in reference["stages"])
        clock = "computing time" if reference["stages"][0]["machine"]["device"] == "cpu" else "time"
        lines += [
            "- Equal examples: every method saw the same number of targets over all its stages "
            f"({REFERENCE}: {stages}), of {sizes['train']:,} in the training set; a history as text and its "
            "compressed twin count once.",
            f"- Equal time: trained as long as {REFERENCE}, by the rates measured at equal examples. “Equal examples "
            f"and time”: the same number of examples took the same time, within {_SAME_TIME:.0%}.",
            f"- Training time: {clock} relative to {REFERENCE}'s.",
            "- Ranking time: relative to the first method that has one. The methods rank the same rows in turn, "
            "exactly, and keep each prompt's keys and values once. The time grows with the prompt, and with the title "
            "tokens that are read for a history until the ranking is proven: the less sure a model is, the more it "
            "reads.",
        ]
        lines += _findings(rows)
    num_settings = max(len(row.get("tried", ())) for row in rows)
    if num_settings:
        lines.append(
            "- Baselines are not matched to the LLMs' budget: the neural ones trained for up to "
            f"{values['scale']['baseline_epochs']} epochs of the whole training set, once for each setting that "
            f"validation chose from ({num_settings}); the others count the whole training set."
        )
    missing = [name for name in values["planned"] if name not in {row["method"] for row in rows}]
    if missing:
        lines.append(f"- Not run: {', '.join(missing)}.")
    lines += [f"- {row['method']}: {_describe(row['settings'])}." for row in rows if _describe(row["settings"])]
    if paper_columns:
        lines.append("- Paper: only the figures at hand are given; they come from other backbones and scales.")
    return "\n".join(lines) + "\n"


def _command(values: dict[str, Any]) -> str:
    """Returns the command that makes the same table."""
    kind, number = values["title"].lower().split()
    options = {"scale": values["scale"]["name"], kind: number, "dataset": values["dataset"], **values["changes"]}
    if values["data_dir"] is not None:
        options["data_dir"] = "DIRECTORY"
    if values["seed"] != 0:
        options["seed"] = values["seed"]
    names = [row["method"] for row in values["methods"]]
    if names != values["planned"]:
        options["methods"] = " ".join(f'"{name}"' if " " in name else name for name in names)
    return " ".join(["python examples/reproduce_paper.py", *(f"--{name} {value}" for name, value in options.items())])


def _findings(rows: list[dict[str, Any]]) -> list[str]:
    """Lists the methods that are above or below the reference beyond chance, and the undecided ones."""
    compared = [row for row in rows if row["less_reference"]]
    kinds = {
        f"above {REFERENCE}": [row["method"] for row in compared if row["less_reference"][1] > 0],
        f"below {REFERENCE}": [row["method"] for row in compared if row["less_reference"][2] < 0],
        "undecided": [row["method"] for row in compared if row["less_reference"][1] <= 0 <= row["less_reference"][2]],
    }
    findings = "; ".join(f"{kind}: {', '.join(methods)}" for kind, methods in kinds.items() if methods)
    if not findings:
        return []
    return [f"- By HR@20, with one seed and these rows (undecided: the interval holds 0) – {findings}."]


def _cells(row: dict[str, Any], reference: dict[str, Any] | None, paper_columns: dict[str, str]) -> list[str]:
    is_llm, paper = row["budget"] is not None, row["paper"]
    time = row["train_seconds"] / reference["train_seconds"] if is_llm and reference else None
    is_same_time = row["budget"] == "examples" and row is not reference and time and abs(time - 1) <= _SAME_TIME
    return [
        row["method"],
        f"equal {row['budget']}{' and time' if is_same_time else ''}" if is_llm else "–",
        *(_with_interval(row["test"][name]) for name in _METRICS),
        _with_interval(row["less_reference"], "+") if row["less_reference"] else "–",
        f"{row['test_seen_excluded']['hr@20'][0]:.3f}",
        f"{row['validation']['hr@20'][0]:.3f}",
        f"{row['history_tokens']:.0f}" if is_llm else "–",
        f"{row['examples_seen']:,}" if is_llm else "–",
        "–" if time is None else f"{time:.2f}",
        f"{row['title_tokens_read']:.0f}" if is_llm else "–",
        "–" if row["latency"] is None else f"{row['latency']:.2f}",
        *(f"{paper[name]:.4g}" if name in paper else "–" for name in paper_columns.values()),
    ]


def require_matplotlib() -> None:
    """Ends the script if the plots cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise SystemExit('The plots need matplotlib: pip install "patchrec-hf[plots]".')


def plot(values: dict[str, Any], path: Path) -> None:
    """Draws HR@20 of each method with its interval; for Figures 5 and 6, over the history's length or tokens."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = values["methods"]
    figure = Figure(figsize=(7, max(3, 0.9 + 0.32 * len(rows))), layout="constrained")
    axes = figure.subplots()
    if values["title"] in ("Figure 5", "Figure 6"):
        by_length = values["title"] == "Figure 5"
        for series in ("Vanilla", REFERENCE, "PatchRec-S"):
            points = [row for row in rows if row["method"].split(" (")[0] == series]
            x = [row["settings"]["max_history"] if by_length else row["history_tokens"] for row in points]
            axes.errorbar(x, *_values_and_errors(points), marker="o", capsize=3, label=series)
        axes.set(xlabel="items of a history" if by_length else "tokens of a history", ylabel="HR@20", xscale="log")
        axes.legend(frameon=False)
    else:
        heights, errors = _values_and_errors(rows)
        colors = ["tab:gray" if row["budget"] is None else "tab:blue" for row in rows]
        axes.barh([row["method"] for row in rows], heights, xerr=errors, color=colors, capsize=2)
        axes.invert_yaxis()
        axes.set(xlabel="HR@20 with its 95% interval (blue: an LLM alone)")
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "patchrec-hf"}):  # so that equal values give equal files
        figure.savefig(path, metadata={"Date": None})


def _values_and_errors(rows: list[dict[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """Returns HR@20, and the distances to the lower and upper bound of its interval."""
    triples = [row["test"]["hr@20"] for row in rows]
    below, above = [value - low for value, low, _ in triples], [high - value for value, _, high in triples]
    return [value for value, _, _ in triples], [below, above]


def _with_interval(triple: list[float], sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.3f}" for number in triple)
    return f"{value} ({low}{' to ' if sign else '–'}{high})"


def _describe(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in _NOT_SHOWN)
