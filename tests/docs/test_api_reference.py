"""Every public name has its entry in the manual, every page its place, and the extension finds what it refers to."""

import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import patchrec_hf
from patchrec_hf import baselines


DOCS = Path(__file__).parents[2] / "docs"
ENTRY = re.compile(r"^\.\. auto(class|function|data):: (\S+)$", re.MULTILINE)


def entries():
    texts = [path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md"))]
    return [(name, kind) for text in texts for kind, name in ENTRY.findall(text)]


def test_public_names_have_one_entry_each():
    public = [f"{module.__name__}.{name}" for module in (patchrec_hf, baselines) for name in module.__all__]
    assert sorted(name for name, _ in entries()) == sorted(public)


def test_entries_have_the_right_kind():
    for name, kind in entries():
        module, _, short = name.rpartition(".")
        value = getattr(import_module(module), short)
        assert kind == ("class" if isinstance(value, type) else "function" if callable(value) else "data"), name


def test_other_subpackages_have_no_public_names():
    """Public names come from `patchrec_hf` and `patchrec_hf.baselines`; a new public subpackage needs entries too."""
    package = Path(patchrec_hf.__file__).parent
    with_names = {path.parent.name for path in package.glob("*/__init__.py") if "__all__" in path.read_text()}
    assert with_names == {"baselines"}


def test_pages_are_in_the_manual():
    listed = {"index"}
    for index in (DOCS / "index.md", DOCS / "api" / "index.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(encoding="utf-8"), re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {str((index.parent / name).relative_to(DOCS)) for name in names}
    pages = [*DOCS.glob("*.md"), *DOCS.glob("*.ipynb"), *(DOCS / "api").glob("*.md")]
    assert listed == {str(page.relative_to(DOCS).with_suffix("")) for page in pages}


@pytest.fixture(scope="module")
def extension():
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    return import_module("api_reference")


@pytest.mark.parametrize(
    ("name", "around", "expected"),
    [
        ("Catalog", "patchrec_hf.Row", "patchrec_hf.Catalog"),
        ("Catalog.indices_of", "patchrec_hf.Row", "patchrec_hf.Catalog.indices_of"),
        ("patchrec_hf.baselines.SASRec", "patchrec_hf.Row", "patchrec_hf.baselines.SASRec"),
        ("Fusion", "patchrec_hf.baselines.Fusion.fit", "patchrec_hf.baselines.Fusion"),
        ("PatchRecForCausalLM.from_pretrained", "patchrec_hf.Row", "patchrec_hf.PatchRecForCausalLM.from_pretrained"),
        ("PatchRecForCausalLM.generate", "patchrec_hf.Row", None),  # of another library
        ("Catalog.nothing", "patchrec_hf.Row", None),
        ("check_rows", "patchrec_hf.Row", None),  # not public
        ("datasets.Dataset", "patchrec_hf.Row", None),
    ],
)
def test_references(extension, name, around, expected):
    assert extension.resolve(name, around, extension.public_names()) == expected


def test_constants_show_their_own_text(extension):
    lines = ["The docstring of its class."]
    name = "patchrec_hf.BOOK_PROMPT"
    extension.write_docstring(None, "data", name, patchrec_hf.BOOK_PROMPT, None, lines, extension.public_names())
    assert lines == ["The paper's prompt for Goodreads, as in the released code.", ""]


def test_members_of_other_libraries_are_left_out(extension):
    cls = patchrec_hf.PatchFinetuneTrainer
    skipped = {
        name: extension.skip_foreign(None, "class", name, getattr(cls, name), False, None)
        for name in ("train", "predict", "stage", "config_class", "estimate_memory")
    }
    assert skipped == {"train": None, "predict": True, "stage": True, "config_class": True, "estimate_memory": None}


def test_configurations_show_their_own_arguments(extension):
    config = patchrec_hf.PatchPretrainConfig
    assert len(fields(config)) > 100
    shown, _ = extension.shorten_signature(None, "class", "", config, None, "(many)", None)
    assert shown == "(*, distillation_weight=0.0, distillation_temperature=1.0, **SFTConfig)"
    assert extension.shorten_signature(None, "class", "", patchrec_hf.Filters, None, "(...)", None) is None


def test_missing_entries_are_warned_of(extension, monkeypatch):
    warned = []
    monkeypatch.setattr(extension.logger, "warning", lambda text, *values: warned.append(text % values))
    domain = SimpleNamespace(objects={"patchrec_hf.Row": None})
    env = SimpleNamespace(get_domain=lambda name: domain)
    extension.check_entries(None, env, {"patchrec_hf.Row": None, "patchrec_hf.Title": None})
    assert warned == ["Public names without an entry in docs/api/: patchrec_hf.Title"]
