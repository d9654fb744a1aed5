"""Tables of neighbors: by hand, against loops over dense arrays, and as a file."""

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from patchrec_hf import Catalog
from patchrec_hf.runtime import neighbors
from patchrec_hf.runtime.hub_files import FORMAT_VERSION
from patchrec_hf.runtime.neighbors import NeighborTable, sum_by_cell


CATALOG = Catalog.from_titles({30: "a", 10: "b", 20: "c"})
HALVES = (0.5, 2)
NAME = "table.safetensors"


def table_of(dense, counting=HALVES, item_ids=None):
    """A table of the positive numbers of a square array."""
    dense = np.asarray(dense, dtype=np.float32)
    sources, targets = np.nonzero(dense)
    offsets = np.searchsorted(sources, np.arange(len(dense) + 1))
    item_ids = np.arange(10, 10 + len(dense)) if item_ids is None else item_ids
    return NeighborTable(offsets, targets.astype(np.int32), dense[sources, targets], item_ids, *counting)


def dense_of(table):
    dense = np.zeros((table.num_items, table.num_items), dtype=np.float32)
    dense[np.repeat(np.arange(table.num_items), np.diff(table.offsets)), table.targets] = table.values
    return dense


@pytest.fixture
def table():
    return table_of([[0, 4, 1], [2, 0, 0], [0, 8, 16]], item_ids=CATALOG.item_ids)


@st.composite
def dense_scores(draw):
    """A square array of few different numbers, so that many are equal, and of zeros, so that some rows are empty."""
    size = draw(st.integers(1, 6))
    numbers = st.sampled_from([0, 0, 0.25, 1, 2, 7])
    return np.array(draw(st.lists(numbers, min_size=size**2, max_size=size**2))).reshape(size, size)


def test_scores_by_hand(table):
    scores = table.scores([np.array([0]), np.array([0, 1]), np.array([2, 0, 1])])
    assert scores.tolist() == [[0, 4, 1], [2, 2, 0.5], [2, 2, 0.5]]  # two items count, the latest one twice as much
    assert scores.dtype == np.float64


def test_few_histories_or_none(table):
    assert table.scores([]).shape == (0, 3)
    assert table.scores([np.array([], dtype=np.int64), [1]]).tolist() == [[0, 0, 0], [2, 0, 0]]
    empty = table_of(np.zeros((3, 3)))
    assert empty.scores([np.array([0, 2])]).tolist() == [[0, 0, 0]]


def test_unknown_indices_are_skipped(table):
    """As if the history did not hold them: the two latest known items count, whatever stands behind them."""
    known, with_new = np.array([2, 0, 1]), np.array([3, 2, 99, 0, 3, 1, 4, 5])
    np.testing.assert_array_equal(table.scores([with_new, known]), table.scores([known, known]))
    assert table.scores([np.array([3, 4])]).tolist() == [[0, 0, 0]]


def test_further_items_get_no_score(table):
    assert table.scores([np.array([0]), np.array([4])], num_items=5).tolist() == [[0, 4, 1, 0, 0], [0] * 5]
    with pytest.raises(ValueError, match="`num_items` must be at least 3, the number of items of the table, got 2"):
        table.scores([np.array([0])], num_items=2)


@given(
    dense_scores(),
    st.lists(st.lists(st.integers(0, 7), max_size=6), max_size=6),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.integers(1, 4),
    st.sampled_from([1, 20, 2**18]),
)
def test_scores_equal_a_loop(dense, histories, decay, num_history_items, entries_per_block):
    expected = np.zeros((len(histories), len(dense)))
    for row, history in enumerate(histories):
        known = [item for item in history if item < len(dense)]
        for age, item in enumerate(known[::-1][:num_history_items]):
            expected[row] += decay**age * dense[item]
    with mock.patch.object(neighbors, "_ENTRIES_PER_BLOCK", entries_per_block):
        found = table_of(dense, (decay, num_history_items)).scores(
            [np.array(history, dtype=np.int32) for history in histories]
        )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_large_batches_are_added_up_in_blocks(table, monkeypatch):
    """The memory for single scores is bounded, and no row is left out or counted twice between the blocks."""
    sizes = []
    weighted_sums = NeighborTable._weighted_sums

    def counted(self, rows, sources, weights, num_rows):
        sizes.append(num_rows)
        return weighted_sums(self, rows, sources, weights, num_rows)

    histories = [np.array([row % 3]) for row in range(20)]
    expected = table.scores(histories)
    monkeypatch.setattr(NeighborTable, "_weighted_sums", counted)
    monkeypatch.setattr(neighbors, "_ENTRIES_PER_BLOCK", 12)
    np.testing.assert_array_equal(table.scores(histories), expected)
    assert sum(sizes) == 20
    assert max(sizes) <= 3  # a row takes 4 or 5: its scores, and 3 sums


@pytest.mark.parametrize("history", [np.array([0.5]), np.array([True]), 1, np.array([[0, 1]]), ["a"]])
def test_histories_are_lists_of_indices(table, history):
    with pytest.raises(TypeError, match="A history is a list of catalog indices, got"):
        table.scores([np.array([0]), history])


def test_negative_indices_are_refused(table):
    with pytest.raises(ValueError, match="begin with 0, got -1"):
        table.scores([np.array([0, -1])])


@given(dense_scores(), st.integers(1, 7))
def test_strongest_keeps_the_largest(dense, max_neighbors):
    expected = np.zeros_like(dense)
    for source, scores in enumerate(dense):
        best = sorted(np.flatnonzero(scores), key=lambda target: (-scores[target], target))[:max_neighbors]
        expected[source, best] = scores[best]
    table = table_of(dense)
    kept = table.strongest(max_neighbors)
    np.testing.assert_array_equal(dense_of(kept), expected)
    assert len(kept.values) == np.count_nonzero(expected)
    assert (kept.decay, kept.num_history_items) == HALVES
    assert kept.item_ids.tolist() == table.item_ids.tolist()


def test_strongest_of_equals_and_of_negative_scores():
    table = table_of([[0, 5, 5, 5], [-1, -2, 0, -3], [0, 0, 0, 0], [1, 9, 2, 9]])
    assert dense_of(table.strongest(2)).tolist() == [[0, 5, 5, 0], [-1, -2, 0, 0], [0, 0, 0, 0], [0, 9, 0, 9]]
    assert table.strongest(4) is table


@pytest.mark.parametrize("max_neighbors", [0, -3])
def test_strongest_keeps_at_least_one(table, max_neighbors):
    with pytest.raises(ValueError, match=f"`max_neighbors` must be at least 1, got {max_neighbors}"):
        table.strongest(max_neighbors)


def test_catalogs_of_a_table(table):
    table.check_catalog(CATALOG)
    table.check_catalog(CATALOG.with_items({40: "d", 5: "e"}))
    other_titles = Catalog(CATALOG.item_ids, ("x", "y", "z"))
    table.check_catalog(other_titles)  # a table knows no titles


def test_a_catalog_without_an_item_is_refused(table):
    with pytest.raises(
        ValueError, match=r"The catalog lacks 2 of the 3 items of the table .*such as item 10.*with_items"
    ):
        table.check_catalog(Catalog.from_titles({30: "a", 11: "b", 12: "c", 13: "d"}))
    with pytest.raises(ValueError, match=r"The catalog lacks 1 of the 3 items of the table .*such as item 20"):
        table.check_catalog(Catalog.from_titles({30: "a", 10: "b"}))


def test_a_catalog_in_another_order_is_refused(table):
    with pytest.raises(ValueError, match=r"Item 10 \('b'\) has the index 1 in the table of neighbors, but 3 in the"):
        table.check_catalog(Catalog.from_titles({30: "a", 40: "d", 20: "c", 10: "b"}))


@pytest.mark.parametrize("target_type", [np.int32, np.int64])
def test_a_saved_table_is_the_same(table, tmp_path, target_type):
    table = replace(table, targets=table.targets.astype(target_type), decay=1 / 3, num_history_items=7)
    table.save(tmp_path / "new" / NAME, window=3)
    loaded = NeighborTable.load(tmp_path / "new" / NAME)
    assert (loaded.decay, loaded.num_history_items) == (1 / 3, 7)
    assert NeighborTable.settings_of(tmp_path / "new" / NAME) == {"window": 3}
    for name in ("offsets", "targets", "values", "item_ids"):
        found, expected = getattr(loaded, name), getattr(table, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    histories = [np.array([0, 1, 2]), np.array([2])]
    np.testing.assert_array_equal(loaded.scores(histories), table.scores(histories))


def test_the_file_is_safetensors(table, tmp_path):
    """One file; its metadata hold the version and the settings, and nothing is pickled."""
    table.save(tmp_path / NAME)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    content = (tmp_path / NAME).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.pop("__metadata__")
    assert header.keys() == {"offsets", "targets", "values", "item_ids"}
    assert metadata["format_version"] == str(FORMAT_VERSION)
    assert json.loads(metadata["counting"]) == {"decay": 0.5, "num_history_items": 2}


def test_an_empty_table_can_be_saved(tmp_path):
    table_of(np.zeros((2, 2))).save(tmp_path / NAME)
    assert NeighborTable.load(tmp_path / NAME).scores([[0]]).tolist() == [[0, 0]]


def test_arrays_with_gaps_and_numbers_of_numpy_can_be_saved(tmp_path):
    """safetensors copies memory as it lies, and JSON has no type for numbers of NumPy."""
    ids = np.array([30, -1, 10, -1, 20, -1])[::2]
    counting = (np.float32(0.5), np.int64(3))
    table_of([[0, 4, 1], [2, 0, 0], [0, 8, 16]], counting, ids).save(tmp_path / NAME, window=np.int64(3))
    loaded = NeighborTable.load(tmp_path / NAME)
    assert loaded.item_ids.tolist() == [30, 10, 20]
    assert (loaded.decay, loaded.num_history_items) == (0.5, 3)


def rewrite(directory, without=(), **changes):
    """Writes the file anew, without some of its arrays and metadata, or with other metadata."""
    with safe_open(directory / NAME, framework="numpy") as file:
        metadata = {**file.metadata(), **changes}
    arrays = load_file(directory / NAME)
    save_file(
        {name: array for name, array in arrays.items() if name not in without},
        directory / NAME,
        {name: text for name, text in metadata.items() if name not in without},
    )


def test_a_newer_format_is_refused(table, tmp_path):
    table.save(tmp_path / NAME)
    rewrite(tmp_path, format_version=str(FORMAT_VERSION + 1), without=["values"])  # named before what is missing
    with pytest.raises(ValueError, match=f"{NAME} has format version {FORMAT_VERSION + 1}.*Upgrade"):
        NeighborTable.load(tmp_path / NAME)


@pytest.mark.parametrize("name", ["offsets", "targets", "values", "item_ids", "counting"])
def test_another_file_is_refused(table, tmp_path, name):
    table.save(tmp_path / NAME)
    rewrite(tmp_path, without=[name])
    with pytest.raises(ValueError, match=f"holds no table of neighbors: it lacks `{name}`"):
        NeighborTable.load(tmp_path / NAME)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("offsets", [0, 2, 3], r"needs 4 offsets and 5 targets, got arrays of the shapes \(3,\) and \(5,\)"),
        ("targets", [0, 1], r"needs 4 offsets and 5 targets, got arrays of the shapes \(4,\) and \(2,\)"),
        ("offsets", [0, 2, 3, 4], "`offsets` must ascend from 0 to the number of scores, 5"),
        ("offsets", [1, 2, 3, 5], "`offsets` must ascend from 0 to the number of scores, 5"),
        ("offsets", [0, 4, 3, 5], "`offsets` must ascend from 0 to the number of scores, 5"),
        ("targets", [1, 2, 0, 1, 3], "`targets` must be catalog indices from 0 to 2, got 3"),
        ("targets", [-1, 2, 0, 1, 2], "`targets` must be catalog indices from 0 to 2, got -1"),
        ("targets", [1, 2, 0, 2, 1], "the targets of index 2 do not"),
        ("targets", [1, 1, 0, 1, 2], "the targets of index 0 do not"),
    ],
)
def test_damaged_tables_are_refused(table, name, array, message):
    with pytest.raises(ValueError, match=message):
        replace(table, **{name: np.array(array, dtype=np.int64)})


@pytest.mark.parametrize("name", ["offsets", "targets", "values", "item_ids"])
def test_other_dtypes_are_refused(table, name):
    with pytest.raises(TypeError, match=f"`{name}` must be an array of .*, got float64"):
        replace(table, **{name: getattr(table, name).astype(np.float64)})


@settings(max_examples=60, deadline=None)
@given(
    lists_of_values=st.lists(st.lists(st.integers(-2, 3), min_size=1, max_size=12), max_size=6),
    number=st.integers(1, 8),
    long_row=st.integers(0, 9),
)
def test_the_largest_of_long_rows_are_those_of_sorting(lists_of_values, number, long_row):
    rows = np.repeat(np.arange(len(lists_of_values)), [len(values) for values in lists_of_values])
    values = np.array([value for values in lists_of_values for value in values], dtype=np.float32)
    expected = [
        place in sorted(range(len(row)), key=lambda other, row=row: -row[other])[:number]
        for row in lists_of_values
        for place in range(len(row))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_LONG_ROW", long_row)
        assert neighbors.is_among_largest(rows, values, number).tolist() == expected


@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(-2, 2, width=32)), max_size=30),
    st.sampled_from([0, 1, 10**6]),
)
def test_values_are_summed_by_cell_by_sorting_and_by_counting(pairs, cells_per_value):
    cells = np.array([cell for cell, _ in pairs], dtype=np.int64)
    values = np.array([value for _, value in pairs], dtype=np.float32)
    expected = {}
    for cell, value in pairs:
        expected[cell] = expected.get(cell, 0.0) + value
    with mock.patch.object(neighbors, "_CELLS_PER_VALUE", cells_per_value):
        distinct, sums = sum_by_cell(cells, values)
    assert distinct.tolist() == sorted(expected)
    assert sums.dtype == np.float64
    np.testing.assert_allclose(sums, [expected[cell] for cell in sorted(expected)], atol=1e-12)
