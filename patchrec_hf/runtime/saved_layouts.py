"""Saved layouts: layouts as the values that a checkpoint keeps, and the import path of a layout class of your own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any

from .layouts import (
    DropLayout,
    ItemPatchLayout,
    Layout,
    RandomPatchLayout,
    SessionPatchLayout,
    TextLayout,
    check_layout,
)
from .long_layouts import BudgetLayout, PyramidLayout, TimeWindowLayout


_LAYOUTS = (
    TextLayout,
    ItemPatchLayout,
    SessionPatchLayout,
    RandomPatchLayout,
    DropLayout,
    TimeWindowLayout,
    PyramidLayout,
    BudgetLayout,
)


def layout_to_dict(layout: Layout) -> dict[str, Any]:
    """
    Returns a layout as JSON-ready values, for the checkpoint. For a class of your own, they hold its import path
    (`"module:ClassName"`).
    """
    settings = asdict(layout)  # type: ignore[call-overload]
    if type(layout) in _LAYOUTS:
        return {"name": layout.name, **settings}
    return {"name": layout.name, "class": f"{type(layout).__module__}:{type(layout).__qualname__}", **settings}


def check_saved_layout(layout: Any) -> None:
    """
    Checks that a checkpoint can keep a layout.

    Args:
        layout ([`Layout`], *optional*):
            A layout. `None` stands for the default.

    Raises:
        TypeError: If it is no dataclass (see [`check_layout`]), has no name, or has a setting that JSON cannot hold.
    """
    check_layout(layout, is_saved=True)
    if layout is None:
        return
    if not isinstance(getattr(layout, "name", None), str):
        raise TypeError(
            f'The layout {layout!r} has no name. Give its class one, as in `name: ClassVar[str] = "mine"`.'
        )
    try:
        json.dumps(layout_to_dict(layout))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"The settings of the layout {layout!r} cannot be saved with a checkpoint, which keeps them as JSON "
            f"({error}). Use numbers, texts, booleans and lists of them."
        ) from error


def layout_from_dict(values: Mapping[str, Any], trust_layout_code: bool = False) -> Layout:
    """
    Returns the layout that [`layout_to_dict`] wrote.

    Args:
        values (`Mapping[str, Any]`):
            The values that it wrote.
        trust_layout_code (`bool`, *optional*, defaults to `False`):
            Whether a layout class of your own may be imported by its import path, which runs the code of its module.

    Raises:
        TypeError: If `trust_layout_code` is neither `True` nor `False`.
        ValueError: If the layout is not from this library, and its code is not trusted or cannot be imported.
    """
    name, path = values.get("name"), values.get("class")
    settings = {key: value for key, value in values.items() if key not in ("name", "class")}
    if path is None:
        for layout_class in _LAYOUTS:
            if layout_class.name == name:
                return layout_class(**settings)
    known = ", ".join(repr(layout_class.name) for layout_class in _LAYOUTS)
    message = f"Unknown layout {name!r}; known layouts are {known}. Pass"
    if path is None:
        raise ValueError(f"{message} a layout of your own as `layout` of `PatchRecProcessor.from_pretrained`.")
    module, _, class_name = str(path).partition(":")
    message += f" {class_name.rpartition('.')[2]} as `layout` of `PatchRecProcessor.from_pretrained`"
    if module == "__main__" or "<" in class_name:
        raise ValueError(
            f"{message} (its settings were {settings}). Its class {path} was defined in a script, a notebook or a "
            "function, so it cannot be imported; a class in a module of its own can."
        )
    if not isinstance(trust_layout_code, bool):
        raise TypeError(f"`trust_layout_code` must be True or False, got {trust_layout_code!r}.")
    if not trust_layout_code:
        raise ValueError(
            f"{message}. Or, if you trust the code of {path}, pass `trust_layout_code=True`, which imports it."
        )
    layout = _find_class(module, class_name)(**settings)
    check_saved_layout(layout)
    return layout


def _find_class(module: str, class_name: str) -> Any:
    try:
        found: Any = import_module(module)
        for part in class_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"The checkpoint's layout {module}:{class_name} cannot be imported ({error}). Install the package that "
            "holds it, or start Python where it can be found. Or pass a layout as `layout`."
        ) from error
    return found
