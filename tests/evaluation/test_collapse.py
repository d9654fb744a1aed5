"""Models that score their best titles alike are reported."""

import numpy as np
import polars as pl

from patchrec_hf.evaluation.collapse import count_distinct, describe_collapse


def counts(scores, titles):
    return tuple(column[0] for column in count_distinct(np.array([scores]), np.array([titles])))


def test_distinct_scores_by_hand():
    assert counts([-1.0, -1.0, -1.0 - 1e-7, -2.0], [0, 1, 2, 3]) == (2, 4)
    assert counts([-1.0, -2.0, -np.inf], [0, 1, -1]) == (2, 2)
    assert counts([-np.inf], [-1]) == (0, 0)
    assert counts([-1.0, -1.0, -2.0, -2.0], [0, 0, 1, 1]) == (2, 2)  # items of one title are expected to tie


def targets(*pairs):
    return pl.DataFrame(pairs, schema=["num_distinct_scores", "num_best_titles"], orient="row")


def test_a_collapsed_model_is_described():
    note = describe_collapse(targets((1, 20), (1, 20), (20, 20)))
    assert "for 2 of 3 targets" in note
    assert "A typical list of 20 has 1 distinct score." in note


def test_other_models_are_not():
    assert describe_collapse(targets((1, 20), (19, 20), (20, 20))) is None
    assert describe_collapse(targets((1, 1), (1, 1))) is None  # a list of one title says nothing
    assert describe_collapse(targets((None, None))) is None  # a scorer
    assert describe_collapse(pl.DataFrame({"item_rank": [1.0]})) is None  # a report of an earlier version
