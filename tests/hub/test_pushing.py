"""Pushes to the Hub and loads from it. A local server stands for the Hub's HTTP interface."""

import json
import os
import sys
from concurrent.futures import Future
from pathlib import Path

import interrupted_run
import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from processes import run_process

from patchrec_hf import PatchFinetuneConfig, export_to_hub
from patchrec_hf.training.checkpoint_callback import _report_failure
from patchrec_hf.training.checkpoints import RUN_NAME


WEIGHTS_AND_PROCESSOR = {
    "README.md",
    "catalog.parquet",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def hub():
    with HubServer(slow_commits=b"Training in progress, step 1") as server:
        yield server


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """Runs a function of `push_and_load.py` in a process of its own, which knows this Hub only."""
    directory, tests = tmp_path_factory.mktemp("hub"), Path(__file__).parents[1]

    def run(*arguments):
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(directory / "cache"),
        }
        environment |= {"HF_TOKEN": hub.token, "PYTHONPATH": str(tests)}
        command = [sys.executable, tests / "push_and_load.py", *arguments]
        done = run_process(command, env=environment, cwd=directory)
        assert done.returncode == 0, done.stderr[-5000:]
        assert "[y/N]" not in done.stdout
        return dict(line.split(": ") for line in done.stdout.splitlines() if line.startswith(("trained:", "adapted:")))

    return run


@pytest.fixture(scope="module")
def pushed(run):
    return run("push")


@pytest.mark.slow
def test_every_push_is_a_whole_checkpoint(hub, pushed):
    assert hub.repos["user/trained"].keys() == WEIGHTS_AND_PROCESSOR | {
        f"last-checkpoint/{name}"
        for name in [
            *WEIGHTS_AND_PROCESSOR, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", RUN_NAME,
        ]
    }  # fmt: skip
    code = {name for name in hub.repos["user/exported"] if name.endswith(".py")}
    assert hub.repos["user/exported"].keys() == WEIGHTS_AND_PROCESSOR | code
    assert {"modeling.py", "processing.py", "recommender.py"} < code
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    weights = {"generation_config.json", "model.safetensors"}
    assert hub.repos["user/adapted"].keys() == (WEIGHTS_AND_PROCESSOR - weights) | adapter
    assert hub.private == {"user/exported"}


@pytest.mark.slow
def test_pushes_arrive_in_order(hub, pushed):
    """Commits arrive in order even if the Hub takes long for the uploads of the first step."""
    messages = [commit.message for commit in hub.commits if commit.repo_id == "user/trained"]
    expected = ["Training in progress, step 1"] * 2 + ["Training in progress, step 2"] * 2 + ["End of training"]
    assert [message for message in messages if message in expected] == expected
    state = json.loads(hub.repos["user/trained"]["last-checkpoint/trainer_state.json"])
    assert state["global_step"] == 2


def test_a_failed_push_is_reported(caplog):
    done, failed, cancelled = Future(), Future(), Future()
    done.set_result("a commit")
    failed.set_exception(OSError("no space left"))
    cancelled.cancel()
    for upload in (done, failed, cancelled):
        _report_failure(upload)
    assert [record.message for record in caplog.records] == [
        "A checkpoint was not pushed to the Hub. Training continues. The error was: no space left"
    ]


@pytest.mark.slow
def test_saving_pushes_the_catalog_too(hub, run, pushed):
    weights = {"generation_config.json", "model.safetensors", "config.json"}
    assert hub.repos["user/processor"].keys() >= WEIGHTS_AND_PROCESSOR - weights
    for name in ("user/sasrec", "user/sasrec-again"):
        assert hub.repos[name].keys() >= {"catalog.parquet", "config.json", "model.safetensors"}
    assert hub.repos["user/counts"].keys() >= {"catalog.parquet", "co_visitation.safetensors"}
    assert [commit.message for commit in hub.commits if commit.repo_id == "user/counts"] == ["Counts"]
    run("load_baseline")


@pytest.mark.slow
def test_nothing_pushed_is_pickled_but_the_optimizers_state(hub, pushed):
    for repo_id, files in hub.repos.items():
        for name, content in files.items():
            if not name.startswith("last-checkpoint/"):
                assert Path(name).suffix in (".md", ".json", ".jinja", ".parquet", ".safetensors", ".py", ""), name
                assert not content.startswith((b"PK", b"\x80")), (repo_id, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trained", "adapted"])
def test_a_pushed_checkpoint_recommends_by_its_name(run, pushed, name):
    assert run("load", name)[name] == pushed[name]


@pytest.mark.slow
def test_a_checkpoint_with_its_code_recommends_without_the_library(run, pushed):
    assert run("load_without_plugin", "exported")["trained"] == pushed["trained"]


@pytest.mark.slow
def test_cards(hub, pushed):
    card = ModelCard(hub.repos["user/exported"]["README.md"].decode())
    assert card.data.library_name == "patchrec-hf"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["hr@10"].dataset_name == "Twelve Books"
    assert f"| hr@10 | {results['hr@10'].metric_value:.4f} (" in card.text  # with its interval
    ratio = results["compression_ratio_prompt"].metric_value
    assert ratio > 1
    assert f"| compression_ratio_prompt | {ratio:.4f} |" in card.text
    assert "ItemPatchLayout(num_text_items=2)" in card.text
    assert "A user has read" in card.text
    assert "| items that share their title | 2 |" in card.text
    assert 'get_class_from_dynamic_module("recommender.PatchRecommender", "user/exported"' in card.text
    assert "@inproceedings" in card.text

    card = ModelCard(hub.repos["user/trained"]["README.md"].decode())
    assert {"patchrec", "trl", "test"} <= set(card.data.tags)
    assert "| optimizer steps | 2 of 2 |" in card.text
    assert "| training rows | 14 from 14 users |" in card.text
    assert {"hr@5", "loss"} <= {result.metric_type for result in card.data.eval_results}
    assert 'PatchRecommender.from_pretrained("user/trained")' in card.text
    adapted = ModelCard(hub.repos["user/adapted"]["README.md"].decode())
    assert "| what was trained | an adapter |" in adapted.text
    for part in (card, adapted):
        assert "\n\n\n" not in part.text


def test_pushing_without_a_token(model, processor, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"without a token.*hf auth login.*HF_TOKEN"):
        export_to_hub(model, processor, "user/name")
    with pytest.raises(ValueError, match="without a token"):
        PatchFinetuneConfig(str(tmp_path), use_cpu=True, push_to_hub=True)
    with pytest.raises(ValueError, match="without a token"):
        interrupted_run.make_trainer(tmp_path).push_to_hub()


def test_adapters_are_merged_before_they_are_exported(model, processor):
    with pytest.raises(TypeError, match="merge_and_unload"):
        export_to_hub(get_peft_model(model, LoraConfig(target_modules=["q_proj"])), processor, "user/name", token="t")


@pytest.mark.slow
def test_a_data_set_of_ones_own(hub, run):
    run("push_data")
    assert set(hub.repos["datasets/user/books"]) == {
        "README.md",
        "interactions.parquet",
        "items.parquet",
        "preparation.json",
        "users.parquet",
    }
    assert "datasets/user/books" in hub.private
    card = hub.repos["datasets/user/books"]["README.md"].decode()
    assert "| train | 108 |" in card
    assert 'load_recommendation_data("user/books")' in card
    run("load_data")
