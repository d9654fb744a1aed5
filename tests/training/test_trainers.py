import copy
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from conftest import TITLES
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, TrainerState
from trl import RichProgressCallback, SFTTrainer

from patchrec_hf import (
    BOOK_PROMPT,
    PAPER_PRESETS,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    TextLayout,
    evaluate_model,
)
from patchrec_hf.batches.filled import FilledDataset, FillerRow
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.tiny import build_tiny_backbone
from patchrec_hf.training import patch_trainer


STAGES = {
    "pretrain": (PatchPretrainTrainer, PatchPretrainConfig),
    "finetune": (PatchFinetuneTrainer, PatchFinetuneConfig),
}


@pytest.fixture
def make_trainer(catalog, tokenizer, processor, rows, tmp_path):
    """Makes a trainer of either stage on a new copy of the tiny model."""

    def make(stage="pretrain", model=None, collator=None, eval_dataset=None, train_dataset=None, **kwargs):
        trainer_class, config_class = STAGES[stage]
        if model is None:
            backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
            model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
        settings = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "per_device_train_batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "eval_ks": [5, 10],
        }
        args = config_class(**(settings | kwargs))
        return trainer_class(
            model, args, train_dataset or rows, processor, eval_dataset=eval_dataset, data_collator=collator
        )

    return make


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def test_probability_rises_with_the_steps(make_trainer):
    trainer = make_trainer(max_steps=-1, num_train_epochs=2)  # 14 rows: 4 steps an epoch
    trainer.train()
    assert logged(trainer, "compression_probability") == [step / 8 for step in range(8)]
    ratios = logged(trainer, "compression_prompt")
    assert ratios[0] == 1.0
    assert all(ratio < 1.0 for ratio in ratios[4:])
    assert all(tokens > 0 for tokens in logged(trainer, "prompt_tokens"))


def batches(trainer):
    trainer.state.max_steps = 6
    return list(trainer.get_train_dataloader())


@pytest.mark.parametrize("stage", STAGES)
def test_workers_change_nothing(make_trainer, stage):
    alone = batches(make_trainer(stage, num_train_epochs=1))
    helped = batches(make_trainer(stage, dataloader_num_workers=2, dataloader_prefetch_factor=2))
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_accumulation_keeps_the_rows_and_draws_of_a_step(make_trainer):
    """Two micro-batches of two rows are the same examples as one of four, to the token."""
    whole, halves = (
        batches(make_trainer()),
        batches(make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=2)),
    )
    assert len(halves) == 2 * len(whole) - 1  # 14 rows
    for i, batch in enumerate(whole):
        expected = batch["input_ids"]
        got = torch.nn.utils.rnn.pad_sequence(
            [row for half in halves[2 * i : 2 * i + 2] for row in half["input_ids"]], batch_first=True
        )
        width = min(expected.shape[1], got.shape[1])
        pad = batch["attention_mask"][:, :width]
        assert torch.equal(expected[:, :width] * pad, got[:, :width] * pad)


def test_accumulated_loss_is_the_whole_batches_loss(make_trainer):
    losses = []
    for kwargs in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}):
        trainer = make_trainer(max_steps=3, **kwargs)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_unbroken_run(make_trainer, tmp_path, workers):
    kwargs = {"max_steps": 7, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    kwargs |= {"dataloader_num_workers": workers}
    unbroken = make_trainer(**kwargs)
    unbroken.train()
    make_trainer(output_dir=str(tmp_path / "broken"), save_strategy="steps", save_steps=5, **kwargs).train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **kwargs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-5"))
    assert logged(resumed, "loss")[-2:] == pytest.approx(logged(unbroken, "loss")[-2:], rel=1e-6)
    for one, other in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluation_ranks_and_picks_the_best_checkpoint(make_trainer, rows):
    trainer = make_trainer(
        "finetune",
        eval_dataset=rows,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="hr@5",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_metric == max(logged(trainer, "eval_hr@5"))
    metrics = trainer.evaluate()
    assert metrics.keys() >= {"eval_hr@5", "eval_hr@10", "eval_ndcg@5", "eval_loss", "eval_compression_titles"}
    ranked = evaluate_model(trainer.model, trainer.processing_class, rows, k=10, show_progress=False)
    assert metrics["eval_hr@10"] == np.mean(ranked.targets["item_rank"].to_numpy() <= 10)
    assert metrics["eval_title_hr@10"] == np.mean(ranked.targets["title_rank"].to_numpy() <= 10)


@pytest.mark.parametrize("kwargs", [{}, {"dataloader_drop_last": True}])
@pytest.mark.parametrize("batch_size", [1, 4, 14])
def test_evaluation_loss_is_a_mean_over_all_labels(make_trainer, rows, batch_size, kwargs):
    """However rows are shared out to batches, which hold unequal numbers of labels."""
    trainer = make_trainer("finetune", eval_dataset=rows, per_device_eval_batch_size=batch_size, eval_ks=[], **kwargs)
    with torch.no_grad():
        expected = trainer.model(**trainer.data_collator(list(rows))).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_fillers_of_an_evaluation_have_no_labels(rows, processor):
    filled = FilledDataset(rows, rows_per_forward=4)
    assert len(filled) == 16
    batch = [filled[index] for index in range(12, 16)]
    assert [isinstance(row, FillerRow) for row in batch] == [False, False, True, True]
    for packs in (False, True):
        collated = PatchDataCollator(processor, tree_packing=packs)(batch)
        whole = PatchDataCollator(processor, tree_packing=packs)(batch[:2])
        labels, expected = ([row[row != -100].tolist() for row in part["labels"]] for part in (collated, whole))
        assert [row for row in labels if row] == expected


def test_evaluation_in_pretraining_uses_the_fixed_layout(make_trainer, rows):
    pretrain, finetune = make_trainer(eval_dataset=rows), make_trainer("finetune", eval_dataset=rows)
    first, second = pretrain.evaluate(), finetune.evaluate()
    assert first["eval_loss"] == pytest.approx(second["eval_loss"], rel=1e-6)
    assert pretrain.evaluate()["eval_loss"] == first["eval_loss"]


def test_rows_ranked_during_training_are_capped(make_trainer, rows, monkeypatch):
    caps = []
    monkeypatch.setattr(
        patch_trainer,
        "evaluate_model",
        lambda *args, **kwargs: (caps.append(kwargs["max_rows"]), evaluate_model(*args, **kwargs))[1],
    )
    trainer = make_trainer(
        "finetune", eval_dataset=rows, eval_strategy="steps", eval_steps=3, max_steps=3, eval_max_rows=2
    )
    trainer.train()
    trainer.evaluate()
    assert caps == [2, None]


@pytest.mark.parametrize("tree_packing", [False, True])
def test_head_projects_labelled_positions_only(make_trainer, rows, tree_packing):
    projected = []
    trainer = make_trainer("finetune", tree_packing=tree_packing)
    trainer.model.lm_head.register_forward_hook(lambda module, inputs, output: projected.append(output.shape[:-1]))
    batch = trainer.data_collator(list(rows)[:4])
    trainer.compute_loss(trainer.model, dict(batch))
    assert projected == [(1, (batch["labels"] != -100).sum())]


@pytest.mark.parametrize("tree_packing", [False, True])
def test_loss_and_metrics_equal_those_of_trl(make_trainer, rows, tree_packing):
    """On the CPU the loss is the model's own; it and what is logged with it are what SFTTrainer's fused head gives."""
    trainer = make_trainer("finetune", tree_packing=tree_packing)
    trainer.model.train()
    batch = trainer.data_collator(list(rows))
    ours = trainer.compute_loss(trainer.model, dict(batch)).item()
    theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch)).item()
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(trainer.model(**batch).loss.item(), rel=1e-5)
    expected = {key: values[-1] for key, values in trainer._metrics["train"].items()}
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    trainer.log({})
    assert {key: trainer.state.log_history[-1][key] for key in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_loss_falls_on_a_repeated_batch(make_trainer, rows, stage):
    trainer = make_trainer(stage, train_dataset=rows.select(range(4)), max_steps=20, warmup_steps=0)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.8 * losses[0]


def test_nan_loss_is_an_error(make_trainer):
    trainer = make_trainer("finetune")
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[:] = math.nan
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0.*learning_rate"):
        trainer.train()


def test_saved_checkpoint_recommends(make_trainer, tmp_path):
    trainer = make_trainer("finetune", max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    recommender = PatchRecommender.from_pretrained(tmp_path / "final")
    expected = PatchRecommender(trainer.model, trainer.processing_class).recommend([10, 11], k=3)
    recommended = recommender.recommend([10, 11], k=3)
    assert [item.item_id for item in recommended] == [item.item_id for item in expected]
    assert [item.score for item in recommended] == pytest.approx([item.score for item in expected])


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


def test_both_stages_with_one_model(make_trainer):
    pretrain = make_trainer("pretrain", max_steps=2)
    pretrain.train()
    finetune = make_trainer("finetune", model=pretrain.model, max_steps=2)
    finetune.train()
    assert logged(finetune, "loss")[0] < logged(pretrain, "loss")[0]


def test_model_card(make_trainer, rows, tmp_path):
    trainer = make_trainer("finetune", eval_dataset=rows, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.create_model_card(model_name="my-recommender")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "my-recommender" in card
    assert "ItemPatchLayout(num_text_items=2)" in card
    assert "| hr@5 |" in card


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"packing": True}, "packing=True"),
        ({"padding_free": True}, "padding_free=True"),
        ({"max_length": 512}, "max_history"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        ({"assistant_only_loss": True}, "assistant_only_loss"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy"),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"eval_ks": [0]}, "eval_ks"),
        ({"eval_max_rows": 0}, "eval_max_rows"),
        ({"eval_max_title_tokens": -1}, "eval_max_title_tokens"),
    ],
)
def test_contradicting_settings(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        PatchFinetuneConfig(str(tmp_path), use_cpu=True, **kwargs)


def test_pretraining_cannot_ignore_the_data_it_has_shown(tmp_path):
    with pytest.raises(ValueError, match="ignore_data_skip"):
        PatchPretrainConfig(str(tmp_path), use_cpu=True, ignore_data_skip=True)


def test_paper_defaults(tmp_path):
    args = PatchFinetuneConfig(str(tmp_path), use_cpu=True)
    assert (args.lr_scheduler_type, args.warmup_steps, args.max_grad_norm) == ("cosine", 0.05, 0.3)
    assert (args.num_train_epochs, args.learning_rate, args.bf16) == (1, 5e-5, False)
    assert args.get_warmup_steps(100) == 5


def test_collators_that_contradict_the_checkpoint(make_trainer, processor):
    with pytest.raises(ValueError, match="with_layout"):
        make_trainer("finetune", collator=PatchDataCollator(processor, TextLayout()))
    with pytest.raises(TypeError, match="must be a `PatchPretrainDataCollator`"):
        make_trainer("pretrain", collator=PatchDataCollator(processor))


def test_collators_learn_the_models_context(make_trainer, model, processor, rows):
    model.config.text_config.max_position_embeddings = 40
    for collator in (None, PatchDataCollator(processor)):
        trainer = make_trainer("finetune", model=model, collator=collator)
        with pytest.raises(ValueError, match="reads at most 40"):
            trainer.train()


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
    with pytest.raises(ValueError, match="got 0 rows"):
        make_trainer("finetune", eval_dataset=rows.select([]))
    with pytest.raises(TypeError, match="got `list`"):
        make_trainer("finetune", eval_dataset=[1, 2])


def test_loss_outside_training(make_trainer, rows):
    trainer = make_trainer("pretrain")
    batch = trainer.data_collator([ScheduledRow(row, 0, 0.5) for row in rows])
    assert torch.isfinite(trainer.compute_loss(trainer.model.train(), batch))


def test_paper_presets():
    assert (PAPER_PRESETS["ml-1m"].learning_rate, PAPER_PRESETS["ml-1m"].batch_size) == (8e-6, 64)
    assert (PAPER_PRESETS["goodreads"].learning_rate, PAPER_PRESETS["goodreads"].batch_size) == (5e-5, 32)
    assert (PAPER_PRESETS["ml-100k"].learning_rate, PAPER_PRESETS["ml-100k"].batch_size) == (1e-5, 64)
    assert (PAPER_PRESETS["ml-100k"].session_group_size, PAPER_PRESETS["ml-100k"].session_learning_rate) == (20, 3e-6)


@pytest.mark.parametrize("name", ["args", "processing_class", "train_dataset"])
def test_wrong_kind_of_argument(model, processor, rows, tmp_path, name):
    args = PatchFinetuneConfig(str(tmp_path), use_cpu=True)
    kwargs = {"args": args, "processing_class": processor, "train_dataset": rows} | {name: object()}
    with pytest.raises(TypeError, match=rf"`{name}` must be"):
        PatchFinetuneTrainer(model, **kwargs)


def test_embedding_gradient_equals_a_loop_over_items(model, processor, rows):
    """One call of the embedding module gives the gradient that looking up every item by itself gives."""
    batch = PatchDataCollator(processor)(list(rows))
    calls = []
    table = model.get_input_embeddings()
    hook = table.register_forward_hook(lambda *_: calls.append(1))
    model(**batch).loss.backward()
    hook.remove()
    assert calls == [1]
    gradient = table.weight.grad.clone()
    model.zero_grad()

    embeds = table(batch["input_ids"]).clone()
    for row in range(len(embeds)):
        for position in batch["patch_positions"][row, batch["patch_divisors"][row] > 0].unique():
            here = (batch["patch_positions"][row] == position) & (batch["patch_divisors"][row] > 0)
            embeds[row, position] = table(batch["patch_token_ids"][row, here]).mean(dim=0)
    outputs = model(
        inputs_embeds=embeds,
        **{key: batch[key] for key in ("attention_mask", "supervised_positions", "shift_labels")},
    )
    outputs.loss.backward()
    torch.testing.assert_close(table.weight.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture
def blocks():
    """Six rows of two users with three targets each."""
    items = [list(TITLES)[(7 * i) % len(TITLES)] for i in range(12)]
    rows = [
        {
            "user_id": user,
            "item_ids": (items if user else items[::-1])[start : start + 7],
            "target_positions": [4, 5, 6],
        }
        for user in (0, 1)
        for start in (0, 2, 4)
    ]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_packed_training_is_padded_training(make_trainer, blocks, stage, accumulation):
    """The same rows, steps and losses; fewer positions, and none of them padding."""
    trainers = [
        make_trainer(
            stage,
            train_dataset=blocks,
            eval_dataset=blocks,
            tree_packing=tree_packing,
            gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=2,
        )
        for tree_packing in (False, None)  # by default, rows with several targets are packed
    ]
    for trainer in trainers:
        trainer.train()
    padded, packed = trainers
    assert logged(packed, "loss") == pytest.approx(logged(padded, "loss"), rel=1e-4)
    assert logged(packed, "prompt_tokens") == logged(padded, "prompt_tokens")
    assert packed.evaluate()["eval_hr@5"] == padded.evaluate()["eval_hr@5"]
    assert set(logged(packed, "padding_share")) == {0.0}
    assert max(logged(packed, "positions_per_example")) < min(logged(padded, "positions_per_example"))
    packed.save_model()  # how it attended is not a part of the checkpoint
    assert "patchrec_chunks" not in Path(packed.args.output_dir, "config.json").read_text()
    for key in ("compression_probability", "compression_prompt"):
        assert logged(packed, key) == pytest.approx(logged(padded, key))


def test_what_was_fed_is_counted(make_trainer, blocks):
    trainer = make_trainer("finetune", train_dataset=blocks, max_steps=1, per_device_train_batch_size=6)
    trainer.train()
    examples = trainer.data_collator.encode_rows(blocks)
    assert logged(trainer, "prompt_tokens") == [pytest.approx(np.mean([e.prompt_length for e in examples]))]
    packed = trainer.data_collator(list(blocks))["input_ids"].numel()
    assert logged(trainer, "positions_per_example") == [pytest.approx(packed / len(examples))]
    padded = make_trainer(
        "finetune", train_dataset=blocks, max_steps=1, per_device_train_batch_size=6, tree_packing=False
    )
    padded.train()
    lengths = [len(example.input_ids) for example in examples]
    assert logged(padded, "padding_share") == [pytest.approx(1 - np.mean(lengths) / max(lengths))]


def test_rows_with_one_target_are_packed_on_demand_only(make_trainer):
    assert not make_trainer("finetune").data_collator.tree_packing
    assert make_trainer("finetune", tree_packing=True).data_collator.tree_packing


def test_packed_evaluation_loss(make_trainer, blocks):
    padded, packed = (
        make_trainer("finetune", train_dataset=blocks, tree_packing=packing, per_device_eval_batch_size=6)
        for packing in (False, True)
    )
    assert packed.evaluate(blocks)["eval_loss"] == pytest.approx(padded.evaluate(blocks)["eval_loss"], rel=1e-5)


def make_alibi(catalog, tokenizer):
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2)
    return PatchRecForCausalLM.from_backbone(BloomForCausalLM(config), tokenizer)


def test_backbone_that_reads_no_trees(make_trainer, catalog, tokenizer, blocks, caplog):
    """It trains padded, and says so once; asked for packing, it refuses."""
    with pytest.raises(ValueError, match=r"BloomModel does not take its positions.*packed batches"):
        make_trainer("finetune", make_alibi(catalog, tokenizer), train_dataset=blocks, tree_packing=True)
    transformers.utils.logging.enable_propagation()
    trainer = make_trainer("finetune", make_alibi(catalog, tokenizer), train_dataset=blocks, max_steps=1, eval_ks=[])
    transformers.utils.logging.disable_propagation()
    trainer.train()
    assert [record.message for record in caplog.records if "continues without tree packing" in record.message]
    assert not trainer.data_collator.tree_packing


def test_attention_without_masks_reads_no_trees(make_trainer, model, blocks):
    model.config.decoder_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2' takes no mask.*sdpa"):
        make_trainer("finetune", model, train_dataset=blocks, tree_packing=True)


def first_epoch(trainer):
    trainer.state = TrainerState(max_steps=trainer.state.max_steps)
    return trainer.get_train_dataloader().batch_sampler.sampler


def test_batches_of_one_length(make_trainer, catalog):
    """Grouped by length, batches hold less padding; every row is still seen once."""
    order = list(TITLES)
    lengths = [2 + 7 * (i % 2) for i in range(40)]
    rows = Dataset.from_list(
        [
            {"user_id": i, "item_ids": (order * 2)[i % 12 : i % 12 + length], "target_positions": [length - 1]}
            for i, length in enumerate(lengths)
        ]
    )
    shares, users = {}, {}
    for strategy in ("random", "group_by_length"):
        trainer = make_trainer("finetune", train_dataset=rows, train_sampling_strategy=strategy, max_steps=10)
        trainer.train()
        shares[strategy] = np.mean(logged(trainer, "padding_share"))
        users[strategy] = sorted(index.row_number for index in first_epoch(trainer))
    assert shares["group_by_length"] < 0.5 * shares["random"]
    assert users["group_by_length"] == list(range(40))


def test_grouped_batches_are_evaluated_in_order(make_trainer, rows):
    """The base class would group evaluation rows too, by a length that they do not have."""
    trainer = make_trainer(
        "finetune", eval_dataset=rows, train_sampling_strategy="group_by_length", eval_strategy="steps", eval_steps=3
    )
    trainer.train()
    expected = make_trainer("finetune", model=trainer.model, eval_dataset=rows).evaluate()
    assert logged(trainer, "eval_loss")[-1] == pytest.approx(expected["eval_loss"])


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_packed_training_resumes_with_workers(make_trainer, blocks, tmp_path, strategy):
    kwargs = {"max_steps": 5, "per_device_train_batch_size": 2, "train_dataset": blocks}
    kwargs |= {"dataloader_num_workers": 2, "train_sampling_strategy": strategy}
    unbroken = make_trainer(**kwargs)
    unbroken.train()
    make_trainer(output_dir=str(tmp_path / "broken"), save_strategy="steps", save_steps=3, **kwargs).train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **kwargs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-3"))
    assert logged(resumed, "loss")[-2:] == pytest.approx(logged(unbroken, "loss")[-2:], rel=1e-5)


def test_padded_training_after_packed_training_attends_as_before(make_trainer, blocks, model):
    def attention():
        return model.config.decoder_config._attn_implementation

    make_trainer("finetune", model, train_dataset=blocks)
    assert attention() == "patchrec_chunks"
    make_trainer("pretrain", model, train_dataset=blocks)
    assert attention() == "patchrec_chunks"
    make_trainer("finetune", model, train_dataset=blocks, tree_packing=False)
    assert attention() == "sdpa"


def test_rows_without_targets_add_nothing(make_trainer, blocks):
    empty = Dataset.from_list([{**blocks[0], "target_positions": []}], features=blocks.features)
    collator = make_trainer("finetune", train_dataset=blocks).data_collator
    assert torch.equal(collator([empty[0], *blocks])["input_ids"], collator(list(blocks))["input_ids"])


def test_packing_looks_at_the_rows_that_are_trained_on(make_trainer, blocks, rows):
    mixed = datasets.concatenate_datasets([blocks, rows.cast(blocks.features)])
    assert make_trainer("finetune", train_dataset=mixed).data_collator.tree_packing
    single = mixed.select(range(len(blocks), len(mixed)))
    assert not make_trainer("finetune", train_dataset=single).data_collator.tree_packing


def test_collator_that_packs_against_the_arguments(make_trainer, processor):
    with pytest.raises(ValueError, match="tree_packing=False"):
        make_trainer("finetune", collator=PatchDataCollator(processor, tree_packing=True), tree_packing=False)


def test_lora_trains_packed_as_padded(model, processor, blocks, tmp_path):
    losses = []
    for packs in (False, True):
        args = PatchFinetuneConfig(
            str(tmp_path), use_cpu=True, max_steps=2, report_to="none", disable_tqdm=True, logging_steps=1,
            save_strategy="no", tree_packing=packs, per_device_train_batch_size=3, learning_rate=1e-2,
        )  # fmt: skip
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        trainer = PatchFinetuneTrainer(copy.deepcopy(model), args, blocks, processor, peft_config=config)
        assert trainer.data_collator.tree_packing is packs
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_prompt_learning_trains_padded(model, processor, blocks, tmp_path):
    args = PatchFinetuneConfig(str(tmp_path), use_cpu=True, report_to="none", tree_packing=True)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match="Prompt learning"):
        PatchFinetuneTrainer(model, args, blocks, processor, peft_config=config)


def test_lora_trains(model, processor, rows, tmp_path):
    args = PatchFinetuneConfig(
        str(tmp_path), use_cpu=True, max_steps=2, report_to="none", disable_tqdm=True, eval_ks=[5], save_strategy="no"
    )
    trainer = PatchFinetuneTrainer(
        model,
        args,
        rows,
        processor,
        eval_dataset=rows,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    changed = [
        name for name, p in trainer.model.named_parameters() if name in before and not torch.equal(p, before[name])
    ]
    assert changed
    assert all("lora" in name or "trainable_tokens" in name for name in before)
    assert "eval_hr@5" in trainer.evaluate()


def test_vanilla_is_the_text_layout(catalog, tokenizer, rows, model, tmp_path):
    """With `TextLayout`, training is plain supervised fine-tuning of the backbone, token for token."""
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, TextLayout(), max_history=8)
    batch = PatchDataCollator(processor)(list(rows))
    backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    plain = backbone.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    loss = nn.functional.cross_entropy(plain.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert model(**batch).loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert ItemPatchLayout(100)(8) == TextLayout()(8)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([3, 2], r"target positions \[3, 2\] must ascend. It is row 5 of"),
        ([2, 2], r"must ascend. It is row 5 of"),
        ([], r"Row 5 \(user 77\) has the target positions \[\]"),
        ([2, None], r"Row 5 \(user 77\) has the target positions \[2, None\]"),
        (None, r"Row 5 \(user 77\) has the target positions None"),
        ([0], r"position 0 must lie between 1 and 9; .* It is row 5 of"),
        ([3, 10], r"position 10 must lie between 1 and 9; .* It is row 5 of"),
        ([1, 9], r"must lie less than `max_history` \(8\) apart.* It is row 5 of"),
    ],
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


def test_users_must_be_whole_numbers(make_trainer, rows):
    dataset = rows.remove_columns("user_id").add_column("user_id", [f"u{row}" for row in range(len(rows))])
    with pytest.raises(TypeError, match=r"Column `user_id` must hold whole numbers, got string. Number the users"):
        make_trainer("finetune", train_dataset=dataset)


@pytest.mark.parametrize("targets", [1, 1.5, [1.5], None, ["1"]])
def test_target_positions_must_be_lists_of_whole_numbers(make_trainer, rows, targets):
    dataset = rows.remove_columns("target_positions").add_column("target_positions", [targets] * len(rows))
    with pytest.raises(TypeError, match=r"Column `target_positions` must hold lists of whole numbers, got"):
        make_trainer("finetune", train_dataset=dataset)


def test_packing_is_asked_for_with_a_boolean(tmp_path):
    with pytest.raises(ValueError, match="`tree_packing` must be True, False or None, got 'no'"):
        PatchFinetuneConfig(str(tmp_path), use_cpu=True, tree_packing="no")


def test_collator_of_another_processor_is_refused(make_trainer, processor):
    with pytest.raises(ValueError, match="must hold the processor that is passed as `processing_class`"):
        make_trainer("finetune", collator=PatchDataCollator(processor.with_layout(processor.layout)))


def test_the_log_goes_where_report_to_says(make_trainer, rows, tmp_path, monkeypatch):
    """TensorBoard stands for all: the log is the Trainer's own, and nothing is sent anywhere else."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(eval_dataset=rows, report_to="tensorboard", eval_strategy="steps", eval_steps=6)
    trainer.train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert {"train/loss", "train/compression_probability", "eval/hr@5", "eval/loss"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged(trainer, "loss"))


def test_rich_progress(make_trainer, rows, capsys):
    trainer = make_trainer("finetune", eval_dataset=rows, eval_strategy="steps", eval_steps=3)
    trainer.add_callback(RichProgressCallback())
    trainer.train()
    assert "hr@5" in capsys.readouterr().out


# Streams


def as_stream(rows, num_shards=3):
    return rows.to_iterable_dataset(num_shards=num_shards)


@pytest.mark.parametrize("stage", STAGES)
def test_workers_change_nothing_in_a_stream(make_trainer, rows, stage):
    """Nine batches of four are more than two epochs of fourteen rows."""
    settings = {"train_dataset": as_stream(rows), "max_steps": 9}
    alone = list(make_trainer(stage, **settings).get_train_dataloader())
    helped = list(make_trainer(stage, **settings, dataloader_num_workers=2).get_train_dataloader())
    assert len(alone) == len(helped) == 9
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_epoch_of_a_stream_holds_every_row_once(make_trainer, rows):
    trainer = make_trainer(train_dataset=as_stream(rows), max_steps=7)
    streamed = list(trainer._stream)
    users = [row.row["user_id"] for row in streamed]
    assert sorted(users[:14]) == sorted(users[14:]) == list(range(14))
    assert users[:14] != users[14:]
    assert [row.step for row in streamed] == [place // 4 for place in range(28)]
    assert [row.progress for row in streamed[::4]] == [step / 7 for step in range(7)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stream_resumes_where_it_stopped(make_trainer, rows, tmp_path, accumulation):
    kwargs = {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": accumulation}
    whole = make_trainer(train_dataset=as_stream(rows), **kwargs)
    whole.train()
    resumed = make_trainer(train_dataset=as_stream(rows), **kwargs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert logged(resumed, "loss") == logged(whole, "loss")
    assert logged(whole, "compression_probability") == [step / 6 for step in range(6)]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_stream_with_several_targets_is_packed(make_trainer, rows):
    several = rows.map(lambda row: {"target_positions": [len(row["item_ids"]) - 2, len(row["item_ids"]) - 1]})
    trainer = make_trainer("finetune", train_dataset=as_stream(several))
    assert trainer.data_collator.tree_packing
    trainer.train()
    assert len(logged(trainer, "loss")) == 6


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"max_steps": -1}, "A stream of rows has no length, so `max_steps` must say"),
        ({"train_sampling_strategy": "group_by_length"}, "needs rows that are not streamed"),
    ],
)
def test_settings_that_a_stream_cannot_have(make_trainer, rows, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        make_trainer(train_dataset=as_stream(rows), **kwargs)


def test_a_stream_without_rows(make_trainer, rows):
    with pytest.raises(ValueError, match="needs `user_id`, `item_ids` and `target_positions`, got 0 rows"):
        make_trainer(train_dataset=as_stream(rows).filter(lambda row: False))


def test_bad_rows_of_a_stream_are_seen_before_training(make_trainer, rows):
    bad = rows.map(lambda row: {"target_positions": [0]})
    with pytest.raises(ValueError, match="target position 0 must lie between"):
        make_trainer(train_dataset=as_stream(bad))


def test_the_card_of_a_model_trained_on_a_stream(make_trainer, rows, tmp_path):
    trainer = make_trainer(train_dataset=as_stream(rows), max_steps=1)
    trainer.train()
    trainer.create_model_card()
    assert "PatchRec pre-training" in (tmp_path / "run" / "README.md").read_text()
