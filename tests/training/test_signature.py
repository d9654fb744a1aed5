"""Calls of a trainer by habits of other trainers: each error shows the right call."""

import inspect

import pytest

from patchrec_hf import PatchDataCollator, PatchFinetuneConfig, PatchFinetuneTrainer, PatchPretrainTrainer


@pytest.fixture
def args(tmp_path):
    return PatchFinetuneConfig(str(tmp_path), use_cpu=True, report_to="none")


@pytest.mark.parametrize("trainer_class", [PatchFinetuneTrainer, PatchPretrainTrainer])
def test_arguments_after_args_are_named(trainer_class, model, args, processor, rows):
    """Trainer's third argument is the collator; as a position, rows and collator would be taken for each other."""
    with pytest.raises(TypeError) as error:
        trainer_class(model, args, PatchDataCollator(processor), rows)
    assert "`PatchDataCollator`, `Dataset`" in str(error.value)
    name = trainer_class.__name__
    assert f"{name}(model, args, train_dataset=..., processing_class=..., eval_dataset=...)" in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("compute_metrics", "`eval_ks`"),
        ("preprocess_logits_for_metrics", "`evaluate_model`"),
        ("formatting_func", "`PromptTemplate`"),
        ("tokenizer", "`processing_class=processor`"),
        ("compute_loss_func", "`objective`"),
        ("optimizer_cls_and_kwargs", "`optimizers=(optimizer, scheduler)`"),
        ("quantization_config", "`PatchRecForCausalLM.from_backbone"),
        ("processor", "`processing_class=processor`"),
        ("train_datasets", "Did you mean `train_dataset`?"),
        ("nonsense", "It takes `model`, `args`, `train_dataset`"),
    ],
)
def test_arguments_of_other_trainers(model, args, processor, rows, name, hint):
    with pytest.raises(TypeError) as error:
        PatchFinetuneTrainer(model, args, train_dataset=rows, processing_class=processor, **{name: object()})
    assert f"takes no `{name}`" in str(error.value)
    assert hint in str(error.value)


def test_missing_arguments_are_named(model, args, rows):
    with pytest.raises(
        TypeError, match=r"lacks `processing_class`\. Write `PatchFinetuneTrainer\(model, args, train_"
    ):
        PatchFinetuneTrainer(model, args, train_dataset=rows)


def test_the_signature_is_the_trainers_own():
    """Editors and `help` show it."""
    parameters = inspect.signature(PatchFinetuneTrainer).parameters
    by_position = [name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert by_position == ["model", "args"]
    assert "eval_dataset" in parameters
