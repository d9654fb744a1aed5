"""Options: the parser of a command, with a help of one screen, recipes, and the nearest name for a misspelt option."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from trl import TrlParser

from .plain_options import check_unknown, one_line
from .recipe_files import read_recipe, recipe_options, set_environment


_NAME_WIDTH, _LEAST_WIDTH, _USUAL_WIDTH = 34, 80, 120


class CommandParser(TrlParser):
    """
    Parser of a command. It differs from [`~trl.TrlParser`]: `--help` shows one line for each of the options that the
    command chooses, and `--help-all` shows all options. Errors have one line, and name the nearest option for a
    misspelt one. A recipe is checked as the command line is.

    Args:
        command (`str`):
            Name of the command.
        kinds (`Sequence[type]`, *optional*):
            Dataclasses whose fields are options.
        description (`str`):
            Docstring of the command's module: a line, a paragraph and examples. `--help` shows it.
        shown (`Mapping[str, Sequence[str]]`, *optional*):
            Names of the options that `--help` shows, below their headings. All options if not given.
        takes_recipe (`bool`, *optional*, defaults to `False`):
            Whether `--config` names a recipe: a YAML file of options, which the command line overrides.
        notes (`str`, *optional*):
            Further paragraphs for `--help-all`.
    """

    def __init__(
        self,
        command: str,
        kinds: Sequence[Any] = (),
        *,
        description: str,
        shown: Mapping[str, Sequence[str]] | None = None,
        takes_recipe: bool = False,
        notes: str = "",
    ) -> None:
        self._options: list[argparse.Action] = []
        self._shown, self._takes_recipe = shown, takes_recipe
        super().__init__(
            kinds,
            prog=f"patchrec {command}",
            description=description,
            epilog=notes,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        if takes_recipe:
            self.add_argument("--config", metavar="RECIPE", default=argparse.SUPPRESS, help="A YAML file of options.")
        self.add_argument("-h", "--help", action=_ShortHelp, help="Show the options that matter most, and exit.")
        self.add_argument("--help-all", action="help", help="Show all options, and exit.")

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self._options.append(action)
        return action

    def parse(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """
        Parses the arguments of a command.

        Args:
            arguments (`Sequence[str]`):
                The arguments after the command's name.

        Returns:
            `tuple`: an instance of each of `kinds`, and a [`argparse.Namespace`] if the parser has other arguments.

        Raises:
            ValueError: If an argument or a key of the recipe is unknown, or a value is of the wrong kind.
            OSError: If the recipe cannot be read.
        """
        arguments = self._with_recipe(list(arguments))
        *parsed, unknown = self.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
        names = [name for action in self._options for name in action.option_strings]
        check_unknown(self.prog, unknown, names, help_option="--help-all")
        return tuple(parsed)

    def error(self, message: str) -> NoReturn:
        """Raises the error of an argument. argparse would first print a usage of a hundred lines."""
        raise ValueError(one_line(self.prog, message))

    def short_help(self) -> str:
        """Returns the help of one screen."""
        names: dict[str, argparse.Action] = {}
        for action in self._options:
            names.setdefault(action.dest, action)  # `--no_fusion` follows `--fusion`, and has its destination
        positional = " ".join(action.dest.upper() for action in self._options if not action.option_strings)
        lines = [f"usage: {self.prog} {f'{positional} ' if positional else ''}[OPTIONS]", ""]
        lines += [str(self.description).strip(), ""]
        shown = self._shown or {"Options": [name for name in names if name not in (argparse.SUPPRESS, "help_all")]}
        for heading, group in shown.items():
            lines += [f"{heading}:", *(_line(names[name]) for name in group)]
        return "\n".join([*lines, "", f"All options, with their whole help: {self.prog} --help-all"])

    def _with_recipe(self, arguments: list[str]) -> list[str]:
        """Puts the options of a recipe before the arguments, which override them."""
        if not self._takes_recipe:
            return arguments
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config")
        try:
            found, others = finder.parse_known_args(arguments)
        except argparse.ArgumentError:
            raise ValueError(f"--config takes the path of a recipe. See `{self.prog} --help`.") from None
        if found.config is None:
            return others
        values = read_recipe(found.config, self._keys())
        options, kept = recipe_options(values)
        try:
            _, unknown = self.parse_known_args(options)
        except ValueError as error:
            hint = ' YAML reads no and off as false: write "no".' if "'false'" in str(error) else ""
            raise ValueError(f"{found.config}: {error}{hint}") from None
        if unknown:
            lists = {key: value for key, value in values.items() if isinstance(value, list)}
            wrong = [f"`{key}` takes one value, got the list {value}" for key, value in lists.items()
                     if unknown[0] in map(str, value)]  # fmt: skip
            raise ValueError(f"{found.config}: {'; '.join(wrong) or f'{unknown[0]!r} belongs to no option'}.")
        set_environment(values)
        self.set_defaults_with_config(**kept)
        return [*options, *others]

    def _keys(self) -> list[str]:
        """Returns the keys that a recipe can have."""
        aliases = [alias for kind in self.dataclass_types for one in fields(kind) for alias in _aliases(one)]
        return [one.name for kind in self.dataclass_types for one in fields(kind) if one.init] + aliases


class _ShortHelp(argparse.Action):
    """Prints the help of one screen, and ends the process."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=settings["help"])

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.short_help())
        parser.exit()


def _aliases(one: Any) -> list[str]:
    names = one.metadata.get("aliases", [])
    return [name.lstrip("-") for name in ([names] if isinstance(names, str) else names)]


def _line(action: argparse.Action) -> str:
    """Returns the line of an option, which is as long as the terminal is wide at most."""
    width = max(shutil.get_terminal_size((_USUAL_WIDTH, 0)).columns, _LEAST_WIDTH)
    is_switch = action.nargs in (0, "?") or isinstance(action, argparse.BooleanOptionalAction)
    names = [name for name in action.option_strings if name.startswith("--")]
    if not names:
        name = action.dest.upper()
    elif is_switch:
        name = names[0]
    else:
        name = f"{names[0]} {action.metavar if isinstance(action.metavar, str) else _value_name(action)}"
    text = str(action.help or "").replace("%%", "%")
    if action.choices and not is_switch:
        text += f" ({', '.join(map(str, action.choices))})"
    shortened = textwrap.shorten(text, width - _NAME_WIDTH - 1, placeholder=" …")
    return f"  {name:<{_NAME_WIDTH - 2}} {shortened}"


def _value_name(action: argparse.Action) -> str:
    kind = getattr(action.type, "__name__", "str")
    name = "NAME" if action.choices else {"int": "N", "float": "X"}.get(kind, "TEXT")
    return f"{name} …" if action.nargs == "+" else name
