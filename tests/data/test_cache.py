"""The cache: a data set is prepared once for the same content and settings."""

import os
from functools import partial

import polars as pl
import pytest
from sixty_users import COLUMNS, CUTS

from patchrec_hf import Filters, leave_one_out_split, load_recommendation_data, prepare_data, temporal_split
from patchrec_hf.data import cache, preparation


@pytest.mark.slow
def test_what_is_cached_depends_on_the_content_and_the_settings(log, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "patchrec_hf.data.cache.prepare", lambda *args: made.append(args[0]) or preparation.prepare(*args)
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
    assert load(ties="release")
    os.utime(log)
    assert not load()
    log.write_text(log.read_text() + "u00,i1,10000,Book i1\n")
    assert load()


@pytest.mark.parametrize("kwargs", [{"filters": Filters(min_item_users=2)}, {"ties": "release"}, {"columns": COLUMNS}])
def test_prepared_data_is_not_prepared_again(data, tmp_path, kwargs):
    data.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="The sample is prepared already"):
        prepare_data("sample", items="products.csv")
    with pytest.raises(ValueError, match="The sample is prepared already"):
        load_recommendation_data("sample", streaming=True, cache_dir=tmp_path / "cache", ties="release")
    with pytest.raises(ValueError, match="is prepared already"):
        load_recommendation_data(tmp_path / "saved", **kwargs)


@pytest.mark.parametrize("ties", ["stable", "release"])
def test_prepared_data_knows_the_order_of_its_ties(log, tmp_path, ties):
    data = prepare_data(log, split=CUTS, columns=COLUMNS, ties=ties, cache_dir=tmp_path / "cache")
    assert data.ties == ties
    data.save(tmp_path / "saved")
    again = prepare_data(tmp_path / "saved", cache_dir=tmp_path / "cache")
    assert again.ties == ties
    same = prepare_data(tmp_path / "saved", ties=ties, cache_dir=tmp_path / "cache")
    assert same.interactions.equals(again.interactions)
    other = {"stable": "release", "release": "stable"}[ties]
    with pytest.raises(ValueError, match=rf"was prepared with `ties='{ties}'`.*raw files, with `ties='{other}'`"):
        prepare_data(tmp_path / "saved", ties=other, cache_dir=tmp_path / "cache")


def test_prepared_data_that_does_not_know_the_order_of_its_ties(data, tmp_path, monkeypatch):
    """A directory of two tables only, or one that an earlier version saved."""
    data.save(tmp_path / "saved")
    (tmp_path / "saved" / "preparation.json").unlink()
    warned = []
    monkeypatch.setattr(cache.logger, "warning_once", warned.append)
    for ties, num_warnings in ((None, 0), ("stable", 1)):
        assert prepare_data(tmp_path / "saved", ties=ties).ties is None
        assert len([text for text in warned if "may have prepared it with `ties='release'`" in text]) == num_warnings
    for streaming in (False, True):
        with pytest.raises(
            ValueError, match=r"it does not say how its ties are ordered. Leave `ties` out, or prepare"
        ):
            load_recommendation_data(tmp_path / "saved", ties="release", streaming=streaming)


def test_the_sample_is_stable():
    assert prepare_data("sample", ties="stable").ties == "stable"
    with pytest.raises(ValueError, match=r"The sample is prepared already.*with `ties='stable'`. Leave `ties` out"):
        load_recommendation_data("sample", ties="release")


@pytest.mark.parametrize("source", ["sample", "a file that is missing.csv", "log", "saved"])
def test_an_order_that_is_unknown(log, data, tmp_path, source):
    """It is refused before anything is read."""
    data.save(tmp_path / "saved")
    source = {"log": log, "saved": tmp_path / "saved"}.get(source, source)
    for load in (prepare_data, load_recommendation_data):
        with pytest.raises(ValueError, match=r"got 'authors'. The order in the authors' files is called 'release'"):
            load(source, ties="authors")


def test_the_cache_depends_on_how_a_log_is_read(tmp_path, log, monkeypatch):
    made = []
    monkeypatch.setattr(
        "patchrec_hf.data.cache.prepare", lambda *args: made.append(args[0]) or preparation.prepare(*args)
    )

    def load(**kwargs):
        before = len(made)
        prepare_data(log, split=CUTS, columns=COLUMNS, cache_dir=tmp_path / "cache", **kwargs)
        return len(made) > before

    assert load()
    for filters in (
        {"max_user_interactions": 8},
        {"where": {"item": ["i1", "i2", "i3", "i4"]}},
        {"where": {"item": ["i1", "i2", "i3", "i5"]}},
        {"where": pl.col("user") != "u01"},
        {"where": pl.col("user") != "u02"},
    ):
        assert load(filters=filters)
        assert not load(filters=Filters(**filters))
    assert load(separator=",")
    # The file is in ASCII, so it holds the same text in this encoding.
    assert not load(encoding="latin-1")


def test_users_with_much_of_the_training_data_are_named(tmp_path, log, monkeypatch):
    messages = []
    monkeypatch.setattr(cache.logger, "warning_once", messages.append)
    load_recommendation_data(log, split=CUTS, columns=COLUMNS)
    assert messages == []
    bot = pl.DataFrame({"user": "bot", "item": "i1", "time": range(2_000), "title": "Book i1"})
    frame = pl.concat([pl.read_csv(log), bot])
    for _ in range(2):  # also from the cache
        load_recommendation_data(frame, split=CUTS, columns=COLUMNS)
    assert len(messages) == 2
    assert messages[0].startswith("The user with the most training interactions, of 61 users, holds")
    load_recommendation_data(frame, split=CUTS, columns=COLUMNS, filters={"max_user_interactions": 100})
    assert len(messages) == 2


@pytest.mark.parametrize("filters", [{"min_rating": float("nan")}, {"min_item_users": 0}, {"min_rates": 3}])
def test_filters_are_checked_before_anything_is_read(tmp_path, filters):
    with pytest.raises(ValueError, match=r"min_(rating|item_users)"):
        prepare_data(tmp_path / "a file that is missing.csv", filters=filters)
