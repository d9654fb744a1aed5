"""Evaluation in a trainer: losses, rankings and predictions."""

import datasets
import numpy as np
import pytest
import torch
from item_parts import item_model, item_processor
from tiers import first_fast
from trainer_parts import as_stream, logged
from transformers import TrainerState

from patchrec_hf import (
    PatchDataCollator,
    evaluate_model,
    last_checkpoint,
)
from patchrec_hf.batches.filled import FilledDataset, FillerRow
from patchrec_hf.training import ranking_evaluation


OBJECTIVES = ["item", "both"]


@pytest.mark.slow
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
    assert metrics.keys() >= {"eval_hr@5", "eval_hr@10", "eval_ndcg@5", "eval_loss", "eval_compression_ratio"}
    ranked = evaluate_model(trainer.model, trainer.processing_class, rows, k=10, show_progress=False)
    assert metrics["eval_hr@10"] == np.mean(ranked.targets["item_rank"].to_numpy() <= 10)
    assert metrics["eval_title_hr@10"] == np.mean(ranked.targets["title_rank"].to_numpy() <= 10)


@pytest.mark.parametrize("kwargs", first_fast([{}, {"dataloader_drop_last": True}]))
@pytest.mark.parametrize("batch_size", first_fast([1, 4, 14]))
def test_evaluation_loss_is_a_mean_over_all_labels(make_trainer, rows, batch_size, kwargs):
    """The mean does not depend on the batch size, although batches hold unequal numbers of labels."""
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


@pytest.mark.slow
def test_rows_ranked_during_training_are_capped(make_trainer, rows, monkeypatch):
    caps = []
    monkeypatch.setattr(
        ranking_evaluation,
        "evaluate_model",
        lambda *args, **kwargs: (caps.append(kwargs["max_rows"]), evaluate_model(*args, **kwargs))[1],
    )
    trainer = make_trainer(
        "finetune", eval_dataset=rows, eval_strategy="steps", eval_steps=3, max_steps=3, eval_max_rows=2
    )
    trainer.train()
    trainer.evaluate()
    assert caps == [2, None]


@pytest.mark.slow
def test_packed_evaluation_loss(make_trainer, blocks):
    padded, packed = (
        make_trainer("finetune", train_dataset=blocks, tree_packing=packing, per_device_eval_batch_size=6)
        for packing in (False, True)
    )
    assert packed.evaluate(blocks)["eval_loss"] == pytest.approx(padded.evaluate(blocks)["eval_loss"], rel=1e-5)


@pytest.mark.slow
def test_grouped_batches_are_evaluated_in_order(make_trainer, rows):
    """The base class would group evaluation rows too, by a length that they do not have."""
    trainer = make_trainer(
        "finetune", eval_dataset=rows, train_sampling_strategy="group_by_length", eval_strategy="steps", eval_steps=3
    )
    trainer.train()
    expected = make_trainer("finetune", model=trainer.model, eval_dataset=rows).evaluate()
    assert logged(trainer, "eval_loss")[-1] == pytest.approx(expected["eval_loss"])


@pytest.mark.slow
def test_predictions_are_ranked_item_ids(make_trainer, rows):
    trainer = make_trainer("finetune", eval_ks=[3])
    with torch.no_grad():  # large weights, so that users get different rankings
        for weight in trainer.model.parameters():
            weight.mul_(8)
    output = trainer.predict(rows)
    assert output.predictions.shape == (len(rows), 3)
    assert output.label_ids.tolist() == [row["item_ids"][-1] for row in rows]
    ranked = evaluate_model(
        trainer.model, trainer.processing_class, rows, k=3, keep_rankings=True, show_progress=False
    )
    assert len(np.unique(output.predictions, axis=0)) > 1
    assert output.predictions.tolist() == ranked.targets["ranked_ids"].to_list()
    assert output.metrics["test_loss"] == pytest.approx(trainer.evaluate(rows)["eval_loss"])


def test_predictions_need_no_metrics(make_trainer, rows):
    output = make_trainer("finetune", eval_ks=[]).predict(rows.select(range(2)))
    assert output.predictions.shape == (2, 11)  # of 20, as two items have one title
    assert not any("hr@" in name for name in output.metrics)


def test_evaluation_rows_with_a_column_progress_are_no_twins(make_trainer, rows):
    trainer = make_trainer("pretrain")
    more = rows.add_column("progress", [0.5] * len(rows)).add_column("is_filler", [True] * len(rows))
    batch, expected = trainer.data_collator(list(more)), trainer.data_collator(list(rows))
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["empty", "dict", "columns"])
def test_rows_to_predict_are_checked(make_trainer, rows, kind):
    trainer = make_trainer("finetune")
    wrong = {
        "empty": rows.select([]),
        "dict": datasets.DatasetDict(test=rows),
        "columns": rows.remove_columns("user_id"),
    }
    with pytest.raises((TypeError, ValueError), match=r"is empty|got `DatasetDict`|got the columns \['item_ids'"):
        trainer.predict(wrong[kind])


@pytest.mark.parametrize("batch_size", first_fast([1, 3, 8]))
@pytest.mark.parametrize("objective", first_fast(OBJECTIVES))
def test_evaluation_loss_is_a_mean_over_all_targets(make_trainer, processor, uneven, batch_size, objective):
    """Fillers fill the last batch and count nothing. Negatives are drawn in training only."""
    trainer = make_trainer(
        "finetune", model=item_model(), processing_class=item_processor(processor), eval_dataset=uneven, eval_ks=[],
        objective=objective, per_device_eval_batch_size=batch_size, num_negatives=2, tree_packing=False,
    )  # fmt: skip
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(**trainer.data_collator(list(uneven))).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_evaluation_ranks_by_items(make_trainer, processor, rows, objective):
    trainer = make_trainer(
        "finetune", model=item_model(), processing_class=item_processor(processor), eval_dataset=rows, eval_ks=[3, 5],
        objective=objective,
    )  # fmt: skip
    metrics = trainer.evaluate()
    report = evaluate_model(
        trainer.model, trainer.processing_class, rows, k=5, method="item", keep_rankings=True, show_progress=False
    )
    ranks = report.targets["item_rank"].to_numpy()
    assert metrics["eval_hr@3"] == np.mean(ranks <= 3)
    assert metrics["eval_hr@5"] == np.mean(ranks <= 5)
    assert trainer.predict(rows).predictions.tolist() == report.targets["ranked_ids"].to_list()
    by_title = make_trainer(
        "finetune", model=item_model(), processing_class=item_processor(processor), eval_dataset=rows, eval_ks=[5],
        objective=objective, eval_method="exact",
    )  # fmt: skip
    report = evaluate_model(by_title.model, by_title.processing_class, rows, k=5, method="exact", show_progress=False)
    assert by_title.evaluate()["eval_hr@5"] == np.mean(report.targets["item_rank"].to_numpy() <= 5)


def test_a_title_run_ranks_by_titles_also_with_a_head(make_trainer, processor, rows):
    trainer = make_trainer(
        "finetune", model=item_model(), processing_class=item_processor(processor), eval_dataset=rows, eval_ks=[5]
    )
    report = evaluate_model(trainer.model, trainer.processing_class, rows, k=5, method="exact", show_progress=False)
    assert trainer.evaluate()["eval_hr@5"] == np.mean(report.targets["item_rank"].to_numpy() <= 5)


SAVING = {
    "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3, "max_steps": 6,
}  # fmt: skip


@pytest.mark.slow
def test_a_model_is_saved_before_it_is_ranked(make_trainer, rows, monkeypatch, tmp_path):
    """A ranking that fails at the first evaluation loses nothing, and the run goes on from there."""

    def fail(*_, **__):
        raise MemoryError("the ranking failed")

    trainer = make_trainer("finetune", eval_dataset=rows, **SAVING)
    with monkeypatch.context() as patched:
        patched.setattr(ranking_evaluation, "evaluate_model", fail)
        with pytest.raises(MemoryError, match="the ranking failed"):
            trainer.train()
    assert last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-3")
    resumed = make_trainer("finetune", eval_dataset=rows, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    monkeypatch.undo()
    whole = make_trainer("finetune", eval_dataset=rows, **SAVING, output_dir=str(tmp_path / "whole"))
    whole.train()
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_checkpoint_holds_what_its_evaluation_has_shown(make_trainer, rows, tmp_path):
    """The state, the best model, the card and the number of checkpoints are as if it had been saved afterwards."""
    saved = []
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_total_limit": 1}
    trainer = make_trainer("finetune", eval_dataset=rows, **SAVING, **settings)
    save_checkpoint = trainer._save_checkpoint
    trainer._save_checkpoint = lambda *args, **kwargs: saved.append(1) or save_checkpoint(*args, **kwargs)
    trainer.train()
    assert len(saved) == 2  # each checkpoint is written once
    checkpoint = tmp_path / "run" / "checkpoint-6"
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    assert state.log_history == trainer.state.log_history[: len(state.log_history)]
    assert [entry["step"] for entry in state.log_history if "eval_loss" in entry] == [3, 6]
    assert state.best_metric == min(logged(trainer, "eval_loss")) == trainer.state.best_metric
    assert state.best_model_checkpoint == str(checkpoint) == trainer.state.best_model_checkpoint
    assert "hr@10" in (checkpoint / "README.md").read_text(encoding="utf-8").lower()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_scheduler_that_follows_the_metrics_is_saved_after_them(make_trainer, rows, tmp_path):
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"}
    trainer = make_trainer("finetune", eval_dataset=rows, **SAVING, **settings)
    trainer.train()
    scheduler = torch.load(tmp_path / "run" / "checkpoint-6" / "scheduler.pt", weights_only=False)
    assert scheduler["last_epoch"] == trainer.lr_scheduler.last_epoch > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["polars", "arrow", "torch", "numpy", "pandas", "columns"])
def test_rows_of_any_format_train_and_evaluate_alike(make_trainer, rows, form):
    """Also a format that shows some columns only."""
    formed = rows.with_format("torch", columns=["item_ids"]) if form == "columns" else rows.with_format(form)
    found = []
    for data in (rows, formed):
        trainer = make_trainer("finetune", train_dataset=data, eval_dataset={"a": data}, max_steps=2)
        trainer.train()
        losses = logged(trainer, "loss"), trainer.evaluate()["eval_a_loss"], trainer.predict(data).metrics["test_loss"]
        found.append((*losses, trainer.predict(data).predictions.tolist()))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["polars", "arrow", "numpy"])
def test_streams_of_any_format_train_alike(make_trainer, rows, form):
    losses = []
    for data in (as_stream(rows), as_stream(rows).with_format(form)):
        trainer = make_trainer("finetune", train_dataset=data, max_steps=2)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]
