"""Plain options: a parser that needs neither TRL nor PyTorch, and the errors that all parsers of commands share"""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..data.keywords import nearest


class PlainParser(argparse.ArgumentParser):
    """
    Parser of a command whose options are no dataclasses. Its errors have one line, and name the nearest option for a
    misspelt one. Options are never abbreviated.

    Args:
        command (`str`):
            Name of the command.
        settings (`Any`):
            Further arguments of [`argparse.ArgumentParser`].
    """

    def __init__(self, command: str, **settings: Any) -> None:
        self._names: list[str] = []
        super().__init__(f"patchrec {command}", allow_abbrev=False, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self._names += action.option_strings
        return action

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Parses the arguments of a command.

        Args:
            arguments (`Sequence[str]`):
                The arguments after the command's name.

        Raises:
            ValueError: If an argument is unknown or missing, or a value cannot be read.
        """
        args, unknown = self.parse_known_args(list(arguments))
        check_unknown(self.prog, unknown, self._names)
        return args

    def error(self, message: str) -> NoReturn:
        """Raises the error of an argument. argparse would first print the usage, and end the process."""
        raise ValueError(one_line(self.prog, message))


def one_line(prog: str, message: str) -> str:
    """
    Returns an error of argparse as a sentence that says where help is.

    Args:
        prog (`str`):
            The command, such as `"patchrec serve"`.
        message (`str`):
            The error of argparse.
    """
    return f"{message.removeprefix('argument ')}. See `{prog} --help`."


def check_unknown(prog: str, unknown: Sequence[str], names: Iterable[str], help_option: str = "--help") -> None:
    """
    Refuses arguments that belong to no option.

    Args:
        prog (`str`):
            The command, such as `"patchrec serve"`.
        unknown (`Sequence[str]`):
            The arguments that its parser did not take.
        names (`Iterable[str]`):
            All names of its options.
        help_option (`str`, *optional*, defaults to `"--help"`):
            The option that lists all options.

    Raises:
        ValueError: If there are any, with the nearest option's name.
    """
    known = [name for name in names if name.startswith("--")]
    for text in unknown:
        if text.startswith("--"):
            name = text.partition("=")[0]
            found = nearest(name.replace("-", "_").replace("__", "--", 1), known)
            hint = found if found.startswith("did") else f"see `{prog} {help_option}`."
            raise ValueError(f"There is no option {name}; {hint}")
    if unknown:
        raise ValueError(f"{unknown[0]!r} belongs to no option. See `{prog} --help`.")
