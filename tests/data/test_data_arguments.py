"""A data set's settings on the command line."""

from dataclasses import fields
from functools import partial

import polars as pl
import pytest
from transformers import HfArgumentParser
from trl import TrlParser

from patchrec_hf import Filters, load_recommendation_data, prepare_data, tidy_title
from patchrec_hf.data.data_arguments import DataArguments
from patchrec_hf.data.splits import leave_one_out_split, temporal_split, user_ratio_split


def parse(*arguments):
    (found,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(list(arguments))
    return found


def test_only_settings_that_are_given_are_passed_on():
    assert parse().settings() == {}
    assert parse().data == "sample"
    found = parse("--data", "clicks.csv", "--items", "products.csv", "--columns", "user_id=customer", "title=a=b",
                  "--time_unit", "ms", "--min_item_users", "3", "--k_core", "--drop_untitled", "false")  # fmt: skip
    assert found.data == "clicks.csv"
    assert found.settings() == {
        "items": "products.csv",
        "columns": {"user_id": "customer", "title": "a=b"},
        "time_unit": "ms",
        "filters": {"min_item_users": 3, "k_core": True, "drop_untitled": False},
    }
    assert parse("--data_dir", "books").data == "books"
    found = parse("--date_format", "%d/%m/%Y", "--separator", ";", "--max_user_interactions", "900").settings()
    assert found == {"date_format": "%d/%m/%Y", "separator": ";", "filters": {"max_user_interactions": 900}}
    with pytest.raises(SystemExit) as stopped:  # the help text holds percent signs
        parse("--help")
    assert stopped.value.code == 0


def test_conditions_and_titles():
    found = parse("--where", "event=buy,rent", "returned=", "is_bot=false", "--tidy_titles").settings()
    where = {"event": ["buy", "rent"], "returned": [None], "is_bot": ["false"]}
    assert found == {"filters": {"where": where}, "title_rule": tidy_title}


def test_split_rules():
    assert parse("--split_rule", "leave_one_out").settings() == {"split": leave_one_out_split}
    split = parse("--cuts", "0.8", "0.9").settings()["split"]
    assert isinstance(split, partial)
    assert (split.func, split.keywords) == (temporal_split, {"cuts": (0.8, 0.9)})
    assert parse("--split_rule", "user_ratio", "--cuts", "0.7", "0.8").settings()["split"].func is user_ratio_split


def test_all_filters_can_be_given():
    """A filter that the library gets needs one line among the arguments."""
    assert {one.name for one in fields(Filters)} - {one.name for one in fields(DataArguments)} == {"drop_duplicates"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["customer"]}, "pairs such as user_id=customer, got 'customer'"),
        ({"where": ["buy"]}, "such as event=buy,rent, got 'buy'"),
        ({"columns": ["user_id="]}, "got 'user_id='"),
        ({"split_rule": "random"}, "must be one of temporal, leave_one_out, user_ratio, got 'random'"),
        ({"cuts": [0.5]}, r"two shares.*got \[0.5\] for temporal"),
        ({"cuts": [0.5, 0.6], "split_rule": "leave_one_out"}, "for leave_one_out"),
        ({"cuts": [0.5, float("nan")]}, r"must ascend between 0 and 1, got \[0.5, nan\]"),
        ({"min_rating": float("nan")}, "`min_rating` must be a finite number, got nan"),
        ({"min_item_users": 0}, "`min_item_users` must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**settings)


def test_loads_a_log_with_texts_as_ids(tmp_path):
    rows = [(f"c{user}", f"SKU-{item:03}", 100 * item + user) for user in range(8) for item in range(9)]
    pl.DataFrame(rows, schema=["customer", "sku", "timestamp"], orient="row").write_csv(tmp_path / "clicks.csv")
    items = pl.DataFrame({"sku": [f"SKU-{item:03}" for item in range(9)], "name": [f"Book {i}" for i in range(9)]})
    items.write_csv(tmp_path / "products.csv")
    columns = {"user_id": "customer", "item_id": "sku", "title": "name"}
    settings = {"items": str(tmp_path / "products.csv"), "cache_dir": str(tmp_path / "cache")}
    arguments = DataArguments(
        str(tmp_path / "clicks.csv"), columns=[f"{ours}={theirs}" for ours, theirs in columns.items()],
        min_user_interactions=2, cuts=[0.6, 0.8], **settings,
    )  # fmt: skip
    splits, catalog = arguments.load(max_history=5)
    expected, _ = load_recommendation_data(
        tmp_path / "clicks.csv", max_history=5, columns=columns, filters={"min_user_interactions": 2},
        split=partial(temporal_split, cuts=(0.6, 0.8)), **settings,
    )  # fmt: skip
    assert splits["test"].to_list() == expected["test"].to_list()
    assert set(catalog.item_ids.tolist()) == {f"SKU-{item:03}" for item in range(9)}


@pytest.mark.parametrize(("where", "items"), [("is_bot=false", [0, 2, 4, 6, 8]), ("stars=4,5", [0, 4, 5, 9])])
def test_a_log_without_bots(tmp_path, where, items):
    """The texts of a command line are read by the types of the columns."""
    rows = [(1, item, item, item % 2 == 1, item % 5 + (item % 5 == 0) * 5, f" Book  {item}") for item in range(10)]
    schema = ["user_id", "item_id", "timestamp", "is_bot", "stars", "title"]
    pl.DataFrame(rows, schema=schema, orient="row").write_csv(tmp_path / "clicks.csv")
    settings = DataArguments(str(tmp_path / "clicks.csv"), where=[where], tidy_titles=True, cache_dir=str(tmp_path))
    data = prepare_data(
        settings.data, **settings.settings(), split=lambda rows: rows.with_columns(split=pl.lit("train"))
    )
    assert data.interactions["item_id"].to_list() == items
    assert data.items["title"][0] == "Book 0"


def test_trl_reads_it_from_a_file(tmp_path):
    (tmp_path / "run.yaml").write_text("data: clicks.csv\ncolumns: [item_id=sku]\nk_core: true\n")
    (found,) = TrlParser(DataArguments).parse_args_and_config(["--config", str(tmp_path / "run.yaml")])
    assert found.settings() == {"columns": {"item_id": "sku"}, "filters": {"k_core": True}}
