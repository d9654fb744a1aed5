"""The trainer that both stages share."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TITLES
from datasets import Dataset
from item_parts import item_model, item_processor
from peft import LoraConfig, PromptTuningConfig
from tiers import first_fast
from trainer_parts import STAGES, as_stream, logged
from transformers import BloomConfig, BloomForCausalLM, TrainerState
from trl import RichProgressCallback, SFTTrainer

from patchrec_hf import (
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchPretrainConfig,
    PatchPretrainTrainer,
    PatchRecForCausalLM,
)
from patchrec_hf.batches.sampling import ScheduledRow


def batches(trainer):
    trainer.state.max_steps = 6
    return list(trainer.get_train_dataloader())


@pytest.mark.parametrize("stage", first_fast(STAGES))
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


@pytest.mark.slow
def test_accumulated_loss_is_the_whole_batches_loss(make_trainer):
    losses = []
    for kwargs in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}):
        trainer = make_trainer(max_steps=3, **kwargs)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    np.testing.assert_allclose(*losses, rtol=1e-3)


def check_resumed_run(make_trainer, tmp_path, kwargs):
    """A run that is resumed from step 5 of 7 ends with the weights of an unbroken one."""
    unbroken = make_trainer(**kwargs)
    unbroken.train()
    make_trainer(output_dir=str(tmp_path / "broken"), save_strategy="steps", save_steps=5, **kwargs).train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **kwargs)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-5"))
    assert logged(resumed, "loss")[-2:] == pytest.approx(logged(unbroken, "loss")[-2:], rel=1e-6)
    for one, other in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_unbroken_run(make_trainer, tmp_path, workers):
    kwargs = {"max_steps": 7, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    kwargs |= {"dataloader_num_workers": workers}
    check_resumed_run(make_trainer, tmp_path, kwargs)


@pytest.mark.parametrize("tree_packing", [False, True])
def test_head_projects_labelled_positions_only(make_trainer, rows, tree_packing):
    projected = []
    trainer = make_trainer("finetune", tree_packing=tree_packing)
    trainer.model.lm_head.register_forward_hook(lambda module, inputs, output: projected.append(output.shape[:-1]))
    batch = trainer.data_collator(list(rows)[:4])
    trainer.compute_loss(trainer.model, dict(batch))
    assert projected == [(1, (batch["labels"] != -100).sum())]


@pytest.mark.slow
@pytest.mark.parametrize("tree_packing", [False, True])
def test_loss_and_metrics_equal_those_of_trl(make_trainer, rows, tree_packing):
    """On a CPU the model computes the loss itself. SFTTrainer's fused head gives the same loss and metrics."""
    trainer = make_trainer("finetune", tree_packing=tree_packing, max_steps=20, per_device_eval_batch_size=len(rows))
    trainer.train()
    trainer.model.train()
    tokens_before = trainer._total_train_tokens
    batch = trainer.data_collator(list(rows))
    ours = trainer.compute_loss(trainer.model, dict(batch)).item()
    theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch)).item()
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(trainer.model(**batch).loss.item(), rel=1e-5)
    expected = {key: values[-1] for key, values in trainer._metrics["train"].items()}
    assert expected.keys() == {"entropy", "mean_token_accuracy", "num_tokens"}
    assert expected["mean_token_accuracy"] > 0
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = tokens_before
    trainer.log({})
    assert {key: trainer.state.log_history[-1][key] for key in expected} == pytest.approx(expected, rel=1e-5)

    trainer.model.eval()
    SFTTrainer.compute_loss(trainer, trainer.model, dict(batch))
    expected = {f"eval_{key}": values[-1] for key, values in trainer._metrics["eval"].items()}
    assert expected.keys() == {"eval_entropy", "eval_mean_token_accuracy", "eval_num_tokens"}
    trainer._metrics["eval"].clear()
    metrics = trainer.evaluate(rows)
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_nan_loss_is_an_error(make_trainer):
    trainer = make_trainer("finetune")
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[:] = math.nan
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0.*learning_rate"):
        trainer.train()


def test_loss_outside_training(make_trainer, rows):
    trainer = make_trainer("pretrain")
    batch = trainer.data_collator([ScheduledRow(row, 0, 0.5) for row in rows])
    assert torch.isfinite(trainer.compute_loss(trainer.model.train(), batch))


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


@pytest.mark.slow
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
    for key in ("compression_probability", "compression_ratio_prompt"):
        assert logged(packed, key) == pytest.approx(logged(padded, key))


@pytest.mark.slow
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


@pytest.mark.slow
def test_batches_of_one_length(make_trainer):
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_lora_trains_packed_as_padded(model, processor, blocks, tmp_path):
    losses = []
    for packs in (False, True):
        args = PatchFinetuneConfig(
            str(tmp_path), use_cpu=True, max_steps=2, report_to="none", disable_tqdm=True, logging_steps=1,
            save_strategy="no", tree_packing=packs, per_device_train_batch_size=3, learning_rate=1e-2,
        )  # fmt: skip
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        trainer = PatchFinetuneTrainer(
            copy.deepcopy(model), args, train_dataset=blocks, processing_class=processor, peft_config=config
        )
        assert trainer.data_collator.tree_packing is packs
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_prompt_learning_trains_padded(model, processor, blocks, tmp_path):
    args = PatchFinetuneConfig(str(tmp_path), use_cpu=True, report_to="none", tree_packing=True)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match="Prompt learning"):
        PatchFinetuneTrainer(model, args, train_dataset=blocks, processing_class=processor, peft_config=config)


@pytest.mark.slow
def test_lora_trains(model, processor, rows, tmp_path):
    args = PatchFinetuneConfig(
        str(tmp_path), use_cpu=True, max_steps=2, report_to="none", disable_tqdm=True, eval_ks=[5], save_strategy="no"
    )
    trainer = PatchFinetuneTrainer(
        model,
        args,
        train_dataset=rows,
        processing_class=processor,
        eval_dataset=rows,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "| what was trained | an adapter |" in card
    assert "More Information Needed" not in card  # PEFT's template
    changed = [
        name for name, p in trainer.model.named_parameters() if name in before and not torch.equal(p, before[name])
    ]
    assert changed
    assert all("lora" in name or "trainable_tokens" in name for name in before)
    assert "eval_hr@5" in trainer.evaluate()


@pytest.mark.slow
def test_the_log_goes_where_report_to_says(make_trainer, rows, tmp_path, monkeypatch):
    """TensorBoard stands for all: the log is the Trainer's own, and nothing is sent anywhere else."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(eval_dataset=rows, report_to="tensorboard", eval_strategy="steps", eval_steps=6)
    trainer.train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert {"train/loss", "train/compression_probability", "eval/hr@5", "eval/loss"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged(trainer, "loss"))


@pytest.mark.slow
def test_rich_progress(make_trainer, rows, capsys):
    trainer = make_trainer("finetune", eval_dataset=rows, eval_strategy="steps", eval_steps=3)
    trainer.add_callback(RichProgressCallback())
    trainer.train()
    assert "hr@5" in capsys.readouterr().out


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_users_arguments_are_never_written_to(make_trainer, rows, tmp_path):
    """The trainer has a copy: a second stage can be configured from the first one's arguments."""
    args = PatchPretrainConfig(
        str(tmp_path / "run"), use_cpu=True, max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1,
        report_to="none", disable_tqdm=True, per_device_train_batch_size=4,
    )  # fmt: skip
    before = args.to_dict()
    trainer = make_trainer(train_dataset=as_stream(rows))
    trainer = PatchPretrainTrainer(
        trainer.model, args, train_dataset=as_stream(rows), processing_class=trainer.processing_class
    )
    trainer.train()
    assert args.to_dict() == before
    assert dataclasses.replace(args, output_dir=str(tmp_path / "other")).max_steps == 2
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.slow
@pytest.mark.parametrize("max_steps", [3, 4, 6])
def test_a_finished_run_takes_no_further_step(make_trainer, max_steps):
    """This also holds if the run ended within an epoch, which has four steps."""
    settings = {"max_steps": max_steps, "save_strategy": "steps", "save_steps": max_steps}
    first = make_trainer(**settings)
    first.train()
    again = make_trainer(**settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == max_steps
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_finished_stream_takes_no_further_step(make_trainer, rows):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "train_dataset": as_stream(rows)}
    first = make_trainer(**settings)
    first.train()
    again = make_trainer(**settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2


@pytest.mark.slow
def test_num_tokens_continue_after_resuming(make_trainer, tmp_path):
    """The checkpoint holds the token count of step 4, which was not logged before."""
    unbroken = make_trainer(output_dir=str(tmp_path / "unbroken"), logging_steps=3)
    unbroken.train()
    make_trainer(save_strategy="steps", save_steps=4, logging_steps=3).train()
    resumed = make_trainer(output_dir=str(tmp_path / "again"), logging_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert logged(resumed, "num_tokens") == logged(unbroken, "num_tokens")
    assert len(logged(resumed, "num_tokens")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_a_finished_run_saves_and_evaluates_nothing_more(make_trainer, rows, tmp_path, streamed):
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "eval_dataset": rows, "eval_ks": []}
    settings |= {"max_steps": 3, "train_dataset": as_stream(rows) if streamed else rows}
    make_trainer(**settings).train()
    resumed = make_trainer(**settings)
    before = len(logged(resumed, "eval_loss"))
    written = (tmp_path / "run" / "checkpoint-3" / "patchrec_run.json").stat().st_mtime_ns
    resumed.train(resume_from_checkpoint=True)
    assert (tmp_path / "run" / "checkpoint-3" / "patchrec_run.json").stat().st_mtime_ns == written
    assert len(logged(resumed, "eval_loss")) == before + 1  # the one that the checkpoint's state holds


@pytest.mark.slow
def test_tokens_are_counted_though_the_last_event_is_an_evaluation(make_trainer, rows, tmp_path):
    settings = {"eval_dataset": rows, "eval_strategy": "steps", "eval_steps": 6, "eval_ks": []}
    trainer = make_trainer(logging_steps=500, save_strategy="steps", save_steps=6, **settings)
    trainer.train()
    expected = make_trainer(logging_steps=1, output_dir=str(tmp_path / "other"))
    expected.train()
    num_tokens = logged(expected, "num_tokens")[-1]
    assert f"| positions read | {num_tokens} |" in (tmp_path / "run" / "checkpoint-6" / "README.md").read_text()
    trainer.create_model_card()
    assert f"| positions read | {num_tokens} |" in (tmp_path / "run" / "README.md").read_text()


def test_the_models_tags_name_the_library(make_trainer):
    assert {"patchrec", "trl"} <= set(make_trainer("finetune").model.model_tags)


OBJECTIVES = ["item", "both"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_items_are_learned(make_trainer, processor, rows, stage, objective):
    trainer = make_trainer(
        stage, processing_class=item_processor(processor), objective=objective, max_steps=20, eval_dataset=rows
    )
    head = trainer.model.item_head
    before = {name: weight.detach().clone() for name, weight in head.named_parameters()}
    residual = trainer.model.model.item_residual.weight
    eval_loss = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = logged(trainer, "loss")
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert trainer.evaluate()["eval_loss"] < eval_loss
    assert all(not torch.equal(weight, before[name]) for name, weight in head.named_parameters())
    assert residual.any(dim=1).all()
    assert ("mean_token_accuracy" in trainer.state.log_history[0]) is (objective == "both")
    assert min(logged(trainer, "num_tokens")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tree_packing", [False, True])
def test_accumulated_item_targets_are_the_whole_batch(make_trainer, processor, uneven, objective, tree_packing):
    """One step on eight rows, or on micro-batches of two or three rows with unequal numbers of targets."""
    weights, losses = [], []
    for size, accumulation in ((8, 1), (2, 4), (3, 3)):
        trainer = make_trainer(
            "finetune", model=item_model(), processing_class=item_processor(processor), train_dataset=uneven,
            objective=objective, tree_packing=tree_packing, per_device_train_batch_size=size, optim="sgd",
            gradient_accumulation_steps=accumulation, max_steps=1, max_grad_norm=0.0, learning_rate=1.0,
            warmup_steps=0,
        )  # fmt: skip
        trainer.train()
        losses.append(logged(trainer, "loss")[0])
        weights.append({name: weight.detach() for name, weight in trainer.model.named_parameters()})
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    start = dict(item_model().named_parameters())
    for other in weights[1:]:
        for name, weight in weights[0].items():
            step = (weight - start[name]).norm()
            assert (weight - other[name]).norm() <= 2e-4 * step, name
    assert (weights[0]["item_head.item_vectors.bias"] - start["item_head.item_vectors.bias"]).norm() > 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_packed_item_training_is_padded_training(make_trainer, processor, uneven, objective):
    trainers = [
        make_trainer(
            "finetune",
            processing_class=item_processor(processor),
            train_dataset=uneven,
            eval_dataset=uneven,
            objective=objective,
            tree_packing=tree_packing,
            max_steps=4,
            optim="sgd",
        )
        for tree_packing in (False, True)
    ]
    for trainer in trainers:
        trainer.train()
    padded, packed = trainers
    for name in ("loss", "prompt_tokens", "grad_norm"):
        assert logged(packed, name) == pytest.approx(logged(padded, name), rel=1e-3)
    assert packed.evaluate()["eval_loss"] == pytest.approx(padded.evaluate()["eval_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("num_negatives", [None, 5])
def test_resuming_an_item_run_gives_the_unbroken_run(make_trainer, processor, tmp_path, num_negatives):
    kwargs = {"max_steps": 7, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    kwargs |= {"objective": "item", "num_negatives": num_negatives, "item_dropout": 0.2}
    kwargs |= {"processing_class": item_processor(processor)}
    check_resumed_run(make_trainer, tmp_path, kwargs)
    with pytest.raises(ValueError, match="objective: old 'item', new 'both'"):
        make_trainer(**{**kwargs, "objective": "both"}).train(str(tmp_path / "broken" / "checkpoint-5"))


def test_an_item_loss_that_is_no_number_is_an_error(make_trainer, processor):
    model = item_model()
    with torch.no_grad():
        model.item_head.item_vectors.bias[3] = torch.nan
    trainer = make_trainer("finetune", model=model, processing_class=item_processor(processor), objective="item")
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_items_are_learned_from_a_stream(make_trainer, processor, rows, stage):
    trainer = make_trainer(
        stage, processing_class=item_processor(processor), train_dataset=as_stream(rows), objective="item",
        num_negatives=4,
    )  # fmt: skip
    assert trainer.data_collator.negatives.weights is None
    trainer.train()
    assert np.isfinite(logged(trainer, "loss")).all()


CATALOG = {"title_normalizer": "catalog", "title_temperature": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("setting", [{}, {"bf16": True}, {"activation_checkpointing": True}, {"objective": "both"}])
def test_titles_are_learned_among_the_catalog(make_trainer, rows, stage, setting):
    trainer = make_trainer(stage, max_steps=20, eval_dataset=rows, **CATALOG, **setting)
    before = trainer.evaluate()
    trainer.train()
    losses = logged(trainer, "loss")
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_mean_token_accuracy"] > before["eval_mean_token_accuracy"]
    assert min(logged(trainer, "num_tokens")) > 0
    assert min(logged(trainer, "entropy")) > 0


@pytest.mark.parametrize("tree_packing", [False, True])
def test_the_evaluation_loss_is_the_mean_over_choices(make_trainer, blocks, tree_packing):
    trainer = make_trainer("finetune", train_dataset=blocks, tree_packing=tree_packing, eval_ks=[], **CATALOG)
    batch = trainer.data_collator(list(blocks))
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(**batch, title_temperature=2.0)
    metrics = trainer.evaluate(blocks)
    num_labels = (batch["shift_choices"] != -100).sum()
    assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert metrics["eval_entropy"] == pytest.approx((expected.choice_entropy / num_labels).item(), rel=1e-5)
    assert metrics["eval_mean_token_accuracy"] == pytest.approx((expected.choice_hits / num_labels).item(), rel=1e-5)
    with torch.no_grad():
        assert expected.loss.item() != pytest.approx(trainer.model(**batch, title_temperature=1.0).loss.item())


def test_only_the_choices_tokens_are_projected(make_trainer, rows, monkeypatch):
    trainer = make_trainer("finetune", **CATALOG)
    batch = trainer.data_collator(list(rows)[:4])
    assert trainer._computes_own_logits({name: tensor.to("meta") for name, tensor in batch.items()})
    monkeypatch.setattr(trainer.model.lm_head, "forward", lambda states: pytest.fail("reads the whole head"))
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    assert trainer.model.lm_head.weight.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["title", "both"])
@pytest.mark.parametrize("tree_packing", [False, True])
def test_accumulated_choices_are_the_whole_batch(make_trainer, processor, uneven, objective, tree_packing):
    weights, losses = [], []
    for size, accumulation in ((8, 1), (2, 4), (3, 3)):
        trainer = make_trainer(
            "finetune", model=item_model(), processing_class=item_processor(processor), train_dataset=uneven,
            objective=objective, tree_packing=tree_packing, per_device_train_batch_size=size, optim="sgd",
            gradient_accumulation_steps=accumulation, max_steps=1, max_grad_norm=0.0, learning_rate=1.0,
            warmup_steps=0, **CATALOG,
        )  # fmt: skip
        trainer.train()
        losses.append(logged(trainer, "loss")[0])
        weights.append({name: weight.detach() for name, weight in trainer.model.named_parameters()})
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    start = dict(item_model().named_parameters())
    for other in weights[1:]:
        for name, weight in weights[0].items():
            step = (weight - start[name]).norm()
            assert (weight - other[name]).norm() <= 2e-4 * step, name


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_packed_training_among_the_catalog_is_padded_training(make_trainer, blocks, stage):
    trainers = [
        make_trainer(stage, train_dataset=blocks, eval_dataset=blocks, tree_packing=packing, optim="sgd", **CATALOG)
        for packing in (False, True)
    ]
    for trainer in trainers:
        trainer.train()
    padded, packed = trainers
    for name in ("loss", "prompt_tokens", "mean_token_accuracy", "entropy", "grad_norm"):
        assert logged(packed, name) == pytest.approx(logged(padded, name), rel=1e-3)
    assert packed.evaluate()["eval_loss"] == pytest.approx(padded.evaluate()["eval_loss"], rel=1e-4)


def test_one_step_lowers_the_loss_over_the_catalog(make_trainer, rows):
    trainer = make_trainer(
        "finetune", per_device_train_batch_size=len(rows), max_steps=1, warmup_steps=0, learning_rate=1e-3,
        eval_dataset=rows, eval_ks=[], **CATALOG,
    )  # fmt: skip
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_a_run_among_the_catalog_gives_the_unbroken_run(make_trainer, tmp_path, workers):
    kwargs = {"max_steps": 7, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    kwargs |= {"dataloader_num_workers": workers, **CATALOG}
    check_resumed_run(make_trainer, tmp_path, kwargs)
    checkpoint = str(tmp_path / "broken" / "checkpoint-5")
    for changed, message in (
        ({"title_temperature": 1.0}, r"title_temperature: old 2\.0, new 1\.0"),
        ({"title_normalizer": "vocabulary", "title_temperature": 1.0}, "title_normalizer: old 'catalog', new 'voca"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(**{**kwargs, **changed}).train(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("vocabulary", 1.0)),
        (CATALOG, ("catalog", 2.0)),
        ({**CATALOG, "score_normalizer": "vocabulary"}, ("vocabulary", 1.0)),
        ({"score_normalizer": "catalog"}, ("catalog", 1.0)),
        ({**CATALOG, "score_normalizer": "catalog", "objective": "both"}, ("catalog", 2.0)),
    ],
)
def test_how_titles_are_scored_is_saved(make_trainer, tmp_path, settings, expected):
    trainer = make_trainer("finetune", max_steps=1, **settings)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    config = PatchRecForCausalLM.from_pretrained(tmp_path / "final").config
    assert (config.title_normalizer, config.title_temperature) == expected
    # A run that trains titles sets it anew, and one that does not leaves it.
    model = PatchRecForCausalLM.from_pretrained(tmp_path / "final")
    make_trainer("finetune", model=model, objective="item")
    assert (model.config.title_normalizer, model.config.title_temperature) == expected
    model = make_trainer("finetune", model=PatchRecForCausalLM.from_pretrained(tmp_path / "final")).model
    assert (model.config.title_normalizer, model.config.title_temperature) == ("vocabulary", 1.0)


@pytest.mark.parametrize(("settings", "name"), [(CATALOG, "title_normalizer='catalog'"), ({"objective": "both"}, "o")])
def test_what_data_parallel_cannot_split(make_trainer, monkeypatch, settings, name):
    monkeypatch.setattr(PatchFinetuneConfig, "n_gpu", property(lambda args: 2))
    with pytest.raises(ValueError, match=rf"`{name}.* does not run in one process on 2 GPUs"):
        make_trainer("finetune", **settings)
