"""Tests of the title trie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchrec_hf.catalog import TitleTokens
from patchrec_hf.trie import build_trie


END = 9
token_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=20)


def trie_of(titles):
    ids = np.array([token for title in titles for token in title], dtype=np.int64)
    return build_trie(TitleTokens(ids, np.cumsum([0, *map(len, titles)])), END)


def children(trie, node):
    return range(trie.child_offsets[node], trie.child_offsets[node + 1])


def walk(trie, tokens):
    """The nodes on the way from the root along `tokens`."""
    nodes = [0]
    for token in tokens:
        (node,) = (child for child in children(trie, nodes[-1]) if trie.tokens[child] == token)
        nodes.append(node)
    return nodes[1:]


def test_by_hand():
    # Breadth first: root 0; 5 → 1, 7 → 2; 5·6 → 3, 5·end → 4, 7·end → 5; 5·6·end → 6.
    trie = trie_of([[5], [5, 6], [7], [5]])
    assert trie.tokens.tolist() == [-1, 5, 7, 6, END, END, END]
    assert trie.child_offsets.tolist() == [1, 3, 5, 6, 7, 7, 7, 7]
    assert trie.leaf_of_item.tolist() == [4, 6, 5, 4]
    assert trie.paths.tolist() == [[1, 4, 4], [1, 3, 6], [2, 5, 5], [1, 4, 4]]
    assert trie.num_nodes == 7
    assert trie.max_depth == 3
    assert {array.dtype for array in (trie.tokens, trie.child_offsets, trie.leaf_of_item, trie.paths)} == {
        np.dtype(np.int64)
    }


def test_one_item():
    trie = trie_of([[4, 4]])
    assert trie.tokens.tolist() == [-1, 4, 4, END]
    assert trie.child_offsets.tolist() == [1, 2, 3, 4, 4]
    assert trie.leaf_of_item.tolist() == [3]
    assert trie.paths.tolist() == [[1, 2, 3]]


def test_a_title_that_begins_another_has_its_own_leaf():
    trie = trie_of([[1, 2, 3], [1], [1, 2]])
    assert len(set(trie.leaf_of_item.tolist())) == 3
    assert all(len(children(trie, leaf)) == 0 for leaf in trie.leaf_of_item)
    # After 1·2, both the end and 3 are open.
    assert trie.tokens[children(trie, walk(trie, [1, 2])[-1])].tolist() == [3, END]


def test_titles_of_the_smallest_and_an_end_below_all_tokens():
    """Token 0 is a token like others, and the end-of-turn token may sort before those of the titles."""
    titles = TitleTokens(np.array([5, 5, 6, 1]), np.array([0, 1, 3, 4]))
    trie = build_trie(titles, end_of_turn_id=0)
    assert trie.num_nodes == 7
    assert [trie.tokens[path].tolist() for path in trie.paths] == [[5, 0, 0], [5, 6, 0], [1, 0, 0]]


@settings(deadline=None)
@given(token_lists)
def test_every_title_spells_its_leaf(titles):
    trie = trie_of(titles)
    for item, title in enumerate(titles):
        nodes = walk(trie, [*title, END])
        leaf = nodes[-1]
        assert trie.leaf_of_item[item] == leaf
        assert len(children(trie, leaf)) == 0
        assert trie.paths[item].tolist() == nodes + [leaf] * (trie.max_depth - len(nodes))


@settings(deadline=None)
@given(token_lists)
def test_nodes_are_the_distinct_prefixes(titles):
    trie = trie_of(titles)
    prefixes = {tuple([*title, END][:stop]) for title in titles for stop in range(1, len(title) + 2)}
    assert trie.num_nodes == len(prefixes) + 1
    assert trie.max_depth == max(map(len, titles)) + 1
    assert {tuple(trie.tokens[walk(trie, prefix)].tolist()) for prefix in prefixes} == prefixes


@settings(deadline=None)
@given(token_lists)
def test_items_share_a_leaf_exactly_if_they_share_a_title(titles):
    leaves = trie_of(titles).leaf_of_item
    same_leaf = leaves[:, None] == leaves
    assert same_leaf.tolist() == [[one == two for two in titles] for one in titles]


@settings(deadline=None)
@given(token_lists)
def test_children_are_consecutive_distinct_and_deeper(titles):
    trie = trie_of(titles)
    assert len(trie.child_offsets) == trie.num_nodes + 1
    # Every node but the root is the child of exactly one earlier node, in order.
    assert [child for node in range(trie.num_nodes) for child in children(trie, node)] == list(
        range(1, trie.num_nodes)
    )
    for node in range(trie.num_nodes):
        tokens = trie.tokens[children(trie, node)]
        assert len(set(tokens.tolist())) == len(tokens)
        assert all(child > node for child in children(trie, node))
        # Only the end of a title has no children.
        assert (len(tokens) == 0) == (trie.tokens[node] == END)


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_the_items_changes_nothing_but_the_rows(seed):
    rng = np.random.default_rng(seed)
    titles = [rng.integers(0, 3, rng.integers(1, 5)).tolist() for _ in range(30)]
    shuffle = rng.permutation(30)
    trie, shuffled = trie_of(titles), trie_of([titles[item] for item in shuffle])
    assert shuffled.tokens.tolist() == trie.tokens.tolist()
    assert shuffled.child_offsets.tolist() == trie.child_offsets.tolist()
    assert shuffled.leaf_of_item.tolist() == trie.leaf_of_item[shuffle].tolist()
    assert shuffled.paths.tolist() == trie.paths[shuffle].tolist()
