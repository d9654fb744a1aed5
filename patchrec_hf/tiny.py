"""A tiny backbone built from a catalog, for tests and for trying the library without a download."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .runtime.catalog import Catalog
from .runtime.prompts import BOOK_PROMPT, MOVIE_PROMPT, SPECIAL_TOKENS


_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tiny_backbone(
    catalog: Catalog,
    vocab_size: int = 3000,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    max_position_embeddings: int = 4096,
    seed: int = 0,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """
    Builds an untrained Llama and a chat tokenizer whose words are learned from the catalog's titles.

    Args:
        catalog ([`Catalog`]):
            Catalog whose titles train the tokenizer. It is a byte-level BPE, so it also reads any other text.
        vocab_size (`int`, *optional*, defaults to `3000`):
            Maximum size of the vocabulary, without the special tokens.
        hidden_size (`int`, *optional*, defaults to `64`):
            Width of the model; the feed-forward layers are three times as wide.
        num_layers (`int`, *optional*, defaults to `2`):
            Number of layers.
        num_heads (`int`, *optional*, defaults to `4`):
            Number of attention heads.
        max_position_embeddings (`int`, *optional*, defaults to `4096`):
            Maximum length of a prompt with its response, in tokens.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the weights. The global random state does not change.

    Returns:
        `tuple[LlamaForCausalLM, PreTrainedTokenizerFast]`
    """
    tokenizer_core = Tokenizer(models.BPE())
    tokenizer_core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer_core.decoder = decoders.ByteLevel()
    # Repeat the texts of the prompts so that their words become tokens. Otherwise, a tiny prompt would be mostly
    # instruction.
    texts = [text for prompt in (BOOK_PROMPT, MOVIE_PROMPT) for text in (prompt.system or "", prompt.instruction)]
    tokenizer_core.train_from_iterator(
        [*catalog.titles, *texts * (1 + len(catalog) // 20)],
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_core,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>", *SPECIAL_TOKENS],
        chat_template=_CHAT_TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        # Narrow models learn faster from larger weights: with the usual 0.02, their first logits are almost equal.
        initializer_range=0.1,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model, tokenizer
