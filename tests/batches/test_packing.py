from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from gradients import assert_same_gradients, gradients, one_by_one
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from item_parts import item_model, item_processor
from tiers import first_fast, scaled
from trees import ITEM_IDS, LAYOUTS, ROW, plain

from patchrec_hf import (
    BOOK_PROMPT_INSTRUCTION_FIRST,
    ItemPatchLayout,
    PatchDataCollator,
    PatchPretrainDataCollator,
    PatchRecProcessor,
    SessionPatchLayout,
)
from patchrec_hf.batches.candidates import all_candidates, candidate_features
from patchrec_hf.batches.packing import pack_histories
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.runtime.attention import register_chunk_attention
from patchrec_hf.runtime.encoding import pad_histories


SLOW_FIXTURES = settings(
    max_examples=scaled(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def example_rows(draw):
    """Rows of several users with repeated items; the targets of a row are any of its later items, ascending."""
    rows = []
    for user in range(draw(st.integers(1, 3))):
        items = draw(st.lists(st.sampled_from(ITEM_IDS), min_size=2, max_size=14))
        first = draw(st.integers(1, len(items) - 1))
        last = min(len(items), first + 8)
        targets = draw(st.lists(st.integers(first, last - 1), unique=True, max_size=5).map(sorted))
        rows.append({"user_id": user, "item_ids": items, "target_positions": targets or [first]})
    return rows


def test_by_hand():
    """Prompts 5 6 | 9 and 5 6 7 | 9, where | cuts off the last token: the second goes on where the first ends."""
    packed = pack_histories([plain([5, 6, 9, 1, 2], 3), plain([5, 6, 7, 9, 3], 4)])
    assert packed["input_ids"].tolist() == [[5, 6, 9, 1, 2, 7, 9, 3]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert packed["subtree_end"].tolist() == [[8, 8, 5, 5, 5, 8, 8, 8]]
    assert packed["labels"].tolist() == [[-100, -100, -100, 1, 2, -100, -100, 3]]
    assert packed["supervised_positions"].tolist() == [[2, 3, 6]]
    assert packed["shift_labels"].tolist() == [[1, 2, 3]]
    assert packed["chunk_ancestors"].shape == (1, 0)
    assert packed["patch_token_ids"].shape == (1, 0)


def test_patches_merge_by_what_is_folded_into_them():
    """8 stands for a patch. Same tokens and divisors are one patch; another divisor is another patch."""
    same = [plain([8, 9, 1], 2, [(0, [3, 4], 2)]), plain([8, 9, 2], 2, [(0, [3, 4], 2)])]
    packed = pack_histories(same)
    assert packed["input_ids"].tolist() == [[8, 9, 1, 9, 2]]
    assert packed["patch_token_ids"].tolist() == [[3, 4]]
    other = [same[0], plain([8, 9, 2], 2, [(0, [3, 4], 4)])]
    assert pack_histories(other)["input_ids"].shape == (1, 6)
    assert pack_histories(other)["patch_positions"].tolist() == [[0, 0, 3, 3]]


def test_equal_prompts_keep_their_labels():
    """As with two equal histories, or the twins of a history without patches."""
    packed = pack_histories([plain([5, 9, 1], 2), plain([5, 9, 1], 2), plain([5, 9, 2], 2)])
    assert packed["input_ids"].tolist() == [[5, 9, 1, 9, 1, 9, 2]]
    assert packed["shift_labels"].tolist() == [[1, 1, 2]]


def test_prompt_of_one_token():
    packed = pack_histories([plain([9, 1], 1), plain([9, 2], 1)])
    assert packed["input_ids"].tolist() == [[9, 1, 9, 2]]
    assert packed["position_ids"].tolist() == [[0, 1, 0, 1]]


def test_chunks_by_hand():
    """A trunk of 100 positions and four branches of 50, in four chunks of 75: the last begins within a branch."""
    trunk = list(range(100))
    packed = pack_histories([plain([*trunk, *[branch] * 49, 9], 149) for branch in (1, 2, 3, 4)])
    ancestors = [[place for place in row if place >= 0] for row in packed["chunk_ancestors"].tolist()]
    assert ancestors == [[], [*range(75)], [*range(100)], [*range(100), *range(200, 225)]]


def test_one_long_example_is_cut_into_chunks():
    packed = pack_histories([plain(list(range(300)), 299)])
    # 3 chunks · 399 positions that they see at most · (100 + 32) are the fewest of all sizes.
    assert packed["chunk_ancestors"].tolist() == [
        [-1] * 200, [*range(100), *[-1] * 100], list(range(200))
    ]  # fmt: skip


def test_nothing_to_pack():
    with pytest.raises(ValueError, match="nothing to pack"):
        pack_histories([])


def prefixes(example):
    """All that stands before the last prompt token, as one key for each prefix."""
    folded = {}
    for token, position, divisor in zip(
        example.patch_token_ids, example.patch_positions, example.patch_divisors, strict=True
    ):
        folded.setdefault(int(position), []).append((int(token), int(divisor)))
    whole = [(int(token), *folded.get(place, ())) for place, token in enumerate(example.input_ids)]
    return [tuple(whole[:stop]) for stop in range(1, example.prompt_length)], whole


@SLOW_FIXTURES
@given(rows=example_rows(), layout=st.sampled_from(list(LAYOUTS)), separate=st.booleans())
def test_every_example_is_a_path_and_no_prefix_stands_twice(processor, rows, layout, separate):
    processor = PatchRecProcessor(
        processor.tokenizer, processor.catalog, processor.prompt, max_history=8, separate_patches=separate
    )
    examples = PatchDataCollator(processor, LAYOUTS[layout]).encode_rows(rows)
    packed = {key: value.numpy() for key, value in pack_histories(examples).items()}
    length = packed["input_ids"].shape[1]
    ends, depths = packed["subtree_end"][0], packed["position_ids"][0]
    paths = [[k for k in range(q + 1) if q < ends[k]] for q in range(length)]
    assert [len(path) - 1 for path in paths] == depths.tolist()

    folded = {}
    for token, position, divisor in zip(
        *(packed[key][0] for key in ("patch_token_ids", "patch_positions", "patch_divisors")), strict=True
    ):
        folded.setdefault(int(position), []).append((int(token), int(divisor)))
    contents = [(int(token), *folded.get(place, ())) for place, token in enumerate(packed["input_ids"][0])]
    start = 0
    for history in examples:
        num_labels = len(history.input_ids) - history.prompt_length
        last = packed["supervised_positions"][0, start + num_labels - 1]
        whole = prefixes(history)[1]
        assert [contents[k] for k in paths[last]] == whole[:-1]
        assert packed["shift_labels"][0, start : start + num_labels].tolist() == [
            token for token, *_ in whole[history.prompt_length :]
        ]
        start += num_labels
    own = sum(len(history.input_ids) - history.prompt_length + 1 for history in examples)
    assert length == own + len({prefix for history in examples for prefix in prefixes(history)[0]})

    ancestors = packed["chunk_ancestors"]
    size = -(-length // len(ancestors))
    assert (len(ancestors) - 1) * size < length
    for number, seen in enumerate(ancestors):
        assert seen[seen >= 0].tolist() == paths[number * size][:-1]


IMPLEMENTATIONS = ["patchrec_chunks", "sdpa", "eager"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(parent=SLOW_FIXTURES, max_examples=scaled(10))
@given(rows=example_rows(), layout=st.sampled_from(list(LAYOUTS)))
def test_loss_and_gradients_equal_the_examples_one_by_one(with_attention, processor, implementation, rows, layout):
    examples = PatchDataCollator(processor, LAYOUTS[layout]).encode_rows(rows)
    model = with_attention(implementation)
    assert_same_gradients(
        gradients(model, pack_histories(examples)), one_by_one(model, examples, processor.prompt.pad_id)
    )


@pytest.mark.parametrize("implementation", first_fast(IMPLEMENTATIONS))
def test_pretraining_twins_stay_trees(with_attention, processor, implementation):
    """Drawn once per item and row, the compressed twins share their prefixes as the raw ones do."""
    rows = [ScheduledRow(ROW, 3, 0.5)]
    examples = PatchPretrainDataCollator(processor).encode_rows(rows)
    compressed = examples[1::2]
    for shorter, longer in pairwise(compressed):
        history = slice(
            len(processor.prompt.prefix_ids) + 1, shorter.counts.prompt - len(processor.prompt.suffix_ids) - 1
        )
        assert longer.input_ids[history].tolist() == shorter.input_ids[history].tolist()
    packed = pack_histories(examples)
    assert packed["input_ids"].shape[1] < 0.6 * sum(len(example.input_ids) for example in examples)
    model = with_attention(implementation)
    assert_same_gradients(gradients(model, packed), one_by_one(model, examples, processor.prompt.pad_id))


def test_gradient_checkpointing(with_attention, processor):
    model = with_attention("patchrec_chunks").train()
    packed = pack_histories(PatchDataCollator(processor).encode_rows([ROW]))
    expected = gradients(model, packed)
    model.gradient_checkpointing_enable()
    assert_same_gradients(gradients(model, packed), expected)


@pytest.mark.parametrize("implementation", first_fast(IMPLEMENTATIONS))
def test_bf16(with_attention, processor, implementation):
    """Under autocast and in bf16 weights, the loss is that of the padded batch up to bf16's precision."""
    examples = PatchDataCollator(processor).encode_rows([ROW])
    packed, padded = pack_histories(examples), pad_histories(examples, processor.prompt.pad_id)
    model = with_attention(implementation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, grads = gradients(model, packed)
        assert loss == pytest.approx(gradients(model, padded)[0], rel=5e-3)
        assert all(torch.isfinite(gradient).all() for gradient in grads.values())
    model.to(torch.bfloat16)
    assert gradients(model, packed)[0] == pytest.approx(gradients(model, padded)[0], rel=5e-3)


def test_packed_batch_is_read_alone(model, processor):
    packed = pack_histories(PatchDataCollator(processor).encode_rows([ROW]))
    with pytest.raises(ValueError, match="read alone"):
        model(**packed, attention_mask=torch.ones_like(packed["input_ids"]))


def test_incomplete_packed_batch_is_refused(model, processor):
    packed = pack_histories(PatchDataCollator(processor).encode_rows([ROW]))
    del packed["chunk_ancestors"]
    with pytest.raises(ValueError, match="chunk_ancestors"):
        model(**packed)


def test_options_that_keep_prompts_alike_share_more(processor):
    """Each of the three options feeds fewer positions for the same targets."""
    row = {"user_id": 1, "item_ids": ITEM_IDS * 3, "target_positions": list(range(20, 36))}

    def positions(layout, prompt=processor.prompt, separate_patches=True):
        other = PatchRecProcessor(
            processor.tokenizer, processor.catalog, prompt, layout, 20, separate_patches=separate_patches
        )
        return PatchDataCollator(other, tree_packing=True)([row])["input_ids"].shape[1]

    item, session = ItemPatchLayout(2), SessionPatchLayout(3)
    assert positions(item, separate_patches=False) < positions(item)
    assert positions(item, prompt=BOOK_PROMPT_INSTRUCTION_FIRST) < positions(item)
    assert positions(SessionPatchLayout(3, align="oldest")) < positions(session)


ITEM_LAYOUTS = {"patches": ItemPatchLayout(0), **LAYOUTS}


@pytest.fixture(scope="module")
def item_head_model():
    register_chunk_attention()
    return item_model(residual_size=7).double()  # the gradients of some weights nearly cancel


@pytest.mark.parametrize("objective", first_fast(["item", "both"]))
@settings(parent=SLOW_FIXTURES, max_examples=scaled(14))
@given(
    rows=example_rows(),
    layout=st.sampled_from(list(ITEM_LAYOUTS)),
    implementation=st.sampled_from(IMPLEMENTATIONS),
    separate=st.booleans(),
)
@example(  # the gradient of the scale nearly cancels
    rows=[
        {
            "user_id": 0,
            "item_ids": [10, 10, 10, 10, 10, 11, 11, 13, 13, 18, 11, 16, 10],
            "target_positions": [12],
        }
    ],
    layout="patches",
    implementation="patchrec_chunks",
    separate=False,
)
def test_item_targets_equal_the_examples_one_by_one(
    item_head_model, processor, objective, rows, layout, implementation, separate
):
    """Packed, padded, and each history alone: one loss, and the same gradients."""
    processor = item_processor(processor, ITEM_LAYOUTS[layout], separate_patches=separate)
    model, collator = item_head_model, PatchDataCollator(processor, objective=objective)
    histories = collator.encode_rows(rows)
    targets = np.concatenate([history.item_targets for history in histories]).tolist()
    ids = [row["item_ids"][position] for row in rows for position in row["target_positions"]]
    assert targets == processor.catalog.indices_of(ids).tolist()
    model.set_attn_implementation(implementation)
    packed = PatchDataCollator(processor, objective=objective, tree_packing=True)(rows)
    assert packed["item_targets"].tolist() == [targets]
    num_labels = sum(len(history.input_ids) - history.prompt_length for history in histories)
    counts = {"num_items_in_batch": torch.tensor(num_labels), "num_item_targets": len(targets)}
    model.zero_grad()
    total = 0.0
    for history in histories:
        alone = all_candidates(processor) | candidate_features([history], np.arange(len(processor.catalog)), None)
        loss = model(**pad_histories([history], processor.prompt.pad_id), **alone, **counts).loss
        loss.backward()
        total += loss.item()
    expected = total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert any("item_residual" in name for name in expected[1])
    assert_same_gradients(gradients(model, packed), expected)
    assert_same_gradients(gradients(model, collator(rows)), expected)


def test_item_positions_by_hand():
    """Histories 5 6 7 and 5 6 8 share 5 6. Each predicts an item where 6 stands, and the first one also at its end."""
    items = {"items": np.array([0, 1]), "item_ends": np.array([1, 2])}
    one = replace(plain([5, 6, 7], 3), **items, item_targets=np.array([4, 2]), items_before=np.array([1, 2]))
    other = replace(plain([5, 6, 8], 3), **items, item_targets=np.array([3]), items_before=np.array([1]))
    packed = pack_histories([other, one])
    assert packed["input_ids"].tolist() == [[5, 6, 8, 7]]
    assert packed["item_positions"].tolist() == [[1, 1, 3]]
    assert packed["item_targets"].tolist() == [[3, 4, 2]]
    assert packed["shift_labels"].shape == (1, 0)
