"""Which attention reads packed batches, and which backbones read none."""

import copy

import pytest
import torch
from families import encode, histories, make_backbone, make_processor, rank_all, shared_model, training_batch
from gradients import assert_same_gradients, gradients, one_by_one
from transformers import BloomConfig

from patchrec_hf import (
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecForCausalLM,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
)
from patchrec_hf.batches.packing import pack_histories
from patchrec_hf.runtime import tree_attention
from patchrec_hf.runtime.attention import CHUNK_ATTENTION


@pytest.fixture(scope="module")
def processor() -> PatchRecProcessor:
    return make_processor()


@pytest.mark.parametrize(("device", "dropout", "expected"), [
    ("cpu", 0.0, CHUNK_ATTENTION), ("cuda", 0.0, "flex_attention"), ("cuda", 0.1, CHUNK_ATTENTION)
])  # fmt: skip
def test_attention_to_packed_batches_is_chosen_by_device(
    llama: PatchRecForCausalLM, device: str, dropout: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.config.decoder_config.attention_dropout = dropout
    assert llama.supports_tree_attention()
    monkeypatch.setattr(PatchRecForCausalLM, "device", torch.device(device))
    monkeypatch.setattr(tree_attention, "reads_trees", lambda model: True)  # there is no such device to try it on
    for _ in range(2):
        llama.enable_tree_packing()
        assert llama.config.decoder_config._attn_implementation == expected
    llama.disable_tree_packing()
    assert llama.config.decoder_config._attn_implementation == "sdpa"


def test_attention_that_fails_to_read_trees_is_not_taken(
    llama: PatchRecForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert llama.supports_tree_attention()
    monkeypatch.setattr(tree_attention, "reads_trees", lambda model: False)
    llama.enable_tree_packing()
    assert llama.config.decoder_config._attn_implementation == "sdpa"


def test_shards_are_judged_by_their_family(llama: PatchRecForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3 nothing can be tried when a trainer is made."""
    monkeypatch.setattr(tree_attention, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(tree_attention, "reads_trees", lambda model: pytest.fail("shards were read"))
    llama.enable_tree_packing()
    assert llama.config.decoder_config._attn_implementation == CHUNK_ATTENTION
    llama.config.decoder_config.attention_window_size = 4
    with pytest.raises(ValueError, match="cannot read packed batches"):
        llama.enable_tree_packing()


def test_packed_batch_gives_the_loss_and_gradients_of_its_examples(family: str, processor: PatchRecProcessor) -> None:
    model = copy.deepcopy(shared_model(family))
    model.enable_tree_packing()
    used = model.config.decoder_config._attn_implementation
    assert used == ("eager" if family == "gemma2" else CHUNK_ATTENTION)  # SDPA has no softcap
    row = {"user_id": 1, "item_ids": [*histories()[0], *histories()[1]], "target_positions": [5, 6, 7, 9]}
    examples = [
        example
        for layout in (ItemPatchLayout(2), SessionPatchLayout(2), TextLayout())
        for example in PatchDataCollator(processor, layout).encode_rows([row])
    ]
    expected = one_by_one(shared_model(family), examples, processor.prompt.pad_id)
    assert_same_gradients(gradients(model, pack_histories(examples)), expected)


def test_alibi_backbone_trains_and_generates_but_does_not_rank(processor: PatchRecProcessor) -> None:
    tokenizer = processor.tokenizer
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2, pad_token_id=tokenizer.pad_token_id
    )
    model = PatchRecForCausalLM.from_backbone(make_backbone(config), tokenizer)
    model(**training_batch(processor)).loss.backward()
    batch = processor(histories())
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] == batch["input_ids"].shape[1] + 2
    with pytest.raises(TypeError, match="cannot attend to a tree"):
        rank_all(model, processor, [encode(processor, histories()[0])])
