"""Masks of trees, in every form that a backbone takes."""

import copy

import numpy as np
import pytest
import torch
from families import FAMILIES, encode, histories, make_processor, rank_all, scores_by_item, shared_model
from tiers import first_fast
from transformers import LlamaConfig
from trees import ITEM_IDS, LAYOUTS, ROW, plain

from patchrec_hf import PatchDataCollator, TextLayout
from patchrec_hf.batches import packing
from patchrec_hf.batches.packing import pack_histories
from patchrec_hf.runtime.attention import (
    CHUNK_ATTENTION,
    chunk_attention_forward,
    packed_attention_inputs,
    tree_attention_mask,
    tree_block_mask,
)


@pytest.mark.parametrize("family", first_fast([family for family in FAMILIES if family != "gemma2"]))
def test_eager_and_sdpa_rank_alike(family: str) -> None:
    model, processor = shared_model(family), make_processor()
    prompts = [encode(processor, history) for history in histories()]
    scores = []
    for implementation in ("eager", "sdpa"):
        other = copy.deepcopy(model)
        other.set_attn_implementation(implementation)
        assert other.model.language_model.config._attn_implementation == implementation
        assert other.config.text_config._attn_implementation == implementation
        scores.append(scores_by_item(rank_all(other, processor, prompts)))
    np.testing.assert_allclose(*scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama_tied", "gemma2"])
def test_ranking_works_and_leaves_an_attention_that_takes_no_tree_mask(family: str) -> None:
    """Gemma 2 caps its attention scores, which SDPA cannot: it must be ranked with eager attention."""
    processor = make_processor()
    prompts = [encode(processor, history) for history in histories()]
    expected = scores_by_item(rank_all(shared_model(family), processor, prompts))
    model = copy.deepcopy(shared_model(family))
    model.set_attn_implementation("flex_attention")
    np.testing.assert_allclose(scores_by_item(rank_all(model, processor, prompts)), expected, atol=1e-4, rtol=0)
    assert model.model.language_model.config._attn_implementation == "flex_attention"


def test_gradient_of_a_trunk_in_bf16(monkeypatch):
    """600 chunks add to each of a trunk's keys: in bf16 a sum would stop growing long before."""
    monkeypatch.setattr(packing, "_CHUNK_SIZES", np.array([2]))  # one for each branch
    trunk = list(range(20))
    packed = pack_histories([plain([*trunk, token, 9], 21) for token in range(600)])
    states = torch.zeros(1, 1, packed["input_ids"].shape[1], 8, dtype=torch.bfloat16)
    query, key, value = (states.clone().requires_grad_() for _ in range(3))
    config = LlamaConfig(attn_implementation="sdpa")
    config._attn_implementation = CHUNK_ATTENTION
    names = ("position_ids", "subtree_end", "chunk_ancestors")
    inputs = packed_attention_inputs(*(packed[name] for name in names), config, torch.bfloat16)
    chunk_attention_forward(torch.nn.Module(), query, key, value, **inputs)[0].sum().backward()
    # All scores are equal, so each of the 600 last prompt tokens gives 1/21 to each position of its path.
    counts = sum(1 / (depth + 1) for depth in range(20)) + 600 * (1 / 21 + 1 / 22)
    assert value.grad[0, 0, 0, 0].item() == pytest.approx(counts, rel=2e-2)


@torch.no_grad()
@pytest.mark.parametrize("layout", first_fast(LAYOUTS))
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_forward(with_attention, processor, layout):
    """FlexAttention has no backward on the CPU, so only its forward is compared here."""
    examples = PatchDataCollator(processor, LAYOUTS[layout]).encode_rows([ROW, {**ROW, "item_ids": ITEM_IDS[:4] * 4}])
    packed = pack_histories(examples)
    expected = with_attention("sdpa")(**packed).loss
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(with_attention("flex_attention")(**packed).loss, expected)


def dense(block_mask, length):
    """FlexAttention shows a query all of a full block, and a part of a partial block by the mask function."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    places = torch.arange(length)
    by_mask = block_mask.mask_mod(0, 0, places[:, None], places[None, :])
    for counts, indices, whole in (
        (block_mask.kv_num_blocks, block_mask.kv_indices, False),
        (block_mask.full_kv_num_blocks, block_mask.full_kv_indices, True),
    ):
        for row, count in enumerate(counts[0, 0].tolist()):
            for column in indices[0, 0, row, :count].tolist():
                block = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
                assert not seen[block].any()
                seen[block] = True if whole else by_mask[block]
    return seen


@pytest.mark.parametrize("targets", [[8], [8, 9, 10, 11, 12, 13, 14, 15]])
@pytest.mark.parametrize("window", [None, 40])
def test_blocks_of_flex_attention(model, processor, targets, window):
    rows = [{**ROW, "user_id": user, "item_ids": ROW["item_ids"][::step], "target_positions": targets}
            for user, step in ((1, 1), (2, -1))]  # fmt: skip
    packed = pack_histories(PatchDataCollator(processor, TextLayout()).encode_rows(rows))
    config = model.config.decoder_config
    if window is not None:
        config.sliding_window, config.layer_types = window, ["sliding_attention", "full_attention"]
    mask = tree_block_mask(packed["position_ids"], packed["subtree_end"], config)
    length = packed["input_ids"].shape[1]
    places = torch.arange(length)
    expected = (places[None, :] <= places[:, None]) & (places[:, None] < packed["subtree_end"])
    depths = packed["position_ids"][0]
    if window is not None:
        assert torch.equal(dense(mask["full_attention"], length), expected)
        expected, mask = expected & (depths[:, None] - depths[None, :] < window), mask["sliding_attention"]
    assert torch.equal(dense(mask, length), expected)


def test_blocks_seen_whole_and_not_at_all(model):
    """A trunk of 300 positions with branches of 200: both see blocks 0 and 1 whole, and neither the other's."""
    trunk = list(range(300))
    packed = pack_histories([plain([*trunk, *([branch] * 200), 9], 500) for branch in (1, 2)])
    mask = tree_block_mask(packed["position_ids"], packed["subtree_end"], model.config.decoder_config)
    assert mask.full_kv_num_blocks.tolist() == [[[0, 1, 2, 2, 2, 3]]]
    # Block 3 ends the first branch and opens the second; block 5 sees the whole of block 4, its own branch.
    assert mask.kv_num_blocks.tolist() == [[[1, 1, 1, 2, 3, 3]]]


def test_attention_without_masks_is_refused(model, processor):
    packed = pack_histories(PatchDataCollator(processor).encode_rows([ROW]))
    model.config.decoder_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"takes masks.*flash_attention_2.*sdpa"):
        model(**packed)


def test_masks_by_hand():
    """A trunk of one position with two branches, of which the second query sees the first two keys or, within a
    window of two, the second one only: it stands two deeper than the trunk."""
    visible = torch.tensor([[[True, False, False], [True, True, False]]])
    depths = torch.tensor([[0, 2]]), torch.tensor([[0, 1, 1]])
    config = LlamaConfig(attn_implementation="sdpa")
    mask = tree_attention_mask(visible, *depths, config, torch.float32)
    assert mask.tolist() == [[[[True, False, False], [True, True, False]]]]
    config._attn_implementation = "eager"
    mask = tree_attention_mask(visible, *depths, config, torch.bfloat16)
    hidden = torch.finfo(torch.bfloat16).min
    assert mask.tolist() == [[[[0, hidden, hidden], [0, 0, hidden]]]]
    config._attn_implementation, config.sliding_window = "sdpa", 2
    mask = tree_attention_mask(visible, *depths, config, torch.float32)
    assert mask.tolist() == [[[[True, False, False], [False, True, False]]]]
    config.layer_types = ["sliding_attention", "full_attention"]
    masks = tree_attention_mask(visible, *depths, config, torch.float32)
    assert torch.equal(masks["sliding_attention"], mask)
    assert masks["full_attention"].tolist() == [[[[True, False, False], [True, True, False]]]]
