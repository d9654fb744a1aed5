"""Loads a study's data, once for each setting, and checks that it is the data that it is called."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from datasets import DatasetDict

from patchrec_hf import Catalog, load_recommendation_data

from .settings import DATA


@cache
def load_rows(
    name_or_path: str, max_history: int, targets_per_row: int, ties: str | None
) -> tuple[DatasetDict, Catalog]:
    """
    Loads the rows of all splits, and the catalog. They are kept, because each load reads all data files to find its
    key in the cache.
    """
    try:
        splits, catalog = load_recommendation_data(
            name_or_path, max_history, targets_per_row=targets_per_row, ties=ties
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"{name_or_path} cannot be loaded. {error} Pass its directory as --data_dir.") from None
    return DatasetDict(splits), catalog


def check_data(dataset: str, data_dir: str | None, ties: str | None) -> None:
    """
    Ends the script if a directory clearly holds another data set, so that no results get a wrong name, or if the data
    cannot be in the authors' order.
    """
    if ties == "release" and not DATA[dataset].has_file_order:
        known = ", ".join(name for name, data in DATA.items() if data.has_file_order)
        raise SystemExit(
            f"--ties release needs the order of the raw file that the authors began with, which {dataset} does not "
            f"have ({known} do). Leave --ties out."
        )
    if data_dir is None:
        return
    if dataset == "sample":
        raise SystemExit("The sample comes with the library. Pass the name of the data in --data_dir as --dataset.")
    for name, data in DATA.items():
        if name != dataset and data.raw_file is not None and (Path(data_dir) / data.raw_file).exists():
            raise SystemExit(f"{data_dir} holds {name}, not {dataset}. Pass --dataset {name}.")
