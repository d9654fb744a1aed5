"""Sphinx extension for the API reference: converts docstrings, and checks that every public name has an entry."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cached_property, partial
from importlib import import_module
from typing import Any

from hf_docstrings import convert, read_arguments, split_sections
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import patchrec_hf


PUBLIC_MODULES = ("patchrec_hf", "patchrec_hf.baselines")
logger = logging.getLogger(__name__)


def public_names() -> dict[str, Any]:
    """Returns every public name of the package in full, such as `patchrec_hf.Catalog`, and its object."""
    modules = [import_module(name) for name in PUBLIC_MODULES]
    return {f"{module.__name__}.{name}": getattr(module, name) for module in modules for name in module.__all__}


def _module_of(member: Any) -> str:
    """Returns the module in which a method or a property was written; empty if that cannot be known."""
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, cached_property):
        member = member.func
    return getattr(member, "__module__", None) or ""


def _is_ours(member: Any) -> bool:
    return _module_of(member).split(".")[0] == "patchrec_hf"


def resolve(name: str, around: str, names: dict[str, Any]) -> str | None:
    """
    Finds the entry that a cross reference leads to.

    Args:
        name (`str`):
            The name as the docstring has it: `Catalog`, `Catalog.indices_of` or `patchrec_hf.Catalog`.
        around (`str`):
            The full name of the entry whose docstring it is. A baseline means the baselines' `Fusion`, for example.
        names (`dict[str, Any]`):
            What [`public_names`] returns.

    Returns:
        `str` or `None`: the full name, or `None` if the reference has no entry of its own.
    """
    modules = sorted(PUBLIC_MODULES, key=lambda module: not around.startswith(f"{module}."))
    for full in (name, *(f"{module}.{name}" for module in modules)):
        if full in names:
            return full
        owner, _, member = full.rpartition(".")
        if owner in names and not member.startswith("_"):
            found = inspect.getattr_static(names[owner], member, None)
            if _is_ours(getattr(found, "__func__", found)) and inspect.getdoc(found):
                return full
    return None


def _constant_docs(name: str) -> list[str]:
    """Returns the text below the assignment of a constant that the package imports from one of its modules."""
    module, _, constant = name.rpartition(".")
    table = import_module(module)._MODULES
    analyzer = ModuleAnalyzer.for_module(f"{module}.{table[constant]}")
    analyzer.analyze()
    return list(analyzer.attr_docs[("", constant)])


def write_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str], names: dict[str, Any]
) -> None:
    """Replaces a docstring by reStructuredText, as autodoc reads it."""
    source = _constant_docs(name) if what == "data" else lines
    lines[:] = convert("\n".join(source).strip("\n"), partial(resolve, around=name, names=names))


def skip_foreign(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """
    Leaves out the members that a class inherits from other libraries, whose own manuals describe them, and values. The
    arguments of a class are described with the class.
    """
    return None if not skip and not inspect.isclass(obj) and _is_ours(obj) else True


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Shows only the documented arguments of a configuration that inherits many more from another library's."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return None
    foreign = next((base for base in obj.__mro__[1:-1] if base.__module__.split(".")[0] != "patchrec_hf"), None)
    if foreign is None or not dataclasses.is_dataclass(foreign):
        return None
    section = next(part for part in split_sections(inspect.cleandoc(obj.__doc__)) if part.name == "Args")
    documented = {argument for entry in read_arguments(section) for argument in entry.names}
    shown = []
    for field in dataclasses.fields(obj):
        if field.name in documented:
            has_factory = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if has_factory else field.default
            shown.append(f"{field.name}={default!r}")
    return f"(*, {', '.join(shown)}, **{foreign.__name__})", returns


def check_entries(app: Sphinx, env: BuildEnvironment, names: dict[str, Any]) -> None:
    """Warns of public names without an entry; the build takes warnings as errors."""
    missing = sorted(names.keys() - env.get_domain("py").objects.keys())
    if missing:
        logger.warning("Public names without an entry in docs/api/: %s", ", ".join(missing))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the extension to Sphinx."""
    names = public_names()
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", partial(write_docstring, names=names))
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("env-check-consistency", partial(check_entries, names=names))
    return {"version": patchrec_hf.__version__, "parallel_read_safe": True}
