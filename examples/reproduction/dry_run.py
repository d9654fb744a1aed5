"""The dry run: prints what a plan would train, and what that would cost, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from accelerate import PartialState

from patchrec_hf import ALL_PATCH_PRESET
from patchrec_hf.training.memory import GIB

from .costs import Device, cost_of, facts_of, operations_per_second, this_device
from .plans import BASELINES, FUSION, TIME_REFERENCE, Plan
from .stages import EQUAL_TIME, Stage, all_patch_training, budget_of, stages_of
from .study import Study
from .tokens import compression_ratio


_USED_SHARE = 0.4
"""Share of the device's speed that training is taken to reach."""
_COLUMNS = (
    *("method", "budget", "stage", "histories", "items", "compression", "examples"),
    *("steps", "rows a step", "rows a forward", "tokens", "GiB", "time"),
)


def print_dry_run(
    study: Study, plan: Plan, names: Sequence[str], device_memory: float | None, device_tflops: float | None
) -> None:
    """
    Prints the methods of a plan with the steps, tokens, memory and time of their stages.

    Args:
        study ([`Study`]):
            The study, which holds no result yet.
        plan ([`Plan`]):
            The plan.
        names (`Sequence[str]`):
            The methods to run.
        device_memory (`float`, *optional*):
            GiB of a GPU. If not given, the device is this process's.
        device_tflops (`float`, *optional*):
            Peak speed of a device in TFLOP/s. If not given, this process's device is measured.

    Raises:
        SystemExit: If the size of the backbone or the tokens of its titles cannot be known, or if the plan ranks users
            whom the data lacks.
    """
    state, facts = PartialState(), facts_of(study)
    study = replace(study, facts=facts)
    study.warn_of_other_counts()
    study.check(plan, names)
    here = this_device()
    device = here if device_memory is None else Device("cuda", round(device_memory * GIB))
    peak = None if device_tflops is None else device_tflops * 1e12
    if peak is None and device.kind == here.kind:
        peak = operations_per_second()
    state.print(f"{plan.title}: {plan.about}")
    state.print(
        f"{study.dataset}, {study.scale_name} scale: {facts.num_train_examples:,} training examples, "
        f"{facts.title_tokens:.2f} tokens a title ({facts.source}). Backbone: {_backbone_name(study)}.\n"
    )
    own = [name for name in names if name in study.methods and study.methods[name].predicts_items]
    lines, seen, seconds = [_COLUMNS], set(), 0.0
    for name in names:
        if name not in study.methods or study.reason_to_skip(name) is not None or name in own:
            continue
        if study.methods[name].at_equal_time:
            known = (name, f"as long as {TIME_REFERENCE}", f"as {name.removesuffix(EQUAL_TIME)}")
            lines.append(known + ("–",) * (len(_COLUMNS) - len(known)))
            continue
        for stage in stages_of(study, name):
            cost = cost_of(study, stage, facts, device)
            is_shared = stage.directory in seen
            seen.add(stage.directory)
            time = None if peak is None else cost.operations / (_USED_SHARE * peak * state.num_processes)
            seconds += 0 if is_shared or time is None else time
            is_final = stage.name == "finetune"
            ratio = compression_ratio(stage.layout, stage.max_history, facts.title_tokens)
            lines.append(
                (
                    name,
                    budget_of(study, name),
                    stage.name,
                    _histories(stage),
                    str(stage.max_history),
                    f"{ratio:.2f}" if is_final else "–",
                    f"{stage.num_examples:,}",
                    f"{cost.steps:,}",
                    str(cost.rows_per_step),
                    str(cost.rows_per_forward),
                    f"{cost.tokens / 1e6:.1f} M",
                    f"{cost.memory.total / GIB:.1f}{'' if cost.memory.fits else ' (too much)'}",
                    "shared" if is_shared else "–" if time is None else _duration(time),
                )
            )
    if len(lines) > 1:
        state.print("\n".join(_markdown(lines)))
        state.print()
        _print_notes(device, peak, seconds)
    baselines = [name for name in names if name in BASELINES]
    if baselines:
        state.print(
            f"- Baselines: {', '.join(baselines)}. The neural ones train for at most {study.scale.baseline_epochs} "
            f"epochs, for each of {len(study.scale.baseline_grid)} settings."
        )
    if own:
        training = all_patch_training(study)
        state.print(
            f"- {' and '.join(own)}: {stages_of(study, own[0])[0].num_examples:,} targets, up to "
            f"{ALL_PATCH_PRESET.rows['targets_per_row']} in a sequence, at the learning rate "
            f"{training['learning_rate']:g}. This is not in the estimates above."
        )
    if FUSION in names:
        state.print(f"- {FUSION} joins finished methods.")


def _print_notes(device: Device, peak: float | None, seconds: float) -> None:
    state = PartialState()
    memory = "of unknown memory" if device.memory is None else f"with {device.memory / GIB:.0f} GiB"
    precision = "bfloat16" if device.kind == "cuda" else "float32"
    devices = f"{state.num_processes} × {device.kind} {memory}"
    state.print(f"- Memory: on {devices}, in {precision}, for the longest histories.")
    if peak is None:
        state.print("- Time: pass --device_tflops, the peak speed of one device, to estimate it.")
    else:
        state.print(
            f"- Time: about {_duration(seconds)} of training, without ranking and baselines, at {_USED_SHARE:.0%} of "
            f"{peak / 1e12:.3g} TFLOP/s a device."
        )
    state.print(
        "- Compression: tokens before / after for histories of as many items, without separators. Tokens: before "
        "packing, with separators and prompt. “shared”: an earlier method trains this stage."
    )


def _histories(stage: Stage) -> str:
    if stage.name == "finetune":
        return str(stage.layout)
    return "text and compressed" if stage.name == "pretrain" else "text and thinned out"


def _backbone_name(study: Study) -> str:
    backbone = study.scale.backbone
    return backbone if isinstance(backbone, str) else f"a new {backbone['model_type']}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]]
