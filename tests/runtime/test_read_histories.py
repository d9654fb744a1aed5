"""Read histories: the states of the newest items, whichever way prompts are cut and grouped."""

import numpy as np
import pytest
import torch
from tiers import first_fast
from user_states import make_recommender, state_model, state_processor

from patchrec_hf import ItemPatchLayout, SessionPatchLayout
from patchrec_hf.runtime.encoding import EncodedHistory
from patchrec_hf.runtime.history_plans import HistoryPlan
from patchrec_hf.runtime.item_scorer import ItemScorer
from patchrec_hf.runtime.ranking import CatalogRanker
from patchrec_hf.runtime.ranking_config import RankingConfig
from patchrec_hf.runtime.read_histories import PositionsRead, ReadHistories, join_read_histories


HISTORIES = [[3, 1, 4], [9, 2, 6, 5, 30], [7]]


def plans_for(processor, histories):
    return [HistoryPlan.make(processor, processor.layout, np.array(items), None, 0) for items in histories]


def read(processor, histories=HISTORIES, model=None):
    result = ReadHistories.empty(model or state_model(), processor, len(histories))
    result.read(plans_for(processor, histories), list(map(len, histories)))
    return result


@torch.no_grad()
def state_by_hand(model, processor, items):
    prompt = processor.encode(np.array(items))
    tensors = {
        name: torch.from_numpy(getattr(prompt, name))[None]
        for name in ("input_ids", "patch_token_ids", "patch_positions", "patch_divisors")
    }
    return model.model(**tensors, use_cache=False).last_hidden_state[0, prompt.history_end]


@pytest.mark.parametrize("positions_per_forward", first_fast([1, 7, 1024]))
@pytest.mark.parametrize(
    "layout", first_fast([ItemPatchLayout(0), ItemPatchLayout(2), SessionPatchLayout(2)]), ids=str
)
def test_states_by_hand(layout, positions_per_forward, monkeypatch):
    monkeypatch.setattr("patchrec_hf.runtime.read_histories._POSITIONS_PER_FORWARD", positions_per_forward)
    processor = state_processor(layout)
    found = read(processor)
    longer = [[*HISTORIES[0], 8, 11], HISTORIES[1], [*HISTORIES[2], 12]]
    for histories in (HISTORIES, longer):
        found.read(plans_for(processor, histories), [0, 0, 0])
        expected = torch.stack([state_by_hand(state_model(), processor, items) for items in histories])
        torch.testing.assert_close(found.states, expected, atol=1e-4, rtol=0)


def test_users_may_be_read_in_any_groups(monkeypatch):
    processor = state_processor(ItemPatchLayout(1))
    expected = read(processor).states
    for groups in ([[0, 2], [1]], [[0], [1], [2]], [[0, 1, 2]]):
        monkeypatch.setattr(
            "patchrec_hf.runtime.read_histories.read_groups", lambda *args, g=groups: list(map(np.array, g))
        )
        torch.testing.assert_close(read(processor).states, expected, atol=1e-5, rtol=0)


def test_unchanged_histories_are_not_read(monkeypatch):
    processor = state_processor(ItemPatchLayout(1))
    found = read(processor)
    monkeypatch.setattr(type(found), "_forward", None)
    assert found.read(found.plans, [0, 0, 0]) == (PositionsRead(0, 0),) * 3


def test_a_prompt_beyond_the_context():
    processor = state_processor(ItemPatchLayout(0), max_history=200)
    found = read(processor)
    with pytest.raises(ValueError, match=r"row 2 takes .* up to its newest item, but the model reads at most 256"):
        found.read(plans_for(processor, [[3, 1, 4, 5], HISTORIES[1], [7] * 200]), [1, 0, 199])
    assert [len(plan.items) for plan in found.plans] == [3, 5, 1]


def test_join_and_select():
    processor = state_processor(ItemPatchLayout(0))
    first, second = read(processor), read(processor, [[20, 21]])
    joined = join_read_histories([(second, [0]), (first, [1, 0])])
    assert [plan.items.tolist() for plan in joined.plans] == [[20, 21], HISTORIES[1], HISTORIES[0]]
    assert torch.equal(joined.select([2]).states[0], first.states[0])
    assert joined.num_bytes > joined.select([0]).num_bytes


def test_read_and_encoded_prompts_are_ranked_together():
    recommender = make_recommender(ItemPatchLayout(1))
    model, processor = recommender.model, recommender.processor
    encoded = [processor.encode(np.array(items)) for items in HISTORIES]
    prompts = read(processor).prompts()
    mixed = [encoded[0], prompts[1], encoded[2], prompts[0]]
    plain = [encoded[0], encoded[1], encoded[2], encoded[0]]
    assert [prompt.prompt_length for prompt in mixed] == [prompt.prompt_length for prompt in plain]
    assert sum(isinstance(prompt, EncodedHistory) for prompt in mixed) == 2
    for method in ("item", "fusion", "exact", "all", "beam"):
        ranker = CatalogRanker(model, processor, RankingConfig(k=5, method=method, batch_size=3))
        found, expected = ranker.rank(mixed), ranker.rank(plain)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_array_equal(found.kv_length, expected.kv_length)
    rows = np.concatenate([part.rows for part in ItemScorer(model, processor).score(mixed, batch_size=1)])
    assert sorted(rows) == [0, 1, 2, 3]


def test_prompts_whose_newest_item_was_left_out():
    class Older:
        name = "older"

        def __call__(self, num_items, seed=()):
            return ItemPatchLayout(0)(max(1, num_items - 1))

    processor = state_processor(ItemPatchLayout(0))
    plan = HistoryPlan.make(processor, Older(), np.array([1, 2, 3]), None, 0)
    found = ReadHistories.empty(state_model(), processor, 1)
    found.read([plan], [3])
    assert found.prompts()[0].history_end == -1
    with pytest.raises(ValueError, match="left out the newest item of the history in row 0"):
        list(ItemScorer(state_model(), processor).score(found.prompts(), batch_size=1))
