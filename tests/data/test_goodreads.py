"""Reading the files of Goodreads. Errors name the file and line."""

import os

import pytest
from raw_files import BOOKS, DATE, interactions_of, prepare, review, write_lines

from patchrec_hf.data.filters import Filters
from patchrec_hf.data.loading import load_recommendation_data


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


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (review("a", "20", date="30/07/2017"), r"date_added is no date like .* The line is '.*30/07/2017"),
        (review("a", "20", rating=6), "the rating lies outside 0 to 5"),
        ({"user_id": "a", "rating": 5, "date_added": DATE}, "item_id is missing"),
        ('{"user_id": "a", \n', "error parsing"),
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
