"""The two stages: what each makes of a row."""

import math

import numpy as np
import pytest
import torch
from item_parts import item_processor, plain_model
from tiers import first_fast
from torch import nn
from trainer_parts import STAGES, logged

from patchrec_hf import (
    BOOK_PROMPT,
    ItemPatchLayout,
    PatchDataCollator,
    PatchPretrainConfig,
    PatchPretrainDataCollator,
    PatchRecProcessor,
    TextLayout,
)
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.runtime.configuration import NORMALIZERS
from patchrec_hf.runtime.encoding import pad_histories
from patchrec_hf.tiny import build_tiny_backbone


@pytest.mark.slow
def test_probability_rises_with_the_steps(make_trainer):
    trainer = make_trainer(max_steps=-1, num_train_epochs=2)  # 14 rows: 4 steps an epoch
    trainer.train()
    assert logged(trainer, "compression_probability") == [step / 8 for step in range(8)]
    ratios = logged(trainer, "compression_ratio_prompt")
    assert ratios[0] == 1.0
    assert all(ratio > 1.0 for ratio in ratios[4:])
    assert all(tokens > 0 for tokens in logged(trainer, "prompt_tokens"))


@pytest.mark.slow
def test_evaluation_in_pretraining_uses_the_fixed_layout(make_trainer, rows):
    pretrain, finetune = make_trainer(eval_dataset=rows), make_trainer("finetune", eval_dataset=rows)
    first, second = pretrain.evaluate(), finetune.evaluate()
    assert first["eval_loss"] == pytest.approx(second["eval_loss"], rel=1e-6)
    assert pretrain.evaluate()["eval_loss"] == first["eval_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_loss_falls_on_a_repeated_batch(make_trainer, rows, stage):
    trainer = make_trainer(stage, train_dataset=rows.select(range(4)), max_steps=20, warmup_steps=0)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_both_stages_with_one_model(make_trainer):
    pretrain = make_trainer("pretrain", max_steps=2)
    pretrain.train()
    finetune = make_trainer("finetune", model=pretrain.model, max_steps=2)
    finetune.train()
    assert logged(finetune, "loss")[0] < logged(pretrain, "loss")[0]


def test_vanilla_is_the_text_layout(catalog, tokenizer, rows, model):
    """With `TextLayout`, training is plain supervised fine-tuning of the backbone, token for token."""
    processor = PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT, TextLayout(), max_history=8)
    batch = PatchDataCollator(processor)(list(rows))
    backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)
    plain = backbone.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    loss = nn.functional.cross_entropy(plain.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert model(**batch).loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert ItemPatchLayout(100)(8) == TextLayout()(8)


# Distillation


def scheduled(rows, progress=0.7):
    return [ScheduledRow(row, 3, progress) for row in rows]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_distillation_by_hand(processor, blocks, normalizer):
    """Two histories: each token behind the patches learns the distribution that the text gives for it."""
    collator = PatchPretrainDataCollator(processor, distills=True, title_normalizer=normalizer)
    rows = scheduled([{**blocks[index], "target_positions": [4]} for index in (0, 3)])
    batch, model = collator(rows), plain_model()
    temperature = 2.0 if normalizer == "catalog" else 1.0
    plain = {name: values for name, values in batch.items() if name != "shift_teachers"}
    expected, num_students = 0.0, 0
    histories = collator.encode_rows(rows)
    for text, compressed in zip(histories[::2], histories[1::2], strict=True):
        assert text.next_tokens.tolist() == compressed.next_tokens.tolist()
        log_probs = []
        for history in (text, compressed):
            ids = {name: values[:1] for name, values in pad_histories([history], processor.prompt.pad_id).items()}
            del ids["labels"], ids["shift_labels"], ids["supervised_positions"]
            logits = model(**ids).logits[0, history.supervised_positions] / temperature / 1.5
            if normalizer == "catalog":
                for place, node in enumerate(history.choices):
                    _, children = processor.trie.children_of(np.array([node]))
                    closed = np.setdiff1d(np.arange(logits.shape[1]), processor.trie.tokens[children])
                    logits[place, closed] = -1e9
            log_probs.append(logits.log_softmax(dim=1))
        expected += 1.5**2 * (log_probs[0].exp() * (log_probs[0] - log_probs[1])).sum().item()
        num_students += len(text.next_tokens)
    title_loss = model(**plain, title_temperature=temperature).loss.item()
    settings = {"title_temperature": temperature, "distillation_weight": 0.3, "distillation_temperature": 1.5}
    outputs = model(**batch, **settings)
    assert outputs.divergence.item() == pytest.approx(expected, rel=2e-3)
    assert outputs.title_loss.item() == pytest.approx(title_loss, rel=1e-6)
    assert outputs.loss.item() == pytest.approx(title_loss + 0.3 * expected / num_students, rel=1e-5)
    counted = model(**batch, **settings, num_items_in_batch=torch.tensor(8 * num_students))
    assert counted.loss.item() == pytest.approx(outputs.loss.item() / 4, rel=1e-5)


@pytest.mark.parametrize("twin", first_fast(["compressed", "dropped"]))
@pytest.mark.parametrize("normalizer", first_fast(NORMALIZERS))
def test_distillation_in_packed_batches(processor, blocks, normalizer, twin):
    model = plain_model()
    losses = []
    for packs in (False, True):
        collator = PatchPretrainDataCollator(
            processor, distills=True, title_normalizer=normalizer, twin=twin, tree_packing=packs
        )
        model.zero_grad()
        if packs:
            model.enable_tree_packing()
        outputs = model(**collator(scheduled(blocks)))
        outputs.loss.backward()
        gradients = {name: weights.grad.clone() for name, weights in model.named_parameters()}
        losses.append((outputs.loss.item(), outputs.divergence.item(), gradients))
    (padded, divergence, gradients), (packed, packed_divergence, packed_gradients) = losses
    assert divergence > 0
    assert packed == pytest.approx(padded, rel=1e-5)
    assert packed_divergence == pytest.approx(divergence, rel=1e-4)
    for name, values in gradients.items():
        torch.testing.assert_close(packed_gradients[name], values, rtol=1e-3, atol=1e-5)


def test_only_training_batches_have_teachers(processor, rows):
    collator = PatchPretrainDataCollator(processor, distills=True)
    assert "shift_teachers" not in collator(list(rows)[:2])
    assert "shift_teachers" not in PatchPretrainDataCollator(processor)(scheduled(list(rows)[:2]))
    teachers = collator(scheduled(list(rows)[:2]))["shift_teachers"]
    for text, compressed in zip(teachers[::2].tolist(), teachers[1::2].tolist(), strict=True):
        assert {*text} <= {1, -100}
        assert {*compressed} <= {0, -100}


@pytest.mark.slow
def test_training_distills_and_logs_it(make_trainer, rows):
    trainer = make_trainer(distillation_weight=1.0, eval_dataset=rows.select(range(4)))
    trainer.train()
    divergences = logged(trainer, "distillation_loss")
    assert divergences[0] == pytest.approx(0, abs=1e-5)  # the first step compresses nothing
    assert len(divergences) == 6
    assert divergences[-1] > 0
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    plain = make_trainer()
    plain.train()
    assert not logged(plain, "distillation_loss")


@pytest.mark.slow
def test_accumulation_distills_alike(make_trainer):
    """Micro-batches of one row share the count of labels with the whole batch of four."""
    weights = []
    for size in (4, 1):
        trainer = make_trainer(
            distillation_weight=2.0, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size,
            learning_rate=1e-3, model=plain_model(), max_steps=3,
        )  # fmt: skip
        trainer.train()
        weights.append((trainer.model.state_dict(), logged(trainer, "distillation_loss")))
    assert weights[0][1] == pytest.approx(weights[1][1], rel=1e-3, abs=1e-6)
    for name, values in weights[0][0].items():
        torch.testing.assert_close(weights[1][0][name], values, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_distillation_with_both_objectives(make_trainer, processor):
    trainer = make_trainer(objective="both", distillation_weight=1.0, processing_class=item_processor(processor))
    trainer.train()
    assert logged(trainer, "distillation_loss")[-1] > 0


def test_the_fused_head_is_passed_by(make_trainer, rows):
    trainer = make_trainer(distillation_weight=1.0)
    batch = trainer.data_collator(scheduled(list(rows)[:2]))
    assert trainer._computes_own_logits({name: values.to("meta") for name, values in batch.items()})
    plain = make_trainer().data_collator(scheduled(list(rows)[:2]))
    assert not trainer._computes_own_logits({name: values.to("meta") for name, values in plain.items()})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation_weight": -1.0}, "must be a finite number of at least 0, got -1.0"),
        ({"distillation_weight": math.inf}, "must be a finite number of at least 0, got inf"),
        ({"distillation_weight": 1.0, "distillation_temperature": 0.0}, "must be a positive number, got 0.0"),
        ({"distillation_temperature": 2.0}, "`distillation_temperature=2.0` has no effect without a weight"),
        ({"distillation_weight": 1.0, "objective": "item"}, "but `objective='item'` trains no titles"),
        ({"distillation_weight": 1.0, "loss_type": "dft"}, "`loss_type='dft'` is not supported with `distillation_w"),
    ],
)
def test_distillations_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PatchPretrainConfig("out", use_cpu=True, **settings)


def test_weights_that_are_no_numbers():
    with pytest.raises(TypeError, match="`distillation_weight` must be a number"):
        PatchPretrainConfig("out", use_cpu=True, distillation_weight="1")


def test_twins_stay_on_one_device(monkeypatch):
    monkeypatch.setattr(PatchPretrainConfig, "n_gpu", property(lambda args: 2))
    with pytest.raises(ValueError, match=r"`distillation_weight=1.0` does not run in one process on 2 GPUs"):
        PatchPretrainConfig("out", use_cpu=True, distillation_weight=1.0)


def test_items_alone_have_no_teachers(processor):
    with pytest.raises(ValueError, match="`distills=True` needs titles"):
        PatchPretrainDataCollator(processor, objective="item", distills=True)


@pytest.mark.slow
def test_a_resumed_run_distills_alike(make_trainer, tmp_path):
    make_trainer(save_strategy="steps", save_steps=3).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    with pytest.raises(ValueError, match=r"distillation_weight: old 0.0, new 1.0"):
        make_trainer(distillation_weight=1.0).train(resume_from_checkpoint=checkpoint)
    make_trainer().train(resume_from_checkpoint=checkpoint)
