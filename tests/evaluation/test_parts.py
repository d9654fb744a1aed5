"""Evaluations in parts: over several processes, and after an interruption."""

import os
import sys

import evaluate_in_processes
import numpy as np
import polars as pl
import pytest
from datasets import concatenate_datasets
from polars.testing import assert_frame_equal
from processes import run_process
from tiers import first_fast

from patchrec_hf import CatalogRanker, evaluate_model
from patchrec_hf.evaluation.parts import run_in_parts


class Calls:
    """Notes how many prompts each call of `CatalogRanker.rank` ranked; the call after `fail_after` calls fails."""

    def __init__(self, monkeypatch, fail_after=None):
        self.num_prompts = []
        rank = CatalogRanker.rank

        def counted(ranker, prompts, *args, **kwargs):
            if len(self.num_prompts) == fail_after:
                raise KeyboardInterrupt
            self.num_prompts.append(len(prompts))
            return rank(ranker, prompts, *args, **kwargs)

        monkeypatch.setattr(CatalogRanker, "rank", counted)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_resume(model, processor, rows, tmp_path, monkeypatch, batch_size):
    """Interrupted within the third part of eight rows: only the rows after the second are ranked again."""
    rows = concatenate_datasets([rows, rows])  # 28
    kwargs = {"k": 5, "max_rows": 27, "show_progress": False}
    expected = evaluate_model(model, processor, rows, batch_size=1, **kwargs)
    kwargs["resume_dir"] = tmp_path / "new" / "parts"
    with monkeypatch.context() as patched:
        Calls(patched, fail_after=2)
        with pytest.raises(KeyboardInterrupt):
            evaluate_model(model, processor, rows, batch_size=1, **kwargs)
    (kwargs["resume_dir"] / "part-0000000016.tmp").write_bytes(b"half a part")

    calls = Calls(monkeypatch)
    resumed = evaluate_model(model, processor, rows, batch_size=batch_size, **kwargs)
    assert calls.num_prompts == ([8, 3] if batch_size == 1 else [11])
    assert_frame_equal(resumed.targets, expected.targets, rel_tol=1e-4)  # a batch's size changes the last digits
    assert resumed.settings == expected.settings

    again = evaluate_model(model, processor, rows, batch_size=batch_size, **kwargs)
    assert calls.num_prompts == ([8, 3] if batch_size == 1 else [11])
    assert_frame_equal(again.targets, resumed.targets)


@pytest.mark.slow
def test_resume_ignores_parts_that_do_not_follow(model, processor, rows, tmp_path, monkeypatch):
    """A part counts only if all parts before it exist."""
    kwargs = {"k": 5, "batch_size": 1, "resume_dir": tmp_path, "show_progress": False}
    expected = evaluate_model(model, processor, rows, **kwargs)
    assert sorted(path.name for path in tmp_path.glob("part-*")) == ["part-0000000000.npy", "part-0000000008.npy"]
    (tmp_path / "part-0000000000.npy").unlink()
    calls = Calls(monkeypatch)
    assert evaluate_model(model, processor, rows, **kwargs).targets.equals(expected.targets)
    assert calls.num_prompts == [8, 6]


@pytest.mark.parametrize(
    "change", first_fast([{"k": 1}, {"max_rows": 3}, {"protocol": "release"}, {"keep_rankings": True}])
)
def test_resume_refuses_parts_of_another_evaluation(model, processor, rows, tmp_path, change):
    kwargs = {"k": 6, "resume_dir": tmp_path, "show_progress": False}
    evaluate_model(model, processor, rows, **kwargs)
    with pytest.raises(FileExistsError, match="other settings"):
        evaluate_model(model, processor, rows, **{**kwargs, **change})


@pytest.mark.slow
def test_two_processes(tmp_path):
    """
    Two processes give the same report as one. This also holds after an interruption. Both processes call the model
    equally often, because sharded weights would block otherwise.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = run_process(
        [*launcher, evaluate_in_processes.__file__, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert result.returncode == 0, result.stderr
    for name, kwargs in evaluate_in_processes.RUNS.items():
        expected = evaluate_in_processes.evaluate(**kwargs).targets
        for process in range(2):
            found = pl.read_parquet(tmp_path / f"{name}-{process}.parquet")
            resumed = pl.read_parquet(tmp_path / f"{name}-resumed-{process}.parquet")
            assert_frame_equal(found, expected, rel_tol=1e-4)
            assert_frame_equal(resumed, expected, rel_tol=1e-4)
        first, second = (pl.read_parquet(tmp_path / f"{name}-counts-{process}.parquet") for process in range(2))
        assert first.equals(second)
        # Thirty-three rows: two parts of sixteen, and one row that both rank. One part was finished.
        assert first.row(0, named=True)["rows_of_calls"] == [8, 8, 1]
        assert first.row(1, named=True)["rows_of_calls"] == [8, 1]
        assert (first["model"] > 0).all()
        assert (first["lm_head"] > 0).all()


def test_processes_that_do_not_know_of_each_other(model, processor, rows, monkeypatch):
    """Each process would rank all rows and write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"PartialState\(cpu=True\)"):
        evaluate_model(model, processor, rows, show_progress=False)


def test_parts_by_hand(tmp_path):
    """Parts hold eight batches. Twenty targets in batches of one are parts of eight, eight and four."""
    asked = []

    def rank(places):
        asked.append(places.tolist())
        return np.stack([places, 10 * places], axis=1)

    arguments = {"resume_dir": tmp_path, "settings": {"k": 5}, "show_progress": False}
    found = run_in_parts(rank, 20, 1, **arguments)
    assert found.tolist() == [[place, 10 * place] for place in range(20)]
    assert asked == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    (tmp_path / "part-0000000008.npy").unlink()
    asked.clear()
    assert run_in_parts(rank, 20, 2, **arguments).tolist() == found.tolist()
    assert asked == [[*range(8, 20)]]
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        run_in_parts(rank, 20, 0, **arguments)
    with pytest.raises(FileExistsError, match="k: old 5, new 6"):
        run_in_parts(rank, 20, 1, **{**arguments, "settings": {"k": 6}})
