"""Patchers: the weights of title tokens in their patches."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import (
    brute_force_scores,
    encode,
    histories,
    make_processor,
    rank_all,
    scores_by_item,
    shared_backbone,
    shared_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from item_parts import item_model, plain_model
from peft import LoraConfig, get_peft_model
from tiers import first_fast, scaled

from patchrec_hf import (
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecConfig,
    PatchRecForCausalLM,
    PatchRecProcessor,
    SessionPatchLayout,
    TextLayout,
)
from patchrec_hf.batches.candidates import all_candidates
from patchrec_hf.runtime.adapters import load_model
from patchrec_hf.runtime.encoding import pad_histories
from patchrec_hf.runtime.item_scorer import ItemScorer
from patchrec_hf.runtime.item_vectors import item_patches
from patchrec_hf.runtime.layouts import RandomPatchLayout
from patchrec_hf.runtime.patchers import AttentionPatcher, fold_tokens, mean_weights


TIMES = [0, 30, 500, 90_000, 90_060, 400_000, 900_000, 900_001]
LAYOUTS = [
    ItemPatchLayout(0),
    ItemPatchLayout(2),
    SessionPatchLayout(2),
    SessionPatchLayout(3),
    RandomPatchLayout(0.6),
]


def attentive(model, seed=3):
    """A copy of the model whose patcher has learned something."""
    model = copy.deepcopy(model)
    model.add_patcher("attention")
    query = model.model.patcher.query
    with torch.no_grad():
        query.copy_(torch.randn(query.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def contextual(model, num_layers=1, gate=0.7):
    """A copy of the model whose patches are mixed with what its first layers make of titles."""
    model = copy.deepcopy(model)
    model.add_patcher("contextual", num_layers)
    with torch.no_grad():
        model.model.patcher.gate.fill_(gate)
    return model


LEARNED = {"attention": attentive, "contextual": contextual}


def with_layout(processor, layout, **settings):
    return PatchRecProcessor(processor.tokenizer, processor.catalog, processor.prompt, layout, 8, **settings)


# Weights


def test_weights_by_hand():
    """Two patches: three title tokens and a residual; a session of a title of one token and a title of two."""
    patcher = AttentionPatcher(2)
    with torch.no_grad():
        patcher.query.copy_(torch.tensor([2**0.5, 0.0]))  # so that a score is the first value of the key
    root = 2**0.5
    table = torch.tensor([[9.0, 9.0], [3.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [2.0, 2.0]])
    is_title = torch.tensor([False, True, True, True, True])
    # Keys have mean squares of 1: (√2, 0), (0, √2), (-√2, 0) and (1, 1).
    scores = np.array([np.nan, root, 0, -root, 1])
    rows = torch.tensor([1, 2, 3, 0, 4, 1, 2, 4, 4])
    divisors = torch.tensor([3, 3, 3, 1, 2, 4, 4, 0, 0])  # the last two are padding
    weights = patcher(table, is_title, rows, torch.tensor([0, 4]), divisors)
    first = np.exp(scores[[1, 2, 3]])
    second = np.exp(scores[[4, 1, 2]]) / [2, 4, 4]
    expected = [*(first / first.sum()), 1, *(second / second.sum()), 0, 0]
    assert weights.tolist() == pytest.approx(expected, rel=1e-5)
    patches = fold_tokens(table, rows, torch.tensor([0, 4]), weights)
    by_hand = np.array(expected)[:, None] * table.numpy()[rows.numpy()]
    assert patches[0].tolist() == pytest.approx(by_hand[:4].sum(axis=0).tolist(), rel=1e-5)
    assert patches[1].tolist() == pytest.approx(by_hand[4:].sum(axis=0).tolist(), rel=1e-5)


def test_weights_of_large_scores_and_long_sessions():
    patcher = AttentionPatcher(4)
    with torch.no_grad():
        patcher.query.fill_(1e5)
    table = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1], [0, 0, 0, 0]], requires_grad=True)
    rows = torch.tensor([1, 0, 2] * 10_000 + [1])
    divisors = torch.full_like(rows, 30_000)
    weights = patcher(table, torch.ones(3, dtype=torch.bool), rows, torch.tensor([0, 30_000]), divisors)
    assert weights[-1].item() == 1  # the second patch has one token
    assert weights[:-1].sum().item() == pytest.approx(1, abs=1e-3)
    assert (weights[:-1][rows[:-1] != 0] == 0).all()  # the token with the largest score takes all
    weights.square().sum().backward()
    assert table.grad.isfinite().all()
    assert patcher.query.grad.isfinite().all()


@given(st.integers(0, 2**31), st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=5))
def test_each_patch_keeps_its_weight(seed, sessions):
    generator = torch.Generator().manual_seed(seed)
    table = 3 * torch.randn(9, 6, generator=generator)
    divisors = torch.tensor([len(one) * length for one in sessions for length in one for _ in range(length)]).long()
    rows = torch.randint(9, (len(divisors),), generator=generator)
    counts = [sum(one) for one in sessions]
    starts = torch.tensor(np.cumsum([0, *counts])[: len(counts)]).long()
    patcher, titles = AttentionPatcher(6), torch.ones(9, dtype=torch.bool)
    assert torch.allclose(patcher(table, titles, rows, starts, divisors), mean_weights(divisors), rtol=1e-5)
    with torch.no_grad():
        patcher.query.copy_(4 * torch.randn(6, generator=generator))
    weights = patcher(table, titles, rows, starts, divisors)
    for part in weights.split(counts):
        assert part.sum().item() == pytest.approx(1, abs=1e-5)


# Models


@pytest.mark.slow
@settings(max_examples=scaled(40))
@given(
    st.lists(
        st.tuples(st.permutations(range(12)), st.integers(1, 8), st.sampled_from(LAYOUTS)), min_size=1, max_size=4
    ),
    st.booleans(),
    st.sampled_from(sorted(LEARNED)),
)
def test_an_untrained_patcher_is_the_mean(processor, cases, packs, patcher):
    """Sessions, residuals, time gaps and text, padded and packed."""
    model = item_model(residual_size=32)
    model.add_time_gaps(4)
    with torch.no_grad():
        model.model.time_gaps.weight.normal_(generator=torch.Generator().manual_seed(5))
    full = with_layout(processor, ItemPatchLayout(0), item_residuals=True, time_gaps=4)
    collators = [PatchDataCollator(full, layout, tree_packing=packs) for *_, layout in cases]
    rows = [
        {
            "user_id": 0,
            "item_ids": full.catalog.item_ids[list(order[: number + 1])].tolist(),
            "timestamps": [*TIMES, TIMES[-1]][: number + 1],
            "target_positions": [number],
        }
        for order, number, _ in cases
    ]
    if packs:
        model.enable_tree_packing()
    batches = [collator(rows) for collator in collators]
    with torch.no_grad():
        expected = [model(**batch).loss.item() for batch in batches]
        model.add_patcher(patcher)
        assert [model(**batch).loss.item() for batch in batches] == pytest.approx(expected, abs=1e-6, rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("patcher", first_fast(LEARNED))
def test_a_packed_batch_is_the_padded_one(processor, blocks, patcher):
    model = LEARNED[patcher](plain_model())
    for layout in LAYOUTS:
        padded, packed = (PatchDataCollator(processor, layout, tree_packing=packs)(list(blocks)) for packs in (0, 1))
        model.disable_tree_packing()
        expected = model(**padded).loss.item()
        model.enable_tree_packing()
        assert model(**packed).loss.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_item_patches_by_hand(processor):
    model = attentive(item_model(residual_size=32))
    full = with_layout(processor, ItemPatchLayout(0), item_residuals=True)
    items = np.arange(12)
    patches = item_patches(model, full, items)
    table, query = model.get_input_embeddings().weight.double(), model.model.patcher.query.double()
    for item in items:
        embeddings = table[full.title_tokens[item]]
        keys = embeddings / embeddings.square().mean(dim=1, keepdim=True).sqrt()
        expected = torch.softmax(keys @ query / 32**0.5, dim=0) @ embeddings + model.model.item_residual.weight[item]
        torch.testing.assert_close(patches[item].double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("patcher", LEARNED)
def test_prompts_candidates_and_item_vectors_agree(processor, patcher):
    model = LEARNED[patcher](item_model(residual_size=32))
    full = with_layout(processor, ItemPatchLayout(0), item_residuals=True)
    items = np.arange(12)
    patches = item_patches(model, full, items)
    encoded = full.encode(items)
    batch = pad_histories([encoded], full.prompt.pad_id)
    candidates = all_candidates(full)
    embeds, found = model.model.fold_inputs(
        *(batch[name] for name in ("input_ids", "patch_token_ids", "patch_positions", "patch_divisors")),
        *(candidates[name] for name in ("candidate_token_ids", "candidate_starts", "candidate_divisors")),
        batch["patch_title_starts"],
    )
    torch.testing.assert_close(found, patches, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeds[0][np.unique(encoded.patch_positions)], patches[-8:], rtol=1e-4, atol=1e-5)
    mean = item_model(residual_size=32)
    assert not torch.allclose(item_patches(mean, full, items), patches)
    assert not torch.allclose(ItemScorer(mean, full).item_vectors, ItemScorer(model, full).item_vectors)


@pytest.mark.parametrize("patcher", LEARNED)
def test_gradients_reach_the_patcher(processor, rows, patcher):
    model = plain_model()
    model.add_patcher(patcher)
    (weights,) = model.model.patcher.parameters()
    model(**PatchDataCollator(processor)(list(rows))).loss.backward()
    assert (weights.grad != 0).any()
    weights.grad = None
    # Without patches too there is a gradient: DDP waits for one.
    model(**PatchDataCollator(processor, TextLayout())(list(rows))).loss.backward()
    assert (weights.grad == 0).all()


@pytest.mark.parametrize("patcher", LEARNED)
def test_a_batch_without_patches_is_read_as_before(processor, rows, patcher):
    batch = PatchDataCollator(processor, TextLayout())(list(rows))
    assert LEARNED[patcher](plain_model())(**batch).loss.item() == plain_model()(**batch).loss.item()


@torch.no_grad()
@pytest.mark.parametrize("family", first_fast(["llama_tied", "gpt2", "gemma2", "qwen3_sliding"]))
@pytest.mark.parametrize("num_layers", first_fast([1, 2]))
def test_titles_are_read_alone_by_the_first_layers(family, num_layers):
    """Against a backbone of its own, whose configuration has fewer layers."""
    processor, model = make_processor(), contextual(shared_model(family), num_layers)
    config = copy.deepcopy(model.config.text_config)
    config.num_hidden_layers = num_layers
    if family in ("gemma2", "qwen3_sliding"):
        config.layer_types = config.layer_types[:num_layers]
    short = type(shared_backbone(family))(config).eval().base_model
    weights = model.model.language_model.state_dict()
    short.load_state_dict({name: weights[name] for name in short.state_dict()})
    patches = []
    for item in range(30):
        tokens = torch.from_numpy(processor.title_tokens[item])[None]
        mean, states = (
            model.get_input_embeddings()(tokens[0]).mean(dim=0),
            short(tokens).last_hidden_state[0].mean(dim=0),
        )
        patches.append(0.3 * mean + 0.7 * states * mean.norm() / states.norm())
    expected = torch.stack(patches)
    found = item_patches(model, processor, np.arange(30))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    # A session holds the mean of its titles' patches, wherever they begin.
    encoded = processor.encode(np.arange(30), layout=SessionPatchLayout(3))
    batch = pad_histories([encoded], processor.prompt.pad_id)
    names = ("input_ids", "patch_token_ids", "patch_positions", "patch_divisors", "patch_title_starts")
    embeds = model.prepare_inputs_embeds(*(batch[name] for name in names))[0]
    for position in np.unique(encoded.patch_positions):
        members = np.flatnonzero(encoded.item_ends == position)
        torch.testing.assert_close(embeds[position], expected[members].mean(dim=0), rtol=1e-3, atol=1e-4)
    assert len(model.model.language_model.state_dict()) == len(weights)  # the model itself keeps its layers


@torch.no_grad()
def test_a_title_is_no_session_of_its_parts():
    """The four tokens of one title, and of two titles, have the same divisors."""
    model = contextual(plain_model())
    ids, positions = torch.full((1, 2), model.config.patch_token_id), torch.tensor([[0] * 4 + [1] * 4])
    tokens, divisors = torch.tensor([[30, 31, 32, 33] * 2]), torch.full((1, 8), 4)
    starts = torch.tensor([[1, 0, 0, 0, 1, 0, 1, 0]])
    one, two = model.prepare_inputs_embeds(ids, tokens, positions, divisors, starts)[0]
    assert not torch.allclose(one, two)
    with pytest.raises(ValueError, match="must know where titles begin, so pass `patch_title_starts`"):
        model.prepare_inputs_embeds(ids, tokens, positions, divisors)


def test_each_distinct_title_is_read_once(processor):
    model = contextual(plain_model())
    full = with_layout(processor, ItemPatchLayout(0))
    read = []
    layer = model.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[0]))
    prompts = [full.encode(np.array([1, 2, 1, 3])), full.encode(np.array([2, 4, 5]))]
    model(**pad_histories(prompts, full.prompt.pad_id))
    assert read == [4, 2]  # items 4 and 5 have one title; then two prompts


def test_layers_that_there_are_not():
    model = plain_model()
    with pytest.raises(ValueError, match="reads titles by the first 3 layers of the backbone, but LlamaModel has 2"):
        model.add_patcher("contextual", 3)
    assert model.model.patcher is None
    assert model.config.patcher == "mean"
    with pytest.raises(ValueError, match="`patcher_layers` must be a whole number of at least 1, got 0"):
        model.add_patcher("contextual", 0)
    with pytest.raises(ValueError, match="`patcher_layers` belongs to `patcher='contextual'`, got 2"):
        model.add_patcher("attention", 2)


@pytest.mark.parametrize("patcher", LEARNED)
def test_rankings_are_exact_with_a_patcher(patcher):
    processor, model = make_processor(), LEARNED[patcher](shared_model("llama_untied"))
    history = histories()[1]
    ranking = rank_all(model, processor, [encode(processor, history)])
    expected = brute_force_scores(model, processor, history)
    np.testing.assert_allclose(scores_by_item(ranking)[0], expected, atol=1e-4)


@pytest.mark.parametrize("patcher", first_fast(LEARNED))
def test_in_low_precision(processor, rows, patcher):
    model = LEARNED[patcher](plain_model())
    batch = PatchDataCollator(processor)(list(rows))
    expected = model(**batch).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**batch).loss.item() == pytest.approx(expected, rel=2e-2)
    low = model.to(torch.bfloat16)
    loss = low(**batch).loss
    assert loss.item() == pytest.approx(expected, rel=5e-2)
    loss.backward()
    assert all(weights.grad.isfinite().all() for weights in low.model.patcher.parameters())


# Checkpoints


@pytest.mark.parametrize("patcher", first_fast(LEARNED))
def test_a_checkpoint_keeps_its_patcher(processor, rows, tmp_path, patcher):
    model = LEARNED[patcher](plain_model())
    model.save_pretrained(tmp_path)
    loaded = PatchRecForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.patcher == patcher
    batch = PatchDataCollator(processor)(list(rows))
    assert loaded(**batch).loss.item() == model(**batch).loss.item()
    assert loaded(**batch).loss.item() != plain_model()(**batch).loss.item()


def test_a_model_of_the_mean_has_no_patcher():
    model = plain_model()
    model.add_patcher("mean")
    assert model.config.patcher == "mean"
    assert model.model.patcher is None
    assert not any("patcher" in name for name in model.state_dict())


def test_patchers_that_there_are_not():
    with pytest.raises(ValueError, match="`patcher` must be one of 'mean', 'attention', 'contextual', got 'max'"):
        PatchRecConfig(patcher="max")
    model = plain_model()
    with pytest.raises(ValueError, match="`patcher` must be one of 'mean', 'attention', 'contextual', got 'max'"):
        model.add_patcher("max")
    assert model.config.patcher == "mean"
    model.add_patcher("attention")
    for name in ("attention", "contextual", "mean"):
        with pytest.raises(ValueError, match="has the patcher 'attention' already"):
            model.add_patcher(name)


# Training


@pytest.mark.slow
def test_a_trainer_adds_and_trains_the_patcher(make_trainer, tmp_path):
    trainer = make_trainer("finetune", plain_model(), patcher="attention")
    trainer.train()
    assert trainer.model.config.patcher == "attention"
    assert (trainer.model.model.patcher.query != 0).all()
    trainer.save_model(str(tmp_path / "saved"))
    again = make_trainer("finetune", str(tmp_path / "saved"))  # the argument is not needed
    assert torch.equal(again.model.model.patcher.query, trainer.model.model.patcher.query)
    make_trainer("finetune", str(tmp_path / "saved"), patcher="attention")
    with pytest.raises(ValueError, match="`patcher='mean'`, but the model has the patcher 'attention'"):
        make_trainer("finetune", str(tmp_path / "saved"), patcher="mean")
    with pytest.raises(ValueError, match="`patcher` must be one of 'mean', 'attention', 'contextual', got 'attn'"):
        make_trainer("finetune", plain_model(), patcher="attn")


def test_layers_that_the_model_has_already(make_trainer):
    model = plain_model()
    model.add_patcher("contextual", 1)
    make_trainer("finetune", model, patcher="contextual")
    with pytest.raises(ValueError, match="`patcher_layers=2`, but the model's patcher reads titles by 1 layer"):
        make_trainer("finetune", model, patcher="contextual", patcher_layers=2)


@pytest.mark.slow
@pytest.mark.parametrize("patcher", LEARNED)
def test_pretraining_from_batches_without_patches(make_trainer, patcher):
    """The first step of pre-training compresses nothing."""
    trainer = make_trainer("pretrain", plain_model(), patcher=patcher, activation_checkpointing=True)
    trainer.train()
    assert all((weights != 0).all() for weights in trainer.model.model.patcher.parameters())


@pytest.mark.slow
def test_a_run_resumes_with_its_patcher(make_trainer, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = make_trainer("finetune", plain_model(), patcher="attention", **saving)
    whole.train()
    again = make_trainer("finetune", plain_model(), patcher="attention", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for name, weights in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weights, msg=name)
    with pytest.raises(ValueError, match="patcher: old 'attention', new 'mean'"):
        make_trainer("finetune", plain_model()).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))


@pytest.mark.slow
def test_adapters_and_patchers(make_trainer, processor, rows, tmp_path):
    adapted = get_peft_model(plain_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"`patcher='attention'` is not the patcher of the adapter's base model"):
        make_trainer("finetune", adapted, patcher="attention")
    plain_model().save_pretrained(tmp_path / "base")
    model = PatchRecForCausalLM.from_pretrained(tmp_path / "base")
    args = PatchFinetuneConfig(str(tmp_path / "run"), patcher="attention", max_steps=3, report_to="none", use_cpu=True)
    trainer = PatchFinetuneTrainer(
        model, args, train_dataset=rows, processing_class=processor, peft_config=LoraConfig(r=2)
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = load_model(tmp_path / "adapter", processor.tokenizer)
    assert loaded.config.patcher == "attention"
    assert (loaded.model.patcher.query != 0).any()
    batch = PatchDataCollator(processor)(list(rows))
    merged = trainer.model.merge_and_unload().eval()
    assert loaded.eval()(**batch).loss.item() == pytest.approx(merged(**batch).loss.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("patcher", LEARNED)
def test_items_are_learned_and_ranked_with_a_patcher(make_trainer, processor, rows, patcher):
    full = with_layout(processor, ItemPatchLayout(0), item_residuals=True)
    evaluation = Dataset.from_list(list(rows)[:4])
    trainer = make_trainer(
        "finetune", plain_model(), objective="item", patcher=patcher, processing_class=full,
        eval_dataset=evaluation,
    )  # fmt: skip
    trainer.train()
    assert all((weights != 0).all() for weights in trainer.model.model.patcher.parameters())
    assert trainer.evaluate()["eval_exact_share"] == 1
