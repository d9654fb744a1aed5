"""Diverse search: group beams by hand, as former transformers decoded them, and as a slow reference does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rankers import rank
from tiers import scaled
from tiny_parts import plain_prompt, tiny_model, title_tokens

from patchrec_hf import RankingConfig
from patchrec_hf.runtime.allowed_items import ItemSet
from patchrec_hf.runtime.diverse_search import search_diverse
from patchrec_hf.runtime.search import SearchRequest
from patchrec_hf.runtime.trie import build_trie


END = 9


class TableReader:
    """Reads the log-probabilities of the next token from a table, by the last token. A prompt is a token."""

    def __init__(self, trie, log_probs):
        self.trie = trie
        self._log_probs = log_probs
        self.tokens_read = []

    def admit(self, users, prompts):
        self._last = np.array(prompts)

    def read(self, users, nodes):
        self._last = self.trie.tokens[nodes]
        self.tokens_read.append([(int(user), int(token)) for user, token in zip(users, self._last, strict=True)])

    def log_probs(self, places, children):
        return self._log_probs[self._last[places], self.trie.tokens[children]].astype(np.float32)

    def kv_length(self, user):
        return 0

    def largest(self, value):
        return value

    def prune(self, users, nodes):
        pass

    def leave(self, users):
        pass


def decode(reader, prompts, num_groups, penalty=0.8, ended=0, allowed=None, batch_size=2):
    """Returns the titles of each prompt by their numbers, and their scores."""
    allowed = ItemSet() if allowed is None else ItemSet.from_mask(allowed)
    requests = (SearchRequest(row, prompt, allowed) for row, prompt in enumerate(prompts))
    found = list(search_diverse(reader, requests, batch_size, num_groups, penalty, ended))
    assert [one.request.row for one in found] == list(range(len(prompts)))
    items = [reader.trie.items_at(one.leaves)[1].tolist() for one in found]
    return items, [one.scores.tolist() for one in found], found


PROMPT = 8


def by_hand(**log_probs):
    """A table in which a name such as `t8_1` is the log-probability of token 1 after token 8."""
    table = np.full((10, 10), -50.0)
    for name, value in log_probs.items():
        before, token = name.removeprefix("t").split("_")
        table[int(before), int(token)] = value
    return table


def test_by_hand_the_penalty_changes_the_order_and_enters_the_score():
    """
    Titles 1·2, 3 and 4·5·6, which is the longest and has no end of turn. Three steps at most.

    Step 1 after the prompt: 1 (-1), 3 (-1.5), 4 (-2.5).
    Group 0 takes 1 (-1). Group 1: 1 is -1.8 now, so it takes 3 (-1.5). Group 2: 1 -1.8, 3 -2.3, so 1 (-1.8).
    Group 3: 1 -2.6, 3 -2.3, 4 -2.5, so 3 (-2.3). Group 4: 1 -2.6, 3 -3.1, 4 -2.5, so 4 (-2.5).
    Step 2: groups 0 and 2 take 2 after 1 (-0.5): -1.5 and, penalized, -1.8 - 0.5 - 0.8 = -3.1. Groups 1 and 3 end
    (-0.1): -1.6 and -2.4, without a penalty, because an ended group counts as 0. Group 4 takes 5 (-0.2): -2.7.
    Step 3: groups 0 and 2 end after 2 (-0.3): -1.8 and -3.4. Group 4 takes 6 (-0.3): -3.0, and has no end.
    Means: 0: -1.8 / 3 = -0.6; 1: -1.6 / 2 = -0.8; 2: -3.4 / 3; 3: -2.4 / 2 = -1.2; 4: -3.0 / 3 = -1.0.
    """
    table = by_hand(t8_1=-1.0, t8_3=-1.5, t8_4=-2.5, t1_2=-0.5, t3_9=-0.1, t4_5=-0.2, t2_9=-0.3, t5_6=-0.3)
    reader = TableReader(build_trie(title_tokens([[1, 2], [3], [4, 5, 6]]), END, complete_prefixes=False), table)
    items, scores, (found,) = decode(reader, [PROMPT], 5)
    assert items == [[0, 1, 2, 0, 1]]  # two titles are listed twice
    assert scores[0] == pytest.approx([-0.6, -0.8, -1.0, -3.4 / 3, -1.2])
    # The two groups at 1 share what is read, and those at 3 too; ended groups are not read.
    assert reader.tokens_read == [[(0, 1), (0, 3), (0, 4)], [(0, 2), (0, 5)]]
    assert (found.tokens_read, found.dropped) == (5, np.inf)
    # Two groups alone never reach the third title, and the first two decode as they did.
    assert decode(reader, [PROMPT], 2)[0] == [[0, 1]]


def test_by_hand_an_ended_group_counts_as_a_token():
    """
    Titles 1, 2·0, 2·3 and 4·5·6. In step 2 group 0 ends title 1, and counts as token 0. So group 1, which stands at 2,
    prefers 3 (-1.0) to 0 (-0.5 - 0.8). With another token it takes 0.
    """
    table = by_hand(t8_1=-1.0, t8_2=-1.5, t8_4=-9.0, t1_9=-0.1, t2_0=-0.5, t2_3=-1.0, t0_9=-0.2, t3_9=-0.2)
    titles = title_tokens([[1], [2, 0], [2, 3], [4, 5, 6]])
    reader = TableReader(build_trie(titles, END, complete_prefixes=False), table)
    items, scores, _ = decode(reader, [PROMPT], 2, ended=0)
    assert items == [[0, 2]]
    assert scores[0] == pytest.approx([-1.1 / 2, -2.7 / 3])
    items, scores, _ = decode(reader, [PROMPT], 2, ended=7)
    assert items == [[0, 1]]
    assert scores[0] == pytest.approx([-1.1 / 2, -2.2 / 3])


def test_by_hand_of_equal_scores_the_later_group_comes_first():
    """Without a penalty, both groups take title 1. With a penalty of 1.5, both titles score -1."""
    table = by_hand(t8_1=-1.0, t8_2=-2.0, t1_9=-1.0, t2_9=0.0)
    reader = TableReader(build_trie(title_tokens([[1], [2], [3, 3]]), END, complete_prefixes=False), table)
    assert decode(reader, [PROMPT], 2, penalty=1.5)[0] == [[1, 0]]
    assert decode(reader, [PROMPT], 2, penalty=0.0)[0] == [[0, 0]]


def test_only_allowed_titles_are_decoded():
    table = by_hand(t8_1=-1.0, t8_3=-1.5, t8_4=-2.5, t1_2=-0.5, t3_9=-0.1, t4_5=-0.2, t2_9=-0.3, t5_6=-0.3)
    reader = TableReader(build_trie(title_tokens([[1, 2], [3], [4, 5, 6]]), END, complete_prefixes=False), table)
    items, _, _ = decode(reader, [PROMPT, PROMPT], 5, allowed=np.array([False, True, True]))
    assert items[0] == items[1]
    assert set(items[0]) == {1, 2}


def test_a_process_that_is_done_reads_nothing_with_the_others():
    """With sharded weights, every process runs as many forwards as the one with the longest titles."""
    table = by_hand(t8_1=-1.0, t8_4=-90.0, t1_9=-0.1)
    trie = build_trie(title_tokens([[1], [4, 5, 6, 7]]), END, complete_prefixes=False)
    alone, together = TableReader(trie, table), TableReader(trie, table)
    together.largest = lambda value: max(value, 1)  # another process is never done
    assert decode(together, [PROMPT], 2)[:2] == decode(alone, [PROMPT], 2)[:2]
    assert alone.tokens_read == [[(0, 1)]]
    assert together.tokens_read == [[(0, 1)], [], []]


CASES = json.loads(Path(__file__).with_name("group_beams.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_equals_the_group_beams_of_former_transformers(case):
    """`tests/make_group_beams.py` made the cases by transformers 4.51.3, which still has group beams."""
    logits = np.random.RandomState(case["seed"]).randn(150, 150) * case["scale"]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    trie = build_trie(title_tokens(case["titles"]), END, complete_prefixes=False)
    items, scores, _ = decode(TableReader(trie, log_probs), case["prompts"], case["num_groups"])
    assert items == [[item for item, _ in row] for row in case["expected"]]
    for found, expected in zip(scores, case["expected"], strict=True):
        assert found == pytest.approx([score for _, score in expected], abs=1e-4)


@torch.no_grad()
def slow_reference(model, titles, prompt, num_groups, penalty, ended):
    """
    The groups of one prompt, one after the other and token by token, with a forward of prompt and prefix for each. It
    returns titles and scores, best first.
    """
    longest = max(map(len, titles))
    sequences, sums, hypotheses = [[] for _ in range(num_groups)], [0.0] * num_groups, {}
    for _ in range(longest):
        taken = []
        for group, sequence in enumerate(sequences):
            if group in hypotheses:
                taken.append(ended)
                continue
            following = {title[len(sequence)] for title in titles if title[: len(sequence)] == sequence != title}
            logits = model(input_ids=torch.tensor([[*prompt, *sequence]]), use_cache=False).logits[0, -1]
            log_probs = logits.log_softmax(dim=-1).tolist()
            values = {token: log_probs[token] - penalty * taken.count(token) for token in following or {END}}
            token = max(sorted(values), key=values.get)
            sums[group] += values[token]
            if token == END:
                hypotheses[group] = sums[group] / (len(sequence) + 1)
                taken.append(ended)
            else:
                sequence.append(token)
                taken.append(token)
    scores = [hypotheses.get(group, sums[group] / longest) for group in range(num_groups)]
    order = sorted(range(num_groups), key=lambda group: (scores[group], group), reverse=True)
    return [titles.index(sequences[group]) for group in order], [scores[group] for group in order]


@pytest.mark.slow
@settings(max_examples=scaled(25))
@given(
    titles=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=2, max_size=10, unique_by=tuple),
    num_groups=st.integers(1, 7),
    prompts=st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=5), min_size=1, max_size=4),
    penalty=st.sampled_from([0.0, 0.3, 0.8, 2.0]),
    ended=st.sampled_from([0, 3, 10]),
)
def test_equals_a_slow_reference_on_a_model(titles, num_groups, prompts, penalty, ended):
    model, trie = tiny_model(), build_trie(title_tokens(titles), END, complete_prefixes=False)
    spelled = [title for item, title in enumerate(titles) if trie.leaf_of_item[item] >= 0]
    ranking = rank(
        model, trie, [plain_prompt(ids) for ids in prompts], pad_id=10, batch_size=3, k=num_groups, method="diverse",
        diversity_penalty=penalty, ended_token_id=ended,
    )  # fmt: skip
    for row, prompt in enumerate(prompts):
        items, scores = slow_reference(model, spelled, prompt, num_groups, penalty, ended)
        assert [titles[item] for item in ranking.items[row]] == [spelled[item] for item in items]
        np.testing.assert_allclose(ranking.scores[row], scores, atol=1e-4)
    assert not ranking.is_exact.any()


def test_every_prompt_is_read_once_and_each_step_in_one_forward(model, processor, prompts, trie):
    sizes = []
    model.model.register_forward_pre_hook(
        lambda _, inputs, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    ranking = rank(model, trie, prompts, processor.prompt.pad_id, k=4, method="diverse")
    assert len(sizes) <= 5 + 5 * (trie.max_depth - 2)
    assert max(shape[1] for shape in sizes[5:]) <= 4  # at most one token of each group
    alone = rank(model, trie, prompts, processor.prompt.pad_id, k=4, method="diverse", batch_size=1)
    assert (alone.items == ranking.items).all()
    np.testing.assert_allclose(alone.scores, ranking.scores, atol=1e-5)


def test_candidates_and_more_groups_than_items(model, processor, prompts, trie):
    """Items 4 and 5 are both called "Poems", and the first allowed one stands for the title."""
    candidates, excluded = [np.array([4, 5, 9])] * 5, [np.array([4])] * 5
    ranking = rank(
        model, trie, prompts, processor.prompt.pad_id, candidates, excluded, k=30, method="diverse"
    )  # fmt: skip
    assert ranking.items.shape == (5, 30)
    assert set(ranking.items.ravel().tolist()) == {5, 9}
    assert np.isfinite(ranking.scores).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diversity_penalty": -0.1}, "`diversity_penalty` must be a number of at least 0, got -0.1"),
        ({"diversity_penalty": float("nan")}, "`diversity_penalty` must be a number of at least 0, got nan"),
        ({"ended_token_id": -1}, "`ended_token_id` must be a token id, got -1"),
        ({"num_beams": 30}, "belong"),
        ({"length_penalty": 1.0}, "The method 'diverse' ranks by the mean log-probability, .* leave out"),
        ({"max_title_tokens": 3}, "`max_title_tokens` belongs to `method='exact'`, got `method='diverse'`"),
        ({"method": "exact", "diversity_penalty": 0.5}, "belong to `method='diverse'`, got `method='exact'`"),
        ({"method": "beam", "ended_token_id": 3}, "belong to `method='diverse'`, got `method='beam'`"),
    ],
)
def test_settings_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        RankingConfig(**{"method": "diverse", **arguments})
