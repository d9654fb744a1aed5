"""Training arguments that contradict what they are for, or each other; and where the log goes."""

import json
from pathlib import Path

import pytest

from patchrec_hf import PatchFinetuneConfig, PatchPretrainConfig


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
            r"train_micro_batch_size_per_gpu=7 vs hf per_device_train_batch_size=8",
        ),
        ({"gradient_accumulation_steps": 3}, r"gradient_accumulation_steps=3 vs hf gradient_accumulation_steps=1"),
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
