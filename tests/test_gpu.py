"""Smoke tests for those who have a CUDA device: `pytest -m gpu`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from gradients import gradients
from item_parts import table_of
from transformers.utils import is_flash_attn_2_available

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    build_tiny_backbone,
)
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, NeighborPart, TitlePart
from patchrec_hf.runtime.ranking import CatalogRanker, CatalogRanking
from patchrec_hf.runtime.ranking_config import RankingConfig


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
TITLES = [f"The {a} of {b}" for a in ("House", "Sea", "Song", "Tower") for b in ("Glass", "Rain", "Ash", "Salt")]


@pytest.fixture
def processor() -> PatchRecProcessor:
    catalog = Catalog.from_titles(dict(enumerate(TITLES, start=1)))
    _, tokenizer = build_tiny_backbone(catalog, vocab_size=400)
    return PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, ItemPatchLayout(2))


@pytest.fixture
def model(processor: PatchRecProcessor) -> PatchRecForCausalLM:
    """In float32, on the CPU."""
    backbone, tokenizer = build_tiny_backbone(processor.catalog, vocab_size=400)
    return PatchRecForCausalLM.from_backbone(backbone, tokenizer).eval()


@pytest.fixture
def rows() -> list[dict]:
    ids = list(range(1, len(TITLES) + 1))
    return [
        {"user_id": user, "item_ids": ids[user : user + 6 + user], "target_positions": [5 + user]} for user in range(4)
    ]


def rank(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict], **settings: Any
) -> CatalogRanking:
    prompts = PatchDataCollator(processor).encode_rows(rows)
    return CatalogRanker(model, processor, RankingConfig(k=len(TITLES), **settings)).rank(prompts)


def on_device(processor: PatchRecProcessor, rows: list[dict]) -> dict[str, torch.Tensor]:
    return {key: value.to(DEVICE) for key, value in PatchDataCollator(processor)(rows).items()}


def test_forward_and_backward_in_bf16_autocast(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict]
) -> None:
    expected = model(**PatchDataCollator(processor)(rows)).loss.item()
    model.to(DEVICE).train()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = model(**on_device(processor, rows)).loss
    assert loss.item() == pytest.approx(expected, rel=0.02)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("trainer_class", "config_class"),
    [(PatchPretrainTrainer, PatchPretrainConfig), (PatchFinetuneTrainer, PatchFinetuneConfig)],
    ids=["pretrain", "finetune"],
)
def test_one_step_of_training(
    trainer_class: type[PatchFinetuneTrainer],
    config_class: type[PatchFinetuneConfig],
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    rows: list[dict],
    tmp_path: Path,
) -> None:
    before = model.lm_head.weight.detach().clone()
    trainer = trainer_class(
        model=model,
        args=config_class(
            str(tmp_path),
            max_steps=1,
            warmup_steps=0,
            per_device_train_batch_size=2,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            eval_ks=[1, 10],
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=processor,
    )
    output = trainer.train()
    assert trainer.model.device.type == DEVICE
    assert output.global_step == 1
    assert np.isfinite(output.training_loss)
    assert not torch.equal(trainer.model.lm_head.weight.detach().cpu(), before)
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_loss"])
    assert 0 <= metrics["eval_hr@10"] <= 1


def test_packed_gradients_equal_the_padded_ones(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict]
) -> None:
    """Forward and backward of FlexAttention, which has no backward on the CPU."""
    blocks = [{**row, "target_positions": [3, 4, row["target_positions"][0]]} for row in rows]
    expected = gradients(model, PatchDataCollator(processor)(blocks))
    model.to(DEVICE)
    model.enable_tree_packing()
    assert model.config.decoder_config._attn_implementation == "flex_attention"
    packed = {key: value.to(DEVICE) for key, value in PatchDataCollator(processor, tree_packing=True)(blocks).items()}
    loss, grads = gradients(model, packed)
    assert loss == pytest.approx(expected[0], rel=1e-3)
    for name, gradient in grads.items():
        assert (gradient.cpu() - expected[1][name]).norm() <= 1e-2 * expected[1][name].norm(), name


@pytest.fixture
def item_recommender(model: PatchRecForCausalLM, processor: PatchRecProcessor) -> PatchRecommender:
    """On the CPU. Its item head has random weights, and its fusion three parts."""
    catalog = processor.catalog
    model.add_item_head(catalog)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in (model.item_head, model.model.item_residual):
            for parameter in module.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    co_visits = table_of(np.eye(len(catalog), k=1), catalog.item_ids)
    parts = {"item": ItemHeadPart(), "titles": TitlePart(), "co_visits": NeighborPart(co_visits)}
    processor = PatchRecProcessor(
        processor.tokenizer, catalog, processor.prompt, ItemPatchLayout(0), separate_patches=True,
        item_residuals=len(catalog),
    ).with_fusion(Fusion(parts, {"item": 0.7, "titles": 0.4, "co_visits": 0.5}))  # fmt: skip
    return PatchRecommender(model, processor)


@pytest.mark.parametrize("tree_packing", [False, True])
def test_gradients_of_titles_among_the_catalog_and_of_items_equal_the_cpu(
    item_recommender: PatchRecommender, rows: list[dict], tree_packing: bool
) -> None:
    model, processor = item_recommender.model, item_recommender.processor
    settings = {"title_normalizer": "catalog", "objective": "both"}
    model.config.title_normalizer, model.config.title_temperature = "catalog", 2.0
    expected = gradients(model, PatchDataCollator(processor, **settings)(rows))
    model.to(DEVICE)
    if tree_packing:
        model.enable_tree_packing()
    batch = PatchDataCollator(processor, tree_packing=tree_packing, **settings)(rows)
    loss, grads = gradients(model, {key: value.to(DEVICE) for key, value in batch.items()})
    assert loss == pytest.approx(expected[0], rel=1e-3)
    assert grads.keys() == expected[1].keys()
    for name, gradient in grads.items():
        assert (gradient.cpu() - expected[1][name]).norm() <= 1e-2 * expected[1][name].norm() + 1e-6, name


@pytest.mark.parametrize("method", ["item", "fusion"])
def test_scores_of_items_equal_the_cpu(item_recommender: PatchRecommender, rows: list[dict], method: str) -> None:
    model, processor = item_recommender.model, item_recommender.processor
    expected = rank(model, processor, rows, method=method)
    found = rank(model.to(DEVICE), processor, rows, method=method)
    by_item = [np.take_along_axis(each.scores, each.items.argsort(axis=1), axis=1) for each in (expected, found)]
    np.testing.assert_allclose(by_item[1], by_item[0], atol=1e-2)


def test_a_user_state_grows_on_the_gpu(item_recommender: PatchRecommender) -> None:
    item_recommender.model.to(DEVICE)
    state = item_recommender.start([3, 4, 5])
    state.append([6])
    grown, whole = state.recommend(k=5), item_recommender.recommend([3, 4, 5, 6], k=5)
    assert [item.item_id for item in grown] == [item.item_id for item in whole]
    np.testing.assert_allclose([item.score for item in grown], [item.score for item in whole], atol=1e-3)


@pytest.mark.parametrize("patcher", ["attention", "contextual"])
def test_patchers_equal_the_cpu(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict], patcher: str
) -> None:
    model.add_patcher(patcher)
    expected = gradients(model, PatchDataCollator(processor)(rows))
    loss, grads = gradients(model.to(DEVICE), on_device(processor, rows))
    assert loss == pytest.approx(expected[0], rel=1e-3)
    for name, gradient in grads.items():
        assert (gradient.cpu() - expected[1][name]).norm() <= 1e-2 * expected[1][name].norm() + 1e-6, name


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_ranking_equals_the_cpu(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict], length_penalty: float
) -> None:
    expected = rank(model, processor, rows, length_penalty=length_penalty)
    found = rank(model.to(DEVICE), processor, rows, length_penalty=length_penalty)
    assert found.is_exact.all()
    # In score order; titles may swap places only where the CPU holds them all but equal.
    cpu_scores = np.take_along_axis(expected.scores, expected.items.argsort(axis=1), axis=1)
    np.testing.assert_allclose(np.take_along_axis(cpu_scores, found.items, axis=1), found.scores, atol=1e-2)
    assert (np.diff(np.take_along_axis(cpu_scores, found.items, axis=1), axis=1) < 1e-2).all()


def test_the_release_decodes_as_on_the_cpu(
    model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict]
) -> None:
    expected = rank(model, processor, rows, method="diverse")
    found = rank(model.to(DEVICE), processor, rows, method="diverse")
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-2)


def test_generate(model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict]) -> None:
    prompts = {key: value.to(DEVICE) for key, value in processor([row["item_ids"] for row in rows]).items()}
    generated = model.to(DEVICE).generate(**prompts, do_sample=False, max_new_tokens=3)
    assert generated.device.type == DEVICE
    assert generated.shape[0] == len(rows)


@pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs flash-attn")
def test_flash_attention_2(model: PatchRecForCausalLM, processor: PatchRecProcessor, rows: list[dict]) -> None:
    model.to(DEVICE, torch.bfloat16)
    batch = on_device(processor, rows)
    losses = {}
    for implementation in ("sdpa", "flash_attention_2"):
        model.set_attn_implementation(implementation)
        losses[implementation] = model(**batch).loss.item()
    assert losses["flash_attention_2"] == pytest.approx(losses["sdpa"], rel=0.02)
    # The ranker needs a tree mask, which flash attention does not take; it gives the model back as it was.
    assert np.isfinite(rank(model, processor, rows).scores).all()
    assert model.config.text_config._attn_implementation == "flash_attention_2"
