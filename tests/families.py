"""Tiny backbones of each family, and the fixtures of the tests that compare wrapper and backbone."""

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from rankers import rank
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchRecForCausalLM,
    PatchRecProcessor,
    SessionPatchLayout,
    build_tiny_backbone,
)
from patchrec_hf.runtime.encoding import EncodedHistory, pad_histories
from patchrec_hf.runtime.ranking import CatalogRanking
from patchrec_hf.runtime.trie import build_trie


ONE_TOKEN_TITLES = ["Rain", "Moon", "Salt", "Ash", "Sea", "Tower", "House", "Song", "Glass"]
TITLES = [
    *ONE_TOKEN_TITLES,
    *(f"The {a} of {b}" for a in ("House", "Sea", "Song", "Tower") for b in ("Glass", "Rain", "Ash", "Salt", "Moon")),
    *("Rain II", "Rain III", "Rain and Ash", "Moonlight"),
    *("Emma", "Persuasion", "Dune", "Ulysses", "Solaris"),
]
WINDOW = 8  # of the sliding layers; every prompt is several times as long
FAMILIES = [
    "llama_tied",
    "llama_untied",
    "mistral_sliding",
    "qwen2",
    "qwen3_sliding",
    "gpt2",
    "gemma2",
    "gemma3",
    "phi",
    "granite",
    "cohere",
]
# Weights tied and untied, rotary and learned positions, sliding layers, scaled and capped logits.
IN_FAST_TIER = {"llama_tied", "llama_untied", "qwen3_sliding", "gpt2", "gemma2"}
UNTIED = {"llama_untied", "mistral_sliding", "phi", "qwen3_sliding"}


@lru_cache
def tiny() -> tuple[Catalog, PreTrainedTokenizerFast]:
    catalog = Catalog.from_titles({100 + 3 * index: title for index, title in enumerate(TITLES)})
    _, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    return catalog, tokenizer


@lru_cache
def make_processor() -> PatchRecProcessor:
    catalog, tokenizer = tiny()
    return PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, ItemPatchLayout(2))


def make_config(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    common = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
        "tie_word_embeddings": family not in UNTIED,
    }
    llama_like = {
        **common,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
    }
    sliding = {"head_dim": 16, "sliding_window": WINDOW}
    if family.startswith("llama"):
        return LlamaConfig(**llama_like)
    if family == "mistral_sliding":
        return MistralConfig(**llama_like, sliding_window=WINDOW)
    if family == "qwen2":
        return Qwen2Config(**llama_like)
    if family == "qwen3_sliding":
        return Qwen3Config(**llama_like, **sliding, use_sliding_window=True, max_window_layers=1)
    if family == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(**common, **dropout, n_embd=32, n_layer=2, n_head=2, n_positions=256)
    if family == "gemma2":
        caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}
        return Gemma2Config(**llama_like, **sliding, **caps, query_pre_attn_scalar=16)
    if family == "gemma3":
        layer_types = ["sliding_attention", "full_attention"]
        return Gemma3TextConfig(**llama_like, **sliding, layer_types=layer_types, query_pre_attn_scalar=16)
    if family == "phi":
        return PhiConfig(**llama_like, partial_rotary_factor=0.5)
    if family == "granite":
        multipliers = {"embedding_multiplier": 6.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5}
        return GraniteConfig(**llama_like, **multipliers, logits_scaling=4.0)
    if family == "cohere":
        return CohereConfig(**llama_like, logit_scale=0.25)
    raise ValueError(family)


def make_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModelForCausalLM.from_config(config)
        # Biases start at zero and norms at one, where forgetting them would not show.
        for parameter in backbone.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
    return backbone.eval()


@lru_cache
def shared_backbone(family: str) -> PreTrainedModel:
    return make_backbone(make_config(family, tiny()[1]))


@lru_cache
def shared_model(family: str) -> PatchRecForCausalLM:
    return PatchRecForCausalLM.from_backbone(copy.deepcopy(shared_backbone(family)), tiny()[1])


def histories(seed: int = 0) -> list[list[int]]:
    """Two histories of different length."""
    ids = np.random.default_rng(seed).permutation(tiny()[0].item_ids)
    return [ids[:4].tolist(), ids[4:13].tolist()]


def encode(processor: PatchRecProcessor, history: list[int], **kwargs) -> EncodedHistory:
    return processor.encode(processor.catalog.indices_of(history), **kwargs)


def training_batch(processor: PatchRecProcessor) -> dict[str, torch.Tensor]:
    """Text, item patches and session patches, padded on the right."""
    layouts = [ItemPatchLayout(2), SessionPatchLayout(2)]
    return pad_histories(
        [
            encode(processor, history, target=target, layout=layout)
            for history, target, layout in zip(histories(), (12, 33), layouts, strict=True)
        ],
        processor.prompt.pad_id,
    )


def rank_all(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, prompts: list[EncodedHistory]
) -> CatalogRanking:
    trie = build_trie(processor.title_tokens, processor.prompt.end_of_turn_id)
    num_titles = len(processor.catalog)
    return rank(model, trie, prompts, processor.prompt.pad_id, k=num_titles)


@torch.no_grad()
def brute_force_scores(model: PatchRecForCausalLM, processor: PatchRecProcessor, history: list[int]) -> np.ndarray:
    """Σ log p of every title and its end of turn, by one plain forward."""
    targets = range(len(processor.catalog))
    batch = pad_histories([encode(processor, history, target=target) for target in targets], processor.prompt.pad_id)
    labels = batch.pop("labels")[:, 1:]
    del batch["supervised_positions"], batch["shift_labels"]
    log_probs = model(**batch).logits[:, :-1].log_softmax(dim=-1)
    chosen = log_probs.gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels >= 0, chosen, 0.0).sum(dim=1).numpy()


def scores_by_item(ranking: CatalogRanking) -> np.ndarray:
    return np.take_along_axis(ranking.scores, ranking.items.argsort(axis=1), axis=1)


@pytest.fixture(
    params=[name if name in IN_FAST_TIER else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def llama() -> PatchRecForCausalLM:
    """A copy that the test may change."""
    return copy.deepcopy(shared_model("llama_untied"))
