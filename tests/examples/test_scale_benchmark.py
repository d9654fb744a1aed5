"""The benchmark of large catalogs runs as its users run it, continues after an interruption, and reports the costs."""

import json
import sys
from pathlib import Path

import pytest
from processes import run_process


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "scale.py"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import scale

    return scale


def test_the_report_is_made_of_the_measurements(scale):
    cost = {"cpu_seconds": 1.5, "seconds": 3.0, "peak_gib": 0.25}
    speeds = {"read": 100.0, "item": 50.0, "item_flat": 200.0, "exact": 1.25, "peak_gib": 2.0}
    for ef_search, times, share in zip(scale.EF_SEARCHES, (40, 20, 10, 5), (0.9, 0.94, 0.96, 0.99), strict=True):
        speeds |= {f"item_hnsw_{ef_search}": 200.0 * times, f"recall_hnsw_{ef_search}": share}
    for nprobe, times, share in zip(scale.NPROBES, (30, 20, 15, 8), (0.5, 0.9, 0.951, 0.97), strict=True):
        speeds |= {f"item_ivfpq_{nprobe}": 200.0 * times, f"recall_ivfpq_{nprobe}": share}
    stages = dict.fromkeys(("tokens", "trie", "vectors", "flat", "ivfpq", "hnsw"), cost)
    lines = scale.report({1000: {**stages, "rank": speeds}, 2000: {**stages, "rank": speeds}}).splitlines()
    assert "| title trie | 1.5 s, 0.25 GiB | 1.5 s, 0.25 GiB |" in lines
    cell = "4,000, recall@20 0.940, 20.0 times flat"
    assert f"| item, HNSW, ef_search=64 | {cell} | {cell} |" in lines
    assert lines[-2:] == [
        "2,000 items: IVFPQ, nprobe=125: 95.1% of the 20 best items are found, at 15.0 times the speed of the "
        "flat index.",
        "2,000 items: HNSW, ef_search=128: 96.0% of the 20 best items are found, at 10.0 times the speed of the flat "
        "index.",
    ]
    poor = {**speeds, **{f"recall_hnsw_{ef_search}": 0.5 for ef_search in scale.EF_SEARCHES}}
    assert scale.fastest_search(poor, "HNSW") == "hnsw_256"


@pytest.mark.slow
def test_every_stage_runs_once(tmp_path):
    pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    command = [sys.executable, SCRIPT, "--quick", "--directory", tmp_path / "work", "--json", tmp_path / "scale.json"]
    done = run_process(command)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "scale.json").read_text())["catalogs"]["2000"]
    assert report.keys() == {"tokens", "trie", "vectors", "flat", "ivfpq", "hnsw", "rank"}
    assert 0.5 < report["rank"]["recall_hnsw_256"] <= 1
    assert 0.5 < report["rank"]["recall_ivfpq_250"] <= 1
    assert (report["hnsw"]["m"], report["ivfpq"]["k_factor"]) == (32, 2)
    assert "2,000 items: HNSW, ef_search=" in done.stdout
    again = run_process(command)
    assert again.returncode == 0
    assert "2,000 items: rank" in done.stdout
    assert "2,000 items: rank" not in again.stdout
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


def test_small_catalogs_are_refused(tmp_path):
    done = run_process([sys.executable, SCRIPT, "--items", "500", "--directory", tmp_path])
    assert done.returncode == 2
    assert "--items must be at least 10000" in done.stderr
