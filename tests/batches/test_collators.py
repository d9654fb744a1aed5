import pytest
import torch
from conftest import ITEM_IDS
from datasets import Dataset

from patchrec_hf import (
    DropLayout,
    ItemPatchLayout,
    PatchDataCollator,
    PatchPretrainDataCollator,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
)
from patchrec_hf.batches.sampling import ScheduledRow


def stamped(rows, step=3, progress=0.5):
    return [ScheduledRow(row, step, progress) for row in rows]


def test_one_example_for_each_target(processor):
    row = {"user_id": 0, "item_ids": [10, 11, 12, 13, 14], "target_positions": [2, 4]}
    examples = PatchDataCollator(processor).encode_rows([row])
    lengths = processor.title_tokens.lengths
    assert [len(example.input_ids) - example.prompt_length for example in examples] == [lengths[2] + 1, lengths[4] + 1]
    alone = PatchDataCollator(processor).encode_rows([{**row, "target_positions": [4]}])[0]
    assert examples[1].input_ids.tolist() == alone.input_ids.tolist()


@pytest.mark.parametrize("position", [-1, 0, 3])
def test_target_outside_the_history(processor, position):
    row = {"user_id": 7, "item_ids": [10, 11, 12], "target_positions": [position]}
    with pytest.raises(ValueError, match=rf"user 7: target position {position} must lie between 1 and 2"):
        PatchDataCollator(processor)([row])


@pytest.mark.parametrize("targets", [[3, 2], [2, 2]])
def test_targets_that_do_not_ascend(processor, targets):
    row = {"user_id": 7, "item_ids": [10, 11, 12, 13], "target_positions": targets}
    with pytest.raises(ValueError, match=r"user 7: its target positions .* must ascend"):
        PatchDataCollator(processor)([row])


def test_targets_too_far_apart_for_one_window(processor):
    row = {"user_id": 7, "item_ids": [10, 11] * 10, "target_positions": [3, 11]}
    with pytest.raises(ValueError, match=r"user 7: its targets, at 3 to 11.*`max_history` \(8\).*targets_per_row"):
        PatchDataCollator(processor)([row])
    assert len(PatchDataCollator(processor).encode_rows([{**row, "target_positions": [3, 10]}])) == 2


def test_targets_of_a_row_share_the_start_of_their_window(processor):
    items = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    row = {"user_id": 0, "item_ids": items, "target_positions": [9, 11]}
    examples = PatchDataCollator(processor, TextLayout()).encode_rows([row])
    titles = processor.title_tokens
    assert [example.counts.titles for example in examples] == [titles.lengths[1:9].sum(), titles.lengths[1:11].sum()]


@pytest.mark.parametrize("layout", [TextLayout(), ItemPatchLayout(2), SessionPatchLayout(3), DropLayout(1.0)])
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("rows_at_once", [2, 1000])
def test_row_lengths_are_those_of_the_longest_histories(processor, rows, layout, separate, rows_at_once, monkeypatch):
    monkeypatch.setattr("patchrec_hf.data.rows.CHUNK_ROWS", rows_at_once)
    processor = PatchRecProcessor(
        processor.tokenizer, processor.catalog, processor.prompt, layout, max_history=8, separate_patches=separate
    )
    several = {"user_id": 1, "item_ids": ITEM_IDS, "target_positions": [3, 8, 10]}
    rows = Dataset.from_list([*rows, several])
    collator = PatchDataCollator(processor)
    expected = [max(e.counts.history for e in collator.encode_rows([row])) for row in rows]
    assert collator.row_lengths(rows).tolist() == expected
    assert collator.row_lengths(rows.select([3, 1])).tolist() == [expected[3], expected[1]]


def test_too_long_for_the_context(processor, rows):
    with pytest.raises(ValueError, match=r"user 0 takes \d+ tokens, but the model reads at most 20.*max_history"):
        PatchDataCollator(processor, max_length=20)(list(rows))


def test_too_long_names_only_what_helps(processor, rows):
    several = [ScheduledRow({"user_id": 9, "item_ids": ITEM_IDS, "target_positions": [3, 4]}, 0, 0.5)]
    with pytest.raises(
        ValueError, match=r"\(this row has 2\), or choose a layout that compresses more than ItemPatch"
    ):
        PatchDataCollator(processor, max_length=20)(several)
    with pytest.raises(ValueError, match=r"Lower `max_history` \(now \d+\), or choose"):
        PatchDataCollator(processor, max_length=20)(list(rows))
    with pytest.raises(ValueError, match=r"or `targets_per_row` \(this row has 2\)\.$"):
        PatchPretrainDataCollator(processor, max_length=20)(several)


def test_row_lengths_need_whole_items(processor, rows):
    bad = Dataset.from_list(
        [*rows, {"user_id": 1, "item_ids": [ITEM_IDS[0], None, ITEM_IDS[1]], "target_positions": [2]}]
    )
    with pytest.raises(ValueError, match="hold None"):
        PatchDataCollator(processor).row_lengths(bad)


def test_layout_overrides_the_processors(processor, rows):
    assert (PatchDataCollator(processor)(list(rows))["patch_divisors"] > 0).any()
    assert PatchDataCollator(processor, TextLayout())(list(rows))["patch_divisors"].shape[1] == 0


def test_pretraining_makes_twins(processor, rows):
    rows = stamped(rows)
    batch = PatchPretrainDataCollator(processor)(rows)
    raw = PatchDataCollator(processor, TextLayout()).encode_rows(rows)
    assert batch["input_ids"].shape[0] == 2 * len(rows)
    for i, example in enumerate(raw):
        assert batch["input_ids"][2 * i, : len(example.input_ids)].tolist() == example.input_ids.tolist()
        assert batch["attention_mask"][2 * i + 1].sum() <= len(example.input_ids)
        assert not (batch["input_ids"][2 * i] == processor.prompt.patch_id).any()
        twins = [batch["shift_labels"][place] for place in (2 * i, 2 * i + 1)]
        assert torch.equal(*twins)
    assert (batch["input_ids"][1::2] == processor.prompt.patch_id).any()


@pytest.mark.parametrize(("progress", "patches"), [(0.0, 0), (1.0, 3)])
def test_probability_is_the_progress(processor, progress, patches):
    rows = stamped([{"user_id": 0, "item_ids": [10, 11, 12, 13], "target_positions": [3]}], progress=progress)
    batch = PatchPretrainDataCollator(processor)(rows)
    assert (batch["input_ids"][1] == processor.prompt.patch_id).sum() == patches


def test_evaluation_rows_are_laid_out_once(processor, rows):
    batch = PatchPretrainDataCollator(processor)(list(rows))
    expected = PatchDataCollator(processor, ItemPatchLayout(2))(list(rows))
    assert all(torch.equal(batch[key], expected[key]) for key in expected)


def test_rows_of_one_step_draw_on_their_own(processor):
    """Histories of one length are not thinned out at the same places."""
    orders = [[10, 11, 12, 13, 14, 16], [16, 14, 13, 12, 11, 10], [11, 10, 13, 12, 16, 14], [17, 18, 19, 20, 21, 10]]
    masks = []

    def spy(num_items, seed):
        segments = DropLayout(0.5)(num_items, seed)
        masks.append(segments)
        return segments

    rows = [{"user_id": 0, "item_ids": [*items, 15], "target_positions": [6]} for items in (*orders, orders[0])]
    PatchDataCollator(processor, spy).encode_rows(rows)
    assert masks[0] == masks[4]
    assert len({tuple(mask) for mask in masks}) > 1


def test_draws_depend_on_seed_step_and_row_only(processor, rows):
    def draw(seed=0, step=3, take=slice(None)):
        return PatchPretrainDataCollator(processor, seed=seed).encode_rows(stamped(rows, step)[take])

    first = [example.input_ids.tolist() for example in draw()]
    assert first == [example.input_ids.tolist() for example in draw()]
    assert first[6:10] == [example.input_ids.tolist() for example in draw(take=slice(3, 5))]
    assert first != [example.input_ids.tolist() for example in draw(seed=1)]
    assert first != [example.input_ids.tolist() for example in draw(step=4)]


def test_drop_layout_shortens_the_history(processor, rows):
    dropped = PatchDataCollator(processor, DropLayout(1.0)).encode_rows(list(rows))
    titles = processor.title_tokens
    for row, example in zip(rows, dropped, strict=True):
        newest = processor.catalog.indices_of([row["item_ids"][-2]])[0]
        assert example.counts.titles == len(titles[newest])
        assert example.text_counts.titles > example.counts.titles
