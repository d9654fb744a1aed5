"""Raw files in each published form, with their oddities: read right, or refused by file and line."""

import gzip
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import polars as pl
import pytest

from patchrec_hf.data.files import unpack
from patchrec_hf.data.filters import Filters
from patchrec_hf.data.loading import load_recommendation_data, prepare_data
from patchrec_hf.data.movielens import clean_movie_title, read_movielens
from patchrec_hf.data.sources import find_source
from patchrec_hf.data.splits import cut_times


ML100K_DIR = os.environ.get("PATCHREC_ML100K_DIR")
EVERYTHING = Filters(drop_repeats=False)


def keep_split(interactions):
    """A split for tests that look at the interactions only."""
    return interactions.with_columns(split=pl.lit("train"))


def interactions_of(data):
    return data.interactions.select("user_id", "item_id", "timestamp").rows()


def prepare(path, filters=EVERYTHING, **kwargs):
    return prepare_data(path, filters=filters, split=keep_split, **kwargs)


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("Toy Story (1995)", "Toy Story"),
        ("Usual Suspects, The (1995)", "The Usual Suspects"),
        ("Bronx Tale, A (1993)", "A Bronx Tale"),
        ("Walk in the Clouds, A (1995)", "A Walk in the Clouds"),
        ("Affair to Remember, An (1957)", "An Affair to Remember"),
        ("Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)", "Shanghai Triad"),
        ("'Til There Was You (1997)", "Til There Was You"),
        ("Postino, Il (1994)", "Postino, Il"),
        ("Thesis", "Thesis"),
    ],
)
def test_movie_titles_read_as_the_authors(published, expected):
    assert clean_movie_title(published) == expected


# MovieLens. One table of ratings, written in each of the published forms.

RATINGS = [(1, 1, 5, 30), (1, 2, 3, 10), (1, 3, 4, 20), (1, 2, 4, 40), (2, 1, 4, 5), (2, 2, 5, 6), (2, 3, 1, 7)]
MOVIES = [(1, "Léon: The Professional (1994)"), (2, "Net, The (1995)"), (3, "Never Rated (1990)")]


def write_100k(directory, ratings=RATINGS):
    (directory / "u.data").write_text("\n".join("\t".join(map(str, row)) for row in ratings) + "\n\n")
    movies = "".join(f"{number}|{title}|01-Jan-1994||x|0|1\n" for number, title in MOVIES)
    (directory / "u.item").write_bytes(movies.encode("latin-1"))
    return directory / "u.data"


def write_1m(directory, ratings=RATINGS):
    (directory / "ratings.dat").write_text("\n".join("::".join(map(str, row)) for row in ratings) + "\n\n")
    movies = "".join(f"{number}::{title}::Drama|Comedy\r\n" for number, title in MOVIES)
    (directory / "movies.dat").write_bytes(movies.encode("latin-1"))
    return directory / "ratings.dat"


def write_csv(directory, ratings=RATINGS):
    rows = "\n".join(",".join(map(str, row)) for row in ratings)
    (directory / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}\n\n")
    movies = "".join(f'{number},"{title}",Drama\n' for number, title in MOVIES)
    (directory / "movies.csv").write_text(f"movieId,title,genres\n{movies}", encoding="utf-8")
    return directory / "ratings.csv"


WRITERS = [write_100k, write_1m, write_csv]


@pytest.mark.parametrize("write", WRITERS)
def test_movielens_by_hand(tmp_path, write):
    write(tmp_path)
    data = prepare(tmp_path, Filters(min_rating=3.5, min_user_interactions=3))
    assert interactions_of(data) == [(1, 3, 20), (1, 1, 30), (1, 2, 40)]
    assert data.catalog.titles == ("Léon: The Professional", "The Net", "Never Rated")
    assert [(step.users, step.items, step.interactions) for step in data.steps] == [(2, 3, 7), (2, 3, 5), (1, 3, 3)]
    assert len(prepare(tmp_path).interactions) == 7
    assert prepare(tmp_path, title_rule=str).catalog.titles == tuple(title for _, title in MOVIES)


@pytest.mark.parametrize("write", WRITERS)
def test_movielens_in_an_archive(tmp_path, write):
    folder = tmp_path / "ml"
    folder.mkdir()
    write(folder)
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"ml/{path.name}")
    assert interactions_of(prepare(tmp_path / "ml.zip")) == interactions_of(prepare(folder))


def test_a_damaged_archive(tmp_path):
    (tmp_path / "ml.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"ml\.zip is damaged .* Download it again"):
        prepare(tmp_path / "ml.zip")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ((2, 1, 6, 9), "the rating lies outside"),
        ((2, 1, 0, 9), "the rating lies outside"),
        ((2, "x", 4, 9), "could not parse `x`"),
        ((2, 1, 4), "timestamp is missing"),
        ((2, 1, 4, 9, 9), "found more fields"),
    ],
)
def test_movielens_names_the_line(tmp_path, write, bad, problem):
    path = write(tmp_path, [*RATINGS, bad, *RATINGS])
    line = 9 if path.suffix == ".csv" else 8
    with pytest.raises(ValueError, match=rf"{path.name}, line {line}: {problem}.* The line is '2"):
        prepare(tmp_path)


def test_the_line_is_found_behind_many_others(tmp_path):
    path = write_csv(tmp_path, [*RATINGS * 30_000, (2, 1, 4, "soon")])
    with pytest.raises(ValueError, match=rf"{path.name}, line 210002: .*The line is '2,1,4,soon'"):
        read_movielens(tmp_path)


def test_half_stars(tmp_path):
    write_csv(tmp_path, [(1, 1, 3.5, 1), (1, 2, 0.5, 2), (1, 3, 3.0, 3)])
    assert interactions_of(prepare(tmp_path, Filters(min_rating=3.5))) == [(1, 1, 1)]
    write_100k(tmp_path, [(1, 1, 0.5, 1)])  # which is found first
    with pytest.raises(ValueError, match=r"u\.data, line 1: the rating lies outside 1 to 5"):
        prepare(tmp_path)


def test_movielens_without_a_title(tmp_path):
    write_1m(tmp_path)
    with (tmp_path / "movies.dat").open("a") as file:
        file.write("4:: ::Drama\n")
    with pytest.raises(ValueError, match=r"movies\.dat, line 4: the movie has no title"):
        prepare(tmp_path)


def test_movielens_with_an_unknown_movie(tmp_path):
    write_100k(tmp_path, [*RATINGS, (2, 77, 5, 50)])
    with pytest.raises(ValueError, match=r"Item 77, with which user 2 interacts, is not in the table of items"):
        prepare(tmp_path)
    assert 77 not in prepare(tmp_path, Filters(drop_untitled=True)).interactions["item_id"]


def test_movielens_with_a_missing_file_or_column(tmp_path):
    write_csv(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,stars,timestamp\n1,2,3,4\n")
    with pytest.raises(ValueError, match=r"ratings\.csv has no column 'rating'; its columns are .*'stars'"):
        prepare(tmp_path)
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    with pytest.raises(FileNotFoundError, match=r"holds no u\.item"):
        prepare(tmp_path)


@pytest.mark.skipif(not ML100K_DIR, reason="set PATCHREC_ML100K_DIR to a directory with u.data and u.item")
@pytest.mark.parametrize("ties", ["stable", "authors"])
def test_movielens_100k_is_the_papers(ties):
    data = prepare_data(ML100K_DIR, ties=ties)
    assert (data.interactions["user_id"].n_unique(), len(data.catalog), len(data.interactions)) == (682, 1682, 51824)
    assert cut_times(data.interactions) == (892079769, 892778297)
    examples, _ = load_recommendation_data(ML100K_DIR, ties=ties)
    assert {split: len(rows) for split, rows in examples.items()} == {
        "train": 47749,
        "validation": 1005,
        "test": 1024,
    }


# Goodreads

DATE = "Sun Jul 30 07:44:10 -0700 2017"  # 1501425850
BOOKS = [
    {"book_id": "20", "title": "Émile (Books, #1)", "title_without_series": "Émile", "isbn": ""},
    {"book_id": "5", "title": "", "title_without_series": ""},
    {"book_id": "100", "title": "The Body Electric"},
]


def review(user, book, rating=5, date=DATE, **fields):
    return {"user_id": user, "book_id": book, "review_id": "r", "rating": rating, "date_added": date, **fields}


def write_lines(path, rows):
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows).encode("utf-8")
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


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
    assert interactions_of(data) == [(0, 1, 1501425850), (1, 0, 1501425850), (1, 1, 1577836800)]
    assert data.items.rows() == [(0, "Émile (Books, #1)", "20"), (1, "The Body Electric", "100")]
    assert data.users.rows() == [(0, "a"), (1, "b")]
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


def test_an_archive_is_unpacked_once_by_all(tmp_path):
    names = [f"{number}.csv" for number in range(20)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name * 10_000)
    barrier = Barrier(4)

    def unpack_together(_):
        barrier.wait()
        return sorted(path.name for path in unpack(tmp_path / "a.zip", tmp_path / "a").iterdir())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(unpack_together, range(4))) == [sorted(names)] * 4


# Amazon Reviews 2023

PRODUCTS = [
    {"main_category": "All Beauty", "title": "Soap", "parent_asin": "B2", "price": 3.5, "images": [{"thumb": "x"}]},
    {"main_category": "All Beauty", "title": None, "parent_asin": "B9", "price": None},
    {"main_category": "All Beauty", "title": "Brush", "parent_asin": "B1"},
]
# Milliseconds: the first two reviews are of one second, in the wrong order.
REVIEWS = [("u", "B1", 5.0, 1588687728923), ("u", "B2", 4.0, 1588687728100), ("v", "B9", 1.0, 1588687728000)]


def write_reviews(directory, reviews=REVIEWS, ending="jsonl"):
    names = ["user_id", "parent_asin", "rating", "timestamp"]
    rows = [{"title": "Nice", "asin": "C", **dict(zip(names, row, strict=False))} for row in reviews]
    write_lines(directory / f"All_Beauty.{ending}", rows)
    return directory / f"All_Beauty.{ending}"


def write_core(directory, reviews=REVIEWS):
    rows = "".join(",".join(map(str, row)) + "\n" for row in reviews)
    (directory / "All_Beauty.csv").write_text(f"user_id,parent_asin,rating,timestamp\n{rows}\n")
    return directory / "All_Beauty.csv"


@pytest.fixture
def amazon(tmp_path):
    (tmp_path / "meta").mkdir()
    write_lines(tmp_path / "meta" / "meta_All_Beauty.jsonl", PRODUCTS)
    return tmp_path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv"])
def test_amazon_by_hand(amazon, ending):
    write_core(amazon) if ending == "csv" else write_reviews(amazon, ending=ending)
    data = prepare(amazon, None)
    assert interactions_of(data) == [(0, 0, 1588687728), (0, 1, 1588687728)]
    assert data.items.select("title", "original_id").rows() == [("Soap", "B2"), ("Brush", "B1")]


@pytest.mark.parametrize("write", [write_reviews, write_core])
def test_amazon_names_the_line(amazon, write):
    path = write(amazon, [*REVIEWS, ("w", "B1", 7.0, 1)])
    line = 5 if path.suffix == ".csv" else 4
    with pytest.raises(ValueError, match=rf"{path.name}, line {line}: the rating lies outside 1 to 5"):
        prepare(amazon)


def test_amazon_with_untitled_products(amazon):
    write_core(amazon)
    with pytest.raises(ValueError, match=r"Item 'B9', with which user 'v' interacts, .*Filters\(drop_untitled=True\)"):
        prepare(amazon)


def test_what_the_hub_keeps_of_downloads_is_no_file_of_the_data(amazon):
    write_core(amazon)
    kept = amazon / ".cache" / "huggingface" / "download"
    kept.mkdir(parents=True)
    for name in ("All_Beauty.csv.metadata", "meta_All_Beauty.jsonl.lock"):
        (kept / name).touch()
    files = find_source(amazon, amazon).files
    assert sorted(path.name for path in files) == ["All_Beauty.csv", "meta_All_Beauty.jsonl"]


def test_amazon_without_metadata(tmp_path):
    write_core(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no data set that is known"):
        prepare(tmp_path)


# Tables of one's own

LOG = pl.DataFrame(
    {
        "customer": ["ann", "bob", "ann", "ann"],
        "sku": ["007", "8", "8", "9"],
        "at": [1_700_000_000_500, 1_700_000_000_000, 1_700_000_000_000, 1_700_000_000_400],
        "name": ["Pen", "Ink", "Ink", "Nib"],
    }
)
NAMES = {"user_id": "customer", "item_id": "sku", "timestamp": "at", "title": "name"}


def write_table(frame, path):
    if path.name.endswith(".csv"):
        frame.write_csv(path)
    elif path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        frame.write_ndjson(path)
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "log.jsonl", "log.parquet"])
def test_tables_by_hand(tmp_path, name):
    path = write_table(LOG, tmp_path / name)
    data = prepare(path, columns=NAMES, time_unit="ms")
    # Within a second, milliseconds tell the order. 007 is another id than 7, so ids stay texts.
    assert interactions_of(data) == [
        (0, 1, 1_700_000_000),
        (0, 2, 1_700_000_000),
        (0, 0, 1_700_000_000),
        (1, 1, 1_700_000_000),
    ]
    assert data.items.rows() == [(0, "Pen", "007"), (1, "Ink", "8"), (2, "Nib", "9")]
    assert data.users["original_id"].to_list() == ["ann", "bob"]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_tables_with_numbers_dates_ratings_and_items_apart(tmp_path, name):
    times = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:02Z", "2024-01-01T00:00:01Z"]
    log = pl.DataFrame({"user_id": [5, 5, 5], "item_id": [70, 80, 90], "timestamp": times, "rating": [5.0, 2.0, 4.5]})
    items = pl.DataFrame({"item_id": [90, 80, 70], "title": ["C", "B", "A"]})
    path = write_table(log, tmp_path / name)
    data = prepare(path, Filters(min_rating=4), items=write_table(items, tmp_path / "items.csv"))
    assert interactions_of(data) == [(5, 70, 1704067200), (5, 90, 1704067201)]
    assert data.catalog.titles == ("C", "B", "A")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_tables_whose_later_ids_are_texts(tmp_path, name):
    rows = [{"user_id": i, "item_id": 7, "timestamp": 1_700_000_000.5 + i, "title": "Pen"} for i in range(1_500)]
    rows.append({"user_id": "ann", "item_id": 7, "timestamp": 1_800_000_000, "title": "Pen"})
    path = tmp_path / name
    if name.endswith("csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines))
    data = prepare(path)
    users = sorted([*map(str, range(1_500)), "ann"])
    assert data.users["original_id"].to_list() == users
    assert interactions_of(data)[-1] == (users.index("ann"), 7, 1_800_000_000)
    assert interactions_of(data)[1] == (1, 7, 1_700_000_001)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"customer": "who"}, r"no column 'customer'; its columns are .*'who'.*Name the file's own columns"),
        ({"name": "what"}, r"no column 'name'"),
    ],
)
def test_tables_with_a_missing_column(tmp_path, change, problem):
    path = write_table(LOG.rename(change), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=problem):
        prepare(path, columns=NAMES, time_unit="ms")


def test_tables_that_are_empty(tmp_path):
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(ValueError, match=r"log\.csv cannot be read: empty CSV"):
        prepare(tmp_path / "log.csv", columns=NAMES)
    (tmp_path / "log.csv").write_text("customer,sku,at,name\n")
    with pytest.raises(ValueError, match=r"log\.csv holds no interaction"):
        prepare(tmp_path / "log.csv", columns=NAMES)


def test_tables_without_titles(tmp_path):
    path = write_table(LOG.drop("name"), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"no column 'name'.* Titles may be in a file of their own, `items`"):
        prepare(path, columns=NAMES, time_unit="ms")
    with pytest.raises(FileNotFoundError, match=r"no file .*items\.csv, which `items` names"):
        prepare(path, columns=NAMES, time_unit="ms", items=tmp_path / "items.csv")


@pytest.mark.parametrize(
    ("time", "problem"),
    [("yesterday", "is missing, or no number or date that can be read"), ("", "is missing, or no number or date")],
)
def test_tables_name_the_line(tmp_path, time, problem):
    log = LOG.with_columns(at=pl.Series(["2024-01-01 10:00:00", "2024-01-02 10:00:00", time, "2024-01-01 10:00:00"]))
    path = write_table(log, tmp_path / "log.csv")
    with pytest.raises(ValueError, match=rf"log\.csv, line 4: 'at' {problem}"):
        prepare(path, columns=NAMES)


@pytest.mark.parametrize("rating", ["", "NaN", "good"])
def test_tables_need_a_rating_where_ratings_are_read(tmp_path, rating):
    path = write_table(LOG.with_columns(rating=pl.Series(["5", "4", rating, "3"])), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"log\.csv, line 4: 'rating' is missing or no number"):
        prepare(path, Filters(min_rating=3), columns=NAMES, time_unit="ms")


def test_tables_in_parquet_name_the_row(tmp_path):
    path = write_table(LOG.with_columns(at=pl.Series([1, 2, None, 3])), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet, row 3: 'at' is missing"):
        prepare(path, columns=NAMES)


def test_tables_in_another_time_unit(tmp_path):
    path = write_table(LOG, tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"line 2: 'at' is beyond the year 3000 in the unit 's'; set `time_unit`"):
        prepare(path, columns=NAMES)


def test_tables_with_two_titles_for_an_item(tmp_path):
    path = write_table(LOG.with_columns(name=pl.Series(["Pen", "Ink", "Tint", "Nib"])), tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"gives item '8' 2 titles: \['Ink', 'Tint'\]"):
        prepare(path, columns=NAMES, time_unit="ms")


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"columns": {"user": "customer"}}, r"`columns` names \['user'\]"),
        ({"columns": NAMES, "time_unit": "h"}, "`time_unit` must be one of"),
    ],
)
def test_tables_refuse_settings(tmp_path, kwargs, problem):
    with pytest.raises(ValueError, match=problem):
        prepare(write_table(LOG, tmp_path / "log.csv"), **kwargs)
