"""Every baseline is saved and loaded with its catalog, and recommends as before."""

import os

import pytest
from small_baselines import NAMES

from patchrec_hf.baselines import CoVisitation, Popularity, load_baseline


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


def test_what_is_no_baseline_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved baseline"):
        load_baseline(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"PatchRecModel.*no baseline"):
        load_baseline(tmp_path)
