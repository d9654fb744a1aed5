"""Pairs, counted in blocks: by hand, and compared with counts that hold all pairs at once."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchrec_hf import Catalog
from patchrec_hf.baselines import CoVisitation, CoVisitationWeighting, Transitions, TransitionWeighting, pair_counts
from patchrec_hf.baselines.pair_counts import StoredPairs, count_pairs
from patchrec_hf.baselines.pairs import FlatTargets


CATALOG = Catalog.from_titles({10: "a", 11: "b", 12: "c"})
ROWS = Dataset.from_list(
    [
        {"user_id": 0, "item_ids": [10, 11, 12], "target_positions": [1, 2]},
        {"user_id": 1, "item_ids": [12, 12, 10], "target_positions": [2]},
    ]
)
NAMES = ("_EVENTS_PER_BLOCK", "_DENSE_SHARE", "_MIN_DENSE", "_MIN_SHORT_BLOCK")
LIMITS = {
    "one block": (2**21, 8, 4096, 32),
    "64 bits": (2**21, 8, 4096, 2**40),
    "a block for each item": (1, 0, 2**40, 32),
    "all items alone": (2**21, 2**40, 0, 32),
    "some items alone": (64, 2, 1, 32),
}
"""Events of a block, when an item is counted alone, and when events have 32 bits."""


def limit(monkeypatch, *values):
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setattr(pair_counts, name, value)


def counted_at_once(flat, window):
    """Counts all pairs together: the definition, in the order of additions that the library keeps."""
    weights = {}
    for distance in range(1, window + 1):
        counts = {}
        for place in np.flatnonzero(flat.num_before >= distance).tolist():
            pair = int(flat.items[place - distance]), int(flat.items[place])
            counts[pair] = counts.get(pair, 0) + 1
        for pair, number in counts.items():
            weights[pair] = weights.get(pair, 0.0) + number / distance
    either = sorted({*weights, *((target, item) for item, target in weights)})
    return either, [weights.get(pair, 0.0) for pair in either], [weights.get(pair[::-1], 0.0) for pair in either]


def joined(blocks):
    blocks = list(blocks)
    starts = [block.first_item for block in blocks]
    sizes = [len(block.offsets) - 1 for block in blocks]
    assert starts == (np.cumsum(sizes) - sizes).tolist()  # each item once, in order
    pairs = [
        (block.first_item + item, target)
        for block in blocks
        for item, slices in enumerate(zip(block.offsets[:-1], block.offsets[1:], strict=True))
        for target in block.targets[slice(*slices)].tolist()
    ]
    forward, backward = (
        np.concatenate([getattr(block, name) for block in blocks]).tolist() for name in ("forward", "backward")
    )
    return (pairs, forward, backward), sum(sizes)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_pairs_have_both_directions(monkeypatch, limits):
    limit(monkeypatch, *limits)
    (pairs, forward, backward), _ = joined(count_pairs(FlatTargets.from_rows(ROWS, CATALOG), window=2))
    # 10 → 11 (1), 11 → 12 (1), 10 → 12 (1/2), and of the second row 12 → 10 (1 + 1/2).
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert forward == [1, 0.5, 0, 1, 1.5, 0]
    assert backward == [0, 1.5, 1, 0, 0.5, 1]


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_blocks_give_the_numbers_of_counting_at_once(monkeypatch, limits, data):
    limit(monkeypatch, *limits)
    num_items, window = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    rows = data.draw(st.lists(st.lists(st.tuples(st.integers(0, num_items - 1), st.booleans()), min_size=1)))
    flat = FlatTargets(
        np.array([item for row in rows for item, _ in row], dtype=np.int32),
        np.array([place * is_target for row in rows for place, (_, is_target) in enumerate(row)], dtype=np.int32),
        num_items,
    )
    expected = counted_at_once(flat, window)
    found, num_found = joined(count_pairs(flat, window))
    assert found == expected  # to the last digit, since the additions have the same order
    assert num_found == num_items
    assert joined(StoredPairs(flat, window, max_in_memory=len(expected[0]) // 2))[0] == expected


def random_rows(num_rows=60, num_items=40):
    rng = np.random.default_rng(0)
    catalog = Catalog.from_titles({item: f"title {item % 7} of {item % 5}" for item in range(num_items)})
    rows = [
        {
            "user_id": user,
            "item_ids": np.minimum(rng.geometric(0.08, 15), num_items).tolist(),
            "target_positions": list(range(1, 15)),
        }
        for user in range(num_rows)
    ]
    rows = [{**row, "item_ids": [item - 1 for item in row["item_ids"]]} for row in rows]
    return Dataset.from_list(rows), catalog


@pytest.mark.parametrize("max_neighbors", [3, 100])
def test_tables_do_not_depend_on_the_blocks(monkeypatch, max_neighbors):
    """Also where scores are equal, of which the lower indices stay."""
    rows, catalog = random_rows()
    models = {
        CoVisitation: CoVisitationWeighting(3, 0.5, 0.0, 0.0),
        Transitions: TransitionWeighting(3, hops=2, title_weight=2.0),
    }
    tables = {}
    for name, limits in LIMITS.items():
        limit(monkeypatch, *limits)
        for kind, weighting in models.items():
            table = kind(catalog, weighting).fit(rows, max_neighbors=max_neighbors).table
            tables.setdefault(kind, {})[name] = [table.offsets, table.targets, table.values]
    for by_limits in tables.values():
        first, *others = by_limits.values()
        assert np.diff(first[0]).max() <= max_neighbors
        for other in others:
            for one, another in zip(first, other, strict=True):
                np.testing.assert_array_equal(one, another)


def test_a_block_holds_a_bounded_number_of_events(monkeypatch):
    rows, catalog = random_rows()
    flat = FlatTargets.from_rows(rows, catalog)
    limit(monkeypatch, 512, 8, 2**40, 32)
    places, reach = np.bincount(flat.items, minlength=len(catalog)), 4
    sizes = [
        int(places[block.first_item : block.first_item + len(block.offsets) - 1].sum()) * 2 * reach
        for block in count_pairs(flat, reach)
        if len(block.offsets) > 2
    ]
    assert len(sizes) > 3
    assert max(sizes) <= 512


def test_files_of_pairs_go_away(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_counts.tempfile, "tempdir", str(tmp_path))
    stored = StoredPairs(FlatTargets.from_rows(ROWS, CATALOG), 2, max_in_memory=0)
    assert len(list(tmp_path.rglob("*.npy"))) == 1
    assert joined(stored)[0] == joined(stored)[0]
    del stored
    assert not list(tmp_path.iterdir())


def test_no_target_no_pair():
    flat = FlatTargets(np.array([0, 1], dtype=np.int32), np.zeros(2, dtype=np.int32), 3)
    assert joined(count_pairs(flat, 5)) == (([], [], []), 3)
