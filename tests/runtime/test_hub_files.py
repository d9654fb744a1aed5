"""Files of the Hub: which ones are meant, and whether anything can be pushed."""

import pytest

from patchrec_hf.runtime.hub_files import hub_kwargs, push_kwargs, require_token


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
