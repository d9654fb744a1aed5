"""Tests of evaluations: where the targets of a data set stand in rankings."""

import numpy as np
import pytest
from brute_force import brute_force

from patchrec_hf import ItemPatchLayout, PatchDataCollator, rank_targets


def test_ranks_of_targets(model, processor, rows):
    """Both items called "Poems" share their two places; by title, either is a hit at the better one."""
    collator = PatchDataCollator(processor)
    rows = rows.add_item({"user_id": 99, "item_ids": [10, 11, 12, 15], "target_positions": [3]})
    report = rank_targets(model, collator, rows, k=12, batch_size=4, show_progress=False)
    ranks = zip(report.examples["title_rank"], report.examples["item_rank"], strict=True)
    for row, (title_rank, item_rank), prompt in zip(rows, ranks, collator.encode_rows(list(rows)), strict=True):
        scores = brute_force(model, processor.title_tokens, processor.prompt.end_of_turn_id, prompt)
        target = processor.catalog.indices_of([row["item_ids"][-1]])[0]
        assert title_rank == 1 + (scores > scores[target] + 1e-4).sum()
        assert item_rank == title_rank + (0.5 if row["item_ids"][-1] in (14, 15) else 0)
    assert report.examples["user_id"].to_list() == rows["user_id"]
    assert report.metrics([12])["hr@12"] == 1.0


def test_unranked_targets_are_infinitely_far(model, processor, rows):
    report = rank_targets(model, PatchDataCollator(processor), rows, k=1, show_progress=False)
    assert set(report.examples["title_rank"]) <= {1.0, np.inf}
    assert report.examples["item_rank"].is_infinite().any()


def test_excluding_seen_never_excludes_the_target(model, processor, rows):
    again = rows.map(lambda row: {"item_ids": [*row["item_ids"][:-1], row["item_ids"][0]]})
    report = rank_targets(model, PatchDataCollator(processor), again, k=12, exclude_seen=True, show_progress=False)
    assert report.examples["item_rank"].is_finite().all()


def test_excluding_the_other_item_of_a_title_breaks_the_tie(model, processor, rows):
    from datasets import Dataset

    row = {"user_id": 2**60 + 1, "item_ids": [14, 10, 11, 15], "target_positions": [3]}
    kwargs = {"k": 12, "show_progress": False}
    tied = rank_targets(model, PatchDataCollator(processor), Dataset.from_list([row]), **kwargs)
    alone = rank_targets(model, PatchDataCollator(processor), Dataset.from_list([row]), exclude_seen=True, **kwargs)
    assert tied.examples["item_rank"][0] == tied.examples["title_rank"][0] + 0.5
    assert alone.examples["item_rank"][0] == alone.examples["title_rank"][0]
    assert tied.examples["user_id"].to_list() == [2**60 + 1]


def test_model_and_processor_that_do_not_match(model, processor, rows):
    model.config.patch_token_id = 5
    with pytest.raises(ValueError, match="not made for each other"):
        rank_targets(model, PatchDataCollator(processor), rows)


def test_training_mode_is_kept_also_after_an_error(model, processor, rows):
    model.train()
    with pytest.raises(ValueError, match="max_expansions"):
        rank_targets(model, PatchDataCollator(processor), rows, k=5, max_expansions=-2, show_progress=False)
    assert model.training


def test_max_rows_are_evenly_spaced(model, processor, rows):
    report = rank_targets(model, PatchDataCollator(processor), rows, k=3, max_rows=3, show_progress=False)
    assert report.examples["user_id"].to_list() == [0, 6, 13]


def test_several_targets_in_a_row(model, processor):
    from datasets import Dataset

    rows = Dataset.from_list([{"user_id": 5, "item_ids": [10, 11, 12, 13, 16], "target_positions": [3, 4]}])
    report = rank_targets(model, PatchDataCollator(processor, ItemPatchLayout(1)), rows, k=12, show_progress=False)
    assert report.examples["user_id"].to_list() == [5, 5]
    assert len(report.examples["item_rank"]) == 2


def test_empty_data_set(model, processor, rows):
    with pytest.raises(ValueError, match="empty"):
        rank_targets(model, PatchDataCollator(processor), rows.select([]))
