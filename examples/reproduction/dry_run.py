"""The dry run: prints what a plan would train, and what that would cost, without training."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from accelerate import PartialState

from patchrec_hf.training.memory import GIB

from .costs import available_memory, cost_of, facts_of, operations_per_second
from .plans import FUSION, TIME_REFERENCE, Plan
from .stages import EQUAL_TIME, budget_of, stages_of
from .study import Study


_USED_SHARE = 0.4
"""Share of the device's measured speed that training is taken to reach."""


def print_dry_run(study: Study, plan: Plan, names: list[str], device_memory: float | None) -> None:
    """
    Prints the methods of a plan with the steps, tokens, memory and time of their stages.

    Args:
        study ([`Study`]):
            The study, which holds no result yet.
        plan ([`Plan`]):
            The plan.
        names (`list[str]`):
            The methods to run.
        device_memory (`float`, *optional*):
            GiB of one device. If not given, the free memory of this process's device.

    Raises:
        SystemExit: If the size of the backbone or the tokens of its titles cannot be known.
    """
    state, facts = PartialState(), facts_of(study)
    study = replace(study, facts=facts)
    study.check(plan, names)
    available = available_memory() if device_memory is None else round(device_memory * GIB)
    speed = _USED_SHARE * operations_per_second() * state.num_processes
    state.print(f"{plan.title}: {plan.about}")
    state.print(
        f"{study.dataset}, {study.scale_name} scale: {facts.num_train_examples:,} training examples, "
        f"{facts.mean_history:.1f} items before a target on average, {facts.title_tokens:.2f} tokens a title "
        f"({facts.source}). Backbone: {_backbone_name(study)}."
    )
    lines = [
        ("method", "budget", "stage", "layout", "items", "examples", "steps", "rows a step", "rows a forward"),
    ]
    lines[0] += ("tokens", "GiB", "time")
    seen, total = set(), 0.0
    for name in names:
        if name not in study.methods:
            lines.append((name, "–", _about_baseline(study, name), *("–",) * (len(lines[0]) - 3)))
            continue
        if study.methods[name].at_equal_time:
            same = name.removesuffix(EQUAL_TIME)
            lines.append((name, f"as long as {TIME_REFERENCE}", f"as {same}", *("–",) * (len(lines[0]) - 3)))
            continue
        for stage in stages_of(study, name):
            cost = cost_of(study, stage, facts, available)
            seconds, is_shared = cost.operations / speed, stage.directory in seen
            seen.add(stage.directory)
            total += 0 if is_shared else seconds
            lines.append(
                (
                    name,
                    budget_of(study, name),
                    stage.name,
                    str(stage.layout) if stage.name == "finetune" else "text and its twin",
                    str(stage.max_history),
                    f"{stage.num_examples:,}",
                    f"{cost.steps:,}",
                    str(cost.rows_per_step),
                    str(cost.rows_per_forward),
                    f"{cost.tokens / 1e6:.1f} M",
                    f"{cost.memory.total / GIB:.1f}{'' if cost.memory.fits else ' (too much)'}",
                    "shared" if is_shared else str(timedelta(seconds=round(seconds))),
                )
            )
    state.print("\n".join(_markdown(lines)))
    used, measured = (value / state.num_processes / 1e12 for value in (speed, speed / _USED_SHARE))
    memory = "of unknown size" if available is None else f"with {available / GIB:.0f} GiB"
    state.print(
        f"\nOn {state.num_processes} × {state.device.type} {memory}, at {_USED_SHARE:.0%} of its measured speed "
        f"({used:.2f} of {measured:.2f} TFLOP/s), training would take about {timedelta(seconds=round(total))} "
        "(h:mm:ss), without baselines and ranking. Tokens are counted before packing. Memory is for the longest "
        "histories."
    )


def _backbone_name(study: Study) -> str:
    backbone = study.scale.backbone
    return backbone if isinstance(backbone, str) else f"a new {backbone['model_type']}"


def _about_baseline(study: Study, name: str) -> str:
    if name == FUSION:
        return "after its parts"
    if name in ("Popularity", "CoVisitation"):
        return "counts"
    return f"at most {study.scale.baseline_epochs} epochs for each of {len(study.scale.baseline_grid)} settings"


def _markdown(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]]
