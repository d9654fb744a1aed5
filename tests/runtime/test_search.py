"""The search finds what brute force finds, and reads less."""

import numpy as np
import pytest
from brute_force import brute_force, brute_force_catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from rankers import rank
from tiers import scaled
from tiny_parts import plain_prompt, tiny_model, title_tokens

import patchrec_hf.runtime.ranking as ranking_module
import patchrec_hf.runtime.search as search_module
import patchrec_hf.runtime.tree_reader as tree_reader_module
from patchrec_hf.runtime.allowed_items import ItemSet
from patchrec_hf.runtime.search import SearchRequest, score_all_titles, search_titles
from patchrec_hf.runtime.trie import build_trie


random_titles = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=2, max_size=14)
random_prompts = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=5), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=scaled(60))
@given(
    titles=random_titles,
    k=st.integers(1, 14),
    prompts=random_prompts,
    tokens_at_once=st.integers(1, 20),
    crowded=st.sampled_from([0, 100]),
    length_penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]),
    complete_prefixes=st.booleans(),
    temperature=st.sampled_from([None, 1.0, 3.0, 0.25]),
    data=st.data(),
)
def test_random_tries(
    titles, k, prompts, tokens_at_once, crowded, length_penalty, complete_prefixes, temperature, data
):
    """Prefixes, duplicates, single-token titles, candidates, excluded items, sums, means and other scores by length,
    probabilities among the vocabulary and among the titles: exact and all equal brute force; what a beam or a bounded
    search certifies is exact, and what they do not certify are still k different items with right scores."""
    model, tokens, k = tiny_model(), title_tokens(titles), min(k, len(titles))
    prompts = [plain_prompt(ids) for ids in prompts]
    trie = build_trie(tokens, 9, complete_prefixes)
    k = min(k, len(trie.items))
    item_sets = st.lists(st.integers(0, len(titles) - 1), max_size=len(titles) - 1, unique=True)
    excluded = [np.array(data.draw(item_sets), dtype=np.int64) for _ in prompts]
    candidates = [np.setdiff1d(np.arange(len(titles)), data.draw(item_sets)) for _ in prompts]
    for row, items in enumerate(excluded):  # something is left
        kept = data.draw(st.sampled_from(trie.items.tolist()))
        excluded[row], candidates[row] = np.setdiff1d(items, kept), np.union1d(candidates[row], kept)
    normalizer = "vocabulary" if temperature is None else "catalog"
    if temperature is None:
        scores = np.array([brute_force(model, tokens, 9, prompt) for prompt in prompts])
    else:
        scores = np.array(
            [brute_force_catalog(model, tokens, 9, prompt, trie.items.tolist(), temperature) for prompt in prompts]
        )
        assert np.exp(scores).sum(axis=1) == pytest.approx(1)
    scores /= np.array([len(title) + 1.0 for title in titles]) ** length_penalty
    for row, items in enumerate(excluded):
        is_left = np.isin(np.arange(len(titles)), np.intersect1d(candidates[row], trie.items))
        is_left[items] = False
        scores[row, ~is_left] = -np.inf
    num_left = np.isfinite(scores).sum(axis=1)
    expected = -np.sort(-scores, axis=1)[:, :k]

    def check(**kwargs):
        ranking = rank(
            model, trie, prompts, 10, candidates, excluded, k=k, batch_size=2, length_penalty=length_penalty,
            normalizer=normalizer, temperature=temperature, **kwargs
        )  # fmt: skip
        for row in range(len(prompts)):
            found = ranking.items[row][ranking.items[row] >= 0]
            assert len(set(found.tolist())) == len(found) == min(k, num_left[row])
            np.testing.assert_allclose(ranking.scores[row, : len(found)], scores[row, found], rtol=1e-5, atol=1e-4)
            if ranking.is_exact[row]:
                np.testing.assert_allclose(ranking.scores[row], expected[row], rtol=1e-5, atol=1e-4)
        return ranking

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ranking_module, "_TOKENS_PER_FORWARD", {"exact": tokens_at_once, "all": tokens_at_once})
        monkeypatch.setattr(tree_reader_module, "_PRUNE_ABOVE", crowded)
        assert check(method="exact").is_exact.all()
        assert check(method="all").is_exact.all()
        assert check(method="beam", num_beams=len(titles)).is_exact.all()
        check(method="beam", num_beams=k)
        check(method="exact", max_title_tokens=data.draw(st.integers(0, 12)))


@pytest.mark.slow
def test_many_beams_are_read_in_several_forwards(model, processor, prompts, trie, monkeypatch):
    expected = rank(model, trie, prompts, processor.prompt.pad_id, k=12, method="beam")
    monkeypatch.setattr(search_module, "_MAX_TOKENS_PER_FORWARD", 2)
    widths = []
    model.model.register_forward_pre_hook(
        lambda _, inputs, kwargs: widths.append(0 if "patch_positions" in kwargs else kwargs["input_ids"].shape[1]),
        with_kwargs=True,
    )
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=12, method="beam")
    assert (ranking.items == expected.items).all()
    assert set(widths) == {0, 1, 2}  # 0 stands for prompts


def test_exact_reads_less_than_all(model, processor, prompts, trie):
    exact = rank(model, trie, prompts, processor.prompt.pad_id, k=1)
    everything = rank(model, trie, prompts, processor.prompt.pad_id, k=1, method="all")
    assert (exact.tokens_read < everything.tokens_read).all()
    lengths = np.array([prompt.prompt_length for prompt in prompts])
    assert (exact.kv_length == lengths + exact.tokens_read).all()
    assert exact.scores == pytest.approx(everything.scores, abs=1e-4)


END = 9
LOG_PROBS = {1: -1.0, 2: -0.5, 3: -2.0, 4: -1.25, END: -0.25}


class FixedReader:
    """Gives each token one log-probability, whatever stands before it, and notes who comes, who leaves and what is
    read."""

    is_normalized = False

    def __init__(self, trie):
        self.trie = trie
        self.tokens_read, self.events = [], []

    def admit(self, users, prompts):
        self.events += [f"{user} reads {prompt}" for user, prompt in zip(users.tolist(), prompts, strict=True)]

    def leave(self, users):
        self.events += [f"{user} leaves" for user in users.tolist()]

    def read(self, users, nodes):
        tokens = self.trie.tokens[nodes]
        self.tokens_read.append({user: tokens[users == user].tolist() for user in dict.fromkeys(users.tolist())})

    def log_probs(self, places, children):
        return np.array([LOG_PROBS[token] for token in self.trie.tokens[children].tolist()], dtype=np.float32)

    def kv_length(self, user):
        return 0

    def largest(self, value):
        return value

    def forget(self):
        pass

    def prune(self, users, nodes):
        pass


# 1·2 has the score -1.75, 1·3 has -3.25, and 4 has -1.5.
TRIE = build_trie(title_tokens([[1, 2], [1, 3], [4]]), END)


def requests(*allowed):
    """Users called a, b, …, who may have these items."""
    for row, items in enumerate(allowed):
        yield SearchRequest(row, "abcdef"[row], ItemSet.from_mask(np.isin(np.arange(3), items)))


def search(
    reader, *allowed, batch_size=1, k=1, num_beams=None, max_title_tokens=None, tokens_per_wave=1, length_penalty=0.0
):
    users, settings = requests(*allowed), (num_beams, max_title_tokens, tokens_per_wave, length_penalty)
    return list(search_titles(reader, users, batch_size, k, *settings))


def items_by_score(found, trie=TRIE):
    order = np.argsort(-found.scores, kind="stable")
    _, items = trie.items_at(found.leaves[order])
    return list(zip(items.tolist(), found.scores[order].tolist(), strict=True))


def test_the_best_prefix_is_read_first():
    """The search reads 1 (-1), then 4 (-1.25), and last 1·2 (-1.5), which may tie with the whole title 4 (-1.5)."""
    reader = FixedReader(TRIE)
    (found,) = search(reader, [0, 1, 2])
    assert reader.tokens_read == [{0: [1]}, {0: [4]}, {0: [2]}]
    assert items_by_score(found) == [(2, -1.5)]
    assert (found.tokens_read, found.dropped) == (3, -np.inf)


def test_what_a_beam_gives_up_is_told():
    """A single beam keeps 1 (-1) and gives up 4 (-1.25). Then it keeps 1·2 (-1.5) and gives up 1·3 (-3)."""
    reader = FixedReader(TRIE)
    (found,) = search(reader, [0, 1, 2], num_beams=1)
    assert reader.tokens_read == [{0: [1]}, {0: [2]}]
    assert items_by_score(found) == [(0, -1.75)]
    assert found.dropped == -1.25


def test_a_mean_is_bounded_by_the_longest_title_below():
    """
    By their means, 1·2 has -1.75 / 3, 1·3 has -3.25 / 3, and 4 has -1.5 / 2. The search reads 1, whose longest titles
    have three tokens (-1 / 3), before 4 (-1.25 / 2). Then 1·2 (-1.5 / 3) is the best, and its title surpasses what 4
    can reach. By the sum, 4 is the best title.
    """
    reader = FixedReader(TRIE)
    (found,) = search(reader, [0, 1, 2], length_penalty=1.0)
    assert reader.tokens_read == [{0: [1]}, {0: [2]}]
    assert items_by_score(found) == [(0, pytest.approx(-1.75 / 3))]
    assert (found.tokens_read, found.dropped) == (2, -np.inf)


def test_a_negative_penalty_is_bounded_by_the_shortest_title_below():
    """4 (-1.25 * 2) is read before 1 (-1 * 3); its title has -1.5 * 2, which 1 cannot surpass, but may tie with."""
    reader = FixedReader(TRIE)
    (found,) = search(reader, [0, 1, 2], length_penalty=-1.0)
    assert reader.tokens_read == [{0: [4]}, {0: [1]}]
    assert items_by_score(found) == [(2, -3.0)]


def test_a_beam_by_the_mean_is_certified_by_the_bound():
    """A beam keeps the prefix with the best sum, 1, and gives up 4, which can reach -1.25 / 2 at most."""
    (found,) = search(FixedReader(TRIE), [0, 1, 2], num_beams=1, length_penalty=1.0)
    assert items_by_score(found) == [(0, pytest.approx(-1.75 / 3))]
    assert found.dropped == -1.25 / 2  # below the title


def test_only_what_is_allowed_is_read():
    """The first user may have 1·3 alone, the second one 4 alone."""
    reader = FixedReader(TRIE)
    found = search(reader, [1], [2], batch_size=2, tokens_per_wave=4)
    assert reader.tokens_read == [{0: [1], 1: [4]}, {0: [3]}]
    assert {result.request.row: items_by_score(result) for result in found} == {0: [(1, -3.25)], 1: [(2, -1.5)]}


def test_users_come_in_as_others_leave():
    """Users who may have 4 alone read one token; those who may have 1·3 alone read two. Two are present at once."""
    reader = FixedReader(TRIE)
    found = search(reader, [2], [1], [2], [1], [2], batch_size=2)
    assert reader.events == [
        "0 reads a", "1 reads b", "0 leaves", "0 reads c", "0 leaves", "1 leaves",
        "0 reads d", "1 reads e", "1 leaves", "0 leaves",
    ]  # fmt: skip
    assert reader.tokens_read == [{0: [4], 1: [1]}, {0: [4], 1: [3]}, {0: [1], 1: [4]}, {0: [3]}]
    assert [result.request.row for result in found] == [0, 2, 1, 4, 3]
    assert {result.request.row: items_by_score(result) for result in found} == {
        row: [(1, -3.25)] if row in (1, 3) else [(2, -1.5)] for row in range(5)
    }
    assert all(result.tokens_read == 1 + (result.request.row in (1, 3)) for result in found)


def test_a_request_is_taken_when_there_is_room():
    reader, taken = FixedReader(TRIE), []

    def users():
        for request in requests([2], [2], [2]):
            taken.append(request.row)
            yield request

    results = search_titles(reader, users(), 1, 1, None, None, 1)
    for row in range(3):
        assert next(results).request.row == row
        assert taken == list(range(row + 1))
    assert next(results, None) is None


@pytest.mark.parametrize("tokens_at_once", [1, 2, 8])
def test_all_titles_are_scored(tokens_at_once):
    found = list(score_all_titles(FixedReader(TRIE), requests([0], [1], [2]), 2, tokens_at_once))
    assert [result.request.row for result in found] == [0, 1, 2]
    for result in found:
        assert items_by_score(result) == [(2, -1.5), (0, -1.75), (1, -3.25)]


def test_all_titles_are_scored_by_their_means():
    (found,) = score_all_titles(FixedReader(TRIE), requests([0]), 1, 8, length_penalty=1.0)
    assert items_by_score(found) == [(0, pytest.approx(-1.75 / 3)), (2, -0.75), (1, pytest.approx(-3.25 / 3))]
