"""The command `patchrec recommend`: what it prints and writes, its help, and its errors."""

import json
import sys

import polars as pl
import pytest
from item_indexes import count_searches
from processes import run_process
from users_of_jobs import make_recommender, save, write_users

from patchrec_hf import PatchRecommender
from patchrec_hf.commands.recommend import main, parse, report
from patchrec_hf.jobs.job import JobSummary


NEEDED = ["checkpoint", "--histories", "users.parquet", "--output", "top.parquet"]


@pytest.fixture(scope="module")
def checkpoint(processor, tmp_path_factory):
    return save(make_recommender(processor), tmp_path_factory.mktemp("job") / "checkpoint")


@pytest.fixture
def command(checkpoint, tmp_path):
    """Runs the command on `users.parquet`."""
    files = ["--histories", tmp_path / "users.parquet", "--output", tmp_path / "top.parquet"]

    def run(*arguments):
        main(list(map(str, [checkpoint, *files, "--device", "cpu", *arguments])))

    return run


def test_users_of_a_file(checkpoint, command, tmp_path, capsys):
    frame = pl.read_parquet(write_users(tmp_path / "users.parquet")).rename({"user_id": "customer"})
    lists = pl.Series("stock", [[19, 20, 21, 404]] * 10)
    frame.with_columns(lists).write_parquet(tmp_path / "users.parquet")
    command("--k", "2", "--no-exclude_seen", "--columns", "user_id=customer", "candidates=stock", "--drop_unknown")
    found = pl.read_parquet(tmp_path / "top.parquet")
    assert found["user_id"].to_list() == frame["customer"].to_list()
    recommender = PatchRecommender.from_pretrained(checkpoint)
    for history, item_ids in zip(frame["item_ids"], found["item_ids"], strict=True):
        items = recommender.recommend(history.to_list(), k=2, exclude_seen=False, candidates=[19, 20, 21])
        assert item_ids.to_list() == [item.item_id for item in items]
    printed = capsys.readouterr().out
    assert "10 users in " in printed
    assert "users per second." in printed
    assert "10 ids that the catalog lacks were left out." in printed


def test_users_who_are_skipped(command, tmp_path, capsys):
    pl.DataFrame({"user_id": [1, 2], "item_ids": [[10], []]}).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(
        SystemExit, match=r"^UsersError: 1 of 2 users cannot be ranked\..*Row 1, user 2: The history is"
    ):
        command()
    command("--on_error", "skip")
    assert f"1 users were skipped, with reasons: {tmp_path / 'top.skipped.parquet'}" in capsys.readouterr().out


def test_every_setting_reaches_the_job(command, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "patchrec_hf.jobs.recommend_users.recommend_users",
        lambda *args, **settings: (asked.update(settings), JobSummary(tmp_path, None, 1, 0, 0, 1, 0.5))[1],
    )
    write_users(tmp_path / "users.parquet")
    settings = {
        "k": 7, "method": "exact", "num_beams": 9, "max_title_tokens": 3, "max_tokens": 44, "time_unit": "ms",
        "date_format": "%Y", "separator": ";", "quote_char": "'", "on_error": "skip", "batch_size": 5,
        "users_per_part": 6, "index": "hnsw", "num_candidates": 50,
    }  # fmt: skip
    arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    others = ["--no-has_header", "--no-exclude_seen", "--no-unique_titles", "--drop_unknown"]
    command(*arguments, *others, "--moment", "1970-01-02T00:00")
    switches = {"has_header": False, "exclude_seen": False, "unique_titles": False, "drop_unknown": True}
    assert asked == {**settings, **switches, "moment": 86_400, "columns": {}}


@pytest.mark.parametrize(
    ("moment", "seconds"), [("90", 90), ("1970-01-01", 0), ("1970-01-01T01:00+01:00", 0), ("1970-01-01T01:00", 3600)]
)
def test_moments(moment, seconds):
    assert parse([*NEEDED, "--moment", moment]).moment == seconds


def test_help_is_one_screen(capsys):
    """Without importing anything heavy beyond the package itself."""
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 119
    assert lines[0].startswith("usage: patchrec recommend CHECKPOINT --histories FILE")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batchsize", "3"], r"^ValueError: There is no option --batchsize; did you mean '--batch_size'\?$"),
        (["--colums=user_id=x"], "There is no option --colums; did you mean '--columns'"),
        (["--columns", "customer"], "--columns takes pairs such as user_id=customer, got 'customer'"),
        (["--columns", "user=customer"], "`columns` has the unknown key 'user'; did you mean 'user_id'"),
        (["--columns", "user_id=customer"], "ValueError: .* has no column 'customer'"),
        (["--on_error", "ignore"], "`on_error` must be 'stop' or 'skip', got 'ignore'"),
        (["--output", "top.csv"], "`output` must be a Parquet file"),
        (["--histories", "no.parquet"], "FileNotFoundError: There is no file no.parquet"),
    ],
)
def test_errors_are_one_line_before_a_model_is_loaded(tmp_path, arguments, message):
    users = str(write_users(tmp_path / "users.parquet"))
    with pytest.raises(SystemExit, match=message) as caught:
        main(["no checkpoint", "--histories", users, "--output", str(tmp_path / "top.parquet"), *arguments])
    assert "\n" not in str(caught.value)


def test_errors_of_the_checkpoint(command, tmp_path):
    write_users(tmp_path / "users.parquet")
    with pytest.raises(SystemExit, match="fusion"):
        command("--method", "fusion")
    with pytest.raises(SystemExit, match="needs a layout with a budget"):
        command("--max_tokens", "9")
    assert not (tmp_path / "top.parquet.parts").exists()


def test_values_that_cannot_be_read():
    for arguments, message in [
        (["--moment", "soon"], r"--moment: A moment is a date such as 2026-11-20.*got 'soon'\. See"),
        (["--moment", "20261120"], r"--moment: .*20261120 looks like a date.*Write the date as 2026-11-20"),
        (["--moment", "1700000000000"], r"--moment: .*in milliseconds, divide it by 1000"),
        (["--k", "many"], "invalid int value: 'many'"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main([*NEEDED, *arguments])


def test_the_report_of_a_job_that_was_interrupted(tmp_path):
    summary = JobSummary(tmp_path / "top.parquet", tmp_path / "skipped", 5_990, 10, 3, 2_000, 4.0)
    assert report(summary).splitlines() == [
        "4,000 users were ranked before the job was interrupted.",
        "2,000 users in 4.0 s: 500.0 users per second.",
        f"5,990 users with recommendations: {tmp_path / 'top.parquet'}",
        "3 ids that the catalog lacks were left out.",
        f"10 users were skipped, with reasons: {tmp_path / 'skipped'}",
    ]


@pytest.mark.slow
def test_an_error_ends_the_process_without_a_traceback(tmp_path):
    code = "from patchrec_hf.commands.recommend import main; "
    code += (
        f"main({json.dumps(['checkpoint', '--histories', str(tmp_path / 'users.parquet'), '--output', 'x.parquet'])})"
    )
    done = run_process([sys.executable, "-c", code])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == f"FileNotFoundError: There is no file {tmp_path / 'users.parquet'}."


def test_an_index_is_built_or_read(checkpoint, command, tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    searches = count_searches(monkeypatch)
    write_users(tmp_path / "users.parquet")
    command("--method", "item")
    expected = pl.read_parquet(tmp_path / "top.parquet")["item_ids"].to_list()
    PatchRecommender.from_pretrained(checkpoint).build_index("hnsw").save_pretrained(checkpoint)
    for index in ("flat", "saved"):
        (tmp_path / "top.parquet").unlink()
        command("--index", index, "--num_candidates", "11")
        assert pl.read_parquet(tmp_path / "top.parquet")["item_ids"].to_list() == expected
    assert list(dict.fromkeys(searches)) == ["flat", "hnsw"]
    assert "users per second." in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"takes flat, ivf, ivfpq, hnsw or saved, got 'hsnw'; did you mean 'hnsw'\?"):
        command("--index", "hsnw")
