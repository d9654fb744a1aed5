"""The check of a machine with a GPU: its dry run on a CPU, its steps with a stand-in for Python, and its mistakes."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from processes import run_process


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "gpu_check.sh"
STEPS = ["tests", "train_step", "ranking", "table_2"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def run(*arguments, **environment):
    names = ("PATCHREC_BACKBONE", "PATCHREC_ML100K_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return run_process(["bash", SCRIPT, *arguments], env=kept | {"PYTHON": sys.executable} | environment)


def read_summary(directory):
    return json.loads((directory / "summary.json").read_text(encoding="utf-8"))


def write_lines(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def stand_in(tmp_path):
    """A Python that finds a GPU and ends each step at once; the benchmark of training steps fails."""
    path = tmp_path / "python stand-in"
    path.write_text(
        f"""#!/usr/bin/env bash
case $1 in
    -c) echo "A GPU" ;;
    -) exec {shlex.quote(sys.executable)} "$@" ;;
    *train_step.py) echo "out of memory" >&2; exit 3 ;;
    *) echo "ran $*" ;;
esac
"""
    )
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_a_dry_run_comes_to_its_end_on_a_cpu(tmp_path):
    ratings = [(user, movie, 5, 1000 * user + movie) for user in range(1, 31) for movie in range(1, 31)]
    write_lines(tmp_path / "ml-100k" / "u.data", ("\t".join(map(str, rating)) for rating in ratings))
    write_lines(tmp_path / "ml-100k" / "u.item", (f"{movie}|Movie {movie} (1990)|||||" for movie in range(1, 31)))
    directory = tmp_path / "dry run"
    done = run(directory, "--dry_run", "--data_dir", tmp_path / "ml-100k")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = read_summary(directory)
    assert summary["dry_run"]
    for name in STEPS:
        assert f"{name}: checked in " in done.stdout
    assert "took" not in done.stdout  # nothing has run
    assert "succeeded" not in done.stdout
    assert [(step["name"], step["rc"]) for step in summary["steps"]] == [(name, 0) for name in STEPS]
    assert "test_gpu.py::test_generate" in (directory / "tests.log").read_text()
    assert "PatchRec-S" in (directory / "table_2.log").read_text().split("\n", 1)[1]
    assert [path.name for path in directory.glob("*.json")] == ["summary.json"]  # nothing was measured


def test_a_step_that_fails_stops_no_other(tmp_path, stand_in):
    directory = tmp_path / "outputs of a check"
    done = run(directory, "--backbone", "a backbone", "--data_dir", tmp_path, PYTHON=str(stand_in))
    assert done.returncode == 1, done.stderr
    assert "train_step failed with status 3" in done.stdout
    assert "out of memory" in done.stdout
    assert f"Failed: train_step. See {directory}" in done.stdout
    summary = read_summary(directory)
    assert (summary["device"], summary["dry_run"]) == ("A GPU", False)
    assert [(step["name"], step["rc"]) for step in summary["steps"]] == list(zip(STEPS, (0, 3, 0, 0), strict=True))
    for step in summary["steps"]:
        first, *printed = (directory / step["log"]).read_text().splitlines()
        assert shlex.split(first) == step["command"]
        assert printed in (["out of memory"], [f"ran {' '.join(step['command'][1:])}"])
        assert step["seconds"] >= 0
    table_2 = summary["steps"][-1]["command"]
    assert table_2[table_2.index("--backbone") + 1] == "a backbone"
    assert table_2[table_2.index("--scale") + 1] == "paper"
    assert table_2[table_2.index("--data_dir") + 1] == str(tmp_path)
    for name in ("train_step", "ranking"):
        command = summary["steps"][STEPS.index(name)]["command"]
        assert command[command.index("--device") + 1] == "cuda"
        assert command[command.index("--json") + 1] == str(directory / f"{name}.json")


def test_without_a_backbone_a_new_one_is_trained(tmp_path, stand_in):
    run(tmp_path / "outputs", PYTHON=str(stand_in))
    table_2 = read_summary(tmp_path / "outputs")["steps"][-1]["command"]
    assert table_2[table_2.index("--scale") + 1] == "laptop"
    assert {"--backbone", "--data_dir"}.isdisjoint(table_2)


def test_the_environment_names_backbone_and_data(tmp_path, stand_in):
    names = {"PATCHREC_BACKBONE": "named", "PATCHREC_ML100K_DIR": str(tmp_path)}
    run(tmp_path / "outputs", "--backbone", "given", PYTHON=str(stand_in), **names)
    table_2 = read_summary(tmp_path / "outputs")["steps"][-1]["command"]
    assert table_2[table_2.index("--backbone") + 1] == "given"
    assert table_2[table_2.index("--data_dir") + 1] == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Pass the directory for the results"),
        (["new", "--dry-run"], "There is no option --dry-run."),
        (["new", "other"], "Pass one directory; got new and other."),
        (["new", "--backbone"], "--backbone needs a value."),
        (["new", "--backbone", "--dry_run"], "--backbone needs a value."),
        (["new", "--data_dir", "nowhere"], "There is no nowhere with MovieLens-100K."),
        (["full"], "full is not empty."),
        (["full/file"], "full/file is a file."),
    ],
)
def test_mistakes(tmp_path, monkeypatch, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_python_that_is_missing(tmp_path):
    done = run(tmp_path / "new", PYTHON="no-such-python")
    assert done.returncode == 2
    assert "There is no program no-such-python." in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_machine_without_cuda(tmp_path):
    done = run(tmp_path / "new")
    assert done.returncode == 2
    assert "torch finds no CUDA device. Pass --dry_run" in done.stderr
    assert not (tmp_path / "new").exists()


def test_help(tmp_path):
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in STEPS)
