"""Titles that need cleaning."""

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchrec_hf.data.titles import find_faults, tidy_title


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("  Pen\t and \n Ink\u00a0", "Pen and Ink"),
        ("Salt &amp; Pepper &#39;Mill&#x27;", "Salt & Pepper 'Mill'"),
        ("AT&amp;amp;T", "AT&T"),
        ("<b>Pen</b><br/>Ink", "Pen Ink"),
        ("H<sub>2</sub>O", "H2O"),
        ('<p class="big">Pen</p><p>Ink</p>', "Pen Ink"),
        ("&lt;i&gt;Emma&lt;/i&gt;", "Emma"),
        ("Pen<!-- new --> box", "Pen box"),
        # No markup.
        ("I <3 You", "I <3 You"),
        ("a < b and c > d", "a < b and c > d"),
        ("Effective Vec<T>", "Effective Vec<T>"),
        ("R&D at AT&T", "R&D at AT&T"),
        ("", ""),
    ],
)
def test_titles_by_hand(title, clean):
    assert tidy_title(title) == clean


@given(st.text(alphabet=st.sampled_from(list("ab <>/&;#3!-\tbrlt")), max_size=30))
@example("&a3;")
def test_a_clean_title_stays(title):
    clean = tidy_title(title)
    assert tidy_title(clean) == clean
    names = [name for name, _, _ in find_faults(pl.Series([clean], dtype=pl.String))]
    assert "titles with untidy white space" not in names
    assert "titles with markup" not in names


def test_faults_by_hand():
    titles = pl.Series(["Pen", " Ink", "Ink  blue", "Nib\u00a0set", "<b>Pad</b>", "A &amp; B", "x" * 201, "x" * 200])
    found = {name: faulty.to_list() for name, _, faulty in find_faults(titles)}
    assert found == {
        "titles with untidy white space": [" Ink", "Ink  blue", "Nib\u00a0set"],
        "titles with markup": ["<b>Pad</b>", "A &amp; B"],
        "titles of more than 200 characters": ["x" * 201],
    }
    assert find_faults(pl.Series(["Pen", "I <3 R&D"])) == []
