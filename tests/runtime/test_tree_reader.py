"""The tree reader scores titles as plain forwards do, with every family of backbones."""

import math

import numpy as np
import pytest
import torch
from families import (
    FAMILIES,
    TITLES,
    WINDOW,
    brute_force_scores,
    encode,
    histories,
    make_backbone,
    make_config,
    make_processor,
    rank_all,
    scores_by_item,
    shared_model,
)
from rankers import rank
from tiers import first_fast
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GPTNeoConfig

import patchrec_hf.runtime.tree_reader as tree_reader_module
from patchrec_hf import PatchRecForCausalLM
from patchrec_hf.runtime.tree_reader import TreeReader


@pytest.mark.parametrize("family", first_fast(FAMILIES))
def test_ranking_equals_brute_force(family: str) -> None:
    model, processor = shared_model(family), make_processor()
    prompts = [encode(processor, history) for history in histories()]
    assert all(prompt.prompt_length > 2 * WINDOW for prompt in prompts)
    ranking = rank_all(model, processor, prompts)
    assert ranking.is_exact.all()
    for row, history in enumerate(histories()):
        expected = brute_force_scores(model, processor, history)
        items = ranking.items[row]
        assert sorted(items) == list(range(len(TITLES)))
        np.testing.assert_allclose(ranking.scores[row], expected[items], atol=1e-4, rtol=0)
        # Two titles may swap places only where they are all but equal.
        assert (np.diff(expected[items]) < 1e-4).all()


def test_multimodal_backbone_ranks_right() -> None:
    """`AutoModelForCausalLM` loads Gemma 3 with its vision tower; its windows and caps stand one level deeper."""
    processor = make_processor()
    text_config = make_config("gemma3", processor.tokenizer).to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**text_config, "final_logit_softcapping": 3.0},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    backbone = make_backbone(config)
    assert type(backbone) is Gemma3ForConditionalGeneration
    model = PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    history = histories()[1]
    ranking = rank_all(model, processor, [encode(processor, history)])
    expected = brute_force_scores(model, processor, history)
    np.testing.assert_allclose(scores_by_item(ranking)[0], expected, atol=1e-4, rtol=0)


def test_windows_that_the_mask_does_not_know_are_refused() -> None:
    """GPT-Neo's local layers slide without a `sliding_window` in the configuration."""
    processor = make_processor()
    config = GPTNeoConfig(
        vocab_size=len(processor.tokenizer),
        max_position_embeddings=256,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=WINDOW,
        initializer_range=0.2,
    )
    model = PatchRecForCausalLM.from_backbone(make_backbone(config), processor.tokenizer)
    with pytest.raises(TypeError, match="cannot attend to a tree"):
        rank_all(model, processor, [encode(processor, histories()[0])])


def test_small_chunks_of_logits_change_nothing(model, processor, prompts, trie, monkeypatch):
    expected = rank(model, trie, prompts, processor.prompt.pad_id, k=6)
    monkeypatch.setattr(tree_reader_module, "_MAX_LOGITS", 3 * model.lm_head.weight.shape[0])
    chunked = rank(model, trie, prompts, processor.prompt.pad_id, k=6)
    assert (chunked.items == expected.items).all()
    np.testing.assert_allclose(chunked.scores, expected.scores, rtol=1e-6)


def test_nan_scores(model, processor, prompts, trie):
    with torch.no_grad():
        model.lm_head.weight[:] = math.nan
    with pytest.raises(FloatingPointError, match="not numbers"):
        rank(model, trie, prompts, processor.prompt.pad_id, k=3)


def test_users_who_come_and_leave_change_nothing(model, processor, prompts, trie, monkeypatch):
    """Users are read together, apart, and together again, while others come and leave."""
    monkeypatch.setattr(tree_reader_module, "_PRUNE_ABOVE", 0)
    reader = TreeReader(model, trie, processor.prompt.pad_id, synchronize=False)
    roots = trie.children_of(np.zeros(1, dtype=np.int64))[1]
    nodes = roots[trie.num_children[roots] > 0][:3]

    def alone(prompt, node):
        """Log-probabilities of the children of `node`, from a reader of one user."""
        single = TreeReader(model, trie, processor.prompt.pad_id, synchronize=False)
        single.admit(np.array([0]), [prompt])
        path = np.flatnonzero((np.arange(trie.num_nodes) <= node) & (trie.subtree_ends > node))[1:]
        single.read(np.zeros(len(path), dtype=np.int64), path)
        children = trie.children_of(np.array([node]))[1]
        return single.log_probs(np.full(len(children), len(path) - 1), children)

    def check(users, read):
        reader.read(np.array(users), np.array(read))
        for place, (user, node) in enumerate(zip(users, read, strict=True)):
            children = trie.children_of(np.array([node]))[1]
            found = reader.log_probs(np.full(len(children), place), children)
            np.testing.assert_allclose(found, alone(present[user], node), atol=1e-5)

    with torch.no_grad():
        present = {2: prompts[0], 5: prompts[1]}
        reader.admit(np.array([2, 5]), prompts[:2])
        check([2, 5], [nodes[0], nodes[1]])
        check([5], [nodes[2]])
        present |= {0: prompts[2]}
        reader.admit(np.array([0]), [prompts[2]])
        check([0, 2, 5], [nodes[0], nodes[1], nodes[0]])
        assert reader.kv_length(5) == prompts[1].prompt_length + 3
        reader.leave(np.array([2]))
        present = {0: prompts[2], 5: prompts[1], 2: prompts[3]}
        reader.admit(np.array([2]), prompts[3:4])
        check([0, 0, 2], [nodes[1], nodes[2], nodes[0]])
        assert reader.kv_length(2) == prompts[3].prompt_length + 1
        # Only the first node of user 0 leads to an open prefix. The other nodes can be read again.
        reader.prune(np.array([0]), nodes[:1] + 1)
        check([0, 0, 0, 2, 5], [nodes[0] + 1, nodes[1], nodes[2], nodes[0], nodes[2]])
        reader.forget()
        check([2, 5], [nodes[0], nodes[0]])
        check([0], [nodes[2]])
