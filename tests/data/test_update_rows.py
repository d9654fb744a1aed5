"""Rows of an update: where new interactions begin, validation rows, and the draw of a replay."""

import numpy as np
import polars as pl
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from weekly_shop import BEGIN, DAY, ITEMS, SECOND_WEEK, interactions_of, rows_of

from patchrec_hf.data.update_rows import count_targets, draw_rows, mix_replay, rows_since, show_moment


def targets_of(rows):
    return [row["timestamps"][position] for row in rows for position in row["target_positions"]]


def test_moments_are_shown_in_utc():
    assert show_moment(BEGIN + 61) == "2026-11-02 00:01:01 UTC"


def test_targets_are_counted_by_row():
    counts = count_targets(rows_of(2, ITEMS).new)
    assert (counts.dtype, counts.tolist()) == (np.int64, [5] * 12)


def test_each_interaction_is_a_target_on_one_side_of_the_moment():
    rows = rows_of(2, ITEMS)
    assert rows.validation is None
    times = interactions_of(2).filter(pl.col("position") >= 3)["timestamp"]
    assert sorted(targets_of(rows.old)) == sorted(times.filter(times < SECOND_WEEK))
    assert sorted(targets_of(rows.new)) == sorted(times.filter(times >= SECOND_WEEK))


def test_new_targets_have_old_histories():
    since = BEGIN + 3 * DAY
    rows = rows_of(1, ITEMS, since=since)
    row = rows.new[0]
    first = row["target_positions"][0]
    assert row["timestamps"][first] >= since > row["timestamps"][first - 1]


def test_the_latest_new_interactions_validate():
    rows = rows_of(2, ITEMS, validation_share=0.25)
    assert max(targets_of(rows.new)) < min(targets_of(rows.validation))
    assert all(len(row["target_positions"]) == 1 for row in rows.validation)
    new = interactions_of(2).filter(pl.col("timestamp") >= SECOND_WEEK)
    assert len(rows.validation) == len(new) // 4


def test_logs_without_new_old_or_timed_interactions():
    with pytest.raises(ValueError, match=r"no new interactions: its latest is of 2026-11-05 .* begin at 2026-11-09"):
        rows_of(1, ITEMS)
    assert rows_of(1, ITEMS, since=BEGIN).old is None
    untimed = interactions_of(1).drop("timestamp")
    with pytest.raises(ValueError, match="have no times, so nothing tells new ones from old ones"):
        rows_since(untimed, ITEMS, 0)
    with pytest.raises(ValueError, match="`validation_share` must be at least 0 and below 1, got 1"):
        rows_of(2, ITEMS, validation_share=1)
    same = interactions_of(2).with_columns(timestamp=pl.lit(BEGIN))
    with pytest.raises(ValueError, match=r"`validation_share=0.5` leaves no validation rows: the 288 new"):
        rows_since(same, ITEMS, BEGIN, validation_share=0.5)


def rows_with(sizes, first_user):
    return Dataset.from_list(
        [{"user_id": first_user + number, "item_ids": list(range(size + 1)), "target_positions": [*range(1, size + 1)]}
         for number, size in enumerate(sizes)]
    )  # fmt: skip


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), wanted=st.floats(0.1, 80), seed=st.integers(0, 5))
def test_rows_are_drawn_until_they_hold_enough_targets(sizes, wanted, seed):
    sizes = np.array(sizes)
    drawn = draw_rows(sizes, wanted, seed)
    assert drawn.tolist() == draw_rows(sizes, wanted, seed).tolist() == sorted(set(drawn.tolist()))
    assert sizes[drawn].sum() >= wanted or len(drawn) == len(sizes)
    assert sizes[drawn].sum() - max(sizes) < wanted


def test_a_replay_is_a_share_of_all_targets():
    mixed = mix_replay(rows_with([3, 5], 0), rows_with([1] * 30, 100), 0.2, 0)
    assert mixed["user_id"][:2] == [0, 1]
    assert len(mixed) == 2 + 2


def test_replays_that_cannot_be():
    new = rows_with([2], 0)
    assert mix_replay(new, None, 0.0, 0) is new
    with pytest.raises(ValueError, match=r"`replay_share=0.2` replays old rows, but the log has no"):
        mix_replay(new, None, 0.2, 0)
    with pytest.raises(ValueError, match="`replay_share` must be at least 0 and below 1, got 1"):
        mix_replay(new, new, 1.0, 0)
    seeds = [mix_replay(rows_with([5], 0), rows_with([1] * 30, 100), 0.5, seed)["user_id"] for seed in range(2)]
    assert seeds[0] != seeds[1]
