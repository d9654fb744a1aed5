"""
Compares `patchrec recommend` in two processes with `recommend_ray.py` on two workers of Ray Data, on one machine.

    python examples/benchmarks/batch.py --json outputs/batch.json

The script makes a checkpoint (a tiny backbone of the sample's 448 books, with an item head) and synthetic users with
histories of 20 books. Each side ranks all users, is killed when a third of the parts are written, and is started again
by the same command. The script checks that both sides write equal rows, and that neither ranks a written part again.
Then it prints the users per second of each side's second run, by the summary that the command prints.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from patchrec_hf import (
    BOOK_PROMPT_INSTRUCTION_FIRST,
    ItemPatchLayout,
    PatchRecForCausalLM,
    PatchRecProcessor,
    build_tiny_backbone,
    load_recommendation_data,
)


NUM_ITEMS, K, BATCH_SIZE = 20, 10, 64
EXAMPLES = Path(__file__).parents[1]
SIDES = {
    "command, 2 processes": [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "patchrec_hf",
        "recommend", "--device", "cpu",
    ],
    "Ray Data, 2 workers": [sys.executable, str(EXAMPLES / "recommend_ray.py"), "--workers", "2"],
}  # fmt: skip


def write_checkpoint(directory: Path) -> int:
    """Writes a tiny checkpoint with an item head, and returns its number of parameters."""
    _, catalog = load_recommendation_data("sample", max_history=NUM_ITEMS)
    backbone, tokenizer = build_tiny_backbone(catalog)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    processor = PatchRecProcessor(
        tokenizer,
        catalog,
        BOOK_PROMPT_INSTRUCTION_FIRST,
        ItemPatchLayout(0),
        NUM_ITEMS,
        separate_patches=False,
        item_residuals=True,
    )
    model.add_item_head(catalog)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def write_users(path: Path, num_users: int) -> None:
    """Writes histories of different books, in row groups as polars writes them."""
    _, catalog = load_recommendation_data("sample", max_history=NUM_ITEMS)
    rng = np.random.default_rng(0)
    starts, strides = rng.integers(0, len(catalog), num_users), rng.integers(1, len(catalog) // NUM_ITEMS, num_users)
    indices = (starts[:, None] + strides[:, None] * np.arange(NUM_ITEMS)) % len(catalog)
    items = pl.Series(catalog.item_ids[indices.ravel()].tolist()).reshape((num_users, NUM_ITEMS))
    pl.DataFrame({"user_id": range(num_users), "item_ids": items.arr.to_list()}).write_parquet(path)


def kill_all(process: subprocess.Popen) -> None:
    """Kills a process and all that it has started, also in sessions of their own, as a power cut does."""
    first = psutil.Process(process.pid)
    processes = [first, *first.children(recursive=True)]
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(processes)
    process.wait()


def run_side(side: str, directory: Path, num_parts: int, users_per_part: int) -> dict[str, Any]:
    """Runs one side, kills it when a third of the parts are written, starts it again, and reads its summary."""
    output = directory / f"{side.split(',')[0].replace(' ', '-')}.parquet"
    command = [
        *SIDES[side], str(directory / "checkpoint"), "--histories", str(directory / "users.parquet"),
        "--output", str(output), "--k", str(K), "--batch_size", str(BATCH_SIZE),
        "--users_per_part", str(users_per_part),
    ]  # fmt: skip
    parts = output.with_name(f"{output.name}.parts")
    with (directory / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None and len(list(parts.glob("part-*.parquet"))) < max(num_parts // 3, 1):
            time.sleep(0.05)
        if process.poll() is not None:
            raise SystemExit(f"{side} ended early:\n{(directory / 'log.txt').read_text(errors='replace')[-3000:]}")
        kill_all(process)
    time.sleep(2)  # workers of Ray notice that their cluster has gone
    written = len(list(parts.glob("part-*.parquet")))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    print(f"{side}:\n{done.stdout.strip()}", flush=True)
    before = re.search(r"([\d,]+) users were ranked before", done.stdout)
    speed = re.search(r"([\d,]+) users in ([\d,.]+) s: ([\d,.]+) users per second", done.stdout)
    if before is None or speed is None:
        raise SystemExit(f"{side} printed no summary of a continued job:\n{done.stdout}")
    ranked_before, ranked_after, seconds, users_per_second = (
        float(text.replace(",", "")) for text in (before[1], *speed.groups())
    )
    if ranked_before < min(written * users_per_part, ranked_before + ranked_after):
        raise SystemExit(f"{side} lost parts: {written} were written, but only {ranked_before:,.0f} users counted.")
    return {
        "output": output,
        "users_before_the_kill": int(ranked_before),
        "users_after": int(ranked_after),
        "seconds_after": seconds,
        "users_per_second": users_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000, help="number of users (default: 100,000)")
    parser.add_argument("--quick", action="store_true", help="2,000 users")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    num_users = 2_000 if args.quick else args.users
    users_per_part = min(1024, max(num_users // 20, 1))
    num_parts = -(-num_users // users_per_part)
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent)
        num_parameters = write_checkpoint(directory / "checkpoint")
        write_users(directory / "users.parquet", num_users)
        sides = {side: run_side(side, directory, num_parts, users_per_part) for side in SIDES}
        one, other = (pl.read_parquet(found.pop("output")).sort("user_id") for found in sides.values())
    if len(one) != num_users or not one.select("user_id", "item_ids").equals(other.select("user_id", "item_ids")):
        raise SystemExit("The two sides recommend different items.")
    gap = (one["scores"].explode() - other["scores"].explode()).abs().max()
    speeds = {side: found["users_per_second"] for side, found in sides.items()}
    print(
        f"{num_users:,} users with {NUM_ITEMS} items each, k={K}, {num_parameters / 1e6:.1f} million parameters: both "
        f"sides wrote equal rows (scores differ by at most {gap:.1g}), after a kill and a second start each."
    )
    ratio = speeds["Ray Data, 2 workers"] / speeds["command, 2 processes"]
    print(f"Ray Data has {ratio:.2f} times the users per second of the command: {speeds}.")
    if args.json:
        results = {"users": num_users, "parameters": num_parameters, "sides": sides, "ratio": ratio, "score_gap": gap}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
