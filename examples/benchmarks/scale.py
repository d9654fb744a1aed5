"""
Measures what large catalogs cost: tokenizing, the title trie, item vectors, item indexes, and ranking by them.

    python examples/benchmarks/scale.py --json outputs/scale.json
    python examples/benchmarks/scale.py --quick                # a small catalog, in a minute or two

The titles are synthetic (`synthetic_titles.py`). A model of two layers of width 64 learns for 300 steps that a user
chooses titles with one of the rarer words, from the first 10,000 titles. It then gives the vectors of all items, by
their titles, and of users it has not seen. So a trained item head gives the vectors, and they are not random.

Each stage runs in a process of its own, on one thread, and tells its seconds of computing time and its largest memory.
With `--directory`, what a stage has made is kept there, and the same command continues after an interruption.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scale_stages import EF_SEARCHES, KNOWN_ITEMS, NPROBES, NUM_CANDIDATES, K


STAGES = ("tokens", "trie", "vectors", "flat", "ivfpq", "hnsw", "rank")
_COSTS = (
    ("titles → tokens", "tokens"),
    ("title trie", "trie"),
    ("item vectors", "vectors"),
    ("flat index", "flat"),
    ("IVFPQ index", "ivfpq"),
    ("HNSW index", "hnsw"),
)
_SEARCHES = {
    "IVFPQ": {f"ivfpq_{nprobe}": f"IVFPQ, nprobe={nprobe}" for nprobe in NPROBES},
    "HNSW": {f"hnsw_{ef_search}": f"HNSW, ef_search={ef_search}" for ef_search in EF_SEARCHES},
}
"""For each kind of index that may miss items, the names of its searches, from the fastest to the most thorough."""
_LEAST_RECALL = 0.95


def run_stage(directory: Path, stage: str, num_items: int, steps: int, users: int) -> dict[str, Any]:
    """Runs a stage in its own process, unless an earlier run has done so, and returns what it measured."""
    path = directory / ("train.json" if stage == "train" else f"{num_items}/{stage}.json")
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    print(f"{num_items:,} items: {stage}", flush=True)
    script = Path(__file__).with_name("scale_stages.py")
    command = [
        sys.executable, str(script), stage, "--directory", str(directory), "--items", str(num_items),
        "--steps", str(steps), "--users", str(users),
    ]  # fmt: skip
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings}, check=False)
    if done.returncode != 0:
        raise SystemExit(f"The stage {stage!r} of {num_items:,} items failed. Its error stands above.")
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return results


def fastest_search(ranked: dict[str, float], kind: str) -> str:
    """Returns the fastest search of a kind that finds enough of the best items, or the most thorough one."""
    searches = list(_SEARCHES[kind])
    enough = [search for search in searches if ranked[f"recall_{search}"] >= _LEAST_RECALL]
    return enough[0] if enough else searches[-1]


def report(results: dict[int, dict[str, dict[str, float]]]) -> str:
    """
    Returns the tables that the script prints.

    Args:
        results (`dict[int, dict[str, dict[str, float]]]`):
            For each number of items and each stage, what the stage measured.
    """
    columns = [f"{num_items:,} items" for num_items in results]
    lines = ["Seconds of computing time, and the largest memory of the process:", "", _row(["", *columns])]
    lines.append(_row(["---", *["---:"] * len(columns)]))
    for name, stage in _COSTS:
        cells = [f"{of[stage]['cpu_seconds']:,.1f} s, {of[stage]['peak_gib']:.2f} GiB" for of in results.values()]
        lines.append(_row([name, *cells]))
    lines += ["", "Users per second of computing time, on one thread:", "", _row(["", *columns])]
    lines.append(_row(["---", *["---:"] * len(columns)]))
    ranked = [of["rank"] for of in results.values()]
    lines.append(_row(["reading histories by the model", *(f"{of['read']:,.0f}" for of in ranked)]))
    lines.append(_row(["item, without an index", *(f"{of['item']:,.0f}" for of in ranked)]))
    lines.append(_row(["item, flat", *(f"{of['item_flat']:,.0f}" for of in ranked)]))
    for search, name in (pair for searches in _SEARCHES.values() for pair in searches.items()):
        cells = [
            f"{of[f'item_{search}']:,.0f}, recall@{K} {of[f'recall_{search}']:.3f}, "
            f"{of[f'item_{search}'] / of['item_flat']:.1f} times flat"
            for of in ranked
        ]
        lines.append(_row([f"item, {name}", *cells]))
    by_titles = (f"{of['exact']:,.1f}" for of in ranked)
    lines.append(_row([f"exact, {NUM_CANDIDATES} candidates of IVFPQ, with reading", *by_titles]))
    lines.append(_row(["largest memory", *(f"{of['peak_gib']:.2f} GiB" for of in ranked)]))
    lines.append("")
    for num_items, of in results.items():
        for kind, searches in _SEARCHES.items():
            search = fastest_search(of["rank"], kind)
            times = of["rank"][f"item_{search}"] / of["rank"]["item_flat"]
            lines.append(
                f"{num_items:,} items: {searches[search]}: {of['rank'][f'recall_{search}']:.1%} of the {K} best items "
                f"are found, at {times:.1f} times the speed of the flat index."
            )
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--quick", action="store_true", help="one catalog of 2,000 items, and a model of 20 steps")
    parser.add_argument("--items", type=int, nargs="+", help="sizes of catalogs (default: 10000 100000 1000000)")
    parser.add_argument("--directory", type=Path, help="where to keep what each stage makes (default: nowhere)")
    args = parser.parse_args()
    steps, known, users = (20, 2000, 200) if args.quick else (300, KNOWN_ITEMS, 2000)
    sizes = args.items or ([known] if args.quick else [10_000, 100_000, 1_000_000])
    if min(sizes) < known:
        parser.error(f"--items must be at least {known}, the items that the model is trained on, got {min(sizes)}.")
    with tempfile.TemporaryDirectory() as scratch:
        directory = args.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        trained = run_stage(directory, "train", known, steps, users)
        results = {
            size: {stage: run_stage(directory, stage, size, steps, users) for stage in STAGES} for size in sizes
        }
    print(f"The model has learned for {steps} steps; its last loss is {trained['loss']:.2f}.")
    print(report(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        catalogs = {str(size): of for size, of in results.items()}
        args.json.write_text(json.dumps({"train": trained, "catalogs": catalogs}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
