"""Prefixes of titles, and the items below them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_parts import title_tokens

from patchrec_hf.runtime.allowed_items import ItemSet
from patchrec_hf.runtime.prefixes import AllowedItems, Prefixes, length_divisors, ranks_in_groups, sums_before
from patchrec_hf.runtime.trie import build_trie


token_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=12)
TRIE = build_trie(title_tokens([[1, 2], [1, 3], [4]]), end_of_turn_id=9)


def test_allowed_items_are_counted_below_a_node():
    """Nodes in preorder: the root, 1, 1·2, 1·2·end, 1·3, 1·3·end, 4, 4·end."""
    allowed = AllowedItems(TRIE, 2)
    users, nodes = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 6, 0, 1, 2])
    assert allowed.count(users, nodes).tolist() == [0] * 6
    allowed.allow([0, 1], [ItemSet.from_mask(np.array(mask)) for mask in ([True, True, False], [False, True, True])])
    assert allowed.count(users, nodes).tolist() == [2, 2, 0, 2, 1, 0]
    allowed.allow([1], [ItemSet(np.array([0]), is_rest=False)])
    assert allowed.count(users, nodes).tolist() == [2, 2, 0, 1, 1, 1]
    allowed.allow([0], [ItemSet()])
    assert allowed.count(users, nodes).tolist() == [3, 2, 1, 1, 1, 1]


@given(token_lists, st.data())
def test_allowed_items_are_counted_as_by_masks(titles, data):
    trie = build_trie(title_tokens(titles), end_of_turn_id=9, complete_prefixes=data.draw(st.booleans()))
    masks = data.draw(
        st.lists(st.lists(st.booleans(), min_size=len(titles), max_size=len(titles)), min_size=1, max_size=3)
    )
    allowed = AllowedItems(trie, len(masks))
    allowed.allow(range(len(masks)), [ItemSet.from_mask(np.array(mask), trie.leaf_of_item >= 0) for mask in masks])
    for user, mask in enumerate(masks):
        below = [
            sum(
                mask[item] for item in trie.items[trie.item_offsets[node] : trie.item_offsets[trie.subtree_ends[node]]]
            )
            for node in range(trie.num_nodes)
        ]
        assert allowed.count(np.full(trie.num_nodes, user), np.arange(trie.num_nodes)).tolist() == below


def test_prefixes_are_sorted_within_each_user():
    prefixes = Prefixes(np.array([0, 1, 0]), np.array([4, 5, 6]), np.array([-2.0, -3.0, -1.0]))
    joined = prefixes.joined(Prefixes(np.array([1]), np.array([7]), np.array([-0.5]))).best_first()
    assert joined.users.tolist() == [0, 0, 1, 1]
    assert joined.nodes.tolist() == [6, 4, 7, 5]
    assert joined.select(joined.scores > -1).nodes.tolist() == [7]
    assert len(joined) == 4


def test_places_in_groups():
    ranks = ranks_in_groups(np.array([0, 0, 2, 5, 5, 5]))
    assert ranks.tolist() == [0, 1, 0, 0, 1, 2]
    assert sums_before(np.array([1, 2, 3, 4, 5, 6]), ranks).tolist() == [0, 1, 0, 0, 4, 9]
    assert ranks_in_groups(np.array([], dtype=np.int64)).tolist() == []


def test_bounds_divide_by_the_best_length_below():
    """Nodes in preorder: the root, 1, 1·2, 1·2·end, 1·2·3, 1·2·3·end, 4, 4·end. Titles have 3, 4 and 2 tokens."""
    trie = build_trie(title_tokens([[1, 2], [1, 2, 3], [4]]), end_of_turn_id=9)
    assert length_divisors(trie, 0.0).tolist() == [1.0] * 8
    assert length_divisors(trie, 1.0).tolist() == [4, 4, 4, 3, 4, 4, 2, 2]
    assert length_divisors(trie, 2.0).tolist() == [16, 16, 16, 9, 16, 16, 4, 4]
    assert length_divisors(trie, -1.0).tolist() == [1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 4, 1 / 4, 1 / 2, 1 / 2]
    prefixes = Prefixes(np.array([0, 0]), np.array([6, 1]), np.array([-1.0, -1.5]))
    assert prefixes.bounds(length_divisors(trie, 1.0)).tolist() == [-0.5, -0.375]
    assert prefixes.best_first().nodes.tolist() == [6, 1]
    assert prefixes.best_first(length_divisors(trie, 1.0)).nodes.tolist() == [1, 6]
    for penalty in (600.0, -600.0):
        with pytest.raises(ValueError, match="titles of 4 tokens can be raised to, got"):
            length_divisors(trie, penalty)
