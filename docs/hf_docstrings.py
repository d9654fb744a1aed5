"""Reads docstrings in the format of Hugging Face's libraries, and writes them as reStructuredText for Sphinx."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent


Resolve = Callable[[str], str | None]
"""Finds the documented full name behind a cross reference, such as `patchrec_hf.Catalog` behind `Catalog`."""

_INDENTED_SECTIONS = ("Args", "Returns", "Yields", "Raises")
_HEAD = re.compile(rf"({'|'.join(_INDENTED_SECTIONS)}|Example):")
_FIELDS = {"Args": "Arguments", "Returns": "Returns", "Yields": "Yields", "Raises": "Raises"}
# `name, other (type, *optional*):`, and nothing behind the colon.
_ARGUMENT = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<type>.+)\))?:")
_ERROR = re.compile(r"(?P<names>\w+(?:, \w+)*): (?P<text>.+)", re.DOTALL)
_FENCE = re.compile(r"```(\w*)")
_ITEM = re.compile(r"(?:-|\d+\.) +")
_QUOTE = re.compile(r"> ?")
_ALERT = re.compile(r"\[!(NOTE|TIP|IMPORTANT|WARNING|CAUTION)\]")
_INLINE = re.compile(
    r"\[`(?P<reference>[^`\]]+)`\](?!\()"
    r"|`(?P<code>[^`]+)`"
    r"|\[(?P<label>[^\]]+)\]\((?P<address>[^)\s]+)\)"
    r"|(?P<emphasis>\*\*[^*\s](?:[^*]*[^*\s])?\*\*|\*[^*\s](?:[^*]*[^*\s])?\*)"
)


@dataclass(frozen=True)
class Section:
    """
    A part of a docstring.

    Args:
        name (`str`):
            `"Args"`, `"Returns"`, `"Yields"`, `"Raises"` or `"Example"`; empty for the text before and between them.
        lines (`tuple[str, ...]`):
            Its lines in Markdown, without the indentation that all of them share.
    """

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Argument:
    """
    An entry of `Args`.

    Args:
        names (`tuple[str, ...]`):
            The arguments that it describes, with their stars.
        type (`str`):
            The text in parentheses, in Markdown; may be empty.
        lines (`tuple[str, ...]`):
            Its description in Markdown.
    """

    names: tuple[str, ...]
    type: str
    lines: tuple[str, ...]


def split_sections(docstring: str) -> list[Section]:
    """
    Splits a docstring, of which `inspect.cleandoc` has removed the indentation, at its section heads. A head in a
    fence of code is code.
    """
    sections: list[tuple[str, list[str]]] = [("", [])]
    in_fence = False
    for line in docstring.splitlines():
        head = None if in_fence else _HEAD.fullmatch(line)
        in_fence ^= line.lstrip().startswith("```")
        if head is not None:
            sections.append((head[1], []))
        elif line and not line[0].isspace() and sections[-1][0] in _INDENTED_SECTIONS:
            sections.append(("", [line]))
        else:
            sections[-1][1].append(line)
    cleaned = [(name, dedent("\n".join(lines)).strip("\n").splitlines()) for name, lines in sections]
    empty = [name for name, lines in cleaned if name and not lines]
    if empty:
        raise ValueError(f"The section {empty[0]!r} of a docstring is empty. Indent its lines below it.")
    return [Section(name, tuple(lines)) for name, lines in cleaned if lines]


def _entries(lines: tuple[str, ...]) -> list[list[str]]:
    """Groups lines into entries, each of which begins at a line without indentation."""
    entries: list[list[str]] = []
    for line in lines:
        if entries and len(entries[-1]) == 1 and entries[-1][0].endswith(","):  # names that fill more than one line
            entries[-1][0] += " " + line.strip()
        elif line and not line[0].isspace():
            entries.append([line])
        else:
            entries[-1].append(line)
    return entries


def read_arguments(section: Section) -> list[Argument]:
    """
    Reads the entries of `Args`.

    Raises:
        ValueError: If an entry has another form than `name (type):` with its description indented below.
    """
    arguments = []
    for first, *rest in _entries(section.lines):
        head, body = first, list(rest)
        while not head.endswith(":") and body and body[0].strip():  # a type that fills more than one line
            head += " " + body.pop(0).strip()
        match = _ARGUMENT.fullmatch(head)
        lines = dedent("\n".join(body)).strip("\n").splitlines()
        if match is None or not lines:
            raise ValueError(f"Expected `name (type):` and, indented below it, its description, got {first!r}.")
        arguments.append(Argument(tuple(match["names"].split(", ")), match["type"] or "", tuple(lines)))
    return arguments


def read_errors(section: Section) -> list[tuple[tuple[str, ...], str]]:
    """
    Reads the entries of `Raises`, as names of errors and a text in Markdown.

    Raises:
        ValueError: If an entry has another form than `NameError: text`.
    """
    errors = []
    for entry in _entries(section.lines):
        text = " ".join(line.strip() for line in entry if line.strip())
        match = _ERROR.fullmatch(text)
        if match is None:
            raise ValueError(f"Expected `NameError: text`, got {text!r}.")
        errors.append((tuple(match["names"].split(", ")), match["text"]))
    return errors


def _escaped(text: str) -> str:
    return re.sub(r"([\\*|`])|(?<=\w)(_)(?!\w)", lambda match: "\\" + match[0], text)


def inline(text: str, resolve: Resolve) -> str:
    """Writes a paragraph of Markdown as reStructuredText: code, cross references, links and emphasis."""
    pieces, end = [], 0

    def add(markup: str, following: str) -> None:
        # reStructuredText wants white space or punctuation around its markup. An escaped space is not shown.
        before = pieces[-1][-1:] if pieces else ""
        joined = "\\ " if before and (before.isalnum() or before in "`_*") else ""
        pieces.append(joined + markup + ("\\ " if following.isalnum() else ""))

    for match in _INLINE.finditer(text):
        if match.start() > end:
            pieces.append(_escaped(text[end : match.start()]))
        end = match.end()
        following = text[end : end + 1]
        if match["reference"]:
            name = match["reference"].removeprefix("~")
            full = resolve(name)
            shown = name.rsplit(".", 1)[-1] if name != match["reference"] else name
            add(f"``{name}``" if full is None else f":py:obj:`{shown} <{full}>`", following)
        elif match["code"]:
            add(f"``{match['code']}``", following)
        elif match["label"]:
            add(f"`{match['label'].replace('`', '')} <{match['address']}>`__", following)
        else:
            add(match["emphasis"], following)
    pieces.append(_escaped(text[end:]))
    return "".join(pieces)


def _indented(lines: list[str], by: str) -> list[str]:
    return [by + line if line else "" for line in lines]


def to_rst(lines: tuple[str, ...] | list[str], resolve: Resolve) -> list[str]:
    """
    Writes blocks of Markdown as reStructuredText: paragraphs, lists, quotations, and fences of code.

    Args:
        lines (`Sequence[str]`):
            The lines in Markdown.
        resolve (`Callable[[str], str | None]`):
            Finds the full name behind a cross reference; `None` for a name that has no entry, which is then shown as
            code.

    Returns:
        `list[str]`: the lines, ending with an empty one.
    """
    written: list[str] = []
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        if not line.strip():
            continue
        fence, item = _FENCE.match(line), _ITEM.match(line)
        if fence is not None:
            code = []
            while rest and rest[0] != "```":
                code.append(rest.pop(0))
            if not rest:
                raise ValueError(f"The code after {line!r} has no closing fence.")
            rest.pop(0)
            language = "pycon" if any(row.startswith(">>> ") for row in code) else fence[1] or "text"
            written += [f".. code-block:: {language}", "", *_indented(code, "   "), ""]
        elif item is not None:
            width = len(item[0])
            body = [line[width:]]
            while rest and (not rest[0].strip() or rest[0].startswith(" " * width)):
                body.append(rest.pop(0)[width:])
            first, *others = to_rst(body, resolve)
            written += [item[0] + first, *_indented(others, " " * width)]
        elif _QUOTE.match(line):
            quoted = [line]
            while rest and _QUOTE.match(rest[0]):
                quoted.append(rest.pop(0))
            unquoted = [_QUOTE.sub("", row, count=1) for row in quoted]
            kind = _ALERT.fullmatch(unquoted[0])
            body = to_rst(unquoted if kind is None else unquoted[1:], resolve)
            # An empty comment, so that the quotation is not taken for a part of a list before it.
            written += [".." if kind is None else f".. {kind[1].lower()}::", "", *_indented(body, "   ")]
        else:
            paragraph = [line]
            while rest and rest[0].strip() and not any(kind.match(rest[0]) for kind in (_FENCE, _ITEM, _QUOTE)):
                paragraph.append(rest.pop(0))
            written += [inline(" ".join(part.strip() for part in paragraph), resolve), ""]
    return written


def convert(docstring: str, resolve: Resolve) -> list[str]:
    """
    Writes a docstring as reStructuredText.

    Args:
        docstring (`str`):
            The docstring, without the indentation of its source (`inspect.cleandoc`).
        resolve (`Callable[[str], str | None]`):
            See [`to_rst`].

    Raises:
        ValueError: If a section is empty, an entry has another form than its section's, or a fence is not closed.
    """
    written: list[str] = []
    for section in split_sections(docstring):
        if section.name == "":
            written += to_rst(section.lines, resolve)
            continue
        if section.name == "Example":
            written += [".. rubric:: Example", "", *to_rst(section.lines, resolve)]
            continue
        if section.name == "Args":
            body = []
            for argument in read_arguments(section):
                kind = f" ({inline(argument.type, resolve)})" if argument.type else ""
                names = ", ".join(f"**{_escaped(name)}**" for name in argument.names)
                body += [names + kind, *_indented(to_rst(argument.lines, resolve), "   ")]
        elif section.name == "Raises":
            body = []
            for names, text in read_errors(section):
                body += [", ".join(f"**{name}**" for name in names), f"   {inline(text, resolve)}", ""]
        else:
            body = to_rst(section.lines, resolve)
        written += [f":{_FIELDS[section.name]}:", *_indented(body, "   "), ""]
    return written
