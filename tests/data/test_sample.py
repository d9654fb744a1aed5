"""Tests of the sample data set: what the books contain, and what the synthetic histories promise."""

import hashlib
import itertools
from collections import Counter

import polars as pl
import pytest

from patchrec_hf.data.sample import SAMPLE_NOTICE, generate_sample_interactions, load_sample_items


Case = tuple[list[int], int]


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    return load_sample_items()


@pytest.fixture(scope="module")
def interactions() -> pl.DataFrame:
    return generate_sample_interactions()


@pytest.fixture(scope="module")
def histories(interactions: pl.DataFrame) -> list[list[int]]:
    grouped = interactions.group_by("user_id", maintain_order=True).agg("item_id")
    return grouped["item_id"].to_list()


def temporal_cut(interactions: pl.DataFrame) -> float:
    times = interactions["timestamp"].to_list()
    return min(times) + 0.96 * (max(times) - min(times))


def following_volumes(items: pl.DataFrame) -> dict[int, int]:
    volumes = items.drop_nulls("series").sort("series", "series_index")
    rows = volumes.select("series", "item_id").rows()
    return {one[1]: two[1] for one, two in itertools.pairwise(rows) if one[0] == two[0]}


def hit_rates(items: pl.DataFrame, train_counts: Counter[int], cases: list[Case]) -> tuple[float, float]:
    """HR@20 of plain popularity and of "next volume, then popular on the last shelf", both without books read."""
    shelf = items["shelf"].to_list()
    following = following_volumes(items)
    ranking = sorted(train_counts, key=lambda item: (-train_counts[item], item))
    popular_hits = rule_hits = 0
    for history, target in cases:
        read = set(history)
        popular = [item for item in ranking if item not in read]
        popular_hits += target in popular[:20]
        next_volumes = [following[i] for i in reversed(history) if i in following and following[i] not in read]
        on_shelf = [item for item in popular if shelf[item] == shelf[history[-1]] and item not in next_volumes[:1]]
        rule_hits += target in (next_volumes[:1] + on_shelf)[:20]
    return popular_hits / len(cases), rule_hits / len(cases)


def test_items_schema(items: pl.DataFrame) -> None:
    assert dict(items.schema) == {
        "item_id": pl.Int64,
        "title": pl.String,
        "author": pl.String,
        "year": pl.Int64,
        "shelf": pl.String,
        "series": pl.String,
        "series_index": pl.Int64,
    }
    assert 400 <= items.height <= 450
    assert items["item_id"].to_list() == list(range(items.height))
    assert items.select("item_id", "title", "author", "year", "shelf").null_count().sum_horizontal().item() == 0
    assert (items["series"].is_null() == items["series_index"].is_null()).all()


def test_items_content(items: pl.DataFrame) -> None:
    assert items["year"].max() < 1929
    assert items["year"].min() > 1500
    assert 10 <= items["shelf"].n_unique() <= 14
    assert items["shelf"].value_counts()["count"].min() >= 20
    assert items.select("title", "author").is_unique().all()
    assert items.drop_nulls("series").select("series", "series_index").is_unique().all()
    text = items.unpivot(on=["title", "author", "shelf", "series"])["value"].drop_nulls()
    assert (text == text.str.strip_chars()).all()
    assert 'The Boats of the "Glen Carrig"' in items["title"].to_list()
    assert "Émile Zola" in items["author"].to_list()


def test_every_series_has_several_volumes_on_one_shelf(items: pl.DataFrame) -> None:
    series = items.drop_nulls("series").group_by("series").agg(pl.len(), pl.col("shelf").n_unique())
    assert series["len"].min() >= 2
    assert (series["len"] >= 3).sum() >= 30
    assert series["shelf"].max() == 1


def test_series_index_agrees_with_the_title(items: pl.DataFrame) -> None:
    shown = items.with_columns(shown=pl.col("title").str.extract(r", #(\d+)\)$").cast(pl.Int64)).drop_nulls("shown")
    assert shown.height >= 100
    assert (shown["shown"] == shown["series_index"]).all()


def test_duplicate_titles_and_prefixes(items: pl.DataFrame) -> None:
    titles = items["title"].to_list()
    assert sum(count > 1 for count in Counter(titles).values()) >= 3
    prefixes = {
        short for short in titles for long in titles if long.startswith(short) and long[len(short) :][:1] in (" ", ",")
    }
    assert len(prefixes) >= 8


def test_interactions_schema(items: pl.DataFrame, interactions: pl.DataFrame) -> None:
    assert dict(interactions.schema) == {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}
    assert interactions.null_count().sum_horizontal().item() == 0
    assert interactions["user_id"].unique().sort().to_list() == list(range(600))
    assert set(interactions["item_id"]) <= set(items["item_id"])


def test_sorted_without_rereads(interactions: pl.DataFrame) -> None:
    assert interactions.equals(interactions.sort("user_id", "timestamp", maintain_order=True))
    assert interactions.select("user_id", "item_id").is_unique().all()


def test_lengths_and_times(interactions: pl.DataFrame) -> None:
    users = interactions.group_by("user_id").agg(pl.len(), pl.col("timestamp").min())
    assert users["len"].min() >= 20
    assert users["len"].max() <= 120
    assert 38 <= users["len"].median() <= 52
    assert users["timestamp"].max() - users["timestamp"].min() > 2.5 * 365 * 86_400
    gaps = interactions.select(pl.col("timestamp").diff().over("user_id")).to_series().drop_nulls()
    assert 0.2 < (gaps == 0).mean() < 0.6
    assert (gaps > 86_400).mean() > 0.2


@pytest.mark.slow
def test_deterministic(interactions: pl.DataFrame) -> None:
    assert generate_sample_interactions().equals(interactions)
    assert not generate_sample_interactions(seed=1).equals(interactions)
    small = generate_sample_interactions(num_users=20, seed=7)
    assert small["user_id"].n_unique() == 20
    digest = hashlib.sha256(repr(small.head(100).rows()).encode()).hexdigest()
    assert digest[:16] == "a970c955fa3af896"


def test_needs_a_user() -> None:
    assert generate_sample_interactions(num_users=1)["user_id"].unique().to_list() == [0]
    with pytest.raises(ValueError, match="num_users"):
        generate_sample_interactions(num_users=0)


def test_series_are_mostly_read_in_order(items: pl.DataFrame, histories: list[list[int]]) -> None:
    following = following_volumes(items)
    ordered = total = direct = 0
    for history in histories:
        place = {item: position for position, item in enumerate(history)}
        for volume, after in following.items():
            if volume in place and after in place:
                total += 1
                ordered += place[volume] < place[after]
                direct += place[after] == place[volume] + 1
    assert total > 5_000
    assert ordered / total > 0.95
    assert direct / total > 0.4


def test_cold_items_appear_only_late(items: pl.DataFrame, interactions: pl.DataFrame) -> None:
    late = interactions["timestamp"] >= temporal_cut(interactions)
    cold = set(interactions.filter(late)["item_id"]) - set(interactions.filter(~late)["item_id"])
    assert 8 <= len(cold) <= 0.05 * items.height
    assert interactions["item_id"].is_in(sorted(cold)).sum() >= 50
    assert interactions.filter(late)["user_id"].n_unique() >= 50


def test_rule_beats_popularity_on_the_last_book(items: pl.DataFrame, histories: list[list[int]]) -> None:
    counts = Counter(item for history in histories for item in history[:-1])
    popular, rule = hit_rates(items, counts, [(history[:-1], history[-1]) for history in histories])
    assert 0.08 < popular < 0.2
    assert rule > 0.4
    assert rule > 2.5 * popular


def test_rule_beats_popularity_after_the_temporal_cut(
    items: pl.DataFrame, interactions: pl.DataFrame, histories: list[list[int]]
) -> None:
    train = interactions.filter(interactions["timestamp"] < temporal_cut(interactions))
    seen = Counter(train["user_id"].to_list())
    cases = [
        (history[:place], history[place])
        for user, history in enumerate(histories)
        for place in range(max(seen[user], 1), len(history))
    ]
    popular, rule = hit_rates(items, Counter(train["item_id"].to_list()), cases)
    assert len(cases) > 500
    assert rule > 0.4
    assert rule > 2.5 * popular


def test_notice_says_synthetic() -> None:
    assert "synthetic" in SAMPLE_NOTICE
    assert "public domain" in SAMPLE_NOTICE
