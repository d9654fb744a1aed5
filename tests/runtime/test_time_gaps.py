"""Time gaps: their buckets, and what they add to patches."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from patchrec_hf import (
    CatalogRanker,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    RankingConfig,
    evaluate_model,
)
from patchrec_hf.runtime.time_gaps import gap_buckets


MINUTE, DAY = 60, 86_400


def test_buckets_by_hand():
    gaps = [0, 59, 60, 3 * MINUTE - 1, 3 * MINUTE, DAY, 100 * 365 * DAY]
    # 0 and 59 seconds: bucket 0; 1 and 2 minutes: bucket 1; 3 minutes: bucket 2; 1440 minutes: 2^10 - 1 to 2^11 - 2.
    assert gap_buckets(np.cumsum([5, *gaps]), 24).tolist() == [-1, 0, 0, 1, 1, 2, 10, 23]
    assert gap_buckets(np.array([5]), 24).tolist() == [-1]
    assert gap_buckets(np.empty(0, dtype=np.int64), 24).tolist() == []


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20), st.integers(1, 40))
def test_longer_gaps_have_higher_buckets(gaps, num_buckets):
    buckets = gap_buckets(np.cumsum([0, *sorted(gaps)]), num_buckets)[1:]
    assert (np.diff(buckets) >= 0).all()
    minutes = np.sort(gaps) // MINUTE
    lowest, highest = 2.0**buckets - 1, 2.0 ** (buckets + 1) - 1
    assert (minutes >= lowest).all()
    assert ((minutes < highest) | (buckets == num_buckets - 1)).all()


def test_times_that_descend():
    with pytest.raises(ValueError, match="must ascend, got 9 before 4"):
        gap_buckets(np.array([1, 9, 4]), 24)


def with_gaps(processor, **settings):
    parts = (processor.tokenizer, processor.catalog, processor.prompt, ItemPatchLayout(0))
    return PatchRecProcessor(*parts, time_gaps=4, **settings)


@pytest.fixture
def timed(processor):
    return with_gaps(processor, item_residuals=3)


TIMES = np.array([0, 30, 30 + 2 * MINUTE, 10 * DAY])  # buckets: none, 0, 1, 3


def test_a_patch_holds_its_gap(timed, processor):
    items = np.array([1, 5, 2, 0])
    encoded = timed.encode(items, timestamps=TIMES)
    lengths = timed.title_tokens.lengths
    by_patch = np.split(encoded.patch_token_ids, np.flatnonzero(np.diff(encoded.patch_positions)) + 1)
    # The ids after the title: -1 - i is the residual of item i < 3, and -4 - b is bucket b.
    assert [patch[lengths[item] :].tolist() for item, patch in zip(items, by_patch, strict=True)] == [
        [-2], [-4], [-3, -5], [-1, -7]
    ]  # fmt: skip
    assert (encoded.patch_divisors[encoded.patch_token_ids < 0] == 1).all()
    without = processor.encode(items, layout=ItemPatchLayout(0))
    assert (without.patch_token_ids >= 0).all()


def test_a_session_patch_holds_the_mean_of_its_gaps(timed):
    def one_session(num_items, seed=()):
        return [("session_patch", 0, num_items)]

    encoded = timed.encode(np.array([1, 5, 2, 0]), timestamps=TIMES, layout=one_session)
    is_gap = encoded.patch_token_ids < -3
    assert encoded.patch_token_ids[is_gap].tolist() == [-4, -5, -7]
    assert (encoded.patch_divisors[is_gap] == 4).all()


def test_only_the_window_that_is_read_counts(timed):
    long = timed.encode(np.array([4, 1, 5]), timestamps=np.array([0, 50 * DAY, 50 * DAY + 30]), max_history=2)
    short = timed.encode(np.array([1, 5]), timestamps=np.array([7, 37]))
    assert long.patch_token_ids.tolist() == short.patch_token_ids.tolist()


def test_timestamps_that_are_missing_or_too_few(timed, processor):
    with pytest.raises(ValueError, match="needs the timestamps of the history"):
        timed.encode(np.array([1, 2]))
    with pytest.raises(ValueError, match="2 items and 3 timestamps"):
        timed.encode(np.array([1, 2]), timestamps=np.array([1, 2, 3]))
    assert processor.encode(np.array([1, 2])).prompt_length > 0  # needs none


@pytest.mark.parametrize("number", [-1, 2.0, True])
def test_a_number_of_buckets_that_is_none(processor, number):
    with pytest.raises(ValueError, match="`time_gaps` must be a whole number of at least 0"):
        PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, time_gaps=number)


def patches(model, encoded):
    tensors = [torch.from_numpy(getattr(encoded, name))[None] for name in (
        "input_ids", "patch_token_ids", "patch_positions", "patch_divisors"
    )]  # fmt: skip
    embeds = model.prepare_inputs_embeds(*tensors)[0]
    return embeds[np.unique(encoded.patch_positions)]


@torch.no_grad()
def test_gaps_join_the_patches(model, timed, processor):
    items = np.array([1, 5, 2, 0])
    encoded, plain = timed.encode(items, timestamps=TIMES), processor.encode(items, layout=ItemPatchLayout(0))
    expected = patches(model, plain)
    model.add_item_head(processor.catalog)
    model.add_time_gaps(4)
    # The head's residuals are of all 12 items; the processor's of 3 would not fit.
    full = with_gaps(processor, item_residuals=True)
    model.check_processor(full)
    encoded = full.encode(items, timestamps=TIMES)
    torch.testing.assert_close(patches(model, encoded), expected)  # all are zero at the start
    model.model.time_gaps.weight[:] = torch.arange(4.0)[:, None] + 1
    torch.testing.assert_close(patches(model, encoded), expected + torch.tensor([0.0, 1, 2, 4])[:, None])
    model.model.item_residual.weight[5] = 0.5
    torch.testing.assert_close(patches(model, encoded), expected + torch.tensor([0.0, 1.5, 2, 4])[:, None])


@torch.no_grad()
def test_gaps_without_residuals(model, processor):
    timed = PatchRecProcessor(
        processor.tokenizer, processor.catalog, processor.prompt, ItemPatchLayout(0), time_gaps=4
    )
    model.add_time_gaps(4)
    model.check_processor(timed)
    items = np.array([1, 5, 2, 0])
    model.model.time_gaps.weight[:] = torch.arange(4.0)[:, None] + 1
    expected = patches(model, processor.encode(items, layout=ItemPatchLayout(0)))
    found = patches(model, timed.encode(items, timestamps=TIMES))
    torch.testing.assert_close(found, expected + torch.tensor([0.0, 1, 2, 4])[:, None])


def test_a_checkpoint_keeps_its_gaps(model, processor, tmp_path):
    timed = PatchRecProcessor(
        processor.tokenizer, processor.catalog, processor.prompt, ItemPatchLayout(0), time_gaps=4
    )
    model.add_time_gaps(4)
    with torch.no_grad():
        model.model.time_gaps.weight[:] = 3
    for part in (model, timed):
        part.save_pretrained(tmp_path)
    loaded, saved = PatchRecForCausalLM.from_pretrained(tmp_path), PatchRecProcessor.from_pretrained(tmp_path)
    loaded.check_processor(saved)
    assert saved.num_time_gaps == 4
    assert (loaded.model.time_gaps.weight == 3).all()


def test_a_model_and_a_processor_that_differ(model, processor):
    timed = PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, time_gaps=4)
    with pytest.raises(ValueError, match="reads 0 kinds of time gaps, but the processor writes 4"):
        model.check_processor(timed)
    model.add_time_gaps(5)
    with pytest.raises(ValueError, match="has time gaps already"):
        model.add_time_gaps(4)
    with pytest.raises(ValueError, match="reads 5 kinds of time gaps, but the processor writes 4"):
        model.check_processor(timed)


ROW = {
    "user_id": 7,
    "item_ids": [11, 15, 12, 10, 16],
    "timestamps": [*TIMES.tolist(), 11 * DAY],
    "target_positions": [3, 4],
}


@torch.no_grad()
def test_batches_hold_the_gaps_of_rows(model, processor):
    timed = with_gaps(processor)
    model.add_time_gaps(4)
    model.model.time_gaps.weight.normal_()
    first, second = PatchDataCollator(timed).encode_rows([ROW])
    alone = timed.encode(np.array([1, 5, 2]), timestamps=TIMES[:3])
    assert first.patch_token_ids.tolist() == alone.patch_token_ids.tolist()
    assert second.patch_token_ids[second.patch_token_ids < 0].tolist() == [-1, -2, -4]
    padded, packed = (PatchDataCollator(timed, tree_packing=packs)([ROW]) for packs in (False, True))
    loss = model(**padded).loss
    model.enable_tree_packing()
    torch.testing.assert_close(model(**packed).loss, loss, rtol=1e-5, atol=1e-5)
    without = {name: values for name, values in ROW.items() if name != "timestamps"}
    assert len(PatchDataCollator(processor).encode_rows([without])) == 2
    with pytest.raises(ValueError, match="row of user 7 has no `timestamps`"):
        PatchDataCollator(timed).encode_rows([without])


@given(st.integers(0, 3), st.lists(st.integers(0, DAY), min_size=2, max_size=2))
def test_nothing_is_told_of_the_targets_time_or_later(processor, position, gaps):
    """The times of a target and of what follows it change, and what is read before it does not."""
    timed = with_gaps(processor)
    row = {**ROW, "target_positions": [position + 1]}
    changed = list(row["timestamps"])
    changed[position + 1 :] = [changed[position] + sum(gaps)] * (len(changed) - position - 1)
    before, after = (
        PatchDataCollator(timed).encode_rows([{**row, "timestamps": times}])[0]
        for times in (row["timestamps"], changed)
    )
    assert before.patch_token_ids.tolist() == after.patch_token_ids.tolist()


def test_an_evaluation_reads_the_same_gaps(model, processor):
    timed = with_gaps(processor)
    model.add_time_gaps(4)
    with torch.no_grad():
        model.model.time_gaps.weight.normal_(std=3)
    rows = Dataset.from_list([{**ROW, "target_positions": [4]}])
    evaluate = partial(evaluate_model, model, timed, k=12, keep_rankings=True, show_progress=False)
    (ranked,) = evaluate(rows).targets["ranked_ids"]
    (prompt,) = PatchDataCollator(timed).encode_rows([{**ROW, "target_positions": [4]}])
    expected = CatalogRanker(model, timed, RankingConfig(k=12)).rank([prompt]).items[0]
    found = timed.catalog.indices_of(ranked.to_list()[:11]).tolist()
    assert found == [item for item in expected.tolist() if item != 5]  # 4 stands for its title, which 5 has too
    with pytest.raises(ValueError, match="needs the timestamps"):
        evaluate(rows.remove_columns("timestamps"))


def test_a_trainer_adds_the_gaps_that_the_processor_writes(model, processor, tmp_path):
    timed = with_gaps(processor)
    args = PatchFinetuneConfig(str(tmp_path), max_steps=2, learning_rate=1e-2, report_to="none", save_strategy="no")
    rows = Dataset.from_list([ROW] * 4)
    trainer = PatchFinetuneTrainer(model, args, train_dataset=rows, processing_class=timed)
    trainer.train()
    assert trainer.model.config.num_time_gaps == 4
    assert (trainer.model.model.time_gaps.weight[[0, 1, 3]] != 0).any(dim=1).all()
    assert (trainer.model.model.time_gaps.weight[2] == 0).all()  # no row holds such a gap


def test_a_trainer_checks_times_before_it_trains(model, processor, tmp_path):
    """Rows of an evaluation would otherwise be refused hours later, and a resumed run would learn other gaps."""
    timed = with_gaps(processor)
    rows = Dataset.from_list([ROW] * 4)
    without = rows.remove_columns("timestamps")

    def trainer(train, evaluation=None):
        args = PatchFinetuneConfig(
            str(tmp_path), report_to="none", eval_strategy="no" if evaluation is None else "steps"
        )
        return PatchFinetuneTrainer(
            model, args, train_dataset=train, eval_dataset=evaluation, processing_class=timed
        )  # fmt: skip

    for data in ((without,), (rows, without), (rows, {"a": rows, "b": without})):
        with pytest.raises(ValueError, match=r"patches of this model hold time gaps, but .* no column `timestamps`"):
            trainer(*data)
    with pytest.raises(ValueError, match="no column `timestamps`"):
        trainer(rows).get_test_dataloader(without)
    later = rows.map(lambda row: {"timestamps": [2 * time for time in row["timestamps"]]})
    assert trainer(rows)._run_facts() != trainer(later)._run_facts()


def test_recommending_needs_the_times_of_the_history(model, processor):
    timed = with_gaps(processor)
    model.add_time_gaps(4)
    with torch.no_grad():
        model.model.time_gaps.weight.normal_(std=3)
    recommender = PatchRecommender(model, timed)
    history, times = [11, 15, 12], TIMES[:3].tolist()
    best = recommender.recommend(history, k=3, timestamps=times)
    prompt = timed.encode(timed.catalog.indices_of(history), timestamps=TIMES[:3])
    scores = CatalogRanker(model, timed, RankingConfig(k=1)).score([prompt])[0]
    places = timed.catalog.indices_of([item.item_id for item in best])
    assert [item.score for item in best] == pytest.approx(scores[places].tolist())
    batch = recommender.recommend([history, history], k=3, timestamps=[times, [0, DAY, 30 * DAY]])
    assert [item.item_id for item in batch[0]] == [item.item_id for item in best]
    assert [item.score for item in batch[0]] == pytest.approx([item.score for item in best])
    assert [item.score for item in batch[1]] != pytest.approx([item.score for item in best])
    inputs = timed(history, timestamps=times)
    assert (inputs["patch_token_ids"] < 0).any()
    probabilities = recommender.log_probs([history], timestamps=[times])
    assert np.exp(probabilities).sum() == pytest.approx(1)
    for call in (recommender.recommend, timed):
        with pytest.raises(ValueError, match="needs the timestamps of the history"):
            call(history)
        with pytest.raises(ValueError, match="history in row 0 has 3 items, but 2 timestamps"):
            call(history, timestamps=[1, 2])
        with pytest.raises(ValueError, match="one list for each of 2 histories, got 1"):
            call([history, history], timestamps=[times])
        with pytest.raises(TypeError, match="must hold a list of whole numbers for each history"):
            call(history, timestamps=[1.5, 2.5, 3.5])
        with pytest.raises(ValueError, match="in milliseconds, divide it by 1000"):
            call(history, timestamps=[10**12 * 40] * 3)


def test_a_model_without_gaps_does_not_read_times(model, processor):
    plain, history = PatchRecommender(model, processor), [11, 15, 12]
    assert plain.recommend(history, k=3, timestamps=TIMES[:3].tolist()) == plain.recommend(history, k=3)
