"""The cache keeps the states that were used latest, within its bytes."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf.serving.state_cache import CachedState, StateCache


@dataclass(frozen=True)
class FakeState:
    num_bytes: int


def cached(num_bytes):
    return CachedState(FakeState(num_bytes - 8), 1, np.zeros(1, dtype=np.int64))


def test_the_ones_that_were_not_used_for_longest_leave():
    cache = StateCache(100)
    for user, size in (("ada", 40), ("ben", 40), ("eve", 20)):
        cache.put(user, cached(size))
    assert (len(cache), cache.num_bytes, cache.num_evicted) == (3, 100, 0)
    assert cache.get("ada").num_bytes == 40
    cache.put("joe", cached(30))  # Ben's was not used for longest
    assert cache.get("ben") is None
    assert (len(cache), cache.num_bytes, cache.num_evicted) == (3, 90, 1)
    cache.put("ada", cached(60))  # Eve's leaves, because Ada's has grown
    assert cache.get("eve") is None
    assert (len(cache), cache.num_bytes) == (2, 90)


def test_a_state_that_is_too_large_is_not_kept():
    cache = StateCache(50)
    cache.put("ada", cached(40))
    cache.put("ben", cached(51))
    assert cache.get("ben") is None
    assert cache.get("ada") is not None
    cache.put("ada", cached(51))
    assert (len(cache), cache.num_bytes) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(8, 60), st.booleans())), st.integers(0, 120))
def test_any_use_stays_within_the_bytes(uses, max_bytes):
    cache, model = StateCache(max_bytes), {}
    for user, size, is_put in uses:
        if is_put:
            cache.put(user, cached(size))
            model.pop(user, None)
            if size <= max_bytes:
                model[user] = size
                while sum(model.values()) > max_bytes:
                    del model[next(iter(model))]
        elif cache.get(user) is not None:
            model[user] = model.pop(user)
        assert cache.num_bytes == sum(model.values()) <= max_bytes
        assert len(cache) == len(model)
        assert all((cache.get(name) is None) == (name not in model) for name in model)
