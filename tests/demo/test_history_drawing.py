import re

import pytest

from patchrec_hf.demo.history_drawing import KINDS, describe_counts, draw_history
from patchrec_hf.demo.read_history import ReadHistory, ReadUnit


def history_of(*units):
    return ReadHistory(units, 12, 40, 1_234)


def test_a_unit_has_one_mark_for_each_position():
    units = (
        ReadUnit("session_patch", ("Emma", "Poems"), (False, False), 1),
        ReadUnit("item_patch", ("Typhoon",), (False,), 1),
        ReadUnit("text", ("Ozma of Oz",), (False,), 4),
    )
    drawn = re.findall(r'<li class="pr-unit pr-(\w+)"(.*?)</li>', draw_history(history_of(*units)))
    assert [(kind, html.count("<i ")) for kind, html in drawn] == [
        ("session_patch", 1),
        ("item_patch", 1),
        ("text", 4),
    ]
    assert all(KINDS[kind][0] in html for kind, html in drawn)  # a name, beside the color
    assert drawn[0][1].count("class='pr-title'") == 2


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", "War & Peace", "A \"B\" 'C'", "<img src=x onerror=y>"])
def test_markup_in_titles_is_text(title):
    drawn = draw_history(history_of(ReadUnit("text", (title,), (True,), 3)))
    assert title not in drawn or not set(title) & set("<>&\"'")
    assert "<script" not in drawn
    assert "<img" not in drawn


def test_the_legend_explains_what_is_drawn():
    plain = draw_history(history_of(ReadUnit("text", ("Emma",), (False,), 1)))
    assert all(KINDS[kind][1] in plain for kind in ("text", "item_patch", "session_patch"))
    assert KINDS["not_read"][1] not in plain
    assert KINDS["not_read"][1] in draw_history(history_of(ReadUnit("not_read", ("Emma",), (False,), 0)))


def test_a_new_title_is_named_so():
    assert draw_history(history_of(ReadUnit("text", ("Emma",), (True,), 1))).count("<em>new</em>") == 1


def test_counts_are_said():
    unit = ReadUnit("session_patch", ("Emma", "Poems"), (False, False), 1)
    text = re.sub("<[^>]+>", "", describe_counts(history_of(unit)))
    assert text == "2 items take 12 positions, and the whole prompt 40. As text, the history would take 1,234."
    one = describe_counts(history_of(ReadUnit("item_patch", ("Emma",), (False,), 1)))
    assert one.startswith("1 item takes")
