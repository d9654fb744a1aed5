"""
Measures how fast this library prepares a large raw log, and in how much memory, and compares it with pandas.

    python examples/benchmarks/prepare.py --json outputs/prepare.json

The script writes a synthetic log in MovieLens' CSV form (25 million ratings by default) to a temporary directory. Each
side then prepares the log by the same steps in its own process: it reads the log, keeps ratings above 3, drops
repeated rows, keeps users with 20 interactions and items with 10 users, sorts each user's interactions, splits them in
time, and writes Parquet. The script checks that both results are equal, and prints the ratio of the times and each
side's peak memory.

    python examples/benchmarks/prepare.py --sides fusion --json outputs/fusion.json

One more side makes a fitted fusion of the log, in one process (see `fusion_side.py`): it keeps all ratings, makes
rows, counts pairs, transitions and recent popularity, and fits the weights of their mix.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl


MIN_RATING, MIN_USER_INTERACTIONS, MIN_ITEM_USERS, CUTS = 3.5, 20, 10, (0.96, 0.98)


def write_log(directory: Path, num_rows: int) -> None:
    """Writes a log of users and items with long tails: 60 % of ratings above 3, unordered, and a few repeated rows."""
    rng = np.random.default_rng(0)
    num_users, num_items = max(num_rows // 150, 50), max(min(num_rows // 300, 60_000), 50)
    chunk = 1_000_000
    with (directory / "ratings.csv").open("wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for start in range(0, num_rows, chunk):
            size = min(chunk, num_rows - start)
            rows = pl.DataFrame(
                {
                    "userId": (rng.random(size) ** 1.5 * num_users).astype(np.int64) + 1,
                    "movieId": (rng.random(size) ** 3 * num_items).astype(np.int64) + 1,
                    "rating": rng.choice(np.arange(1, 11) / 2, size, p=[0.04] * 5 + [0.2, 0.15, 0.25, 0.1, 0.1]),
                    "timestamp": rng.integers(800_000_000, 1_700_000_000, size),
                }
            )
            pl.concat([rows[:-100], rows[:100]]).write_csv(file, include_header=False)
    titles = [f"Film {number} ({1920 + number % 100})" for number in range(1, num_items + 1)]
    pl.DataFrame({"movieId": range(1, num_items + 1), "title": titles, "genres": "Drama"}).write_csv(
        directory / "movies.csv"
    )


def prepare_ours(directory: Path, target: Path) -> None:
    """Prepares the log with this library, without its cache."""
    from patchrec_hf.data.filters import Filters
    from patchrec_hf.data.movielens import clean_movie_title, read_movielens
    from patchrec_hf.data.preparation import prepare
    from patchrec_hf.data.splits import temporal_split

    filters = Filters(MIN_RATING, min_user_interactions=MIN_USER_INTERACTIONS, min_item_users=MIN_ITEM_USERS)
    raw = read_movielens(directory, MIN_RATING)
    prepare("log", raw, filters, temporal_split, clean_movie_title, keeps_all_items=True).save(target)


def prepare_with_pandas(directory: Path, target: Path) -> None:
    """Prepares the log by the same steps, written in usual pandas."""
    import pandas as pd

    types = {"userId": "int32", "movieId": "int32", "rating": "float32", "timestamp": "int64"}
    rows = pd.read_csv(directory / "ratings.csv", dtype=types)
    rows = rows.rename(columns={"userId": "user_id", "movieId": "item_id"})
    rows = rows[rows["rating"] >= MIN_RATING].drop(columns="rating")
    rows = rows.drop_duplicates(["user_id", "item_id", "timestamp"])
    num_interactions = rows["user_id"].map(rows["user_id"].value_counts())
    num_users = rows["item_id"].map(rows[["user_id", "item_id"]].drop_duplicates()["item_id"].value_counts())
    rows = rows[(num_interactions >= MIN_USER_INTERACTIONS) & (num_users >= MIN_ITEM_USERS)]
    rows = rows.sort_values(["user_id", "timestamp"], kind="stable", ignore_index=True)
    rows["position"] = rows.groupby("user_id").cumcount()
    times = np.sort(rows["timestamp"].to_numpy())
    first, second = (times[int(cut * len(times)) - 1] for cut in CUTS)
    conditions = [rows["timestamp"] <= first, rows["timestamp"] <= second]
    rows["split"] = np.select(conditions, ["train", "validation"], "test")
    target.mkdir()
    rows.to_parquet(target / "interactions.parquet")


SIDES = {"patchrec_hf": prepare_ours, "pandas": prepare_with_pandas}


def measure(side: str, directory: Path, target: Path) -> dict[str, Any]:
    """Runs one side in its own process, and returns its seconds and peak memory. The seconds exclude imports."""
    command = [sys.executable, __file__, "--side", side, "--directory", str(directory), "--target", str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        last = ""
        for line in process.stdout or ():
            if last:
                print(last, flush=True)
            last = line.rstrip()
    if process.returncode:
        raise SystemExit(f"The side {side!r} failed; its message stands above.")
    return json.loads(last)


def run_side(side: str, directory: Path, target: Path) -> None:
    """Runs one side, and prints the JSON that [`measure`] reads."""
    if side == "fusion":
        from fusion_side import fit

        print(json.dumps(fit(directory, target)))
        return
    import pandas  # noqa: F401

    import patchrec_hf.data.preparation  # noqa: F401
    from patchrec_hf.data.peak_memory import peak_gib

    start = time.perf_counter()
    SIDES[side](directory, target)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_gib": peak_gib()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000_000, help="number of ratings in the log")
    parser.add_argument("--repeats", type=int, default=2, help="number of turns of each side; the fastest counts")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--sides", choices=["both", "fusion"], default="both", help="what to run (default: both)")
    parser.add_argument("--side", choices=[*SIDES, "fusion"], help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args.directory, args.target)
        return

    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "log"
        directory.mkdir()
        print(f"Writing a log of {args.rows:,} ratings", flush=True)
        write_log(directory, args.rows)
        size = (directory / "ratings.csv").stat().st_size / 2**30
        run = compare_sides if args.sides == "both" else run_fusion
        results = {"rows": args.rows, "file_gib": size, **run(directory, args.repeats)}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def run_fusion(directory: Path, _: int) -> dict[str, Any]:
    """Makes a fitted fusion once, and prints what it took."""
    found = measure("fusion", directory, directory.with_name("fusion"))
    print(
        f"{found['interactions']:,} interactions with {found['items']:,} items became a fitted fusion in "
        f"{found['seconds']:.0f} s, with a peak of {found['peak_gib']:.2f} GiB."
    )
    return {"fusion": found}


def compare_sides(directory: Path, repeats: int) -> dict[str, Any]:
    """Prepares the log with both sides, checks that they agree, and prints ratio and peaks."""
    columns = ["user_id", "item_id", "timestamp", "position", "split"]
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(repeats):
        for side in SIDES:
            print(f"{side}, turn {turn + 1} of {repeats}", flush=True)
            turns[side].append(measure(side, directory, directory.with_name(f"{side}-{turn}")))
    tables = [
        pl.scan_parquet(directory.with_name(f"{side}-0") / "interactions.parquet").select(
            pl.col(columns[:4]).cast(pl.Int64), pl.col("split").cast(pl.String)
        )
        for side in SIDES
    ]
    num_kept = tables[0].select(pl.len()).collect().item()
    different = pl.concat(
        [tables[0], tables[1].rename({name: f"{name}_" for name in columns})], how="horizontal"
    ).select(pl.any_horizontal(pl.col(name) != pl.col(f"{name}_") for name in columns).sum())
    if different.collect(engine="streaming").item() != 0:
        raise SystemExit("The two sides prepared different interactions.")

    seconds = {side: min(turn["seconds"] for turn in turns[side]) for side in SIDES}
    peaks = {side: max(turn["peak_gib"] for turn in turns[side]) for side in SIDES}
    results = {
        "kept": num_kept,
        "ratios": {"vs_pandas": seconds["pandas"] / seconds["patchrec_hf"]},
        "peak_gib": peaks["patchrec_hf"],
        "peak_gib_pandas": peaks["pandas"],
    }
    print(f"{num_kept:,} ratings are kept, equal on both sides:")
    print(f"pandas takes {results['ratios']['vs_pandas']:.2f} times as long as patchrec_hf.")
    print(f"Peak memory: {peaks['patchrec_hf']:.2f} GiB, pandas {peaks['pandas']:.2f} GiB.")
    return results


if __name__ == "__main__":
    main()
