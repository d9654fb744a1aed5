"""
One side of `prepare.py`: a raw log becomes a fitted fusion, and each step prints its seconds and the peak of memory.

The log is prepared (all of it is kept), rows are made, pairs and transitions are counted, and the weights of their mix
with recent popularity are fitted on some validation rows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchrec_hf.baselines import CoVisitation, Fusion, Popularity, Transitions, TransitionWeighting
from patchrec_hf.data.examples import make_rows
from patchrec_hf.data.filters import Filters
from patchrec_hf.data.movielens import clean_movie_title, read_movielens
from patchrec_hf.data.peak_memory import peak_gib
from patchrec_hf.data.preparation import PreparedData, prepare
from patchrec_hf.data.rows import select_spaced
from patchrec_hf.data.splits import SPLITS, temporal_split


TARGETS_PER_ROW = MAX_HISTORY = 100
MAX_NEIGHBORS = 200
TRANSITIONS_WINDOW = 5
VALIDATION_ROWS = 500


def fit(directory: Path, target: Path) -> dict[str, Any]:
    """
    Makes a fusion of a raw log.

    Args:
        directory (`pathlib.Path`):
            The log, in MovieLens' CSV form.
        target (`pathlib.Path`):
            Directory to create: the prepared data, the rows, and the fusion.

    Returns:
        `dict[str, Any]`: the number of interactions, the weights of the parts, and for each step its seconds, and the
        peak of memory from the start of the process to the end of the step, in GiB.
    """
    steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        steps[name] = {"seconds": time.perf_counter() - start, "peak_gib": peak_gib()}
        print(f"{name}: {steps[name]['seconds']:.1f} s, peak {steps[name]['peak_gib']:.2f} GiB", flush=True)

    with step("prepare"):
        raw = read_movielens(directory, None)
        data = prepare("log", raw, Filters(), temporal_split, clean_movie_title, keeps_all_items=True)
        del raw
        data.save(target / "data")
        del data
    with step("rows"):
        data = PreparedData.load(target / "data")
        catalog, num_interactions = data.catalog, len(data.interactions)
        (target / "rows").mkdir()
        splits = make_rows(
            data.interactions, catalog, MAX_HISTORY, targets_per_row=TARGETS_PER_ROW, directory=target / "rows",
            splits=SPLITS[:2],
        )  # fmt: skip
        del data
    train, validation = splits["train"], select_spaced(splits["validation"], VALIDATION_ROWS)
    with step("co-visitation"):
        co_visitation = CoVisitation(catalog).fit(train, max_neighbors=MAX_NEIGHBORS)
    with step("transitions"):
        near = TransitionWeighting(window=TRANSITIONS_WINDOW)
        transitions = Transitions(catalog, near).fit(train, max_neighbors=MAX_NEIGHBORS)
    with step("popularity"):
        popularity = Popularity(catalog, window=7).fit({"train": train, "validation": validation})
    with step("weights"):
        parts = {"co-visits": co_visitation, "transitions": transitions, "popularity": popularity}
        fusion = Fusion(parts).fit(validation, show_progress=False)
        fusion.save_pretrained(target / "fusion")
    return {
        "interactions": num_interactions,
        "items": len(catalog),
        "weights": dict(fusion.weights),
        "steps": steps,
        "seconds": sum(one["seconds"] for one in steps.values()),
        "peak_gib": peak_gib(),
    }
