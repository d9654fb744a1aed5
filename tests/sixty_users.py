"""A small log file with sixty users."""

from functools import partial

import polars as pl
import pytest

from patchrec_hf import prepare_data, temporal_split


CUTS = partial(temporal_split, cuts=(0.6, 0.8))
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "time"}


def preparation_rows(data, **kwargs):
    from patchrec_hf.data.examples import make_rows

    return {split: rows.to_list() for split, rows in make_rows(data.interactions, data.catalog, **kwargs).items()}


def write_log(directory):
    """Sixty users with eight interactions each, in a file with titles."""
    rows = [
        (f"u{user:02}", f"i{(user * 3 + place) % 11}", 100 * place + user) for user in range(60) for place in range(8)
    ]
    table = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    table.with_columns(title=pl.lit("Book ") + pl.col("item")).write_csv(directory / "log.csv")
    return directory / "log.csv"


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path)


@pytest.fixture
def data(log):
    return prepare_data(log, split=CUTS, columns=COLUMNS)
