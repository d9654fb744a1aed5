"""Reports of `patchrec evaluate`: the files that they become, and the tables that are printed."""

import json
from dataclasses import replace

import pytest

from patchrec_hf import EvaluationReport, evaluate_scorer, load_recommendation_data
from patchrec_hf.baselines import CoVisitation, Popularity
from patchrec_hf.commands.evaluate_arguments import EvaluateArguments
from patchrec_hf.commands.evaluate_reports import show_report, write_reports


@pytest.fixture(scope="module")
def reports():
    splits, catalog = load_recommendation_data("sample", max_history=10)
    return {
        baseline.__name__: evaluate_scorer(
            baseline(catalog).fit(splits["train"]), catalog, splits["test"], max_rows=12, train_dataset=splits["train"]
        )
        for baseline in (Popularity, CoVisitation)
    }


@pytest.mark.slow
def test_the_last_report_is_the_run(reports, tmp_path, capsys):
    """The others stand in a table beside it."""
    args = EvaluateArguments(str(tmp_path), baseline="popularity")
    (tmp_path / "parts").mkdir()
    write_reports(args, reports, None)
    printed = capsys.readouterr().out
    last = reports["CoVisitation"]
    assert EvaluationReport.load(tmp_path).metrics() == last.metrics()
    assert json.loads((tmp_path / "results.json").read_text()) == {**last.metrics(), **last.beyond_accuracy()}
    table = (tmp_path / "effects.md").read_text()
    assert table in printed
    for name, report in reports.items():
        (row,) = (line.split("|") for line in table.splitlines() if line.startswith(f"| {name} "))
        assert float(row[2]) == pytest.approx(report.metrics()["hr@20"], abs=5e-5)
    assert not (tmp_path / "parts").exists()


def test_reports_of_one_depth_each_stand_in_folders(reports, tmp_path, capsys):
    """As by the release's protocol, where each cut-off is decoded anew."""
    ten, twenty = (replace(reports["Popularity"], ks=(k,), depth=k, only_at_depth=True) for k in (10, 20))
    write_reports(EvaluateArguments(str(tmp_path), model="a", protocol="release"), {"10": ten, "20": twenty}, None)
    assert EvaluationReport.load(tmp_path / "at_10").ks == (10,)
    assert EvaluationReport.load(tmp_path).ks == (20,)
    metrics = json.loads((tmp_path / "results.json").read_text())
    assert (metrics["hr@10"], metrics["hr@20"]) == (ten.metrics()["hr@10"], twenty.metrics()["hr@20"])
    assert (tmp_path / "release.md").read_text() in capsys.readouterr().out


@pytest.mark.slow
def test_a_comparison_and_a_plot(reports, tmp_path, capsys):
    args = EvaluateArguments(str(tmp_path), baseline="popularity", compare="other", plot=str(tmp_path / "plot.png"))
    show_report(args, reports["CoVisitation"], reports["Popularity"])
    printed = capsys.readouterr().out
    assert (tmp_path / "comparison.md").read_text() in printed
    assert f"Drawn in {tmp_path / 'plot.png'}" in printed
    assert (tmp_path / "plot.png").stat().st_size > 1000
