import json

import pytest

from patchrec_hf import runs
from patchrec_hf.runs import claim_run, finish_run, from_main_process, process_state


def test_first_claim_writes_the_settings_and_the_same_settings_go_on(tmp_path):
    claim_run(tmp_path / "run", {"seed": 1})
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"seed": 1}
    claim_run(tmp_path / "run", {"seed": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [0.5, float("-inf")], {"inner": float("nan")}])
def test_a_number_that_is_not_finite_claims_nothing(tmp_path, value):
    with pytest.raises(ValueError, match=r"`rate[.a-z]*` must be a finite number, got (nan|inf|-inf)\."):
        claim_run(tmp_path / "run", {"seed": 1, "rate": value})
    assert not (tmp_path / "run").exists()


def test_a_run_that_wrote_nothing_gives_its_directory_back(tmp_path):
    """A run that fails before its first step has made logs and a new backbone at most."""
    claim_run(tmp_path, {"seed": 1}, scratch=["backbone"])
    for name in ("backbone/config.json", "items/runs/events.out.tfevents.1"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    claim_run(tmp_path, {"seed": 2}, scratch=["backbone"])
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 2}
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "model.safetensors").write_text("")
    with pytest.raises(FileExistsError, match="seed: old 2, new 1"):
        claim_run(tmp_path, {"seed": 1})  # here, a backbone is work
    (tmp_path / "items" / "checkpoint-1").mkdir()
    (tmp_path / "items" / "checkpoint-1" / "patchrec_run.json").touch()
    with pytest.raises(FileExistsError, match="seed: old 2, new 1"):
        claim_run(tmp_path, {"seed": 1}, scratch=["backbone"])


def test_other_settings_are_refused(tmp_path):
    claim_run(tmp_path, {"seed": 1, "layout": "item"})
    (tmp_path / "part-0.npy").touch()
    with pytest.raises(FileExistsError, match="seed: old 1, new 2"):
        claim_run(tmp_path, {"seed": 2, "layout": "item"})
    with pytest.raises(FileExistsError, match="layout: old 'item', new None"):
        claim_run(tmp_path, {"seed": 1})


def test_settings_within_settings_are_told_by_themselves(tmp_path):
    claim_run(tmp_path, {"scale": {"name": "tiny", "backbone": {"layers": 1}}})
    (tmp_path / "part-0.npy").touch()
    with pytest.raises(FileExistsError, match=r"settings \(scale.name: old 'tiny', new 'smoke'\)"):
        claim_run(tmp_path, {"scale": {"name": "smoke", "backbone": {"layers": 1}}})


def test_finished_runs_are_never_overwritten(tmp_path):
    claim_run(tmp_path, {"seed": 1})
    finish_run(tmp_path, [{"hr@20": 0.5}])
    assert json.loads((tmp_path / "results.json").read_text()) == [{"hr@20": 0.5}]
    with pytest.raises(FileExistsError, match="finished run"):
        claim_run(tmp_path, {"seed": 1})


def test_a_new_run_does_not_inherit_what_another_run_prepared(tmp_path):
    """A script may keep what it finds there, such as a backbone that was made with another seed."""
    claim_run(tmp_path, {"seed": 1}, scratch=["backbone"])
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text("{}")
    claim_run(tmp_path, {"seed": 1}, scratch=["backbone"])
    assert (tmp_path / "backbone" / "config.json").exists()
    claim_run(tmp_path, {"seed": 2}, scratch=["backbone"])
    assert not (tmp_path / "backbone").exists()


def test_a_first_run_deletes_nothing(tmp_path):
    (tmp_path / "backbone").mkdir()
    claim_run(tmp_path, {"seed": 1}, scratch=["backbone"])
    assert (tmp_path / "backbone").exists()


class Process:
    """One of two processes. The main one has left its outcome in `outcome`, where the other one finds it."""

    num_processes = 2
    outcome = None

    def __init__(self, is_main_process):
        self.is_main_process = is_main_process

    def broadcast(self, outcome):
        if self.is_main_process:
            Process.outcome = outcome
        return Process.outcome


@pytest.mark.parametrize("fails", [False, True])
def test_all_processes_get_the_result_or_the_error_of_the_main_one(monkeypatch, fails):
    calls = []

    def make():
        calls.append(1)
        if fails:
            raise ValueError("no user")
        return 7

    for process in (Process(True), Process(False)):
        monkeypatch.setattr(runs, "PartialState", lambda process=process: process)
        monkeypatch.setattr(runs, "broadcast_object_list", process.broadcast)
        if fails:
            with pytest.raises(ValueError, match="no user"):
                from_main_process(make)
        else:
            assert from_main_process(make) == 7
    assert len(calls) == 1


def test_one_process_is_the_main_one(monkeypatch):
    assert from_main_process(lambda: 3) == 3
    assert process_state().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RuntimeError, match="A launcher started 2 processes, but this process runs as if it were alone"
    ):
        process_state()
