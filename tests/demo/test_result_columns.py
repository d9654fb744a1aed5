import math
import re

import pytest

from patchrec_hf.demo.methods import DemoMethod, MethodResult, RankedItem
from patchrec_hf.demo.result_columns import draw_columns, draw_message, draw_ranked, format_milliseconds


FUSION = DemoMethod("fusion", "Fusion", "log-probability")
TITLES = DemoMethod("exact", "Titles (exact)", "log-probability", "No <titles> here.")


def columns_of(html):
    return dict(re.findall(r'<section class="pr-column (pr-\w+)" data-method="(\w+)"', html))


def test_each_method_has_its_state():
    item = RankedItem("Emma", 10, -1.0, False)
    html = draw_columns([FUSION, TITLES], [MethodResult(FUSION, (item,), 12.4)])
    assert columns_of(html) == {"pr-ranked": "fusion", "pr-absent": "exact"}
    assert "No &lt;titles&gt; here." in html
    assert "12 ms" in html
    assert columns_of(draw_columns([FUSION], [])) == {"pr-waiting": "fusion"}
    failed = draw_columns([FUSION], [MethodResult(FUSION, error="too <long>")])
    assert columns_of(failed) == {"pr-failed": "fusion"}
    assert "too &lt;long&gt;" in failed


def test_a_list_that_is_not_proven_says_so():
    item = RankedItem("Emma", 10, -1.0, False)
    assert "not proven" in draw_columns([FUSION], [MethodResult(FUSION, (item,), 1.0, is_exact=False)])
    assert "not proven" not in draw_columns([FUSION], [MethodResult(FUSION, (item,), 1.0)])


def test_bars_show_how_likely_items_are_relative_to_the_first():
    html = draw_ranked([RankedItem("A", 1, -1.0, False), RankedItem("B", 2, -1.0 - math.log(4), False)])
    assert re.findall(r"width:([\d.]+)%", html) == ["100.0", "25.0"]
    assert re.findall(r'pr-score">([-\d.]+)<', html) == ["-1.00", "-2.39"]


def test_seen_items_are_marked():
    html = draw_ranked([RankedItem("A", 1, 2.0, True), RankedItem("B", 2, 1.0, False)])
    assert re.findall(r'<li class="([\w -]+)">', html) == ["pr-item pr-seen", "pr-item"]
    assert html.count(">seen<") == 1


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", "<b>bold</b>", "a & b"])
def test_markup_is_text(title):
    for html in (draw_ranked([RankedItem(title, 1, 0.0, False)]), draw_message(title)):
        assert title not in html


def test_times_have_two_digits_that_matter():
    assert [format_milliseconds(time) for time in (3.21, 48.4, 1250.0)] == ["3.2 ms", "48 ms", "1,250 ms"]
