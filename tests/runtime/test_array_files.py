"""Arrays and texts in one file."""

import numpy as np
import pytest

import patchrec_hf.runtime.array_files as array_files_module
from patchrec_hf.runtime.array_files import load_arrays, save_arrays


def test_arrays_and_texts_return(tmp_path):
    path = tmp_path / "new" / "arrays.safetensors"
    save_arrays(path, {"days": np.arange(6)[::2], "items": np.ones(2, dtype=np.int32)}, {"window": "7"})
    arrays, texts = load_arrays(path, "counts", ["days", "items"], ["window"])
    assert arrays["days"].tolist() == [0, 2, 4]  # although every second number was skipped in memory
    assert arrays["items"].dtype == np.int32
    assert texts["window"] == "7"


@pytest.mark.parametrize(("names", "texts"), [(["days", "items"], []), (["days"], ["items"])])
def test_what_the_file_lacks_is_named(tmp_path, names, texts):
    save_arrays(tmp_path / "arrays.safetensors", {"days": np.arange(3)}, {})
    with pytest.raises(ValueError, match="holds no counts: it lacks `items`"):
        load_arrays(tmp_path / "arrays.safetensors", "counts", names, texts)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files_module, "FORMAT_VERSION", 99)
    save_arrays(tmp_path / "arrays.safetensors", {"days": np.arange(3)}, {})
    with pytest.raises(ValueError, match="99"):
        load_arrays(tmp_path / "arrays.safetensors", "counts", ["days"])
