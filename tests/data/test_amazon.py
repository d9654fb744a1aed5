"""Reading the files of Amazon Reviews 2023. Errors name the file and line."""

import pytest
from raw_files import PRODUCTS, REVIEWS, interactions_of, prepare, write_core, write_lines, write_reviews


@pytest.fixture
def amazon(tmp_path):
    (tmp_path / "meta").mkdir()
    write_lines(tmp_path / "meta" / "meta_All_Beauty.jsonl", PRODUCTS)
    return tmp_path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv"])
def test_amazon_by_hand(amazon, ending):
    write_core(amazon) if ending == "csv" else write_reviews(amazon, ending=ending)
    data = prepare(amazon, None)
    assert interactions_of(data) == [("u", "B2", 1588687728), ("u", "B1", 1588687728)]
    assert data.items.rows() == [("B2", "Soap"), ("B1", "Brush")]


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
