"""Losses over the catalog: by brute force from full logits, however histories are batched."""

import numpy as np
import pytest
import torch
from conftest import ITEM_IDS, TITLES
from gradients import assert_same_gradients, gradients
from item_parts import item_model, item_processor
from tiny_parts import title_tokens
from trees import plain

from patchrec_hf import (
    BOOK_PROMPT,
    Catalog,
    PatchDataCollator,
    PatchPretrainDataCollator,
    PatchRecProcessor,
    TextLayout,
)
from patchrec_hf.batches.choices import choice_tensors, choices_of, with_choices
from patchrec_hf.batches.filled import FillerRow
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.batches.statistics import batch_token_counts
from patchrec_hf.runtime.encoding import pad_histories
from patchrec_hf.runtime.trie import build_trie


END = 9
# Root → 1 → (2 → (3 → END | END) | 4 → END), and root → 5 → 6 → END. Items 0 to 4; items 3 and 4 share a title.
TRIE = build_trie(title_tokens([[1, 2, 3], [1, 2], [1, 4], [5, 6], [5, 6]]), END)
ROWS = [
    {"user_id": 0, "item_ids": ITEM_IDS[:9], "target_positions": [3, 4, 7, 8]},
    {"user_id": 1, "item_ids": ITEM_IDS[::-1], "target_positions": [2]},
    {"user_id": 2, "item_ids": [13, 12, 16, 17, 15], "target_positions": [1, 2, 3, 4]},
]


def tokens_of(nodes):
    return TRIE.tokens[nodes].tolist()


def collators(processor, **kwargs):
    """The collator of either stage, with rows as it gets them in training."""
    stamped = [ScheduledRow(row, 3, 0.5) for row in ROWS]
    return [
        (PatchDataCollator(processor, title_normalizer="catalog", **kwargs), ROWS),
        (PatchPretrainDataCollator(processor, title_normalizer="catalog", **kwargs), stamped),
    ]


def test_choices_by_hand():
    found = choices_of(TRIE, np.array([0, 3, 2, 1, 0]))
    assert [tokens_of(choices) for choices in found] == [[-1, 1, 2], [-1], [-1, 1], [-1, 1, 2], [-1, 1, 2]]
    assert [len(choices) for choices in choices_of(TRIE, np.array([4]))] == [1]


def test_the_response_ends_before_the_last_label():
    history = plain([20, 21, 1, 2, 3, END], 2)
    found = with_choices(history, TRIE, *choices_of(TRIE, np.array([0])))
    assert found.input_ids.tolist() == [20, 21, 1, 2]
    assert found.supervised_positions.tolist() == [1, 2, 3]
    assert found.next_tokens.tolist() == [1, 2, 3]
    certain = with_choices(plain([20, 21, 5, 6, END], 2), TRIE, *choices_of(TRIE, np.array([3])))
    assert certain.input_ids.tolist() == [20, 21]
    assert (certain.supervised_positions.tolist(), certain.next_tokens.tolist()) == ([1], [5])


def test_a_forced_token_between_choices_is_read_without_a_label():
    trie = build_trie(title_tokens([[1, 2, 3], [1, 2, 4], [5]]), END)
    found = with_choices(plain([20, 1, 2, 4, END], 1), trie, *choices_of(trie, np.array([1])))
    assert found.input_ids.tolist() == [20, 1, 2]
    assert found.supervised_positions.tolist() == [0, 2]
    assert found.next_tokens.tolist() == [1, 4]


def test_titles_that_begin_alike_have_a_first_label():
    trie = build_trie(title_tokens([[1, 2, 3], [1, 2, 4]]), END)
    both = choices_of(trie, np.array([1, 0]))
    assert [trie.depths[choices].tolist() for choices in both] == [[0, 2], [0, 2]]
    alone = build_trie(title_tokens([[1, 2], [1, 2]]), END)
    assert [choices.tolist() for choices in choices_of(alone, np.array([0, 1]))] == [[0], [0]]


def test_tensors_by_hand():
    histories = [
        with_choices(plain([20, *title, END], 1), TRIE, *choices_of(TRIE, np.array([item])))
        for item, title in ((2, [1, 4]), (3, [5, 6]))
    ]
    histories.insert(1, plain([20], 1))  # a filler
    batch = pad_histories(histories, pad_id=0)
    assert batch["shift_labels"].tolist() == [[1, 4], [-100, -100], [5, -100]]
    tensors = choice_tensors(TRIE, histories, batch["shift_labels"])
    assert tensors["shift_choices"].tolist() == [[0, 1], [-100, -100], [0, -100]]
    assert tensors["choice_token_ids"].tolist() == [[1, 2, 4, 5]]
    assert tensors["choice_starts"].tolist() == [[0, 2, 4]]
    assert tensors["choice_columns"].tolist() == [[0, 3, 1, 2]]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.int64}


def test_the_end_of_a_title_may_be_the_largest_token():
    """The trie has it first, but tensors hold tokens in ascending order."""
    history = with_choices(plain([20, 1, 2, 3, END], 1), TRIE, *choices_of(TRIE, np.array([0])))
    batch = pad_histories([history], pad_id=0)
    tensors = choice_tensors(TRIE, [history], batch["shift_labels"])
    assert tensors["choice_token_ids"].tolist() == [[1, 2, 3, 4, 5, END]]
    assert tensors["choice_starts"].tolist() == [[0, 2, 4, 6]]
    assert tensors["choice_columns"].tolist() == [[0, 4, 1, 3, 2, 5]]


@pytest.mark.parametrize("tree_packing", [False, True])
def test_the_vocabularys_batches_hold_no_choices(processor, tree_packing):
    plain_batch = PatchDataCollator(processor, tree_packing=tree_packing)(ROWS)
    assert not any("choice" in name for name in plain_batch)
    batch = PatchDataCollator(processor, tree_packing=tree_packing, title_normalizer="catalog")(ROWS)
    assert set(batch) - set(plain_batch) == {"shift_choices", "choice_starts", "choice_columns", "choice_token_ids"}
    assert batch["input_ids"].numel() < plain_batch["input_ids"].numel()
    assert batch["shift_choices"].shape == batch["shift_labels"].shape


@torch.no_grad()
def loss_by_brute_force(model, processor, history, target, temperature=1.0):
    """The losses of a title's tokens: softmax of full logits over the children of each node on its path."""
    trie, example = processor.trie, processor.encode(history, target)
    batch = pad_histories([example], processor.prompt.pad_id)
    names = ("input_ids", "patch_token_ids", "patch_positions", "patch_divisors")
    logits = model(**{name: batch[name] for name in names}).logits[0].double() / temperature
    node, losses = 0, []
    for position, token in enumerate(example.input_ids[example.prompt_length :], start=example.prompt_length - 1):
        _, children = trie.children_of(np.array([node]))
        tokens = trie.tokens[children].tolist()
        node = children[tokens.index(token)]
        if len(children) > 1:
            losses.append(-logits[position, tokens].log_softmax(0)[tokens.index(token)].item())
    return losses


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_is_a_softmax_over_children(model, processor, temperature):
    histories = [np.arange(5), np.array([9, 3, 4]), np.array([2, 8])]
    targets = [7, 2, 4]
    expected = [
        loss
        for history, target in zip(histories, targets, strict=True)
        for loss in loss_by_brute_force(model, processor, history, target, temperature)
    ]
    rows = [
        {"user_id": 0, "item_ids": [ITEM_IDS[item] for item in (*history, target)], "target_positions": [len(history)]}
        for history, target in zip(histories, targets, strict=True)
    ]
    batch = PatchDataCollator(processor, title_normalizer="catalog")(rows)
    output = model(**batch, title_temperature=temperature)
    assert (batch["shift_labels"] != -100).sum() == len(expected)
    assert output.loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert output.title_loss is output.loss
    assert output.logits.shape == (1, len(expected), batch["choice_token_ids"].shape[1])
    model.config.title_normalizer, model.config.title_temperature = "catalog", temperature
    assert model(**batch).loss.item() == output.loss.item()  # the configuration's, if none is given
    halved = model(**batch, title_temperature=temperature, num_items_in_batch=torch.tensor(2 * len(expected)))
    assert halved.loss.item() == pytest.approx(output.loss.item() / 2)


@torch.no_grad()
def test_the_probabilities_of_all_titles_sum_to_1(model, processor):
    """Items 14 and 15 share a title, which counts once."""
    collator = PatchDataCollator(processor, title_normalizer="catalog")
    total = 0.0
    for target in (item for item in ITEM_IDS if item != 15):
        batch = collator([{"user_id": 0, "item_ids": [10, 18, 12, target], "target_positions": [3]}])
        total += np.exp(-model(**batch, num_items_in_batch=torch.tensor(1)).loss.item())
    assert total == pytest.approx(1, abs=1e-5)


def test_packed_and_padded_batches_are_single_histories(model, processor):
    for (padded, rows), (packed, _) in zip(collators(processor), collators(processor, tree_packing=True), strict=True):
        singles = padded.encode_rows(rows)
        num_labels = torch.tensor(sum(len(history.choices) for history in singles))
        model.zero_grad()
        total = 0.0
        for history in singles:
            batch = pad_histories([history], processor.prompt.pad_id)
            batch |= choice_tensors(processor.trie, [history], batch["shift_labels"])
            loss = model(**batch, num_items_in_batch=num_labels).loss
            loss.backward()
            total += loss.item()
        expected = total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        assert_same_gradients(gradients(model, padded(rows)), expected)
        model.enable_tree_packing()
        assert_same_gradients(gradients(model, packed(rows)), expected)
        model.disable_tree_packing()


@pytest.mark.parametrize("tree_packing", [False, True])
def test_titles_among_the_catalog_and_items(processor, tree_packing):
    """Each loss is the one that it is alone."""
    model, processor = item_model(), item_processor(processor)
    if tree_packing:
        model.enable_tree_packing()
    kwargs = {"tree_packing": tree_packing, "title_normalizer": "catalog"}
    both = model(**PatchDataCollator(processor, objective="both", **kwargs)(ROWS))
    titles = model(**PatchDataCollator(processor, **kwargs)(ROWS))
    items = model(**PatchDataCollator(processor, objective="item", **kwargs)(ROWS))
    assert both.title_loss.item() == pytest.approx(titles.loss.item(), rel=1e-5)
    assert both.item_loss.item() == pytest.approx(items.loss.item(), rel=1e-5)
    assert both.loss.item() == pytest.approx(titles.loss.item() + items.loss.item(), rel=1e-5)
    assert items.choice_entropy is None


@pytest.mark.parametrize("tree_packing", [False, True])
def test_fillers_have_no_labels(model, processor, tree_packing):
    collator = PatchDataCollator(processor, tree_packing=tree_packing, title_normalizer="catalog")
    if tree_packing:
        model.enable_tree_packing()
    alone, filled = collator(ROWS[:2]), collator([*ROWS[:2], FillerRow(ROWS[2])])
    assert model(**filled).loss.item() == pytest.approx(model(**alone).loss.item(), rel=1e-6)
    nothing = collator([FillerRow(ROWS[0])])
    loss = model(**nothing, num_items_in_batch=torch.tensor(0)).loss
    loss.backward()
    assert loss.item() == 0
    assert batch_token_counts(filled)[0] == batch_token_counts(alone)[0] == 5


@pytest.mark.parametrize("tree_packing", [False, True])
def test_what_is_read_is_counted(processor, tree_packing):
    """Prompts count as with the whole vocabulary, and responses only as far as they are read."""
    ours = PatchDataCollator(processor, tree_packing=tree_packing, title_normalizer="catalog")(ROWS)
    theirs = PatchDataCollator(processor, tree_packing=tree_packing)(ROWS)
    histories, prompts, text, positions, padding, labels, items = batch_token_counts(ours).tolist()
    expected = batch_token_counts(theirs).tolist()
    assert [histories, prompts, text, items] == [*expected[:3], 0]
    assert positions - padding < expected[3] - expected[4]
    assert labels == (ours["shift_choices"] != -100).sum() < expected[5]


def test_a_context_need_not_hold_what_is_not_read(processor):
    row = {"user_id": 0, "item_ids": [10, 20], "target_positions": [1]}
    length = PatchDataCollator(processor, title_normalizer="catalog")([row])["input_ids"].shape[1]
    PatchDataCollator(processor, title_normalizer="catalog", max_length=length)([row])
    with pytest.raises(ValueError, match="reads at most"):
        PatchDataCollator(processor, max_length=length)([row])


def test_new_items_compete(model, tokenizer, processor):
    """With more titles, more tokens compete: the probability of a title can only fall."""
    row = {"user_id": 0, "item_ids": [10, 18, 14], "target_positions": [2]}

    def title_loss(catalog):
        processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, TextLayout())
        batch = PatchDataCollator(processor, title_normalizer="catalog")([row])
        return model(**batch, num_items_in_batch=torch.tensor(1)).loss.item()

    catalog = Catalog.from_titles(TITLES)
    assert title_loss(catalog.with_items({22: "Poems of Oz", 23: "Zuleika"})) > title_loss(catalog) + 0.01


def test_one_title_alone(model, tokenizer):
    processor = PatchRecProcessor(tokenizer, Catalog.from_titles({1: "Emma", 2: "Emma"}), BOOK_PROMPT)
    collator = PatchDataCollator(processor, title_normalizer="catalog")
    batch = collator([{"user_id": 0, "item_ids": [1, 2], "target_positions": [1]}])
    loss, found = gradients(model, batch)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in found.values())


def test_incomplete_choices(model, processor):
    batch = PatchDataCollator(processor, title_normalizer="catalog")(ROWS)
    del batch["choice_starts"]
    with pytest.raises(ValueError, match=r"Choices need .*`choice_starts`.* one is missing"):
        model(**batch)


def test_unknown_normalizers(processor):
    with pytest.raises(ValueError, match=r"`title_normalizer` must be one of 'vocabulary', 'catalog', got 'trie'"):
        PatchDataCollator(processor, title_normalizer="trie")
