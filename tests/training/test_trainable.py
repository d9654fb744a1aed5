"""A trainer loads its model, and adds the parts that are to be trained."""

import numpy as np
import pytest
import torch
from conftest import ITEM_IDS
from item_parts import item_model, item_processor, plain_model
from peft import LoraConfig, get_peft_model
from tiers import first_fast
from trainer_parts import as_stream

from patchrec_hf import (
    Catalog,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
)
from patchrec_hf.runtime.configuration import ItemHeadConfig
from patchrec_hf.tiny import build_tiny_backbone


def test_model_by_name(make_trainer, catalog, tmp_path):
    """A path to a bare backbone and one to a PatchRec checkpoint both train."""
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    trainer = make_trainer("pretrain", model=str(tmp_path / "backbone"), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "pretrained"))
    again = make_trainer("finetune", model=str(tmp_path / "pretrained"), max_steps=1)
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_names_are_loaded_in_float32(make_trainer, catalog, tmp_path):
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    backbone.to(torch.bfloat16).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    trainer = make_trainer("finetune", model=tmp_path / "backbone")
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_bare_backbones_are_refused(make_trainer, catalog):
    with pytest.raises(TypeError, match="from_backbone"):
        make_trainer("finetune", model=build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)[0])


def test_model_of_another_tokenizer(make_trainer, model):
    model.config.patch_token_id = 5
    with pytest.raises(ValueError, match="not made for each other"):
        make_trainer("finetune", model=model)


def test_a_model_without_a_head_gets_one(make_trainer, processor):
    """With residuals exactly if the processor writes them."""
    head = {"item_residual_size": 6, "item_similarity": "product", "item_dropout": 0.25, "residual_dropout": 0.1}
    for residuals, size in ((True, 6), (False, 0)):
        trainer = make_trainer(
            "finetune",
            processing_class=item_processor(processor, item_residuals=residuals),
            objective="item",
            title_similarity=residuals,
            **head,
        )
        assert trainer.model.config.item_head_config == ItemHeadConfig(12, size, "product", 0.25, 0.1, residuals)
        assert trainer.model.item_head.item_ids.tolist() == ITEM_IDS
        assert trainer.data_collator.compares_titles is residuals
    trainer = make_trainer("finetune", processing_class=item_processor(processor), objective="both")
    assert trainer.model.config.item_head_config == ItemHeadConfig(12, 32, "cosine", 0.0)
    assert make_trainer("finetune").model.item_head is None


def test_a_head_is_kept(make_trainer, processor):
    model = item_model(residual_size=5)
    expected = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = make_trainer(
        "finetune", model=model, processing_class=item_processor(processor), objective="item", item_residual_size=9
    )
    assert trainer.model is model
    assert all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())


def test_models_and_processors_that_learned_other_items(make_trainer, processor):
    with pytest.raises(ValueError, match="residuals for 12 items, but the processor writes them for 0"):
        make_trainer("finetune", model=item_model(), objective="item")
    catalog, kwargs = processor.catalog, {"objective": "item"}

    def trainer(order):
        other = Catalog(catalog.item_ids[order], tuple(catalog.titles[index] for index in order))
        return make_trainer(
            "finetune", model=item_model(), processing_class=item_processor(processor, catalog=other), **kwargs
        )

    with pytest.raises(ValueError, match="in another order"):
        trainer(np.roll(np.arange(12), 1))
    with pytest.raises(ValueError, match=r"lacks 2 of the 12 items that the model has learned: 13, 21\."):
        trainer(np.delete(np.arange(12), [3, 11]))


def test_adapters_on_a_model_without_a_head(make_trainer):
    model = get_peft_model(plain_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"`objective='item'` needs an item head, which the adapter's base model"):
        make_trainer("finetune", model=model, objective="item")


@pytest.mark.parametrize("objective", first_fast(["title", "item", "both"]))
@pytest.mark.parametrize("has_head", first_fast([False, True]))
def test_a_step_uses_every_weight_that_is_trained(make_trainer, processor, rows, objective, has_head):
    """DDP relies on it: by default, it does not look for weights that a forward did not use."""
    model = item_model(residual_size=0) if has_head else None
    trainer = make_trainer("finetune", model=model, objective=objective)
    assert trainer.args.ddp_find_unused_parameters is False
    trainer.model.train()
    trainer.model(**trainer.data_collator([rows[0], rows[1]])).loss.backward()
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    assert ("item_head.item_vectors.weight" in trained) is (objective != "title")


def test_an_idle_head_is_frozen_until_it_is_trained_again(catalog, tokenizer, make_trainer, processor):
    """The head of titles is untied here, and the item objective does not train it."""
    backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    backbone.config.tie_word_embeddings = False
    backbone.lm_head.weight = torch.nn.Parameter(backbone.lm_head.weight.detach().clone())
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    make_trainer("finetune", model, objective="item")
    assert not model.lm_head.weight.requires_grad
    make_trainer("finetune", model, objective="both")
    assert model.lm_head.weight.requires_grad
    make_trainer("finetune", model, objective="title")
    assert not any(parameter.requires_grad for parameter in model.item_head.parameters())
    assert model.lm_head.weight.requires_grad


def other_backbone(tmp_path):
    """A backbone whose vocabulary is as large as the tests' own, with other tokens."""
    titles = {number: f"zebra {number} quux" for number in range(40)}
    backbone, tokenizer = build_tiny_backbone(Catalog.from_titles(titles), vocab_size=400, hidden_size=32)
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "other")
    return str(tmp_path / "other"), tokenizer


def test_backbone_of_another_tokenizer(make_trainer, processor, tmp_path):
    name, tokenizer = other_backbone(tmp_path)
    assert tokenizer.vocab_size == processor.tokenizer.vocab_size  # no size tells them apart
    with pytest.raises(ValueError, match=r"is not .*other's: .* tokens, such as .*from_backbone\('"):
        make_trainer("finetune", model=name)


def test_the_fingerprint_of_an_old_model_is_saved_with_it(make_trainer, model, processor):
    model.config.tokenizer_fingerprint = None
    trainer = make_trainer("finetune", model=model)
    assert trainer.model.config.tokenizer_fingerprint == processor.tokenizer_fingerprint


def test_an_old_checkpoint_of_another_tokenizer(make_trainer, processor, tmp_path):
    """It has no fingerprint, so the tokenizer in its directory tells which one it was made with."""
    name, tokenizer = other_backbone(tmp_path)
    old = PatchRecForCausalLM.from_backbone(name, tokenizer)
    old.config.tokenizer_fingerprint = None
    for part in (old, tokenizer):
        part.save_pretrained(tmp_path / "old")
    for model in (str(tmp_path / "old"), PatchRecForCausalLM.from_pretrained(tmp_path / "old")):
        with pytest.raises(ValueError, match=r"The tokenizer is not .*old's"):
            make_trainer("finetune", model=model)
    processor.tokenizer.save_pretrained(tmp_path / "old")
    assert make_trainer("finetune", model=tmp_path / "old").model.config.tokenizer_fingerprint is not None


def test_settings_of_loading_are_for_loading_only(make_trainer, catalog, tmp_path, caplog):
    """SFTTrainer gets a model that is loaded already, and would warn that the settings are ignored."""
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    settings = {"dtype": "bfloat16"}
    trainer = make_trainer("finetune", model=tmp_path / "backbone", model_init_kwargs=settings)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}
    assert "model_init_kwargs" not in caplog.text
    assert settings == {"dtype": "bfloat16"}


def test_a_model_init_may_return_a_name(processor, rows, catalog, tmp_path):
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    args = PatchFinetuneConfig(
        str(tmp_path / "run"), use_cpu=True, max_steps=1, report_to="none", disable_tqdm=True, save_strategy="no",
        model_init_kwargs={"attn_implementation": "eager"},
    )  # fmt: skip
    trainer = PatchFinetuneTrainer(
        model_init=lambda: str(tmp_path / "backbone"), args=args, train_dataset=rows, processing_class=processor
    )
    trainer.train()
    assert trainer.model.config._attn_implementation == "eager"
    assert args.model_init_kwargs == {"attn_implementation": "eager"}


def test_a_checkpoint_knows_until_when_and_at_which_rate_it_was_trained(make_trainer, rows):
    """The latest target counts, not the items after it. A further training keeps the first rate."""

    def with_times(row):
        size = len(row["item_ids"])
        return {"timestamps": [100 * row["user_id"] + place for place in range(size)], "target_positions": [size - 2]}

    timed = rows.map(with_times)
    trainer = make_trainer("finetune", train_dataset=timed)
    config = trainer.model.config
    assert config.trained_until == max(row["timestamps"][-2] for row in timed)
    assert config.initial_learning_rate == 1e-2
    again = make_trainer("finetune", model=trainer.model, learning_rate=1e-3).model.config
    assert (again.trained_until, again.initial_learning_rate) == (None, 1e-2)
    stream = make_trainer("finetune", train_dataset=as_stream(timed)).model.config
    assert stream.trained_until is None
