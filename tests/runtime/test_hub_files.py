"""Files of the Hub: which ones are meant, and whether anything can be pushed."""

import os
from pathlib import Path

import pytest
import torch

from patchrec_hf import PatchRecForCausalLM, PatchRecommender, PatchRecProcessor, load_model
from patchrec_hf.baselines import Popularity
from patchrec_hf.runtime import hub_files
from patchrec_hf.runtime.hub_files import (
    check_device_map,
    check_path,
    find_file,
    hub_kwargs,
    push_kwargs,
    require_token,
)
from patchrec_hf.runtime.prompts import BOOK_PROMPT


def test_a_token_of_any_kind_will_do(monkeypatch):
    monkeypatch.setattr("patchrec_hf.runtime.hub_files.get_token", lambda: "kept")
    require_token()
    monkeypatch.setattr("patchrec_hf.runtime.hub_files.get_token", lambda: None)
    require_token("given")
    with pytest.raises(ValueError, match=r"without a token.*hf auth login.*HF_TOKEN"):
        require_token()


def test_a_repository_is_named_after_its_directory(tmp_path):
    kwargs = {"private": True, "commit_message": "First", "max_shard_size": "5GB"}
    assert push_kwargs(tmp_path / "books", kwargs) == {
        "repo_id": "books",
        "private": True,
        "commit_message": "First",
    }
    assert push_kwargs(f"{tmp_path}/books/", {}) == {"repo_id": "books"}
    assert push_kwargs(tmp_path, {"repo_id": "user/name"}) == {"repo_id": "user/name"}


def test_only_arguments_that_choose_files_are_kept():
    kwargs = {"revision": "v1", "subfolder": "model", "dtype": "bfloat16", "token": None}
    assert hub_kwargs(kwargs) == {"revision": "v1", "subfolder": "model", "token": None}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A directory with checkpoints in its sub-directory `items`, and the working directory above it."""
    for step in (5, 10):
        directory = tmp_path / "outputs" / "items" / f"checkpoint-{step}"
        directory.mkdir(parents=True)
        for file in ("config.json", "processor_config.json"):
            (directory / file).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


LOADERS = [
    (PatchRecommender.from_pretrained, ()),
    (PatchRecForCausalLM.from_pretrained, ()),
    (PatchRecForCausalLM.from_backbone, ()),
    (PatchRecProcessor.from_pretrained, ()),
    (PatchRecProcessor.from_backbone, (None, BOOK_PROMPT)),
    (load_model, ()),
    (Popularity.from_pretrained, ()),
]


@pytest.mark.parametrize(("load", "more"), LOADERS)
def test_paths_without_a_checkpoint(outputs, load, more):
    """Without the checks, transformers looks for a repository of that name on the Hub."""
    with pytest.raises(FileNotFoundError, match=r"no directory outputs/itemz .*outputs holds items"):
        load("outputs/itemz", *more)
    with pytest.raises(
        FileNotFoundError, match=r"sub-directories do: checkpoint-5, checkpoint-10\. .*checkpoint-10\."
    ):
        load("outputs/items", *more)


def write_model(directory, time=None):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    if time is not None:
        (directory / "processor_config.json").write_text("{}")
        os.utime(directory / "processor_config.json", (time, time))


def test_only_checkpoints_of_this_library_are_named(tmp_path):
    """A study holds an untrained backbone beside its methods, whose checkpoints lie deeper."""
    write_model(tmp_path / "backbone")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of this library.*models of transformers: backbone\."):
        check_path(tmp_path, {})
    write_model(tmp_path / "methods" / "PatchRec-I" / "finetune" / "final", time=200)
    write_model(tmp_path / "methods" / "Vanilla" / "finetune" / "final", time=100)
    write_model(tmp_path / "methods" / "Vanilla" / "finetune" / "final" / "checkpoint-1", time=300)  # lies in another
    write_model(tmp_path / ".hidden" / "final", time=300)
    write_model(tmp_path / "a" / "b" / "c" / "d" / "e" / "f", time=300)  # too deep
    with pytest.raises(FileNotFoundError) as caught:
        check_path(tmp_path, {})
    message = str(caught.value)
    assert "do: methods/Vanilla/finetune/final, methods/PatchRec-I/finetune/final. Load one" in message
    assert message.endswith(f"such as {tmp_path / 'methods' / 'PatchRec-I' / 'finetune' / 'final'}.")


def test_the_newest_of_many_checkpoints_are_named(tmp_path):
    for number in range(1, 13):
        write_model(tmp_path / f"checkpoint-{number}", time=number)
    with pytest.raises(FileNotFoundError, match=r"checkpoint-10, checkpoint-11, checkpoint-12 \(12 do; these are the"):
        check_path(tmp_path, {})


@pytest.mark.parametrize(("load", "more"), LOADERS)
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("outputz", "outputs"),
        ("outputz/items", "outputs/items"),
        ("outputz/nothing", "outputs"),
    ],
)
def test_mistyped_paths_that_could_be_repositories(outputs, load, more, name, nearest):
    """The Hub's own error says only that there is no connection, or no such repository."""
    with pytest.raises(FileNotFoundError) as caught:
        load(name, *more)
    message = str(caught.value)
    assert f"There is no directory {name} (here, in {Path.cwd()}; nearest: {nearest})" in message
    assert f"no repository {name} could be loaded: " in message
    assert isinstance(caught.value.__cause__, OSError)


def test_names_that_resemble_no_directory(outputs):
    with pytest.raises(FileNotFoundError, match=r"no directory user/repository \(here, in [^;]*\), and no repo"):
        load_model("user/repository")


def test_a_home_directory_is_not_expanded(outputs):
    with pytest.raises(FileNotFoundError, match=r"Python does not expand `~`.*`os\.path\.expanduser\('~/model'\)`"):
        load_model("~/model")


def test_files_that_a_directory_lacks(outputs):
    """transformers would point at a page of the Hub that is not there."""
    (outputs / "items" / "checkpoint-5" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(
        OSError, match=r"not appear to have a file named catalog.parquet; it holds .*tokenizer"
    ) as caught:
        find_file("outputs/items/checkpoint-5", "catalog.parquet", {})
    assert "https://" not in str(caught.value)
    assert not isinstance(caught.value, FileNotFoundError)


def test_which_names_are_paths(outputs):
    check_path("user/repository", {})
    check_path("repository", {})
    check_path("outputs/items/checkpoint-5", {})
    check_path("outputs/items", {"subfolder": "checkpoint-5"})
    for name in ("./repository", "a/b/c", str(outputs / "nothing"), Path("user/repository"), "~/model"):
        with pytest.raises(FileNotFoundError, match="There is no directory"):
            check_path(name, {})
    with pytest.raises(NotADirectoryError, match=r"is a file.*such as outputs/items/checkpoint-5\."):
        check_path("outputs/items/checkpoint-5/config.json", {})
    (outputs / "items" / "tokenizer_config.json").write_text("{}")
    check_path("outputs/items", {})


def test_device_maps_that_cannot_be_followed(monkeypatch):
    check_device_map({})
    check_device_map({"device_map": "auto"})
    check_device_map({"device_map": {"": "cpu"}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device_map in ("cuda", "cuda:1", {"model": 0}):
        with pytest.raises(ValueError, match="names a GPU, but PyTorch sees none"):
            check_device_map({"device_map": device_map})
    monkeypatch.setattr(hub_files, "is_accelerate_available", lambda: False)
    with pytest.raises(ImportError, match="pip install accelerate"):
        load_model("user/repository", device_map="auto")  # before anything is looked for
