"""`patchrec evaluate`: its arguments, a baseline on the sample, and a saved one."""

import json

import pytest

from patchrec_hf import EvaluationReport, load_recommendation_data
from patchrec_hf.baselines import Popularity
from patchrec_hf.commands import evaluate as command
from patchrec_hf.commands.evaluate_arguments import EvaluateArguments


def test_the_checkpoint_may_come_first():
    args, data = command.parse(["outputs/final", "--output_dir", "report", "--max_rows", "5"])
    assert (args.model, args.output_dir, args.max_rows, data.data) == ("outputs/final", "report", 5, "sample")
    args, _ = command.parse(["--baseline", "popularity", "--output_dir", "report"])
    assert (args.model, args.baseline) == (None, "popularity")
    with pytest.raises(ValueError, match="Give the checkpoint once, as outputs/final or as --model"):
        command.parse(["outputs/final", "--model=other", "--output_dir", "report"])


def test_each_protocol_has_its_evaluations():
    def names(**settings):
        return command.evaluations_of(EvaluateArguments("out", model="a", ks=[20, 5], **settings))

    assert names() == {"strict": ("strict", 20)}
    assert names(method="all") == {"strict": ("strict", None)}
    assert names(protocol="release") == {"release, 5 groups": ("release", 5), "release, 20 groups": ("release", 20)}
    assert list(names(protocol="effects")) == list(command.EFFECTS)
    assert {k for _, k in names(protocol="effects").values()} == {20}


@pytest.mark.slow
def test_a_baseline_on_the_sample(tmp_path, capsys):
    arguments = ["--baseline", "popularity", "--max_rows", "12", "--max_history", "10", "--output_dir"]
    command.main([*arguments, str(tmp_path / "report")])
    assert "| ranker | Popularity |" in capsys.readouterr().out
    report = EvaluationReport.load(tmp_path / "report")
    assert len(report.targets) == 12
    assert json.loads((tmp_path / "report" / "results.json").read_text())["hr@20"] == report.metrics()["hr@20"]
    with pytest.raises(SystemExit, match="holds a finished run"):
        command.main([*arguments, str(tmp_path / "report")])
    command.main([*arguments, str(tmp_path / "report"), "--compare", str(tmp_path / "report")])
    assert "is compared as it is" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^ValueError: Only runs on the same targets can be compared, got 5 and 12"):
        command.main([*arguments[:2], "--max_rows", "5", "--output_dir", str(tmp_path / "other"), "--compare",
                      str(tmp_path / "report")])  # fmt: skip
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_saved_baselines(tmp_path):
    splits, catalog = load_recommendation_data("sample")
    Popularity(catalog).fit(splits["train"]).save_pretrained(tmp_path / "popularity")
    assert isinstance(command.load_saved(str(tmp_path / "popularity")), Popularity)
    with pytest.raises(SystemExit, match="transitions or a saved baseline, got popularitz"):
        command.load_saved("popularitz")


def test_a_checkpoint_is_no_baseline(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match=r"is no baseline.* Pass it as --model"):
        command.load_saved(str(tmp_path))
