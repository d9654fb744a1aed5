"""`patchrec info`: the facts as lines and as JSON."""

import json
import shutil
from pathlib import Path

import pytest

from patchrec_hf.commands.checkpoint_facts import read_checkpoint
from patchrec_hf.commands.info import describe, main


OLD = Path(__file__).parents[1] / "written_by_0_1"
PRIOR = Path(__file__).parents[1] / "written_with_prior" / "model"


def test_json_is_what_was_read(capsys):
    main([str(PRIOR), "--json"])
    assert json.loads(capsys.readouterr().out) == read_checkpoint(str(PRIOR))


def test_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    main([str(PRIOR)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(line.startswith("trained ") for line in lines)  # the rows had no times
    assert "catalog     12 items, ids are whole numbers" in lines
    assert "fusion      item 0.700, co_visits 1.300, similar_titles 0.400, seen -2.000" in lines
    assert "ranks by    fusion (default), item, exact, beam, all, diverse" in lines


def test_an_adapter_names_its_model():
    lines = dict(describe(read_checkpoint(str(OLD / "adapter"))))
    assert lines["adapter"] == "LORA of rank 2, 304 weights, for the model model"
    assert lines["backbone"] == "llama, 2 layers, hidden size 16, vocabulary 330"


def test_all_that_a_checkpoint_can_have():
    facts = {
        **read_checkpoint(str(PRIOR)),
        "objective": "item",
        "trained_until": 1_767_225_600,
        "patcher": "contextual",
        "patcher_layers": 2,
        "time_gaps": 24,
        "title_normalizer": "catalog",
        "title_temperature": 2.0,
        "fusion": {"weights": {"item": 1.0}, "log_likelihood": -2.5, "num_targets": 1200},
        "metrics": {"Books": {"hr@10": 0.25}, "unnamed": {"mrr@10": 0.5}},
        "prompt": None,
    }
    facts["backbone"] = {**facts["backbone"], "parameters": 1_235_814_400, "parameters_of_other_parts": 1_500_000}
    lines = list(describe(facts))
    texts = dict(lines)
    assert texts["backbone"].startswith("llama, 1.24 billion weights in F32, 2 layers")
    assert texts["backbone"].endswith("and 1.5 million weights of item head, residuals, time gaps or patcher")
    assert texts["patches"] == (
        "patcher contextual of 2 layers, without separators, residuals of 12 items, 24 buckets of time gaps"
    )
    assert texts["trained"] == "by interactions until 2026-01-01 00:00:00 UTC"
    assert texts["titles"] == "scored over the catalog, temperature 2, but not trained"
    assert texts["fusion"] == "item 1.000; log-probability of a target -2.500 (1,200 targets)"
    assert texts["prompt"] == "unknown, there is no tokenizer.json"
    assert [text for name, text in lines if name == "metrics"] == ["hr@10 0.2500 (Books)", "mrr@10 0.5000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(OLD)], r"^FileNotFoundError: .* holds no checkpoint itself, but its sub-directories do"),
        ([str(OLD / "report")], r"^FileNotFoundError: .*report is no checkpoint of this library"),
        ([], "^ValueError: the following arguments are required: CHECKPOINT"),
    ],
)
def test_errors_end_in_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)


def test_a_saved_index(tmp_path):
    facts = read_checkpoint(str(PRIOR))
    assert facts["index"] is None
    assert dict(describe(facts))["index"] == "none"
    checkpoint = Path(shutil.copytree(PRIOR, tmp_path / "model"))
    settings = {"kind": "hnsw", "m": 32, "ef_construction": 80, "ef_search": 128}
    values = {"format_version": 2, "user_scale": 1.0, "longest": 1.0, "fingerprint": "", "digest": ""}
    text = json.dumps({**values, "settings": settings, "num_items": 12})
    (checkpoint / "item_index.json").write_text(text)
    facts = read_checkpoint(str(checkpoint))
    assert facts["index"] == {**settings, "num_items": 12}
    assert dict(describe(facts))["index"] == "hnsw (m=32, ef_construction=80, ef_search=128) of 12 items"
    (checkpoint / "item_index.json").write_text(text.replace("12}", "11}"))
    assert dict(describe(read_checkpoint(str(checkpoint))))["index"].endswith("11 items, built for another catalog")
