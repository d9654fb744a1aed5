"""History files: which form a file has, and how its columns are read."""

from datetime import datetime

import polars as pl
import pytest

from patchrec_hf.jobs.history_files import find_histories


def write(path, **columns):
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_one_row_per_user(tmp_path):
    path = write(tmp_path / "users.parquet", who=["a"], item_ids=[[1]], timestamps=[[5]], title=["x"])
    file = find_histories(str(path), {"user_id": "who"})
    assert (file.is_long, file.is_ready, file.has_timestamps) == (False, True, True)
    assert file.names == {"user_id": "who", "item_ids": "item_ids", "timestamps": "timestamps"}
    assert not find_histories(write(path, user_id=["a"], item_ids=[[1]])).has_timestamps


def test_one_row_per_interaction(tmp_path):
    path = write(tmp_path / "log.parquet", user_id=["a"], sku=[1], timestamp=[5])
    file = find_histories(path, {"item_id": "sku"})
    assert (file.is_long, file.is_ready, file.has_timestamps) == (True, False, True)
    assert file.names == {"user_id": "user_id", "item_id": "sku", "timestamp": "timestamp"}
    write(tmp_path / "interactions.parquet", user_id=["a"], item_id=[1], position=[0], split=["train"])
    file = find_histories(tmp_path)
    assert file.path == tmp_path / "interactions.parquet"
    assert (list(file.names), file.has_timestamps) == (["user_id", "item_id", "position"], False)


def test_text_files(tmp_path):
    (tmp_path / "users.jsonl").write_text('{"user_id": 1, "item_ids": [3, 4]}\n{"user_id": "b", "item_ids": ["x"]}\n')
    file = find_histories(tmp_path / "users.jsonl")
    assert (file.is_long, file.is_ready) == (False, False)
    assert file.scan().collect().rows() == [("1", ["3", "4"]), ("b", ["x"])]
    assert find_histories(tmp_path / "users.jsonl", {"item_ids": "item_ids"}).names == file.names
    (tmp_path / "log.csv").write_text("user_id,item_id,rank\n1,2,3\n")
    file = find_histories(tmp_path / "log.csv", {"position": "rank"})
    assert file.is_long
    assert file.names == {"user_id": "user_id", "item_id": "item_id", "position": "rank"}


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([[5, 6]], "s", [5, 6]),
        ([[5_999, 6_000]], "ms", [5, 6]),
        ([[datetime(1970, 1, 1, 0, 0, 5)]], "s", [5]),
        ([[datetime(1970, 1, 2).date()]], "s", [86_400]),
        ([[]], "s", []),
    ],
)
def test_times_become_seconds(tmp_path, values, unit, expected):
    path = write(tmp_path / "users.parquet", user_id=[1], item_ids=[[1]], timestamps=values)
    file = find_histories(path, time_unit=unit)
    schema = pl.read_parquet_schema(path)
    assert pl.read_parquet(path).select(file.expressions(schema))["timestamps"].to_list() == [expected]


def test_ids_of_any_type(tmp_path):
    path = tmp_path / "users.parquet"
    frame = pl.DataFrame({"user_id": ["a"], "item_ids": [["x", "y"]], "exclude": [[1, 2]]})
    frame = frame.cast(
        {"user_id": pl.Categorical, "item_ids": pl.List(pl.Categorical), "exclude": pl.Array(pl.Int16, 2)}
    )
    frame.write_parquet(path)
    found = frame.select(find_histories(path).expressions(frame.schema))
    assert found.rows() == [("a", ["x", "y"], [1, 2])]
    assert found.schema["user_id"] == pl.String


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1.5], "item_ids": [[1]]}, "column 'user_id' holds Float64; ids must be whole numbers or texts"),
        ({"user_id": [1], "item_ids": ["1 2"]}, r"column 'item_ids' holds String; it must hold a list of ids"),
        (
            {"user_id": [1], "item_ids": [[0.5]]},
            r"column 'item_ids' holds List\(Float64\); it must hold a list of ids",
        ),
        (
            {"user_id": [1], "item_ids": [[1]], "timestamps": [["x"]]},
            r"'timestamps' holds List\(String\).*list of times",
        ),
    ],
)
def test_columns_of_other_types(tmp_path, columns, message):
    path = write(tmp_path / "users.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        find_histories(path).expressions(pl.read_parquet_schema(path))


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"user": [1], "item_ids": [[1]]}, {}, r"has no column 'user_id'.*Did you mean 'user'\?.*one row per user"),
        ({"user_id": [1], "items": [[1]]}, {}, r"has no column 'item_ids'.*Did you mean 'items'\?"),
        ({"user_id": [1], "item_ids": [[1]]}, {"exclude": "gone"}, "has no column 'gone'"),
        (
            {"user_id": [1], "item_ids": [[1]]},
            {"timestamp": "t"},
            r"one row per user, so `columns` cannot name \['times",
        ),
        ({"user_id": [1], "item_id": [1]}, {}, "has no column 'timestamp'"),
        (
            {"user_id": [1], "item_id": [1], "exclude": [1]},
            {},
            r"one row per interaction, so it cannot have \['exclude'",
        ),
        (
            {"user_id": [1, 2], "item_id": [[10], []], "timestamp": [[5], []]},
            {},
            r"columns \['item_id', 'timestamp'\] hold lists\. If a row is a user, name the list of items `item_ids`",
        ),
        ({"user_id": [1], "sku": [[10]], "timestamp": [5]}, {"item_id": "sku"}, r"the columns \['sku'\] hold lists"),
        ({"user_id": [1], "item_ids": [[1]]}, {"user": "x"}, "unknown key 'user'; did you mean 'user_id'"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, names, message):
    path = write(tmp_path / "users.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        find_histories(path, names)


def test_users_with_lists_are_told_how_to_keep_those_without_items(tmp_path):
    """Read as interactions, a user without items would be in no output."""
    path = tmp_path / "users.jsonl"
    users = [(1, [10], [5]), (2, [], []), (3, [11], [6])]
    pl.DataFrame(users, schema=["user_id", "item_id", "timestamp"], orient="row").write_ndjson(path)
    with pytest.raises(ValueError, match=r"\['item_id', 'timestamp'\] hold lists"):
        find_histories(path)
    file = find_histories(path, {"item_ids": "item_id", "timestamps": "timestamp"})
    assert not file.is_long
    rows = file.scan()
    found = rows.select(file.expressions(rows.collect_schema())).collect()
    assert found.rows() == [("1", ["10"], [5]), ("2", [], []), ("3", ["11"], [6])]


def test_files_that_do_not_fit(tmp_path):
    write(tmp_path / "users.parquet", user_id=[1], item_ids=[[1]])
    with pytest.raises(FileNotFoundError, match=r"no file .*user\.parquet\. Did you mean .*users\.parquet\?"):
        find_histories(tmp_path / "user.parquet")
    with pytest.raises(FileNotFoundError, match=r"holds no interactions\.parquet"):
        find_histories(tmp_path)
    (tmp_path / "users.doc").touch()
    with pytest.raises(ValueError, match="is of no known kind"):
        find_histories(tmp_path / "users.doc")
    (tmp_path / "users.csv").write_text("user_id,item_ids\n")
    with pytest.raises(ValueError, match=r"CSV file, which holds no lists, so it cannot have \['item_ids'\]"):
        find_histories(tmp_path / "users.csv", {"item_ids": "item_ids"})
    with pytest.raises(ValueError, match="`time_unit` must be one of"):
        find_histories(tmp_path / "users.parquet", time_unit="min")
    (tmp_path / "broken.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read"):
        find_histories(tmp_path / "broken.parquet")
