"""The search finds what brute force finds, and reads less."""

import numpy as np
import pytest
from brute_force import brute_force
from hypothesis import given, settings
from hypothesis import strategies as st
from rankers import rank
from tiny_parts import plain_prompt, tiny_model, title_tokens

import patchrec_hf.runtime.ranking as ranking_module
import patchrec_hf.runtime.search as search_module
import patchrec_hf.runtime.tree_reader as tree_reader_module
from patchrec_hf.runtime.search import AllowedItems, Prefixes, ranks_in_groups, score_all_titles, search_titles
from patchrec_hf.runtime.trie import build_trie


random_titles = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=2, max_size=14)
random_prompts = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=5), min_size=1, max_size=3)


@settings(max_examples=60)
@given(
    titles=random_titles,
    k=st.integers(1, 14),
    prompts=random_prompts,
    tokens_at_once=st.integers(1, 20),
    crowded=st.sampled_from([0, 100]),
    data=st.data(),
)
def test_random_tries(titles, k, prompts, tokens_at_once, crowded, data):
    """Prefixes, duplicates, single-token titles, excluded items: exact and all equal brute force; what a beam or a
    bounded search certifies is exact, and what they do not certify are still k different items with right scores."""
    model, tokens, k = tiny_model(), title_tokens(titles), min(k, len(titles))
    prompts = [plain_prompt(ids) for ids in prompts]
    trie = build_trie(tokens, end_of_turn_id=9)
    item_sets = st.lists(st.integers(0, len(titles) - 1), max_size=len(titles) - 1, unique=True)
    excluded = [np.array(data.draw(item_sets), dtype=np.int64) for _ in prompts]
    scores = np.array([brute_force(model, tokens, 9, prompt) for prompt in prompts])
    for row, items in enumerate(excluded):
        scores[row, items] = -np.inf
    expected = -np.sort(-scores, axis=1)[:, :k]

    def check(**kwargs):
        ranking = rank(model, trie, prompts, pad_id=10, k=k, batch_size=2, excluded=excluded, **kwargs)
        for row in range(len(prompts)):
            found = ranking.items[row][ranking.items[row] >= 0]
            assert len(set(found.tolist())) == len(found) == min(k, len(titles) - len(excluded[row]))
            np.testing.assert_allclose(ranking.scores[row, : len(found)], scores[row, found], atol=1e-4)
            if ranking.is_exact[row]:
                np.testing.assert_allclose(ranking.scores[row], expected[row], atol=1e-4)
        return ranking

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ranking_module, "_TOKENS_PER_FORWARD", {"exact": tokens_at_once, "all": tokens_at_once})
        monkeypatch.setattr(tree_reader_module, "_PRUNE_ABOVE", crowded)
        assert check(method="exact").is_exact.all()
        assert check(method="all").is_exact.all()
        assert check(method="beam", num_beams=len(titles)).is_exact.all()
        check(method="beam", num_beams=k)
        check(method="exact", max_title_tokens=data.draw(st.integers(0, 12)))


def test_many_beams_are_read_in_several_forwards(model, processor, prompts, trie, monkeypatch):
    expected = rank(model, trie, prompts, processor.prompt.pad_id, k=12, method="beam")
    monkeypatch.setattr(search_module, "_MAX_TOKENS_PER_FORWARD", 2)
    widths = []
    forward = model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda **inputs: widths.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=12, method="beam")
    assert (ranking.items == expected.items).all()
    assert max(widths[1:]) == 2  # after the prompts


def test_exact_reads_less_than_all(model, processor, prompts, trie):
    exact = rank(model, trie, prompts, processor.prompt.pad_id, k=1)
    everything = rank(model, trie, prompts, processor.prompt.pad_id, k=1, method="all")
    assert (exact.tokens_read < everything.tokens_read).all()
    longest = max(prompt.prompt_length for prompt in prompts)
    assert (exact.kv_length >= longest + exact.tokens_read).all()
    assert exact.scores == pytest.approx(everything.scores, abs=1e-4)


END = 9
LOG_PROBS = {1: -1.0, 2: -0.5, 3: -2.0, 4: -1.25, END: -0.25}


class FixedReader:
    """Gives each token one log-probability, whatever stands before it, and notes the tokens that it reads."""

    def __init__(self, trie, num_users=1):
        self.trie, self.num_users, self.padding = trie, num_users, trie.num_nodes
        self.tokens_read = []

    def read(self, nodes):
        self.tokens_read.append([self.trie.tokens[row[row < self.padding]].tolist() for row in nodes])

    def log_probs(self, users, columns, children):
        return np.array([LOG_PROBS[token] for token in self.trie.tokens[children].tolist()], dtype=np.float32)

    def largest(self, value):
        return value

    def forget(self):
        pass

    def prune(self, users, nodes):
        pass


# 1·2 has the score -1.75, 1·3 has -3.25, and 4 has -1.5.
TRIE = build_trie(title_tokens([[1, 2], [1, 3], [4]]), END)


def items_by_score(found, trie=TRIE):
    best = found.titles.best_first()
    _, items = trie.items_at(best.nodes)
    return list(zip(best.users.tolist(), items.tolist(), best.scores.tolist(), strict=True))


def test_the_best_prefix_is_read_first():
    """The search reads 1 (-1) and then 4 (-1.25), and stops: 1·2 (-1.5) cannot surpass the whole title 4 (-1.5)."""
    reader = FixedReader(TRIE)
    found = search_titles(reader, AllowedItems(TRIE, np.ones((1, 3), dtype=bool)), 1, None, None, tokens_per_wave=1)
    assert reader.tokens_read == [[[1]], [[4]]]
    assert items_by_score(found) == [(0, 2, -1.5)]
    assert found.tokens_read.tolist() == [2]
    assert found.dropped.tolist() == [-np.inf]


def test_what_a_beam_gives_up_is_told():
    """A single beam keeps 1 (-1) and gives up 4 (-1.25). Then it keeps 1·2 (-1.5) and gives up 1·3 (-3)."""
    reader = FixedReader(TRIE)
    found = search_titles(reader, AllowedItems(TRIE, np.ones((1, 3), dtype=bool)), 1, 1, None, tokens_per_wave=1)
    assert reader.tokens_read == [[[1]], [[2]]]
    assert items_by_score(found) == [(0, 0, -1.75)]
    assert found.dropped.tolist() == [-1.25]


def test_only_what_is_allowed_is_read():
    """The first user may have 1·3 alone, the second one 4 alone."""
    reader = FixedReader(TRIE, num_users=2)
    allowed = AllowedItems(TRIE, np.array([[False, True, False], [False, False, True]]))
    found = search_titles(reader, allowed, 1, None, None, tokens_per_wave=4)
    assert reader.tokens_read == [[[1], [4]], [[3], []]]
    assert items_by_score(found) == [(0, 1, -3.25), (1, 2, -1.5)]


@pytest.mark.parametrize("tokens_at_once", [1, 2, 8])
def test_all_titles_are_scored(tokens_at_once):
    found = score_all_titles(FixedReader(TRIE), AllowedItems(TRIE, np.ones((1, 3), dtype=bool)), tokens_at_once)
    assert items_by_score(found) == [(0, 2, -1.5), (0, 0, -1.75), (0, 1, -3.25)]


def test_allowed_items_are_counted_below_a_node():
    """Nodes in preorder: the root, 1, 1·2, 1·2·end, 1·3, 1·3·end, 4, 4·end."""
    allowed = AllowedItems(TRIE, np.array([[True, True, False], [False, True, True]]))
    users, nodes = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 6, 0, 1, 2])
    assert allowed.count(users, nodes).tolist() == [2, 2, 0, 2, 1, 0]


def test_prefixes_are_sorted_within_each_user():
    prefixes = Prefixes(np.array([0, 1, 0]), np.array([4, 5, 6]), np.array([-2.0, -3.0, -1.0]))
    joined = prefixes.joined(Prefixes(np.array([1]), np.array([7]), np.array([-0.5]))).best_first()
    assert joined.users.tolist() == [0, 0, 1, 1]
    assert joined.nodes.tolist() == [6, 4, 7, 5]
    assert joined.select(joined.scores > -1).nodes.tolist() == [7]
    assert len(joined) == 4


def test_places_in_groups():
    assert ranks_in_groups(np.array([0, 0, 2, 5, 5, 5])).tolist() == [0, 1, 0, 0, 1, 2]
    assert ranks_in_groups(np.array([], dtype=np.int64)).tolist() == []
