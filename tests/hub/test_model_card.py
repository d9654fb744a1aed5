"""The card of a model: what it says of the model, its data and its training."""

import numpy as np
import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from transformers import TrainerState, TrainingArguments

from patchrec_hf import PatchRecProcessor, TimeWindowLayout
from patchrec_hf.hub.model_card import (
    describe_rows,
    describe_training,
    make_model_card,
    measured_results,
    write_results,
)
from patchrec_hf.runtime.fusion import Fusion, FusionFit
from patchrec_hf.runtime.fusion_parts import SeenPart, TitlePart


def test_the_card_says_twice_what_was_measured(processor):
    """The card lists the metrics of rankings in a table for readers and in its metadata for the Hub, and no others."""
    card = make_model_card(
        processor,
        "user/books",
        {"hr@10": 0.123456789, "runtime": 3.0},
        "Twelve Books",
        base_model="org/base",
        tags=["a"],
    )
    assert "# books" in card.text
    assert "| hr@10 | 0.1235 |" in card.text
    assert "runtime" not in card.content
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("hr@10", 0.123457, "Twelve Books")
    assert (card.data.base_model, card.data.tags, card.data.library_name) == ("org/base", ["a"], "patchrec-hf")


def test_a_card_without_results_says_so(processor):
    card = make_model_card(processor, "user/books")
    assert "Not evaluated yet." in card.text
    assert card.data.eval_results is None


def test_the_card_tells_how_a_history_is_read(processor):
    card = make_model_card(processor, "user/books", training={"epochs": 3}, data={"source": "a library"})
    assert "| layout | ItemPatchLayout(num_text_items=2) |" in card.text
    assert "| longest history | 8 |" in card.text
    assert "A user has read" in card.text
    assert "recommender.recommend([10, 11, 12], k=5)" in card.text
    lengths = processor.title_tokens.lengths
    assert f"| tokens per title | {np.mean(lengths):.1f} ({min(lengths)} to {max(lengths)}) |" in card.text
    assert "| items that share their title | 2 |" in card.text
    assert "| source | a library |" in card.text
    assert "| epochs | 3 |" in card.text


@pytest.mark.parametrize("include_code", [True, False])
def test_the_card_gives_timestamps_that_are_read(processor, include_code):
    text = make_model_card(processor.with_layout(TimeWindowLayout(60)), "user/books", include_code=include_code).text
    times = [1_700_000_000, 1_700_086_400, 1_700_172_800]
    assert f"recommender.recommend([10, 11, 12], timestamps={times}, k=5)" in text
    assert "```\n\n`timestamps` says when each item" in text or "`.\n\n`timestamps` says when each item" in text
    assert "timestamps" not in make_model_card(processor, "user/books", include_code=include_code).text
    timed = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, time_gaps=24)
    text = make_model_card(timed, "user/books").text
    assert "| buckets of time gaps | 24 |" in text
    assert f"timestamps={times}" in text


@pytest.mark.parametrize("include_code", [True, False])
def test_the_card_loads_what_the_repository_holds(processor, include_code):
    text = make_model_card(processor, "user/books", include_code=include_code).text
    assert ("from patchrec_hf import PatchRecommender" in text) != include_code
    assert ('"recommender.PatchRecommender", "user/books", trust_remote_code=True' in text) == include_code


def test_rows_are_described_by_hand():
    rows = [
        {"user_id": 1, "item_ids": [10, 11, 12, 13], "target_positions": [1, 3]},
        {"user_id": 1, "item_ids": [10, 11, 12], "target_positions": [2]},
        {"user_id": 2, "item_ids": [10, 11, 12], "target_positions": [2]},
    ]
    assert describe_rows(Dataset.from_list(rows)) == {
        "training rows": "3 from 2 users",
        "training targets": "4, each after 2.0 items on average",
    }


def test_training_is_described_by_hand(tmp_path):
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=4, learning_rate=2e-5, use_cpu=True
    )
    state = TrainerState(
        global_step=50, max_steps=100, log_history=[{"loss": 2.0}, {"loss": 1.23456}, {"eval_loss": 9.0}]
    )
    found = describe_training(args, state)
    assert found["optimizer steps"] == "50 of 100"
    assert found["rows per step"] == 12
    assert found["learning rate"] == "2e-05, linear"
    assert (found["precision"], found["processes"]) == ("float32", 1)
    assert found["last training loss"] == "1.2346"
    assert "patchrec-hf " in found["versions"]
    assert "last training loss" not in describe_training(args, TrainerState(global_step=0, max_steps=100))


def test_results_are_written_into_a_card(processor, tmp_path):
    """Nothing else of the card changes."""
    make_model_card(processor, "user/books", {"hr@10": 0.5}).save(tmp_path / "README.md")
    before = (tmp_path / "README.md").read_text()
    write_results(tmp_path, {"hr@10": 0.75, "hr@20": 1.0}, "Twelve Books")
    card = ModelCard.load(tmp_path / "README.md")
    assert "| hr@10 | 0.7500 |\n| hr@20 | 1.0000 |\n\n## How it reads a history" in card.text
    assert [result.dataset_name for result in card.data.eval_results] == ["Twelve Books"] * 2
    write_results(tmp_path, {"hr@10": 0.5})
    assert (tmp_path / "README.md").read_text() == before


def test_results_need_a_card_of_this_library(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model card"):
        write_results(tmp_path, {"hr@10": 0.5})
    (tmp_path / "README.md").write_text("# Another card\n")
    with pytest.raises(ValueError, match="0 sections called Results"):
        write_results(tmp_path, {"hr@10": 0.5})


def test_the_first_lines_say_how_a_checkpoint_loads(processor):
    text = make_model_card(processor, "user/books").text
    assert "`AutoModelForCausalLM` knows it only after `import patchrec_hf`" in text.split("\n\n")[1]


def test_every_evaluation_set_has_a_table(processor):
    results = {"old": {"loss": 2.0, "hr@5": 0.25, "step": 7}, "new": {"hr@5": 0.5, "step": 7}}
    card = make_model_card(processor, "user/books", results, "Twelve Books")
    assert card.text.count("## Results") == 1
    assert "The trainer measured these metrics after step 7." in card.text
    assert "### old\n\n| metric | value |\n|---|---|\n| loss | 2.0000 |\n| hr@5 | 0.2500 |\n" in card.text
    assert "### new\n\n| metric | value |\n|---|---|\n| hr@5 | 0.5000 |\n\n## How" in card.text
    found = [(result.dataset_name, result.metric_type, result.metric_value) for result in card.data.eval_results]
    assert found == [
        ("Twelve Books (old)", "loss", 2.0), ("Twelve Books (old)", "hr@5", 0.25), ("Twelve Books (new)", "hr@5", 0.5),
    ]  # fmt: skip


def test_tables_of_sets_are_replaced(processor, tmp_path):
    make_model_card(processor, "user/books", {"old": {"hr@5": 0.25}, "new": {"hr@5": 0.5}}).save(
        tmp_path / "README.md"
    )
    write_results(tmp_path, {"hr@5": 0.75})
    text = (tmp_path / "README.md").read_text()
    assert "### old" not in text
    assert text.count("hr@5") == 2  # the table and the metadata


HISTORY = [
    {"eval_loss": 1.0, "eval_hr@5": 0.5, "step": 2},
    {"loss": 0.1, "step": 4},
    {"eval_loss": 3.0, "eval_hr@5": 0.25, "step": 4},
]
END = {"train_runtime": 1.0, "train_loss": 1.0, "step": 4}
NAMED = [
    {"eval_a_loss": 1.0, "eval_a_item_loss": 0.5, "step": 2},
    {"eval_b_loss": 2.0, "step": 2},
    {"eval_a_loss": 3.0, "eval_a_item_loss": 2.5, "step": 4},
    {"eval_b_loss": 4.0, "step": 4},
]


@pytest.mark.parametrize(
    ("history", "best_step", "expected"),
    [
        ([], None, {}),
        ([{"loss": 1.0, "step": 2}], None, {}),
        (HISTORY, None, {"": {"loss": 3.0, "hr@5": 0.25, "step": 4}}),
        (HISTORY, 2, {"": {"loss": 1.0, "hr@5": 0.5, "step": 2}}),
        # After training, the loaded weights are evaluated once more.
        ([*HISTORY, END, {"eval_loss": 1.5, "step": 4}], 2, {"": {"loss": 1.5, "step": 2}}),
        (NAMED, None, {"a": {"loss": 3.0, "item_loss": 2.5, "step": 4}, "b": {"loss": 4.0, "step": 4}}),
        (NAMED, 2, {"a": {"loss": 1.0, "item_loss": 0.5, "step": 2}, "b": {"loss": 2.0, "step": 2}}),
    ],
)  # fmt: skip
def test_results_are_of_the_weights_that_are_saved(history, best_step, expected):
    assert measured_results(history, best_step) == expected


def test_the_card_lists_the_parts_of_a_fusion(processor):
    assert "## Fusion" not in make_model_card(processor, "user/books").text
    parts, weights = {"titles": TitlePart(), "seen": SeenPart()}, {"titles": 0.5, "seen": -2.0}
    text = make_model_card(processor.with_fusion(Fusion(parts, weights)), "user/books").text
    assert "| titles | 0.500 | unknown |\n| seen | -2.000 | unknown |\n" in text
    fit = FusionFit(3, -1.25, {"titles": -1.5, "seen": -2.5})
    text = make_model_card(processor.with_fusion(Fusion(parts, weights, fit)), "user/books").text
    assert "| titles | 0.500 | -1.500 alone |\n| seen | -2.000 | -2.500 alone |\n| all |  | -1.250 |\n" in text
    assert text.index("## How it reads") < text.index("## Fusion") < text.index("## Data")
