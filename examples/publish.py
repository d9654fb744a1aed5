"""
Makes a checkpoint that can be pushed, by one command: trains a recipe, ranks all test rows, and writes the card.

    python examples/publish.py examples/recipes/publish_ml_100k.yaml

Options of `patchrec train` may follow the recipe, and override it. The checkpoint is OUTPUT_DIR/final. Its card
holds the metrics of all test rows with their intervals, the difference from co-visitation, the size of the checkpoint
and the computing time. `--push_as user/name` pushes this directory, with this card. The same command resumes an
interrupted run: neither a finished training nor finished parts of the ranking are repeated.
"""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset
from huggingface_hub import HfApi

from patchrec_hf import (
    EvaluationReport,
    PatchRecForCausalLM,
    PatchRecommender,
    evaluate_model,
    evaluate_scorer,
)
from patchrec_hf.baselines import CoVisitation
from patchrec_hf.commands import train
from patchrec_hf.data.data_arguments import DataArguments
from patchrec_hf.hub.model_card import describe_rows, make_model_card
from patchrec_hf.runs import write_json
from patchrec_hf.runtime.hub_files import require_token
from patchrec_hf.training.recipes import RECIPES


SECONDS_NAME, CARD_NAME = "seconds.json", "README.md"
TAGS = ["recommender-systems", "patchrec"]
METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
_BATCH_SIZE = 64
_TICK = 10.0


class ComputingTime:
    """
    Adds up the computing time of all threads over the sessions of a run, in a file that a kill leaves behind.

    Args:
        path (`pathlib.Path`):
            The file. It is written every ten seconds, as soon as its directory holds a checkpoint. A run that ends
            before that has nothing to go on from. The next run starts from zero, and may have other settings.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = read_seconds(path)
        self._start = time.process_time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._write()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            self._write()

    def _write(self) -> None:
        if next(self._path.parent.rglob("checkpoint-*"), None) is not None or (self._path.parent / "final").is_dir():
            write_json(self._path, self._before + time.process_time() - self._start)


def read_seconds(path: Path) -> float:
    """Returns the computing time that a file of [`ComputingTime`] holds; 0 if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else 0.0


def main(recipe: str, options: list[str], name: str | None, push_as: str | None) -> None:
    if push_as is not None:
        require_token()
    script, data, backbone, args = train.parse(["--config", recipe, *options])
    output_dir = Path(str(args.output_dir))
    seconds, name = output_dir / SECONDS_NAME, name or Path(recipe).stem
    with ComputingTime(seconds):
        if not (output_dir / "results.json").is_file():
            train.train(script, data, backbone, args)
    recommender = PatchRecommender.from_pretrained(output_dir / "final")
    model, processor = recommender.model, recommender.processor
    splits = load_rows(data, script, processor.max_history)
    baseline = CoVisitation(processor.catalog).fit(splits["train"], splits["validation"], show_progress=False)
    of_model: dict[str, Any] = {"train_dataset": splits["train"], "batch_size": _BATCH_SIZE}
    reports = {
        "co-visitation": evaluate_scorer(baseline, processor.catalog, splits["test"], show_progress=False),
        "item head": evaluate_model(
            model, processor, splits["test"], method="item", resume_dir=output_dir / "parts_item", **of_model
        ),
        "item head + fusion": evaluate_model(
            model, processor, splits["test"], resume_dir=output_dir / "parts_fusion", **of_model
        ),
    }
    table = describe_reports(reports)
    print(f"\n{len(splits['test'])} test rows, {len(processor.catalog)} items to rank:\n{table}")
    time_taken = read_seconds(seconds)
    write_card(output_dir / "final", recommender, splits["train"], reports, table, name, push_as or name, time_taken)
    print(f"\nThe checkpoint and its card: {output_dir / 'final'}")
    if push_as is not None:
        push(output_dir / "final", push_as)


def load_rows(data: DataArguments, script: Any, max_history: int) -> Any:
    """Loads the rows that the command has trained on."""
    rows = dict(RECIPES[script.preset].rows) | {"max_history": max_history}
    if script.targets_per_row is not None:
        rows["targets_per_row"] = script.targets_per_row
    rows["targets_per_row"] = min(rows["targets_per_row"], max_history)
    return data.load(**rows)[0]


def describe_reports(reports: dict[str, EvaluationReport]) -> str:
    """Returns the table of several reports of the same targets. The first one is what the others are compared with."""
    head = " | ".join([*(metric.upper() for metric in METRICS), "HR@20 minus the first row's, 95% interval"])
    lines = [f"| method | {head} |", f"|---{'|---' * (len(METRICS) + 1)}|"]
    first = next(iter(reports.values()))
    for name, report in reports.items():
        values = report.metrics()
        shown = [f"{values[metric]:.3f}" for metric in METRICS]
        row = report.compare(first).row(by_predicate=pl.col("metric") == "hr@20", named=True)
        paired = "–" if report is first else f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        lines.append(f"| {' | '.join([name, *shown, paired])} |")
    return "\n".join(lines)


def write_card(
    directory: Path,
    recommender: PatchRecommender,
    train_rows: Dataset,
    reports: dict[str, EvaluationReport],
    table: str,
    name: str,
    repo_id: str,
    seconds: float,
) -> None:
    """Writes the card of the checkpoint in a directory. Its code loads the checkpoint from the repository."""
    model, processor = recommender.model, recommender.processor
    files = [path for path in directory.iterdir() if path.is_file() and path.name != CARD_NAME]
    card = make_model_card(
        processor,
        repo_id,
        results=reports["item head + fusion"],
        dataset_name=name,
        data=describe_rows(train_rows),
        training={
            "backbone": describe_backbone(model),
            "size of the checkpoint": f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB",
            "computing time": f"{seconds / 60:.0f} minutes of CPU, all threads, with data, evaluations and fusion",
        },
        tags=TAGS,
    )
    place = "## How it reads a history"
    if card.content.count(place) != 1:
        raise ValueError(f"The card has {card.content.count(place)} sections {place!r}, and one was expected.")
    compared = f"Compared on the same targets, with intervals by resampling users:\n\n{table}\n\n{place}"
    card.content = card.content.replace(place, compared)
    card.save(directory / CARD_NAME)


def push(directory: Path, repo_id: str) -> None:
    """Pushes a directory to the Hub, in one commit."""
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message="Upload PatchRec checkpoint")
    print(f"Pushed as {repo_id}")


def describe_backbone(model: PatchRecForCausalLM) -> str:
    config = model.config.decoder_config
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    layers, size = config.num_hidden_layers, config.hidden_size
    return f"{config.model_type}, {layers} layers of {size} dimensions, {millions:.2f} million weights with the head"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file of options of `patchrec train`")
    parser.add_argument("--name", help="name of the data set in the card; default: the recipe's")
    parser.add_argument("--push_as", help="repository of the Hub to push to")
    arguments, others = parser.parse_known_args()
    main(arguments.recipe, others, arguments.name, arguments.push_as)
