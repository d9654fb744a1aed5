"""Pictures of reports."""

import math
from dataclasses import replace

import polars as pl
import pytest
from test_report import make_report

from patchrec_hf.evaluation import plots
from patchrec_hf.evaluation.plots import plot_calibration, plot_reports


def test_draws_several_reports(tmp_path, monkeypatch):
    """The lines hold HR@k at each k, and slices that only one report has are drawn too."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    one = make_report([1.0, 2.0, math.inf], ks=(2, 3), is_cold=[True, False, None])
    two = make_report([3.0, 2.0, 1.0], ks=(1,), history_length=[5, 30, 30])
    plot_reports({"one": one, "two": two}, tmp_path / "report.png")
    left, right = figures[0].axes
    assert [line.get_ydata() for line in left.get_lines()] == [
        pytest.approx([1 / 3, 2 / 3, 2 / 3]),
        pytest.approx([1 / 3, 2 / 3, 1]),
    ]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["one", "two"]
    assert right.get_ylabel().startswith("HR@3")
    assert [label.get_text() for label in right.get_xticklabels()] == [
        "all", "warm", "cold", "history 0–9", "history 20–49"
    ]  # fmt: skip


def test_writes_an_image_into_a_new_directory(tmp_path):
    plot_reports({"one": make_report([1.0, 2.0])}, tmp_path / "new" / "report.svg")
    assert "<svg" in (tmp_path / "new" / "report.svg").read_text(encoding="utf-8")


def test_a_report_of_one_cut_off_is_a_point(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    whole = make_report([1.0, 2.0, math.inf], ks=(2, 3))
    decoded = type(whole)(whole.targets, {}, (3,), depth=3, only_at_depth=True)
    plot_reports({"searched": whole, "decoded": decoded}, tmp_path / "report.png")
    lines = figures[0].axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3], [3]]
    assert [line.get_marker() for line in lines] == ["None", "o"]


def test_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`reports` is empty"):
        plot_reports({}, tmp_path / "report.png")
    for plot in (plot_reports, plots.plot_calibration):
        with pytest.raises(TypeError, match=r"mapping from names to reports, such as {'my model': report}, got `Eval"):
            plot(make_report([1.0]), tmp_path / "report.png")
    shallow = make_report([1.0], ks=(2,))
    shallow = type(shallow)(shallow.targets, shallow.settings, (2,), depth=2)
    with pytest.raises(ValueError, match="too few for a cut-off of 3"):
        plot_reports({"deep": make_report([1.0]), "shallow": shallow}, tmp_path / "report.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install"):
        plots.plot_reports({"one": make_report([1.0])}, tmp_path / "report.png")


def test_draws_calibration(tmp_path, monkeypatch):
    """A bin without a hit has no place on a logarithmic axis."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    report = make_report([1.0, 2.0])
    columns = {
        "top_ids": pl.Series([[100, 1], [2, 101]]),
        "top_place": pl.Series([1, 2]),
        "top_log_probs": pl.Series([[math.log(0.5), math.log(0.02)], [math.log(0.7), math.log(0.2)]]),
        "log_prob": pl.Series([math.log(0.5), math.log(0.2)]),
    }
    report = replace(report, targets=report.targets.with_columns(**columns), settings={"num_items": 9})
    plot_calibration({"one": report}, tmp_path / "new" / "calibration.png")
    points = figures[0].axes[0].collections[0].get_offsets().tolist()
    assert points == [pytest.approx([0.2, 1]), pytest.approx([0.6, 0.5])]
    assert (tmp_path / "new").is_dir()
    with pytest.raises(ValueError, match="`reports` is empty"):
        plot_calibration({}, tmp_path / "calibration.png")
    with pytest.raises(ValueError, match="The report of Popularity holds no log-probabilities"):
        plot_calibration({"one": make_report([1.0])}, tmp_path / "calibration.png")
