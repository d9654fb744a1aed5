"""Small tables of interactions, and what is made of them."""

import polars as pl

from patchrec_hf.data.interactions import order_interactions
from patchrec_hf.runtime.catalog import Catalog


def catalog_of(*item_ids):
    return Catalog.from_titles({item_id: f"title {item_id}" for item_id in item_ids})


def interactions_of(*rows, order="timestamp"):
    return pl.DataFrame(rows, schema=["user_id", "item_id", order], orient="row")


def split_interactions(histories):
    """`{user: [(item, split), …]}` as ordered interactions."""
    rows = [
        (user, item, position, split)
        for user, history in histories.items()
        for position, (item, split) in enumerate(history)
    ]
    return order_interactions(pl.DataFrame(rows, schema=["user_id", "item_id", "position", "split"], orient="row"))


HISTORIES = {
    3: [(10, "train"), (11, "train"), (12, "train"), (13, "validation"), (14, "test")],
    1: [(20, "train"), (21, "validation"), (22, "train"), (23, "test")],
    2: [(30, "test")],
}


def rows_of(dataset):
    return [(row["user_id"], row["item_ids"], row["target_positions"]) for row in dataset]


def frame(**columns):
    return pl.DataFrame({"user_id": [1] * 9, "item_id": list(range(9)), "position": list(range(9)), **columns})


def write_directory(directory):
    """Item ids in no order, no dense user ids, and the rows not sorted by time."""
    rows = [(user, 100 - item, 10 * item + user) for item in range(10) for user in (40, 7)][::-1]
    interactions_of(*rows).write_parquet(directory / "interactions.parquet")
    items = pl.DataFrame({"item_id": range(100, 90, -1), "title": [f"t{item}" for item in range(10)]})
    items.write_parquet(directory / "items.parquet")
    return directory
