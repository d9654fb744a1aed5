"""Array files: arrays in one safetensors file, with texts and the format version in its metadata."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from .hub_files import FORMAT_VERSION, check_format_version


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """
    Writes arrays and texts as one safetensors file.

    Args:
        path (`str` or `os.PathLike`):
            The file. Its directory is made if there is none.
        arrays (`Mapping[str, numpy.ndarray]`):
            The arrays by their names.
        texts (`Mapping[str, str]`):
            Texts of the metadata, besides the format version.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes an array as it lies in memory.
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, path, {"format_version": str(FORMAT_VERSION), **texts})


def load_arrays(
    path: str | os.PathLike, kind: str, names: Collection[str], text_names: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """
    Reads a file that [`save_arrays`] wrote.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        kind (`str`):
            Name of the file's contents, for the error message.
        names (`Collection[str]`):
            Names of the arrays that the file needs.
        text_names (`Collection[str]`, *optional*):
            Names of the texts that it needs.

    Returns:
        `tuple[dict[str, numpy.ndarray], dict[str, str]]`: the arrays, and all texts.

    Raises:
        ValueError: If a newer version of the library wrote the file, or it lacks an array or a text.
    """
    with safe_open(path, framework="numpy") as file:
        texts = file.metadata() or {}
        check_format_version(int(texts.get("format_version", 0)), Path(path).name)
        missing = sorted({*names, *text_names} - {*file.keys(), *texts})
        if missing:
            raise ValueError(f"{path} holds no {kind}: it lacks `{missing[0]}`.")
        return {name: file.get_tensor(name) for name in names}, texts
