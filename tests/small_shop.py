"""A shop's log with texts for ids, and the arguments by which the scripts read it."""

import polars as pl


def write_shop(directory):
    """Writes clicks.csv and products.csv, and returns the arguments."""
    rows = [(f"c{user}", f"SKU-{(item + user) % 12:03}", 100 * item + user) for user in range(20) for item in range(9)]
    pl.DataFrame(rows, schema=["customer", "sku", "timestamp"], orient="row").write_csv(directory / "clicks.csv")
    items = pl.DataFrame({"sku": [f"SKU-{item:03}" for item in range(12)], "name": [f"Tea {i}" for i in range(12)]})
    items.write_csv(directory / "products.csv")
    files = ["--data", directory / "clicks.csv", "--items", directory / "products.csv"]
    columns = ["--columns", "user_id=customer", "item_id=sku", "title=name"]
    return [*files, *columns, "--cuts", "0.6", "0.8", "--cache_dir", directory / "cache"]
