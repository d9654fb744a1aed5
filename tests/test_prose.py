"""The prose of package, docs, README and examples: constructions that a reader has to read twice are not used."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FILES = [
    path
    for pattern in ("patchrec_hf/**/*.py", "patchrec_hf/**/*.jinja", "docs/*.md", "*.md", "examples/**/*.py")
    for path in sorted(ROOT.glob(pattern))
]
PATTERNS = {
    "a sentence begins with What, Of or Who": (
        r"(?:(?<=\. )|(?<=\"\"\")|(?<=# )|(?<=\n {4})|(?<=\n {8}))(?:What|Of|Who) [a-z]"
    ),
    "that of, those of": r"\b(?:that|those)\s+of\b",
    "idioms that are not plain": (
        r"\b(?:so\s+many|goes\s+on|begins?\s+anew|one's\s+own|(?:is|are)\s+(?:said|told)|but\s+for)\b"
    ),
    "British spelling": r"\b(?:behaviour|colour|neighbour|favour|labelled|modelled)\w*",
    "British endings": r"\b\w+(?:ialis|ardis|maris|ormalis|kenis|chronis)e[sd]?\b",
}


EXAMPLES = {
    "a sentence begins with What, Of or Who": "It ranks. Of two items, the first wins.",
    "that of, those of": "The loss of a batch is that\nof its rows.",
    "idioms that are not plain": "A log of one's own.",
    "British spelling": "The behaviour of a model.",
    "British endings": "It normalises scores.",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_find_their_sentences(name):
    assert re.search(PATTERNS[name], EXAMPLES[name])


def test_there_are_files():
    assert {path.suffix for path in FILES} == {".py", ".md", ".jinja"}


@pytest.mark.parametrize("name", PATTERNS)
def test_sentences_are_plain(name):
    hits = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(PATTERNS[name], text):
            line = text[: match.start()].count("\n")
            hits.append(f"{path.relative_to(ROOT)}:{line + 1}: {text.splitlines()[line].strip()}")
    assert hits == []
