"""The item head: an untrained one changes nothing, and the scores are those of its formula."""

import math

import numpy as np
import pytest
import torch
from conftest import TITLES
from item_parts import item_model, item_processor, plain_model, scores_by_hand
from tiers import first_fast

from patchrec_hf import (
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecForCausalLM,
    SessionPatchLayout,
    TextLayout,
)
from patchrec_hf.batches.candidates import all_candidates
from patchrec_hf.runtime.configuration import ItemHeadConfig, PatchRecConfig
from patchrec_hf.runtime.item_head import ItemHead, ItemResidual
from patchrec_hf.runtime.item_vectors import item_patches, item_vectors_of


def head_of(num_items=3, similarity="cosine", hidden_size=2):
    return ItemHead(ItemHeadConfig(num_items, similarity=similarity), hidden_size)


@pytest.mark.parametrize("similarity", ["cosine", "product"])
@pytest.mark.parametrize("residual_size", [None, 5, 0])
def test_before_training(similarity, residual_size):
    model = item_model(trained=False, similarity=similarity, residual_size=residual_size)
    head, residual = model.item_head, model.model.item_residual
    assert torch.equal(head.user_vectors.weight, torch.eye(32))
    assert torch.equal(head.item_vectors.weight, torch.eye(32))
    assert head.item_vectors.bias.tolist() == [0.0] * 12
    assert head.feature_weights().tolist() == [0, 0]
    assert head.user_vectors.log_scale.item() == (2.5 if similarity == "cosine" else 0)
    assert head.item_ids.tolist() == list(TITLES)
    if residual_size == 0:
        assert residual is None
    else:
        assert residual.weight.shape == (12, residual_size or 32)
        assert not residual(torch.arange(12)).any()
    assert model.config.item_head_config == ItemHeadConfig(
        12, 32 if residual_size is None else residual_size, similarity, 0.0
    )


@pytest.mark.parametrize("layout", first_fast([TextLayout(), ItemPatchLayout(0), SessionPatchLayout(2)]))
@pytest.mark.parametrize("residual_size", first_fast([0, 5, None]))
def test_an_untrained_head_changes_no_bit(processor, rows, layout, residual_size):
    """Of logits and loss. Gradients, and a packed batch, whose prompts stand in another order, are summed anew."""
    outputs = []
    for model in (plain_model(), item_model(trained=False, residual_size=residual_size)):
        residuals = model.model.item_residual is not None
        other = item_processor(processor, layout, item_residuals=residuals)
        model.check_processor(other)
        batch = PatchDataCollator(other)(list(rows))
        assert (batch["patch_token_ids"] < 0).any().item() is (residuals and layout != TextLayout())
        output = model(**batch)
        output.loss.backward()
        gradient = model.get_input_embeddings().weight.grad
        model.enable_tree_packing()
        packed = model(**PatchDataCollator(other, tree_packing=True)(list(rows)))
        outputs.append((output, gradient, packed))
    (plain, gradient, packed), (headed, other_gradient, other_packed) = outputs
    assert torch.equal(plain.logits, headed.logits)
    assert torch.equal(plain.loss, headed.loss)
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(packed.logits, other_packed.logits, rtol=1e-5, atol=1e-5)


def test_residuals_of_the_catalog_are_divided_like_their_titles(processor):
    """A patch is the mean over its items of the title's mean and the residual."""
    model, processor = item_model(), item_processor(processor, SessionPatchLayout(2))
    prompt = processor.encode(np.array([0, 3, 6, 1, 2, 5]))
    ids = [torch.from_numpy(array)[None] for array in (prompt.input_ids, prompt.patch_token_ids)]
    places = [torch.from_numpy(array)[None] for array in (prompt.patch_positions, prompt.patch_divisors)]
    embeds = model.prepare_inputs_embeds(*ids, *places)[0]
    table, titles = model.get_input_embeddings().weight, processor.title_tokens
    patches = [table[titles[item]].mean(dim=0) + model.model.item_residual.weight[item] for item in range(12)]
    start = len(processor.prompt.prefix_ids) + 1
    torch.testing.assert_close(embeds[start], (patches[0] + patches[3]) / 2)
    torch.testing.assert_close(embeds[start + 2], patches[6])
    torch.testing.assert_close(embeds[start + 4], patches[1])
    torch.testing.assert_close(item_patches(model, processor, np.array([6, 1])), torch.stack([patches[6], patches[1]]))


def test_cosine_by_hand():
    """User (3, 4) and items (1, 0), (0, 2); e^0 on the cosines."""
    head = head_of()
    with torch.no_grad():
        head.user_vectors.log_scale.zero_()
        head.item_vectors.bias.copy_(torch.tensor([0.5, 0.25, 9.0]))
        head.feature_weights.weight.copy_(torch.tensor([-0.2, 0.1]))
    users, items, weights = head(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([1, 3])
    )
    torch.testing.assert_close(users, torch.tensor([[0.6, 0.8, 1.0]]))
    torch.testing.assert_close(items, torch.tensor([[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]))  # item 3 is new
    torch.testing.assert_close(users @ items.T, torch.tensor([[0.85, 0.8]]))
    torch.testing.assert_close(weights, torch.tensor([-2.0, 1.0]))


def test_product_by_hand():
    head = head_of(similarity="product")
    with torch.no_grad():
        head.user_vectors.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        head.item_vectors.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        head.user_vectors.log_scale.fill_(math.log(3))
        head.item_vectors.bias[2] = 1.0
    users, items, _ = head(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([2]))
    # 3 · ((4, 3) · (2, 1)) / √2 + 1
    assert (users @ items.T).item() == pytest.approx(33 / math.sqrt(2) + 1)


@pytest.mark.parametrize("similarity", ["cosine", "product"])
@pytest.mark.parametrize("residual_size", [0, 5, 32])
def test_scores_are_the_formula(processor, similarity, residual_size):
    """Also of new items, which have neither a bias nor a residual."""
    model = item_model(similarity=similarity, residual_size=residual_size)
    processor = item_processor(processor, item_residuals=residual_size > 0)
    processor = processor.with_catalog(processor.catalog.with_items({98: "Emma and Persuasion", 99: "Four Poems"}))
    model.check_processor(processor)
    prompt = processor.encode(np.array([0, 13, 4, 1]))
    with torch.no_grad():
        states = model.model(**processor([[10, 99, 14, 11]], padding_side="right")).last_hidden_state
        user = model.item_head.user_vectors(states[0, [prompt.history_end]])
        scores = (user @ item_vectors_of(model, processor, np.arange(14)).T)[0].double().numpy()
    scores[[0, 13, 4, 1]] += model.item_head.feature_weights()[0].item()
    np.testing.assert_allclose(scores, scores_by_hand(model, processor, prompt), rtol=1e-4, atol=1e-4)
    vectors = item_vectors_of(model, processor, np.array([3, 12]))
    assert vectors[:, -1].tolist() == [model.item_head.item_vectors.bias[3].item(), 0.0]


def test_residuals_of_low_rank():
    residual = ItemResidual(4, 2, 6)
    assert residual.projection.shape == (2, 6)
    assert not residual(torch.arange(4)).any()
    residual(torch.tensor([1])).sum().backward()
    assert residual.weight.grad[1].abs().min() > 0  # else they could never leave zero
    assert not residual.weight.grad[[0, 2, 3]].any()
    with torch.no_grad():
        residual.weight[3] = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(residual(torch.tensor([3, 0]))[0], 2 * residual.projection[0] - residual.projection[1])
    assert torch.equal(ItemResidual(4, 2, 6).projection, residual.projection)
    assert ItemResidual(4, 6, 6).projection is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_give_float32_vectors(processor, dtype):
    model, processor = item_model(residual_size=5), item_processor(processor)
    expected = item_vectors_of(model, processor, np.arange(12))
    model.to(dtype)
    assert model.item_head.item_ids.dtype == torch.int64
    vectors = item_vectors_of(model, processor, np.arange(12))
    users, items, weights = model.item_head(torch.ones(2, 32, dtype=dtype), torch.ones(3, 32), torch.arange(3))
    assert {tensor.dtype for tensor in (vectors, users, items, weights)} == {torch.float32}
    torch.testing.assert_close(vectors, expected, atol=0.02, rtol=0.02)


def test_a_head_is_made_in_the_dtype_of_the_backbone():
    model = plain_model().to(torch.bfloat16)
    model.add_item_head(Catalog.from_titles(TITLES))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"residual_size": 5, "similarity": "product", "dropout": 0.25, "title_similarity": True},
        {"residual_size": 0},
    ],
)
def test_saving_and_loading_keeps_the_head(tmp_path, settings):
    model = item_model(**settings)
    model.item_head.item_ids[3] = 2**60 + 1
    model.save_pretrained(tmp_path)
    again = PatchRecForCausalLM.from_pretrained(tmp_path)
    assert again.config.item_head == model.config.item_head
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert again.item_head.item_ids[3] == 2**60 + 1
    low = PatchRecForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.item_head.item_ids.tolist() == model.item_head.item_ids.tolist()


def test_a_checkpoint_without_a_head_loads_as_before(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PatchRecForCausalLM.from_pretrained(tmp_path)
    assert again.item_head is None
    assert again.model.item_residual is None
    assert again.config.item_head is None
    assert again.state_dict().keys() == model.state_dict().keys()
    assert not any("item" in name for name in again.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 0}, "`num_items` of the item head must be a whole number of at least 1, got 0"),
        ({"num_items": 2.0}, "`num_items` of the item head must be a whole number of at least 1, got 2.0"),
        ({"residual_size": -1}, "`residual_size` of the item head must be a whole number of at least 0, got -1"),
        ({"residual_size": True}, "`residual_size` of the item head must be a whole number"),
        ({"similarity": "dot"}, "`similarity` must be one of 'cosine', 'product', got 'dot'"),
        ({"dropout": 1.0}, "`dropout` of the item head must be at least 0 and below 1, got 1.0"),
        ({"residual_dropout": 1.5}, "`residual_dropout` of the item head must be at least 0 and below 1, got 1.5"),
        ({"dropout": -0.1}, "`dropout` of the item head must be at least 0 and below 1, got -0.1"),
    ],
)
def test_wrong_settings(settings, message):
    for make in (lambda **values: ItemHeadConfig(**values), lambda **values: PatchRecConfig(item_head=values)):
        with pytest.raises(ValueError, match=message):
            make(**{"num_items": 3, **settings})


def test_a_second_head_is_refused():
    model = item_model()
    with pytest.raises(ValueError, match="has an item head already"):
        model.add_item_head(Catalog.from_titles(TITLES))


def test_item_targets_need_a_head(model, processor, rows):
    batch = PatchDataCollator(processor, objective="both")(list(rows))
    with pytest.raises(ValueError, match="the model has no item head"):
        model(**batch)


def test_the_losses_add_up(processor, rows):
    model, processor = item_model(), item_processor(processor)
    title, item, both = (
        model(**PatchDataCollator(processor, objective=objective)(list(rows)))
        for objective in ("title", "item", "both")
    )
    assert title.item_loss is None
    assert item.title_loss is None
    assert item.logits is None
    assert torch.equal(both.title_loss, title.loss)
    assert both.item_loss.item() == pytest.approx(item.loss.item(), rel=1e-5)
    assert both.loss.item() == pytest.approx(title.loss.item() + item.loss.item(), rel=1e-5)


@pytest.mark.parametrize("compares_titles", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_scores(processor, rows, compares_titles):
    model, processor = item_model(title_similarity=compares_titles), item_processor(processor, ItemPatchLayout(2))
    collator = PatchDataCollator(processor, objective="item", compares_titles=compares_titles)
    losses = []
    for history in collator.encode_rows(list(rows)):
        scores = torch.from_numpy(scores_by_hand(model, processor, history))
        losses.append(-scores.log_softmax(dim=0)[history.item_targets[0]].item())
    assert model(**collator(list(rows))).loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_gradients_reach_residuals_through_prompts_and_candidates(processor):
    """Titles are predicted through the prompt only. The softmax over items reaches each item of the catalog."""
    row = {"user_id": 0, "item_ids": [10, 11, 12], "target_positions": [2]}
    processor = item_processor(processor)
    reached = {}
    for objective in ("title", "item", "both"):
        model = item_model(residual_size=5)
        model(**PatchDataCollator(processor, objective=objective)([row])).loss.backward()
        reached[objective] = model.model.item_residual.weight.grad.any(dim=1).nonzero().flatten().tolist()
        assert model.model.item_residual.projection.grad.any()
    assert reached == {"title": [0, 1], "item": list(range(12)), "both": list(range(12))}
    # The gradient is the sum over both ways: the slope of the loss along any direction.
    model = item_model().double()
    batch = PatchDataCollator(processor, objective="item")([row])
    model(**batch).loss.backward()
    weight = model.model.item_residual.weight
    for item in (0, 1, 5):
        direction = torch.zeros_like(weight)
        direction[item] = torch.linspace(-1, 1, 32)
        with torch.no_grad():
            losses = []
            for step in (1e-2, -2e-2):
                weight += step * direction
                losses.append(model(**batch).loss.item())
            weight += 1e-2 * direction
        slope = (losses[0] - losses[1]) / 2e-2
        assert (weight.grad * direction).sum().item() == pytest.approx(slope, rel=0.02, abs=1e-4)


@pytest.mark.parametrize("kind", ["dropout", "residual_dropout"])
def test_dropout_is_drawn_in_training_only(processor, rows, kind):
    model = item_model(**{kind: 0.5})
    collator = PatchDataCollator(item_processor(processor), objective="item")
    batch = collator(list(rows))
    expected = item_model()(**batch).loss
    assert torch.equal(model(**batch).loss, expected)
    model.train()
    torch.manual_seed(0)
    losses = [model(**batch).loss.item() for _ in range(2)]
    assert len({expected.item(), *losses}) == 3


def test_residual_dropout_leaves_out_whole_residuals(processor):
    """The patch of an item is its title's with or without its residual, in the prompt as among the candidates."""
    model, processor = item_model(residual_dropout=0.5).train(), item_processor(processor)
    items = np.arange(12)
    table = model.get_input_embeddings().weight
    means = torch.stack([table[processor.title_tokens[item]].mean(dim=0) for item in items])
    folded = [torch.from_numpy(array)[None] for array in processor.fold_items(items)]
    placeholders = torch.full((1, 12), processor.prompt.patch_id)
    candidates = all_candidates(processor)
    names = ("candidate_token_ids", "candidate_starts", "candidate_divisors")
    torch.manual_seed(0)
    in_prompt, patches = model.model.fold_inputs(placeholders, *folded[:3], *(candidates[name] for name in names))
    residuals = model.model.item_residual.weight
    kept = ((patches - means) / residuals).median(dim=1).values.round()
    assert set(kept.tolist()) == {0.0, 1.0}
    torch.testing.assert_close(patches, means + kept[:, None] * residuals, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(in_prompt[0], patches, rtol=1e-4, atol=1e-5)
    whole = model.prepare_inputs_embeds(placeholders, *folded)[0]  # without item targets, nothing is left out
    torch.testing.assert_close(whole, means + residuals, rtol=1e-4, atol=1e-5)


def test_model_and_processor_must_have_the_same_residuals(processor):
    catalog = processor.catalog
    with pytest.raises(ValueError, match=r"residuals for 12 items, but the processor writes them for 0.*=True"):
        item_model().check_processor(processor)
    with pytest.raises(ValueError, match=r"residuals for 0 items, but the processor writes them for 12.*=False"):
        item_model(residual_size=0).check_processor(item_processor(processor))
    with pytest.raises(ValueError, match="residuals for 0 items"):
        plain_model().check_processor(item_processor(processor))
    order = np.arange(12)[::-1]
    turned = Catalog(catalog.item_ids[order], tuple(catalog.titles[index] for index in order))
    with pytest.raises(ValueError, match="in another order"):
        item_model().check_processor(item_processor(processor, catalog=turned))
    fewer = Catalog(catalog.item_ids[2:], catalog.titles[2:])
    with pytest.raises(ValueError, match=r"catalog of 10 items lacks 2 of the 12 items .* learned: 10, 11\."):
        item_model().check_processor(item_processor(processor, catalog=fewer))
