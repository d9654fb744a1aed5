"""Raw data sets in each published form."""

import gzip
import json

import polars as pl

from patchrec_hf.data.filters import Filters
from patchrec_hf.data.loading import prepare_data


EVERYTHING = Filters(drop_duplicates=False)


def keep_split(interactions):
    """A split for tests that look at the interactions only."""
    return interactions.with_columns(split=pl.lit("train"))


def interactions_of(data):
    return data.interactions.select("user_id", "item_id", "timestamp").rows()


def prepare(path, filters=EVERYTHING, **kwargs):
    return prepare_data(path, filters=filters, split=keep_split, **kwargs)


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
