"""Candidates of item targets: what is drawn, with which probability, and what the histories hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from item_parts import item_model, item_processor
from trees import plain

from patchrec_hf import PatchDataCollator
from patchrec_hf.batches.candidates import NegativeSampling, all_candidates, candidate_features, draw_candidates
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.runtime.item_loss import FIXED_POINT, NOT_DRAWN
from patchrec_hf.runtime.title_similarity import log_shares


PATCH_KEYS = ("patch_token_ids", "patch_positions", "patch_divisors")


def history_of(items, targets, items_before):
    return replace(
        plain([5], 1), items=np.array(items), item_targets=np.array(targets), items_before=np.array(items_before)
    )


@pytest.mark.parametrize("num_residuals", [0, 3, 12])
def test_all_candidates_by_hand(processor, num_residuals):
    processor = item_processor(processor, item_residuals=num_residuals)
    batch = all_candidates(processor)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    tokens, starts, divisors = [], [], []
    for item in range(12):
        title = processor.title_tokens[item].tolist()
        starts.append(len(tokens))
        tokens += title
        divisors += [len(title)] * len(title)
        if item < num_residuals:
            tokens.append(-1 - item)
            divisors.append(1)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "candidate_items": [list(range(12))],
        "candidate_token_ids": [tokens],
        "candidate_starts": [starts],
        "candidate_divisors": [divisors],
    }


def test_targets_join_what_was_drawn(processor):
    processor, negatives = item_processor(processor), NegativeSampling(4)
    drawn, logs = negatives.draw(12, (3, 1))
    missing = next(item for item in range(12) if item not in drawn)
    batch = draw_candidates(processor, negatives, np.array([missing, drawn[0], missing]), (3, 1))
    items = batch["candidate_items"][0].tolist()
    assert items == sorted([*drawn.tolist(), missing])
    units = dict(zip(items, batch["candidate_log_inclusion"][0].tolist(), strict=True))
    assert units.pop(missing) == NOT_DRAWN
    assert units == {item: round(log * FIXED_POINT) for item, log in zip(drawn.tolist(), logs.tolist(), strict=True)}
    whole = all_candidates(processor)
    ends = [*whole["candidate_starts"][0].tolist()[1:], whole["candidate_token_ids"].shape[1]]
    spans = [slice(whole["candidate_starts"][0, item], ends[item]) for item in items]
    for name in ("candidate_token_ids", "candidate_divisors"):
        assert batch[name][0].tolist() == [number for span in spans for number in whole[name][0, span].tolist()]
    sizes = [span.stop - int(span.start) for span in spans]
    assert batch["candidate_starts"][0].tolist() == (np.cumsum(sizes) - sizes).tolist()


@given(
    num_items=st.integers(1, 30), share=st.floats(0, 1), seed=st.lists(st.integers(0, 99), max_size=3),
    weighted=st.booleans(),
)  # fmt: skip
def test_items_are_drawn_without_replacement(num_items, share, seed, weighted):
    num_negatives = 1 + int(share * (num_items - 1))
    weights = np.random.default_rng(0).uniform(0.1, 9, num_items) if weighted else None
    negatives = NegativeSampling(num_negatives, weights)
    negatives.check(num_items)
    drawn, logs = negatives.draw(num_items, seed)
    assert len(drawn) == len(logs) == num_negatives
    assert (np.diff(drawn) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < num_items
    again = negatives.draw(num_items, seed)
    assert np.array_equal(again[0], drawn)
    assert np.array_equal(again[1], logs)
    if num_negatives == num_items:
        assert logs.tolist() == [0] * num_items
    else:
        assert (logs <= 0).all()
        # The probability is 1 − exp(−weight · time), with one time for all.
        rarely = logs < np.log(0.99)
        rates = (np.ones(num_items) if weights is None else weights)[drawn[rarely]]
        times = -np.log1p(-np.exp(logs[rarely])) / rates
        np.testing.assert_allclose(times, times[:1].repeat(len(times)), rtol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 3.0, 9.0, 0.3, 1.0, 2.0, 5.0, 1.0, 0.5]])
def test_sums_over_a_sample_are_unbiased(weights):
    """Of 4,000 draws, the mean sum is within five of its standard errors, for each item and for the sum of all."""
    values = np.exp(np.linspace(2, -2, 10))
    negatives = NegativeSampling(4, None if weights is None else np.array(weights))
    estimates = np.zeros((4000, 10))
    for number, row in enumerate(estimates):
        drawn, logs = negatives.draw(10, (number,))
        row[drawn] = values[drawn] / np.exp(logs)
    errors = estimates.std(axis=0) / len(estimates) ** 0.5
    assert (np.abs(estimates.mean(axis=0) - values) < 5 * errors).all()
    sums = estimates.sum(axis=1)
    assert abs(sums.mean() - values.sum()) < 5 * sums.std() / len(sums) ** 0.5
    # The test would see a probability that is wrong by a fifth.
    assert (errors < 0.2 * values / 5).mean() > 0.5


def test_heavier_items_are_drawn_more_often():
    weights = np.array([1.0, 1.0, 8.0, 1.0, 1.0])
    counts = np.zeros(5)
    for seed in range(1000):
        counts[NegativeSampling(1, weights).draw(5, (seed,))[0]] += 1
    # 8 / 12 of 1,000 draws; five standard deviations are 75.
    assert counts[2] == pytest.approx(667, abs=75)
    assert counts[[0, 1, 3, 4]].min() > 83 - 44


@pytest.mark.parametrize("objective", ["item", "both"])
@pytest.mark.parametrize("packs", [False, True])
def test_all_drawn_is_the_full_softmax(processor, rows, objective, packs):
    model, processor = item_model(), item_processor(processor)
    if packs:
        model.enable_tree_packing()
    scheduled = [ScheduledRow(row, 3, 0.5) for row in rows]
    losses = []
    for negatives in (None, NegativeSampling(12), NegativeSampling(12, np.linspace(0.1, 9, 12))):
        collator = PatchDataCollator(processor, objective=objective, negatives=negatives, tree_packing=packs)
        batch = collator(scheduled)
        assert ("candidate_log_inclusion" in batch) is (negatives is not None)
        losses.append(model(**batch).loss.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_sampled_loss_by_hand(processor):
    """The loss of a batch with sampled candidates, from the scores of the whole catalog."""
    model, processor = item_model(), item_processor(processor)
    row = {"user_id": 0, "item_ids": [10, 11, 12, 16, 14, 15], "target_positions": [2, 5]}
    collator = PatchDataCollator(processor, objective="item", negatives=NegativeSampling(5))
    batch = collator([ScheduledRow(row, 3, 0.5)])
    losses = []
    for place, (target, seen) in enumerate([(2, [0, 1]), (5, [0, 1, 2, 6, 4])]):
        states = model.model(**{name: batch[name] for name in ("input_ids", *PATCH_KEYS)}).last_hidden_state
        state = states[0, batch["item_positions"][0, place]][None]
        patches = model.model.fold_inputs(
            *(batch[name] for name in ("input_ids", *PATCH_KEYS)),
            *(all_candidates(processor)[f"candidate_{name}"] for name in ("token_ids", "starts", "divisors")),
        )[1]
        users, items, weights = model.item_head(state, patches, torch.arange(12))
        scores = (users @ items.T)[0].double()
        scores[seen] += weights[0].double()
        total = scores[target].exp().item()
        candidates = batch["candidate_items"][0].tolist()
        for item, units in zip(candidates, batch["candidate_log_inclusion"][0].tolist(), strict=True):
            if item != target and units != NOT_DRAWN:
                total += math.exp(scores[item].item() - units / FIXED_POINT)
        losses.append(math.log(total) - scores[target].item())
    assert model(**batch).loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_items_of_weight_zero_are_never_drawn():
    weights = np.array([0.0, 2.0, 1.0, 0.0, 1.0])
    for seed in range(50):
        drawn, logs = NegativeSampling(2, weights).draw(5, (seed,))
        assert len(drawn) == 2
        assert set(drawn) < {1, 2, 4}
        assert (logs < 0).all()
    for negatives in (NegativeSampling(3, weights), NegativeSampling(5, weights), NegativeSampling(None, weights)):
        drawn, logs = negatives.draw(5, (0,))
        assert drawn.tolist() == [1, 2, 4]
        assert logs.tolist() == [0, 0, 0]
    assert NegativeSampling().draw(3, (0,))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        (NegativeSampling(13), "`num_negatives` must lie between 1 and the catalog's 12 items, got 13"),
        (NegativeSampling(0), "`num_negatives` must lie between 1 and the catalog's 12 items, got 0"),
        (NegativeSampling(3, np.ones(11)), "`weights` must hold a number of at least 0 for each of 12 items"),
        (NegativeSampling(3, np.arange(12.0) - 1), "`weights` must hold a number of at least 0 for each of 12 items"),
        (NegativeSampling(3, np.full(12, np.nan)), "`weights` must hold a number of at least 0 for each of 12 items"),
    ],
)
def test_wrong_settings(processor, negatives, message):
    with pytest.raises(ValueError, match=message):
        negatives.check(12)
    with pytest.raises(ValueError, match=message):
        PatchDataCollator(processor, negatives=negatives)


def pairs(histories, candidates):
    """Rows and columns of the candidates that histories hold."""
    features = candidate_features(histories, np.array(candidates), None)["features"]
    assert features.dtype == torch.int64
    assert features.shape[::2] == (1, 4)
    rows, columns, kinds, values = features[0].T.tolist()
    assert rows == sorted(rows)
    assert set(kinds) <= {0}
    assert set(values) <= {FIXED_POINT}
    return sorted(zip(rows, columns, strict=True))


def test_seen_candidates_by_hand():
    """Each item once, however often a history holds it; only items before the target, also if they come again."""
    one = history_of([7, 2, 7, 3], [2, 7, 0], [1, 3, 4])
    assert pairs([one], range(8)) == [(0, 7), (1, 2), (1, 7), (2, 2), (2, 3), (2, 7)]
    other = history_of([3], [5], [1])
    assert pairs([one, other], range(8))[-2:] == [(2, 7), (3, 3)]
    assert pairs([other, one], range(8))[:2] == [(0, 3), (1, 7)]


def test_seen_candidates_of_a_sample():
    """Columns count the candidates. Items that were not drawn, and titles outside the catalog, have none."""
    one = history_of([7, 2, 90, 3], [2, 0], [2, 4])
    assert pairs([one], [0, 2, 7, 8]) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert pairs([one], [5, 6]) == []


def test_fillers_count_as_no_target():
    filler = history_of([7, 2], [-100, -100], [1, 2])
    assert pairs([filler, history_of([3, 1], [5], [2]), filler], range(8)) == [(0, 1), (0, 3)]
    assert pairs([filler], range(8)) == []


def test_seen_rows_number_the_targets_of_a_padded_batch(processor):
    rows = [
        {"user_id": 0, "item_ids": [10, 11, 12], "target_positions": [2]},
        {"user_id": 1, "item_ids": [13, 14, 13, 15], "target_positions": [1, 2, 3]},
    ]
    batch = PatchDataCollator(item_processor(processor), objective="item")(rows)
    assert batch["item_targets"].tolist() == [[2, -100, -100], [4, 3, 5]]
    found = sorted(map(tuple, batch["features"][0, :, :2].tolist()))
    assert found == [(0, 0), (0, 1), (1, 3), (2, 3), (2, 4), (3, 3), (3, 4)]


@pytest.mark.parametrize("candidates", [range(12), [0, 3, 7, 8]])
def test_similar_titles_are_features_of_the_latest_items(processor, candidates):
    """As the scorer computes them, in millionths; beside the candidates that the history holds."""
    items = np.array([3, 6, 9, 2, 6, 7, 0, 1, 4, 5, 8, 10, 11])
    histories = [
        history_of(items, [1, 2, 3], [1, 4, 13]), history_of([6], [-100], [1]), history_of([2, 90], [7], [2]),
    ]  # fmt: skip
    features = candidate_features(histories, np.array(candidates), processor.title_neighbors)["features"][0]
    assert (features[1:, 0] >= features[:-1, 0]).all()
    befores = [items[:1], items[:4], items[:13], np.array([2, 90])]
    similarities = log_shares(processor.title_neighbors.scores(befores))[:, candidates]
    assert similarities.any()
    found = np.zeros((4, len(candidates), 2))
    for row, column, kind, value in features.tolist():
        assert found[row, column, kind] == 0
        assert value > 0
        found[row, column, kind] = value / FIXED_POINT
    seen = np.array([[item in before for item in candidates] for before in befores])
    np.testing.assert_array_equal(found[..., 0], seen)
    np.testing.assert_allclose(found[..., 1], similarities, atol=1e-6)
