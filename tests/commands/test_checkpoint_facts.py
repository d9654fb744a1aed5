"""Checkpoint facts: compared with the objects that wrote the files, and counted by hand."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from patchrec_hf import BudgetLayout, PatchRecommender
from patchrec_hf.commands.checkpoint_facts import read_checkpoint
from patchrec_hf.hub.model_card import make_model_card
from patchrec_hf.runtime.fusion import Fusion, FusionFit
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, SeenPart


OLD = Path(__file__).parents[1] / "written_by_0_1"
PRIOR = Path(__file__).parents[1] / "written_with_prior" / "model"


@pytest.fixture
def saved(model, processor, tmp_path):
    """A checkpoint with an item head, a fusion and a card."""
    model.add_item_head(processor.catalog, residual_size=0)
    model.config.objective = "both"
    model.config.trained_until = 86_400
    parts = {"item": ItemHeadPart(), "seen": SeenPart()}
    fit = FusionFit(40, -1.5, {"item": -2.0, "seen": -3.0})
    processor = processor.with_layout(BudgetLayout(max_tokens=40, min_tokens=10)).with_fusion(
        Fusion(parts, {"item": 0.75, "seen": -0.5}, fit)
    )
    directory = tmp_path / "checkpoint"
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    make_model_card(processor, "checkpoint", {"hr@10": 0.25, "ndcg@10": 0.125}, "Books").save(directory / "README.md")
    return directory


def test_a_checkpoint_tells_what_its_objects_are(saved, model, processor):
    facts = read_checkpoint(str(saved))
    recommender = PatchRecommender.from_pretrained(saved)
    backbone = facts["backbone"]
    assert (facts["kind"], facts["format_version"], facts["adapter"]) == ("model", 2, None)
    assert (backbone["family"], backbone["layers"], backbone["hidden_size"]) == ("llama", 2, 32)
    assert backbone["parameters"] == sum(one.numel() for one in model.model.language_model.parameters())
    assert backbone["parameters_of_other_parts"] == sum(one.numel() for one in model.item_head.parameters())
    assert backbone["dtypes"] == ["F32"]
    assert backbone["vocabulary"] == model.get_input_embeddings().weight.shape[0]
    assert (facts["items"], facts["item_ids"], facts["max_history"]) == (12, "whole numbers", 8)
    assert facts["layout"]["name"] == recommender.processor.layout.name == "budget"
    assert facts["layout"]["max_tokens"] == 40
    assert facts["prompt"].count("<|start_seq_id|>…<|end_seq_id|>") == 1
    assert "You are a helpful assistant in book recommendations." in facts["prompt"]
    assert (facts["objective"], facts["trained_until"]) == ("both", 86_400)
    assert facts["item_head"] == recommender.model.config.item_head
    assert (facts["patcher"], facts["title_normalizer"]) == ("mean", "vocabulary")
    assert facts["fusion"] == {"weights": {"item": 0.75, "seen": -0.5}, "log_likelihood": -1.5, "num_targets": 40}
    assert facts["methods"] == ["fusion", "item", "exact", "beam", "all", "diverse"]
    assert facts["metrics"] == {"Books": {"hr@10": 0.25, "ndcg@10": 0.125}}
    json.dumps(facts, allow_nan=False)


def test_weights_in_several_files(saved):
    before = read_checkpoint(str(saved))["backbone"]
    weights = load_file(saved / "model.safetensors")
    names = sorted(weights)
    files = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, saved / file)
    (saved / "model.safetensors").unlink()
    weight_map = {name: file for file, part in files.items() for name in part}
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_checkpoint(str(saved))["backbone"] == before
    (saved / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights: it lacks model-2\.safetensors"):
        read_checkpoint(str(saved))


def test_a_checkpoint_of_version_0():
    facts = read_checkpoint(str(OLD / "model"))
    assert (facts["format_version"], facts["kind"], facts["default_method"]) == (0, "model", "exact")
    # 330 embeddings of 16, tied; two layers with 4 · 16 · 16 of attention, 3 · 16 · 48 and two norms; one norm.
    assert facts["backbone"]["parameters"] == 330 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 48 + 2 * 16) + 16
    assert facts["backbone"]["parameters_of_other_parts"] == 0
    assert (facts["objective"], facts["item_head"], facts["fusion"], facts["metrics"]) == (None, None, None, None)


def test_the_prior_of_an_earlier_version_is_a_fusion():
    facts = read_checkpoint(str(PRIOR))
    expected = PatchRecommender.from_pretrained(PRIOR).processor.fusion.weights
    assert facts["fusion"]["weights"] == dict(expected)
    assert facts["default_method"] == "fusion"


def test_an_adapter(monkeypatch):
    facts = read_checkpoint(str(OLD / "adapter"))
    # Three tokens of 16; two layers with two targets of rank 2.
    parameters = 3 * 16 + 2 * 2 * (2 * 16 + 16 * 2)
    assert facts["kind"] == "adapter"
    assert facts["adapter"] == {"type": "LORA", "rank": 2, "base_model": "model", "parameters": parameters}
    assert (facts["backbone"]["family"], facts["backbone"]["parameters"]) == ("llama", None)
    monkeypatch.chdir(OLD)  # where the model stands that the adapter names
    assert read_checkpoint("adapter")["backbone"]["parameters"] == read_checkpoint("model")["backbone"]["parameters"]


def test_an_adapter_that_no_trainer_saved(tmp_path):
    shutil.copytree(OLD / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").unlink()
    facts = read_checkpoint(str(tmp_path / "adapter"))
    assert (facts["backbone"]["family"], facts["objective"], facts["items"]) == (None, None, 12)


def test_what_the_files_do_not_tell(saved):
    (saved / "tokenizer.json").unlink()
    (saved / "README.md").write_text("# A card without metadata\n")
    facts = read_checkpoint(str(saved))
    assert (facts["prompt"], facts["metrics"]) == (None, None)


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        (
            "processor_config.json",
            None,
            FileNotFoundError,
            "is no checkpoint of this library: it has no processor_con",
        ),
        ("processor_config.json", "{", ValueError, r"processor_config\.json is no JSON"),
        ("processor_config.json", "[]", ValueError, r"processor_config\.json must hold a mapping, got \[\]"),
        ("processor_config.json", '{"processor_class": "X"}', ValueError, "belongs to a X"),
        (
            "processor_config.json",
            '{"processor_class": "PatchRecProcessor", "format_version": 99}',
            ValueError,
            "has format version 99",
        ),
        ("config.json", '{"model_type": "llama"}', ValueError, "holds a model of type 'llama'. Expected"),
        ("config.json", "{}", ValueError, "holds no model"),
        ("catalog.parquet", None, OSError, r"does not appear to have a file named catalog\.parquet"),
        ("model.safetensors", None, FileNotFoundError, "has no weights: it lacks model.safetensors or adapter_model"),
    ],
)
def test_damaged_checkpoints(saved, file, text, error, message):
    (saved / file).unlink() if text is None else (saved / file).write_text(text)
    with pytest.raises(error, match=message):
        read_checkpoint(str(saved))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sasrec", "holds a model of the type 'patchrec_sasrec', a backbone or a baseline"),
        ("report", "and holds examples.parquet, report.json, report.md. Give the directory"),
        ("run", "holds no checkpoint itself, but its sub-directories do: checkpoint-2"),
        ("mdoel", r"There is no directory .*mdoel.*model"),
        ("expected.json", "is a file. Pass the directory of the checkpoint"),
    ],
)
def test_what_is_no_checkpoint(name, message):
    with pytest.raises(OSError, match=message):
        read_checkpoint(str(OLD / name))
