"""The picture of a training run's log."""

import pytest

from patchrec_hf.training import curves
from patchrec_hf.training.curves import plot_curves


LOG = [
    {"loss": 3.0, "learning_rate": 0.1, "step": 1, "epoch": 0.5},
    {"loss": 2.0, "learning_rate": 0.1, "step": 2, "epoch": 1.0},
    {
        "eval_loss": 2.5,
        "eval_hr@20": 0.25,
        "eval_mrr@20": 0.1,
        "eval_title_hr@20": 0.3,
        "eval_exact_share": 1.0,
        "step": 2,
        "epoch": 1.0,
    },
    {"train_loss": 2.5, "train_runtime": 1.0, "step": 2},
]


def lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


@pytest.fixture
def figures(monkeypatch):
    from matplotlib.figure import Figure

    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: saved.append(figure))
    return saved


@pytest.mark.slow
def test_losses_and_metrics(figures, tmp_path):
    assert plot_curves(LOG, tmp_path / "curves.png") == tmp_path / "curves.png"
    loss, metrics = figures[0].axes
    assert lines(loss) == {"training": ([1, 2], [3.0, 2.0]), "evaluation": ([2], [2.5])}
    assert lines(metrics) == {"hr@20": ([2], [0.25])}


def test_several_evaluation_sets(figures, tmp_path):
    plot_curves(
        [*LOG[:1], {"eval_new_loss": 1.0, "eval_new_hr@20": 0.5, "eval_new_title_hr@20": 1, "step": 3}],
        tmp_path / "curves.png",
    )
    loss, metrics = figures[0].axes
    assert lines(loss).keys() == {"training", "evaluation new"}
    assert lines(metrics).keys() == {"new_hr@20"}


def test_a_run_without_evaluations_has_one_panel(figures, tmp_path):
    plot_curves(LOG[:2], tmp_path / "curves.png", "a run")
    assert len(figures[0].axes) == 1


@pytest.mark.slow
def test_writes_an_image_into_a_new_directory(tmp_path):
    path = plot_curves(LOG, tmp_path / "new" / "curves.png")
    assert path.stat().st_size > 1000


def test_nothing_is_drawn_without_a_loss_or_without_matplotlib(tmp_path, monkeypatch):
    assert plot_curves(LOG[3:], tmp_path / "curves.png") is None
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    assert plot_curves(LOG, tmp_path / "curves.png") is None
    assert list(tmp_path.iterdir()) == []
