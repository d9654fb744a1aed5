"""A misspelt keyword is named with the nearest right one."""

import inspect

import pytest

from patchrec_hf import load_recommendation_data, prepare_data
from patchrec_hf.data.keywords import check_keys, name_nearest_keyword, nearest, nearest_file


def test_the_nearest_name():
    assert nearest("max_histroy", ["min_history", "max_history", "split"]) == "did you mean 'max_history'?"
    assert nearest("zzz", ["split", "ties"]) == "it must be among ['split', 'ties']."


def test_upper_case_is_no_difference():
    assert nearest("user_id", ["TITLE", "USER_ID"]) == "did you mean 'USER_ID'?"


def test_the_nearest_file(tmp_path):
    for name in ("logs/clicks.csv", "logs/products.csv", "Logs-old/clicks.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert nearest_file(tmp_path / "logs" / "clicks.cvs") == f" Did you mean {tmp_path / 'logs' / 'clicks.csv'}?"
    # A directory that does not exist may be the misspelt part.
    assert nearest_file(tmp_path / "lgos" / "clicks.csv") == f" Did you mean {tmp_path / 'logs' / 'clicks.csv'}?"
    assert nearest_file(tmp_path / "lgos" / "more" / "clicks.csv") == f" Did you mean {tmp_path / 'logs'}?"
    assert nearest_file(tmp_path / "else.txt") == ""


def test_keys_of_a_mapping():
    check_keys("columns", {"title": "name"}, ["title", "rating"])
    with pytest.raises(ValueError, match=r"`columns` has the unknown key 'titel'; did you mean 'title'\?"):
        check_keys("columns", {"titel": "name"}, ["title", "rating"])
    with pytest.raises(ValueError, match=r"`columns` has the unknown key 3; it must be among \['title'\]"):
        check_keys("columns", {3: "name"}, ["title"])


def test_a_decorated_function_is_the_same_but_for_its_error():
    @name_nearest_keyword
    def double(number: int, *, times: int = 1) -> int:
        """Doubles."""
        return number * 2**times

    assert double(3) == 6
    assert double(3, times=2) == 12
    assert double.__doc__ == "Doubles."
    assert list(inspect.signature(double).parameters) == ["number", "times"]
    with pytest.raises(TypeError, match=r"double\(\) got an unexpected keyword 'time'; did you mean 'times'\?"):
        double(3, time=2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'number'"):
        double()


@pytest.mark.parametrize("function", [load_recommendation_data, prepare_data])
@pytest.mark.parametrize(
    ("kwargs", "error", "problem"),
    [
        ({"colums": {}}, TypeError, r"{name}\(\) got an unexpected keyword 'colums'; did you mean 'columns'\?"),
        (
            {"filters": {"min_user_interaction": 5}},
            ValueError,
            r"`filters` has the unknown key 'min_user_interaction'; did you mean 'min_user_interactions'\?",
        ),
        ({"columns": {"item": "sku"}}, ValueError, r"`columns` has the unknown key 'item'; did you mean 'item_id'\?"),
        ({"filters": ["k_core"]}, TypeError, r"`filters` must be `Filters\(...\)` or a mapping, got `list`"),
    ],
)
def test_loading_names_the_nearest_keyword(tmp_path, function, kwargs, error, problem):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,title\n1,2,3,Pen\n")
    with pytest.raises(error, match=problem.replace("{name}", function.__name__)):
        function(tmp_path / "log.csv", **kwargs)


def test_a_misspelt_length_of_histories():
    problem = r"load_recommendation_data\(\) got an unexpected keyword 'max_histroy'; did you mean 'max_history'\?"
    with pytest.raises(TypeError, match=problem):
        load_recommendation_data("sample", max_histroy=50)
