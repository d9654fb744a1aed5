"""Docstrings in TRL's format become reStructuredText that says the same."""

from inspect import cleandoc

import pytest
from hf_docstrings import Argument, Section, convert, inline, read_arguments, read_errors, split_sections, to_rst


def resolve(name):
    return {"Catalog": "patchrec_hf.Catalog", "Catalog.load": "patchrec_hf.Catalog.load"}.get(name)


DOCSTRING = """
Reads `x` and [`Catalog`].

A second paragraph.

Args:
    path, name (`str` or [`Catalog`], *optional*, defaults to `"a:b"`):
        The path. See
        [`~Catalog.load`].
    mode (`"r"`, *optional*):
        - `"r"` reads, or
          waits.
        - others fail.
    **kwargs:
        Passed on.

Returns:
    `list[str]` of shape `(n,)`:
    the lines.

Raises:
    KeyError, ValueError: If a thing is
        missing.

Example:
```python
>>> read("a")
Args:
```
"""


def test_the_whole_docstring():
    assert (
        "\n".join(convert(DOCSTRING.strip(), resolve))
        == cleandoc(
            """
        Reads ``x`` and :py:obj:`Catalog <patchrec_hf.Catalog>`.

        A second paragraph.

        :Arguments:
           **path**, **name** (``str`` or :py:obj:`Catalog <patchrec_hf.Catalog>`, *optional*, defaults to ``"a:b"``)
              The path. See :py:obj:`load <patchrec_hf.Catalog.load>`.

           **mode** (``"r"``, *optional*)
              - ``"r"`` reads, or waits.

              - others fail.

           **\\*\\*kwargs**
              Passed on.


        :Returns:
           ``list[str]`` of shape ``(n,)``: the lines.


        :Raises:
           **KeyError**, **ValueError**
              If a thing is missing.


        .. rubric:: Example

        .. code-block:: pycon

           >>> read("a")
           Args:
        """
        )
        + "\n"
    )


def test_sections_end_where_the_indentation_ends():
    assert split_sections("Does it.\n\nArgs:\n    a:\n        One.\n\nThen this.\n") == [
        Section("", ("Does it.",)),
        Section("Args", ("a:", "    One.")),
        Section("", ("Then this.",)),
    ]


def test_names_and_types_may_fill_several_lines():
    section = Section(
        "Args", ("a, b,", "c (`int` or", "    `str`, *optional*):", "    Numbers.", "*rest:", "    Others.")
    )
    assert read_arguments(section) == [
        Argument(("a", "b", "c"), "`int` or `str`, *optional*", ("Numbers.",)),
        Argument(("*rest",), "", ("Others.",)),
    ]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("plain", "plain"),
        ("`a`s and x`b`", "``a``\\ s and x\\ ``b``"),
        ("[`Catalog`]s", ":py:obj:`Catalog <patchrec_hf.Catalog>`\\ s"),
        ("[`~datasets.Dataset`]", "``datasets.Dataset``"),
        ("[the `docs`](https://a.b/c_d)", "`the docs <https://a.b/c_d>`__"),
        ("**bold** and *thin*", "**bold** and *thin*"),
        ("2 * 3 * 4", "2 \\* 3 \\* 4"),
        ("name_ and a_name and |x|", "name\\_ and a_name and \\|x\\|"),
        ("`a``b`", "``a``\\ ``b``"),
    ],
)
def test_inline(markdown, expected):
    assert inline(markdown, resolve) == expected


def test_blocks():
    lines = ["Before:", "1. one", "   more", "2. two", "```sh", "ls", "", "pwd", "```", "> quoted", "> text"]
    assert to_rst(lines, resolve) == [
        "Before:", "", "1. one more", "", "2. two", "",
        ".. code-block:: sh", "", "   ls", "", "   pwd", "", "..", "", "   quoted text", "",
    ]  # fmt: skip
    assert to_rst(["> [!NOTE]", "> Text."], resolve) == [".. note::", "", "   Text.", ""]


@pytest.mark.parametrize(
    ("docstring", "message"),
    [
        ("Args:\n    a (`int`): One.", "Expected `name .type.:` and, indented below it, its description, got 'a"),
        (
            "Args:\n    a:\n    b:\n        Two.",
            "Expected `name .type.:` and, indented below it, its description, got 'a:'",
        ),
        ("Args:\n\nDoes it.", "The section 'Args' of a docstring is empty"),
        ("Raises:\n    If it fails.", "Expected `NameError: text`, got 'If it fails.'"),
        ("Example:\n```python\n>>> 1", "The code after '```python' has no closing fence"),
    ],
)
def test_other_forms_are_refused(docstring, message):
    with pytest.raises(ValueError, match=message):
        convert(docstring, resolve)


def test_errors_keep_their_names():
    section = Section("Raises", ("KeyError: If a,", "    or b.", "", "TypeError, ValueError: As `f` does."))
    assert read_errors(section) == [
        (("KeyError",), "If a, or b."),
        (("TypeError", "ValueError"), "As `f` does."),
    ]
