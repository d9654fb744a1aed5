"""Every store keeps each event once, in the order of time and arrival."""

import threading
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_server import redis_server
from tiers import scaled

from patchrec_hf.serving.history_store import Added, Addition, Event, EventConflictError, check_kept_facts
from patchrec_hf.serving.redis_histories import RedisHistories
from patchrec_hf.serving.sqlite_histories import SqliteHistories


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def make_store(request, tmp_path_factory):
    """Makes stores that are empty, or another view of the same one."""
    directory = tmp_path_factory.mktemp("stores")
    if request.param == "sqlite":
        yield lambda name, has_text_ids=False: SqliteHistories(directory / f"{name}.sqlite", has_text_ids)
    else:
        with redis_server(directory) as url:
            yield lambda name, has_text_ids=False: RedisHistories(url, has_text_ids, f"test-{name}")


def addition(user, *facts):
    return Addition(user, tuple(Event(*fact) for fact in facts))


def read_one(store, user, limit=100):
    (history,) = store.read([user], limit)
    return history.num_events, list(zip(history.item_ids, history.timestamps, strict=True))


def test_events_in_the_order_of_time_and_arrival(make_store):
    with closing(make_store("order")) as store:
        assert store.add([addition("ada", (7, 50), (8, 50)), addition("ben", (9, 10))]) == [
            Added(2, 0, 2),
            Added(1, 0, 1),
        ]
        assert store.add([addition("ada", (5, 60)), addition("ada", (6, 40), (6, 50))]) == [
            Added(1, 0, 3),
            Added(2, 0, 5),
        ]
        assert read_one(store, "ada") == (5, [(6, 40), (7, 50), (8, 50), (6, 50), (5, 60)])
        assert read_one(store, "ada", limit=2) == (5, [(6, 50), (5, 60)])
        assert store.num_events(["ben", "nobody", "ada"]) == [1, 0, 5]
        assert read_one(store, "nobody") == (0, [])
        store.check()


def test_event_ids(make_store):
    with closing(make_store("ids")) as store:
        assert store.add([addition("ada", (7, 50, "a"), (8, 60, "b"))]) == [Added(2, 0, 2)]
        # The same ones again, with a new one; another user's ids are others; an id twice in one request.
        results = store.add(
            [
                addition("ada", (7, 50, "a"), (9, 70, "c"), (8, 61, "b")),
                addition("ben", (1, 50, "a"), (1, 50, "a"), (1, 50)),
            ]
        )
        assert results == [Added(1, 2, 3), Added(2, 1, 2)]
        conflict, other = store.add([addition("ada", (5, 80, "d"), (6, 80, "a")), addition("ben", (2, 80, "d"))])
        assert isinstance(conflict, EventConflictError)
        assert str(conflict).startswith("The event 'a' of this user has the item 7 in the store, and 6 now.")
        assert other == Added(1, 0, 3)
        (within,) = store.add([addition("ada", (5, 80, "e"), (6, 80, "e"))])
        assert isinstance(within, EventConflictError)
        assert read_one(store, "ada") == (3, [(7, 50), (8, 60), (9, 70)])


def test_texts_stay_as_they_are(make_store):
    ids = ["007", "7", "Größe M", 'a"b:c', "<b>"]
    with closing(make_store("texts", True)) as store:
        store.add([addition("{ada}:x", *((item_id, 50) for item_id in ids))])
        assert read_one(store, "{ada}:x") == (5, [(item_id, 50) for item_id in ids])


def test_two_services_share_a_store(make_store):
    with closing(make_store("shared")) as one, closing(make_store("shared")) as other:

        def add(store, items):
            for item in items:
                store.add([addition("ada", (item, 50, f"event-{item}"))])

        threads = [
            threading.Thread(target=add, args=(one, range(30))),
            threading.Thread(target=add, args=(other, range(15, 45))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        num_events, events = read_one(one, "ada")
        assert num_events == other.num_events(["ada"])[0] == 45
        assert sorted(item for item, _ in events) == list(range(45))


def test_a_store_of_another_catalog(make_store):
    make_store("kind").close()
    with pytest.raises(ValueError, match="are whole numbers, and the catalog's are texts"):
        make_store("kind", True)
    with pytest.raises(ValueError, match=r"newer version of patchrec-hf wrote x \(its format is 2"):
        check_kept_facts("x", 2, "texts", True)


class Model:
    """The same store, written in a few plain lines."""

    def __init__(self):
        self.events = {}

    def add(self, addition):
        kept = list(self.events.get(addition.user_id, []))
        ids = {event.event_id: event.item_id for _, event in kept if event.event_id}
        num_stored = 0
        for event in addition.events:
            if event.event_id in ids and event.event_id is not None:
                if ids[event.event_id] != event.item_id:
                    return None
                continue
            if event.event_id is not None:
                ids[event.event_id] = event.item_id
            kept.append((len(kept), event))
            num_stored += 1
        self.events[addition.user_id] = kept
        return Added(num_stored, len(addition.events) - num_stored, len(kept))

    def read(self, user, limit):
        kept = sorted(self.events.get(user, []), key=lambda pair: (pair[1].timestamp, pair[0]))
        return len(kept), [(event.item_id, event.timestamp) for _, event in kept][-limit:]


EVENTS = st.builds(
    Event, st.integers(0, 3), st.integers(0, 4), st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]))
)
ADDITIONS = st.builds(Addition, st.sampled_from(["ada", "ben"]), st.lists(EVENTS, min_size=1, max_size=4).map(tuple))
NAMES = iter(f"model-{number}" for number in range(10_000))


@settings(max_examples=scaled(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(ADDITIONS, min_size=1, max_size=3), max_size=4), limit=st.integers(1, 6))
def test_any_additions_equal_the_model(make_store, batches, limit):
    model = Model()
    with closing(make_store(next(NAMES))) as store:
        for batch in batches:
            for result, part in zip(store.add(batch), batch, strict=True):
                expected = model.add(part)
                assert isinstance(result, EventConflictError) if expected is None else result == expected
        for user in ("ada", "ben"):
            assert read_one(store, user, limit) == model.read(user, limit)
