"""Two processes train what one trains: the same losses, weights and rankings, under every engine."""

import json
import os
import socket
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scenarios
import torch
from conftest import ITEM_IDS, TITLES
from processes import run_process
from safetensors.torch import load_file
from scenarios import NUM_STEPS, SAVED_STEP, SCENARIOS
from transformers import AutoTokenizer

from patchrec_hf import PatchRecommender, PatchRecProcessor
from patchrec_hf.runtime.adapters import load_model


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason='needs pip install "patchrec-hf[deepspeed]"'),
]
HERE = Path(__file__).parent
TORCHRUN = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
ACCELERATE = "accelerate.commands.launch"
HISTORY = list(TITLES)[:5]
ENGINES = {
    "ddp": ("MULTI_CPU", "DistributedDataParallel"),
    "zero1": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero2": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero3": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero3_offload": ("DEEPSPEED", "DeepSpeedEngine"),
    "fsdp2": ("FSDP", "FSDPPatchRecForCausalLM"),
}


def launch(launcher, *command, directory):
    """Runs a script in two processes, and gives what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(directory / "extensions"),
        "PYTHONPATH": str(HERE.parent),
    }
    done = run_process([sys.executable, "-m", *launcher, port, *command], env=environment, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stderr[-8000:]
    # Ops that are compiled at run time would need a compiler, and hang every later run if they are interrupted.
    assert not list((directory / "extensions").glob("**/*"))
    return done.stdout


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Where two processes have run all scenarios."""
    directory = tmp_path_factory.mktemp("distributed")
    scenarios.save_backbones(directory / "backbones")
    launch(TORCHRUN, HERE / "worker.py", directory, directory=directory)
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
    """Returns the values that both processes wrote."""
    return [json.loads((directory / f"{scenario.name}-{rank}.json").read_text()) for rank in range(2)]


def load(directory, scenario, name="final"):
    """The model that a scenario saved, in one process."""
    return load_model(directory / scenario.name / name)


each = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
with_item_head = pytest.mark.parametrize(
    "scenario", [scenario for scenario in SCENARIOS if scenario.has_item_head], ids=lambda scenario: scenario.name
)


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
        for name in ("eval_hr@5", "eval_ndcg@5", "eval_exact_share", "eval_compression_ratio_prompt"):
            assert metrics[name] == pytest.approx(expected[name], abs=1e-6), name
            assert results["ranking"][name.removeprefix("eval_")] == metrics[name]


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
    tolerance = 5e-3 if scenario.bf16 else 2e-4
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


@with_item_head
def test_an_item_head_is_trained_and_saved_whole(directory, alone, scenario):
    """The objective has moved the weights that it trains, and no others. The saved head recommends as from one run."""
    alone(scenario)
    before = load_model(directory / "backbones" / "headed") if scenario.headed else untrained(directory)
    model = load(directory, scenario)
    assert model.item_head.item_ids.tolist() == ITEM_IDS
    for name, parameter in model.item_head.named_parameters():
        assert torch.equal(parameter, before.item_head.get_parameter(name)) is (scenario.objective == "title"), name
    for name, parameter in model.model.item_residual.named_parameters():
        assert not torch.equal(parameter, before.model.item_residual.get_parameter(name)), name
    recommenders = [
        PatchRecommender.from_pretrained(directory / replace(scenario, engine=engine).name / "final")
        for engine in (scenario.engine, "alone")
    ]
    recommended, wanted = (part.recommend(HISTORY, k=5, method="item") for part in recommenders)
    assert [item.item_id for item in recommended] == [item.item_id for item in wanted]
    scores = [[item.score for item in items] for items in (recommended, wanted)]
    np.testing.assert_allclose(*scores, rtol=1e-3)


def untrained(directory):
    """The untied backbone with a new item head."""
    tokenizer = AutoTokenizer.from_pretrained(directory / "backbones" / "untied")
    model = load_model(directory / "backbones" / "untied", tokenizer)
    model.add_item_head(scenarios.CATALOG, scenarios.RESIDUAL_SIZE)
    return model


def test_halves_of_a_batch_hold_unequal_numbers_of_response_tokens():
    """Otherwise a mean of means would be right too, and the comparison of losses would show little."""
    rows = scenarios.make_rows(packed=False)
    lengths = {len(TITLES[row["item_ids"][row["target_positions"][0]]].split()) for row in rows}
    assert len(lengths) > 2


def run_example(launcher, engine, output_dir, *arguments):
    """Trains all four models from the example's command line, and gives its results."""
    printed = launch(
        launcher, HERE / "launch.py", "examples/train_goodreads.py", *arguments, "--use_cpu",
        "--output_dir", output_dir / "run", "--max_steps", 4, "--per_device_train_batch_size", 4, "--max_history", 8,
        "--max_train_rows", 64, "--max_test_rows", 12, "--save_steps", 2, "--targets_per_row", 2,
        directory=output_dir,
    )  # fmt: skip
    assert printed.count(f"Trained by 2 processes in {engine}.") == 4
    return json.loads((output_dir / "run" / "results.json").read_text())


@pytest.fixture(scope="module")
def ddp_results(tmp_path_factory):
    return run_example(TORCHRUN, "DistributedDataParallel", tmp_path_factory.mktemp("ddp"))


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_the_example_trains_in_two_processes(tmp_path, ddp_results, name):
    """From data to recommendations by `torchrun`, with the same results whatever the engine."""
    assert [row["method"] for row in ddp_results] == [
        "popularity", "co-visitation", "vanilla", "PatchRec-I", "all-patch", "all-patch + fusion"
    ]  # fmt: skip
    configuration = ["--deepspeed", f"examples/deepspeed/{name}.json"]
    assert run_example(TORCHRUN, "DeepSpeedEngine", tmp_path, *configuration) == ddp_results


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_accelerate_launches_the_example_in_two_processes(tmp_path, ddp_results, name):
    launcher = [ACCELERATE, "--config_file", f"examples/accelerate/{name}.yaml", "--num_processes", "2"]
    assert run_example([*launcher, "--main_process_port"], "DeepSpeedEngine", tmp_path) == ddp_results


def test_the_papers_tables_are_made_in_two_processes(tmp_path):
    """Three methods, one after the other; the last at equal time, by what both processes read of the first two."""
    methods = ["PatchRec-I", "PatchRec-I without pre-training", "PatchRec-I without pre-training (equal time)"]
    launcher = [ACCELERATE, "--config_file", "examples/accelerate/zero2.yaml", "--num_processes", "2"]
    printed = launch(
        [*launcher, "--main_process_port"], HERE / "launch.py", "examples/reproduce_paper.py", "--scale", "tiny",
        "--table", 3, "--output_dir", tmp_path / "study", "--methods", *methods, "Popularity", directory=tmp_path,
    )  # fmt: skip
    assert "4 of 4: Popularity is left to a run without a launcher." in printed
    results = json.loads((tmp_path / "study" / "table_3" / "results.json").read_text())
    assert {row["method"] for row in results["methods"]} == set(methods)
    for row in results["methods"]:
        assert {stage["machine"]["processes"] for stage in row["stages"]} == {2}


def test_the_guide_tells_what_ran():
    """The table in the guide has a row for each scenario, and no other."""
    text = (HERE.parent.parent / "docs" / "distributed.md").read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if "| padded |" in line or "| tree-packed |" in line]
    assert found == [scenario.table_row() for scenario in SCENARIOS]
