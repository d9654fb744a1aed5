"""Tests of the metric for `evaluate`."""

import sys

import pytest
from processes import run_process


evaluate = pytest.importorskip("evaluate", reason='needs pip install "patchrec-hf[evaluate]"')

from patchrec_hf.evaluation.ranking_metric import RankingMetric  # noqa: E402


def test_by_hand():
    metric = RankingMetric()
    found = metric.compute(predictions=[[3, 1, 2], [5, 6, 7], [8, 4, 9]], references=[1, 9, 8], ks=[1, 2])
    assert found == pytest.approx(
        {
            "hr@1": 1 / 3,
            "ndcg@1": 1 / 3,
            "mrr@1": 1 / 3,
            "hr@2": 2 / 3,
            "ndcg@2": (1 + 0.6309297536) / 3,
            "mrr@2": 1.5 / 3,
        }
    )


def test_ids_may_be_texts():
    found = RankingMetric().compute(predictions=[["B-3", "B-1"], ["7", "007"]], references=["B-1", "8"], ks=[2])
    assert found["hr@2"] == pytest.approx(1 / 2)


def test_batches_add_up():
    metric = RankingMetric()
    metric.add_batch(predictions=[[3, 1]], references=[1])
    metric.add_batch(predictions=[[5, 6], [8, 4]], references=[9, 8])
    assert metric.compute(ks=[2])["hr@2"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("ranked", "message"), [([1], "Row 1 ranks 1 items, too few for a cut-off of 2"), ([1, 1], "an item twice")]
)
def test_bad_lists(ranked, message):
    with pytest.raises(ValueError, match=message):
        RankingMetric().compute(predictions=[[1, 2], ranked], references=[1, 1], ks=[2])


@pytest.mark.slow
def test_missing_extra_names_the_command():
    code = (
        "import sys; sys.modules['evaluate'] = None\n"
        "try:\n    import patchrec_hf.evaluation.ranking_metric\n"
        "except ImportError as error:\n    print(error)"
    )
    output = run_process([sys.executable, "-c", code], check=True).stdout
    assert 'pip install "patchrec-hf[evaluate]"' in output
