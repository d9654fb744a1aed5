"""Two processes train what one trains: the same losses, weights and rankings, under every engine."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scenarios
import torch
from conftest import TITLES
from safetensors.torch import load_file
from scenarios import NUM_STEPS, SAVED_STEP, SCENARIOS

from patchrec_hf import PatchRecommender, PatchRecProcessor
from patchrec_hf.adapters import load_model


pytestmark = pytest.mark.slow
HISTORY = list(TITLES)[:5]
ENGINES = {
    "ddp": ("MULTI_CPU", "DistributedDataParallel"),
    "zero1": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero2": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero3": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero3_offload": ("DEEPSPEED", "DeepSpeedEngine"),
    "fsdp2": ("FSDP", "FSDPPatchRecForCausalLM"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where two processes have run all scenarios."""
    pytest.importorskip("deepspeed", reason='needs pip install "patchrec-hf[deepspeed]"')
    directory = tmp_path_factory.mktemp("distributed")
    for tied in (False, True):
        scenarios.save_backbone(directory / "backbones" / ("tied" if tied else "untied"), tied)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(directory / "extensions"),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [*launcher, Path(__file__).parent / "worker.py", str(directory)],
        env=environment, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-8000:]
    # Ops that are compiled at run time would need a compiler, and hang every later run if they are interrupted.
    assert not list((directory / "extensions").glob("**/*"))
    return directory


@pytest.fixture(scope="module")
def alone(directory):
    """Runs a scenario in this process, each once."""
    found = {}

    def run(scenario):
        scenario = replace(scenario, engine="alone")
        if scenario not in found:
            found[scenario] = scenarios.run(scenario, directory / "backbones", directory / scenario.name, 1)
        return found[scenario]

    return run


def read(directory, scenario):
    """What both processes wrote."""
    return [json.loads((directory / f"{scenario.name}-{rank}.json").read_text()) for rank in range(2)]


def load(directory, scenario, name="final"):
    """The model that a scenario saved, in one process."""
    return load_model(directory / scenario.name / name)


each = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@each
def test_the_engine_is_the_one_that_was_asked_for(directory, scenario):
    """Much of what is asked for here falls back to something else without a word."""
    for results in read(directory, scenario):
        assert results["num_processes"] == results["resumed"]["num_processes"] == 2
        assert (results["distributed_type"], results["engine"]) == ENGINES[scenario.engine]
        assert results["packs"] is scenario.packed


@each
def test_two_processes_train_as_one(directory, alone, scenario):
    expected = alone(scenario)
    tolerance = 2e-3 if scenario.bf16 else 1e-4
    for results in read(directory, scenario):
        assert len(results["loss"]) == NUM_STEPS
        assert results["loss"] == pytest.approx(expected["loss"], rel=tolerance)
        # p belongs to the step, on every process.
        assert results["compression_probability"] == expected["compression_probability"]
        assert results["prompt_tokens"] == pytest.approx(expected["prompt_tokens"])
        if not scenario.packed:  # packed, two processes share less than one
            assert results["num_tokens"] == expected["num_tokens"]


@each
def test_two_processes_evaluate_as_one(directory, alone, scenario):
    expected = alone(scenario)["metrics"]
    for results in read(directory, scenario):
        metrics = results["metrics"]
        assert metrics["eval_loss"] == pytest.approx(expected["eval_loss"], rel=2e-3 if scenario.bf16 else 1e-4)
        for name in ("eval_hr@5", "eval_ndcg@5", "eval_certified_share", "eval_compression_prompt"):
            assert metrics[name] == pytest.approx(expected[name], abs=1e-6), name


@each
def test_resuming_goes_on_as_if_nothing_had_happened(directory, scenario):
    for results in read(directory, scenario):
        resumed = results["resumed"]
        for name in ("loss", "compression_probability", "prompt_tokens", "num_tokens", "grad_norm"):
            rest = results[name][SAVED_STEP:]
            assert resumed[name][-len(rest) or len(resumed[name]) :] == pytest.approx(rest, rel=1e-5), name
    path = directory / f"{scenario.name}-resumed" / f"checkpoint-{NUM_STEPS}"
    file = "adapter_model.safetensors" if scenario.lora else "model.safetensors"
    unbroken = load_file(directory / scenario.name / "final" / file)
    for name, tensor in load_file(path / file).items():
        torch.testing.assert_close(tensor, unbroken[name], rtol=1e-5, atol=1e-6)


@each
def test_what_is_saved_is_whole(directory, alone, scenario):
    alone(scenario)
    model, expected = load(directory, scenario), load(directory, replace(scenario, engine="alone"))
    tolerance = 3e-3 if scenario.bf16 else 2e-4
    for (name, one), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        # DeepSpeed saves the weights in the precision that it trains in.
        torch.testing.assert_close(
            one.float(), other, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )
    processor = PatchRecProcessor.from_pretrained(directory / scenario.name / "final")
    recommended, wanted = (PatchRecommender(part, processor).recommend(HISTORY, k=5) for part in (model, expected))
    assert [item.item_id for item in recommended] == [item.item_id for item in wanted]
    scores = [[item.score for item in items] for items in (recommended, wanted)]
    np.testing.assert_allclose(*scores, rtol=2e-2 if scenario.bf16 else 1e-3)


def test_halves_of_a_batch_hold_unequal_numbers_of_response_tokens():
    """Otherwise a mean of means would be right too, and the comparison of losses would show little."""
    rows = scenarios.make_rows(packed=False)
    lengths = {len(TITLES[row["item_ids"][row["target_positions"][0]]].split()) for row in rows}
    assert len(lengths) > 2
