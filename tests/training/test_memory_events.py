"""A trainer says before its first step what it needs, and what to lower."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from patchrec_hf import BudgetLayout, PatchDataCollator, PatchPretrainDataCollator, TextLayout
from patchrec_hf.training.memory import GIB, MemoryEstimate
from patchrec_hf.training.memory_events import MemoryEvents, estimate_training, largest_batch
from patchrec_hf.training.memory_sizes import BatchShape


def estimate_of(gib_per_row, available):
    def estimate(rows):
        return MemoryEstimate(GIB, 0, 0, int(rows * gib_per_row * GIB), 0, BatchShape(rows, 10), int(available * GIB))

    return estimate


@pytest.fixture
def begin(tmp_path, capsys, caplog):
    """Begins training with an estimate, and returns what is printed and what is warned of."""

    def begin(estimate, has_adapter=False, is_main=True, **kwargs):
        args = TrainingArguments(str(tmp_path), use_cpu=True, **{"per_device_train_batch_size": 8, **kwargs})
        state = TrainerState(is_world_process_zero=is_main)
        MemoryEvents(estimate, has_adapter).on_train_begin(args, state, TrainerControl())
        return capsys.readouterr().out, caplog.text

    return begin


def test_the_estimate_is_printed(begin):
    printed, warned = begin(estimate_of(1, available=10))
    assert printed.startswith("Training needs about 9.0 GiB of 10.0 GiB on cpu: weights 1.00")
    assert warned == ""


def test_only_the_main_process_speaks(begin):
    assert begin(estimate_of(1, available=1), is_main=False) == ("", "")


def test_a_smaller_batch_is_the_first_advice(begin):
    _, warned = begin(estimate_of(1, available=4), gradient_accumulation_steps=2)
    assert "needs about 9.0 GiB, but cpu has 4.0 GiB" in warned
    assert "`per_device_train_batch_size=2` and `gradient_accumulation_steps=8`: that needs about 3.0 GiB" in warned
    for advice in ("`activation_checkpointing=True`", "`max_history`", "`targets_per_row`", "`bf16=True`", "LoRA"):
        assert advice in warned


@pytest.mark.parametrize(
    ("rows", "accumulation", "gib", "expected"),
    [
        (5, 1, 4, (1, 5)),  # half of five rows would lose one
        (6, 1, 4.5, (3, 2)),
        (6, 1, 3.5, (2, 3)),
        (3, 2, 3.5, (2, 3)),
        (8, 3, 8.5, (6, 4)),  # no smaller batch than is needed
    ],
)
def test_advice_keeps_the_rows_of_a_step(begin, rows, accumulation, gib, expected):
    settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
    _, warned = begin(estimate_of(1, available=gib), **settings)
    assert "Set `per_device_train_batch_size={}` and `gradient_accumulation_steps={}`:".format(*expected) in warned
    assert expected[0] * expected[1] == rows * accumulation


def test_advice_that_is_followed_already_is_not_repeated(begin):
    _, warned = begin(estimate_of(1, available=4), has_adapter=True, activation_checkpointing=True, bf16=True)
    for advice in ("activation_checkpointing", "bf16", "LoRA"):
        assert advice not in warned


def test_a_batch_of_one_row_may_be_too_large(begin):
    _, warned = begin(estimate_of(1, available=1))
    assert "A smaller batch is not enough: with `per_device_train_batch_size=1`, training needs about 2.0" in warned


@pytest.mark.slow
def test_the_longest_rows_are_counted(processor, rows):
    collator = PatchDataCollator(processor, TextLayout())
    lengths = collator.row_lengths(rows)
    shape = largest_batch(collator, rows, 2)
    longest = rows.select(lengths.argsort()[::-1][:2].tolist()).to_list()
    assert (shape.sequences, shape.length) == collator(longest)["input_ids"].shape
    assert largest_batch(collator, rows, 10_000).sequences == len(rows)
    many = rows.select([index % len(rows) for index in range(300)])  # more than a sample has
    assert largest_batch(collator, many, 280).sequences == 280


@pytest.mark.parametrize("objective", ["title", "item"])
def test_the_largest_budget_is_counted(processor, rows, objective):
    """Whichever budgets the rows of a batch draw, a later step may draw the largest ones."""
    largest, drawn = (
        largest_batch(PatchDataCollator(processor, BudgetLayout(40, least), objective=objective), rows, 2)
        for least in (None, 3)
    )
    assert drawn == largest


def test_pretraining_reads_each_history_twice(processor, rows):
    shape = largest_batch(PatchPretrainDataCollator(processor), rows, 2)
    assert shape.sequences == 4
    # Where nothing is compressed yet, the twins share all but their responses, so the longest batch is a later one.
    packed = largest_batch(PatchPretrainDataCollator(processor, tree_packing=True), rows, 2)
    at_first = largest_batch(PatchDataCollator(processor, TextLayout(), tree_packing=True), rows, 2)
    assert packed.length > at_first.length


def test_a_trainer_estimates_and_prints(make_trainer, capsys):
    trainer = make_trainer("finetune", max_steps=1)
    estimate = trainer.estimate_memory()
    weights = sum(4 * parameter.numel() for parameter in trainer.model.parameters())
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (weights, weights, 2 * weights)
    assert estimate.batch.sequences == 4
    assert trainer.estimate_memory(2).batch.sequences == 2
    assert estimate.available > 0
    trainer.train()
    assert "Training needs about 0.0 GiB of " in capsys.readouterr().out


def test_an_adapter_has_few_gradients(make_trainer, processor, rows):
    trainer = make_trainer("finetune", max_steps=1)
    full = trainer.estimate_memory()
    for parameter in trainer.model.model.language_model.layers.parameters():
        parameter.requires_grad_(False)
    frozen = trainer.estimate_memory()
    assert frozen.weights == full.weights
    assert frozen.gradients < full.gradients
    assert frozen.optimizer == 2 * frozen.gradients


def test_settings_of_the_trainer_count(make_trainer, rows):
    trainer = make_trainer("finetune", max_steps=1)
    args = (trainer.data_collator, rows, 4)
    plain = estimate_training(trainer.model, trainer.args, *args)
    trainer.args.activation_checkpointing = True
    assert estimate_training(trainer.model, trainer.args, *args).activations < plain.activations
    trainer.args.activation_checkpointing, trainer.args.bf16 = False, True
    half = estimate_training(trainer.model, trainer.args, *args)
    assert half.weights == plain.weights
    copies = plain.weights // 2  # of all weights, in half precision
    assert half.activations - copies < 0.7 * plain.activations


def test_choices_have_few_logits(make_trainer, rows):
    whole = make_trainer("finetune", max_steps=1).estimate_memory()
    trainer = make_trainer("finetune", max_steps=1, title_normalizer="catalog")
    choices = trainer.estimate_memory()
    batch = choices.batch
    assert 0 < batch.choice_tokens < trainer.model.config.decoder_config.vocab_size
    assert batch.labels < whole.batch.labels
    assert choices.scores == 3 * 4 * batch.labels * batch.choice_tokens
    assert choices.activations < whole.activations  # what follows the last choice is not read
    # Sharded heads compute all logits.
    sharded = estimate_training(trainer.model, trainer.args, trainer.data_collator, rows, 4, sharding=3)
    assert sharded.scores == 3 * 4 * batch.labels * trainer.model.config.decoder_config.vocab_size


def test_distillation_keeps_more_scores(make_trainer):
    plain = make_trainer("pretrain", max_steps=1).estimate_memory()
    distilled = make_trainer("pretrain", max_steps=1, distillation_weight=1.0).estimate_memory()
    assert distilled.batch.is_distilled
    assert not plain.batch.is_distilled
    assert (distilled.activations, 3 * distilled.scores) == (plain.activations, 5 * plain.scores)
