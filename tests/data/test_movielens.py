"""Reading the files of MovieLens in each published form. Errors name the file and line."""

import os
import zipfile

import pytest
from raw_files import MOVIES, RATINGS, WRITERS, interactions_of, prepare, write_1m, write_100k, write_csv

from patchrec_hf.data.filters import Filters
from patchrec_hf.data.loading import load_recommendation_data, prepare_data
from patchrec_hf.data.movielens import clean_movie_title
from patchrec_hf.data.splits import cut_times


ML100K_DIR = os.environ.get("PATCHREC_ML100K_DIR")


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


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ((2, 1, 6, 9), "the rating lies outside"),
        ((2, 1, 0, 9), "the rating lies outside"),
        ((2, "x", 4, 9), "'(item_id|movieId)' must be a"),
        ((2, 1, 4), "(timestamp is missing|it holds 3 values)"),
        ((2, 1, 4, 9, 9), "it holds (more values than there are columns|5 values)"),
    ],
)
def test_movielens_names_the_line(tmp_path, write, bad, problem):
    path = write(tmp_path, [*RATINGS, bad, *RATINGS])
    line = 9 if path.suffix == ".csv" else 8
    with pytest.raises(ValueError, match=rf"{path.name}, line {line}: {problem}.* The line is '2"):
        prepare(tmp_path)


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
    with pytest.raises(ValueError, match=r"ratings\.csv has no column 'rating'; its columns are .*'stars'.*\]\.$"):
        prepare(tmp_path)
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    with pytest.raises(FileNotFoundError, match=r"holds no u\.item"):
        prepare(tmp_path)


@pytest.mark.skipif(not ML100K_DIR, reason="set PATCHREC_ML100K_DIR to a directory with u.data and u.item")
@pytest.mark.parametrize("ties", ["stable", "release"])
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("write", [write_100k, write_1m])
def test_titles_that_were_saved_again(tmp_path, write, encoding):
    write(tmp_path)
    movies = next(path for path in tmp_path.iterdir() if path.name in ("u.item", "movies.dat"))
    movies.write_bytes(movies.read_bytes().decode("latin-1").encode(encoding))
    assert prepare(tmp_path).items["title"][0] == "Léon: The Professional"


def test_an_archive_that_is_packed_in_another_way(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_100k(folder)
    expected = interactions_of(prepare(folder))
    with zipfile.ZipFile(tmp_path / "ML.ZIP", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"outer/ml-100k/{path.name.upper()}")
        archive.writestr("__MACOSX/outer/._u.data", b"x")
        archive.writestr(".DS_Store", b"x")
    assert interactions_of(prepare(tmp_path / "ML.ZIP")) == expected
