"""The two stages: what each makes of a row."""

import pytest
from torch import nn
from trainer_parts import STAGES, logged

from patchrec_hf import (
    BOOK_PROMPT,
    ItemPatchLayout,
    PatchDataCollator,
    PatchRecProcessor,
    TextLayout,
)
from patchrec_hf.tiny import build_tiny_backbone


def test_probability_rises_with_the_steps(make_trainer):
    trainer = make_trainer(max_steps=-1, num_train_epochs=2)  # 14 rows: 4 steps an epoch
    trainer.train()
    assert logged(trainer, "compression_probability") == [step / 8 for step in range(8)]
    ratios = logged(trainer, "compression_ratio_prompt")
    assert ratios[0] == 1.0
    assert all(ratio > 1.0 for ratio in ratios[4:])
    assert all(tokens > 0 for tokens in logged(trainer, "prompt_tokens"))


def test_evaluation_in_pretraining_uses_the_fixed_layout(make_trainer, rows):
    pretrain, finetune = make_trainer(eval_dataset=rows), make_trainer("finetune", eval_dataset=rows)
    first, second = pretrain.evaluate(), finetune.evaluate()
    assert first["eval_loss"] == pytest.approx(second["eval_loss"], rel=1e-6)
    assert pretrain.evaluate()["eval_loss"] == first["eval_loss"]


@pytest.mark.parametrize("stage", STAGES)
def test_loss_falls_on_a_repeated_batch(make_trainer, rows, stage):
    trainer = make_trainer(stage, train_dataset=rows.select(range(4)), max_steps=20, warmup_steps=0)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.8 * losses[0]


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
