"""Served states equal the stored histories, however they were read."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import IDS, events
from tiers import scaled
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout, TimeWindowLayout
from patchrec_hf.serving.history_store import Addition, Event
from patchrec_hf.serving.item_ids import ItemIds
from patchrec_hf.serving.served_states import NoHistoryError, ServedStates
from patchrec_hf.serving.service_metrics import ServiceMetrics
from patchrec_hf.serving.service_settings import ServiceSettings
from patchrec_hf.serving.sqlite_histories import SqliteHistories


@pytest.fixture
def store(tmp_path):
    store = SqliteHistories(tmp_path / "histories.sqlite", False)
    yield store
    store.close()


class Counted:
    """Served states, and how they were found."""

    def __init__(self, store, recommender=None, ids=None, **settings):
        self.recommender = make_recommender(ItemPatchLayout(0)) if recommender is None else recommender
        self.metrics = ServiceMetrics()
        ids = ItemIds(self.recommender.catalog) if ids is None else ids
        self.states = ServedStates(self.recommender, ids, store, ServiceSettings(**settings), self.metrics)

    def __call__(self, *users):
        found = self.states.current(users)
        return [found[user] for user in users]

    def counts(self):
        kinds = ("hit", "appended", "miss")
        return tuple(int(self.metrics.states.labels(kind)._value.get()) for kind in kinds)

    def recommend(self, user, k=6, method="item"):
        (cached,) = self(user)
        return self.recommender.recommend_behind(
            cached.state.prompts, [cached.seen], k, unique_titles=True, candidates=None, method=method,
            num_beams=None, max_title_tokens=None, normalizer=None, times=None,
        )[0]  # fmt: skip


def assert_alike(found, expected):
    assert [item.item_id for item in found] == [item.item_id for item in expected]
    np.testing.assert_allclose([item.score for item in found], [item.score for item in expected], atol=1e-4)


def test_states_are_started_kept_and_appended(store):
    served = Counted(store)
    store.add([Addition("ada", tuple(events(*IDS[:3]))), Addition("ben", tuple(events(*IDS[5:7])))])
    served("ada", "ben", "ada")
    assert served.counts() == (0, 0, 2)
    served("ada")
    assert served.counts() == (1, 0, 2)
    store.add([Addition("ada", tuple(events(IDS[3], start=2000)))])
    ada, ben = served("ada", "ben")
    assert served.counts() == (2, 1, 2)
    assert ada.state.positions_read[0].total == 2  # a separator and a patch
    assert ada.state.item_ids == IDS[:4]
    assert ben.state.item_ids == IDS[5:7]
    assert_alike(served.recommend("ada"), served.recommender.recommend(IDS[:4], 6, method="item"))


@pytest.mark.slow
def test_two_users_are_appended_together(store):
    served = Counted(store)
    for user, items in (("ada", IDS[:3]), ("ben", IDS[8:10])):
        store.add([Addition(user, tuple(events(*items)))])
    served("ada", "ben")
    before = served.states.current(["ada"])["ada"]
    store.add(
        [Addition("ada", tuple(events(IDS[4], start=2000))), Addition("ben", tuple(events(*IDS[11:13], start=2000)))]
    )
    ada, ben = served("ada", "ben")
    assert ada.state.item_ids == [*IDS[:3], IDS[4]]
    assert ben.state.item_ids == [*IDS[8:10], *IDS[11:13]]
    assert before.state.item_ids == IDS[:3]
    for method in ("item", "exact", "fusion"):
        expected = served.recommender.recommend([*IDS[8:10], *IDS[11:13]], 6, method=method)
        assert_alike(served.recommend("ben", method=method), expected)


def test_late_events_take_their_place_in_time(store):
    served = Counted(store)
    store.add([Addition("ada", (Event(IDS[0], 100), Event(IDS[1], 300)))])
    served("ada")
    store.add([Addition("ada", (Event(IDS[2], 200),))])
    (ada,) = served("ada")
    assert ada.state.item_ids == [IDS[0], IDS[2], IDS[1]]
    assert served.counts() == (0, 0, 2)  # it is read anew


@pytest.mark.slow
def test_long_histories(store):
    """The model reads the items that a user state holds, and recommends none of all stored ones."""
    served, anew = Counted(store), Counted(store, cache_bytes=0)
    for number, item in enumerate(IDS[:20]):
        store.add([Addition("ada", tuple(events(item, start=number)))])
        (clicked,), (started,) = served("ada"), anew("ada")
        assert clicked.state.item_ids == started.state.item_ids
        assert clicked.state.item_ids == IDS[: number + 1][-len(clicked.state.item_ids) :]
        assert served.recommender.catalog.item_ids[clicked.seen].tolist() == IDS[: number + 1]
    assert served.counts() == (0, 19, 1)
    assert anew.counts() == (0, 0, 20)
    assert_alike(served.recommend("ada"), anew.recommend("ada"))
    assert not {item.item_id for item in served.recommend("ada", k=18)} & set(IDS[:20])


@pytest.mark.slow
def test_a_block_of_nothing_equals_recommend_for_any_length(store):
    served = Counted(store, block_size=0)
    for number in range(12):
        store.add([Addition("ada", tuple(events(IDS[number], start=number)))])
        assert_alike(served.recommend("ada"), served.recommender.recommend(IDS[: number + 1], 6, method="item"))


def test_evicted_states_are_read_anew(store):
    one = Counted(store)
    store.add([Addition(user, tuple(events(*IDS[:3]))) for user in ("ada", "ben")])
    size = one("ada")[0].num_bytes
    served = Counted(store, cache_bytes=size)
    for user in ("ada", "ben", "ada"):
        served(user)
    assert served.counts() == (0, 0, 3)
    assert served.metrics.evictions._value.get() == 2
    assert served.metrics.cache_bytes._value.get() == size
    assert served.metrics.cache_states._value.get() == 1


def test_users_without_a_history(store):
    served = Counted(store)
    store.add([Addition("ada", (Event(1, 0), Event(2, 0)))])  # no items of this catalog
    store.add([Addition("ben", (Event(1, 0), Event(IDS[4], 5), Event(2, 9)))])
    ada, ben, eve = served("ada", "ben", "eve")
    assert isinstance(ada, NoHistoryError)
    assert "none of the latest 2 items of the user 'ada'" in str(ada)
    assert ben.state.item_ids == [IDS[4]]
    assert isinstance(eve, NoHistoryError)
    assert "no events of the user 'eve'" in str(eve)
    store.add([Addition("ben", (Event(3, 10), Event(IDS[6], 11)))])
    assert served("ben")[0].state.item_ids == [IDS[4], IDS[6]]


@pytest.mark.parametrize("layout", [ItemPatchLayout(0), TimeWindowLayout(max_gap=100, num_text_items=1)], ids=str)
def test_models_that_read_times(store, layout):
    served = Counted(store, make_recommender(layout, time_gaps=True))
    times = [10, 50, 4000, 4000, 90_000]
    for item, time in zip(IDS[:3], times, strict=False):
        store.add([Addition("ada", (Event(item, time),))])
    served("ada")
    store.add([Addition("ada", (Event(IDS[3], times[3]), Event(IDS[4], times[4])))])
    expected = served.recommender.recommend(IDS[:5], 6, method="item", timestamps=times)
    assert_alike(served.recommend("ada"), expected)
    assert served.counts() == (0, 1, 1)


def test_one_user_at_fault(store, monkeypatch):
    served = Counted(store)
    store.add([Addition(user, tuple(events(*items))) for user, items in (("ada", IDS[:2]), ("ben", IDS[2:4]))])
    start = type(served.recommender).start

    def failing(recommender, histories, *others, **settings):
        if IDS[2] in histories[-1]:
            raise ValueError("The prompt is too long.")
        return start(recommender, histories, *others, **settings)

    monkeypatch.setattr(type(served.recommender), "start", failing)
    ada, ben = served("ada", "ben")
    assert ada.state.item_ids == IDS[:2]
    assert str(ben) == "The prompt is too long."


STEPS = st.lists(
    st.tuples(st.sampled_from(["ada", "ben"]), st.sampled_from([*IDS[:9], 1]), st.integers(0, 9), st.booleans()),
    min_size=1, max_size=14,
)  # fmt: skip


@settings(max_examples=scaled(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, block_size=st.integers(0, 3), is_small=st.booleans())
def test_any_clicks_equal_reading_anew(tmp_path_factory, steps, block_size, is_small):
    store = SqliteHistories(tmp_path_factory.mktemp("any") / "histories.sqlite", False)
    recommender = make_recommender(ItemPatchLayout(0), max_history=4)
    served = Counted(store, recommender, block_size=block_size, cache_bytes=20_000 if is_small else 1 << 30)
    try:
        for user, item, time, is_asked in steps:
            store.add([Addition(user, (Event(item, time),))])
            if is_asked:
                served("ada", "ben")
        anew = Counted(store, recommender, block_size=block_size, cache_bytes=0)
        for mine, other in zip(served("ada", "ben"), anew("ada", "ben"), strict=True):
            if isinstance(other, NoHistoryError):
                assert isinstance(mine, NoHistoryError)
                continue
            assert mine.state.item_ids == other.state.item_ids
            assert mine.seen.tolist() == other.seen.tolist()
            np.testing.assert_allclose(mine.state.prompts[0].state, other.state.prompts[0].state, atol=1e-4)
    finally:
        store.close()
