import numpy as np
import pytest

from patchrec_hf.runtime.history_units import HistoryUnits, encode_units
from patchrec_hf.runtime.layouts import Segment
from patchrec_hf.runtime.time_gaps import NO_GAP
from patchrec_hf.runtime.title_tokens import TitleTokens


PATCH, SEPARATOR = 90, 91
SEGMENTS = [
    Segment("session_patch", 0, 2),
    Segment("item_patch", 2, 4),
    Segment("text", 5, 6),  # item 4 is left out
]
# Titles of 1, 2, 3, 1, 2 and 2 tokens.
TITLES = TitleTokens(np.arange(10, 21), np.array([0, 1, 3, 6, 7, 9, 11]))


def test_units_of_segments() -> None:
    units = HistoryUnits.from_segments(SEGMENTS, 6)
    assert units.unit_of_item.tolist() == [0, 0, 1, 2, -1, 3]
    assert units.sizes.tolist() == [2, 1, 1, 1]
    assert units.is_text.tolist() == [False] * 5 + [True]
    assert units.unit_is_text.tolist() == [False, False, False, True]
    assert units.is_separated(True).tolist() == [True, True, True, False]
    assert units.is_separated(False).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([Segment("text", 0, 2), Segment("text", 1, 3)], "do not overlap"),
        ([Segment("text", 0, 4)], "for 3 items"),
        ([Segment("text", 2, 2)], "are not empty"),
        ([("word", 0, 3)], "granularities text, item_patch, session_patch"),
        ([], "left out all 3 items"),
    ],
)
def test_bad_segments(segments: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HistoryUnits.from_segments(segments, 3)


def test_positions_by_hand() -> None:
    units = HistoryUnits.from_segments(SEGMENTS, 6)
    gaps = np.array([NO_GAP, 0, 1, NO_GAP, 2, 3])
    part = encode_units(
        np.arange(6),
        units,
        TITLES,
        patch_id=PATCH,
        separator_id=SEPARATOR,
        separate_patches=True,
        num_residuals=3,
        gaps=gaps,
    )
    assert part.input_ids.tolist() == [PATCH, SEPARATOR, PATCH, SEPARATOR, PATCH, SEPARATOR, 19, 20]
    assert part.item_ends.tolist() == [0, 0, 2, 4, -1, 7]
    assert part.num_separators == 3
    # Item 0 with its residual; item 1 with its residual and gap 0; item 2 with its residual and gap 1; item 3.
    assert part.patches.token_ids.tolist() == [10, -1, 11, 12, -2, -4, 13, 14, 15, -3, -5, 16]
    assert part.patches.positions.tolist() == [0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 4]
    assert part.patches.divisors.tolist() == [2, 2, 4, 4, 2, 2, 3, 3, 3, 1, 1, 1]
    assert part.patches.title_starts.tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_text_is_separated_even_if_patches_are_not() -> None:
    units = HistoryUnits.from_segments([Segment("text", 0, 1), Segment("item_patch", 1, 3)], 3)
    part = encode_units(
        np.arange(3), units, TITLES, patch_id=PATCH, separator_id=SEPARATOR, separate_patches=False, num_residuals=0
    )
    assert part.input_ids.tolist() == [10, SEPARATOR, PATCH, PATCH]
    assert part.num_separators == 1
