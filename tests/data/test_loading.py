"""Preparing, keeping, streaming, describing and sharing data."""

import functools
import http.server
import os
import threading
from functools import partial

import polars as pl
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from torch.utils.data import DataLoader

from patchrec_hf import (
    Filters,
    PreparedData,
    describe_data,
    leave_one_out_split,
    load_recommendation_data,
    prepare_data,
    temporal_split,
)
from patchrec_hf.data import preparation
from patchrec_hf.data.downloads import cache_directory, download, fetch


CUTS = partial(temporal_split, cuts=(0.6, 0.8))
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "time"}


@pytest.fixture
def log(tmp_path):
    """Sixty users with eight interactions each, in a file with titles."""
    rows = [
        (f"u{user:02}", f"i{(user * 3 + place) % 11}", 100 * place + user) for user in range(60) for place in range(8)
    ]
    table = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    table.with_columns(title=pl.lit("Book ") + pl.col("item")).write_csv(tmp_path / "log.csv")
    return tmp_path / "log.csv"


@pytest.fixture
def data(log):
    return prepare_data(log, split=CUTS, columns=COLUMNS)


def test_loading_is_preparing_and_making_rows(log, data):
    examples, catalog = load_recommendation_data(log, 5, split=CUTS, columns=COLUMNS)
    assert isinstance(examples, DatasetDict)
    expected = preparation_rows(data, max_history=5)
    assert {split: rows.to_list() for split, rows in examples.items()} == expected
    assert catalog.titles == tuple(data.items["title"])


def preparation_rows(data, **kwargs):
    from patchrec_hf.data.examples import make_examples

    return {split: rows.to_list() for split, rows in make_examples(data.interactions, data.catalog, **kwargs).items()}


def test_what_is_cached_depends_on_the_content_and_the_settings(log, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "patchrec_hf.data.loading.prepare", lambda *args: made.append(args[0]) or preparation.prepare(*args)
    )

    def load(**kwargs):
        before = len(made)
        settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path / "cache"} | kwargs
        load_recommendation_data(log, **settings)
        return len(made) > before

    assert load()
    assert not load()
    assert not load(max_history=7)
    assert load(filters=Filters(min_item_users=2))
    assert not load(filters=Filters(min_item_users=2))
    assert load(split=partial(temporal_split, cuts=(0.6, 0.9)))
    assert load(split=leave_one_out_split)
    assert load(title_rule=str.upper)
    assert not load(title_rule=str.upper)
    assert load(title_rule=lambda title: title[5:])
    assert load(ties="authors")
    os.utime(log)
    assert not load()
    log.write_text(log.read_text() + "u00,i1,10000,Book i1\n")
    assert load()


def test_an_interrupted_preparation_leaves_nothing(log, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_write_by_users", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_data(log, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache")
    monkeypatch.undo()
    assert len(prepare_data(log, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache").interactions) == 480


@pytest.mark.parametrize("targets_per_row", [1, 3])
def test_streamed_rows_are_the_same_rows(log, monkeypatch, tmp_path, targets_per_row):
    monkeypatch.setattr(preparation, "_GROUP_SIZE", 100)  # several row groups
    settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path, "targets_per_row": targets_per_row}
    kept, _ = load_recommendation_data(log, 5, **settings)
    streamed, _ = load_recommendation_data(log, 5, **settings, streaming=True)
    assert isinstance(streamed["train"], IterableDataset)
    assert streamed["train"].num_shards == 5
    assert list(streamed["train"]) == kept["train"].to_list()
    assert streamed["train"].features == kept["train"].features
    for split in ("validation", "test"):
        assert isinstance(streamed[split], Dataset)
        assert streamed[split].to_list() == kept[split].to_list()


def test_workers_stream(log, monkeypatch, tmp_path):
    """They are forks of a process that has used polars, and hang where they use it too."""
    monkeypatch.setattr(preparation, "_GROUP_SIZE", 100)  # several row groups
    settings = {"split": CUTS, "columns": COLUMNS, "cache_dir": tmp_path}
    streamed, _ = load_recommendation_data(log, 5, **settings, streaming=True)
    alone, helped = (
        [row for batch in DataLoader(streamed["train"], batch_size=4, collate_fn=list, **workers) for row in batch]
        for workers in ({}, {"num_workers": 2, "timeout": 30, "multiprocessing_context": "fork"})
    )
    assert len(alone) > 100
    assert sorted(map(str, alone)) == sorted(map(str, helped))


def test_the_sample_streams(tmp_path):
    kept, _ = load_recommendation_data("sample", 10)
    streamed, catalog = load_recommendation_data("sample", 10, streaming=True, cache_dir=tmp_path)
    assert next(iter(streamed["train"])) == kept["train"][0]
    assert len(catalog) == 448


def test_prepared_data_is_saved_and_loaded(data, tmp_path):
    data.save(tmp_path / "saved")
    loaded = PreparedData.load(tmp_path / "saved")
    assert loaded.interactions.equals(data.interactions)
    assert loaded.items.equals(data.items)
    assert loaded.users.equals(data.users)
    assert (loaded.name, loaded.steps, loaded.terms) == (data.name, data.steps, data.terms)
    with pytest.raises(FileExistsError, match="is not empty"):
        data.save(tmp_path / "saved")
    examples, _ = load_recommendation_data(tmp_path / "saved", 5)
    assert {split: rows.to_list() for split, rows in examples.items()} == preparation_rows(data, max_history=5)
    others, _ = load_recommendation_data(tmp_path / "saved", 5, split=leave_one_out_split)
    assert len(others["test"]) == 60


@pytest.mark.parametrize("kwargs", [{"filters": Filters(min_item_users=2)}, {"ties": "authors"}, {"columns": COLUMNS}])
def test_prepared_data_is_not_prepared_again(data, tmp_path, kwargs):
    data.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="The sample is prepared already"):
        prepare_data("sample", items="products.csv")
    with pytest.raises(ValueError, match="The sample is prepared already"):
        load_recommendation_data("sample", streaming=True, cache_dir=tmp_path / "cache", ties="authors")
    with pytest.raises(ValueError, match="is prepared already"):
        load_recommendation_data(tmp_path / "saved", **kwargs)


def test_filters_may_be_changed_one_by_one(log):
    changed = prepare_data(log, split=CUTS, columns=COLUMNS, filters={"min_item_users": 2})
    assert changed.steps == prepare_data(log, split=CUTS, columns=COLUMNS, filters=Filters(min_item_users=2)).steps


def test_a_title_rule_that_leaves_nothing(log):
    with pytest.raises(ValueError, match="has an empty title"):
        prepare_data(log, split=CUTS, columns=COLUMNS, title_rule=lambda title: "")


def test_names_that_stand_for_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file, directory or public data set 'ml-10m'.*ml-1m"):
        load_recommendation_data("ml-10m")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no data set that is known.*notes\.txt"):
        load_recommendation_data(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt is of no known kind"):
        load_recommendation_data(tmp_path / "notes.txt")


# The card


def test_the_card_by_hand(tmp_path, tokenizer):
    """Item 3 is new in test, items 1 and 2 share a title, and user 7 meets item 1 twice, at the time of the first."""
    interactions = pl.DataFrame(
        {
            "user_id": [7, 7, 7, 8, 8],
            "item_id": [1, 1, 2, 1, 3],
            "timestamp": [0, 0, 5, 1, 86_400],
            "position": [0, 1, 2, 0, 1],
            "split": ["train", "train", "validation", "train", "test"],
        }
    )
    items = pl.DataFrame({"item_id": [1, 2, 3, 4], "title": ["Emma", "Emma", "Typhoon", "Typhoon and Other Stories"]})
    card = describe_data(PreparedData("tiny", interactions, items), tokenizer)
    assert card.facts["users"] == 2
    assert (card.facts["items in the catalog"], card.facts["items with interactions"]) == (4, 3)
    assert card.facts["average interactions of a user"] == 2.5
    assert card.facts["interactions of a user with an item for another time, share"] == pytest.approx(0.2)
    assert card.facts["interactions at the time of the user's previous one, share"] == pytest.approx(0.2)
    assert card.facts["items that share their title with another"] == 2
    assert card.facts["titles that begin another title"] == 1
    lengths = [len(tokenizer(title, add_special_tokens=False)["input_ids"]) for title in items["title"]]
    assert card.facts["average title tokens"] == sum(lengths) / 4
    assert card.splits.rows() == [
        ("train", 3, "1970-01-01 00:00:00", "1970-01-01 00:00:01", 0.0),
        ("validation", 1, "1970-01-01 00:00:05", "1970-01-01 00:00:05", 1.0),
        ("test", 1, "1970-01-02 00:00:00", "1970-01-02 00:00:00", 1.0),
    ]
    assert "| average interactions of a user | 2.50 |" in card.to_markdown()
    with pytest.raises(ValueError, match="Pass `tokenizer`"):
        describe_data(PreparedData("tiny", interactions, items)).plot_title_lengths(tmp_path / "plot.png")


def test_the_card_names_the_steps(data):
    assert "| as read | 60 | 11 | 480 |" in describe_data(data).to_markdown()


def test_the_plot(data, tokenizer, tmp_path):
    pytest.importorskip("matplotlib")
    describe_data(data, tokenizer).plot_title_lengths(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# Downloads


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path / "served"` over HTTP on this machine."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


MD5_OF_ABC = "900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize("md5", [MD5_OF_ABC, None])
def test_a_file_is_downloaded_once(server, tmp_path, md5):
    (tmp_path / "served" / "a.zip").write_bytes(b"abc")
    path = fetch(f"{server}a.zip", md5, tmp_path / "cache")
    assert path.read_bytes() == b"abc"
    (tmp_path / "served" / "a.zip").unlink()
    assert fetch(f"{server}a.zip", md5, tmp_path / "cache") == path


def test_a_checksum_that_differs(server, tmp_path):
    (tmp_path / "served" / "a.zip").write_bytes(b"abd")
    with pytest.raises(ValueError, match=rf"a\.zip is not what was published there.*{MD5_OF_ABC}"):
        fetch(f"{server}a.zip", MD5_OF_ABC, tmp_path / "cache")
    assert not (tmp_path / "cache" / "a.zip").exists()


def test_a_download_that_fails(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"missing\.zip could not be downloaded .*give its path"):
        fetch(f"{server}missing.zip", None, tmp_path / "cache")


def test_a_public_data_set_by_name(server, tmp_path, monkeypatch):
    """From its address to rows: an archive in the published form, with its terms said once."""
    import hashlib
    import zipfile

    from patchrec_hf.data import downloads

    with zipfile.ZipFile(tmp_path / "served" / "ml-1m.zip", "w") as archive:
        ratings = "".join(f"{user}::{item}::5::{10 * item + user}\n" for user in range(1, 9) for item in range(1, 10))
        archive.writestr("ml-1m/ratings.dat", ratings)
        archive.writestr("ml-1m/movies.dat", "".join(f"{item}::Film {item} (1999)::Drama\n" for item in range(1, 10)))
    md5 = hashlib.md5((tmp_path / "served" / "ml-1m.zip").read_bytes()).hexdigest()
    said = []
    monkeypatch.setattr(downloads, "_GROUPLENS", server)
    monkeypatch.setitem(downloads._MD5, "ml-1m", md5)
    monkeypatch.setattr(downloads.logger, "warning", said.append)
    downloads.say_terms.cache_clear()
    for _ in range(2):
        data = prepare_data("ml-1m", split=CUTS, cache_dir=tmp_path / "cache")
    assert data.catalog.titles[:2] == ("Film 1", "Film 2")
    assert len(data.interactions) == 72
    assert said == [downloads.MOVIELENS_TERMS]
    with pytest.raises(ValueError, match="not yours to pass on"):
        data.push_to_hub("someone/ml-1m")


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("goodreads", ["goodreads_reviews_dedup.json.gz", "goodreads_books.json.gz"]),
        ("goodreads/poetry", ["byGenre/goodreads_reviews_poetry.json.gz", "byGenre/goodreads_books_poetry.json.gz"]),
        (
            "amazon-2023/All_Beauty",
            ["benchmark/5core/rating_only/All_Beauty.csv", "raw/meta_categories/meta_All_Beauty.jsonl"],
        ),
        ("ml-20m", []),
    ],
)
def test_addresses(monkeypatch, tmp_path, name, addresses):
    asked = []
    monkeypatch.setattr("patchrec_hf.data.downloads.fetch", lambda url, md5, target: asked.append(url))
    monkeypatch.setattr("patchrec_hf.data.downloads.hf_hub_download", lambda repo, file, **_: asked.append(file))
    target = download(name, tmp_path)
    assert target == (tmp_path / "downloads" / name if addresses else None)
    assert len(asked) == len(addresses)
    assert all(url.endswith(address) for url, address in zip(asked, addresses, strict=True))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=r"cannot be written to\. Choose another with `cache_dir`"):
        cache_directory(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(PermissionError, match="PATCHREC_HF_CACHE"):
        load_recommendation_data(tmp_path, cache_dir=tmp_path / "cache")
