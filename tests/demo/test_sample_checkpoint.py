import pytest

from patchrec_hf import PatchRecommender
from patchrec_hf.demo.methods import MethodComparison
from patchrec_hf.demo.sample_checkpoint import sample_checkpoint


@pytest.mark.slow
def test_the_sample_is_trained_once_and_has_all_methods(tmp_path, capsys):
    first = sample_checkpoint(tmp_path, max_steps=2)
    printed = capsys.readouterr().out
    assert "Training a tiny model on the embedded sample, once" in printed
    assert str(first) in printed
    assert sorted(path.name for path in tmp_path.glob("demo_sample*")) == [first.name, f"{first.name}.lock"]

    assert sample_checkpoint(tmp_path, max_steps=2) == first
    assert "Training" not in capsys.readouterr().out

    comparison = MethodComparison(PatchRecommender.from_pretrained(first))
    assert [method.absence for method in comparison.methods] == [None] * 4
    assert (comparison.budget.least, comparison.budget.most) == (6, 64)


def test_an_interrupted_training_leaves_no_checkpoint(tmp_path, monkeypatch):
    def interrupt(directory, training, cache):
        (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("patchrec_hf.demo.sample_checkpoint._train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sample_checkpoint(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
