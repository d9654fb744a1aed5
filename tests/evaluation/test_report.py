"""Tests of evaluation reports: what is made of the ranks of targets, and what is kept of it."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from patchrec_hf import EvaluationReport
from patchrec_hf.evaluation.report import COUNT_COLUMNS


COUNTS = [*COUNT_COLUMNS, *(f"text_{name}" for name in COUNT_COLUMNS)]
SCHEMA = {
    "user_id": pl.Int64,
    "target_id": pl.Int64,
    "history_length": pl.Int64,
    "is_cold": pl.Boolean,
    "item_rank": pl.Float64,
    "title_rank": pl.Float64,
    "num_ties": pl.Int64,
    "is_exact": pl.Boolean,
    **dict.fromkeys(["tokens_read", *COUNTS], pl.Int64),
}


def make_report(item_rank, ks=(2, 3), settings=None, **columns):
    """A report of a baseline on as many users as ranks; `columns` replace what is usual."""
    num_rows = len(item_rank)
    usual = {
        "user_id": range(num_rows),
        "target_id": range(100, 100 + num_rows),
        "history_length": [5] * num_rows,
        "item_rank": item_rank,
        "title_rank": item_rank,
        "num_ties": [1] * num_rows,
        "is_exact": [True] * num_rows,
    }
    nothing = dict.fromkeys(SCHEMA, [None] * num_rows)
    examples = pl.DataFrame({**nothing, **usual, **columns}, schema=SCHEMA)
    return EvaluationReport(examples, settings or {"ranker": "Popularity"}, ks)


def by_metric(table, slice_name="all"):
    return {row["metric"]: row for row in table.filter(slice=slice_name).iter_rows(named=True)}


def test_metrics_by_hand():
    report = make_report(
        [1.0, 3.0, 2.5, math.inf],
        title_rank=[1.0, 2.0, 2.0, math.inf],
        num_ties=[1, 1, 2, 1],
        is_exact=[True, True, True, False],
    )
    assert report.metrics() == pytest.approx(
        {
            "hr@2": 1 / 4,
            "ndcg@2": 1 / 4,
            "mrr@2": 1 / 4,
            "hr@3": 3 / 4,
            "ndcg@3": (1 + 1 / 2 + 1 / math.log2(3.5)) / 4,
            "mrr@3": (1 + 1 / 3 + 1 / 2.5) / 4,
            "title_hr@2": 3 / 4,
            "title_ndcg@2": (1 + 2 / math.log2(3)) / 4,
            "title_mrr@2": 2 / 4,
            "title_hr@3": 3 / 4,
            "title_ndcg@3": (1 + 2 / math.log2(3)) / 4,
            "title_mrr@3": 2 / 4,
            "exact_share": 3 / 4,
            "tied_share": 1 / 4,
        }
    )
    other_cutoff = report.metrics([1])
    assert other_cutoff["hr@1"] == 1 / 4
    assert "hr@2" not in other_cutoff


def test_compression_is_of_all_tokens_together():
    """Sums are divided, not shares averaged; and only models that read prompts have any."""
    counts = dict(zip(COUNTS, ([1, 5], [3, 7], [10, 20], [2, 18], [5, 35], [20, 80]), strict=True))
    metrics = make_report([1.0, 1.0], **counts).metrics()
    assert metrics["compression_ratio"] == 20 / 6
    assert metrics["compression_ratio_history"] == 40 / 10
    assert metrics["compression_ratio_prompt"] == 100 / 30
    assert not [name for name in make_report([1.0, 1.0]).metrics() if name.startswith("compression")]


def test_slices_hold_their_rows():
    """With the ranks 1, 2, 4, …, a mean of reciprocals tells which rows it was taken over."""
    ranks = [2.0**power for power in range(10)]
    report = make_report(
        ranks,
        ks=(1000,),
        user_id=[0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
        history_length=[0, 9, 10, 19, 20, 49, 50, 99, 100, 5000],
        is_cold=[False, True, False, False, False, False, False, False, False, True],
    )
    rows_of_slice = {
        "all": range(10),
        "warm": [0, 2, 3, 4, 5, 6, 7, 8],
        "cold": [1, 9],
        "history 0–9": [0, 1],
        "history 10–19": [2, 3],
        "history 20–49": [4, 5],
        "history 50–99": [6, 7],
        "history ≥ 100": [8, 9],
    }
    table = report.intervals()
    assert table["slice"].unique(maintain_order=True).to_list() == list(rows_of_slice)
    for name, rows in rows_of_slice.items():
        row = by_metric(table, name)["mrr@1000"]
        assert row["value"] == sum(1 / ranks[place] for place in rows) / len(rows)
        assert row["num_targets"] == len(rows)
        assert row["num_users"] == len({place // 2 for place in rows})


def test_slices_without_rows_are_left_out():
    report = make_report([1.0, 2.0], history_length=[10, 100], is_cold=[False, False])
    slices = report.intervals()["slice"].unique(maintain_order=True).to_list()
    assert slices == ["all", "warm", "history 10–19", "history ≥ 100"]
    unasked = make_report([1.0, 2.0], history_length=[50, 51])  # `is_cold` is null
    assert unasked.intervals()["slice"].unique(maintain_order=True).to_list() == ["all", "history 50–99"]


def test_intervals_resample_users():
    """Of two users one always hits and one never: two draws hold 0, 1 or 2 of the better, however many rows."""
    report = make_report([1.0] * 50 + [math.inf] * 50, user_id=[7] * 50 + [8] * 50)
    row = by_metric(report.intervals())["hr@2"]
    assert (row["value"], row["low"], row["high"]) == (0.5, 0.0, 1.0)
    alike = by_metric(make_report([2.0] * 4).intervals())["hr@2"]
    assert (alike["value"], alike["low"], alike["high"]) == (1.0, 1.0, 1.0)


def test_one_user_has_no_interval():
    table = make_report([1.0, math.inf], user_id=[3, 3]).intervals()
    assert table["low"].is_nan().all()
    assert table["high"].is_nan().all()
    assert by_metric(table)["hr@2"]["value"] == 0.5


def test_compare_by_hand():
    one = make_report([1.0, 2.0, math.inf, math.inf], ks=(2,))
    two = make_report([2.0, math.inf, math.inf, math.inf], ks=(2,), title_rank=[1.0, math.inf, math.inf, 2.0])
    rows = {row["metric"]: row for row in one.compare(two).iter_rows(named=True)}
    assert list(rows) == ["hr@2", "ndcg@2", "mrr@2", "title_hr@2", "title_ndcg@2", "title_mrr@2"]
    for metric, this, other in (
        ("hr@2", 2 / 4, 1 / 4),
        ("ndcg@2", (1 + 1 / math.log2(3)) / 4, 1 / math.log2(3) / 4),
        ("mrr@2", 1.5 / 4, 0.5 / 4),
        ("title_hr@2", 2 / 4, 2 / 4),
    ):
        assert rows[metric]["this"] == pytest.approx(this)
        assert rows[metric]["other"] == pytest.approx(other)
        assert rows[metric]["difference"] == pytest.approx(this - other)
    # One user of four gains a hit: a draw of four holds that user 0 to 3 times, but for once in 256.
    assert (rows["hr@2"]["low"], rows["hr@2"]["high"]) == (0.0, 0.75)


def test_compare_with_itself():
    report = make_report([1.0, 2.5, 7.0, math.inf])
    table = report.compare(report)
    for column in ("difference", "low", "high"):
        assert table[column].to_list() == [0.0] * len(table)


def test_paired_interval_is_narrower():
    """Two runs that differ for one user in ten: their intervals overlap, that of the difference is above 0."""
    generator = np.random.default_rng(0)
    is_hit, is_lost = generator.random(300) < 0.5, generator.random(300) < 0.1
    one = make_report(np.where(is_hit, 1.0, np.inf), ks=(2,))
    two = make_report(np.where(is_hit & ~is_lost, 1.0, np.inf), ks=(2,))
    this, other = by_metric(one.intervals())["hr@2"], by_metric(two.intervals())["hr@2"]
    paired = one.compare(two).row(by_predicate=pl.col("metric") == "hr@2", named=True)
    assert other["low"] < this["low"] < other["high"] < this["high"]
    assert 0 < paired["low"] < paired["difference"] < paired["high"]
    assert paired["high"] - paired["low"] < min(this["high"] - this["low"], other["high"] - other["low"])


@pytest.mark.parametrize(
    "columns",
    [{"user_id": [0, 1, 3]}, {"user_id": [0, 2, 1]}, {"target_id": [100, 101, 103]}, {"history_length": [5, 5, 6]}],
)
def test_compare_refuses_other_targets(columns):
    with pytest.raises(ValueError, match="same targets"):
        make_report([1.0, 2.0, 3.0]).compare(make_report([1.0, 2.0, 3.0], **columns))


def test_compare_refuses_fewer_targets():
    with pytest.raises(ValueError, match="3 and 2 targets"):
        make_report([1.0, 2.0, 3.0]).compare(make_report([1.0, 2.0]))


def test_what_differs_is_named_before_anything_is_ranked():
    report = make_report([1.0, 2.0, 3.0])
    keys = report.targets.select("user_id", "target_id", "history_length")
    report.check_comparable(keys, [2])
    longer = keys.with_columns(history_length=pl.Series([5, 7, 9]))
    with pytest.raises(
        ValueError, match=r"number 2 differs: user 1, item 101, history of 7 items; user 1, item 101, h"
    ):
        report.check_comparable(longer, [2])
    with pytest.raises(ValueError, match="same `max_rows` and `max_history`"):
        report.check_comparable(keys.head(1), [2])
    texts = keys.with_columns(target_id=pl.Series(["B-1", "B-2", "B-3"]))
    with pytest.raises(ValueError, match="number 1 differs: user 0, item 'B-1'"):
        report.check_comparable(texts, [2])
    with pytest.raises(ValueError, match="too few for a cut-off of 20"):
        EvaluationReport(report.targets, {}, (2,), depth=10).check_comparable(keys, [20])


def test_with_settings():
    report = make_report([1.0], settings={"ranker": "Popularity", "seed": 0})
    assert report.with_settings(seed=1, data="books").settings == {"ranker": "Popularity", "seed": 1, "data": "books"}
    assert report.settings["seed"] == 0


def test_save_and_load(tmp_path):
    settings = {"ranker": "PatchRec", "k": 20, "num_beams": None, "protocol": {"credit_items": True}, "data": "Bücher"}
    counts = {name: [3, 4, 5 + place] for place, name in enumerate(COUNTS)}
    report = make_report(
        [1.0, 2.5, math.inf], settings=settings, ks=(2, 5), user_id=[0, 1, 2**60 + 1], is_cold=[True, False, None],
        tokens_read=[7, 8, 9], **counts,
    )  # fmt: skip
    report.save(tmp_path / "new" / "report")
    loaded = EvaluationReport.load(tmp_path / "new" / "report")
    assert loaded.examples.equals(report.targets)
    assert loaded.examples.schema == report.targets.schema
    assert loaded.settings == settings
    assert loaded.ks == (2, 5)
    assert loaded.to_markdown() == report.to_markdown()
    names = sorted(path.name for path in (tmp_path / "new" / "report").iterdir())
    assert names == ["report.json", "report.md", "targets.parquet"]


@pytest.mark.parametrize("user_id", [[1, 2], [1, 1]])
def test_json_is_valid(tmp_path, user_id):
    """JSON has neither NaN nor infinity, but targets can be unranked, and one user has no interval."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    make_report([math.inf, math.inf], user_id=user_id).save(tmp_path)
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert values["metrics"]["hr@3"] == 0.0
    assert {row["low"] for row in values["intervals"]} == ({0.0} if user_id == [1, 2] else {None})
    assert EvaluationReport.load(tmp_path).targets["item_rank"].to_list() == [math.inf, math.inf]


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown():
    settings = {"data": "a|b\nc", "layout": "ItemPatchLayout(2)", "protocol": {"either": "x|y"}}
    report = make_report([1.0, 4.0, 2.0], ks=(2,), settings=settings, history_length=[1, 1, 30], is_cold=[True] * 3)
    lines = report.to_markdown().splitlines()
    tables = [cells(line) for line in lines if line.startswith("|")]
    second, first = tables[:6], tables[6:]  # the results stand before the settings
    assert first[0] == ["setting", "value"]
    assert [row[0] for row in first[2:]] == list(settings)
    assert [len(row) for row in first] == [2] * 5
    assert first[2][1] == "a\\|b c"
    assert second[0] == ["slice", "targets", "users", "hr@2", "ndcg@2", "mrr@2", "title_hr@2", "title_ndcg@2"]
    assert [row[0] for row in second[2:]] == ["all", "cold", "history 0–9", "history 20–49"]
    assert [len(row) for row in second] == [8] * 6
    assert second[2][1:3] == ["3", "3"]
    assert second[2][3].startswith("0.667 (")
    assert second[5][1:4] == ["1", "1", "1.000"]  # of one user, no interval
    assert "Over all targets: exact_share 1.000, tied_share 0.000." in lines


@pytest.mark.parametrize("name", ["report.json", "report.md", "targets.parquet"])
def test_crash_while_saving_leaves_the_old_file_whole(tmp_path, monkeypatch, name):
    make_report([1.0, 1.0]).save(tmp_path)
    before = (tmp_path / name).read_bytes()

    def write_half(path):
        path.write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    def write_text(path, text, *args, **kwargs):
        return write_half(path) if path.name.startswith(name) else path.write_bytes(text.encode())

    new = make_report([2.0, 3.0])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", write_text)
        if name == "targets.parquet":
            patched.setattr(pl.DataFrame, "write_parquet", lambda frame, path: write_half(path))
        with pytest.raises(OSError, match="No space left"):
            new.save(tmp_path)
    assert (tmp_path / name).read_bytes() == before
    EvaluationReport.load(tmp_path)

    new.save(tmp_path)  # what the crash left behind is not in the way
    assert EvaluationReport.load(tmp_path).metrics() == new.metrics()


def test_titles_decoded_at_one_length_have_metrics_at_this_cut_off_only(tmp_path):
    usual = make_report([1.0, 3.0, math.inf])
    report = EvaluationReport(usual.targets, {"method": "diverse"}, (20,), depth=20, only_at_depth=True)
    report.save(tmp_path)
    for one in (report, EvaluationReport.load(tmp_path)):
        assert one.only_at_depth
        assert set(one.metrics()) >= {"hr@20", "ndcg@20"}
        message = "with 20 groups, so they have metrics at the cut-off 20 only, got a cut-off of {0}. .* with `k={0}`"
        for ks, other in (([10, 20], 10), ([50], 50)):
            with pytest.raises(ValueError, match=message.format(other)):
                one.metrics(ks)
        with pytest.raises(ValueError, match=message.format(2)):
            usual.compare(one)
    assert report.compare(report)["difference"].to_list() == [0.0] * 6
    with pytest.raises(ValueError, match="got a cut-off of 10"):
        EvaluationReport(usual.targets, {}, (10, 20), depth=20, only_at_depth=True)


@pytest.mark.parametrize("only_at_depth", [False, True])
def test_cut_offs_are_needed(only_at_depth):
    report = replace(make_report([1.0, 2.0]), ks=(20,), depth=20, only_at_depth=only_at_depth)
    message = "`ks` must hold at least one cut-off"
    with pytest.raises(ValueError, match=message):
        report.metrics([])
    with pytest.raises(ValueError, match=message):
        report.check_comparable(report.targets, [])
    with pytest.raises(ValueError, match=message):
        replace(report, ks=())
