"""`examples/recommend_ray.py`: the rows of `patchrec recommend`, also after a kill; and parts that fail."""

import importlib.util
import socket
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from loaded_script import loaded_script
from polars.testing import assert_frame_equal
from processes import run_process
from users_of_jobs import histories, make_recommender, save, write_users

from patchrec_hf import recommend_users
from patchrec_hf.jobs.job import PartRanker, open_job
from patchrec_hf.jobs.job_parts import JobParts
from patchrec_hf.jobs.user_ranker import RankingSettings


SCRIPT = Path(__file__).parents[2] / "examples" / "recommend_ray.py"
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "patchrec-hf[ray]"'
)
USERS = 10
EXCLUDE = [[20], [], None, [12, 13], [16]] * 2
CANDIDATES = [[20, 21, 19, 10], None] * 5


@pytest.fixture(scope="module")
def script():
    with loaded_script(SCRIPT) as module:
        yield module


@pytest.fixture
def recommender(processor):
    return make_recommender(processor)


def write_mixed_users(path, ids):
    """Users with exclusions and candidates. One of them has an unknown item, and one an empty history."""
    write_users(path, USERS, exclude=EXCLUDE, candidates=CANDIDATES)
    lists = histories(USERS)
    lists[3], lists[8] = [*lists[3], 999], []
    rows = pl.read_parquet(path).with_columns(user_id=pl.Series(ids), item_ids=pl.Series(lists))
    rows.write_parquet(path)
    return path


def worker_for(script, recommender, job, checkpoint, **changes):
    settings = {
        "checkpoint": str(checkpoint),
        "loading": {},
        "fingerprint": dict(recommender.fingerprint),
        "settings": RankingSettings(k=3),
        "batch_size": 8,
        "drop_unknown": False,
        "on_error": "skip",
        "file": job.file,
        "directory": job.part_ranker.parts.directory,
        "users_per_part": 4,
        "index": None,
        "on_gpu": False,
    }
    return script.Worker(script.WorkerSettings(**{**settings, **changes}))


def ask(worker, numbers):
    return worker(pa.table({"parts": [" ".join(map(str, numbers))]})).to_pylist()


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_workers_write_the_parts_of_the_command(script, recommender, tmp_path, kind):
    ids = [(7 * user) % 100 if kind == "numbers" else f"u{(7 * user) % 100:02}" for user in range(USERS)]
    path = write_mixed_users(tmp_path / "users.parquet", ids)
    checkpoint = save(recommender, tmp_path / "checkpoint")
    settings = {"on_error": "skip", "users_per_part": 4, "show_progress": False}
    expected = recommend_users(recommender, path, tmp_path / "top.parquet", 3, **settings)
    with open_job(recommender, path, tmp_path / "other.parquet", RankingSettings(k=3), **settings) as job:
        worker = worker_for(script, recommender, job, checkpoint)
        assert [row["part"] for row in ask(worker, [2, 0])] == [0, 2]
        assert ask(worker, [0, 1, 2]) == [{"part": 1, "is_of_users": False, "error": ""}]  # the others are written
        found = job.finish(1.0)
    assert_frame_equal(pl.read_parquet(found.output), pl.read_parquet(expected.output), abs_tol=1e-4)
    skipped = pl.read_parquet(found.skipped)
    assert_frame_equal(skipped, pl.read_parquet(expected.skipped))
    assert skipped["row"].to_list() == [3, 8]
    assert pl.read_parquet(found.output)["user_id"].to_list() == [
        user for row, user in enumerate(ids) if row not in (3, 8)
    ]


def test_a_part_that_fails_is_tried_twice_and_named_and_the_others_are_kept(
    script, recommender, tmp_path, monkeypatch
):
    path = write_users(tmp_path / "users.parquet")
    checkpoint = save(recommender, tmp_path / "checkpoint")
    tries, rank = [], PartRanker.rank

    def fail(self, number, rows):
        tries.append(number)
        if number == 1 or (number == 0 and tries.count(0) == 1):
            raise RuntimeError("the disk is full")
        rank(self, number, rows)

    monkeypatch.setattr(PartRanker, "rank", fail)
    settings = {"users_per_part": 4, "show_progress": False}
    with open_job(recommender, path, tmp_path / "top.parquet", RankingSettings(k=3), **settings) as job:
        worker = worker_for(script, recommender, job, checkpoint, on_error="stop")
        rows = ask(worker, [0, 1, 2])
        assert tries == [0, 0, 1, 1, 2]
        assert [row["error"] for row in rows] == ["", "RuntimeError: the disk is full", ""]
        assert job.part_ranker.parts.missing() == [1]


def test_a_worker_with_another_checkpoint_is_refused(script, recommender, tmp_path):
    path = write_users(tmp_path / "users.parquet")
    checkpoint = save(recommender, tmp_path / "checkpoint")
    with (
        open_job(recommender, path, tmp_path / "top.parquet", RankingSettings(), show_progress=False) as job,
        pytest.raises(ValueError, match="is another checkpoint on"),
    ):
        worker_for(script, recommender, job, checkpoint, fingerprint={"the weights": "others"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--gpus_per_worker", "-1"], "--gpus_per_worker must be at least 0, got -1"),
        (["--device", "cuda"], "Leave out --device cuda"),
        (["--worker", "3"], "There is no option --worker"),
    ],
)
def test_mistakes(script, arguments, message):
    with pytest.raises(SystemExit, match=message):
        script.main(["checkpoint", "--histories", "users.parquet", "--output", "top.parquet", *arguments])


@needs_ray
def test_a_cluster_that_cannot_be_reached(script, tmp_path):
    write_users(tmp_path / "users.parquet")
    job = ["checkpoint", "--histories", str(tmp_path / "users.parquet"), "--output", str(tmp_path / "top.parquet")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(SystemExit, match=rf"ConnectionError: The Ray cluster at {address} cannot be reached"):
            script.main([*job, "--address", address])
    with pytest.raises(SystemExit, match=r"--address must be auto or HOST:PORT, such as .*, got 'head'"):
        script.main([*job, "--address", "head"])


def test_a_missing_extra_is_named(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    write_users(tmp_path / "users.parquet")
    job = ["checkpoint", "--histories", str(tmp_path / "users.parquet"), "--output", str(tmp_path / "top.parquet")]
    with pytest.raises(SystemExit, match=r'needs ray: pip install "patchrec-hf\[ray\]"'):
        script.main(job)


@needs_ray
@pytest.mark.slow
def test_two_workers_continue_a_killed_job(recommender, tmp_path, monkeypatch):
    """The command was killed after one part of three, and Ray's workers continue it, with the same rows."""
    ids = [f"u{(7 * user) % 100:02}" for user in range(USERS)]
    path = write_mixed_users(tmp_path / "users.parquet", ids)
    checkpoint = save(recommender, tmp_path / "checkpoint")
    settings = {"on_error": "skip", "users_per_part": 4, "show_progress": False}
    expected = recommend_users(recommender, path, tmp_path / "expected.parquet", 3, **settings)
    write = JobParts.write

    def die(self, number, rows):
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, rows)

    monkeypatch.setattr(JobParts, "write", die)
    with pytest.raises(KeyboardInterrupt):
        recommend_users(recommender, path, tmp_path / "top.parquet", 3, **settings)
    command = [sys.executable, SCRIPT, checkpoint, "--histories", path, "--output", tmp_path / "top.parquet"]
    command += ["--k", "3", "--on_error", "skip", "--users_per_part", "4", "--workers", "2"]
    done = run_process(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 users were ranked before the job was interrupted." in done.stdout
    assert "2 users were skipped, with reasons" in done.stdout
    found = pl.read_parquet(tmp_path / "top.parquet").sort("user_id")
    assert_frame_equal(found, pl.read_parquet(expected.output).sort("user_id"), abs_tol=1e-4)
    assert_frame_equal(pl.read_parquet(tmp_path / "top.skipped.parquet"), pl.read_parquet(expected.skipped))
    assert not (tmp_path / "top.parquet.parts").exists()
