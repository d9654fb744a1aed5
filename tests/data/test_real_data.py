"""The paper's data and a real backbone, where they are at hand."""

import os

import numpy as np
import polars as pl
import pytest
import torch

from patchrec_hf import (
    BOOK_PROMPT,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
    add_special_tokens,
    evaluate_scorer,
    load_recommendation_data,
    prepare_data,
)
from patchrec_hf.baselines import CoVisitation
from patchrec_hf.baselines.co_visitation import DEFAULT_GRID
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.evaluation.metrics import compression_ratios


GOODREADS_DIR = os.environ.get("PATCHREC_GOODREADS_DIR")
SMOLLM2_DIR = os.environ.get("PATCHREC_SMOLLM2_DIR")
needs_goodreads = pytest.mark.skipif(
    not GOODREADS_DIR, reason="PATCHREC_GOODREADS_DIR does not name the paper's Goodreads data"
)
needs_smollm2 = pytest.mark.skipif(
    not SMOLLM2_DIR, reason="PATCHREC_SMOLLM2_DIR does not name a directory with SmolLM2-135M-Instruct"
)


@needs_goodreads
def test_goodreads_is_the_papers():
    examples, catalog = load_recommendation_data(GOODREADS_DIR)
    assert len(examples["test"]) == 3248
    assert len(catalog) == 8793
    assert max(len(row["item_ids"]) for row in examples["test"]) == 101
    interactions = prepare_data(GOODREADS_DIR).interactions
    assert (interactions["user_id"].n_unique(), len(interactions)) == (2090, 162_539)
    assert interactions["item_id"].n_unique() == 8793 - 32
    sizes = dict(interactions["split"].cast(pl.String).value_counts().iter_rows())
    # No interaction shares the time of a cut with later ones: it would belong to the earlier split.
    assert sizes["train"] == int(0.96 * 162_539)
    assert sizes["train"] + sizes["validation"] == int(0.98 * 162_539)


@needs_goodreads
@needs_smollm2
def test_full_histories_of_goodreads_are_compressed_as_in_the_paper():
    """The paper counts tokens of Llama's tokenizer, which makes 9.82 of a title; SmolLM2's makes 10.43."""
    examples, catalog = load_recommendation_data(GOODREADS_DIR)
    processor = PatchRecProcessor.from_backbone(SMOLLM2_DIR, catalog, BOOK_PROMPT)
    assert round(processor.title_tokens.lengths.mean(), 2) == 10.43
    full = [row["item_ids"][:-1] for row in examples["test"] if len(row["item_ids"]) == 101]
    for layout, papers in ((ItemPatchLayout(5), 6.81), (SessionPatchLayout(5), 13.62)):
        encoded = [processor.encode(catalog.indices_of(items), layout=layout) for items in full]
        fed, as_text = ([getattr(one, name) for one in encoded] for name in ("counts", "text_counts"))
        ratios = compression_ratios(np.array(fed), np.array(as_text))
        assert ratios["compression_ratio"] == pytest.approx(papers, rel=0.1)


@needs_goodreads
@pytest.mark.slow
def test_co_visitation_beats_the_papers_best_row_on_goodreads():
    """The paper's best is HR@20 0.101. The weighting is chosen on validation, among a few."""
    examples, catalog = load_recommendation_data(GOODREADS_DIR)
    model = CoVisitation(catalog).fit(
        examples["train"], examples["validation"], DEFAULT_GRID[::9], show_progress=False
    )
    report = evaluate_scorer(model, catalog, examples["test"], show_progress=False)
    all_rows = report.intervals().filter((pl.col("slice") == "all") & (pl.col("metric") == "hr@20"))
    assert all_rows["value"].item() > 0.125
    assert all_rows["low"].item() > 0.101


@pytest.fixture(scope="module")
def long_row():
    """One row of the sample with a history of 100 items."""
    examples, catalog = load_recommendation_data("sample")
    lengths = np.array([len(items) for items in examples["train"]["item_ids"]])
    return examples["train"].select([int(lengths.argmax())]), catalog


@pytest.fixture(scope="module")
def smollm2(long_row):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2_DIR)
    add_special_tokens(tokenizer)
    processor = PatchRecProcessor(tokenizer, long_row[1], BOOK_PROMPT, ItemPatchLayout(5))
    return PatchRecForCausalLM.from_backbone(SMOLLM2_DIR, tokenizer), processor


@needs_smollm2
def test_smollm2_reads_the_prompt_as_its_chat_template_does(smollm2):
    _, processor = smollm2
    text = processor.tokenizer.decode([*processor.prompt.prefix_ids, *processor.prompt.suffix_ids])
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant in book recommendations.<|im_end|>\n")
    assert text.endswith("without any explanation.<|im_end|>\n<|im_start|>assistant\n")
    assert processor.tokenizer.convert_ids_to_tokens(processor.prompt.end_of_turn_id) == "<|im_end|>"


@needs_smollm2
@torch.no_grad()
def test_smollm2_text_logits_are_the_backbones(smollm2, long_row):
    from transformers import AutoModelForCausalLM

    model, processor = smollm2
    batch = PatchDataCollator(processor, TextLayout())(list(long_row[0]))
    prompt = {key: batch[key][:, :64] for key in ("input_ids", "attention_mask")}
    prompt["input_ids"] = prompt["input_ids"].clamp(max=processor.prompt.start_id - 1)  # no token is new to it
    backbone = AutoModelForCausalLM.from_pretrained(SMOLLM2_DIR).eval()
    expected = backbone(**prompt).logits
    torch.testing.assert_close(model.eval()(**prompt).logits[..., : expected.shape[-1]], expected)


@needs_smollm2
@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer_class", "config_class"),
    [(PatchPretrainTrainer, PatchPretrainConfig), (PatchFinetuneTrainer, PatchFinetuneConfig)],
)
def test_smollm2_learns_from_a_hundred_items(smollm2, long_row, tmp_path, trainer_class, config_class):
    """Three steps on one row of 100 items: the losses are finite, and that of one fixed batch of it falls."""
    model, processor = smollm2
    row = long_row[0][0]
    assert len(row["item_ids"]) == 101
    args = config_class(
        str(tmp_path), use_cpu=True, per_device_train_batch_size=1, num_train_epochs=3, warmup_steps=0,
        learning_rate=1e-4, logging_steps=1, report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = trainer_class(model, args, train_dataset=long_row[0], processing_class=processor)
    batch = trainer.data_collator([ScheduledRow(row, 1, 0.5)])

    @torch.no_grad()
    def loss():
        return model.eval()(**batch).loss.item()

    before = loss()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert loss() < before


@needs_smollm2
@pytest.mark.slow
def test_smollm2_recommends(smollm2, long_row):
    model, processor = smollm2
    history = long_row[0][0]["item_ids"][:-1]
    items = PatchRecommender(model, processor).recommend(history, k=3, max_title_tokens=50)
    assert len({item.item_id for item in items} - set(history)) == 3
