"""Recommending for users: as one by one, after an interruption, in several processes, and with bad input."""

import os
import signal
import sys

import interrupted_job
import numpy as np
import polars as pl
import pytest
import torch
from conftest import ITEM_IDS
from filelock import FileLock
from polars.testing import assert_frame_equal
from processes import run_process
from tiers import first_fast
from users_of_jobs import histories, make_recommender, save, write_users

from patchrec_hf import PatchRecommender, TimeWindowLayout, recommend_users
from patchrec_hf.jobs.job_parts import JobParts
from patchrec_hf.jobs.user_ranker import UserRanker
from patchrec_hf.jobs.user_requests import UsersError


@pytest.fixture
def recommender(processor):
    return make_recommender(processor)


@pytest.fixture
def run(recommender, tmp_path):
    """Recommends for the users of `users.parquet`, and gives the summary and the rows."""

    def run(path=None, output="top.parquet", by=recommender, **settings):
        settings = {"k": 3, "users_per_part": 4, "show_progress": False, **settings}
        summary = recommend_users(by, path or tmp_path / "users.parquet", tmp_path / output, **settings)
        return summary, pl.read_parquet(summary.output)

    return run


def expected_rows(recommender, path, **settings):
    """The rows of the output, by one call for each user."""
    rows = []
    for row in pl.read_parquet(path).iter_rows(named=True):
        own = {"candidates": row["candidates"]} if row.get("candidates") is not None else {}
        items = recommender.recommend(row["item_ids"], **{"k": 3, **settings, **own})
        rows.append(
            {
                "user_id": row["user_id"],
                "item_ids": [item.item_id for item in items],
                "titles": [item.title for item in items],
                "scores": [item.score for item in items],
                "is_exact": all(item.is_exact for item in items),
            }
        )
    return pl.DataFrame(rows)


@pytest.mark.slow
def test_rows_equal_recommending_one_by_one(recommender, run, tmp_path):
    path = write_users(tmp_path / "users.parquet")
    summary, found = run()
    assert_frame_equal(found, expected_rows(recommender, path), abs_tol=1e-4)
    assert (summary.num_recommended, summary.num_skipped, summary.num_ranked) == (10, 0, 10)
    assert summary.skipped is None
    assert summary.users_per_second == 10 / summary.seconds
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["top.parquet", "users.parquet"]
    _, other = run(output="other.parquet", exclude_seen=False, method="exact", batch_size=3, users_per_part=100)
    assert_frame_equal(other, expected_rows(recommender, path, exclude_seen=False, method="exact"), abs_tol=1e-4)


@pytest.mark.slow
def test_candidates_and_exclusions(recommender, run, tmp_path):
    candidates = [[20, 21, 19, 10], None] * 5
    exclude = [[20], [], None, [12, 13], [16]] * 2
    path = write_users(tmp_path / "users.parquet", candidates=candidates, exclude=exclude)
    _, found = run(k=12)
    every = expected_rows(recommender, path, k=12).rows(named=True)
    twins = {14: {14, 15}, 15: {14, 15}}
    for row, all_items, excluded in zip(found.iter_rows(named=True), every, exclude, strict=True):
        gone = set().union(*(twins.get(item, {item}) for item in excluded or ()))
        assert row["item_ids"] == [item for item in all_items["item_ids"] if item not in gone]


def test_text_ids_of_users_and_items(processor, run, tmp_path):
    recommender = make_recommender(processor, text_ids=True)
    path = tmp_path / "users.jsonl"
    lines = [
        f'{{"user_id": "{n:03}", "item_ids": ["B-{a}", "B-{b}"]}}' for n, (a, b) in enumerate([(10, 11), (18, 19)])
    ]
    path.write_text("\n".join(lines))
    _, found = run(path, by=recommender)
    assert found["user_id"].to_list() == ["000", "001"]
    expected = recommender.recommend([["B-10", "B-11"], ["B-18", "B-19"]], k=3)
    assert found["item_ids"].to_list() == [[item.item_id for item in items] for items in expected]
    assert all(item_id.startswith("B-") for item_id in found["item_ids"][0])


@pytest.mark.slow
def test_one_row_per_interaction(recommender, run, tmp_path):
    """Shuffled interactions give the same recommendations as lists, for users in the order of their first rows."""
    write_users(tmp_path / "users.parquet")
    _, expected = run()
    events = [(user, item, time) for user, items in enumerate(histories()) for time, item in enumerate(items)]
    log = pl.DataFrame(events, schema=["who", "item_id", "timestamp"], orient="row").sample(
        len(events), shuffle=True, seed=1
    )
    log.write_csv(tmp_path / "log.csv")
    _, found = run(tmp_path / "log.csv", "other.parquet", columns={"user_id": "who"})
    assert found["user_id"].to_list() == log["who"].unique(maintain_order=True).to_list()
    order = found["user_id"].to_list()
    assert_frame_equal(found.drop("user_id"), expected[order].drop("user_id"), abs_tol=1e-4)


@pytest.mark.slow
def test_timestamps_are_read_if_they_count(recommender, run, tmp_path):
    timed = PatchRecommender(
        recommender.model, recommender.processor.with_layout(TimeWindowLayout(60, num_text_items=1))
    )
    write_users(tmp_path / "users.parquet")
    with pytest.raises(ValueError, match=r"reads timestamps, but .*users\.parquet has no column of times"):
        run(by=timed)
    times = [[90 * place for place in range(len(items))] for items in histories()]
    write_users(tmp_path / "users.parquet", timestamps=times)
    _, found = run(by=timed)
    expected = timed.recommend(histories(), k=3, timestamps=times)
    assert found["item_ids"].to_list() == [[item.item_id for item in items] for items in expected]


def faulty_users(path):
    """Six users: the second has no history, the fourth an unknown item, the fifth nothing left to recommend."""
    items = [[10, 11], [], [12], [13, 404], [14], [16, 17]]
    candidates = [None, None, None, None, [14, 15], None]
    frame = pl.DataFrame({"user_id": range(6), "item_ids": items, "candidates": candidates})
    frame.write_parquet(path)
    return frame


def test_bad_users_stop_a_job_before_it_ranks(run, tmp_path, monkeypatch):
    faulty_users(tmp_path / "users.parquet")
    ranked = []
    monkeypatch.setattr(UserRanker, "rank", lambda self, users: ranked.append(users))
    with pytest.raises(
        ValueError, match=r"^2 of 6 users cannot be ranked\. The first of them: Row 1, user 1: The hist"
    ):
        run()
    assert ranked == []


def test_bad_users_are_skipped_and_listed(recommender, run, tmp_path):
    frame = faulty_users(tmp_path / "users.parquet")
    summary, found = run(on_error="skip", users_per_part=2)
    good = tmp_path / "good.parquet"
    frame[[0, 2, 5]].drop("candidates").write_parquet(good)
    assert_frame_equal(found, expected_rows(recommender, good), abs_tol=1e-4)
    assert (summary.num_recommended, summary.num_skipped, summary.num_ranked) == (3, 3, 6)
    assert summary.skipped == tmp_path / "top.skipped.parquet"
    skipped = pl.read_parquet(summary.skipped)
    assert skipped.select("row", "user_id").rows() == [(1, 1), (3, 3), (4, 4)]
    for reason, part in zip(skipped["reason"], ["history is empty", "Item id 404", "no item left"], strict=True):
        assert part in reason


def test_a_user_found_late_stops_the_job_too_and_skipping_continues_it(run, tmp_path):
    frame = faulty_users(tmp_path / "users.parquet")
    frame[[0, 2, 4, 5]].write_parquet(tmp_path / "users.parquet")
    with pytest.raises(ValueError, match=r"1 of 4 users cannot be ranked.*Row 2, user 4: This row has no item left"):
        run(users_per_part=1)
    assert JobParts(tmp_path / "top.parquet.parts", 4, 1).missing() == [2, 3]
    summary, found = run(users_per_part=1, on_error="skip")
    assert (summary.num_ranked, found["user_id"].to_list()) == (2, [0, 2, 5])


def test_skipped_users_do_not_pass_a_job_that_stops(run, tmp_path, monkeypatch):
    faulty_users(tmp_path / "users.parquet")[[0, 4, 5]].write_parquet(tmp_path / "users.parquet")
    interrupt(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        run(on_error="skip", users_per_part=1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds 1 users whom an interrupted job skipped"):
        run(users_per_part=1)
    assert not (tmp_path / "top.parquet").exists()


def test_unknown_items_are_left_out_on_request(recommender, run, tmp_path):
    pl.DataFrame({"user_id": [1, 2], "item_ids": [[10, 404, 11], [12]]}).write_parquet(tmp_path / "users.parquet")
    summary, found = run(drop_unknown=True)
    assert summary.num_dropped == 1
    assert found["item_ids"][0].to_list() == [item.item_id for item in recommender.recommend([10, 11], k=3)]


def interrupt(monkeypatch, after):
    """Lets the writing of a part fail after some parts."""
    write, count = JobParts.write, []

    def fail_later(parts, number, rows):
        if len(count) == after:
            raise KeyboardInterrupt
        count.append(number)
        write(parts, number, rows)

    monkeypatch.setattr(JobParts, "write", fail_later)


@pytest.mark.slow
def test_an_interrupted_job_continues(recommender, run, tmp_path, monkeypatch):
    write_users(tmp_path / "users.parquet", 18)
    _, expected = run(output="unbroken.parquet")
    interrupt(monkeypatch, after=3)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    parts = tmp_path / "top.parquet.parts"
    (parts / "part-00000001.parquet").write_bytes(b"broken off")
    ranked, rank = [], UserRanker.rank
    monkeypatch.setattr(
        UserRanker, "rank", lambda self, users: (ranked.append([u.row for u in users]), rank(self, users))[1]
    )
    summary, found = run()
    assert ranked == [[4, 5, 6, 7], [12, 13, 14, 15], [16, 17]]
    assert found.equals(expected)
    assert summary.num_ranked == 10
    assert not parts.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    first_fast(
        [
            ({"k": 4}, r"\(k: old 3, new 4\)"),
            ({"users_per_part": 5}, r"\(users_per_part: old 4, new 5\)"),
            ({"exclude_seen": False}, r"\(exclude_seen: old True, new False\)"),
            ({"drop_unknown": True}, r"\(drop_unknown: old False, new True\)"),
            ("histories", r"\(histories\.content: old '\w+', new '\w+'\)"),
            ("checkpoint", r"\(checkpoint\.the models' weights: old '\w+', new '\w+'\)"),
        ]
    ),
)
def test_a_job_of_other_settings_is_refused(recommender, run, tmp_path, monkeypatch, change, message):
    write_users(tmp_path / "users.parquet")
    with monkeypatch.context() as patched:
        interrupt(patched, after=1)
        with pytest.raises(KeyboardInterrupt):
            run()
    if change == "histories":
        write_users(tmp_path / "users.parquet", 9)
    elif change == "checkpoint":
        recommender.__dict__.pop("fingerprint")
        with torch.no_grad():
            recommender.model.item_head.item_vectors.bias[0] += 1
    with pytest.raises(
        FileExistsError, match=f"top.parquet.parts holds a run with other settings {message}.*; delete it"
    ):
        run(**(change if isinstance(change, dict) else {}))
    if isinstance(change, dict):
        assert len(run(batch_size=2)[1]) == 10  # the size of a batch changes nothing


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"output": "top.csv"},
            ValueError,
            r"`output` must be a Parquet file, such as top\.parquet, got '.*top\.csv'",
        ),
        ({"output": "no/top.parquet"}, FileNotFoundError, "There is no directory .*no for top.parquet"),
        ({"output": "users.parquet"}, FileExistsError, r"users\.parquet exists\. Choose another output"),
        ({"on_error": "ignore"}, ValueError, "`on_error` must be 'stop' or 'skip', got 'ignore'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0"),
        ({"users_per_part": 2.0}, TypeError, r"`users_per_part` must be a whole number, got 2\.0"),
        ({"method": "beam", "num_beams": 2}, ValueError, "`num_beams` must be at least k = 3, got 2"),
        ({"exclude_sene": True}, TypeError, "unexpected keyword 'exclude_sene'; did you mean 'exclude_seen'"),
        ({"max_tokens": 9}, ValueError, "needs a layout with a budget"),
        ({"path": "user.parquet"}, FileNotFoundError, "Did you mean .*users.parquet"),
    ],
)
def test_bad_arguments_leave_no_files(run, tmp_path, settings, error, message):
    write_users(tmp_path / "users.parquet")
    settings = dict(settings)
    path = tmp_path / settings.pop("path", "users.parquet")
    with pytest.raises(error, match=message):
        run(path, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["users.parquet"]


def test_two_runs_of_one_job(run, tmp_path):
    """The second one is refused while the first is at work. A run that fails leaves no lock."""
    write_users(tmp_path / "users.parquet")
    directory = tmp_path / "top.parquet.parts"
    directory.mkdir()
    with (
        FileLock(directory / "job.lock"),
        pytest.raises(OSError, match=r"Another run is at work in .*top\.parquet\.parts"),
    ):
        run()
    assert len(run()[1]) == 10


def test_processes_that_do_not_know_of_each_other(run, tmp_path, monkeypatch):
    write_users(tmp_path / "users.parquet")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"PartialState\(cpu=True\)"):
        run()


@pytest.mark.slow
def test_a_killed_job_continues(recommender, run, tmp_path):
    """SIGKILL within the writing of the third part, which leaves half a file."""
    save(recommender, tmp_path / "checkpoint")
    write_users(tmp_path / "users.parquet", 18)
    by = PatchRecommender.from_pretrained(tmp_path / "checkpoint")
    _, expected = run(output="unbroken.parquet", by=by)
    killed = run_process([sys.executable, interrupted_job.__file__, tmp_path, 2])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    parts = JobParts(tmp_path / "top.parquet.parts", 18, 4)
    assert parts.missing() == [2, 3, 4]
    assert len(list(parts.directory.glob("part-00000002.*.tmp"))) == 1
    summary, found = run(by=by)
    assert summary.num_ranked == 10
    assert found.equals(expected)


@pytest.mark.slow
def test_two_processes_equal_one(recommender, run, tmp_path):
    """By the command. Both processes find the users that the main one has made of a log, and skip one of them."""
    save(recommender, tmp_path / "checkpoint")
    events = [(user, item, time) for user, items in enumerate(histories(18)) for time, item in enumerate(items)]
    events.insert(20, (99, 404, 0))
    path = tmp_path / "log.csv"
    pl.DataFrame(events, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(path)
    by = PatchRecommender.from_pretrained(tmp_path / "checkpoint")
    one, expected = run(path, "one.parquet", by=by, on_error="skip")
    launcher = [
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "patchrec_hf.commands.recommend",
    ]
    command = [sys.executable, "-m", *launcher, tmp_path / "checkpoint", "--histories", path, "--k", "3"]
    command += ["--output", tmp_path / "two.parquet", "--users_per_part", "4", "--on_error", "skip", "--device", "cpu"]
    done = run_process(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("users per second") == 1
    assert pl.read_parquet(tmp_path / "two.parquet").equals(expected)
    skipped = pl.read_parquet(tmp_path / "two.skipped.parquet")
    assert skipped.equals(pl.read_parquet(one.skipped))
    assert skipped["user_id"].to_list() == [99]


def test_histories_that_are_too_long_stop_a_job_before_it_ranks(processor, tmp_path, monkeypatch):
    recommender = make_recommender(processor)
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": [1, 2], "item_ids": [[10], ITEM_IDS[:8]]}).write_parquet(path)
    model, processor = recommender.model, recommender.processor
    limit = processor.encode(np.arange(3)).history_end + 1
    monkeypatch.setattr(model.config.decoder_config, "max_position_embeddings", limit)
    monkeypatch.setattr(UserRanker, "rank", lambda *_: pytest.fail("a user was ranked"))
    message = r"1 of 2 users cannot be ranked.*Row 1, user 2: The history is too long: its prompt takes \d+ tokens"
    with pytest.raises(UsersError, match=message):
        recommend_users(recommender, path, tmp_path / "top.parquet", show_progress=False)
