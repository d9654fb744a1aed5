"""A trainer checks, loads and completes its inputs before training."""

from dataclasses import dataclass
from typing import ClassVar

import datasets
import numpy as np
import pytest
import torch
import transformers
from conftest import ITEM_IDS, TITLES
from datasets import Dataset, IterableDataset
from item_parts import item_model, item_processor, plain_model
from peft import LoraConfig, get_peft_model
from tiers import first_fast
from trainer_parts import as_stream, logged

from patchrec_hf import (
    BOOK_PROMPT,
    BudgetLayout,
    Catalog,
    DropLayout,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecProcessor,
    PyramidLayout,
    TextLayout,
    TimeWindowLayout,
)
from patchrec_hf.batches.candidates import NegativeSampling
from patchrec_hf.runtime.configuration import ItemHeadConfig
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.tiny import build_tiny_backbone
from patchrec_hf.training import inputs


def test_model_by_name(make_trainer, catalog, tmp_path):
    """A path to a bare backbone and one to a PatchRec checkpoint both train."""
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    trainer = make_trainer("pretrain", model=str(tmp_path / "backbone"), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "pretrained"))
    again = make_trainer("finetune", model=str(tmp_path / "pretrained"), max_steps=1)
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_collators_that_contradict_the_checkpoint(make_trainer, processor):
    with pytest.raises(ValueError, match="with_layout"):
        make_trainer("finetune", collator=PatchDataCollator(processor, TextLayout()))
    with pytest.raises(TypeError, match="must be a `PatchPretrainDataCollator`"):
        make_trainer("pretrain", collator=PatchDataCollator(processor))


def test_collators_learn_the_models_context(make_trainer, model, processor):
    model.config.text_config.max_position_embeddings = 200
    for collator in (None, PatchDataCollator(processor)):
        assert make_trainer("finetune", model=model, collator=collator).data_collator.max_length == 200
    model.config.text_config.max_position_embeddings = 40
    with pytest.raises(ValueError, match="reads at most 40"):
        make_trainer("finetune", model=model)


def test_names_are_loaded_in_float32(make_trainer, catalog, tmp_path):
    backbone, tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    backbone.to(torch.bfloat16).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    trainer = make_trainer("finetune", model=tmp_path / "backbone")
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_bare_backbones_are_refused(make_trainer, catalog):
    with pytest.raises(TypeError, match="from_backbone"):
        make_trainer("finetune", model=build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)[0])


def test_model_of_another_tokenizer(make_trainer, model):
    model.config.patch_token_id = 5
    with pytest.raises(ValueError, match="not made for each other"):
        make_trainer("finetune", model=model)


def test_data_sets_are_checked(make_trainer, rows):
    with pytest.raises(ValueError, match="needs `user_id`, `item_ids` and `target_positions`"):
        make_trainer("finetune", train_dataset=rows.remove_columns("target_positions"))
    with pytest.raises(ValueError, match="is empty"):
        make_trainer("finetune", eval_dataset=rows.select([]))
    with pytest.raises(TypeError, match="got `list`"):
        make_trainer("finetune", eval_dataset=[1, 2])


@pytest.mark.parametrize("name", ["args", "processing_class", "train_dataset"])
def test_wrong_kind_of_argument(model, processor, rows, tmp_path, name):
    args = PatchFinetuneConfig(str(tmp_path), use_cpu=True)
    kwargs = {"args": args, "processing_class": processor, "train_dataset": rows} | {name: object()}
    with pytest.raises(TypeError, match=rf"`{name}` must be"):
        PatchFinetuneTrainer(model, **kwargs)


def test_rows_with_one_target_are_packed_on_demand_only(make_trainer):
    assert not make_trainer("finetune").data_collator.tree_packing
    assert make_trainer("finetune", tree_packing=True).data_collator.tree_packing


def test_packing_looks_at_the_rows_that_are_trained_on(make_trainer, blocks, rows):
    mixed = datasets.concatenate_datasets([blocks, rows.cast(blocks.features)])
    assert make_trainer("finetune", train_dataset=mixed).data_collator.tree_packing
    single = mixed.select(range(len(blocks), len(mixed)))
    assert not make_trainer("finetune", train_dataset=single).data_collator.tree_packing


@pytest.mark.parametrize(("layout", "is_warned"), [(PyramidLayout(), True), (ItemPatchLayout(0), False)])
def test_targets_that_are_read_one_by_one(make_trainer, processor, blocks, caplog, layout, is_warned):
    own = processor.with_layout(layout)
    transformers.utils.logging.enable_propagation()
    make_trainer("finetune", train_dataset=blocks, processing_class=own, objective="item", tree_packing=False)
    transformers.utils.logging.disable_propagation()
    assert ("Set `tree_packing=True`, so that it reads once" in caplog.text) == is_warned


def test_the_first_rows_of_a_stream_are_read_once(make_trainer, rows):
    reads = []

    def generate():
        reads.append(1)
        yield from rows

    make_trainer("finetune", train_dataset=IterableDataset.from_generator(generate))
    assert len(reads) == 2  # SFTTrainer reads the first row once more


def test_collator_that_packs_against_the_arguments(make_trainer, processor):
    with pytest.raises(ValueError, match="tree_packing=False"):
        make_trainer("finetune", collator=PatchDataCollator(processor, tree_packing=True), tree_packing=False)


@pytest.mark.parametrize(
    ("targets", "message"),
    first_fast(
        [
            ([3, 2], r"target positions \[3, 2\] must ascend. It is row 5 of"),
            ([2, 2], r"must ascend. It is row 5 of"),
            ([], r"Row 5 \(user 77\) has the target positions \[\]"),
            ([2, None], r"Row 5 \(user 77\) has the target positions \[2, None\]"),
            (None, r"Row 5 \(user 77\) has the target positions None"),
            ([0], r"position 0 must lie between 1 and 9; .* It is row 5 of"),
            ([3, 10], r"position 10 must lie between 1 and 9; .* It is row 5 of"),
            ([1, 9], r"must lie less than `max_history` \(8\) apart.* It is row 5 of"),
        ]
    ),
)
def test_bad_targets_are_found_before_training(make_trainer, rows, targets, message):
    bad = {"user_id": 77, "item_ids": rows[0]["item_ids"][:1] * 10, "target_positions": targets}
    dataset = Dataset.from_list([*rows.select(range(5)).to_list(), bad], features=rows.features)
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", train_dataset=dataset)
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", eval_dataset=dataset)


def test_rows_are_checked_as_they_are_selected(make_trainer, rows):
    bad = {"user_id": 77, "item_ids": rows[0]["item_ids"][:2], "target_positions": [2]}
    dataset = Dataset.from_list([bad, *rows.to_list()], features=rows.features)
    make_trainer("finetune", train_dataset=dataset.filter(lambda row: row["user_id"] != 77).shuffle(seed=0))
    with pytest.raises(ValueError, match="target position 2 must lie between 1 and 1"):
        make_trainer("finetune", train_dataset=dataset.shuffle(seed=0))


def test_users_are_numbers_or_texts(make_trainer, rows):
    users = rows.remove_columns("user_id")
    make_trainer("finetune", train_dataset=users.add_column("user_id", [f"u{row}" for row in range(len(rows))]))
    with pytest.raises(TypeError, match=r"Column `user_id` must hold whole numbers or texts, got double"):
        make_trainer("finetune", train_dataset=users.add_column("user_id", [0.5] * len(rows)))


@pytest.mark.parametrize("targets", [1, 1.5, [1.5], None, ["1"]])
def test_target_positions_must_be_lists_of_whole_numbers(make_trainer, rows, targets):
    dataset = rows.remove_columns("target_positions").add_column("target_positions", [targets] * len(rows))
    with pytest.raises(TypeError, match=r"Column `target_positions` must hold lists of whole numbers, got"):
        make_trainer("finetune", train_dataset=dataset)


def test_collator_of_another_processor_is_refused(make_trainer, processor):
    with pytest.raises(ValueError, match="must hold the processor that is passed as `processing_class`"):
        make_trainer("finetune", collator=PatchDataCollator(processor.with_layout(processor.layout)))


@pytest.mark.slow
def test_a_stream_with_several_targets_is_packed(make_trainer, rows):
    several = rows.map(lambda row: {"target_positions": [len(row["item_ids"]) - 2, len(row["item_ids"]) - 1]})
    trainer = make_trainer("finetune", train_dataset=as_stream(several))
    assert trainer.data_collator.tree_packing
    trainer.train()
    assert len(logged(trainer, "loss")) == 6


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"max_steps": -1}, "A stream of rows has no length, so `max_steps` must be set to at least 1, got -1"),
        ({"train_sampling_strategy": "group_by_length"}, "needs a `Dataset`, but the rows are streamed"),
    ],
)
def test_settings_that_a_stream_cannot_have(make_trainer, rows, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        make_trainer(train_dataset=as_stream(rows), **kwargs)


def test_a_stream_without_rows(make_trainer, rows):
    with pytest.raises(ValueError, match="is empty"):
        make_trainer(train_dataset=as_stream(rows).filter(lambda row: False))


def test_bad_rows_of_a_stream_are_seen_before_training(make_trainer, rows):
    bad = rows.map(lambda row: {"target_positions": [0]})
    with pytest.raises(ValueError, match="target position 0 must lie between"):
        make_trainer(train_dataset=as_stream(bad))


def test_a_model_without_a_head_gets_one(make_trainer, processor):
    """With residuals exactly if the processor writes them."""
    head = {"item_residual_size": 6, "item_similarity": "product", "item_dropout": 0.25, "residual_dropout": 0.1}
    for residuals, size in ((True, 6), (False, 0)):
        trainer = make_trainer(
            "finetune",
            processing_class=item_processor(processor, item_residuals=residuals),
            objective="item",
            title_similarity=residuals,
            **head,
        )
        assert trainer.model.config.item_head_config == ItemHeadConfig(12, size, "product", 0.25, 0.1, residuals)
        assert trainer.model.item_head.item_ids.tolist() == ITEM_IDS
        assert trainer.data_collator.compares_titles is residuals
    trainer = make_trainer("finetune", processing_class=item_processor(processor), objective="both")
    assert trainer.model.config.item_head_config == ItemHeadConfig(12, 32, "cosine", 0.0)
    assert make_trainer("finetune").model.item_head is None


def test_a_head_is_kept(make_trainer, processor):
    model = item_model(residual_size=5)
    expected = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = make_trainer(
        "finetune", model=model, processing_class=item_processor(processor), objective="item", item_residual_size=9
    )
    assert trainer.model is model
    assert all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())


def test_objectives_that_contradict_each_other(make_trainer, processor):
    collator = PatchDataCollator(processor, objective="item")
    for arguments in ({}, {"objective": "both"}):
        with pytest.raises(ValueError, match="`data_collator` has the objective 'item', but the arguments have"):
            make_trainer("finetune", collator=collator, **arguments)
    # A collator that names none takes that of the arguments.
    trainer = make_trainer("finetune", collator=PatchDataCollator(processor), objective="both")
    assert trainer.data_collator.objective == "both"


def test_normalizers_that_contradict_each_other(make_trainer, processor):
    collator = PatchDataCollator(processor, title_normalizer="catalog")
    with pytest.raises(ValueError, match="`data_collator` has the title_normalizer 'catalog', but the arguments have"):
        make_trainer("finetune", collator=collator)
    trainer = make_trainer("finetune", collator=PatchDataCollator(processor), title_normalizer="catalog")
    assert trainer.data_collator.title_normalizer == "catalog"
    assert "trie" in processor.__dict__  # computed before workers are made


def test_a_catalog_that_leaves_nothing_open(make_trainer, tokenizer):
    processor = PatchRecProcessor(tokenizer, Catalog.from_titles(dict.fromkeys(TITLES, "Emma")), BOOK_PROMPT)
    rows = Dataset.from_list([{"user_id": 0, "item_ids": [10, 11], "target_positions": [1]}])
    with pytest.raises(ValueError, match=r"all items have the title 'Emma'.*`title_normalizer='vocabulary'`"):
        make_trainer("finetune", processing_class=processor, train_dataset=rows, title_normalizer="catalog")


def test_more_negatives_than_items(make_trainer):
    with pytest.raises(ValueError, match=r"`num_negatives` must lie between 1 and the catalog's 12 items, got 13"):
        make_trainer("finetune", objective="item", num_negatives=13)


def test_negatives_are_weighted_by_the_targets_of_the_rows(make_trainer, processor, rows, monkeypatch):
    monkeypatch.setattr("patchrec_hf.data.rows.CHUNK_ROWS", 5)
    several = Dataset.from_list([*rows, {"user_id": 1, "item_ids": [10, 11, 11, 11, 11], "target_positions": [2, 4]}])
    counts = np.zeros(12)
    for row in several:
        for position in row["target_positions"]:
            counts[ITEM_IDS.index(row["item_ids"][position])] += 1
    assert counts.min() == 0
    negatives = make_trainer(
        "finetune", train_dataset=several, objective="item", num_negatives=5
    ).data_collator.negatives
    assert negatives.num_negatives == 5
    np.testing.assert_allclose(negatives.weights, np.sqrt(counts))
    # A collator's own are kept.
    own = NegativeSampling(3)
    collator = PatchDataCollator(processor, objective="item", negatives=own)
    trainer = make_trainer("finetune", collator=collator, objective="item", num_negatives=5)
    assert trainer.data_collator.negatives is own


def test_large_catalogs_are_sampled_by_default(make_trainer, monkeypatch):
    monkeypatch.setattr(inputs, "_NUM_NEGATIVES", 4)
    assert make_trainer("finetune", objective="item").data_collator.negatives.num_negatives is None
    monkeypatch.setattr(inputs, "_MAX_FULL_SOFTMAX", 11)
    assert make_trainer("finetune", objective="item").data_collator.negatives.num_negatives == 4
    assert make_trainer("finetune").data_collator.negatives is None


def test_models_and_processors_that_learned_other_items(make_trainer, processor):
    with pytest.raises(ValueError, match="residuals for 12 items, but the processor writes them for 0"):
        make_trainer("finetune", model=item_model(), objective="item")
    catalog, kwargs = processor.catalog, {"objective": "item"}

    def trainer(order):
        other = Catalog(catalog.item_ids[order], tuple(catalog.titles[index] for index in order))
        return make_trainer(
            "finetune", model=item_model(), processing_class=item_processor(processor, catalog=other), **kwargs
        )

    with pytest.raises(ValueError, match="in another order"):
        trainer(np.roll(np.arange(12), 1))
    with pytest.raises(ValueError, match=r"lacks 2 of the 12 items that the model has learned: 13, 21\."):
        trainer(np.delete(np.arange(12), [3, 11]))


def test_adapters_on_a_model_without_a_head(make_trainer):
    model = get_peft_model(plain_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"`objective='item'` needs an item head, which the adapter's base model"):
        make_trainer("finetune", model=model, objective="item")


@dataclass(frozen=True)
class LeavesOutNewest:
    name: ClassVar[str] = "leaves_out_newest"

    def __call__(self, num_items, seed=()):
        return [Segment("text", 0, max(num_items - 1, 1))]


def test_layouts_that_leave_out_the_newest_item(make_trainer, processor):
    other = processor.with_layout(LeavesOutNewest())
    with pytest.raises(ValueError, match="leaves out the newest item"):
        make_trainer("finetune", processing_class=other, objective="item")
    make_trainer("finetune", processing_class=other)
    make_trainer("finetune", processing_class=processor.with_layout(DropLayout(1.0)), objective="item")


@pytest.mark.parametrize("objective", first_fast(["title", "item", "both"]))
@pytest.mark.parametrize("has_head", first_fast([False, True]))
def test_a_step_uses_every_weight_that_is_trained(make_trainer, processor, rows, objective, has_head):
    """DDP relies on it: by default, it does not look for weights that a forward did not use."""
    model = item_model(residual_size=0) if has_head else None
    trainer = make_trainer("finetune", model=model, objective=objective)
    assert trainer.args.ddp_find_unused_parameters is False
    trainer.model.train()
    trainer.model(**trainer.data_collator([rows[0], rows[1]])).loss.backward()
    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    assert ("item_head.item_vectors.weight" in trained) is (objective != "title")


def test_an_idle_head_is_frozen_until_it_is_trained_again(catalog, tokenizer, make_trainer, processor):
    """The head of titles is untied here, and the item objective does not train it."""
    backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    backbone.config.tie_word_embeddings = False
    backbone.lm_head.weight = torch.nn.Parameter(backbone.lm_head.weight.detach().clone())
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    make_trainer("finetune", model, objective="item")
    assert not model.lm_head.weight.requires_grad
    make_trainer("finetune", model, objective="both")
    assert model.lm_head.weight.requires_grad
    make_trainer("finetune", model, objective="title")
    assert not any(parameter.requires_grad for parameter in model.item_head.parameters())
    assert model.lm_head.weight.requires_grad


def test_a_cpu_does_not_train_in_float16(make_trainer):
    with pytest.raises(ValueError, match=r"`fp16=True` has no effect on a CPU.*`bf16=True`"):
        make_trainer("finetune", fp16=True)


@pytest.mark.parametrize(
    ("make", "message"),
    first_fast(
        [
            (lambda rows, bad: rows.select([]), "is empty"),
            (lambda rows, bad: {"few": rows, "none": rows.select([])}, "is empty"),
            (lambda rows, bad: {}, "dictionary without data sets"),
            (lambda rows, bad: bad, r"Row 0 \(user 0\) has the target positions \[\]"),
            (lambda rows, bad: {"few": rows, "bad": bad}, r"Row 0 \(user 0\) has the target positions \[\]"),
        ]
    ),
)
def test_evaluating_no_rows(make_trainer, rows, make, message):
    bad = Dataset.from_list([{**row, "target_positions": []} for row in rows], features=rows.features)
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", eval_dataset=make(rows, bad))
    with pytest.raises(ValueError, match=message):
        make_trainer("finetune", eval_ks=[]).evaluate(make(rows, bad))


def other_backbone(tmp_path):
    """A backbone whose vocabulary is as large as the tests' own, with other tokens."""
    titles = {number: f"zebra {number} quux" for number in range(40)}
    backbone, tokenizer = build_tiny_backbone(Catalog.from_titles(titles), vocab_size=400, hidden_size=32)
    for part in (backbone, tokenizer):
        part.save_pretrained(tmp_path / "other")
    return str(tmp_path / "other"), tokenizer


def test_backbone_of_another_tokenizer(make_trainer, processor, tmp_path):
    name, tokenizer = other_backbone(tmp_path)
    assert tokenizer.vocab_size == processor.tokenizer.vocab_size  # no size tells them apart
    with pytest.raises(ValueError, match=r"is not .*other's: .* tokens, such as .*from_backbone\('"):
        make_trainer("finetune", model=name)


def test_the_fingerprint_of_an_old_model_is_saved_with_it(make_trainer, model, processor):
    model.config.tokenizer_fingerprint = None
    trainer = make_trainer("finetune", model=model)
    assert trainer.model.config.tokenizer_fingerprint == processor.tokenizer_fingerprint


def test_an_old_checkpoint_of_another_tokenizer(make_trainer, processor, tmp_path):
    """It has no fingerprint, so the tokenizer in its directory tells which one it was made with."""
    name, tokenizer = other_backbone(tmp_path)
    old = PatchRecForCausalLM.from_backbone(name, tokenizer)
    old.config.tokenizer_fingerprint = None
    for part in (old, tokenizer):
        part.save_pretrained(tmp_path / "old")
    for model in (str(tmp_path / "old"), PatchRecForCausalLM.from_pretrained(tmp_path / "old")):
        with pytest.raises(ValueError, match=r"The tokenizer is not .*old's"):
            make_trainer("finetune", model=model)
    processor.tokenizer.save_pretrained(tmp_path / "old")
    assert make_trainer("finetune", model=tmp_path / "old").model.config.tokenizer_fingerprint is not None


def test_settings_of_loading_are_for_loading_only(make_trainer, catalog, tmp_path, caplog):
    """SFTTrainer gets a model that is loaded already, and would warn that the settings are ignored."""
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    settings = {"dtype": "bfloat16"}
    trainer = make_trainer("finetune", model=tmp_path / "backbone", model_init_kwargs=settings)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}
    assert "model_init_kwargs" not in caplog.text
    assert settings == {"dtype": "bfloat16"}


def test_a_model_init_may_return_a_name(processor, rows, catalog, tmp_path):
    for part in build_tiny_backbone(catalog, vocab_size=400, hidden_size=32):
        part.save_pretrained(tmp_path / "backbone")
    args = PatchFinetuneConfig(
        str(tmp_path / "run"), use_cpu=True, max_steps=1, report_to="none", disable_tqdm=True, save_strategy="no",
        model_init_kwargs={"attn_implementation": "eager"},
    )  # fmt: skip
    trainer = PatchFinetuneTrainer(
        model_init=lambda: str(tmp_path / "backbone"), args=args, train_dataset=rows, processing_class=processor
    )
    trainer.train()
    assert trainer.model.config._attn_implementation == "eager"
    assert args.model_init_kwargs == {"attn_implementation": "eager"}


def test_layouts_that_read_times_are_checked_before_training(make_trainer, processor, rows):
    windows = processor.with_layout(TimeWindowLayout(3600))
    for stage in ("pretrain", "finetune"):
        with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but a data set has no column"):
            make_trainer(stage, processing_class=windows)
    collator = PatchDataCollator(processor, TimeWindowLayout(3600))
    with pytest.raises(ValueError, match=r"TimeWindowLayout\(.*reads timestamps, but a data set has no column"):
        make_trainer("finetune", collator=collator)


@pytest.mark.parametrize(
    "layout", first_fast([TimeWindowLayout(3600, 1), PyramidLayout(width=2), BudgetLayout(40, 5)]), ids=repr
)
@pytest.mark.parametrize("objective", first_fast(["title", "item"]))
def test_both_trainers_take_long_layouts(make_trainer, processor, rows, layout, objective):
    timed = rows.map(lambda row: {"timestamps": [1800 * place**2 for place in range(len(row["item_ids"]))]})
    for stage in ("pretrain", "finetune"):
        trainer = make_trainer(
            stage,
            train_dataset=timed,
            processing_class=processor.with_layout(layout),
            objective=objective,
            max_steps=1,
            train_sampling_strategy="group_by_length",
        )
        trainer.train()
        assert np.isfinite(trainer.state.log_history[0]["loss"])


def test_a_checkpoint_knows_until_when_and_at_which_rate_it_was_trained(make_trainer, rows):
    """The latest target counts, not the items after it. A further training keeps the first rate."""

    def with_times(row):
        size = len(row["item_ids"])
        return {"timestamps": [100 * row["user_id"] + place for place in range(size)], "target_positions": [size - 2]}

    timed = rows.map(with_times)
    trainer = make_trainer("finetune", train_dataset=timed)
    config = trainer.model.config
    assert config.trained_until == max(row["timestamps"][-2] for row in timed)
    assert config.initial_learning_rate == 1e-2
    again = make_trainer("finetune", model=trainer.model, learning_rate=1e-3).model.config
    assert (again.trained_until, again.initial_learning_rate) == (None, 1e-2)
    stream = make_trainer("finetune", train_dataset=as_stream(timed)).model.config
    assert stream.trained_until is None


def test_items_compete_that_are_targets_of_any_rows(processor, rows):
    targets = {row["item_ids"][row["target_positions"][0]] for row in rows}
    args = PatchFinetuneConfig("outputs", objective="item", use_cpu=True)
    whole = inputs.choose_negatives(args, processor.catalog, rows)
    assert set(processor.catalog.item_ids[whole.weights > 0].tolist()) == targets
    parts = inputs.choose_negatives(args, processor.catalog, rows.select(range(5)), rows.select(range(5, 14)))
    np.testing.assert_array_equal(parts.weights, whole.weights)
    assert inputs.choose_negatives(args, processor.catalog, rows, as_stream(rows)).weights is None
