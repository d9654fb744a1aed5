"""The notes below a study's tables: what the columns mean, and what was found."""

from __future__ import annotations

from typing import Any

from .plans import ALL_PATCH, BAR, TIME_REFERENCE
from .stages import OWN_BUDGET


_NOT_SHOWN = ("setting", "of")  # shown in results.json only: the chosen grid point, and the baselines to choose from
_STAGES = {
    "pretrain": "pre-training",
    "dropout": "pre-training with items left out",
    "finetune": "fine-tuning",
    "items": "fine-tuning on items",
}
_SAME_TIME = 0.05  # two trainings count as equally long if their times differ by no more than this share


def notes_of(values: dict[str, Any]) -> list[str]:
    """Returns the notes of one `results.json`, as lines of Markdown."""
    reference = reference_of(values)
    rows, sizes, scale = values["methods"], values["rows"], values["scale"]
    llms = [row for row in rows if row["budget"] is not None]
    lines = [
        "- Seen excluded: items of the history cannot be recommended. Compression ratio: title tokens of the "
        "histories before compression, divided by title tokens and patches after it."
    ]
    budgets = {shown_budget(row, None) for row in llms}
    if "equal examples" in budgets and reference is not None:
        stages = ", ".join(f"{stage['examples']:,} in {_STAGES[stage['stage']]}" for stage in reference["stages"])
        lines.append(
            "- Equal examples: every method saw the same number of targets over all its stages "
            f"({reference['method']}: {stages}), of {sizes['train']:,} in the training set; a history as text and its "
            "twin count once."
        )
    if any(shown_budget(row, reference).endswith("and time") for row in llms):
        lines.append(
            f"- Equal examples and time: this took the same time as {name_of_reference(values)}, within "
            f"{_SAME_TIME:.0%}."
        )
    if "one epoch a stage" in budgets:
        lines.append(
            f"- One epoch a stage: each stage saw the {sizes['train']:,} targets of the training set once, so a "
            "method of two stages saw them twice (the paper's section 4.1.2). Differences are of equal examples only "
            "between methods with as many stages."
        )
    if "equal time" in budgets:
        lines.append(
            f"- Equal time: trained as long as {TIME_REFERENCE}, by the rates measured at equal numbers of examples."
        )
    if any(shown_budget(row, reference) == OWN_BUDGET for row in rows):
        lines.append(
            "- Own budget: the difference is of neither equal examples nor equal time. All differences from "
            f"{BAR} are of neither."
        )
    if any(stage["stage"] == "items" for row in llms for stage in row["stages"]):
        lines.append(f"- {ALL_PATCH}: trained for the epochs of its recipe, of which validation chose one.")
    if llms and reference is not None:
        clock = "computing time" if reference["stages"][0]["machine"]["device"] == "cpu" else "time"
        lines.append(f"- Training time: {clock} relative to {reference['method']}'s, without rankings of validation.")
    if any(row.get("beyond_accuracy") for row in rows):
        lines.append(
            "- Coverage: share of the catalog in any list. Novelty: mean self-information of the listed items, in "
            "bits. Popularity bias: above 1, lists are more popular than histories. Calibration error: how far "
            "probabilities are from shares of hits. If titles are scored in the whole vocabulary, these are their "
            "probabilities among all texts."
        )
    lines += _losses(rows, scale)
    if any("weights" in row["settings"] for row in rows):
        lines.append(
            "- Fusions: their weights make validation targets most likely, so their validation HR@20 is of the rows "
            "that the weights come from. Log-likelihoods are means over validation targets, in nats."
        )
    if any(row["latency"] is not None for row in rows):
        lines.append(
            "- Ranking time: relative to the first method that has one. The methods rank the same rows in turn, "
            "exactly, and keep each prompt's keys and values once. The time grows with the prompt, and with the title "
            "tokens that are read for a history until the ranking is proven: the less sure a model is, the more it "
            "reads."
        )
    lines += _findings(rows, name_of_reference(values), "less_reference")
    if name_of_reference(values) != BAR:
        lines += _findings(rows, BAR, "less_bar")
    num_settings = max(len(row.get("tried", ())) for row in rows)
    if num_settings:
        lines.append(
            "- Baselines are not matched to the LLMs' budget: the neural ones trained for up to "
            f"{scale['baseline_epochs']} epochs of the whole training set, once for each setting that "
            f"validation chose from ({num_settings}); the others count the whole training set."
        )
    skipped = values.get("skipped", {})
    lines += [f"- {name} is left out: {reason}." for name, reason in skipped.items()]
    done = {row["method"] for row in rows}
    missing = [name for name in values["planned"] if name not in done and name not in skipped]
    if missing:
        lines.append(f"- Not run: {', '.join(missing)}.")
    if values.get("paper"):
        lines.append(f"- The paper's text: {values['paper']}")
    return lines + [f"- {row['method']}: {_describe(row['settings'])}." for row in rows if _describe(row["settings"])]


def name_of_reference(values: dict[str, Any]) -> str:
    return values.get("reference", TIME_REFERENCE)  # results of earlier versions do not name it


def reference_of(values: dict[str, Any]) -> dict[str, Any] | None:
    return next((row for row in values["methods"] if row["method"] == name_of_reference(values)), None)


def time_of(row: dict[str, Any], reference: dict[str, Any] | None) -> float | None:
    """Returns the training time of an LLM, relative to the reference's."""
    if row["budget"] is None or reference is None:
        return None
    return row["train_seconds"] / reference["train_seconds"]


def shown_budget(row: dict[str, Any], reference: dict[str, Any] | None) -> str:
    """Returns what the number of examples comes from. Results of earlier versions say `"examples"` and `"time"`."""
    if row["budget"] is None:
        return OWN_BUDGET
    budget = {"examples": "equal examples", "time": "equal time"}.get(row["budget"], row["budget"])
    time = time_of(row, reference)
    is_same_time = budget == "equal examples" and row is not reference and time and abs(time - 1) <= _SAME_TIME
    return f"{budget} and time" if is_same_time else budget


def _losses(rows: list[dict[str, Any]], scale: dict[str, Any]) -> list[str]:
    """Says which loss the LLMs had that learned titles. Results of earlier versions do not name it."""
    normalizers = {row["settings"].get("title_normalizer") for row in rows} - {None}
    if "catalog" not in normalizers:
        return ["- LLMs learned titles in the whole vocabulary, as in the paper."] if normalizers else []
    others = [row["method"] for row in rows if row["settings"].get("title_normalizer") == "vocabulary"]
    exception = f" {', '.join(others)}: the paper's loss, over the whole vocabulary." if others else ""
    return [
        '- LLMs learned titles among the catalog, and scored them so (`title_normalizer="catalog"`, temperature '
        f"{scale['title_temperature']:g}).{exception}"
    ]


def _findings(rows: list[dict[str, Any]], other: str, key: str) -> list[str]:
    """Lists the methods that are above or below another one beyond chance, and the undecided ones."""
    compared = [row for row in rows if row.get(key)]
    kinds = {
        f"above {other}": [row["method"] for row in compared if row[key][1] > 0],
        f"below {other}": [row["method"] for row in compared if row[key][2] < 0],
        "undecided": [row["method"] for row in compared if row[key][1] <= 0 <= row[key][2]],
    }
    findings = "; ".join(f"{kind}: {', '.join(methods)}" for kind, methods in kinds.items() if methods)
    if not findings:
        return []
    return [f"- By HR@20, with one seed and these rows (undecided: the interval holds 0) – {findings}."]


def _describe(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in settings.items() if name not in _NOT_SHOWN)


def _text(value: Any) -> str:
    """Formats a setting; numbers of fits by four digits."""
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_text(one)}' for name, one in value.items())})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
