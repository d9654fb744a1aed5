"""Training arguments that contradict their purpose or each other are refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from patchrec_hf import (
    ALL_PATCH_PRESET,
    PAPER_PRESETS,
    PatchFinetuneConfig,
    PatchPretrainConfig,
)


CONFIGURATIONS = sorted((Path(__file__).parents[2] / "examples" / "deepspeed").glob("*.json"))


@pytest.fixture
def zero3(tmp_path):
    """Writes the example's configuration for ZeRO-3 with changes, and gives its path."""
    pytest.importorskip("deepspeed", reason='needs pip install "patchrec-hf[deepspeed]"')

    def write(**changes):
        config = json.loads((CONFIGURATIONS[0].parent / "zero3.json").read_text())
        for key, value in changes.items():
            *path, last = key.split("__")
            place = config
            for name in path:
                place = place[name]
            place[last] = value
        (tmp_path / "zero3.json").write_text(json.dumps(config))
        return str(tmp_path / "zero3.json")

    return write


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_the_examples_configurations_are_taken(path, tmp_path):
    pytest.importorskip("deepspeed", reason='needs pip install "patchrec-hf[deepspeed]"')
    args = PatchPretrainConfig(str(tmp_path), use_cpu=True, deepspeed=str(path))
    assert args.deepspeed_plugin.zero_stage == int(path.stem[4])
    # An optimizer or scheduler of DeepSpeed's own would be compiled, and would contradict the training arguments.
    assert not {"optimizer", "scheduler"} & json.loads(path.read_text()).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_micro_batch_size_per_gpu": 7},
            r"train_micro_batch_size_per_gpu=7 vs hf per_device_train_batch_size=4",
        ),
        ({"gradient_accumulation_steps": 3}, r"gradient_accumulation_steps=3 vs hf gradient_accumulation_steps=8"),
        ({"gradient_clipping": 1.0}, r"gradient_clipping=1.0 vs hf max_grad_norm=0.3"),
        ({"bf16": {"enabled": True}}, r"bf16.enabled=True vs hf .*bf16"),
    ],
)
def test_a_deepspeed_configuration_that_contradicts_the_arguments(zero3, tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"contradicts the training arguments: .*{message}.*auto"):
        PatchFinetuneConfig(str(tmp_path), use_cpu=True, deepspeed=zero3(**changes))


def test_zero3_must_save_whole_weights(zero3, tmp_path):
    key = "zero_optimization__stage3_gather_16bit_weights_on_model_save"
    with pytest.raises(ValueError, match="stage3_gather_16bit_weights_on_model_save` to true"):
        PatchFinetuneConfig(str(tmp_path), use_cpu=True, deepspeed=zero3(**{key: False}))


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
        ({"objective": "items"}, r"`objective` must be one of 'title', 'item', 'both', got 'items'"),
        ({"eval_method": "best"}, r"`eval_method` must be None or one of 'exact', 'beam', 'all', 'item', got 'best'"),
        ({"eval_method": "diverse"}, r"`eval_method` must be None or one of .*'item', got 'diverse'"),
        ({"item_residual_size": -1}, r"`residual_size` of the item head must be a whole number of at least 0"),
        ({"item_similarity": "dot"}, r"`similarity` must be one of 'cosine', 'product', got 'dot'"),
        ({"item_dropout": 1.0}, r"`dropout` of the item head must be at least 0 and below 1, got 1.0"),
        ({"residual_dropout": -1.0}, r"`residual_dropout` of the item head must be at least 0 and below 1"),
        ({"num_negatives": 0}, r"`num_negatives` must be at least 1 or None, got 0"),
        ({"title_normalizer": "trie"}, r"`title_normalizer` must be one of 'vocabulary', 'catalog', got 'trie'"),
        ({"title_normalizer": "catalog", "title_temperature": 0.0}, r"`title_temperature` must be a positive number"),
        ({"title_normalizer": "catalog", "title_temperature": -1.0}, r"`title_temperature` .*, got -1.0"),
        ({"title_temperature": 2.0}, r"`title_temperature` belongs to `title_normalizer='catalog'`, got 2.0"),
        ({"score_normalizer": "items"}, r"`score_normalizer` must be one of 'vocabulary', 'catalog', got 'items'"),
        (
            {"objective": "item", "title_normalizer": "catalog"},
            r"`title_normalizer='catalog'` is about titles, but `objective='item'` trains no titles",
        ),
        (
            {"objective": "item", "score_normalizer": "vocabulary"},
            r"`score_normalizer='vocabulary'` is about titles",
        ),
        ({"title_normalizer": "catalog", "loss_type": "dft"}, r"`loss_type='dft'` is not supported with `title_norm"),
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
    assert (args.objective, args.eval_method, args.num_negatives) == ("title", None, None)


@pytest.mark.parametrize(
    ("config_class", "given", "expected"),
    [
        (PatchFinetuneConfig, {}, (4, 8)),
        (PatchPretrainConfig, {}, (2, 16)),  # each row is read twice
        (PatchFinetuneConfig, {"per_device_train_batch_size": 6}, (6, 1)),
        (PatchPretrainConfig, {"per_device_train_batch_size": 6}, (6, 1)),
        (PatchFinetuneConfig, {"gradient_accumulation_steps": 3}, (4, 3)),
        (PatchFinetuneConfig, {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 3}, (6, 3)),
    ],
)
def test_a_step_has_the_papers_rows_unless_a_batch_size_is_set(tmp_path, config_class, given, expected):
    args = config_class(str(tmp_path), use_cpu=True, **given)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    again = dataclasses.replace(args, output_dir=str(tmp_path / "other"))
    assert (again.per_device_train_batch_size, again.gradient_accumulation_steps) == expected


def test_the_all_patch_preset_sets_the_rows_of_a_step_whole(tmp_path):
    """In a copy of other arguments, their number of forwards does not stay."""
    args = dataclasses.replace(PatchFinetuneConfig(str(tmp_path), use_cpu=True), **ALL_PATCH_PRESET.training)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 16


def test_the_command_line_takes_the_defaults(tmp_path):
    parse = HfArgumentParser(PatchPretrainConfig).parse_args_into_dataclasses
    (args,) = parse(["--output_dir", str(tmp_path), "--use_cpu"])
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 16)
    (args,) = parse(["--output_dir", str(tmp_path), "--use_cpu", "--per_device_train_batch_size", "5"])
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (5, 1)


def test_paper_presets():
    assert (PAPER_PRESETS["ml-1m"].learning_rate, PAPER_PRESETS["ml-1m"].batch_size) == (8e-6, 64)
    assert (PAPER_PRESETS["goodreads"].learning_rate, PAPER_PRESETS["goodreads"].batch_size) == (5e-5, 32)
    assert (PAPER_PRESETS["ml-100k"].learning_rate, PAPER_PRESETS["ml-100k"].batch_size) == (1e-5, 64)
    assert (PAPER_PRESETS["ml-100k"].session_group_size, PAPER_PRESETS["ml-100k"].session_learning_rate) == (20, 3e-6)


def test_packing_is_asked_for_with_a_boolean(tmp_path):
    with pytest.raises(ValueError, match="`tree_packing` must be True, False or None, got 'no'"):
        PatchFinetuneConfig(str(tmp_path), use_cpu=True, tree_packing="no")
