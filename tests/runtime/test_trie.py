"""Tests of the title trie."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_parts import title_tokens

from patchrec_hf.runtime.title_tokens import TitleTokens
from patchrec_hf.runtime.trie import TitleTrie, build_trie


END = 9
token_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=20)


def trie_of(titles):
    ids = np.array([token for title in titles for token in title], dtype=np.int64)
    return build_trie(TitleTokens(ids, np.cumsum([0, *map(len, titles)])), END)


def children(trie, node):
    return trie.children[trie.child_offsets[node] : trie.child_offsets[node + 1]].tolist()


def items(trie, node):
    return sorted(trie.items[trie.item_offsets[node] : trie.item_offsets[trie.subtree_ends[node]]].tolist())


def walk(trie, tokens):
    """The nodes on the way from the root along `tokens`."""
    nodes = [0]
    for token in tokens:
        (node,) = (child for child in children(trie, nodes[-1]) if trie.tokens[child] == token)
        nodes.append(node)
    return nodes[1:]


def test_by_hand():
    # Preorder: root 0; 5 → 1, 5·end → 2, 5·6 → 3, 5·6·end → 4; 7 → 5, 7·end → 6.
    trie = trie_of([[5], [5, 6], [7], [5]])
    assert trie.tokens.tolist() == [-1, 5, END, 6, END, 7, END]
    assert trie.depths.tolist() == [0, 1, 2, 2, 3, 1, 2]
    assert trie.parents.tolist() == [-1, 0, 1, 1, 3, 0, 5]
    assert trie.subtree_ends.tolist() == [7, 5, 3, 5, 5, 7, 7]
    assert trie.child_offsets.tolist() == [0, 2, 4, 4, 5, 5, 6, 6]
    assert trie.children.tolist() == [1, 5, 2, 3, 4, 6]
    assert trie.items.tolist() == [0, 3, 1, 2]
    assert trie.item_offsets.tolist() == [0, 0, 0, 2, 2, 3, 3, 4]
    assert trie.chain_lengths.tolist() == [1, 1, 0, 1, 0, 1, 0]
    assert (trie.num_nodes, trie.max_depth, trie.num_items) == (7, 3, 4)
    arrays = (value for value in vars(trie).values() if isinstance(value, np.ndarray))
    assert {array.dtype for array in arrays} == {np.dtype(np.int64)}
    assert trie.is_choice.tolist() == [True, True, False, False, False, False, False]
    assert trie.only_leaves.tolist() == [-1, -1, 2, 4, 4, 6, 6]
    assert trie.choices_above.tolist() == [-1, 0, 1, 1, 1, 0, 0]
    numbers, choices = trie.choices_on_paths(np.array([2, 6, 4]))
    assert (numbers.tolist(), choices.tolist()) == ([0, 0, 1, 2, 2], [0, 1, 0, 0, 1])


def test_one_item():
    trie = trie_of([[4, 4]])
    assert trie.tokens.tolist() == [-1, 4, 4, END]
    assert trie.children.tolist() == [1, 2, 3]
    # From the root on, one run leads to the node before the leaf.
    assert trie.chain_lengths.tolist() == [3, 2, 1, 0]


def test_chains_end_before_a_choice():
    trie = trie_of([[1, 2, 3, 4], [1, 2, 5, 6, 7]])
    assert trie.tokens.tolist() == [-1, 1, 2, 3, 4, END, 5, 6, 7, END]
    assert trie.chain_lengths.tolist() == [3, 2, 1, 2, 1, 0, 3, 2, 1, 0]


def test_a_title_that_begins_another_has_its_own_leaf():
    trie = trie_of([[1, 2, 3], [1], [1, 2]])
    # After 1·2, both the end and 3 are open.
    assert trie.tokens[children(trie, walk(trie, [1, 2])[-1])].tolist() == [END, 3]
    assert items(trie, walk(trie, [1, 2, END])[-1]) == [2]


def test_without_ends_for_titles_that_begin_others():
    """The release leaves out a title that begins another title, with all of its items. Equal titles keep their end."""
    titles = [[1, 2, 3], [1], [1, 2], [1], [1, 2, 3], [4], [2]]
    lengths = np.cumsum([0, *map(len, titles)])
    tokens = TitleTokens(np.array([token for title in titles for token in title]), lengths)
    trie = build_trie(tokens, END, complete_prefixes=False)
    assert sorted(trie.items.tolist()) == [0, 4, 5, 6]
    assert trie.num_items == 7
    assert trie.tokens[children(trie, walk(trie, [1, 2])[-1])].tolist() == [3]


def test_titles_of_the_smallest_and_an_end_below_all_tokens():
    """Token 0 is a token like others, and the end-of-turn token may sort before those of the titles."""
    titles = TitleTokens(np.array([5, 5, 6, 1]), np.array([0, 1, 3, 4]))
    trie = build_trie(titles, end_of_turn_id=0)
    assert trie.tokens.tolist() == [-1, 1, 0, 5, 0, 6, 0]


def trie_by_table(titles, end_of_turn_id, complete_prefixes):
    """Builds the trie as its definition says: through a table with one row per item and a column per depth."""
    # One row per item, padded with -1. After sorting, equal prefixes are adjacent at every depth, and a title precedes
    # the titles of which it is a prefix.
    rows = np.full((len(titles), int(titles.lengths.max()) + 1), -1, dtype=np.int32)
    rows[np.arange(rows.shape[1]) < titles.lengths[:, None]] = titles.ids
    items = np.lexsort(rows.T[::-1])
    rows, lengths = rows[items], titles.lengths[items]
    if not complete_prefixes:
        kept = ~begins_another(rows, lengths)
        rows, lengths, items = rows[kept], lengths[kept], items[kept]
    rows[np.arange(len(rows)), lengths] = end_of_turn_id

    # Each row opens a node for every token after the prefix that it shares with the previous row. Row by row, the
    # nodes are in preorder.
    columns = np.arange(rows.shape[1])
    shared = np.concatenate([[0], shared_with_previous(rows)])
    is_new = (columns >= shared[:, None]) & (columns <= lengths[:, None])
    row_of_node, column_of_node = np.nonzero(is_new)
    num_nodes = len(row_of_node) + 1
    # `nodes[i, d]`: the node of row i's token d. A shared prefix has the nodes of the earlier row that opened them.
    nodes = np.zeros(rows.shape, dtype=np.int32)
    nodes[is_new] = np.arange(1, num_nodes)
    nodes = np.maximum.accumulate(nodes, axis=0)

    parents = np.where(column_of_node > 0, nodes[row_of_node, column_of_node - 1], 0).astype(np.int64)
    depths = np.concatenate([[0], column_of_node + 1])
    sizes = np.ones(num_nodes, dtype=np.int64)
    for depth in range(int(depths.max()), 0, -1):
        level = np.flatnonzero(depths == depth)
        sizes += np.bincount(parents[level - 1], weights=sizes[level], minlength=num_nodes).astype(np.int64)
    leaves = nodes[np.arange(len(rows)), lengths].astype(np.int64)
    return TitleTrie(
        tokens=np.concatenate([[-1], rows[is_new].astype(np.int64)]),
        depths=depths,
        subtree_ends=np.arange(num_nodes) + sizes,
        child_offsets=np.concatenate([[0], np.cumsum(np.bincount(parents, minlength=num_nodes))]),
        children=1 + np.argsort(parents, kind="stable"),
        items=items,
        item_offsets=np.concatenate([[0], np.cumsum(np.bincount(leaves, minlength=num_nodes))]),
        num_items=len(titles),
    )


def shared_with_previous(rows: np.ndarray) -> np.ndarray:
    return np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1).sum(axis=1)


def begins_another(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    shared = shared_with_previous(rows)
    # A prefix of any other title is a prefix of the next different title. Items with the same title share the result.
    is_prefix_of_next = np.append((shared >= lengths[:-1]) & (lengths[1:] > lengths[:-1]), False)
    is_first_of_title = np.concatenate([[True], shared < rows.shape[1]])
    last_of_title = np.append(np.flatnonzero(is_first_of_title)[1:], len(rows)) - 1
    return is_prefix_of_next[last_of_title][np.cumsum(is_first_of_title) - 1]


@given(
    titles=token_lists,
    long=st.lists(st.integers(0, 3), max_size=300),
    end=st.sampled_from([END, 2]),  # an end of turn that titles hold, too
    complete_prefixes=st.booleans(),
)
def test_equals_the_trie_of_a_table_of_items_by_depth(titles, long, end, complete_prefixes):
    titles = [*titles, long] if long else titles
    tokens = title_tokens(titles)
    found, expected = (build(tokens, end, complete_prefixes) for build in (build_trie, trie_by_table))
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(found, name), value), name


def test_no_titles_are_refused():
    with pytest.raises(ValueError, match="at least one title, got none"):
        build_trie(TitleTokens(np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)), END)


def test_memory_grows_with_the_tokens_and_not_with_the_longest_title():
    """A table of 20,000 items and 5,000 depths would take 400 MB in its smallest form."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 12, 20_000)
    lengths[7] = 5_000
    titles = TitleTokens(rng.integers(0, 3000, lengths.sum()), np.append(0, np.cumsum(lengths)))
    tracemalloc.start()
    try:
        trie = build_trie(titles, end_of_turn_id=5000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert trie.max_depth == 5_001
    assert peak < 60 * 8 * lengths.sum()  # 64 MB: no more than 60 numbers for each token


@given(token_lists)
def test_every_title_spells_its_leaf(titles):
    trie = trie_of(titles)
    for item, title in enumerate(titles):
        leaf = walk(trie, [*title, END])[-1]
        assert children(trie, leaf) == []
        same = [other for other, tokens in enumerate(titles) if tokens == title]
        assert items(trie, leaf) == same
        places, found = trie.items_at(np.array([leaf, leaf]))
        assert item in found
        assert np.bincount(places).tolist() == [len(same)] * 2


@given(token_lists)
def test_nodes_are_the_distinct_prefixes(titles):
    trie = trie_of(titles)
    prefixes = {tuple([*title, END][:stop]) for title in titles for stop in range(1, len(title) + 2)}
    assert trie.num_nodes == len(prefixes) + 1
    assert trie.max_depth == max(map(len, titles)) + 1
    for prefix in prefixes:
        nodes = walk(trie, prefix)
        assert tuple(trie.tokens[nodes].tolist()) == prefix
        assert trie.depths[nodes].tolist() == list(range(1, len(prefix) + 1))
        below = [item for item, title in enumerate(titles) if tuple([*title, END][: len(prefix)]) == prefix]
        assert items(trie, nodes[-1]) == below


@given(token_lists, st.data())
def test_titles_of_items(titles, data):
    trie = trie_of(titles)
    chosen = data.draw(st.lists(st.integers(0, len(titles) - 1), unique=True))
    leaves, first, counts = trie.titles_of(np.array(chosen, dtype=np.int64))
    spelled = [tuple(titles[item]) for item in chosen]
    assert {tuple(titles[item]) for item in first} == set(spelled)
    assert len(first) == len(set(spelled))
    for leaf, item, count in zip(leaves, first, counts, strict=True):
        same = [other for other in chosen if titles[other] == titles[item]]
        assert (item, count, trie.leaf_of_item[item]) == (min(same), len(same), leaf)
    alike = trie.items_spelled_like(np.array(chosen, dtype=np.int64))
    assert sorted(alike) == [item for item, title in enumerate(titles) if tuple(title) in spelled]


def test_items_that_cannot_be_spelled_are_like_none():
    tokens = TitleTokens(np.array([1, 1, 2]), np.array([0, 1, 3]))
    trie = build_trie(tokens, END, complete_prefixes=False)
    assert trie.leaf_of_item[0] == -1
    assert trie.items_spelled_like(np.array([0])).tolist() == []
    assert trie.items_spelled_like(np.array([0, 1])).tolist() == [1]


@given(token_lists)
def test_preorder(titles):
    trie = trie_of(titles)
    parents = np.full(trie.num_nodes, -1)
    for node in range(trie.num_nodes):
        below = children(trie, node)
        parents[below] = node
        # The first child is the next node, and each child follows the last node below the one before.
        starts = [node + 1, *(trie.subtree_ends[child] for child in below)]
        assert starts == [*below, trie.subtree_ends[node]]
        # Only the end of a title has no children.
        assert (len(below) == 0) == (trie.tokens[node] == END)
    assert trie.parents.tolist() == parents.tolist()
    on_the_way = (np.arange(trie.num_nodes)[:, None] <= np.arange(trie.num_nodes)) & (
        np.arange(trie.num_nodes) < trie.subtree_ends[:, None]
    )
    for node in range(trie.num_nodes):
        way, above = {node}, node
        while above > 0:
            above = parents[above]
            way.add(above)
        assert set(np.flatnonzero(on_the_way[:, node])) == way


@given(token_lists)
def test_chains_have_no_choice(titles):
    trie = trie_of(titles)
    for node in range(trie.num_nodes):
        length, last = 0, node
        if children(trie, node):
            length = 1
            while len(children(trie, last)) == 1 and children(trie, children(trie, last)[0]):
                (last,) = children(trie, last)
                length += 1
            assert last == node + length - 1
        assert trie.chain_lengths[node] == length


@given(token_lists, st.data())
def test_children_of_several_nodes(titles, data):
    trie = trie_of(titles)
    nodes = data.draw(st.lists(st.integers(0, trie.num_nodes - 1), max_size=5))
    places, found = trie.children_of(np.array(nodes, dtype=np.int64))
    expected = [(place, child) for place, node in enumerate(nodes) for child in children(trie, node)]
    assert list(zip(places.tolist(), found.tolist(), strict=True)) == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_the_items_changes_nothing_but_the_rows(seed):
    rng = np.random.default_rng(seed)
    titles = [rng.integers(0, 3, rng.integers(1, 5)).tolist() for _ in range(30)]
    shuffle = rng.permutation(30)
    trie, shuffled = trie_of(titles), trie_of([titles[item] for item in shuffle])
    assert shuffled.tokens.tolist() == trie.tokens.tolist()
    assert shuffled.child_offsets.tolist() == trie.child_offsets.tolist()
    assert [items(shuffled, node) for node in range(trie.num_nodes)] == [
        sorted(np.argsort(shuffle)[items(trie, node)].tolist()) for node in range(trie.num_nodes)
    ]


def test_ten_thousand_titles_take_no_loop_over_titles():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 20, 10_000)
    titles = TitleTokens(rng.integers(0, 3000, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    num_lines = 0

    def count(frame, event, argument):
        nonlocal num_lines
        num_lines += event == "line"
        return count

    former = sys.gettrace()
    sys.settrace(count)
    try:
        trie = build_trie(titles, end_of_turn_id=5000)
    finally:
        sys.settrace(former)
    assert num_lines < len(trie.items)
    assert len(trie.items) == 10_000


def test_depths_of_the_leaves_below_a_node():
    """Nodes in preorder: the root, 1, 1·2, 1·2·end, 1·2·3, 1·2·3·end, 4, 4·end."""
    trie = build_trie(title_tokens([[1, 2], [1, 2, 3], [4]]), end_of_turn_id=9)
    assert trie.deepest_leaves.tolist() == [4, 4, 4, 3, 4, 4, 2, 2]
    assert trie.shallowest_leaves.tolist() == [2, 3, 3, 3, 4, 4, 2, 2]
