"""History caches: buffers that grow, in which the column of a key is its position."""

import numpy as np
import pytest
import torch

from patchrec_hf.runtime.history_cache import HistoryCache, as_dynamic_cache, columns_of, join_histories


def states(users, positions):
    """Keys of shape `(G, 2, Q, 3)` and values of shape `(G, 2, Q, 5)` that hold their user and position."""
    numbers = (100.0 * torch.tensor(users)[:, None] + torch.tensor(positions))[:, None, :, None]
    return numbers.expand(-1, 2, -1, 3) + 0.25, numbers.expand(-1, 2, -1, 5) + 0.5


def write(cache, users, starts, counts, number=0):
    opened = cache.open(np.array(users), np.array(starts), np.array(counts))
    queries = [[start + offset for offset in range(max(counts))] for start in starts]
    return opened.update(*states(users, queries), number)


def held(cache, user, length, number=0):
    """The numbers in the first columns of a user's keys, checked to be equal in all heads and in the values."""
    keys, values = (buffer[user, :, :length] for buffer in cache.layers[number])
    numbers = keys[0, :, 0] - 0.25
    assert (keys == numbers[:, None] + 0.25).all()
    assert (values == numbers[:, None] + 0.5).all()
    return numbers.tolist()


def test_positions_are_columns():
    cache = HistoryCache(3, [None, None])
    keys, values = write(cache, [0, 1, 2], [0, 0, 0], [3, 1, 2])
    assert keys.shape == (3, 2, 3, 3)
    assert values.shape == (3, 2, 3, 5)
    assert (held(cache, 0, 3), held(cache, 1, 1), held(cache, 2, 2)) == ([0, 1, 2], [100], [200, 201])
    assert not cache.layers[0][0][1, :, 1:].any()  # padding is not kept
    # Two users go on, and one of them overwrites its last position.
    write(cache, [1, 2], [1, 1], [2, 1])
    assert (held(cache, 0, 3), held(cache, 1, 3), held(cache, 2, 2)) == ([0, 1, 2], [100, 101, 102], [200, 201])
    assert cache.layers[1] is None


@pytest.mark.slow
def test_a_full_buffer_grows_by_a_share():
    cache, widths = HistoryCache(1, [None]), []
    for position in range(2000):
        write(cache, [0], [position], [1])
        widths.append(cache.layers[0][0].shape[2])
    assert held(cache, 0, 2000) == list(range(2000))
    growths = np.unique(widths)
    assert len(growths) < 20
    assert (growths[1:] <= np.maximum(growths[:-1] * 1.3, growths[:-1] + 40)).all()
    assert cache.num_bytes == 4 * 2 * (3 + 5) * widths[-1]


def test_neighbors_are_returned_without_a_copy():
    cache = HistoryCache(4, [None])
    write(cache, [0, 1, 2, 3], [0] * 4, [3] * 4)
    buffers = cache.layers[0]
    keys, _ = columns_of(buffers, np.array([1, 2]), 2)
    assert keys.data_ptr() == buffers[0][1].data_ptr()
    some, _ = columns_of(buffers, np.array([0, 3]), 2)
    assert torch.equal(some, buffers[0][[0, 3], :, :2])


def test_copies():
    first, second = HistoryCache(2, [None, None]), HistoryCache(1, [None, None])
    write(first, [0, 1], [0, 0], [4, 2])
    write(second, [0], [0], [1])
    joined = join_histories([(first, np.array([1, 0])), (second, np.array([0]))], 4)
    assert joined.num_users == 3
    assert (held(joined, 0, 2), held(joined, 1, 4), held(joined, 2, 1)) == ([100, 101], [0, 1, 2, 3], [0])
    assert joined.layers[0][0].shape[2] == 4
    assert joined.layers[1] is None
    write(joined, [0, 1, 2], [2, 4, 1], [1, 1, 1])
    assert held(first, 0, 4) == [0, 1, 2, 3]
    assert join_histories([(first, np.array([1]))], 2).layers[0][0].shape == (1, 2, 2, 3)


def test_a_cache_of_transformers_leaves_its_source_alone():
    cache = HistoryCache(3, [None, None])
    write(cache, [0, 1, 2], [0] * 3, [3] * 3)
    before = [buffer.clone() for buffer in cache.layers[0]]
    for users in ([0, 1], [2, 0]):
        dynamic = as_dynamic_cache([(cache, user) for user in users], 3)
        assert not dynamic.layers[1].is_initialized
        assert dynamic.get_seq_length() == 3
        keys, _ = dynamic.update(*states(users, [[3], [3]]), 0)
        assert torch.equal(keys[:, :, :3], before[0][users, :, :3])
        assert keys.shape[2] == 4
    assert all(torch.equal(mine, kept) for mine, kept in zip(cache.layers[0], before, strict=True))
