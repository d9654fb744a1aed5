"""Every baseline is saved and loaded with its catalog, and recommends as before."""

import json
import os
import sys

import pytest
from datasets import Dataset
from hub_server import HubServer
from processes import run_process
from small_baselines import NAMES
from tiers import first_fast
from transformers import AutoModel

from patchrec_hf import Catalog, PatchRecommender
from patchrec_hf.baselines import CoVisitation, Fusion, Popularity, SASRec, Transitions, load_baseline


@pytest.mark.parametrize("name", first_fast(["Popularity", "CoVisitation", "Transitions", *NAMES]))
def test_a_loaded_baseline_recommends_as_before(name, catalog, rows, make_baseline, tmp_path):
    simple = {"Popularity": Popularity, "CoVisitation": CoVisitation, "Transitions": Transitions}
    model = simple[name](catalog).fit(rows) if name in simple else make_baseline(name)
    model.save_pretrained(tmp_path / "model")
    histories = [[10, 13], [20, 11, 17]]
    expected = model.recommend(histories)
    for loaded in (load_baseline(tmp_path / "model"), type(model).from_pretrained(os.fspath(tmp_path / "model"))):
        assert type(loaded) is type(model)
        assert loaded.catalog.titles == catalog.titles
        assert loaded.recommend(histories) == expected


@pytest.mark.slow
def test_ids_that_are_texts(tmp_path):
    """Nobody who recommends by a baseline sees a number that stands for an id."""
    catalog = Catalog.from_titles({"B-1": "Emma", "B-2": "Poems", "007": "Ulysses"})
    rows = Dataset.from_list(
        [{"user_id": "ann", "item_ids": ["B-1", "007", "B-1"], "target_positions": [1, 2]}] * 2
        + [{"user_id": "bob", "item_ids": ["B-2", "007"], "target_positions": [1]}]
    )
    sasrec = SASRec.from_catalog(catalog, hidden_size=4, num_heads=1)
    for model in (Popularity(catalog).fit(rows), CoVisitation(catalog).fit(rows, rows, show_progress=False), sasrec):
        model.save_pretrained(tmp_path / type(model).__name__)
        loaded = load_baseline(tmp_path / type(model).__name__)
        found = loaded.recommend(["B-2"], k=2)
        assert found == model.recommend(["B-2"], k=2)
        assert {item.item_id for item in found} <= {"B-1", "007"}
        assert loaded.recommend(["B-2"], candidates=["007"], k=2)[0].title == "Ulysses"


def test_what_is_no_baseline_is_named(model, processor, catalog, rows, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="holds no saved baseline"):
        load_baseline(tmp_path)
    model.save_pretrained(tmp_path / "llm")

    def load_weights(*args, **kwargs):
        raise AssertionError("The weights of a model that is no baseline are loaded.")

    monkeypatch.setattr(AutoModel, "from_pretrained", load_weights)
    with pytest.raises(TypeError, match=r"'patchrec', which is no baseline.*PatchRecommender\.from_pretrained"):
        load_baseline(tmp_path / "llm")
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows_it"}))
    with pytest.raises(TypeError, match="a model of type 'nobody_knows_it', which is no baseline"):
        load_baseline(tmp_path / "llm")
    parts = {"LLM": PatchRecommender(model, processor), "popular": Popularity(catalog).fit(rows)}
    Fusion(parts).save_pretrained(tmp_path / "fusion")
    with pytest.raises(TypeError, match=r"fusion holds a fusion.*`Fusion\.from_pretrained`"):
        load_baseline(tmp_path / "fusion")


def test_a_mistyped_path_is_named(catalog, rows, tmp_path):
    Popularity(catalog).fit(rows).save_pretrained(tmp_path / "popularity")
    with pytest.raises(FileNotFoundError, match=r"There is no directory .*popularit \(.* holds popularity"):
        load_baseline(tmp_path / "popularit")
    with pytest.raises(NotADirectoryError, match=r"popularity\.parquet is a file"):
        load_baseline(tmp_path / "popularity" / "popularity.parquet")
    with pytest.raises(FileNotFoundError, match=r"holds no saved baseline.* to look at: popularity"):
        load_baseline(tmp_path)
    assert isinstance(load_baseline(tmp_path, subfolder="popularity"), Popularity)


LOAD = """
import sys
from patchrec_hf.baselines import load_baseline

for name in sys.argv[1:]:
    try:
        print(name, type(load_baseline(name)).__name__)
    except OSError as error:
        print(name, type(error).__name__, str(error).replace(chr(10), " "))
"""


@pytest.mark.slow
def test_errors_of_the_hub_are_shown(catalog, rows, make_baseline, tmp_path):
    """A baseline that could not be reached is not reported as one that does not exist."""
    with HubServer() as hub:
        for name, model in (("popularity", Popularity(catalog).fit(rows)), ("sasrec", make_baseline("SASRec"))):
            model.save_pretrained(tmp_path / name)
            files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
            hub.repos[f"user/{name}"] = files
        hub.repos["user/empty"] = {"README.md": b""}
        hub.repos["user/secret"] = files
        hub.private.add("user/secret")

        def load(*names, **changes):
            environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
            environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), **changes}
            done = run_process([sys.executable, "-c", LOAD, *names], env=environment, cwd=tmp_path / "sasrec")
            assert done.returncode == 0, done.stderr[-5000:]
            return dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith("user/"))

        found = load("user/popularity", "user/sasrec", "user/empty", "user/secret")
        # What is in the cache needs no connection.
        offline = load("user/sasrec", "user/other", HF_HUB_OFFLINE="1")
    assert (found["user/popularity"], found["user/sasrec"]) == ("Popularity", "SASRec")
    assert found["user/empty"].startswith("FileNotFoundError user/empty holds no saved baseline")
    assert "holds no saved baseline" not in found["user/secret"]
    assert "token" in found["user/secret"]
    assert offline["user/sasrec"] == "SASRec"
    assert "couldn't connect" in offline["user/other"]
