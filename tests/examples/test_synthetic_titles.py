"""Synthetic titles for benchmarks of large catalogs."""

import runpy
from collections import Counter
from pathlib import Path

import pytest


PARTS = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "benchmarks" / "synthetic_titles.py"))
make_titles = PARTS["make_titles"]


def test_a_seed_makes_the_same_titles():
    assert make_titles(50, seed=1) == make_titles(50, seed=1) != make_titles(50, seed=2)
    assert make_titles(0, seed=1) == []


def test_words_follow_zipfs_law():
    titles = make_titles(20_000, seed=0)
    words = [title.split(" ") for title in titles]
    assert {len(some) for some in words} == set(range(3, 9))
    counts = Counter(word for some in words for word in some)
    (_, first), (_, second), (_, third) = counts.most_common(3)
    assert first / counts.total() == pytest.approx(1 / sum(1 / rank for rank in range(1, 4001)), rel=0.05)
    assert (second / first, third / first) == (pytest.approx(1 / 2, rel=0.1), pytest.approx(1 / 3, rel=0.1))
    assert 3_000 < len(counts) <= 4_000
    assert len(set(titles)) < len(titles)  # some titles are alike
