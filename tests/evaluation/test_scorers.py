"""Evaluation of recommenders that score the whole catalog."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from patchrec_hf import Catalog, TimedScorer, evaluate_scorer
from patchrec_hf.baselines import Popularity
from patchrec_hf.evaluation.scorers import score_at
from patchrec_hf.runtime import best_items


class FixedScorer:
    """The same scores for every history, in an array that cannot be written."""

    def __init__(self, scores):
        self.scores = np.array(scores)

    def score(self, histories):
        return np.broadcast_to(self.scores, (len(histories), len(self.scores)))


class SeenScorer:
    """1 for the items of the history, 0 for others."""

    def score(self, histories):
        return np.array([[float(item in history) for item in BOOKS] for history in histories])


BOOKS = {1: "Emma", 2: "Poems", 3: "Poems", 4: "Ulysses", 5: "Nostromo"}


def score_books(scorer, *rows, **kwargs):
    dataset = Dataset.from_list(
        [
            {"user_id": user, "item_ids": item_ids, "target_positions": positions}
            for user, (item_ids, positions) in enumerate(rows)
        ]
    )
    return evaluate_scorer(scorer, Catalog.from_titles(BOOKS), dataset, show_progress=False, **kwargs)


@pytest.mark.parametrize(
    ("scores", "target", "item_rank", "title_rank", "num_ties"),
    [
        ([5, 4, 3, 2, 1], 4, 4, 3, 1),  # the two items above it called "Poems" are one title
        ([3, 1, 4, 2, 0], 2, 4, 1, 1),  # the other "Poems" is first
        ([3, 1, 4, 2, 0], 3, 1, 1, 1),
        ([4, 1, 4, 2, 0], 2, 4, 1.5, 1),  # the other "Poems" shares the first place with "Emma"
        ([4, 1, 4, 2, 0], 1, 1.5, 1.5, 2),
        ([0, 2, 2, 3, 1], 2, 2.5, 2, 2),  # by title there is no tie
        ([7, 7, 7, 7, 7], 5, 3, 2.5, 5),
        ([7, 7, 7, 7, 7], 3, 3, 2.5, 5),  # as for any other of the four titles
        ([-np.inf, 1, 1, np.inf, np.inf], 4, 1.5, 1.5, 2),
    ],
)
def test_score_targets_by_hand(scores, target, item_rank, title_rank, num_ties):
    (row,) = score_books(FixedScorer(scores), ([1, target], [1])).targets.rows(named=True)
    assert (row["item_rank"], row["title_rank"], row["num_ties"]) == (item_rank, title_rank, num_ties)
    assert row["is_exact"] is None
    assert (row["user_id"], row["target_id"], row["history_length"], row["is_cold"]) == (0, target, 1, None)
    assert row["tokens_read"] is None
    assert row["prompt_tokens"] is None


def test_scorers_read_the_history_before_each_target():
    rows = [([1, 2, 4], [1, 2]), ([5, 5, 4, 3], [3])]
    report = score_books(SeenScorer(), *rows)
    assert report.targets["user_id"].to_list() == [0, 0, 1]
    assert report.targets["target_id"].to_list() == [2, 4, 3]
    assert report.targets["history_length"].to_list() == [1, 2, 3]
    # After [1]: one of 1, four of 0. After [1, 2]: two and three. After [5, 5, 4]: two and three.
    assert report.targets["item_rank"].to_list() == [3.5, 4.0, 4.0]
    assert report.targets["title_rank"].to_list() == [3.0, 3.5, 3.5]
    assert report.settings["ranker"] == "SeenScorer"
    assert score_books(SeenScorer(), *rows, batch_size=1).targets.equals(report.targets)
    assert score_books(SeenScorer(), *rows, max_rows=1).targets.equals(report.targets[:2])


def test_few_targets_of_a_large_catalog_are_scored_at_a_time(monkeypatch):
    sizes = []

    class CountingScorer(SeenScorer):
        def score(self, histories):
            sizes.append(len(histories))
            return super().score(histories)

    rows = [([1, 2, 3, 4, 5], [2, 3, 4]), ([5, 3], [1])]
    expected = score_books(CountingScorer(), *rows).targets
    monkeypatch.setattr(best_items, "_NUMBERS_AT_ONCE", 3 * 5)
    found = score_books(CountingScorer(), *rows).targets
    assert found.equals(expected)
    assert sizes == [4, 3, 1]


def test_scored_items_that_were_seen_are_left_out_but_for_the_target():
    rows = [
        ([1, 2, 4], [2]),
        ([4, 1, 4], [2]),  # the target was seen too
        ([1, 2, 3], [2]),  # and so was the other item of the target's title
    ]
    free = score_books(FixedScorer([5, 4, 3, 2, 1]), *rows)
    unseen = score_books(FixedScorer([5, 4, 3, 2, 1]), *rows, exclude_seen=True)
    assert free.targets["item_rank"].to_list() == [4.0, 4.0, 3.0]
    assert unseen.targets["item_rank"].to_list() == [2.0, 3.0, 1.0]
    assert free.targets["title_rank"].to_list() == [3.0, 3.0, 2.0]
    assert unseen.targets["title_rank"].to_list() == [2.0, 2.0, 1.0]
    tied = ([1, 2, 4], [2])
    assert score_books(FixedScorer([7] * 5), tied).targets["num_ties"].to_list() == [5]
    assert score_books(FixedScorer([7] * 5), tied, exclude_seen=True).targets["num_ties"].to_list() == [3]


def test_what_was_seen_does_not_tie_with_a_target_that_scores_minus_infinity():
    infinity = np.inf
    row = score_books(FixedScorer([1, -infinity, -infinity, -infinity, 2]), ([2, 3], [1]), exclude_seen=True).targets
    # Above are 1 and 5, and 4 ties; 2, the other item of the title, was seen.
    assert row["item_rank"].to_list() == [3.5]
    assert row["title_rank"].to_list() == [3.5]
    assert row["num_ties"].to_list() == [2]


def test_scores_of_another_shape():
    with pytest.raises(ValueError, match=r"FixedScorer.score returned an array of shape \(2, 4\), expected \(2, 5\)"):
        score_books(FixedScorer([1, 2, 3, 4]), ([1, 2], [1]), ([1, 3], [1]))


def test_scores_that_are_not_numbers():
    with pytest.raises(ValueError, match="NaN"):
        score_books(FixedScorer([1, 2, 3, 4, np.nan]), ([1, 2], [1]))


def test_warm_and_cold_targets():
    train = Dataset.from_list(
        [
            {"user_id": 0, "item_ids": [1, 2], "target_positions": [1]},
            {"user_id": 1, "item_ids": [4, 1], "target_positions": [1]},
        ]
    )
    books = [([1, 2], [1]), ([1, 3, 4], [1, 2]), ([2, 5], [1])]
    report = score_books(FixedScorer([1, 2, 3, 4, 5]), *books, train_dataset=train)
    assert report.targets["is_cold"].to_list() == [False, True, False, True]


@pytest.mark.parametrize("ids", [slice(None, None, -1), slice(0, 5)])
def test_a_catalog_in_another_order_is_refused(catalog, rows, ids):
    """Scores are in the order of the catalog that a baseline was fitted on."""
    other = Catalog(catalog.item_ids[ids], catalog.titles[ids])
    with pytest.raises(ValueError, match=r"Popularity was fitted on a catalog of 12 items.*pass the catalog"):
        evaluate_scorer(Popularity(catalog).fit(rows), other, rows.select([]) if len(other) < 12 else rows)


class TimedFixed:
    """Scores that grow with the moment of asking. It remembers the moments."""

    def __init__(self, reads_times=True):
        self.reads_times, self.asked = reads_times, []

    def score(self, histories, times=None):
        self.asked.append(None if times is None else times.tolist())
        return np.tile(np.arange(5.0), (len(histories), 1))


TIMED_ROWS = [
    {"user_id": 1, "item_ids": [1, 2, 3], "target_positions": [1, 2], "timestamps": [10, 20, 30]},
    {"user_id": 2, "item_ids": [4, 5], "target_positions": [1], "timestamps": [7, 8]},
]


def test_the_moments_of_asking_are_the_times_of_the_targets():
    scorer = TimedFixed()
    assert isinstance(scorer, TimedScorer)
    evaluate_scorer(
        scorer, Catalog.from_titles(BOOKS), Dataset.from_list(TIMED_ROWS), batch_size=2, show_progress=False
    )
    assert scorer.asked == [[20, 30], [8]]


def test_a_scorer_that_reads_no_times_gets_none():
    scorer = TimedFixed(reads_times=False)
    dataset = Dataset.from_list(TIMED_ROWS)
    evaluate_scorer(scorer, Catalog.from_titles(BOOKS), dataset, show_progress=False)
    evaluate_scorer(SeenScorer(), Catalog.from_titles(BOOKS), dataset, show_progress=False)
    assert scorer.asked == [None]


def test_moments_that_are_missing_are_asked_for():
    dataset = Dataset.from_list(TIMED_ROWS).remove_columns("timestamps")
    with pytest.raises(ValueError, match=r"TimedFixed reads the moment of asking.*column `timestamps` of its rows"):
        evaluate_scorer(TimedFixed(), Catalog.from_titles(BOOKS), dataset)
    with pytest.raises(ValueError, match="TimedFixed reads the moment of asking"):
        score_at(TimedFixed(), [[1]], None)


class FixedProbabilities(FixedScorer):
    """Scores whose softmax is given."""

    def log_probs(self, histories, times=None):
        return self.score(histories)


def test_the_report_goes_beyond_accuracy():
    train = Dataset.from_list(
        [
            {"user_id": 1, "item_ids": [1, 2], "target_positions": [1]},
            {"user_id": 2, "item_ids": [1, 4], "target_positions": [1]},
        ]
    )
    scorer = FixedProbabilities(np.log([0.5, 0.2, 0.13, 0.12, 0.05]))
    report = score_books(scorer, ([1, 2], [1]), ([4, 1], [1]), train_dataset=train)
    found = replace(report, ks=(2,)).beyond_accuracy()
    assert found == pytest.approx(
        {
            "coverage@2": 2 / 5,
            "novelty@2": (0 + 1) / 2,  # both users have item 1, one of them item 2
            "popularity_bias@2": 1.5 / ((2 + 1) / 2),
            "calibration_error": (2 * 0 + 6 * (1 / 6 - 0.15) + 2 * 0.05) / 10,  # bins of 0.5, of 0.12 to 0.2, of 0.05
            "log_loss": -(np.log(0.2) + np.log(0.5)) / 2,
        },
        rel=1e-5,
    )
    unseen = score_books(scorer, ([1, 2], [1]), exclude_seen=True)
    assert unseen.targets["top_ids"].to_list() == [[2, 3, 4, 5]]  # their probabilities are those of the whole catalog
    np.testing.assert_allclose(
        np.exp(unseen.targets["top_log_probs"][0].to_numpy()), [0.2, 0.13, 0.12, 0.05], rtol=1e-5
    )
    assert set(unseen.beyond_accuracy()) == {"coverage@10", "coverage@20", "calibration_error", "log_loss"}


def test_scores_alone_are_no_probabilities():
    report = score_books(FixedScorer([5, 4, 3, 2, 1]), ([1, 2], [1]))
    assert set(report.beyond_accuracy()) == {"coverage@10", "coverage@20"}
    with pytest.raises(ValueError, match="The report of FixedScorer holds no log-probabilities"):
        report.calibration()


def test_log_probabilities_of_another_shape_are_refused():
    scorer = FixedProbabilities([5, 4, 3, 2, 1])
    scorer.log_probs = lambda histories, times=None: np.zeros((len(histories), 4))
    with pytest.raises(ValueError, match=r"FixedProbabilities\.log_probs returned an array of shape \(1, 4\)"):
        score_books(scorer, ([1, 2], [1]))
