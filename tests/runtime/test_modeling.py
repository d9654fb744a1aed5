"""Each family of backbones gives the same results inside the wrapper as alone."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import (
    UNTIED,
    encode,
    histories,
    make_backbone,
    make_processor,
    shared_backbone,
    shared_model,
    training_batch,
)
from peft import LoraConfig, get_peft_model
from tiers import first_fast
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, MixtralConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from patchrec_hf import (
    PatchRecForCausalLM,
    PatchRecProcessor,
    TextLayout,
)
from patchrec_hf.runtime.encoding import pad_histories


@pytest.fixture(scope="module")
def processor() -> PatchRecProcessor:
    return make_processor()


@pytest.fixture
def backbone(family: str) -> PreTrainedModel:
    """The bare backbone, with the same weights as `model`. It is shared, and tests must not change it."""
    return shared_backbone(family)


@pytest.fixture
def model(family: str) -> PatchRecForCausalLM:
    """The model is shared, and tests must not change it."""
    return shared_model(family)


NEW_TOKENS = 6


def naive_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@torch.no_grad()
def test_text_logits_equal_the_backbones(model: PatchRecForCausalLM, backbone: PreTrainedModel) -> None:
    ids = torch.randint(5, 400, (2, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(input_ids=ids).logits, backbone(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padded_text_logits_equal_the_backbones(
    model: PatchRecForCausalLM, backbone: PreTrainedModel, processor: PatchRecProcessor
) -> None:
    examples = [encode(processor, history, layout=TextLayout()) for history in histories()]
    batch = pad_histories(examples, processor.prompt.pad_id)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    assert not batch["attention_mask"].all()
    ours, theirs = model(**inputs).logits, backbone(**inputs).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for row, example in enumerate(examples):
        alone = backbone(input_ids=torch.from_numpy(example.input_ids)[None]).logits
        torch.testing.assert_close(ours[row, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


def test_embedding_module_runs_once_per_forward(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    calls = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *args: calls.append(args))
    try:
        model(**training_batch(processor))
    finally:
        handle.remove()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "auto_class", first_fast([PatchRecForCausalLM, AutoModelForCausalLM]), ids=lambda c: c.__name__
)
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


@pytest.mark.parametrize("family", ["llama_tied", "mistral_sliding"])
def test_patchrec_checkpoint_as_backbone_is_refused(family: str, processor: PatchRecProcessor, tmp_path: Path) -> None:
    """Stage two starts from the checkpoint of stage one, which is easily given to `from_backbone`."""
    shared_model(family).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="PatchRec model already"):
        PatchRecForCausalLM.from_backbone(tmp_path)


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
