"""Nothing that happens after a target's time changes how the target is ranked."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import catalog_of, interactions_of
from tiers import scaled

from patchrec_hf import evaluate_scorer
from patchrec_hf.baselines import CoVisitation, Fusion, Popularity
from patchrec_hf.data.examples import make_rows
from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.data.splits import SPLITS
from patchrec_hf.evaluation.scorers import score_at
from patchrec_hf.evaluation.targets import find_targets


DAY = 86_400
CATALOG = catalog_of(*range(1, 7))
# Each recommender, fitted on the splits as its documentation says.
RECOMMENDERS = {
    "popularity": lambda splits: Popularity(CATALOG).fit(splits["train"]),
    "popularity of 1 day": lambda splits: Popularity(CATALOG, 1).fit(splits),
    "popularity of 3 days": lambda splits: Popularity(CATALOG, 3).fit(splits),
    "popularity of 100 days": lambda splits: Popularity(CATALOG, 100).fit(splits),
    "co-visitation": lambda splits: CoVisitation(CATALOG).fit(splits["train"]),
    "fusion": lambda splits: fitted_fusion(splits),
}


def fitted_fusion(splits):
    """A fusion whose weights are fitted on validation rows, if there are any."""
    parts = {
        "popularity of 3 days": Popularity(CATALOG, 3).fit(splits),
        "co-visits": CoVisitation(CATALOG).fit(splits["train"]),
    }
    fusion = Fusion(parts)
    return fusion.fit(splits["validation"], show_progress=False) if "validation" in splits else fusion


def rows_until(interactions, time, **row_settings):
    """Rows of the interactions up to a time. Splits without a target are left out."""
    kept = interactions.filter(pl.col("timestamp") <= time)
    first = max(1, row_settings["min_history"])
    left = set(kept.filter(pl.col("position") >= first)["split"].to_list())
    return make_rows(kept, CATALOG, **row_settings, splits=[split for split in SPLITS if split in left])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOMMENDERS)
@settings(max_examples=scaled(25))
@given(data=st.data())
def test_later_interactions_change_no_score(name, data):
    """
    The test rows begin on day 6. All users have a life of their own, so that some have no target before the end, and
    the first items of others enter the rows late.
    """
    thirds = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=7)
    histories = data.draw(st.lists(thirds, min_size=1, max_size=5))
    row_settings = {
        "min_history": data.draw(st.integers(0, 3), label="min_history"),
        "max_history": data.draw(st.integers(3, 6), label="max_history"),
        "targets_per_row": data.draw(st.integers(1, 3), label="targets_per_row"),
    }
    always_here = [(99, 1 + third % 6, third * DAY // 3) for third in range(31)]
    drawn = [(user, item, third * DAY // 3) for user, history in enumerate(histories) for third, item in history]
    ordered = order_interactions(interactions_of(*drawn, *always_here))
    is_test, is_validation = pl.col("timestamp") >= 6 * DAY, pl.col("timestamp") >= 4 * DAY
    split = (
        pl.when(is_test).then(pl.lit("test")).when(is_validation).then(pl.lit("validation")).otherwise(pl.lit("train"))
    )
    interactions = ordered.with_columns(split=split)

    splits = rows_until(interactions, 11 * DAY, **row_settings)
    scorer, targets = RECOMMENDERS[name](splits), find_targets(splits["test"], CATALOG)
    scores = score_at(scorer, targets.history_ids(np.arange(len(targets))), targets.times)
    report = evaluate_scorer(scorer, CATALOG, splits["test"], show_progress=False).targets

    time = data.draw(st.sampled_from(sorted(set(targets.times.tolist()))), label="time")
    earlier = rows_until(interactions, time, **row_settings)
    blind, seen = RECOMMENDERS[name](earlier), find_targets(earlier["test"], CATALOG)
    is_left = targets.times <= time
    assert np.array_equal(seen.times, targets.times[is_left])
    assert np.array_equal(score_at(blind, seen.history_ids(np.arange(len(seen))), seen.times), scores[is_left])
    assert evaluate_scorer(blind, CATALOG, earlier["test"], show_progress=False).targets.equals(report.filter(is_left))
