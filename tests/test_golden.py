"""The numbers that the authors' published formulas give, on a two-layer Llama and 20 histories."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import brute_force
from gradients import assert_same_gradients, gradients, one_by_one
from rankers import rank
from tiers import first_fast
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from patchrec_hf import (
    Catalog,
    ItemPatchLayout,
    PatchRecForCausalLM,
    PatchRecProcessor,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
)
from patchrec_hf.batches.packing import pack_histories
from patchrec_hf.runtime.attention import register_chunk_attention
from patchrec_hf.runtime.configuration import PATCHERS
from patchrec_hf.runtime.encoding import pad_histories
from patchrec_hf.runtime.prompts import SPECIAL_TOKENS, Prompt
from patchrec_hf.runtime.trie import build_trie


GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
LAYOUTS = {
    "text": TextLayout(),
    "item_patch_keep2": ItemPatchLayout(2),
    "item_patch_keep5": ItemPatchLayout(5),
    "session_patch_group2": SessionPatchLayout(2),
    "session_patch_group5": SessionPatchLayout(5),
    "session_patch_group20": SessionPatchLayout(20),
}


@pytest.fixture(scope="module")
def golden_processor():
    """A processor whose tokens are called by their ids, so that titles tokenize to the golden ones."""
    special = CASES["special"]
    names = {special["pad"]: "<pad>", special["bos"]: "<s>", special["eos"]: "</s>"}
    names |= dict(zip((special[key] for key in ("start", "end", "sep", "patch")), SPECIAL_TOKENS, strict=True))
    words = Tokenizer(models.WordLevel({names.get(i, f"t{i}"): i for i in range(256)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
    titles = {item: " ".join(f"t{token}" for token in ids) for item, ids in enumerate(CASES["catalog_token_ids"])}
    prompt = Prompt(
        prefix_ids=tuple(CASES["prefix_ids"]),
        suffix_ids=tuple(CASES["suffix_ids"]),
        end_of_turn_id=special["eos"],
        start_id=special["start"],
        end_id=special["end"],
        separator_id=special["sep"],
        patch_id=special["patch"],
        pad_id=special["pad"],
    )
    return PatchRecProcessor(tokenizer, Catalog.from_titles(titles), prompt)


@pytest.fixture(scope="module", params=first_fast(PATCHERS))
def golden_model(golden_processor, request):
    """The golden model, with each patcher before it was trained."""
    backbone = LlamaForCausalLM.from_pretrained(GOLDEN)
    model = PatchRecForCausalLM.from_backbone(backbone, golden_processor.tokenizer).eval()
    model.add_patcher(request.param)
    return model


def encode(processor, case, layout):
    return processor.encode(np.array(case["history"]), case["target"], layout=layout)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYOUTS)
def test_losses_and_lengths(golden_model, golden_processor, name):
    for case in CASES["cases"]:
        example = encode(golden_processor, case, LAYOUTS[name])
        expected = case["expected"][name]
        assert len(example.input_ids) == expected["tokens"]
        assert golden_model(**pad_histories([example], 0)).loss.item() == pytest.approx(expected["loss"], abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("name", CASES["joint_batch_loss"])
def test_joint_batch(golden_model, golden_processor, name, padding_side):
    examples = [encode(golden_processor, case, LAYOUTS[name]) for case in CASES["cases"]]
    loss = golden_model(**pad_histories(examples, 0, padding_side)).loss.item()
    assert loss == pytest.approx(CASES["joint_batch_loss"][name], abs=1e-4)


@pytest.mark.parametrize("name", first_fast(CASES["joint_batch_loss"]))
def test_packed(golden_model, golden_processor, name):
    """All cases in one sequence: the golden loss, and the gradients of the cases run one by one."""
    register_chunk_attention()
    golden_model.set_attn_implementation("patchrec_chunks")
    examples = [encode(golden_processor, case, LAYOUTS[name]) for case in CASES["cases"]]
    packed = gradients(golden_model, pack_histories(examples))
    assert packed[0] == pytest.approx(CASES["joint_batch_loss"][name], abs=1e-4)
    assert_same_gradients(packed, one_by_one(golden_model, examples, 0))
    golden_model.set_attn_implementation("sdpa")


@torch.no_grad()
def test_pretraining_twins_at_full_compression(golden_model, golden_processor):
    for case in CASES["cases"]:
        expected = case["expected"]["pretrain_p1"]
        twins = [encode(golden_processor, case, layout) for layout in (TextLayout(), RandomPatchLayout(1.0))]
        assert len(twins[0].input_ids) == expected["tokens_raw"]
        assert len(twins[1].input_ids) == expected["tokens_compressed"]
        assert golden_model(**pad_histories(twins, 0)).loss.item() == pytest.approx(expected["loss"], abs=1e-4)


def test_exact_top_20(golden_model, golden_processor):
    prompts = [encode(golden_processor, case, TextLayout()) for case in CASES["cases"]]
    trie = build_trie(golden_processor.title_tokens, golden_processor.prompt.end_of_turn_id)
    ranking = rank(golden_model, trie, prompts, pad_id=0, k=20)
    assert ranking.is_exact.all()
    for case, items, scores in zip(CASES["cases"], ranking.items, ranking.scores, strict=True):
        assert items.tolist() == case["text_top20"]
        np.testing.assert_allclose(scores, case["text_top20_logprob"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_exact_equals_brute_force(golden_model, golden_processor, layout):
    prompts = [encode(golden_processor, case, LAYOUTS[layout]) for case in CASES["cases"]]
    titles, end_of_turn_id = golden_processor.title_tokens, golden_processor.prompt.end_of_turn_id
    ranking = rank(golden_model, build_trie(titles, end_of_turn_id), prompts, pad_id=0, k=20)
    assert ranking.is_exact.all()
    for prompt, items, scores in zip(prompts, ranking.items, ranking.scores, strict=True):
        expected = brute_force(golden_model, titles, end_of_turn_id, prompt)
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:20], atol=1e-4)
        np.testing.assert_allclose(scores, expected[items], atol=1e-4)
