"""Docstrings say what signatures say: the arguments, in their order, and which of them have defaults."""

import ast
import builtins
import dataclasses
import inspect
import re
from functools import cached_property
from pathlib import Path

import pytest
from hf_docstrings import convert, read_arguments, read_errors, split_sections
from trl import SFTConfig

import patchrec_hf
from patchrec_hf import baselines


PACKAGE = Path(patchrec_hf.__file__).parent
# Arguments that a configuration inherits from TRL's, and whose defaults it may change without an entry of its own.
INHERITED = {field.name for field in dataclasses.fields(SFTConfig)}
_DEFAULT = re.compile(r"defaults to `([^`]+)`")


def is_dataclass(node):
    return any(ast.unparse(decorator).split("(")[0] == "dataclass" for decorator in node.decorator_list)


def fields(node):
    """Returns the fields of a dataclass, a named tuple or a typed dictionary, with the code of their defaults."""
    found = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            name, value = ast.unparse(field.target), None if field.value is None else ast.unparse(field.value)
            if "NotRequired" in ast.unparse(field.annotation):
                value = "None"
            if "init=False" not in (value or "") and not name.startswith("_"):
                found[name] = value
    return found


def parameters(node):
    """Returns the arguments of a function, with the code of their defaults; `None` for one without a default."""
    found = node.args
    positional = [*found.posonlyargs, *found.args]
    defaults = [None] * (len(positional) - len(found.defaults)) + [ast.unparse(value) for value in found.defaults]
    named = dict(zip((argument.arg for argument in positional), defaults, strict=True))
    for key, value in zip(found.kwonlyargs, found.kw_defaults, strict=True):
        named[key.arg] = None if value is None else ast.unparse(value)
    for stars, rest in (("*", found.vararg), ("**", found.kwarg)):
        if rest is not None:
            named[stars + rest.arg] = None
    return {name: default for name, default in named.items() if name not in ("self", "cls")}


def signature(node):
    """Returns the arguments of a function or class, with the code of their defaults; `None` if a base states them."""
    if isinstance(node, ast.FunctionDef):
        return parameters(node)
    own = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    if own:
        return parameters(own[0])
    bases = {ast.unparse(base) for base in node.bases}
    return fields(node) if is_dataclass(node) or bases & {"NamedTuple", "TypedDict"} else None


def find_callables():
    """Returns every class and function that has a docstring, by its full name."""
    found = {}

    def visit(tree, name):
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[f"{name}.{node.name}"] = node
            if isinstance(node, ast.ClassDef):
                visit(node, f"{name}.{node.name}")

    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        visit(ast.parse(path.read_text(encoding="utf-8")), module)
    return {name: node for name, node in found.items() if ast.get_docstring(node)}


CALLABLES = find_callables()


def literal(code):
    """Returns the value of a default that is a literal, also behind `field(...)`; `None` if it is no literal."""
    if code is not None and code.startswith("field("):
        keywords = {keyword.arg: keyword.value for keyword in ast.parse(code, mode="eval").body.keywords}
        default, factory = keywords.get("default"), keywords.get("default_factory")
        code = ast.unparse(factory.body if isinstance(factory, ast.Lambda) else default or ast.Constant(None))
    try:
        return None if code is None else ast.literal_eval(code)
    except ValueError:
        return None


def faults(node):
    """Returns how a docstring differs from the signature below it."""
    sections = split_sections(ast.get_docstring(node))
    entries = [entry for part in sections if part.name == "Args" for entry in read_arguments(part)]
    stated = signature(node)
    if not entries or stated is None:
        return []
    names = [name for entry in entries for name in entry.names]
    described = {name: entry.type for entry in entries for name in entry.names}
    inherited = INHERITED if isinstance(node, ast.ClassDef) else set()
    passes_on = any(name.startswith("**") for name in stated)
    found = [f"{name} is described twice" for name in described if names.count(name) > 1]
    if not passes_on:
        found += [f"{name} is no argument" for name in described if name not in stated.keys() | inherited]
    found += [
        f"{name} is not described"
        for name in stated
        if name not in described and name not in inherited and not name.startswith("*")
    ]
    for name, kind in described.items():
        if not kind or stated.get(name) is None:  # described elsewhere, or without a default
            found += [f"{name} has no default"] if name in stated and _DEFAULT.search(kind) else []
            continue
        default, described_default = literal(stated[name]), _DEFAULT.search(kind)
        if "*optional*" not in kind:
            found.append(f"{name} has a default, but is not *optional*")
        elif default not in (None, "", ()) and kind != "*optional*":  # what has no type here is described elsewhere
            if described_default is None:
                found.append(f"{name} defaults to {default!r}, which is not described")
            elif literal(described_default[1]) != default:
                found.append(f"{name} defaults to {default!r}, not to {described_default[1]}")
    return found


def function(source):
    return ast.parse(source).body[0]


ARGS = 'def f(a, b=2):\n    """\n    Does it.\n\n    Args:\n{}\n    """'


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ("        a (`int`):\n            One.", "b is not described"),
        ("        a, b, c:\n            See [`g`].", "c is no argument"),
        ("        a, b, a:\n            See [`g`].", "a is described twice"),
        ("        a, b (`int`):\n            Numbers.", "b has a default, but is not *optional*"),
        (
            "        a:\n            One.\n        b (`int`, *optional*, defaults to `3`):\n            Two.",
            "b defaults to 2, not to 3",
        ),
        (
            "        a:\n            One.\n        b (`int`, *optional*):\n            Two.",
            "b defaults to 2, which is not described",
        ),
        ("        a (`int`, *optional*, defaults to `1`), b:\n            Two.", "Expected `name (type):`"),
    ],
)
def test_faults_are_found(entries, fault):
    node = function(ARGS.format(entries))
    if fault.startswith("Expected"):
        with pytest.raises(ValueError, match=re.escape(fault)):
            faults(node)
    else:
        assert fault in faults(node)


def test_a_right_docstring_has_no_fault():
    entries = "        a (`int`):\n            One.\n        b (`int`, *optional*, defaults to `2`):\n            Two."
    assert faults(function(ARGS.format(entries))) == []


def test_there_are_callables():
    assert len(CALLABLES) > 500
    assert {"runtime.recommender.PatchRecommender.recommend", "training.arguments.PatchFinetuneConfig"} <= set(
        CALLABLES
    )


def test_arguments_are_the_signatures():
    assert {name: found for name, node in CALLABLES.items() if (found := faults(node))} == {}


def public_members():
    """Returns every name that users import, and the public methods and properties that the package gives to it."""
    members = {}
    for module in (patchrec_hf, baselines):
        for name in module.__all__:
            value = getattr(module, name)
            members[f"{module.__name__}.{name}"] = value
            for part in value.__mro__ if inspect.isclass(value) else ():
                if part.__module__.startswith("patchrec_hf"):
                    own = {key: member for key, member in vars(part).items() if not key.startswith("_")}
                    kinds = property | cached_property | classmethod | staticmethod
                    members |= {
                        f"{module.__name__}.{name}.{key}": getattr(value, key)
                        if isinstance(member, classmethod)
                        else member
                        for key, member in own.items()
                        if inspect.isfunction(member) or isinstance(member, kinds)
                    }
    return members


def test_public_names_have_docstrings():
    members = public_members()
    assert {"patchrec_hf.PatchRecommender.start", "patchrec_hf.baselines.Fusion.fit"} <= members.keys()
    constants = {name for name, value in members.items() if not callable(value) and name.count(".") == 1}
    assert [name for name, value in members.items() if name not in constants and not inspect.getdoc(value)] == []


def own_errors():
    """Returns the names of the exceptions that the package defines."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
    return {node.name for node in classes if ast.unparse(node.bases[0]).endswith(("Error", "Exception"))}


@pytest.mark.slow
def test_errors_are_exceptions():
    """What `Raises` names is an exception of Python, or one that the package or a library defines."""
    others = {"PydanticCustomError", "StrictDataclassFieldValidationError", *own_errors()}
    unknown = {}
    for name, node in CALLABLES.items():
        for section in split_sections(ast.get_docstring(node)):
            for errors, _ in read_errors(section) if section.name == "Raises" else ():
                for error in errors:
                    found = getattr(builtins, error, None)
                    if error not in others and not (inspect.isclass(found) and issubclass(found, BaseException)):
                        unknown[name] = error
    assert unknown == {}


def test_docstrings_can_be_converted():
    """The manual writes every docstring as reStructuredText; one in another form would end its build."""
    for node in CALLABLES.values():
        assert convert(ast.get_docstring(node), lambda name: None)
