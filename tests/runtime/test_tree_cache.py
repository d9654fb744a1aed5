"""Tree caches: users and columns are copied, others are left out, and rows are padded."""

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from patchrec_hf.runtime.tree_cache import TreeCache, join_caches


UNSEEN = 99


def cache_of(users, nodes, first):
    """Keys count up from `first`, and values are their negatives. The second layer shares the keys of the first."""
    nodes = np.array(nodes)
    keys = (first + torch.arange(nodes.size, dtype=torch.float32)).view(len(users), 1, -1, 1).expand(-1, 2, -1, 3)
    layers = DynamicCache([(keys, -keys)])
    layers.layers.append(DynamicLayer())
    positions = 10 * torch.arange(nodes.size).view(nodes.shape)
    lengths = torch.tensor([[user + 1] for user in users])
    return TreeCache(np.array(users), lengths, nodes, torch.from_numpy(nodes), positions, layers)


def test_users_of_two_caches_are_joined():
    left = cache_of([4, 1, 7], [[0, 0, 3, 5], [0, 2, 98, 3], [0, 0, 0, 0]], first=0)
    right = cache_of([2], [[0, 6]], first=50)
    kept_left = np.array([[True, True, False, True], [True, True, False, True]])
    joined = join_caches([(left, np.array([0, 1]), kept_left), (right, np.array([0]), np.ones((1, 2), bool))], UNSEEN)
    assert joined.users.tolist() == [4, 1, 2]
    assert joined.lengths.tolist() == [[5], [2], [3]]
    assert joined.nodes.tolist() == joined.key_nodes.tolist() == [[0, 0, 5], [0, 2, 3], [0, 6, UNSEEN]]
    assert joined.key_positions[:, :2].tolist() == [[0, 10], [40, 50], [0, 10]]
    first, second = joined.layers.layers
    assert first.keys.shape == (3, 2, 3, 3)
    assert first.keys[:, 1, :, 2].tolist() == [[0, 1, 3], [4, 5, 7], [50, 51, 0]]
    assert torch.equal(first.values, -first.keys)
    assert not second.is_initialized
    assert left.layers.layers[0].keys.shape == (3, 2, 4, 3)  # as before


def test_rows_that_keep_different_numbers_of_columns():
    cache = cache_of([0, 1], [[0, 3, 5], [0, 3, 5]], first=0)
    kept = np.array([[True, False, True], [True, False, False]])
    joined = join_caches([(cache, np.array([0, 1]), kept)], UNSEEN)
    assert joined.nodes.tolist() == [[0, 5], [0, UNSEEN]]
    assert joined.layers.layers[0].keys[0, 0, :, 0].tolist() == [0, 2]


def test_columns_are_added():
    cache = cache_of([0], [[0, 3]], first=0)
    longer = cache.extended(np.array([[4]]), torch.tensor([[4]]), torch.tensor([[7]]))
    assert longer.nodes.tolist() == longer.key_nodes.tolist() == [[0, 3, 4]]
    assert longer.key_positions.tolist() == [[0, 10, 7]]
    assert longer.layers is cache.layers
