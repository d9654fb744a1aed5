"""Every baseline is saved and loaded with its catalog, and recommends as before."""

import os

import pytest
from datasets import Dataset
from small_baselines import NAMES

from patchrec_hf import Catalog
from patchrec_hf.baselines import CoVisitation, Popularity, SASRec, load_baseline


@pytest.mark.parametrize("name", ["Popularity", "CoVisitation", *NAMES])
def test_a_loaded_baseline_recommends_as_before(name, catalog, rows, make_baseline, tmp_path):
    simple = {"Popularity": Popularity, "CoVisitation": CoVisitation}
    model = simple[name](catalog).fit(rows) if name in simple else make_baseline(name)
    model.save_pretrained(tmp_path / "model")
    histories = [[10, 13], [20, 11, 17]]
    expected = model.recommend(histories)
    for loaded in (load_baseline(tmp_path / "model"), type(model).from_pretrained(os.fspath(tmp_path / "model"))):
        assert type(loaded) is type(model)
        assert loaded.catalog.titles == catalog.titles
        assert loaded.recommend(histories) == expected


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


def test_what_is_no_baseline_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved baseline"):
        load_baseline(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"PatchRecModel.*no baseline"):
        load_baseline(tmp_path)
