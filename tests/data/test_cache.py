"""The cache: a data set is prepared once for the same content and settings."""

import os
from functools import partial

import polars as pl
import pytest
from sixty_users import COLUMNS, CUTS

from patchrec_hf import Filters, leave_one_out_split, load_recommendation_data, prepare_data, temporal_split
from patchrec_hf.data import cache, preparation


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
