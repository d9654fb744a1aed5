"""The data card."""

import polars as pl
import pytest
from sixty_users import COLUMNS, CUTS

from patchrec_hf import PreparedData, describe_data, prepare_data
from patchrec_hf.data import data_card


@pytest.mark.slow
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
    assert card.counts["users"] == 2
    assert (card.counts["items in the catalog"], card.counts["items with interactions"]) == (4, 3)
    assert card.counts["average interactions of a user"] == 2.5
    assert card.counts["interactions of a user with an item for another time, share"] == pytest.approx(0.2)
    assert card.counts["interactions at the time of the user's previous one, share"] == pytest.approx(0.2)
    assert card.counts["items that share their title with another"] == 2
    assert card.counts["perplexity of the next item given the current one in train"] == 1
    assert card.counts["test targets one transition from the user's latest item, share"] == 0
    assert card.counts["titles that begin another title"] == 1
    lengths = [len(tokenizer(title, add_special_tokens=False)["input_ids"]) for title in items["title"]]
    assert card.counts["average title tokens"] == sum(lengths) / 4
    assert card.splits.rows() == [
        ("train", 2, 3, "1970-01-01 00:00:00", "1970-01-01 00:00:01", 0.0),
        ("validation", 1, 1, "1970-01-01 00:00:05", "1970-01-01 00:00:05", 1.0),
        ("test", 1, 1, "1970-01-02 00:00:00", "1970-01-02 00:00:00", 1.0),
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


def test_the_card_names_its_zone_and_the_users_of_each_split(data):
    card = describe_data(data)
    text = card.to_markdown()
    assert "| split | users | interactions | from (UTC) | to (UTC) | cold share |" in text
    assert card.splits["users"].to_list() == [60, 60, 60]
    assert "- Only 60 users have test interactions. Metrics of fewer than 200 users vary much by chance" in text


def test_the_card_warns(log, monkeypatch):
    logged = []
    monkeypatch.setattr(data_card.logger, "warning", logged.append)
    frame = pl.read_csv(log)
    titles = {"i0": " Book ", "i1": "<b>Book</b>", "i2": "Salt &amp; Pepper", "i3": "x" * 201}
    bot = pl.DataFrame({"user": "bot", "item": "i1", "time": range(2_000), "title": ""})
    frame = pl.concat([frame, bot]).with_columns(title=pl.col("item").replace(titles))
    card = describe_data(prepare_data(frame, split=CUTS, columns=COLUMNS))
    assert logged == list(card.warnings)
    _, spaces, markup, long, heavy = card.warnings
    assert spaces == "Titles with untidy white space: 1, such as `' Book '`. `title_rule=tidy_title` cleans them."
    assert markup == "Titles with markup: 2, such as `'<b>Book</b>'`. `title_rule=tidy_title` cleans them."
    assert long.startswith("Titles of more than 200 characters: 1, such as `'xxx")
    assert "..." in long
    assert heavy.startswith("The user with the most training interactions, of 61 users")
    assert all(f"- {warning}" in card.to_markdown() for warning in card.warnings)


def test_a_card_without_warnings(monkeypatch):
    logged = []
    monkeypatch.setattr(data_card.logger, "warning", logged.append)
    users = [user for user in range(200) for _ in range(3)]
    interactions = pl.DataFrame({"user_id": users, "item_id": [1, 1, 1] * 200, "position": [0, 1, 2] * 200})
    interactions = interactions.with_columns(split=pl.Series(["train", "validation", "test"] * 200))
    card = describe_data(PreparedData("tiny", interactions, pl.DataFrame({"item_id": [1], "title": ["Emma"]})))
    assert (card.warnings, logged) == ((), [])
    assert "Warnings" not in card.to_markdown()
