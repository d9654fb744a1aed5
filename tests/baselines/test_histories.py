"""All baselines check their histories alike."""

import numpy as np
import pytest
from datasets import DatasetDict

from patchrec_hf.baselines import CoVisitation, Popularity, Transitions
from patchrec_hf.baselines.histories import check_histories


@pytest.mark.parametrize("name", ["Popularity", "CoVisitation", "Transitions", "SASRec"])
def test_all_answer_wrong_histories_alike(make_baseline, catalog, chains, name):
    model = (
        make_baseline("SASRec")
        if name == "SASRec"
        else {"Popularity": Popularity, "CoVisitation": CoVisitation, "Transitions": Transitions}[name](catalog)
    )
    if name != "SASRec":
        with pytest.raises(RuntimeError, match="call `fit` first"):
            model.score([[10]])
        with pytest.raises(TypeError, match=r"Pass .*\['train'\]"):
            model.fit(DatasetDict({"train": chains}))
        model.fit(chains)
    assert model.score([]).shape == (0, len(catalog))
    with pytest.raises(ValueError, match="History 1 is empty"):
        model.score([[10], []])
    with pytest.raises(TypeError, match=r"got 10. Score a single one by `score\(\[ids\]\)`"):
        model.score([10, 11])


def test_any_sequence_is_a_history():
    check_histories([])
    check_histories([[10, 11], (12,), np.array([13]), range(14, 16)])


@pytest.mark.parametrize("history", [10, {10, 11}, None])
def test_a_history_has_an_order(history):
    with pytest.raises(TypeError, match="A history is a list of item ids"):
        check_histories([[10], history])


@pytest.mark.parametrize("history", [[], np.array([], dtype=np.int64)])
def test_the_empty_history_is_named(history):
    with pytest.raises(ValueError, match="History 2 is empty"):
        check_histories([[10], [11], history])
