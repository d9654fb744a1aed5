"""Tests over families of backbones: whatever the backbone does of its own, the wrapper must do as well."""

import copy
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradients import assert_same_gradients, gradients, one_by_one
from huggingface_hub.errors import StrictDataclassFieldValidationError
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaModel,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OpenAIGPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RwkvConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecForCausalLM,
    PatchRecModel,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
    add_special_tokens,
    build_tiny_backbone,
    rank_catalog,
)
from patchrec_hf.batches.packing import pack_examples
from patchrec_hf.runtime import backbones
from patchrec_hf.runtime.attention import CHUNK_ATTENTION
from patchrec_hf.runtime.backbones import disable_tree_packing, enable_tree_packing
from patchrec_hf.runtime.configuration import PatchRecConfig
from patchrec_hf.runtime.encoding import EncodedExample, pad_examples
from patchrec_hf.runtime.prompts import SPECIAL_TOKENS
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
NEW_TOKENS = 6
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


@pytest.fixture(scope="module")
def processor() -> PatchRecProcessor:
    return make_processor()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def backbone(family: str) -> PreTrainedModel:
    """The bare backbone, with the same weights as `model`. Shared: not to be changed."""
    return shared_backbone(family)


@pytest.fixture
def model(family: str) -> PatchRecForCausalLM:
    """Shared: not to be changed."""
    return shared_model(family)


@pytest.fixture
def llama() -> PatchRecForCausalLM:
    """A model of one's own."""
    return copy.deepcopy(shared_model("llama_untied"))


def histories(seed: int = 0) -> list[list[int]]:
    """Two histories of different length."""
    ids = np.random.default_rng(seed).permutation(tiny()[0].item_ids)
    return [ids[:4].tolist(), ids[4:13].tolist()]


def encode(processor: PatchRecProcessor, history: list[int], **kwargs) -> EncodedExample:
    return processor.encode(processor.title_tokens, processor.catalog.indices_of(history), **kwargs)


def training_batch(processor: PatchRecProcessor) -> dict[str, torch.Tensor]:
    """Text, item patches and session patches, padded on the right."""
    layouts = [ItemPatchLayout(2), SessionPatchLayout(2)]
    return pad_examples(
        [
            encode(processor, history, target=target, layout=layout)
            for history, target, layout in zip(histories(), (12, 33), layouts, strict=True)
        ],
        processor.prompt.pad_id,
    )


def naive_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


# Text


@torch.no_grad()
def test_text_logits_equal_the_backbones(model: PatchRecForCausalLM, backbone: PreTrainedModel) -> None:
    ids = torch.randint(5, 400, (2, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(input_ids=ids).logits, backbone(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padded_text_logits_equal_the_backbones(
    model: PatchRecForCausalLM, backbone: PreTrainedModel, processor: PatchRecProcessor
) -> None:
    examples = [encode(processor, history, layout=TextLayout()) for history in histories()]
    batch = pad_examples(examples, processor.prompt.pad_id)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    assert not batch["attention_mask"].all()
    ours, theirs = model(**inputs).logits, backbone(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for row, example in enumerate(examples):
        alone = backbone(input_ids=torch.from_numpy(example.input_ids)[None]).logits
        torch.testing.assert_close(ours[row, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


# Patches


@torch.no_grad()
def test_patch_of_a_one_token_title_reads_as_its_token(
    model: PatchRecForCausalLM, backbone: PreTrainedModel, processor: PatchRecProcessor
) -> None:
    history = processor.catalog.item_ids[: len(ONE_TOKEN_TITLES)].tolist()
    assert (processor.title_tokens.lengths[: len(history)] == 1).all()
    text = processor([history], layout=TextLayout())
    patched = processor([history], layout=ItemPatchLayout(0))
    is_patch = patched["input_ids"] == processor.prompt.patch_id
    assert is_patch.sum() == len(history)
    assert text["input_ids"].shape == patched["input_ids"].shape

    patch_tensors = {key: patched[key] for key in ("patch_token_ids", "patch_positions", "patch_divisors")}
    embeds = model.prepare_inputs_embeds(patched["input_ids"], **patch_tensors)
    hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
    expected = backbone(input_ids=text["input_ids"]).logits
    torch.testing.assert_close(model.compute_logits(hidden), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(**patched).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_patches_are_means_of_what_the_embedding_module_returns(
    model: PatchRecForCausalLM, processor: PatchRecProcessor
) -> None:
    history = processor.catalog.item_ids[[9, 30, 35]].tolist()
    title_means = [
        model.get_input_embeddings()(torch.from_numpy(processor.title_tokens[index])).mean(dim=0)
        for index in (9, 30, 35)
    ]
    for layout, expected in (
        (ItemPatchLayout(0), torch.stack(title_means)),
        (SessionPatchLayout(1), torch.stack(title_means[:2])),  # one item each: a session is its item
    ):
        batch = processor([history], layout=layout)
        is_patch = batch["input_ids"] == processor.prompt.patch_id
        del batch["attention_mask"]
        embeds = model.prepare_inputs_embeds(**batch)
        torch.testing.assert_close(embeds[is_patch], expected, atol=1e-5, rtol=1e-5)


def test_embedding_module_runs_once_per_forward(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    calls = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *args: calls.append(args))
    try:
        model(**training_batch(processor))
    finally:
        handle.remove()
    assert len(calls) == 1


# Checkpoints


@pytest.mark.parametrize("auto_class", [PatchRecForCausalLM, AutoModelForCausalLM], ids=lambda c: c.__name__)
@torch.no_grad()
def test_save_and_load(
    auto_class: type,
    family: str,
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    tmp_path: Path,
) -> None:
    model.save_pretrained(tmp_path)
    loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, PatchRecForCausalLM)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = processor(histories())
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    for one in (model, loaded):
        shares_storage = one.lm_head.weight.data_ptr() == one.get_input_embeddings().weight.data_ptr()
        assert shares_storage == (family not in UNTIED)
        assert one.config.tie_word_embeddings == (family not in UNTIED)


# Loss


@pytest.mark.parametrize(("device", "dropout", "expected"), [
    ("cpu", 0.0, CHUNK_ATTENTION), ("cuda", 0.0, "flex_attention"), ("cuda", 0.1, CHUNK_ATTENTION)
])  # fmt: skip
def test_attention_to_packed_batches_is_chosen_by_device(
    llama: PatchRecForCausalLM, device: str, dropout: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.config.decoder_config.attention_dropout = dropout
    assert llama.supports_tree_attention()
    monkeypatch.setattr(PatchRecForCausalLM, "device", torch.device(device))
    monkeypatch.setattr(backbones, "reads_trees", lambda model: True)  # there is no such device to try it on
    for _ in range(2):
        enable_tree_packing(llama)
        assert llama.config.decoder_config._attn_implementation == expected
    disable_tree_packing(llama)
    assert llama.config.decoder_config._attn_implementation == "sdpa"


def test_attention_that_fails_to_read_trees_is_not_taken(
    llama: PatchRecForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert llama.supports_tree_attention()
    monkeypatch.setattr(backbones, "reads_trees", lambda model: False)
    enable_tree_packing(llama)
    assert llama.config.decoder_config._attn_implementation == "sdpa"


def test_shards_are_judged_by_their_family(llama: PatchRecForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3 nothing can be tried when a trainer is made."""
    monkeypatch.setattr(backbones, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(backbones, "reads_trees", lambda model: pytest.fail("shards were read"))
    enable_tree_packing(llama)
    assert llama.config.decoder_config._attn_implementation == CHUNK_ATTENTION
    llama.config.decoder_config.attention_window_size = 4
    with pytest.raises(ValueError, match="cannot read packed batches"):
        enable_tree_packing(llama)


def test_packed_batch_gives_the_loss_and_gradients_of_its_examples(family: str, processor: PatchRecProcessor) -> None:
    model = copy.deepcopy(shared_model(family))
    enable_tree_packing(model)
    used = model.config.decoder_config._attn_implementation
    assert used == ("eager" if family == "gemma2" else CHUNK_ATTENTION)  # SDPA has no softcap
    row = {"user_id": 1, "item_ids": [*histories()[0], *histories()[1]], "target_positions": [5, 6, 7, 9]}
    examples = [
        example
        for layout in (ItemPatchLayout(2), SessionPatchLayout(2), TextLayout())
        for example in PatchDataCollator(processor, layout).encode_rows([row])
    ]
    expected = one_by_one(shared_model(family), examples, processor.prompt.pad_id)
    assert_same_gradients(gradients(model, pack_examples(examples)), expected)


@torch.no_grad()
def test_loss_of_supervised_positions_equals_the_loss_of_all(
    model: PatchRecForCausalLM, processor: PatchRecProcessor
) -> None:
    batch = training_batch(processor)
    inputs = {key: batch[key] for key in batch if key not in ("labels", "supervised_positions", "shift_labels")}
    logits = model(**inputs).logits
    assert logits.shape[:2] == batch["input_ids"].shape
    expected = naive_loss(logits, batch["labels"])

    outputs = model(**batch)
    assert outputs.logits.shape[:2] == (1, (batch["shift_labels"] != -100).sum())
    torch.testing.assert_close(outputs.loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(**inputs, labels=batch["labels"]).loss, expected, atol=1e-5, rtol=1e-5)
    num_labels = (batch["labels"] != -100).sum()
    accumulated = model(**batch, num_items_in_batch=2 * num_labels).loss
    torch.testing.assert_close(accumulated, expected / 2, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(
    model: PatchRecForCausalLM, processor: PatchRecProcessor
) -> None:
    model = copy.deepcopy(model).train()
    layer = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    calls = []
    next(layer.children()).register_forward_hook(lambda *args: calls.append(None))

    def gradients() -> dict[str, torch.Tensor]:
        calls.clear()
        model.zero_grad()
        model(**training_batch(processor)).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients()
    assert len(calls) == 1
    model.gradient_checkpointing_enable()
    recomputed = gradients()
    assert len(calls) == 2
    assert any(gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


# Generation


def step_by_step(model: PatchRecForCausalLM, prompt: dict[str, torch.Tensor]) -> list[int]:
    """Greedy decoding with plain forwards: no cache, no padding, no `generate`."""
    ids = prompt["input_ids"]
    patch_tensors = {key: value for key, value in prompt.items() if key.startswith("patch_")}
    generated: list[int] = []
    while len(generated) < NEW_TOKENS and generated[-1:] != [model.config.text_config.eos_token_id]:
        logits = model(input_ids=ids, **patch_tensors, use_cache=False).logits
        generated.append(int(logits[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([generated[-1:]])], dim=1)
    return generated


@torch.no_grad()
def test_generate_equals_plain_forwards(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    batch = processor(histories())
    assert (batch["attention_mask"][:, 0] == torch.tensor([0, 1])).all(), "the first prompt is padded on the left"
    assert (batch["input_ids"] == processor.prompt.patch_id).any(dim=1).all()
    length = batch["input_ids"].shape[1]
    expected = [step_by_step(model, processor([history])) for history in histories()]
    for use_cache in (True, False):
        generated = model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS, use_cache=use_cache)
        assert torch.equal(generated[:, :length], batch["input_ids"])
        for row, tokens in zip(generated[:, length:].tolist(), expected, strict=True):
            assert row[: len(tokens)] == tokens, f"use_cache={use_cache}"


@torch.no_grad()
def test_patches_are_read_once_with_a_cache_and_each_time_without(processor: PatchRecProcessor) -> None:
    model = copy.deepcopy(shared_model("llama_tied"))
    reads: list[bool] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: reads.append(kwargs.get("patch_token_ids") is not None), with_kwargs=True
    )
    settings = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3}
    model.generate(**processor(histories()), **settings)
    assert reads == [True, False, False]
    reads.clear()
    model.generate(**processor(histories()), **settings, use_cache=False)
    assert reads == [True, True, True]


@torch.no_grad()
def test_beam_search_gives_the_same_with_and_without_cache(
    model: PatchRecForCausalLM, processor: PatchRecProcessor
) -> None:
    batch = processor(histories())
    length = batch["input_ids"].shape[1]
    settings = {"num_beams": 3, "num_return_sequences": 3, "do_sample": False, "max_new_tokens": 4}
    cached = model.generate(**batch, **settings)
    assert cached.shape[0] == 6
    assert (cached[:, length:] != processor.prompt.patch_id).all()
    assert torch.equal(cached, model.generate(**batch, **settings, use_cache=False))


# Ranking


def rank_all(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, prompts: list[EncodedExample]
) -> CatalogRanking:
    trie = build_trie(processor.title_tokens, processor.prompt.end_of_turn_id)
    num_titles = len(processor.catalog)
    return rank_catalog(model, trie, prompts, processor.prompt.pad_id, k=num_titles)


@torch.no_grad()
def brute_force_scores(model: PatchRecForCausalLM, processor: PatchRecProcessor, history: list[int]) -> np.ndarray:
    """Σ log p of every title and its end of turn, by one plain forward."""
    targets = range(len(processor.catalog))
    batch = pad_examples([encode(processor, history, target=target) for target in targets], processor.prompt.pad_id)
    labels = batch.pop("labels")[:, 1:]
    del batch["supervised_positions"], batch["shift_labels"]
    log_probs = model(**batch).logits[:, :-1].log_softmax(dim=-1)
    chosen = log_probs.gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(labels >= 0, chosen, 0.0).sum(dim=1).numpy()


def test_ranking_equals_brute_force(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    prompts = [encode(processor, history) for history in histories()]
    assert all(prompt.prompt_length > 2 * WINDOW for prompt in prompts)
    ranking = rank_all(model, processor, prompts)
    assert ranking.certified.all()
    for row, history in enumerate(histories()):
        expected = brute_force_scores(model, processor, history)
        items = ranking.items[row]
        assert sorted(items) == list(range(len(TITLES)))
        np.testing.assert_allclose(ranking.scores[row], expected[items], atol=1e-4, rtol=0)
        # Two titles may swap places only where they are all but equal.
        assert (np.diff(expected[items]) < 1e-4).all()


def scores_by_item(ranking: CatalogRanking) -> np.ndarray:
    return np.take_along_axis(ranking.scores, ranking.items.argsort(axis=1), axis=1)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])
def test_eager_and_sdpa_rank_alike(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
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
def test_ranking_works_and_leaves_an_attention_that_takes_no_tree_mask(
    family: str, processor: PatchRecProcessor
) -> None:
    """Gemma 2 caps its attention scores, which SDPA cannot: it must be ranked with eager attention."""
    prompts = [encode(processor, history) for history in histories()]
    expected = scores_by_item(rank_all(shared_model(family), processor, prompts))
    model = copy.deepcopy(shared_model(family))
    model.set_attn_implementation("flex_attention")
    np.testing.assert_allclose(scores_by_item(rank_all(model, processor, prompts)), expected, atol=1e-4, rtol=0)
    assert model.model.language_model.config._attn_implementation == "flex_attention"


def assert_ranked_right_or_refused(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    history = histories()[1]
    try:
        ranking = rank_all(model, processor, [encode(processor, history)])
    except TypeError as error:
        assert "cannot attend to a tree" in str(error)  # noqa: PT017
        return
    expected = brute_force_scores(model, processor, history)
    np.testing.assert_allclose(scores_by_item(ranking)[0], expected, atol=1e-4, rtol=0)


def test_multimodal_backbone_ranks_right(processor: PatchRecProcessor) -> None:
    """`AutoModelForCausalLM` loads Gemma 3 with its vision tower; its windows and caps stand one level deeper."""
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
    assert_ranked_right_or_refused(model, processor)


def test_windows_that_the_mask_does_not_know_are_never_ranked_wrong(processor: PatchRecProcessor) -> None:
    """GPT-Neo's local layers slide without a `sliding_window` in the configuration."""
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
    assert_ranked_right_or_refused(model, processor)


@pytest.mark.parametrize("family", ["llama_tied", "mistral_sliding"])
def test_patchrec_checkpoint_as_backbone_is_refused_or_works(
    family: str, processor: PatchRecProcessor, tmp_path: Path
) -> None:
    """Stage two starts from the checkpoint of stage one, which is easily given to `from_backbone`."""
    shared_model(family).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    try:
        model = PatchRecForCausalLM.from_backbone(tmp_path)
    except ValueError:
        return
    assert not isinstance(model.model.language_model, PatchRecModel)
    assert_ranked_right_or_refused(model, processor)


# Backbones that cannot attend to trees


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


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2),
        RwkvConfig(hidden_size=32, attention_hidden_size=32, num_hidden_layers=2),
        OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=2, n_positions=256),
    ],
    ids=lambda config: config.model_type,
)
def test_backbone_without_a_common_cache_is_refused_clearly(
    config: PreTrainedConfig, processor: PatchRecProcessor
) -> None:
    """By `from_backbone`, or at the latest by the ranker."""
    config = copy.deepcopy(config)
    config.vocab_size = len(processor.tokenizer)
    backbone = make_backbone(config)
    try:
        model = PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
    except ValueError as error:
        assert type(backbone).__name__ in str(error)  # noqa: PT017
        return
    model(**training_batch(processor)).loss.backward()
    with pytest.raises(TypeError, match="cannot attend to a tree"):
        rank_all(model, processor, [encode(processor, histories()[0])])


# What is refused


def test_encoder_decoder_is_refused(processor: PatchRecProcessor) -> None:
    config = T5Config(vocab_size=len(processor.tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="not a decoder-only causal language model"):
        PatchRecForCausalLM.from_backbone(T5ForConditionalGeneration(config), processor.tokenizer)


def test_headless_model_is_refused(processor: PatchRecProcessor) -> None:
    config = make_config("llama_tied", processor.tokenizer)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        PatchRecForCausalLM.from_backbone(LlamaModel(config), processor.tokenizer)


def test_model_without_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its tokenizer"):
        PatchRecForCausalLM.from_backbone(copy.deepcopy(shared_backbone("llama_tied")))


def test_unknown_logits_are_refused(processor: PatchRecProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = copy.deepcopy(shared_backbone("llama_tied"))
    plain_forward = type(backbone).forward

    def doubled(self: PreTrainedModel, *args, **kwargs):
        outputs = plain_forward(self, *args, **kwargs)
        outputs.logits = 2 * outputs.logits
        return outputs

    monkeypatch.setattr(type(backbone), "forward", doubled)
    with pytest.raises(ValueError, match="makes its logits in a way"):
        PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)


def test_placeholders_without_patches_are_refused(llama: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    batch = processor(histories())
    with pytest.raises(ValueError, match="no patch tensors"):
        llama(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    with pytest.raises(ValueError, match="no patch tensors"):
        llama.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=1)


def test_exactly_one_of_ids_and_embeddings(llama: PatchRecForCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7]])
    embeds = llama.get_input_embeddings()(ids)
    torch.testing.assert_close(llama(inputs_embeds=embeds).logits, llama(input_ids=ids).logits)
    for inputs in ({"input_ids": ids, "inputs_embeds": embeds}, {}):
        with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
            llama(**inputs)


# From a backbone to a model


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that has never seen PatchRec's special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TITLES, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")


def special_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "prepared"])
@pytest.mark.parametrize("family", ["llama_tied", "llama_untied", "gpt2", "phi"])
def test_tokens_beyond_the_table_start_as_the_mean(family: str, prepared: bool, tmp_path: Path) -> None:
    """Also where the tokenizer was prepared, as for a processor, before the model was made."""
    tokenizer = plain_tokenizer()
    backbone = make_backbone(make_config(family, tokenizer))
    num_rows = len(tokenizer)
    if prepared:
        add_special_tokens(tokenizer)
    tables = [backbone.get_input_embeddings().weight, backbone.get_output_embeddings().weight]
    before = [table.detach().clone() for table in tables]

    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    assert special_ids(tokenizer) == list(range(num_rows, num_rows + 4))
    assert model.config.text_config.vocab_size == len(tokenizer) == num_rows + 4
    assert model.config.patch_token_id == num_rows + 3
    for module, rows in zip((model.get_input_embeddings(), model.lm_head), before, strict=True):
        assert torch.equal(module.weight[:num_rows], rows)
        torch.testing.assert_close(module.weight[num_rows:], rows.mean(dim=0).expand(4, -1))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (family not in UNTIED)

    model.save_pretrained(tmp_path)
    loaded = PatchRecForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, num_rows, num_rows + 1, num_rows + 2]])
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_head_bias_of_new_tokens_starts_as_the_mean() -> None:
    """At zero it would make new tokens likely where trained biases are low."""
    tokenizer = plain_tokenizer()
    backbone = make_backbone(make_config("phi", tokenizer))
    backbone.lm_head.bias.data -= 5
    mean = backbone.lm_head.bias.mean().item()
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    assert model.lm_head.bias[special_ids(tokenizer)].tolist() == pytest.approx([mean] * 4)


@pytest.mark.parametrize("family", ["llama_tied", "llama_untied"])
@pytest.mark.parametrize("source", ["directory", "model"])
def test_tokens_in_spare_rows_start_as_the_mean(family: str, source: str, tmp_path: Path) -> None:
    tokenizer = plain_tokenizer()
    config = make_config(family, tokenizer)
    config.vocab_size = len(tokenizer) + 64
    backbone = make_backbone(config)
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bare = copy.deepcopy(backbone)

    if source == "directory":
        model = PatchRecForCausalLM.from_backbone(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        add_special_tokens(tokenizer)
    else:
        model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    new_ids = special_ids(tokenizer)
    assert max(new_ids) < config.vocab_size == model.config.text_config.vocab_size
    others = np.setdiff1d(np.arange(config.vocab_size), new_ids)
    for module, old in (
        (model.get_input_embeddings(), bare.get_input_embeddings()),
        (model.lm_head, bare.get_output_embeddings()),
    ):
        assert torch.equal(module.weight[others], old.weight[others])
        # Rows that no token uses were never trained, so they do not count.
        mean = old.weight[: len(plain_tokenizer())].mean(dim=0)
        torch.testing.assert_close(module.weight[new_ids], mean.expand(4, -1))


@pytest.mark.parametrize("as_type", [str, Path], ids=["str", "Path"])
def test_from_a_directory(as_type: type, tmp_path: Path) -> None:
    backbone = make_backbone(make_config("llama_tied", plain_tokenizer()))
    backbone.save_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)

    model = PatchRecForCausalLM.from_backbone(as_type(tmp_path))
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight.shape[0] == len(plain_tokenizer()) + 4
    assert model.config.patch_token_id == len(plain_tokenizer()) + 3
    assert not model.training


def test_tokens_that_the_directory_knows_stay_as_trained(processor: PatchRecProcessor, tmp_path: Path) -> None:
    backbone = shared_backbone("llama_untied")
    backbone.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    model = PatchRecForCausalLM.from_backbone(tmp_path)
    assert torch.equal(model.get_input_embeddings().weight, backbone.get_input_embeddings().weight)
    assert torch.equal(model.lm_head.weight, backbone.get_output_embeddings().weight)


def test_tokens_new_to_the_directory_start_as_the_mean_with_a_prepared_tokenizer(tmp_path: Path) -> None:
    """A processor is often made first, so the tokenizer that is given may hold tokens that were never trained."""
    config = make_config("llama_tied", plain_tokenizer())
    config.vocab_size += 64
    backbone = make_backbone(config)
    backbone.save_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)
    prepared = plain_tokenizer()
    add_special_tokens(prepared)
    model = PatchRecForCausalLM.from_backbone(tmp_path, prepared)
    rows = model.get_input_embeddings().weight[special_ids(prepared)]
    mean = backbone.get_input_embeddings().weight[: len(plain_tokenizer())].mean(dim=0)
    torch.testing.assert_close(rows, mean.expand(4, -1))


def test_dtype_and_attention_are_passed_on(processor: PatchRecProcessor, tmp_path: Path) -> None:
    shared_backbone("llama_tied").save_pretrained(tmp_path / "backbone")
    processor.tokenizer.save_pretrained(tmp_path / "backbone")
    model = PatchRecForCausalLM.from_backbone(tmp_path / "backbone", dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert model.config.text_config._attn_implementation == "eager"
    assert model.model.language_model.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path / "model")
    loaded = PatchRecForCausalLM.from_pretrained(tmp_path / "model")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_experts_implementation_is_kept(processor: PatchRecProcessor) -> None:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
    backbone = make_backbone(MixtralConfig(vocab_size=len(processor.tokenizer), **size, **heads))
    implementation = backbone.config._experts_implementation
    model = PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
    assert model.model.language_model.config._experts_implementation == implementation


def test_training_mode_is_kept(processor: PatchRecProcessor) -> None:
    for training in (True, False):
        backbone = copy.deepcopy(shared_backbone("llama_tied")).train(training)
        model = PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
        assert {module.training for module in model.modules()} == {training}


# Low precision and adapters


@torch.no_grad()
def test_patch_of_one_token_thrice_is_that_token_in_bf16(llama: PatchRecForCausalLM) -> None:
    llama.to(torch.bfloat16)
    tokens = torch.arange(5, 400)
    embeds = llama.prepare_inputs_embeds(
        torch.full((len(tokens), 1), llama.config.patch_token_id),
        tokens[:, None].expand(-1, 3),
        torch.zeros((len(tokens), 3), dtype=torch.long),
        torch.full((len(tokens), 3), 3),
    )
    assert embeds.dtype == torch.bfloat16
    assert torch.equal(embeds[:, 0], llama.get_input_embeddings()(tokens))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_lora_trains(llama: PatchRecForCausalLM, processor: PatchRecProcessor, checkpointing: bool) -> None:
    batch = training_batch(processor)
    expected = llama(**batch).loss
    prompts = processor(histories())
    tokens = llama.generate(**prompts, do_sample=False, max_new_tokens=3)
    adapted = get_peft_model(llama, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.testing.assert_close(adapted(**batch).loss, expected)
    assert torch.equal(adapted.generate(**prompts, do_sample=False, max_new_tokens=3), tokens)
    if checkpointing:
        adapted.gradient_checkpointing_enable()
        adapted.enable_input_require_grads()
    adapted.train()
    adapted(**batch).loss.backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    # The second factor starts at zero, so at first only it has a gradient.
    assert all(p.grad.abs().max() > 0 for name, p in trained.items() if "lora_B" in name)


def test_gemma3_is_built_as_text_model() -> None:
    assert isinstance(shared_backbone("gemma3"), Gemma3ForCausalLM)


def test_configuration_checks_its_values():
    with pytest.raises(StrictDataclassFieldValidationError, match="patch_token_id"):
        PatchRecConfig(patch_token_id="<|patch|>")
