"""The command `patchrec`: lists the commands, or runs one of them."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from ..data.keywords import nearest


__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "prepare": "patchrec_hf.commands.prepare",
    "train": "patchrec_hf.commands.train",
    "evaluate": "patchrec_hf.commands.evaluate",
    "recommend": "patchrec_hf.commands.recommend",
    "serve": "patchrec_hf.commands.serve",
    "demo": "patchrec_hf.commands.demo",
    "info": "patchrec_hf.commands.info",
}
"""
The module of each command, in the order in which they are used. A module has `main(arguments: list[str]) -> None`. The
first line of its docstring is its line in `patchrec --help`.
"""


def main(arguments: list[str] | None = None) -> None:
    """
    Runs a command.

    Args:
        arguments (`list[str]`, *optional*):
            The name of the command and its arguments. The arguments of the process if not given.

    Raises:
        SystemExit: If there is no such command, or the command ends with an error.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        print(f"patchrec-hf {version('patchrec-hf')}")
        return
    name, *others = arguments
    if name not in COMMANDS:
        print(f"patchrec has no command {name!r}; {nearest(name, COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    import_module(COMMANDS[name]).main(others)


def _help() -> str:
    width = max(map(len, COMMANDS)) + 3
    lines = [f"  {name:<{width}}{_summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: patchrec COMMAND [OPTIONS]",
            "",
            "Trains, evaluates and serves LLM recommenders that read long histories as patches.",
            "",
            "Commands:",
            *lines,
            "",
            "`patchrec COMMAND --help` shows the options of a command, and `patchrec --version` the version.",
        ]
    )


def _summary(name: str) -> str:
    """Returns the first line of a command's docstring. The module is read and not imported, which takes seconds."""
    path = Path(__file__).with_name(f"{COMMANDS[name].rpartition('.')[2]}.py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
