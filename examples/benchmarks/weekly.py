"""
Compares an update of a checkpoint with training from scratch, on a log that is cut by time.

    python examples/benchmarks/weekly.py --data ml-100k --json weekly.json

A checkpoint is trained on all interactions up to two weeks before the log's end. Then a week passes. The checkpoint
is left as it is (its catalog grows), is updated by that week, or is trained from scratch on all that is known by then.
All three rank the targets of the last week. Times are computing times of all threads, without rankings. With
`--output_dir`, an interrupted run continues: its directory keeps the times too.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from transformers import set_seed

from patchrec_hf import (
    ALL_PATCH_PRESET,
    MOVIE_PROMPT_INSTRUCTION_FIRST,
    Catalog,
    PatchFinetuneConfig,
    PatchRecommender,
    PatchRecProcessor,
    build_tiny_backbone,
    evaluate_model,
    fit_fusion,
    prepare_data,
    update_checkpoint,
)
from patchrec_hf.data.update_rows import rows_since, show_moment
from patchrec_hf.runs import write_json
from patchrec_hf.training.recipes import RECIPES, train_recipe
from patchrec_hf.training.updates import update_settings


WEEK = 7 * 86_400
METHODS = ("item", "fusion")
_VALIDATION_SHARE = 0.02


def main(args: argparse.Namespace) -> None:
    set_seed(args.seed)
    prepared = prepare_data(args.data, **({} if args.ties is None else {"ties": args.ties}))
    log, end = prepared.interactions, int(prepared.interactions["timestamp"].to_numpy().max()) + 1
    begin_of_week, begin_of_next = end - 2 * WEEK, end - WEEK
    known, grown = (items_before(prepared.catalog, log, moment) for moment in (begin_of_week, begin_of_next))
    rankable = log.filter(pl.col("item_id").is_in(grown.item_ids.tolist()))
    rankable = rankable.with_columns(position=pl.int_range(pl.len()).over("user_id"))
    targets = rows_since(rankable, grown, begin_of_next, args.max_history).new
    week = rows_since(before(rankable, begin_of_next), grown, begin_of_week, args.max_history, args.max_history)
    num_before = len(before(log, begin_of_week))
    print(
        f"{num_before} interactions before {show_moment(begin_of_week)}, then a week of "
        f"{len(before(log, begin_of_next)) - num_before} with {len(grown) - len(known)} new items; "
        f"{len(targets)} targets in the next week. Seed {args.seed}.",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        root = Path(args.output_dir or directory)
        steps = Steps(root / "steps.json")
        first = steps.run("first", lambda: from_scratch(root / "first", before(log, begin_of_week), known, args))
        settings = {**training(root / "update", args), **update_settings(first)}
        update_args = PatchFinetuneConfig(**settings)
        updated = steps.run("updated", lambda: update_checkpoint(first, update_args, week, grown, show_progress=False))
        longer = before(log, begin_of_next)
        scratch = steps.run("from scratch", lambda: from_scratch(root / "scratch", longer, grown, args))
        seconds = steps.seconds() | {"not updated": 0.0}
        paths = {"not updated": root / "update" / "grown", "updated": updated, "from scratch": scratch}
        results = [measure(name, path, targets, known, args.max_rows) for name, path in paths.items()]
    scratch_row = results[-1]
    print("\n| checkpoint | computing time | HR@20, item head | HR@20, fusion | fusion, minus from scratch's |")
    print("|---|---|---|---|---|")
    for row in results:
        taken, of_scratch = seconds[row["checkpoint"]], seconds["from scratch"]
        share = row["share_of_time"] = None if taken is None or of_scratch is None else taken / of_scratch
        shown = "unknown" if share is None else f"{share:.2f}"
        print(
            f"| {row['checkpoint']} | {shown} | {row['item']:.3f} | {row['fusion']:.3f} | "
            f"{row['fusion'] - scratch_row['fusion']:+.3f} |"
        )
    ranks = ", ".join(f"{row['checkpoint']} {row['new_items']:.0f}" for row in results)
    print(f"{results[0]['num_new']} targets are items of the week. Their mean rank by the item head: {ranks}.")
    if args.json:
        settings = {name: value for name, value in vars(args).items() if isinstance(value, (int, str, type(None)))}
        args.json.write_text(json.dumps({**settings, "seconds": seconds, "results": results}, indent=2) + "\n")


class Steps:
    """
    Runs each step once, and keeps the computing times in a file, so that a run that continues adds to them.

    Args:
        path (`pathlib.Path`):
            The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}

    def run(self, name: str, work: Callable[[], Path]) -> Path:
        """Returns the directory that the work returns. A step that has ended is not repeated."""
        step = self._kept.get(name, {"seconds": 0.0})
        if "result" not in step:
            earlier, start = step["seconds"], time.process_time()
            self._keep(name, {"seconds": None})  # so it stays if the process is killed
            ended = {}
            try:
                ended["result"] = str(work())
            finally:
                seconds = None if earlier is None else earlier + time.process_time() - start
                self._keep(name, {**ended, "seconds": seconds})
        seconds = self._kept[name]["seconds"]
        print(f"{name}: {'unknown, because it was killed' if seconds is None else f'{seconds:.0f} s'}", flush=True)
        return Path(self._kept[name]["result"])

    def seconds(self) -> dict[str, float | None]:
        """Returns the computing time of each step; `None` if a kill left it unknown."""
        return {name: step["seconds"] for name, step in self._kept.items()}

    def _keep(self, name: str, step: dict[str, Any]) -> None:
        self._kept[name] = step
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._kept)


def before(interactions: pl.DataFrame, moment: int) -> pl.DataFrame:
    return interactions.filter(pl.col("timestamp") < moment)


def items_before(catalog: Catalog, interactions: pl.DataFrame, moment: int) -> Catalog:
    """Returns the items that were chosen before a moment."""
    chosen = set(before(interactions, moment)["item_id"].to_list())
    titles = zip(catalog.item_ids.tolist(), catalog.titles, strict=True)
    return Catalog.from_titles({item_id: title for item_id, title in titles if item_id in chosen})


def training(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    return {
        **ALL_PATCH_PRESET.training,
        "num_train_epochs": args.epochs,
        "output_dir": str(directory),
        "seed": args.seed,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "epoch",
    }


def from_scratch(directory: Path, interactions: pl.DataFrame, catalog: Catalog, args: argparse.Namespace) -> Path:
    """Trains a new backbone by the recipe, and fits a fusion on the latest interactions."""
    rows = rows_since(interactions, catalog, 0, args.max_history, args.max_history, validation_share=_VALIDATION_SHARE)
    if rows.validation is None:
        raise ValueError("A fusion needs validation rows.")
    backbone = directory / "backbone"
    for part in build_tiny_backbone(catalog, hidden_size=args.hidden_size, seed=args.seed):
        part.save_pretrained(backbone)
    settings = {"max_history": args.max_history, **ALL_PATCH_PRESET.processor}
    processor = PatchRecProcessor.from_backbone(backbone, catalog, MOVIE_PROMPT_INSTRUCTION_FIRST, **settings)
    train_args = PatchFinetuneConfig(**training(directory, args))
    final = train_recipe(RECIPES["all-patch"], backbone, train_args, rows.new, processor)
    model = PatchRecommender.from_pretrained(final).model
    fit_fusion(model, processor, rows.new, rows.validation, show_progress=False).save_pretrained(final)
    return final


def measure(name: str, path: Path, targets: Dataset, known: Catalog, max_rows: int | None) -> dict[str, Any]:
    """Ranks targets by a checkpoint, by each method."""
    recommender = PatchRecommender.from_pretrained(path)
    row: dict[str, Any] = {"checkpoint": name}
    for method in METHODS:
        report = evaluate_model(
            recommender.model, recommender.processor, targets, method=method, max_rows=max_rows, batch_size=64,
            show_progress=False,
        )  # fmt: skip
        row[method] = report.metrics()["hr@20"]
        if method == "item":
            is_new = ~np.isin(report.targets["target_id"].to_numpy(), known.item_ids)
            ranks = report.targets["item_rank"].to_numpy()[is_new]
            row |= {"num_new": int(is_new.sum()), "new_items": float(ranks.mean()) if len(ranks) else float("nan")}
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k", help="a data set with times, as `prepare_data` takes it")
    parser.add_argument("--ties", choices=["stable", "release"], help="order of simultaneous interactions")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of a training from scratch")
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--max_history", type=int, default=100)
    parser.add_argument("--max_rows", type=int, help="targets to rank, evenly spaced; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, help="directory in which an interrupted run continues")
    parser.add_argument("--json", type=Path, help="file for the results")
    main(parser.parse_args())
