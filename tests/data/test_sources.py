"""`find_source` recognizes data sets by name or path."""

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from raw_files import MOVIES, PRODUCTS, RATINGS, prepare, write_1m, write_100k, write_core, write_csv, write_lines

from patchrec_hf import Filters, load_recommendation_data
from patchrec_hf.data.sources import find_source
from patchrec_hf.data.table_options import TableOptions


@pytest.fixture
def amazon(tmp_path):
    (tmp_path / "meta").mkdir()
    write_lines(tmp_path / "meta" / "meta_All_Beauty.jsonl", PRODUCTS)
    return tmp_path


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
    with pytest.raises(FileNotFoundError, match="holds no known data set"):
        prepare(tmp_path)


def test_names_that_stand_for_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file, directory or public data set 'ml-10m'.*ml-1m"):
        load_recommendation_data("ml-10m")
    (tmp_path / "notes.doc").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no known data set.*notes\.doc"):
        load_recommendation_data(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.doc is of no known kind"):
        load_recommendation_data(tmp_path / "notes.doc")


def test_a_misspelt_name_or_path(tmp_path, monkeypatch):
    (tmp_path / "clicks.csv").write_text("user_id,item_id,timestamp\n1,2,3\n")
    (tmp_path / "products.csv").write_text("item_id,title\n2,Pen\n")
    found = rf"Did you mean {tmp_path / 'clicks.csv'}\?"
    with pytest.raises(FileNotFoundError, match=rf"no file, directory or public data set .*clicks\.cvs'\. {found}"):
        prepare(tmp_path / "clicks.cvs")
    with pytest.raises(FileNotFoundError, match=r"no file .*product\.csv, which `items` names\. Did.*products\.csv\?"):
        prepare(tmp_path / "clicks.csv", items=tmp_path / "product.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Did you mean clicks\.csv\?"):
        prepare("click.csv")
    with pytest.raises(FileNotFoundError, match=r"'movielens-1m'\. The known names are ml-100k, ml-1m"):
        prepare("movielens-1m")
    with pytest.raises(FileNotFoundError, match=r"'ML-1M'\. Did you mean 'ml-1m'\?"):
        prepare("ML-1M")


def test_a_path_that_may_be_a_name_of_the_hub(tmp_path, monkeypatch):
    """With an owner that is a directory here, the name can be a mistyped path."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "clicks.csv").touch()
    monkeypatch.chdir(tmp_path)

    def fail(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("patchrec_hf.data.cache.snapshot_download", fail)
    for path in ("logs/clicks.cvs", "lgos/clicks.csv"):
        with pytest.raises(FileNotFoundError, match=r"Did you mean logs/clicks\.csv\?.*no data set.*Hub"):
            prepare(path)


@pytest.mark.parametrize(
    ("write", "names", "least"),
    [
        (write_100k, ["u.data", "u.item"], 21),
        (write_1m, ["movies.dat", "ratings.dat"], 1),
        (write_csv, ["movies.csv", "ratings.csv"], 1),
    ],
)
def test_movielens_is_known_by_its_files(tmp_path, write, names, least):
    write(tmp_path)
    (tmp_path / "README").touch()
    source = find_source(tmp_path, tmp_path)
    assert [path.name for path in source.files] == names
    assert (source.filters.min_rating, source.filters.min_user_interactions) == (3.5, least)
    assert source.title_rule("Net, The (1995)") == "The Net"
    assert source.keeps_all_items
    assert len(source.read(Filters()).interactions) == len(RATINGS)
    assert len(source.read(Filters()).items) == len(MOVIES)


def test_a_table_and_its_items_are_the_source(tmp_path):
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id,timestamp\n1,2,3\n")
    items.write_text("item_id,title\n2,Emma\n")
    source = find_source(log, tmp_path, items=items)
    assert source.files == (log, items)
    assert source.read(Filters()).items["title"].to_list() == ["Emma"]
    assert source.license_terms is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"items": "items.csv"}, "`items`, .* apply to your own log file or data frame only"),
        ({"options": TableOptions(time_unit="ms")}, "`time_unit`.* apply to your own log file or data frame only"),
        ({"options": TableOptions(separator=";")}, "`separator`.* apply to your own log file or data frame only"),
        ({"options": TableOptions(columns={"title": "name"})}, "`columns` applies to your own log or to Goodreads"),
    ],
)
def test_settings_for_tables_are_refused_for_a_published_data_set(tmp_path, kwargs, message):
    write_csv(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_source(tmp_path, tmp_path, **kwargs)


def test_a_published_data_set_takes_no_condition(tmp_path):
    write_csv(tmp_path)
    with pytest.raises(ValueError, match="The filter `where` applies to your own log or data frame only"):
        prepare(tmp_path, filters={"where": {"rating": 5}})
