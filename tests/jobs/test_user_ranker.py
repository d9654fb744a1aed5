"""The user ranker: users are ranked as `PatchRecommender.recommend` ranks them, and no user keeps others from it."""

import numpy as np
import pytest
from tiers import first_fast
from users_of_jobs import make_recommender

from patchrec_hf import BudgetLayout, PatchRecommender, TimeWindowLayout
from patchrec_hf.jobs.user_ranker import RankingSettings, UserRanker
from patchrec_hf.jobs.user_requests import UserRequest


def request(*item_ids, **lists):
    """A user, by ids of the catalog of `conftest.py`, whose first id is 10."""
    return UserRequest(0, "", np.array(item_ids) - 10, **{name: np.array(ids) - 10 for name, ids in lists.items()})


def pairs(items):
    return [(item.item_id, item.title, pytest.approx(item.score, abs=1e-4), item.is_exact) for item in items]


@pytest.fixture
def recommender(processor):
    return make_recommender(processor)


@pytest.mark.parametrize(
    "settings",
    first_fast(
        [
            {},
            {"exclude_seen": False, "unique_titles": False},
            {"method": "exact"},
            {"method": "beam", "num_beams": 6},
            {"method": "exact", "max_title_tokens": 3, "normalizer": "catalog"},
        ]
    ),
)
def test_users_are_ranked_as_one_by_one(recommender, settings):
    histories = [[10, 11, 12], [14], [18, 19, 20, 21, 10], [16, 17]]
    ranker = UserRanker(recommender, RankingSettings(k=3, **settings), batch_size=2)
    found = ranker.rank([request(*history) for history in histories])
    for history, items in zip(histories, found, strict=True):
        assert pairs(items) == pairs(recommender.recommend(history, k=3, **settings))


def test_candidates_and_exclusions_of_each_user(recommender):
    ranker = UserRanker(recommender, RankingSettings(k=12), batch_size=8)
    users = [request(10, 11), request(10, candidates=[10, 12, 15]), request(10, 11, excluded=[12, 14])]
    plain, among, without = ranker.rank(users)
    assert pairs(plain) == pairs(recommender.recommend([10, 11], k=12))
    assert pairs(among) == pairs(recommender.recommend([10], k=12, candidates=[10, 12, 15]))
    assert {item.item_id for item in among} == {12, 15}
    # An exclusion leaves out all items of a title, as the history does.
    assert pairs(without) == pairs([item for item in plain if item.item_id not in (12, 14, 15)])
    seen = UserRanker(recommender, RankingSettings(k=12, exclude_seen=False), batch_size=8)
    (again,) = seen.rank([request(10, 11, excluded=[11])])
    assert {item.item_id for item in again} & {10, 11} == {10}


def test_budgets_and_moments(recommender, monkeypatch):
    model, processor = recommender.model, recommender.processor
    recommender = PatchRecommender(model, processor.with_layout(BudgetLayout(60, min_tokens=10)))
    asked = []
    behind = PatchRecommender.recommend_behind

    def noted(*args, times, **kwargs):
        asked.append(times)
        return behind(*args, times=times, **kwargs)

    monkeypatch.setattr(PatchRecommender, "recommend_behind", noted)
    (found,) = UserRanker(recommender, RankingSettings(k=3, max_tokens=3, moment=99), 8).rank(
        [request(10, 11, 12, 13)]
    )
    assert asked == [99, 99]
    assert pairs(found) == pairs(recommender.recommend([10, 11, 12, 13], k=3, max_tokens=3))
    assert pairs(found) != pairs(recommender.recommend([10, 11, 12, 13], k=3))


def test_timestamps(recommender):
    model, processor = recommender.model, recommender.processor
    recommender = PatchRecommender(model, processor.with_layout(TimeWindowLayout(60, num_text_items=1)))
    ranker = UserRanker(recommender, RankingSettings(k=2), 8)
    assert ranker.reads_timestamps
    users = [
        UserRequest(0, "", np.array([0, 1, 2]), np.array([0, 30, 500])),
        UserRequest(1, "", np.array([0, 1, 2]), np.array([0, 500, 30])),
    ]
    found, fault = ranker.rank(users)
    assert pairs(found) == pairs(recommender.recommend([10, 11, 12], k=2, timestamps=[0, 30, 500]))
    assert "must ascend, got 500 before 30" in fault
    assert not UserRanker(make_recommender(processor), RankingSettings(), 8).reads_timestamps


def test_users_who_cannot_be_ranked_are_found_among_others(recommender):
    """Nothing is left for three users of nine; for the others, nothing changes."""
    ranker = UserRanker(recommender, RankingSettings(k=2), batch_size=4)
    users = [request(10 + user, candidates=[10 + user] if user in (1, 2, 7) else [20, 21, 19]) for user in range(9)]
    found = ranker.rank(users)
    reason = "This row has no item left to recommend: all 1 candidates are excluded."
    assert [user for user, items in enumerate(found) if isinstance(items, str)] == [1, 2, 7]
    assert all(found[user].startswith(reason) for user in (1, 2, 7))
    for user in (0, 3, 4, 5, 6, 8):
        assert pairs(found[user]) == pairs(recommender.recommend([10 + user], k=2, candidates=[20, 21, 19]))


def test_a_history_that_is_too_long_for_the_model(recommender):
    ranker = UserRanker(recommender, RankingSettings(k=2), batch_size=4)
    length = recommender.processor.encode(np.array([0])).history_end + 1
    recommender.model.config.text_config.max_position_embeddings = length
    short, long = ranker.rank([request(10), request(10, 11, 12)])
    assert len(short) == 2
    assert f"The prompt of this row takes {length + 4} tokens, but the model reads at most {length}" in long


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "`k` must be at least 1, got 0"),
        ({"method": "fusion"}, "fusion"),
        ({"method": "best"}, "`method` must be one of"),
        ({"method": "diverse"}, "'diverse' reproduces"),
        ({"max_tokens": 30}, "needs a layout with a budget"),
        ({"num_beams": 9}, "`num_beams` belongs to `method='beam'`"),
        ({"moment": 10**12}, "beyond the year 3000"),
    ],
)
def test_wrong_settings_are_no_fault_of_a_user(recommender, settings, message):
    with pytest.raises(ValueError, match=message):
        UserRanker(recommender, RankingSettings(**settings), 8)
