"""A user with 10,000 items: from a log to rows, batches, training, rankings and recommendations."""

import numpy as np
import polars as pl
import pytest

from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    BudgetLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    PyramidLayout,
    TimeWindowLayout,
    build_tiny_backbone,
    evaluate_model,
    leave_one_out_split,
    load_recommendation_data,
)


NUM_ITEMS = 10_000


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """One user with 10,000 items before the last ones, and twenty users with a few."""
    generator = np.random.default_rng(0)
    sizes = [NUM_ITEMS + 40, *[30] * 20]
    users = np.repeat(np.arange(len(sizes)), sizes)
    times = np.concatenate([np.sort(generator.integers(1_500_000_000, 1_600_000_000, size)) for size in sizes])
    items = generator.integers(0, 200, len(users))
    path = tmp_path_factory.mktemp("log")
    pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times}).write_csv(path / "log.csv")
    titles = [f"The Book of {name} {number}" for number, name in enumerate(["Tides", "Stars", "Ashes", "Wolves"] * 50)]
    pl.DataFrame({"item_id": np.arange(200), "title": titles}).write_csv(path / "items.csv")
    return load_recommendation_data(
        path / "log.csv", NUM_ITEMS, targets_per_row=8, items=path / "items.csv", split=leave_one_out_split
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "objective"),
    [(PyramidLayout(), "item"), (PyramidLayout(2), "title"), (BudgetLayout(200, 25, 0), "item")],
    ids=repr,
)
def test_ten_thousand_items(log, layout, objective, tmp_path):
    splits, catalog = log
    backbone, tokenizer = build_tiny_backbone(catalog, hidden_size=16)
    processor = PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, layout, NUM_ITEMS, separate_patches=False
    )
    longest = max(splits["train"], key=lambda row: len(row["item_ids"]))
    assert len(longest["item_ids"]) > NUM_ITEMS
    histories = PatchDataCollator(processor, objective=objective).encode_rows([longest])
    assert max(history.counts.history for history in histories) <= 200
    batch = PatchDataCollator(processor, objective=objective, tree_packing=True)([longest])
    assert batch["input_ids"].shape[1] < len(histories) * 200

    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    rows = splits["train"].filter(lambda row: len(row["item_ids"]) > NUM_ITEMS)
    recipe = {**ALL_PATCH_PRESET.training, "tree_packing": True} if objective == "item" else {"tree_packing": True}
    args = PatchFinetuneConfig(
        str(tmp_path),
        use_cpu=True,
        max_steps=2,
        report_to="none",
        save_strategy="no",
        **{**recipe, "per_device_train_batch_size": 2},
    )
    PatchFinetuneTrainer(model, args, train_dataset=rows, processing_class=processor).train()
    test = splits["test"].filter(lambda row: len(row["item_ids"]) > NUM_ITEMS)
    (report,) = evaluate_model(model, processor, test, show_progress=False).targets.rows(named=True)
    assert report["history_length"] == NUM_ITEMS
    assert report["history_tokens"] <= 200
    history = test[0]["item_ids"][:-1]
    assert len(PatchRecommender(model, processor).recommend(history, k=3, exclude_seen=False)) == 3


def test_windows_of_time_of_ten_thousand_items(log):
    splits, catalog = log
    _, tokenizer = build_tiny_backbone(catalog, hidden_size=16)
    processor = PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, TimeWindowLayout(20_000, 0), NUM_ITEMS
    )
    row = max(splits["test"], key=lambda row: len(row["item_ids"]))
    (history,) = PatchDataCollator(processor).encode_rows([row])
    num_sessions = 1 + (np.diff(row["timestamps"][:-1]) > 20_000).sum()
    assert (history.input_ids == processor.prompt.patch_id).sum() == num_sessions
