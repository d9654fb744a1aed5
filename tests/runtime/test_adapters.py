"""Adapters: what they train, and that saving, loading and merging them changes no ranking."""

import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch
from conftest import ITEM_IDS
from item_parts import item_model, item_processor, plain_model
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from tiers import first_fast
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig

from patchrec_hf import (
    BOOK_PROMPT,
    CatalogRanker,
    ItemPatchLayout,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    RankingConfig,
    build_tiny_backbone,
    evaluate_model,
)
from patchrec_hf.runtime.adapters import (
    complete_lora_config,
    load_adapted,
    load_model,
    save_base_path,
    without_wrapper,
)
from patchrec_hf.runtime.prompts import PATCH_TOKEN, SPECIAL_TOKENS


HISTORY = ITEM_IDS[:5]
STAGES = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}


def save_backbone(catalog, directory, tied, **kwargs):
    backbone, tokenizer = build_tiny_backbone(catalog, **{"vocab_size": 400, "hidden_size": 32} | kwargs)
    # The special tokens are new to it.
    backbone.resize_token_embeddings(min(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))))
    if not tied:
        backbone.config.tie_word_embeddings = False
        backbone.lm_head.weight = nn.Parameter(backbone.lm_head.weight.detach().flip(0))
    for part in (backbone, tokenizer):
        part.save_pretrained(directory)
    return str(directory)


@pytest.fixture(params=first_fast(["tied", "untied"]))
def backbone(request, catalog, tmp_path):
    return save_backbone(catalog, tmp_path / "backbone", request.param == "tied")


def train(model, processor, rows, output_dir, stage="finetune", peft_config=None, **kwargs):
    trainer_class, config_class = STAGES[stage]
    args = config_class(
        str(output_dir), use_cpu=True, warmup_steps=0, report_to="none", disable_tqdm=True, eval_ks=[],
        **{"save_strategy": "no", "learning_rate": 1e-2, "max_steps": 3} | kwargs,
    )  # fmt: skip
    trainer = trainer_class(
        model, args, train_dataset=rows, processing_class=processor, peft_config=peft_config or LoraConfig(r=4)
    )
    trainer.train()
    return trainer


def scores(model, processor):
    model.eval()
    return {item.item_id: item.score for item in PatchRecommender(model, processor).recommend(HISTORY, k=6)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_adapters_save_load_merge_and_rank_alike(backbone, processor, rows, tmp_path, stage):
    trainer = train(backbone, processor, rows, tmp_path / "run", stage)
    expected = scores(trainer.model.get_base_model(), processor)
    trainer.save_model(str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()

    # What is merged in memory, what is loaded and merged, and what is saved merged are one model.
    loaded = PatchRecommender.from_pretrained(tmp_path / "adapter")
    found = {item.item_id: item.score for item in loaded.recommend(HISTORY, k=6)}
    assert found == pytest.approx(expected, rel=1e-4)
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    assert scores(merged, processor) == pytest.approx(expected, rel=1e-4)
    assert scores(PatchRecForCausalLM.from_pretrained(tmp_path / "merged"), processor) == pytest.approx(
        expected, rel=1e-4
    )
    untouched = load_model(backbone, processor.tokenizer)
    assert scores(untouched, processor) != pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_special_tokens_are_trained_and_the_place_holder_is_not(backbone, processor, rows, tmp_path):
    before = load_model(backbone, processor.tokenizer).get_input_embeddings().weight.detach().clone()
    trainer = train(backbone, processor, rows, tmp_path)
    after = trainer.model.merge_and_unload().get_input_embeddings().weight.detach()
    changed = (before != after).any(dim=1).nonzero().flatten().tolist()
    ids = dict(zip(SPECIAL_TOKENS, processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    assert sorted(changed) == sorted(ids[token] for token in SPECIAL_TOKENS if token != PATCH_TOKEN)


@pytest.mark.slow
def test_an_adapter_on_a_tied_head_is_not_passed_by(catalog, processor, rows, tmp_path):
    """SFTTrainer's fused head would take the weight that the adapter wraps."""
    trainer = train(save_backbone(catalog, tmp_path / "backbone", tied=True), processor, rows, tmp_path / "run")
    batch = trainer.data_collator(list(rows)[:4])
    assert trainer._computes_own_logits({"input_ids": batch["input_ids"].to("meta")})
    untied = save_backbone(catalog, tmp_path / "untied", tied=False)
    assert not train(untied, processor, rows, tmp_path / "run")._computes_own_logits(
        {"input_ids": batch["input_ids"].to("meta")}
    )


@pytest.mark.slow
def test_adapters_learn_among_the_catalog(backbone, processor, blocks, tmp_path):
    """The head's special tokens are adapted where it is tied, and then it is read whole."""
    losses = []
    for packing in (False, True):
        torch.manual_seed(0)
        trainer = train(
            backbone, processor, blocks, tmp_path / "run", tree_packing=packing, title_normalizer="catalog",
            learning_rate=3e-2, logging_steps=1, per_device_train_batch_size=6,
        )  # fmt: skip
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.slow
def test_an_adapter_says_how_titles_are_scored(backbone, processor, rows, tmp_path):
    settings = {"title_normalizer": "catalog", "title_temperature": 2.0}
    train(backbone, processor, rows, tmp_path / "run", **settings).save_model(str(tmp_path / "adapter"))
    config = load_model(tmp_path / "adapter").config
    assert (config.title_normalizer, config.title_temperature) == ("catalog", 2.0)
    # The next adapter was trained otherwise.
    train(str(tmp_path / "adapter"), processor, rows, tmp_path / "run2").save_model(str(tmp_path / "second"))
    config = load_model(tmp_path / "second").config
    assert (config.title_normalizer, config.title_temperature) == ("vocabulary", 1.0)


@pytest.mark.parametrize("objective", first_fast(["title", "item", "both"]))
def test_an_adapter_says_what_it_was_trained_for(backbone, processor, rows, tmp_path, objective):
    """`fit_fusion` takes titles as a part only if they were trained."""
    settings = {"objective": objective, "max_steps": 1, "per_device_train_batch_size": 4}
    train(backbone, processor, rows, tmp_path / "run", **settings).save_model(str(tmp_path / "adapter"))
    assert load_model(tmp_path / "adapter").config.objective == objective


@pytest.mark.slow
def test_training_goes_on_from_an_adapter(backbone, processor, rows, tmp_path):
    """Pre-trained with one adapter, fine-tuned with another, which names what it was trained on."""
    first = train(backbone, processor, rows, tmp_path / "run", "pretrain")
    first.save_model(str(tmp_path / "pretrained"))
    expected = scores(first.model.get_base_model(), processor)
    model = load_model(tmp_path / "pretrained")
    assert scores(model, processor) == pytest.approx(expected, rel=1e-4)
    second = train(str(tmp_path / "pretrained"), processor, rows, tmp_path / "run2")
    expected = scores(second.model.get_base_model(), processor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns where it knows nothing of what it was trained on
        second.save_model(str(tmp_path / "finetuned"))
    assert scores(load_model(tmp_path / "finetuned"), processor) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_adapters_resume(backbone, processor, rows, tmp_path):
    unbroken = train(backbone, processor, rows, tmp_path / "unbroken")
    train(backbone, processor, rows, tmp_path / "run", save_strategy="steps", save_steps=2)
    trainer_class, config_class = STAGES["finetune"]
    args = config_class(
        str(tmp_path / "again"), use_cpu=True, max_steps=3, learning_rate=1e-2, warmup_steps=0, report_to="none",
        disable_tqdm=True, eval_ks=[], save_strategy="no",
    )  # fmt: skip
    resumed = trainer_class(
        backbone, args, train_dataset=rows, processing_class=processor, peft_config=LoraConfig(r=4)
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    one, other = (
        {name: p for name, p in trainer.model.named_parameters() if p.requires_grad} for trainer in (unbroken, resumed)
    )
    assert one.keys() == other.keys()
    assert any("trainable_tokens" in name for name in one)
    for name, parameter in one.items():
        torch.testing.assert_close(parameter, other[name])


def test_what_is_said_is_not_changed(model, tokenizer):
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[])
    assert complete_lora_config(config, model, tokenizer).trainable_token_indices is None
    whole = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    assert complete_lora_config(whole, model, tokenizer).trainable_token_indices is None
    other = IA3Config()
    assert complete_lora_config(other, model, tokenizer) is other
    empty = LoraConfig()
    completed = complete_lora_config(empty, model, tokenizer)
    assert (empty.target_modules, empty.trainable_token_indices) == (None, None)
    assert set(completed.target_modules) == {"q_proj", "v_proj"}
    assert list(completed.trainable_token_indices) == ["embed_tokens"]


def test_target_modules_that_do_not_exist(model, tokenizer):
    with pytest.raises(ValueError, match=r"names 'query', which the backbone \(LlamaModel\) does not have.*q_proj"):
        complete_lora_config(LoraConfig(target_modules=["q_proj", "query"]), model, tokenizer)


@pytest.mark.slow
def test_adapters_of_another_backbone(catalog, processor, rows, tmp_path):
    backbone = save_backbone(catalog, tmp_path / "backbone", tied=True)
    train(backbone, processor, rows, tmp_path / "run").save_model(str(tmp_path / "adapter"))
    other = save_backbone(catalog, tmp_path / "other", tied=True, hidden_size=64)
    with pytest.raises(ValueError, match=r"adapter.*does not fit .*other.*trained on another model"):
        load_adapted(tmp_path / "adapter", base_model=other)
    deeper = save_backbone(catalog, tmp_path / "deeper", tied=True, num_layers=3)
    with pytest.raises(ValueError, match=r"does not fit .*deeper"):
        load_adapted(tmp_path / "adapter", base_model=deeper)


@pytest.mark.slow
def test_what_says_how_files_are_found_is_said_of_the_base_too(catalog, processor, rows, tmp_path, monkeypatch):
    backbone = save_backbone(catalog, tmp_path / "backbone", tied=True)
    train(backbone, processor, rows, tmp_path / "run").save_model(str(tmp_path / "adapter"))
    asked = {}

    def load(*args, **kwargs):
        asked.update(kwargs)
        return load_model(*args, **kwargs)

    monkeypatch.setattr("patchrec_hf.runtime.adapters.load_model", load)
    load_adapted(tmp_path / "adapter", local_files_only=True, revision="main")
    assert asked == {"local_files_only": True}


@pytest.mark.slow
def test_adapters_that_do_not_say_what_they_were_trained_on(model, processor, rows, tmp_path):
    model.name_or_path = model.config.name_or_path = ""
    trainer = train(model, processor, rows, tmp_path / "run")
    trainer.save_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"does not name the model that it was trained on.*`base_model`"):
        PatchRecommender.from_pretrained(tmp_path / "adapter")


IA3 = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4),
        pytest.param(LoraConfig(r=4, use_dora=True), marks=pytest.mark.slow),
        pytest.param(IA3, marks=pytest.mark.slow),
        pytest.param(LoraConfig(r=4, modules_to_save=["lm_head"]), marks=pytest.mark.slow),
    ],
)
def test_a_model_with_an_adapter_ranks_as_it_does_when_it_is_merged(backbone, processor, rows, tmp_path, config):
    """It recommends, is evaluated, and ranks, without being merged, and is left as it was."""

    def rank(model):
        report = evaluate_model(model, processor, rows, k=12, show_progress=False)
        ranking = CatalogRanker(model, processor, RankingConfig(k=5)).rank([processor.encode(np.arange(5))])
        return report.targets["item_rank"].to_list(), ranking.items.tolist()

    model = train(backbone, processor, rows, tmp_path, peft_config=config).model
    assert isinstance(model, PeftModel)
    found, ranks = scores(model, processor), rank(model)
    merged = model.merge_and_unload()
    assert found == pytest.approx(scores(merged, processor), rel=1e-3)
    assert ranks == rank(merged)


def test_models_that_cannot_be_unwrapped(model, processor, rows):
    prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match=r"PROMPT_TUNING, which puts tokens before a sequence.*such as `LoraConfig`"):
        PatchRecommender(prompted, processor)
    with pytest.raises(ValueError, match="PROMPT_TUNING"):
        evaluate_model(prompted, processor, rows)
    with pytest.raises(TypeError, match=r"wrapped in `DataParallel`\. Pass the model in it: `model\.module`"):
        without_wrapper(nn.DataParallel(model))
    mixed = get_peft_model(plain_model(), LoraConfig(r=2, target_modules=["q_proj"]), mixed=True)
    with pytest.raises(TypeError, match=r"PeftMixedModel.*`model.merge_and_unload\(\)`"):
        without_wrapper(mixed)


@pytest.mark.parametrize(
    "modules",
    [
        ["lm_head"],
        pytest.param(["embed_tokens"], marks=pytest.mark.slow),
        pytest.param(["embed_tokens", "lm_head"], marks=pytest.mark.slow),
    ],
)
def test_head_and_embeddings_may_be_trained_whole(backbone, processor, rows, tmp_path, modules, caplog):
    """Also where the two are one table: what is saved and loaded, with or without being merged, scores alike."""
    model = train(backbone, processor, rows, tmp_path, peft_config=LoraConfig(r=4, modules_to_save=modules)).model
    is_tied = load_model(backbone, processor.tokenizer).config.tie_word_embeddings
    assert ("cannot also train the special tokens" in caplog.text) == (is_tied and modules == ["lm_head"])
    expected = scores(model, processor)
    model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    loaded = PatchRecommender.from_pretrained(tmp_path / "adapter").model
    assert scores(loaded, processor) == pytest.approx(expected, rel=1e-4)
    loaded.save_pretrained(tmp_path / "merged")
    again = PatchRecForCausalLM.from_pretrained(tmp_path / "merged")
    assert scores(again, processor) == pytest.approx(expected, rel=1e-4)


def test_the_base_is_found_from_any_directory(catalog, processor, rows, tmp_path, monkeypatch):
    """A run in one directory names its backbone by a relative path, and the adapter is loaded in another one."""
    save_backbone(catalog, tmp_path / "outputs" / "first" / "final", tied=True)
    monkeypatch.chdir(tmp_path)
    trainer = train("outputs/first/final", processor, rows, tmp_path / "run")
    expected = scores(trainer.model, processor)
    trainer.save_model("outputs/second/final")
    monkeypatch.chdir("/")
    adapter = tmp_path / "outputs" / "second" / "final"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "outputs" / "first" / "final")
    assert scores(PatchRecommender.from_pretrained(adapter).model, processor) == pytest.approx(expected, rel=1e-4)

    # An earlier version saved the path as it was given.
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "outputs/first/final"})
    )
    assert scores(PatchRecommender.from_pretrained(adapter).model, processor) == pytest.approx(expected, rel=1e-4)


def test_a_base_that_is_gone_is_not_looked_up_on_the_hub(catalog, processor, rows, tmp_path, monkeypatch):
    backbone = save_backbone(catalog, tmp_path / "backbone", tied=True)
    train(backbone, processor, rows, tmp_path / "run").save_model(str(tmp_path / "adapter"))
    (tmp_path / "backbone").rename(tmp_path / "moved")
    monkeypatch.setattr("patchrec_hf.runtime.adapters.load_model", lambda *_, **__: pytest.fail("looked up"))
    with pytest.raises(
        FileNotFoundError, match=r"trained on the model in .*backbone, and there is no such directory.*"
    ):
        PatchRecommender.from_pretrained(tmp_path / "adapter")
    monkeypatch.undo()
    PatchRecommender.from_pretrained(tmp_path / "adapter", base_model=tmp_path / "moved")


def test_the_name_of_a_repository_stays(tmp_path):
    path = tmp_path / "adapter_config.json"
    for name in ("owner/name", None, str(tmp_path)):
        path.write_text(json.dumps({"base_model_name_or_path": name}))
        save_base_path(tmp_path)
        assert json.loads(path.read_text()) == {"base_model_name_or_path": name}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("stage", STAGES)
def test_quantized_backbones_train_an_adapter(catalog, rows, tmp_path, monkeypatch, stage):
    """QLoRA: the weights stay in four bits, and what was trained is loaded with them."""
    from bitsandbytes.nn import Linear4bit, modules

    # Its kernel for inference on a CPU rearranges the weights for good, and has no gradient.
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    backbone = save_backbone(catalog, tmp_path / "backbone", tied=True, hidden_size=64)
    processor = PatchRecProcessor.from_backbone(backbone, catalog, BOOK_PROMPT, max_history=8)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = load_model(backbone, processor.tokenizer, quantization_config=quantization, dtype="float32")
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    trainer = train(model, processor, rows, tmp_path / "run", stage, logging_steps=1)
    gradients = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert min(gradients) > 0
    assert isinstance(trainer.model, PeftModel)
    expected = scores(trainer.model.get_base_model(), processor)
    trainer.save_model(str(tmp_path / "adapter"))
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all("lora" in name or "trainable_tokens" in name for name in names)
    again = load_model(backbone, processor.tokenizer, quantization_config=quantization, dtype="float32")
    loaded = PeftModel.from_pretrained(again, tmp_path / "adapter")
    assert scores(loaded.get_base_model(), processor) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["item", "both"])
@pytest.mark.parametrize("residual_size", [None, 5])
def test_adapters_train_and_hold_the_item_head(backbone, processor, rows, tmp_path, objective, residual_size):
    """Loaded from a plain backbone, whose head the adapter brings with it."""
    writes = item_processor(processor)
    trainer = train(
        backbone, writes, rows, tmp_path / "run", objective=objective, item_residual_size=residual_size,
        item_similarity="product",
    )  # fmt: skip
    inner = trainer.model.get_base_model()
    expected = scores(inner, writes)
    trainer.save_model(str(tmp_path / "adapter"))
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("item_residual" in name for name in names)
    assert any("item_head" in name for name in names)
    untouched = load_model(backbone, processor.tokenizer)
    assert untouched.item_head is None
    loaded = PatchRecommender.from_pretrained(tmp_path / "adapter")
    assert loaded.processor.num_residuals == 12
    assert loaded.model.config.item_head == inner.config.item_head
    assert loaded.model.item_head.item_ids.tolist() == ITEM_IDS
    assert loaded.model.model.item_residual.weight.any(dim=1).all()
    assert not torch.equal(loaded.model.item_head.user_vectors.weight, torch.eye(32))
    # Items that are never targets compete with none, so they keep their bias.
    biased = loaded.model.item_head.item_vectors.bias.nonzero().flatten() + 10
    assert set(biased.tolist()) == {row["item_ids"][row["target_positions"][0]] for row in rows}
    found = {item.item_id: item.score for item in loaded.recommend(HISTORY, k=6)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx({item.item_id: item.score for item in loaded.recommend(HISTORY, 6, method="item")})
    merged = trainer.model.merge_and_unload()
    assert scores(merged, writes) == pytest.approx(expected, rel=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    assert scores(PatchRecForCausalLM.from_pretrained(tmp_path / "merged"), writes) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.slow
def test_an_adapter_on_a_model_with_a_head(processor, rows, tmp_path):
    """The head of the model is trained further, and the saved adapter replaces it."""
    item_model().save_pretrained(tmp_path / "base")
    writes = item_processor(processor)
    writes.save_pretrained(tmp_path / "base")
    trainer = train(str(tmp_path / "base"), writes, rows, tmp_path / "run", objective="item")
    expected = scores(trainer.model.get_base_model(), writes)
    trainer.save_model(str(tmp_path / "adapter"))
    assert scores(load_adapted(tmp_path / "adapter"), writes) == pytest.approx(expected, rel=1e-4)
    assert scores(load_model(tmp_path / "base"), writes) != pytest.approx(expected, rel=1e-4)


def test_heads_are_saved_whole(tokenizer):
    config = complete_lora_config(LoraConfig(), item_model(), tokenizer)
    assert config.modules_to_save == ["item_head", "item_residual"]
    config = complete_lora_config(LoraConfig(modules_to_save=["norm"]), item_model(residual_size=0), tokenizer)
    assert config.modules_to_save == ["norm", "item_head"]


def head_weights(model):
    """The weights of the head and of the residuals, in an adapter or not."""
    found = {}
    for name, part in {"item_head": model.item_head, "item_residual": model.model.item_residual}.items():
        inner = part.modules_to_save["default"] if isinstance(part, ModulesToSaveWrapper) else part
        found |= {f"{name}.{weight}": tensor.detach() for weight, tensor in inner.named_parameters()}
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_quantized_backbones_train_an_item_head(catalog, rows, tmp_path, monkeypatch):
    """QLoRA: head and residuals are neither quantized nor rounded, and are loaded with the adapter."""
    from bitsandbytes.nn import modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    backbone = save_backbone(catalog, tmp_path / "backbone", tied=True, hidden_size=64)
    processor = PatchRecProcessor.from_backbone(
        backbone, catalog, BOOK_PROMPT, ItemPatchLayout(0), max_history=8, separate_patches=False, item_residuals=True
    )
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = load_model(backbone, processor.tokenizer, quantization_config=quantization, dtype="float32")
    model.add_item_head(catalog, residual_size=8)
    before = {name: tensor.clone() for name, tensor in head_weights(model).items()}
    # The titles are not compared, so the second feature's weight gets no gradient.
    trainer = train(model, processor, rows, tmp_path / "run", objective="item", learning_rate=1e-4)
    trained = trainer.model.get_base_model()
    after = head_weights(trained)
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32, name
        assert not torch.equal(tensor, before[name]), name
    expected = scores(trained, processor)
    trainer.save_model(str(tmp_path / "adapter"))

    again = load_model(backbone, processor.tokenizer, quantization_config=quantization, dtype="float32")
    again.make_item_head(AutoConfig.from_pretrained(tmp_path / "adapter").item_head_config)
    loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").get_base_model()
    assert loaded.item_head.item_ids.tolist() == ITEM_IDS
    assert scores(loaded, processor) == pytest.approx(expected, rel=1e-4)
    merged = head_weights(PatchRecommender.from_pretrained(tmp_path / "adapter").model)
    assert merged.keys() == after.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, after[name]), name


def test_one_target_module_may_be_a_text(model, tokenizer):
    """TRL gives `--lora_target_modules q_proj` as a text, which PEFT would take for a pattern of whole names."""

    def complete(target):
        return complete_lora_config(LoraConfig(target_modules=target), model, tokenizer).target_modules

    assert complete("q_proj") == {"q_proj"}
    assert complete(r".*\.[qv]_proj") == r".*\.[qv]_proj"
    assert complete("all-linear") == "all-linear"
    with pytest.raises(ValueError, match="names 'nope', which the backbone"):
        complete("nope")
