"""
Measures what histories of 10 to 10,000 items cost under several layouts: positions of the prompt, a training step,
reading the history, and a click of a user whose history was read before (`UserState`): its positions, its time and the
bytes that are kept.

In several minutes on the embedded sample's catalog:

    python examples/benchmarks/long_history.py --quick --json long_history.json

With the titles of a data set, and with pictures:

    python examples/benchmarks/long_history.py --data data/goodreads --json long_history.json --plot long_history.svg

Costs do not depend on the weights, so a new, untrained model of two layers ranks by its item head. Histories are drawn
from the catalog at random. "text that fits" reads the latest items as text, as many as `--text_tokens` hold.

`ratios` in the JSON compare clicks of the layout "all patches": `click_10000_vs_100` is the time of a click on 10,000
items against one on 100, and `click_vs_reread` the time of a click on 10,000 items against reading anew the text that
fits. A click is one appended item and one list of 10 recommendations. Times are medians over the rounds, in which all
measurements take turns.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from patchrec_hf import (
    BOOK_PROMPT_INSTRUCTION_FIRST,
    BudgetLayout,
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    PyramidLayout,
    SessionPatchLayout,
    TextLayout,
    build_tiny_backbone,
    load_recommendation_data,
)


LAYOUTS = {
    "text that fits": TextLayout(),
    "latest 100": ItemPatchLayout(0),
    "all patches": ItemPatchLayout(0),
    "sessions": SessionPatchLayout(align="oldest"),
    "pyramid": PyramidLayout(),
    "budget of 50": BudgetLayout(50, num_text_items=0),
    "budget of 200": BudgetLayout(200, num_text_items=0),
}
LONGEST, SHORT = 10_000, 100
K = 10


def main(args: argparse.Namespace) -> None:
    if args.plot and find_spec("matplotlib") is None:  # said now, and not after the measurements
        raise SystemExit('`--plot` needs matplotlib: pip install "patchrec-hf[plots]"')
    _, catalog = load_recommendation_data(args.data)
    backbone, tokenizer = build_tiny_backbone(
        catalog, hidden_size=args.hidden_size, max_position_embeddings=2 * LONGEST, seed=args.seed
    )
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    model.add_item_head(catalog, residual_size=0)
    model.eval()
    generator = np.random.default_rng(args.seed)
    histories = {length: generator.integers(0, len(catalog), length) for length in args.lengths}
    clicks = generator.integers(0, len(catalog), args.clicks)
    measurements = [
        Measurement(name, length, model, tokenizer, catalog, history, args.text_tokens)
        for length, history in histories.items()
        for name in LAYOUTS
    ]
    for number in range(args.rounds + 1):
        for measurement in measurements:
            measurement.round(clicks)
            if number == 0:  # a first round, so that allocations and computations of item vectors are not timed
                measurement.seconds.clear()
        print(f"round {number} of {args.rounds}", flush=True)
    rows = [measurement.row() for measurement in measurements]
    clicks_ratio = {
        name: cell(rows, name, LONGEST, "click") / cell(rows, name, SHORT, "click")
        for name in LAYOUTS
        if name != "text that fits"
    }
    results = {
        "ratios": {
            "click_10000_vs_100": clicks_ratio["all patches"],
            "click_vs_reread": cell(rows, "all patches", LONGEST, "click")
            / cell(rows, "text that fits", LONGEST, "read"),
        },
        "clicks_10000_vs_100": clicks_ratio,
        "positions_per_click": {
            "item": cell(rows, "all patches", LONGEST, "positions per click"),
            "titles": title_positions(model, tokenizer, catalog, histories[LONGEST], clicks),
        },
        "rows": rows,
        "measured_on": {
            "items": len(catalog),
            "hidden_size": args.hidden_size,
            "clicks": args.clicks,
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
        },
    }
    print_table(rows)
    print(json.dumps({name: results[name] for name in results if name != "rows"}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(rows, args.plot)


class Measurement:
    """
    One layout and one length of a history.

    Args:
        name (`str`):
            The layout's name.
        length (`int`):
            Items of the history.
        model, tokenizer, catalog:
            The parts of a recommender.
        history (`numpy.ndarray` of shape `(length,)`, int64):
            Catalog indices.
        text_tokens (`int`):
            Tokens of the history as text.
    """

    def __init__(self, name, length, model, tokenizer, catalog, history, text_tokens) -> None:
        self.name, self.length = name, length
        max_history = {"latest 100": SHORT}.get(name, 2 * LONGEST)
        self.processor = make_processor(tokenizer, catalog, LAYOUTS[name], max_history)
        if name == "text that fits":
            lengths = self.processor.title_tokens.lengths[history] + 1
            history = history[np.cumsum(lengths[::-1])[::-1] <= text_tokens]
        self.item_ids = catalog.item_ids[history].tolist()
        self.catalog = catalog
        self.recommender = PatchRecommender(model, self.processor)
        self.collator = PatchDataCollator(self.processor, tree_packing=True, objective="item")
        self.num_read = self.processor.encode(catalog.indices_of(self.item_ids)).history_end + 1
        self.num_bytes = self.num_click_positions = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def round(self, clicks: np.ndarray) -> None:
        """Measures everything once."""
        self.timed("read", lambda: self.recommender.recommend(self.item_ids, K, exclude_seen=False, method="item"))
        self.timed("step", self.train_step)
        state = self.recommender.start(self.item_ids)
        positions = []

        def click_all() -> None:
            for item_id in self.catalog.item_ids[clicks].tolist():
                positions.append(appended(state, item_id))
                state.recommend(K, exclude_seen=False, method="item")

        if self.name != "text that fits":  # its history would grow beyond the tokens that fit
            self.timed("click", click_all, len(clicks))
            self.num_click_positions = statistics.fmean(positions)
            self.num_bytes = state.num_bytes

    def train_step(self) -> None:
        model = self.recommender.model
        last = len(self.item_ids) - 1
        batch = self.collator([{"user_id": 0, "item_ids": self.item_ids, "target_positions": [last]}])
        model(**batch).loss.backward()
        model.zero_grad()

    def timed(self, what, work, times=1) -> None:
        start = time.perf_counter()
        work()
        self.seconds[what].append((time.perf_counter() - start) / times)

    def row(self) -> dict:
        milliseconds = {what: 1000 * statistics.median(seconds) for what, seconds in self.seconds.items()}
        return {
            "layout": self.name,
            "items": self.length,
            "positions": self.num_read,
            "positions per click": self.num_click_positions,
            "bytes": self.num_bytes,
            **milliseconds,
        }


def make_processor(tokenizer, catalog: Catalog, layout, max_history: int) -> PatchRecProcessor:
    return PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, layout, max_history, separate_patches=False
    )


def title_positions(model, tokenizer, catalog, history, clicks) -> float:
    """Counts the positions of a click that are read before the titles, in the history and after it."""
    processor = make_processor(tokenizer, catalog, ItemPatchLayout(0), 2 * LONGEST)
    state = PatchRecommender(model, processor).start(catalog.item_ids[history].tolist())
    positions = [appended(state, item_id) for item_id in catalog.item_ids[clicks].tolist()]
    return statistics.fmean(positions) + 1 + len(processor.prompt.suffix_ids)


def appended(state, item_id) -> int:
    """Appends an item. Returns the number of positions that were read."""
    state.append(item_id)
    return state.positions_read[0].total


def cell(rows: list[dict], layout: str, length: int, column: str) -> float:
    (value,) = (row[column] for row in rows if (row["layout"], row["items"]) == (layout, length))
    return value


def print_table(rows: list[dict]) -> None:
    """Prints the rows."""
    unit = cell(rows, "all patches", SHORT, "read")
    print(
        f"\nTimes are relative to reading {SHORT} items with the layout 'all patches'. Positions include the prompt."
    )
    print("\n| layout | items | positions | positions per click | kilobytes | training step | reading | click |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: [*LAYOUTS].index(row["layout"])):
        times = " | ".join(f"{row[what] / unit:.2f}" if what in row else "–" for what in ("step", "read", "click"))
        state = f"{row['positions per click']:.1f} | {row['bytes'] / 1000:,.0f}" if "click" in row else "– | –"
        print(f"| {row['layout']} | {row['items']:,} | {row['positions']:,} | {state} | {times} |")


def plot(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = {"positions": "positions of the prompt", "read": "reading the history, ms", "click": "a click, ms"}
    for axes, (column, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for number, name in enumerate(LAYOUTS):
            points = [(row["items"], row[column]) for row in rows if row["layout"] == name and column in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, color=f"C{number}")
        axes.set(xscale="log", yscale="log", xlabel="items of the history", ylabel=label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    reading, clicks = figure.axes[1:]
    clicks.sharey(reading)  # so that a click is seen to cost less than reading
    figure.legend(*reading.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="a data set whose titles are used")
    parser.add_argument("--quick", action="store_true", help="few clicks and rounds")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[10, SHORT, 1000, LONGEST], help="items of histories"
    )
    parser.add_argument("--clicks", type=int, default=128, help="clicks of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--text_tokens", type=int, default=8192, help="tokens of a history as text")
    parser.add_argument("--hidden_size", type=int, default=64, help="width of the backbone, which has two layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plot", type=Path, help="file for a picture (PNG or SVG)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.clicks, arguments.rounds = 32, 3
    if not {SHORT, LONGEST} <= set(arguments.lengths):
        parser.error(f"--lengths must hold {SHORT} and {LONGEST}, whose clicks are compared; got {arguments.lengths}.")
    main(arguments)
