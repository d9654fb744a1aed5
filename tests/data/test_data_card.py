"""The data card."""

import polars as pl
import pytest
from sixty_users import COLUMNS, CUTS, write_log

from patchrec_hf import PreparedData, describe_data, prepare_data


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path)


@pytest.fixture
def data(log):
    return prepare_data(log, split=CUTS, columns=COLUMNS)


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
    assert card.counts["titles that begin another title"] == 1
    lengths = [len(tokenizer(title, add_special_tokens=False)["input_ids"]) for title in items["title"]]
    assert card.counts["average title tokens"] == sum(lengths) / 4
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
