from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import ITEM_IDS
from datasets import Dataset
from item_parts import item_model, item_processor
from tiers import first_fast

from patchrec_hf import (
    BudgetLayout,
    DropLayout,
    ItemPatchLayout,
    PatchDataCollator,
    PatchPretrainDataCollator,
    PatchRecProcessor,
    PyramidLayout,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
    TimeWindowLayout,
)
from patchrec_hf.batches.candidates import NegativeSampling
from patchrec_hf.batches.filled import FillerRow
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.runtime.encoding import pad_histories
from patchrec_hf.runtime.layouts import Segment


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


@pytest.mark.parametrize(
    "layout", first_fast([TextLayout(), ItemPatchLayout(2), SessionPatchLayout(3), DropLayout(1.0)])
)
@pytest.mark.parametrize("separate", first_fast([True, False]))
@pytest.mark.parametrize("rows_at_once", first_fast([2, 1000]))
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


def test_twins_with_dropped_items(processor):
    """The items that would be compressed are left out, except the newest one."""
    row = {"user_id": 0, "item_ids": [10, 11, 12, 13, 14, 15], "target_positions": [5]}
    step = 1
    draws = PatchPretrainDataCollator(processor).encode_rows(stamped([row], step=step))[1]
    compressed = draws.patch_divisors  # each patch has as many entries as its title has tokens
    patches = (draws.input_ids == processor.prompt.patch_id).sum()
    assert 1 <= patches <= 4
    text, dropped = PatchPretrainDataCollator(processor, twin="dropped").encode_rows(stamped([row], step=step))
    assert not (dropped.input_ids == processor.prompt.patch_id).any()
    newest_is_drawn = draws.input_ids[draws.history_end] == processor.prompt.patch_id
    kept = processor.title_tokens.lengths[4] if newest_is_drawn else 0
    separators = patches - newest_is_drawn
    assert len(text.input_ids) - len(dropped.input_ids) == len(compressed) - kept + separators
    assert dropped.input_ids[dropped.prompt_length :].tolist() == text.input_ids[text.prompt_length :].tolist()
    all_dropped = PatchPretrainDataCollator(processor, twin="dropped").encode_rows(stamped([row], progress=1.0))[1]
    newest = PatchDataCollator(processor, TextLayout()).encode_rows(
        [{**row, "item_ids": [14, 15], "target_positions": [1]}]
    )
    assert all_dropped.input_ids.tolist() == newest[0].input_ids.tolist()


def test_an_unknown_twin(processor):
    with pytest.raises(ValueError, match=r"`twin` must be one of 'compressed', 'dropped', got 'Dropped'"):
        PatchPretrainDataCollator(processor, twin="Dropped")
    with pytest.raises(ValueError, match=r"`objective='item'` predicts an item where.* Use `objective='title'`"):
        PatchPretrainDataCollator(processor, objective="item", twin="dropped")


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


ITEM_ROW = {"user_id": 0, "item_ids": [10, 11, 12, 16, 14, 15], "target_positions": [2, 3, 5]}


@pytest.mark.parametrize(("separate", "width"), [(True, 2), (False, 1)])
def test_one_history_predicts_every_item_of_a_row(processor, separate, width):
    """Patches stand side by side, or with a separator after each. Nothing stands after the newest item."""
    collator = PatchDataCollator(item_processor(processor, separate_patches=separate), objective="item")
    (history,) = collator.encode_rows([ITEM_ROW])
    first = len(processor.prompt.prefix_ids) + 1  # the start token is before it
    assert history.items_before.tolist() == [2, 3, 5]
    assert history.item_positions.tolist() == [first + width, first + 2 * width, first + 4 * width]
    assert history.item_targets.tolist() == [2, 6, 5]
    assert history.prompt_length == len(history.input_ids) == first + 4 * width + 1
    assert history.input_ids[history.item_positions].tolist() == [processor.prompt.patch_id] * 3
    batch = collator([ITEM_ROW, {**ITEM_ROW, "target_positions": [1]}])
    assert batch["item_positions"].tolist() == [history.item_positions.tolist(), [first, 0, 0]]
    assert batch["item_targets"].tolist() == [[2, 6, 5], [1, -100, -100]]
    assert batch["shift_labels"].shape == batch["supervised_positions"].shape == (2, 0)
    assert (batch["labels"] == -100).all()


def test_an_item_as_text_predicts_where_its_title_ends(processor):
    (history,) = PatchDataCollator(item_processor(processor, TextLayout()), objective="item").encode_rows([ITEM_ROW])
    lengths, first = processor.title_tokens.lengths, len(processor.prompt.prefix_ids) + 1
    ends = np.cumsum(lengths[[0, 1, 2, 6, 4]] + 1) - 2  # a separator follows each title
    assert history.item_positions.tolist() == (first + ends[[1, 2, 4]]).tolist()


@pytest.mark.parametrize(
    ("layout", "objective"),
    [(ItemPatchLayout(2), "item"), (SessionPatchLayout(2), "item"), (ItemPatchLayout(0), "both")],
)
def test_a_history_for_each_target(processor, layout, objective):
    """Of layouts that change as the history grows, and where a title follows."""
    processor = item_processor(processor, layout)
    histories = PatchDataCollator(processor, objective=objective).encode_rows([ITEM_ROW])
    titles = PatchDataCollator(processor).encode_rows([ITEM_ROW])
    assert [history.item_targets.tolist() for history in histories] == [[2], [6], [5]]
    for history, title in zip(histories, titles, strict=True):
        assert history.item_positions.tolist() == [title.history_end]
        expected = title.input_ids if objective == "both" else title.input_ids[: title.history_end + 1]
        assert history.input_ids.tolist() == expected.tolist()
        assert history.prompt_length == (title.prompt_length if objective == "both" else len(expected))


@pytest.mark.parametrize("layout", [ItemPatchLayout(0), TextLayout(), RandomPatchLayout(0.5)])
def test_items_of_one_sequence_are_learned_as_alone(processor, layout):
    """The mean over rows with one target each, whose draws are those of the whole row."""
    model, processor = item_model(), item_processor(processor, layout, max_history=8)
    collator = PatchDataCollator(processor, objective="item")
    together = model(**collator([ITEM_ROW]))
    alone = []
    for position in ITEM_ROW["target_positions"]:
        indices = processor.catalog.indices_of(ITEM_ROW["item_ids"])
        # A random layout draws by the history of the row's first target.
        seed = (0, 0, processor.title_tokens.checksum(indices[:2]))
        history = processor.encode(indices[:position], seed=seed)
        history = replace(
            history, item_targets=indices[[position]], items_before=np.array([position]),
            input_ids=history.input_ids[: history.history_end + 1], prompt_length=history.history_end + 1,
        )  # fmt: skip
        single = collator([{**ITEM_ROW, "target_positions": [position]}])
        alone.append(model(**single | pad_histories([history], processor.prompt.pad_id)).item_loss.item())
    assert together.title_loss is None
    assert together.loss.item() == pytest.approx(np.mean(alone), rel=1e-5)
    assert len(set(alone)) == 3


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("objective", ["item", "both"])
def test_fillers_have_no_item_loss(processor, objective, packs):
    model = item_model()
    collator = PatchDataCollator(item_processor(processor), objective=objective, tree_packing=packs)
    other = {"user_id": 3, "item_ids": [21, 20, 19, 18], "target_positions": [2, 3]}
    if packs:
        model.enable_tree_packing()
    losses = [model(**collator(part)) for part in ([ITEM_ROW], [FillerRow(other), ITEM_ROW, FillerRow(other)])]
    assert losses[1].item_loss.item() == pytest.approx(losses[0].item_loss.item(), rel=1e-5)
    assert losses[1].loss.item() == pytest.approx(losses[0].loss.item(), rel=1e-5)
    nothing = model(**collator([FillerRow(other)]))
    assert nothing.item_loss.item() == 0


@dataclass(frozen=True)
class WithoutNewest:
    """Leaves out the newest item."""

    name: ClassVar[str] = "without_newest"

    def __call__(self, num_items, seed=()):
        return [Segment("item_patch", 0, max(num_items - 1, 1))]


@pytest.mark.parametrize("objective", ["item", "both"])
def test_layouts_that_leave_out_the_newest_item_predict_no_item(processor, objective):
    collator = PatchDataCollator(item_processor(processor), WithoutNewest(), objective=objective)
    with pytest.raises(ValueError, match=rf"`objective='{objective}'`.*WithoutNewest\(\) leaves that item out"):
        collator([ITEM_ROW])
    # Without an item before the newest, nothing is left out.
    assert collator.encode_rows([{**ITEM_ROW, "target_positions": [1]}])[0].item_targets.tolist() == [1]


def test_twins_predict_the_same_items(processor):
    """In pre-training, every item is predicted from its history as text, and from the compressed one."""
    collator = PatchPretrainDataCollator(item_processor(processor), objective="item")
    text, compressed = collator.encode_rows(stamped([ITEM_ROW], progress=1.0))
    assert text.item_targets.tolist() == compressed.item_targets.tolist() == [2, 6, 5]
    assert len(text.patch_positions) == 0
    assert len(np.unique(compressed.patch_positions)) == 5


def test_negatives_are_drawn_in_training_only(processor, rows):
    processor = item_processor(processor)

    def candidates(rows, seed=0, **kwargs):
        negatives = NegativeSampling(4)
        batch = PatchDataCollator(processor, seed=seed, objective="item", negatives=negatives, **kwargs)(rows)
        return batch["candidate_items"][0].tolist(), "candidate_log_inclusion" in batch

    rows = list(rows)[:2]
    assert candidates(rows) == (list(range(12)), False)
    drawn = candidates(stamped(rows))
    assert drawn == candidates(stamped(rows), tree_packing=True)
    assert drawn[1]
    assert {processor.catalog.indices_of([row["item_ids"][-1]])[0] for row in rows} <= set(drawn[0])
    assert len(drawn[0]) < 7
    assert len({str(candidates(stamped(rows, step), seed)) for step in range(3) for seed in range(3)}) > 4


def test_arguments_of_item_objectives(processor):
    with pytest.raises(ValueError, match=r"`objective` must be one of 'title', 'item', 'both', got 'items'"):
        PatchDataCollator(processor, objective="items")
    with pytest.raises(ValueError, match=r"`num_negatives` must lie between 1 and the catalog's 12 items, got 13"):
        PatchDataCollator(processor, objective="item", negatives=NegativeSampling(13))


def test_too_long_for_the_context_by_items(processor):
    """What follows the history does not count where only items are predicted."""
    row = {"user_id": 7, "item_ids": [10, 11, 12], "target_positions": [2]}
    length = len(processor.prompt.prefix_ids) + 1 + 3
    processor = item_processor(processor)
    PatchDataCollator(processor, max_length=length, objective="item")([row])
    with pytest.raises(ValueError, match=rf"user 7 takes {length} tokens"):
        PatchDataCollator(processor, max_length=length - 1, objective="item")([row])
    with pytest.raises(ValueError, match="user 7 takes"):
        PatchDataCollator(processor, max_length=length, objective="both")([row])


@pytest.mark.parametrize("packing", [False, True])
def test_batches_do_not_read_timestamps(processor, rows, packing):
    collator = PatchDataCollator(processor, tree_packing=packing)
    timed = [{**row, "timestamps": list(range(len(row["item_ids"])))} for row in rows]
    plain, with_times = collator(list(rows)), collator(timed)
    assert plain.keys() == with_times.keys()
    assert all(torch.equal(plain[key], with_times[key]) for key in plain)
    with pytest.raises(ValueError, match="has 1 timestamps for"):
        collator([{**rows[0], "timestamps": [5]}])


LONG_ROW = {
    "user_id": 3,
    "item_ids": [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21],
    "target_positions": [8, 10, 11],
    "timestamps": [0, 5, 9, 100, 104, 300, 301, 302, 303, 500, 501, 502],
}


@pytest.mark.parametrize("objective", ["title", "item"])
@pytest.mark.parametrize("separate", [True, False])
def test_a_training_row_draws_one_budget_for_all_its_targets(processor, objective, separate):
    layout = BudgetLayout(40, min_tokens=3, num_text_items=2)
    processor = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, layout, 8, separate)
    collator = PatchDataCollator(processor, seed=5, objective=objective)
    found = set()
    for step in range(12):
        histories = collator.encode_rows([ScheduledRow(LONG_ROW, step, 0.5)])
        read = processor.catalog.indices_of(LONG_ROW["item_ids"][:8])
        drawn = layout.drawn((5, step, processor.title_tokens.checksum(read)))
        fixed = PatchDataCollator(processor, drawn, objective=objective).encode_rows([LONG_ROW])
        assert [one.input_ids.tolist() for one in histories] == [one.input_ids.tolist() for one in fixed]
        assert all(history.counts.history <= drawn.max_tokens for history in histories)
        found.add(drawn.max_tokens)
    assert len(found) > 5
    of_evaluation = collator.encode_rows([LONG_ROW])
    widest = PatchDataCollator(processor, layout.with_budget(40), objective=objective).encode_rows([LONG_ROW])
    assert [one.input_ids.tolist() for one in of_evaluation] == [one.input_ids.tolist() for one in widest]


def test_a_row_within_its_budget_is_one_sequence(processor):
    """Item patches are append-only, so one history predicts all items, as with `ItemPatchLayout(0)`."""
    for separate, least in ((True, 21), (False, 11)):  # 11 items before the last target
        for max_tokens, num_histories in ((least, 1), (least - 1, 3)):
            layout = BudgetLayout(max_tokens, num_text_items=0)
            other = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, layout, 8, separate)
            histories = PatchDataCollator(other, objective="item").encode_rows([LONG_ROW])
            assert len(histories) == num_histories
        (whole,) = PatchDataCollator(other, ItemPatchLayout(0), objective="item").encode_rows([LONG_ROW])
        (one,) = PatchDataCollator(other, BudgetLayout(least, None, 0), objective="item").encode_rows([LONG_ROW])
        assert one.input_ids.tolist() == whole.input_ids.tolist()
        assert one.item_positions.tolist() == whole.item_positions.tolist()
        texts = PatchDataCollator(other, BudgetLayout(least), objective="item").encode_rows([LONG_ROW])
        assert len(texts) == 3


def test_row_lengths_of_layouts_that_ask_for_facts(processor):
    rows = Dataset.from_list(
        [LONG_ROW, {**LONG_ROW, "target_positions": [4, 6]}, {**LONG_ROW, "target_positions": []}]
    )
    for layout in (TimeWindowLayout(60, 1), BudgetLayout(12, num_text_items=1), PyramidLayout(1, width=2)):
        for separate in (True, False):
            other = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, layout, 8, separate)
            collator = PatchDataCollator(other)
            longest = [collator.encode_rows([row])[-1].counts.history for row in list(rows)[:2]]
            assert collator.row_lengths(rows).tolist() == [*longest, 0]
    with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but a data set has no column"):
        PatchDataCollator(processor, TimeWindowLayout(60)).row_lengths(rows.remove_columns("timestamps"))


def test_windows_of_time_are_read_from_rows(processor):
    collator = PatchDataCollator(processor, TimeWindowLayout(60, num_text_items=0))
    *_, history = collator.encode_rows([LONG_ROW])
    # The window begins at the first item. Sessions: 0 5 9, 100 104, 300 to 303, 500 501.
    assert (history.input_ids == processor.prompt.patch_id).sum() == 4
    assert [int((np.diff(history.item_ends) == 0).sum())] == [2 + 1 + 3 + 1]
    without = {name: values for name, values in LONG_ROW.items() if name != "timestamps"}
    with pytest.raises(ValueError, match=r"reads timestamps, but the row of user 3 has no `timestamps`.*choose a"):
        collator.encode_rows([without])
    with pytest.raises(ValueError, match=r"timestamps must ascend, .* item 3 has 3 after 9"):
        collator.encode_rows([{**LONG_ROW, "timestamps": [0, 5, 9, 3, *LONG_ROW["timestamps"][4:]]}])
