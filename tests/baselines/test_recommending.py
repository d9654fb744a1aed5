"""All baselines recommend with the arguments, the results and the meaning of `PatchRecommender.recommend`."""

import inspect
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_baselines import NAMES
from tiers import first_fast

from patchrec_hf import Catalog, PatchRecommender, Recommendation, Title
from patchrec_hf.baselines import CatalogRecommender, CoVisitation, Popularity, SASRec, Transitions
from patchrec_hf.baselines import recommending as module


BOOKS = Catalog.from_titles({1: "Emma", 2: "Poems", 3: "Poems", 4: "Ulysses", 5: "Nostromo"})


class Fixed(CatalogRecommender):
    """The same scores for every history. It remembers the histories."""

    def __init__(self, scores, catalog=BOOKS):
        self.catalog, self.scores, self.asked = catalog, np.array(scores, dtype=np.float64), []

    def score(self, histories):
        self.asked += histories
        return np.tile(self.scores, (len(histories), 1))


def ids(recommendations):
    return [item.item_id for item in recommendations]


def test_best_first_with_titles_and_scores():
    found = Fixed([5, 1, 4, 2, 3]).recommend([5], k=3)
    assert found == [
        Recommendation(1, "Emma", 5.0, True),
        Recommendation(3, "Poems", 4.0, True),
        Recommendation(4, "Ulysses", 2.0, True),
    ]
    assert [type(value) for value in (found[0].item_id, found[0].score)] == [int, float]


def test_what_was_seen_is_left_out_with_its_title():
    fixed = Fixed([5, 1, 4, 2, 3])
    assert ids(fixed.recommend([2])) == [1, 5, 4]
    assert ids(fixed.recommend([2], exclude_seen=False)) == [1, 3, 5, 4]
    assert ids(fixed.recommend([2], exclude_seen=False, unique_titles=False)) == [1, 3, 5, 4, 2]
    assert ids(fixed.recommend([1], unique_titles=False)) == [3, 5, 4, 2]


def test_equal_scores_are_in_catalog_order():
    assert ids(Fixed([7] * 5).recommend([5], k=2)) == [1, 2]


@pytest.mark.parametrize(("dtype", "is_tie"), [(np.float32, True), (np.float64, False)])
def test_scores_tie_within_the_rounding_of_their_own_dtype(dtype, is_tie):
    """One rounding of float32 apart."""
    scores = np.array([8, 0, 0, np.nextafter(np.float32(8), np.float32(0)), 0], dtype=dtype)

    class Rounded(Fixed):
        def score(self, histories):
            return np.tile(scores, (len(histories), 1))

    for unique_titles in (True, False):
        (first,) = Rounded(scores).recommend([5], k=1, unique_titles=unique_titles)
        assert (first.item_id, first.ends_in_tie) == (1, is_tie)


def test_an_item_that_scores_minus_infinity_is_not_recommended():
    fixed = Fixed([1, -np.inf, -np.inf, 2, 0])
    assert ids(fixed.recommend([5])) == [4, 1]
    with pytest.raises(ValueError, match=r"Row 1 has no item left to recommend: Fixed scores .* -infinity"):
        fixed.recommend([[5], [1, 4, 5]])


def test_scores_may_depend_on_the_items_that_may_be_recommended():
    """A subclass learns which items these are, and how many of them the list needs."""

    class Chosen(Fixed):
        def score_candidates(self, histories, allowed, k):
            self.asked.append((BOOKS.item_ids[allowed[0]].tolist(), k))
            return np.where(allowed, self.scores, -np.inf)

    chosen = Chosen([5, 1, 4, 2, 3])
    assert ids(chosen.recommend([4], k=2, unique_titles=False)) == [1, 3]
    assert ids(chosen.recommend([2], k=2)) == [1, 5]
    assert ids(chosen.recommend([2], k=9, candidates=[2, 4, 1], exclude_seen=False)) == [1, 4, 2]
    # Two items share the title of the poems, so that two titles may take four items.
    assert chosen.asked == [([1, 2, 3, 5], 2), ([1, 4, 5], 4), ([1, 2, 4], 5)]


def test_candidates_for_all_histories_or_for_each():
    fixed = Fixed([5, 1, 4, 2, 3])
    assert ids(fixed.recommend([4], candidates=[5, 2])) == [5, 2]
    for candidates in (np.array([5, 2]), torch.tensor([5, 2]), pl.Series([5, 2])):
        assert ids(fixed.recommend([4], candidates=candidates)) == [5, 2]
    assert ids(fixed.recommend([[4], [1]], candidates=[torch.tensor([5, 2]), {1, 4}])[0]) == [5, 2]
    batch = fixed.recommend([[4], [1]], candidates=[[5, 2], [1, 4]])
    assert [ids(row) for row in batch] == [[5, 2], [4]]
    assert [ids(row) for row in fixed.recommend([[4], [1]], candidates={1, 5})] == [[1, 5], [5]]


def test_titles_of_the_catalog_are_items():
    fixed = Fixed([5, 1, 4, 2, 3])
    assert ids(fixed.recommend(["Poems", 5])) == [1, 4]
    assert fixed.asked == [[2, 5]]


def test_frames_of_histories():
    frame = pl.DataFrame({"user_id": [7, 8], "item_ids": [[4, 1], [5]]})
    for histories in (frame, frame["item_ids"], frame.to_arrow(), frame.to_pandas()):
        assert [ids(row) for row in Fixed([5, 1, 4, 2, 3]).recommend(histories)] == [[3, 5], [1, 3, 4]]


def test_ids_that_are_texts():
    catalog = Catalog.from_titles({"B-01": "Emma", "B-02": "Poems", "007": "Ulysses"})
    fixed = Fixed([3, 2, 1], catalog)
    found = fixed.recommend(["B-02"], candidates=["007", "B-02", "B-01"])
    assert found == [Recommendation("B-01", "Emma", 3.0, True), Recommendation("007", "Ulysses", 1.0, True)]
    assert [ids(row) for row in fixed.recommend([["Poems"], [Title("Emma")]], k=1)] == [["B-01"], ["B-02"]]
    assert fixed.asked == [["B-02"], ["B-02"], ["B-01"]]
    with pytest.raises(KeyError, match="B-03"):
        fixed.recommend(["B-03"])
    with pytest.raises(KeyError, match=r"Emmma.*is no title .*nearest titles are .*Emma.*`PatchRecommender` also"):
        fixed.recommend([Title("Emmma")])


@pytest.mark.parametrize("history", [torch.tensor([4, 1]), np.array([4, 1]), (4, 1), [np.int64(4), np.int32(1)]])
def test_histories_of_other_types(history):
    fixed = Fixed([5, 1, 4, 2, 3])
    assert ids(fixed.recommend(history)) == [3, 5]
    assert fixed.asked == [[4, 1]]
    assert [ids(row) for row in fixed.recommend([history, [5]])] == [[3, 5], [1, 3, 4]]


def test_many_histories_are_scored_in_parts(monkeypatch):
    monkeypatch.setattr(module, "HISTORIES_PER_BATCH", 2)
    batch, candidates = [[4], [1], [5], [2], [3]], [[1], [2], [3], [4], [5]]
    found = Fixed([5, 1, 4, 2, 3]).recommend(batch, candidates=candidates)
    assert [ids(row) for row in found] == [[1], [2], [3], [4], [5]]
    with pytest.raises(ValueError, match="Row 4 has no item left"):
        Fixed([5, 1, 4, 2, 3]).recommend(batch, candidates=[*candidates[:4], [3]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1], 0), ValueError, "`k` must be at least 1, got 0"),
        (([1], 2.0), TypeError, r"`k` must be a whole number, got 2\.0"),
        (([1], "2"), TypeError, "`k` must be a whole number, got '2'"),
        (([1], True), TypeError, "`k` must be a whole number, got True"),
        (([],), ValueError, "history is empty"),
        (([9],), KeyError, "Item id 9"),
        ((["Emmma"],), KeyError, "Emmma"),
        ((7,), TypeError, "A history is a list"),
        (([1.5],), TypeError, "1.5"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Fixed([5, 1, 4, 2, 3]).recommend(*arguments)


def test_wrong_candidates_are_named():
    fixed = Fixed([5, 1, 4, 2, 3])
    with pytest.raises(ValueError, match="2 lists for 1 histories"):
        fixed.recommend([1], candidates=[[2], [3]])
    with pytest.raises(ValueError, match="Row 1 has no candidates"):
        fixed.recommend([[1], [2]], candidates=[[2], []])
    with pytest.raises(ValueError, match="no candidates"):
        fixed.recommend([1], candidates=[])
    with pytest.raises(KeyError, match="Item id 9"):
        fixed.recommend([1], candidates=[9])
    with pytest.raises(ValueError, match=r"Row 0 has no item left to recommend.*exclude_seen=False"):
        fixed.recommend([2], candidates=[3])


def test_wrong_scores_are_named():
    with pytest.raises(FloatingPointError, match="row 0"):
        Fixed([5, 1, 4, 2, np.nan]).recommend([1])
    with pytest.raises(ValueError, match=r"returned an array of shape \(1, 3\), expected \(1, 5\)"):
        Fixed([5, 1, 4]).recommend([1])
    with pytest.raises(NotImplementedError, match="does not implement `score`"):
        CatalogRecommender().score([[1]])


def test_the_arguments_are_those_of_the_llm():
    """A call that recommends by a baseline also recommends by the LLM, which takes the moment of asking too."""
    ours = inspect.signature(CatalogRecommender.recommend).parameters
    theirs = inspect.signature(PatchRecommender.recommend).parameters
    assert set(ours) <= set(theirs)
    for name in ("k", "exclude_seen", "unique_titles", "candidates"):
        assert ours[name].default == theirs[name].default, name
    docs = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text(encoding="utf-8")
    mean_the_same, others = docs[docs.index("\n`k`, `exclude_seen`") :].split(" mean the same", 1)
    lacking = others[others.index("by name only.") : others.index("how an LLM ranks")]
    assert re.findall(r"`(\w+)`", mean_the_same) == [name for name in ours if name in theirs][2:]
    assert re.findall(r"`(\w+)`", lacking) == [name for name in theirs if name not in ours]


def test_numbers_of_numpy_are_whole_numbers():
    assert ids(Fixed([5, 1, 4, 2, 3]).recommend([5], k=np.int64(2))) == [1, 3]


@pytest.mark.slow
def test_every_baseline_ranks_as_its_scores(catalog, rows, make_baseline):
    baselines = [
        Popularity(catalog).fit(rows),
        CoVisitation(catalog).fit(rows),
        *(make_baseline(name) for name in ("GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec")),
    ]
    history = [10, 13, 17]
    for baseline in baselines:
        (scores,) = baseline.score([history])
        scores[catalog.indices_of(history)] = -np.inf
        best = catalog.item_ids[np.argsort(-scores, kind="stable")[:4]].tolist()
        found = baseline.recommend(history, k=4, unique_titles=False)
        assert ids(found) == best, type(baseline).__name__
        assert [item.title for item in found] == [catalog.titles[index] for index in catalog.indices_of(best)]


def test_recommending_leaves_a_model_in_training_mode(make_baseline):
    model = make_baseline("SASRec").train()
    assert isinstance(model, SASRec)
    assert len(model.recommend([10, 11], k=3)) == 3
    assert model.training


class Hourly(Fixed):
    """Recommends item 1 before the first hour, and item 5 from then on."""

    reads_times = True
    next_moment = 7_200

    def score(self, histories, times=None):
        return np.array([[2, 0, 0, 0, 1] if time < 3_600 else [1, 0, 0, 0, 2] for time in times], dtype=np.float64)


def test_the_moment_of_asking(monkeypatch):
    monkeypatch.setattr(module, "HISTORIES_PER_BATCH", 1)
    hourly = Hourly([0] * 5)
    assert ids(hourly.recommend([4], k=1, times=3_599)) == [1]
    assert ids(hourly.recommend([4], k=1)) == [5]
    assert [ids(best) for best in hourly.recommend([[4], [4]], k=1, times=[3_600, 0])] == [[5], [1]]
    # A baseline that reads no times takes them all the same, so that one call serves all baselines.
    assert ids(Fixed([5, 1, 4, 2, 3]).recommend([5], k=1, times=3_600)) == [1]
    for baseline in (hourly, Fixed([0] * 5)):
        with pytest.raises(ValueError, match="one moment for all 1 histories or one for each"):
            baseline.recommend([4], times=[1, 2])
        with pytest.raises(TypeError, match="`times` must be whole numbers"):
            baseline.recommend([4], times="now")


@pytest.mark.parametrize("name", first_fast(["CoVisitation", "Transitions", *NAMES]))
def test_probabilities_sum_to_1_and_keep_the_order(name, catalog, rows, make_baseline):
    counting = {"CoVisitation": CoVisitation, "Transitions": Transitions}
    model = counting[name](catalog).fit(rows) if name in counting else make_baseline(name)
    histories = [[10, 13], [20, 11, 17], [12]]
    scores, log_probs = model.score(histories), model.log_probs(histories, times=np.array([5, 6, 7]))
    assert (log_probs.shape, log_probs.dtype) == (scores.shape, np.float64)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-9)
    for row, values in zip(scores, log_probs, strict=True):
        order = np.argsort(row, kind="stable")
        rises = np.diff(row[order].astype(np.float64)) > 0
        assert (np.diff(values[order])[~rises] == 0).all()
        assert (np.diff(values[order])[rises] > 0).all()
