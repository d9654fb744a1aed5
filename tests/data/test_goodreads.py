"""Reading the files of Goodreads. Errors name the file and line."""

import os

import pytest
from raw_files import BOOKS, DATE, interactions_of, prepare, review, write_lines
from transformers.utils import logging

from patchrec_hf.data.data_card import describe_data
from patchrec_hf.data.filters import Filters, FilterStep
from patchrec_hf.data.loading import load_recommendation_data, prepare_data


GOODREADS_DIR = os.environ.get("PATCHREC_GOODREADS_DIR")


@pytest.mark.skipif(not GOODREADS_DIR, reason="set PATCHREC_GOODREADS_DIR to a directory with the paper's Goodreads")
def test_goodreads_has_the_papers_test_examples():
    datasets, _ = load_recommendation_data(GOODREADS_DIR)
    assert datasets["test"].num_rows == 3248


@pytest.fixture
def goodreads(tmp_path):
    write_lines(tmp_path / "goodreads_books.json.gz", BOOKS)
    return tmp_path


@pytest.mark.parametrize("name", ["goodreads_reviews_dedup.json.gz", "goodreads_interactions_poetry.json"])
def test_goodreads_by_hand(goodreads, name):
    later = "Wed Jan 01 00:00:00 +0000 2020"
    rows = [
        review("b", "100", date=later, review_text="Ça va\u2028bien"),
        "\n",
        review("b", "20"),
        review("a", "20", rating=4),
        review("a", "5"),
        review("a", "777"),
        review("a", "100"),
        review("a", "100"),
    ]
    write_lines(goodreads / name, rows)
    data = prepare(goodreads, Filters(min_rating=5, drop_untitled=True))
    assert interactions_of(data) == [("a", 100, 1501425850), ("b", 20, 1501425850), ("b", 100, 1577836800)]
    assert data.items.rows() == [(20, "Émile (Books, #1)"), (100, "The Body Electric")]
    assert data.users.rows() == [("a",), ("b",)]
    assert [step.interactions for step in data.steps] == [7, 6, 4, 3]


def test_goodreads_by_other_fields(goodreads):
    rows = [review("a", "20", read_at=DATE, date="no date"), review("a", "100", read_at=DATE)]
    write_lines(goodreads / "goodreads_reviews_dedup.json.gz", rows)
    columns = {"timestamp": "read_at", "title": "title_without_series"}
    data = prepare(goodreads, Filters(drop_untitled=True), columns=columns)
    assert data.items["title"].to_list() == ["Émile"]


def spoiler(user, book, day, rating=5, **fields):
    return {
        "user_id": user, "timestamp": day, "review_sentences": [[0, "Fine."]], "rating": rating, "has_spoiler": False,
        "book_id": book, "review_id": "r", **fields,
    }  # fmt: skip


def test_the_reviews_with_marked_spoilers(goodreads):
    """Their times are days. Reviews of one day keep the order of the file, or get the order of the release."""
    rows = [
        "\n",
        spoiler("a", "20", "2017-08-30"),
        spoiler("a", "100", "2017-08-29"),
        spoiler("b", "20", "2016-01-01"),
        spoiler("b", "100", "2016-01-01"),
        spoiler("b", "20", "2016-01-02", rating=4),
    ]
    write_lines(goodreads / "goodreads_reviews_spoiler.json.gz", rows)
    for ties in ("stable", "release"):
        data = prepare(goodreads, Filters(min_rating=5, drop_untitled=True), ties=ties)
        assert interactions_of(data) == [
            ("a", 100, 1503964800), ("a", 20, 1504051200), ("b", 20, 1451606400), ("b", 100, 1451606400)
        ]  # fmt: skip
    assert [step.interactions for step in data.steps] == [5, 4]


@pytest.mark.parametrize(
    ("day", "problem"),
    [
        ("30.08.2017", r"timestamp is no date like '2017-07-30'. The line is '.*30\.08\.2017"),
        (DATE, "timestamp is no date like '2017-07-30'"),
        ("", "timestamp is no date like '2017-07-30'"),
        (None, "the field timestamp is missing"),
    ],
)
def test_a_day_that_is_none(goodreads, day, problem):
    write_lines(
        goodreads / "goodreads_reviews_spoiler.json.gz", [spoiler("a", "20", "2017-08-30"), spoiler("a", "20", day)]
    )
    with pytest.raises(ValueError, match=f"spoiler.json.gz, line 2: {problem}"):
        prepare(goodreads)


@pytest.mark.parametrize("line", ["5", "null", "[1]"])
def test_a_first_line_that_is_no_object(goodreads, line):
    write_lines(goodreads / "goodreads_reviews_dedup.json.gz", [line + "\n", review("a", "20")])
    with pytest.raises(ValueError, match=r"dedup.json.gz, line 1"):
        prepare(goodreads)


def test_a_field_that_the_file_lacks(goodreads):
    write_lines(goodreads / "goodreads_reviews_spoiler.json.gz", [spoiler("a", "20", "2017-08-30")])
    with pytest.raises(ValueError, match=r"spoiler.json.gz has no column 'time_stamp'.*Did you mean 'timestamp'\?"):
        prepare(goodreads, columns={"timestamp": "time_stamp"})


@pytest.mark.parametrize("field", ["read_at", "started_at"])
def test_books_without_a_date_of_reading(goodreads, field, caplog):
    """Most books have none, which is written as an empty text."""
    rows = [review("a", "20", **{field: ""}), review("a", "100", **{field: DATE}), review("b", "100", **{field: ""})]
    write_lines(goodreads / "goodreads_reviews_dedup.json.gz", rows)
    logging.enable_propagation()
    data = prepare(goodreads, columns={"timestamp": field})
    logging.disable_propagation()
    assert interactions_of(data) == [("a", 100, 1501425850)]
    assert [(step.name, step.interactions) for step in data.steps] == [
        ("as read", 3),
        (f"with {field}", 1),
        ("all", 1),
    ]
    assert f"2 of 3 lines have no {field} and are left out" in caplog.text
    rows.append(review("b", "100", **{field: "30/07/2017"}))
    write_lines(goodreads / "goodreads_reviews_dedup.json.gz", rows)
    with pytest.raises(ValueError, match=f"line 4: {field} is no date like"):
        prepare(goodreads, columns={"timestamp": field})


def test_books_that_pass_and_lose_their_readers(goodreads):
    """Book 20 has ten readers, and none of them has fifty books. The catalog of the paper's preset keeps it."""
    books = [{"book_id": str(book), "title": f"Book {book}"} for book in range(20, 80)]
    write_lines(goodreads / "goodreads_books.json.gz", books)
    rows = [review(f"short {reader}", "20") for reader in range(10)]
    rows += [review(f"long {reader}", str(book)) for reader in range(10) for book in range(21, 71)]
    rows += [review("short 0", "79")]
    write_lines(goodreads / "goodreads_reviews_dedup.json.gz", rows)
    data = prepare(goodreads, None)
    assert data.items["item_id"].to_list() == list(range(20, 71))
    assert data.steps[-1] == FilterStep(
        "users ≥ 50 interactions, items ≥ 10 users; items that stay without users: 1", 10, 50, 500
    )
    card = describe_data(data)
    assert (card.counts["items in the catalog"], card.counts["items with interactions"]) == (51, 50)
    assert "items that stay without users: 1 | 10 | 50 | 500 |" in card.to_markdown()
    data.save(goodreads / "saved")
    again = prepare_data(goodreads / "saved")
    assert len(again.catalog) == 51
    assert again.steps == data.steps
    assert len(prepare(goodreads, {"keep_passing_items": False}).catalog) == 50


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (review("a", "20", date="30/07/2017"), r"date_added is no date like .* The line is '.*30/07/2017"),
        (review("a", "20", rating=6), "the rating lies outside 0 to 5"),
        ({"user_id": "a", "rating": 5, "date_added": DATE}, "item_id is missing"),
        ('{"user_id": "a", \n', "it is not valid JSON"),
    ],
)
def test_goodreads_names_the_line(goodreads, row, problem):
    rows = [review("a", "20")] * 3 + ["\n", row, review("a", "20")]
    write_lines(goodreads / "goodreads_reviews_dedup.json.gz", rows)
    with pytest.raises(ValueError, match=rf"goodreads_reviews_dedup\.json\.gz, line 5: {problem}"):
        prepare(goodreads)


def test_goodreads_truncated(goodreads):
    rows = [review(f"user {number * 7919 % 10007}", "20") for number in range(3000)]
    path = goodreads / "goodreads_reviews_dedup.json.gz"
    write_lines(path, rows)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"dedup\.json\.gz, line \d+: the compressed file ends or breaks there"):
        prepare(goodreads)


def test_goodreads_with_two_logs_of_a_kind(goodreads):
    for name in ("goodreads_reviews_a.json.gz", "goodreads_reviews_b.json.gz"):
        write_lines(goodreads / name, [review("a", "20")])
    with pytest.raises(ValueError, match=r"several files goodreads_reviews_\*.*Leave one"):
        prepare(goodreads)
