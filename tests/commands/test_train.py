"""`patchrec train`: what it refuses before it writes, and the launchers that start it."""

import json
import sys

import pytest
from command import ROOT, with_checkout
from processes import run_process
from small_shop import write_shop

from patchrec_hf.commands import train as command


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", "nan"), ("num_train_epochs", "inf"), ("lora_dropout", "nan")]
)
def test_numbers_that_are_not_finite_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"--{name} must be a finite number, got {value}"):
        command.train(*command.parse([f"--{name}", value, "--output_dir", str(tmp_path / "run")]))
    assert not (tmp_path / "run").exists()


def test_errors_end_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^FileNotFoundError: .*clicks\.csv"):
        command.main(["--data", str(tmp_path / "clicks.csv"), "--output_dir", str(tmp_path / "run"), "--use_cpu"])
    assert not (tmp_path / "run").exists()


ACCELERATE = ["accelerate.commands.launch", "--config_file", ROOT / "examples" / "accelerate" / "cpu.yaml"]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "num_processes"), [(ACCELERATE, 1), (TORCHRUN, 2)], ids=["accelerate", "torchrun"]
)
def test_a_launcher_starts_the_command_by_the_name_of_the_package(tmp_path, launcher, num_processes):
    """`accelerate launch -m patchrec_hf train`, with a recipe and options that override it."""
    (tmp_path / "run.yaml").write_text("preset: all-patch\nmax_history: 6\nmax_steps: 9\nlogging_steps: 1\n")
    done = run_process(
        [
            sys.executable, "-m", *launcher, "-m", "patchrec_hf", "train", "--config", tmp_path / "run.yaml",
            *write_shop(tmp_path), "--max_steps", 2, "--max_eval_rows", 8, "--max_test_rows", 8, "--use_cpu",
            "--output_dir", tmp_path / "run",
        ],
        cwd=tmp_path, env=with_checkout(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Trained by {num_processes} process" in done.stdout
    assert done.stdout.count("The checkpoint: ") == 1
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["method"] for row in results] == ["co-visitation", "all-patch"]
