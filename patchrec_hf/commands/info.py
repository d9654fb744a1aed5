"""
Show what a checkpoint is: backbone, layout, prompt, objective, fusion, and how it can rank.

    patchrec info outputs/final
    patchrec info outputs/final --json

The command reads the checkpoint's small files and the headers of its weights.
"""

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .checkpoint_facts import read_checkpoint
from .errors import errors_in_one_line
from .plain_options import PlainParser


__all__ = ["main"]

_INDENT, _LEAST_WIDTH, _USUAL_WIDTH = 12, 80, 120
_OTHER_PARTS = "item head, residuals, time gaps or patcher"


def main(arguments: list[str]) -> None:
    """Runs `patchrec info` with the arguments after the command's name."""
    with errors_in_one_line():
        parser = PlainParser("info", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("checkpoint", metavar="CHECKPOINT", help="directory of a checkpoint or an adapter")
        parser.add_argument("--json", action="store_true", help="print JSON")
        args = parser.parse(arguments)
        facts = read_checkpoint(args.checkpoint)
        if args.json:
            print(json.dumps(facts, indent=2, ensure_ascii=False))
        else:
            width = max(shutil.get_terminal_size((_USUAL_WIDTH, 0)).columns, _LEAST_WIDTH)
            for name, text in describe(facts):
                print(textwrap.fill(f"{name:<{_INDENT}}{text}", width, subsequent_indent=" " * _INDENT))


def describe(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """
    Returns the facts about a checkpoint as lines.

    Args:
        facts (`Mapping[str, Any]`):
            The result of [`read_checkpoint`].

    Returns:
        `Iterator[tuple[str, str]]`: a name and its text.
    """
    yield facts["kind"], f"{facts['checkpoint']}, format version {facts['format_version']}"
    yield "backbone", _backbone(facts["backbone"])
    if (adapter := facts["adapter"]) is not None:
        rank = "" if adapter["rank"] is None else f" of rank {adapter['rank']}"
        size = _count(adapter["parameters"])
        yield "adapter", f"{adapter['type']}{rank}, {size} weights, for the model {adapter['base_model']}"
    yield "catalog", f"{facts['items']:,} items, ids are {facts['item_ids']}"
    yield "history", f"the latest {facts['max_history']} items, with the layout {_settings(facts['layout'])}"
    yield "patches", _patches(facts)
    yield "prompt", "unknown, there is no tokenizer.json" if facts["prompt"] is None else repr(facts["prompt"])
    yield "objective", facts["objective"] or "unknown"
    if (until := facts["trained_until"]) is not None:
        yield "trained", f"by interactions until {np.datetime64(until, 's')} UTC".replace("T", " ", 1)
    yield "item head", "none" if facts["item_head"] is None else _settings(facts["item_head"])
    yield "titles", _titles(facts)
    yield "fusion", "none" if facts["fusion"] is None else _fusion(facts["fusion"])
    yield "index", "none" if facts["index"] is None else _index(facts["index"], facts["items"])
    default, *others = facts["methods"]
    yield "ranks by", f"{default} (default), {', '.join(others)}"
    if facts["metrics"] is None:
        yield "metrics", "none in the card"
    else:
        for name, metrics in facts["metrics"].items():
            measured = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
            yield "metrics", f"{measured}{'' if name == 'unnamed' else f' ({name})'}"


def _backbone(backbone: Mapping[str, Any]) -> str:
    texts = [backbone["family"] or "unknown"]
    if backbone["parameters"] is not None:
        texts.append(f"{_count(backbone['parameters'])} weights in {', '.join(backbone['dtypes'])}")
    for name, what in (("layers", "layers"), ("hidden_size", "hidden size"), ("vocabulary", "vocabulary")):
        if backbone[name] is not None:
            texts.append(f"{backbone[name]:,} {what}" if name == "layers" else f"{what} {backbone[name]:,}")
    if backbone["parameters_of_other_parts"]:
        texts.append(f"and {_count(backbone['parameters_of_other_parts'])} weights of {_OTHER_PARTS}")
    return ", ".join(texts)


def _patches(facts: Mapping[str, Any]) -> str:
    layers = facts["patcher_layers"]
    texts = [f"patcher {facts['patcher']}{'' if layers is None else f' of {layers} layers'}"]
    texts.append(f"{'with' if facts['separate_patches'] else 'without'} separators")
    if facts["item_residuals"]:
        texts.append(f"residuals of {facts['item_residuals']:,} items")
    if facts["time_gaps"]:
        texts.append(f"{facts['time_gaps']} buckets of time gaps")
    return ", ".join(texts)


def _titles(facts: Mapping[str, Any]) -> str:
    text = f"scored over the {facts['title_normalizer']}"
    if facts["title_normalizer"] == "catalog":
        text += f", temperature {facts['title_temperature']:g}"
    return f"{text}, but not trained" if facts["objective"] == "item" else text


def _fusion(fusion: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {weight:.3f}" for name, weight in fusion["weights"].items())
    if fusion["log_likelihood"] is None:
        return text
    return f"{text}; log-probability of a target {fusion['log_likelihood']:.3f} ({fusion['num_targets']:,} targets)"


def _index(index: Mapping[str, Any], num_items: int) -> str:
    settings = {name: value for name, value in index.items() if name not in ("kind", "num_items")}
    text = _settings({"name": index["kind"], **settings})
    is_stale = index["num_items"] != num_items
    return f"{text} of {index['num_items']:,} items{', built for another catalog' if is_stale else ''}"


def _settings(values: Mapping[str, Any]) -> str:
    name, others = values.get("name"), {key: value for key, value in values.items() if key != "name"}
    text = ", ".join(f"{key}={value}" for key, value in others.items())
    return text if name is None else f"{name} ({text})" if text else name


def _count(number: int) -> str:
    """Returns a number with three digits, such as 1.24 million."""
    for power, unit in ((9, " billion"), (6, " million")):
        if number >= 10**power:
            return f"{number / 10**power:.3g}{unit}"
    return f"{number:,}"
