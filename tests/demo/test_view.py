import re

import pytest
from demo_parts import demo_recommender

from patchrec_hf import ItemPatchLayout, PatchRecommender, TimeWindowLayout
from patchrec_hf.demo.view import DemoView


@pytest.fixture
def view(processor):
    return DemoView(demo_recommender(processor), "outputs/<final>", "Readers are synthetic.")


def states(columns):
    return re.findall(r'pr-column pr-(\w+)" data-method', columns)


def test_methods_appear_one_after_the_other(view):
    frames = list(view.render(["Emma", "Typhoon"], 3, False, 14))
    assert [states(columns).count("waiting") for _, columns in frames] == [4, 3, 2, 1, 0]
    assert len({drawing for drawing, _ in frames}) == 1
    assert frames[-1][1].count("pr-item") == 4 * 3


def test_the_budget_changes_the_drawing(view):
    history = ["Emma", "Persuasion", "Typhoon", "The Time Machine", "The Time Traders", "A Study in Scarlet"]
    wide, narrow = (next(view.render(history, 1, False, budget))[0] for budget in (14, 4))
    assert "pr-unit pr-session_patch" in narrow
    assert "pr-unit pr-session_patch" not in wide
    count = re.compile(r"data-count='history'>(\d+)<")
    assert int(count.search(narrow)[1]) <= 4 < int(count.search(wide)[1]) <= 14


def test_a_layout_without_budget_does_not_read_it(processor):
    view = DemoView(demo_recommender(processor, ItemPatchLayout(0)), "final")
    *_, (drawing, columns) = view.render(["Emma"], 1, False, 14)
    assert "pr-unit pr-item_patch" in drawing
    assert states(columns) == ["ranked"] * 4


def test_an_empty_history_asks_for_items(view):
    for labels in ([], None, ["  "]):
        ((drawing, columns),) = view.render(labels, 3, False, 14)
        assert "at least one item" in drawing
        assert columns == ""


def test_a_history_that_cannot_be_read_is_explained(view):
    ((drawing, columns),) = view.render(["Emma"], 3, False, 2)
    assert "`max_tokens=2` is below what a prompt needs" in drawing
    assert columns == ""


def test_special_tokens_in_a_title_are_text(view):
    drawing, _ = next(view.render(["Emma", "A <|patch|> of mine"], 3, False, 14))
    assert "A &lt;|patch|&gt; of mine" in drawing


def test_absent_methods_are_columns_too(model, processor):
    *_, (_, columns) = DemoView(PatchRecommender(model, processor), "final").render(["Emma"], 2, False, None)
    assert states(columns) == ["absent", "absent", "ranked", "absent"]


def test_the_heading_says_what_is_shown(view, processor):
    heading = view.heading()
    assert "outputs/&lt;final&gt;" in heading
    assert "12 items · BudgetLayout · reads the latest 8 items" in heading
    assert "Readers are synthetic." in heading
    timed = DemoView(demo_recommender(processor, TimeWindowLayout(60)), "final").heading()
    assert "assumes one item a day" in timed
    assert "pr-notice" not in DemoView(demo_recommender(processor), "final").heading()


def test_an_example_history_has_labels_that_it_can_read(view):
    example = view.example(0)
    assert len(example) == 8  # not more than the model reads
    assert set(example) <= set(view.labels.texts)
    assert view.example(0) == example
