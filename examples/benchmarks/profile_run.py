"""
Prints where the computing time goes: in matrix products, in other tensor operations, or outside of tensors.

    python examples/benchmarks/profile_run.py --data sample
    python examples/benchmarks/profile_run.py --data ml-100k --only "ranking, item head" --functions 10

Each work runs on one thread, several times: once to warm up, once for its computing time, once to count the floating
point operations of its matrix products, and once under the profiler. The shares of a line add up to 100%. The last
column divides the counted operations per second of computing time by what a large `torch.mm` reaches, measured in the
same run. `--functions N` also lists the N functions of Python that take most time themselves.
"""

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    CatalogRanker,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    RankingConfig,
    build_tiny_backbone,
    evaluate_model,
    fit_fusion,
    load_recommendation_data,
)
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.evaluation.targets import find_targets


PRODUCTS = ("mm", "matmul", "linear", "bmm", "addmm", "baddbmm", "scaled_dot_product", "attention")
TITLE_TRAINING = {"learning_rate": 1e-2, "per_device_train_batch_size": 4}
_PEAK_SIZE, _PEAK_REPEATS = 1024, 12
_SILENT = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no"}


class Works:
    """
    The works to profile, on one data set.

    Args:
        data (`str`):
            A data set, as [`load_recommendation_data`] takes it.
        steps (`int`):
            Optimizer steps of a training.
        rows (`int`):
            Test rows of a ranking.
        directory (`pathlib.Path`):
            Directory for backbones and caches.
    """

    def __init__(self, data: str, steps: int, rows: int, directory: Path) -> None:
        self._data, self._steps, self._directory = data, steps, directory
        self._max_history = 20 if data == "sample" else 100
        self._splits, self._catalog = self._load(self._max_history)
        self._test = select_spaced(self._splits["test"], rows)
        self._backbone = str(directory / "backbone")
        for part in build_tiny_backbone(self._catalog):
            part.save_pretrained(self._backbone)

    def _load(self, targets_per_row: int, **settings: Any) -> tuple[Any, Any]:
        return load_recommendation_data(self._data, self._max_history, targets_per_row=targets_per_row, **settings)

    @cached_property
    def _item_trainer(self) -> PatchFinetuneTrainer:
        processor = PatchRecProcessor.from_backbone(
            self._backbone, self._catalog, BOOK_PROMPT_INSTRUCTION_FIRST, max_history=self._max_history,
            **ALL_PATCH_PRESET.processor,
        )  # fmt: skip
        return self._make_trainer(processor, ALL_PATCH_PRESET.training, self._splits["train"])

    @cached_property
    def _title_trainer(self) -> PatchFinetuneTrainer:
        processor = PatchRecProcessor.from_backbone(
            self._backbone, self._catalog, BOOK_PROMPT, max_history=self._max_history
        )
        return self._make_trainer(processor, TITLE_TRAINING, self._load(16)[0]["train"])

    @cached_property
    def _item(self) -> tuple[PatchRecForCausalLM, PatchRecProcessor]:
        return self._item_trainer.model.eval(), self._item_trainer.processing_class

    @cached_property
    def _title(self) -> tuple[PatchRecForCausalLM, PatchRecProcessor]:
        return self._title_trainer.model.eval(), self._title_trainer.processing_class

    @cached_property
    def _fused(self) -> PatchRecProcessor:
        model, processor = self._item
        return fit_fusion(
            model, processor, self._splits["train"], select_spaced(self._splits["validation"], 100),
            ["item", "co_visits", "similar_titles", "seen"], show_progress=False,
        )  # fmt: skip

    def _make_trainer(self, processor: PatchRecProcessor, settings: Any, rows: Any) -> PatchFinetuneTrainer:
        args = PatchFinetuneConfig(
            str(self._directory / "run"), **{**settings, **_SILENT, "max_steps": self._steps, "num_train_epochs": 1}
        )
        return PatchFinetuneTrainer(self._backbone, args, train_dataset=rows, processing_class=processor)

    def prepare(self) -> None:
        with tempfile.TemporaryDirectory(dir=self._directory) as cache:
            self._load(self._max_history, cache_dir=cache)

    def train_item_head(self) -> None:
        self._item_trainer.train()

    def train_titles(self) -> None:
        self._title_trainer.train()

    def rank_item_head(self) -> None:
        self._rank(*self._item, RankingConfig(k=20, method="item", batch_size=64))

    def rank_fusion(self) -> None:
        self._rank(self._item[0], self._fused, RankingConfig(k=20, method="fusion", batch_size=64))

    def rank_titles(self) -> None:
        self._rank(*self._title, RankingConfig(k=20, method="exact", batch_size=16, max_title_tokens=200))

    def _rank(self, model: PatchRecForCausalLM, processor: PatchRecProcessor, config: RankingConfig) -> None:
        targets = find_targets(self._test, self._catalog)
        histories = targets.history_items(np.arange(len(targets)))
        CatalogRanker(model, processor, config).rank([processor.encode(history) for history in histories])

    def evaluate(self) -> None:
        report = evaluate_model(
            *self._item, self._test, method="item", batch_size=64, train_dataset=self._splits["train"],
            show_progress=False,
        )  # fmt: skip
        report.to_markdown()


WORKS: dict[str, Callable[[Works], None]] = {
    "preparing": Works.prepare,
    "training, item head": Works.train_item_head,
    "training, titles": Works.train_titles,
    "ranking, item head": Works.rank_item_head,
    "ranking, titles": Works.rank_titles,
    "ranking, fusion": Works.rank_fusion,
    "evaluation, item head": Works.evaluate,
}
"""Each work, by its name in the table."""


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    peak = measure_peak()
    print(f"torch.mm of {_PEAK_SIZE} by {_PEAK_SIZE}: {peak / 1e9:.1f} GFLOP per second of computing time, one thread")
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        works = Works(args.data, args.steps, args.rows, Path(directory))
        for name in args.only or WORKS:
            results[name] = measure(lambda work=WORKS[name]: work(works), peak)
            if args.functions:
                show_functions(name, lambda work=WORKS[name]: work(works), args.functions)
    print("\n| work | matrix products | other tensor operations | outside of tensors | of the peak |")
    print("|---|---|---|---|---|")
    for name, row in results.items():
        shares = [f"{row[share]:.0%}" for share in ("products", "tensors", "outside", "of_peak")]
        print(f"| {' | '.join([name, *shares])} |")
    if args.json:
        args.json.write_text(json.dumps({"data": args.data, "results": results}, indent=2) + "\n", encoding="utf-8")


def measure_peak() -> float:
    """Returns the floating point operations of a large product per second of computing time: the best of several."""
    left, right = torch.randn(_PEAK_SIZE, _PEAK_SIZE), torch.randn(_PEAK_SIZE, _PEAK_SIZE)
    seconds = []
    for _ in range(_PEAK_REPEATS):
        start = time.process_time()
        torch.mm(left, right)
        seconds.append(time.process_time() - start)
    return 2 * _PEAK_SIZE**3 / min(seconds)


def measure(work: Callable[[], None], peak: float) -> dict[str, float]:
    """Runs a work several times, and returns its computing time and the shares of it."""
    set_seed(0)
    work()
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    with FlopCounterMode(display=False) as counter:
        work()
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
        whole = time.perf_counter() - begin
    times = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    in_tensors = {key: value for key, value in times.items() if key.startswith("aten::")}
    products = sum(value for key, value in in_tensors.items() if any(part in key for part in PRODUCTS))
    others = sum(in_tensors.values()) - products
    return {
        "seconds": seconds,
        "products": products / whole,
        "tensors": others / whole,
        "outside": 1 - (products + others) / whole,
        "of_peak": counter.get_total_flops() / seconds / peak,
    }


def show_functions(name: str, work: Callable[[], None], number: int) -> None:
    profiler = cProfile.Profile()
    profiler.runcall(work)
    print(f"\n== {name} ==")
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set, as `load_recommendation_data` takes it")
    parser.add_argument("--only", nargs="+", choices=[*WORKS], help="works to measure; default: all")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of a training")
    parser.add_argument("--rows", type=int, default=200, help="test rows of a ranking")
    parser.add_argument("--functions", type=int, default=0, help="also list this many functions of each work")
    parser.add_argument("--json", type=Path, help="file for the results")
    main(parser.parse_args())
