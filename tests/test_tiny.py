"""The tiny backbone: its size, its weights and its tokenizer."""

import pytest
import torch

from patchrec_hf import Catalog
from patchrec_hf.runtime.prompts import SPECIAL_TOKENS
from patchrec_hf.tiny import build_tiny_backbone


CATALOG = Catalog.from_titles({1: "The Time Machine", 2: "The Time Traders", 3: "Emma"})


def build(**kwargs):
    return build_tiny_backbone(CATALOG, **{"vocab_size": 400, "hidden_size": 32, **kwargs})


def test_the_size_is_the_one_asked_for():
    model, tokenizer = build(num_layers=3, num_heads=2, max_position_embeddings=64)
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (32, 96, 3)
    assert (config.num_attention_heads, config.max_position_embeddings) == (2, 64)
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 32)


def test_special_tokens_do_not_count_for_the_vocabulary():
    """Besides PatchRec's own, there are the beginning, the end and padding, and the marks of three roles."""
    assert len(build(vocab_size=300)[1]) == 300 + len(SPECIAL_TOKENS) + 3 + 3


def test_the_seed_alone_says_what_the_weights_are():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build(seed=seed)[0].lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("text", ["Emma", " two  spaces", "Ωμέγα 書 🙂", "line\nbreak"])
def test_any_text_is_read_and_written_again(text):
    tokenizer = build()[1]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_words_of_titles_are_tokens():
    tokenizer = build(vocab_size=1000)[1]
    assert len(tokenizer("Emma", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer("The Time", add_special_tokens=False)["input_ids"]) == 2
    assert len(tokenizer("Amme", add_special_tokens=False)["input_ids"]) > 1


def test_a_turn_ends_where_the_text_ends():
    tokenizer = build()[1]
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|begin|><|system|>a<|end|><|user|>b<|end|><|assistant|>"
    assert tokenizer.eos_token == "<|end|>"
    assert all(token in tokenizer.get_vocab() for token in SPECIAL_TOKENS)
