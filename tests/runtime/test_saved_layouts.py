"""A checkpoint keeps the settings of a layout, and the import path of a class that is not the library's."""

import json
import sys
from dataclasses import dataclass

import pytest
from layouts_of_users import EveryOtherLayout, LongTextLayout, NamelessLayout, ObjectLayout, Outer
from transformers import AutoProcessor

from patchrec_hf import PatchRecommender, PatchRecProcessor
from patchrec_hf.runtime.layouts import (
    DropLayout,
    ItemPatchLayout,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
)
from patchrec_hf.runtime.long_layouts import BudgetLayout, PyramidLayout, TimeWindowLayout
from patchrec_hf.runtime.saved_layouts import check_saved_layout, layout_from_dict, layout_to_dict


LAYOUTS = [
    TextLayout(),
    ItemPatchLayout(num_text_items=2),
    SessionPatchLayout(group_size=3),
    SessionPatchLayout(group_size=4, align="oldest"),
    RandomPatchLayout(probability=0.25),
    DropLayout(probability=0.5),
    TimeWindowLayout(3600, num_text_items=1),
    PyramidLayout(num_text_items=3, width=6),
    BudgetLayout(200),
    BudgetLayout(200, min_tokens=25, num_text_items=0),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
def test_dict_round_trip(layout):
    again = layout_from_dict(json.loads(json.dumps(layout_to_dict(layout))))
    assert type(again) is type(layout)
    assert again == layout


def test_dict_holds_the_name_and_every_setting():
    assert layout_to_dict(SessionPatchLayout(7, "oldest")) == {"name": "session", "group_size": 7, "align": "oldest"}
    assert layout_to_dict(TextLayout()) == {"name": "text"}


@pytest.mark.parametrize("values", [{"name": "spiral"}, {}])
def test_unknown_name_is_refused(values):
    with pytest.raises(ValueError, match=f"Unknown layout {values.get('name')!r}; known layouts are 'text', 'item'"):
        layout_from_dict(values)


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        (EveryOtherLayout(1), "layouts_of_users:EveryOtherLayout"),
        (LongTextLayout(more=3), "layouts_of_users:LongTextLayout"),  # not read as ItemPatchLayout, whose name it has
        (Outer.InnerLayout(1), "layouts_of_users:Outer.InnerLayout"),
    ],
    ids=repr,
)
def test_a_layout_of_ones_own_is_loaded_where_its_code_is_trusted(layout, path):
    values = json.loads(json.dumps(layout_to_dict(layout)))
    assert values["class"] == path
    again = layout_from_dict(values, trust_layout_code=True)
    assert type(again) is type(layout)
    assert again == layout
    class_name = type(layout).__name__
    with pytest.raises(
        ValueError, match=f"Unknown layout.*Pass {class_name} as `layout` of .*if you trust the code of {path}, pass"
    ):
        layout_from_dict(values)


def test_code_is_not_imported_without_trust(tmp_path, monkeypatch):
    (tmp_path / "untrusted_layout.py").write_text("raise RuntimeError('this code ran')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    values = {"name": "mine", "class": "untrusted_layout:Mine"}
    with pytest.raises(TypeError, match="`trust_layout_code` must be True or False, got 'false'"):
        layout_from_dict(values, trust_layout_code="false")
    with pytest.raises(ValueError, match="trust_layout_code=True"):
        layout_from_dict(values)
    assert "untrusted_layout" not in sys.modules
    with pytest.raises(RuntimeError, match="this code ran"):
        layout_from_dict(values, trust_layout_code=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Mine", "no_such_module:Mine cannot be imported .*No module named.*Install the package"),
        ("layouts_of_users:Mine", "layouts_of_users:Mine cannot be imported .*has no attribute 'Mine'"),
        ("__main__:Mine", "Pass Mine as `layout` of .*was defined in a script, a notebook or a function"),
    ],
)
def test_what_cannot_be_imported(path, message):
    with pytest.raises(ValueError, match=message):
        layout_from_dict({"name": "mine", "class": path}, trust_layout_code=True)


def test_a_class_in_a_function_is_saved_and_says_how_to_load_it():
    @dataclass(frozen=True)
    class Local(EveryOtherLayout):
        pass

    check_saved_layout(Local())
    with pytest.raises(ValueError, match=r"Pass Local as `layout` of .*its settings were \{'first': 1\}"):
        layout_from_dict(layout_to_dict(Local(1)), trust_layout_code=True)


def test_a_class_that_is_no_layout_is_refused():
    with pytest.raises(TypeError, match="must be a dataclass"):
        layout_from_dict({"name": "mine", "class": "builtins:dict"}, trust_layout_code=True)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (NamelessLayout(), r"NamelessLayout\(\) has no name\. Give its class one"),
        (ObjectLayout(settings={1, 2}), r"settings of the layout ObjectLayout.* cannot be saved .*Use numbers, texts"),
    ],
    ids=["name", "setting"],
)
def test_what_a_checkpoint_cannot_keep_is_refused_before_training(processor, layout, message):
    with pytest.raises(TypeError, match=message):
        processor.with_layout(layout)


def test_checkpoints_with_a_layout_of_ones_own(processor, model, tmp_path):
    processor, layout = processor.with_layout(EveryOtherLayout(1)), EveryOtherLayout(1)
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    for load in (PatchRecProcessor.from_pretrained, AutoProcessor.from_pretrained):
        assert load(tmp_path, trust_layout_code=True).layout == layout
        assert load(tmp_path, layout=TextLayout()).layout == TextLayout()
        with pytest.raises(ValueError, match="trust_layout_code=True"):
            load(tmp_path)
    recommender = PatchRecommender.from_pretrained(tmp_path, trust_layout_code=True)
    assert recommender.processor.layout == layout
    assert recommender.recommend([10, 11, 12], k=2) == PatchRecommender(model, processor).recommend([10, 11, 12], k=2)
