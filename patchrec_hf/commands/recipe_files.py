"""Recipe files: YAML files of options, read, checked, and turned into arguments of the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..data.keywords import nearest, nearest_file


ENVIRONMENT = "env"
"""Key of the environment variables that a recipe sets, as TRL's configuration files do."""


def read_recipe(path: str | os.PathLike, keys: Collection[str]) -> dict[str, Any]:
    """
    Reads a recipe.

    Args:
        path (`str` or `os.PathLike`):
            A YAML file with one mapping of options and their values.
        keys (`Collection[str]`):
            The keys that it may have, besides `env`.

    Returns:
        `dict[str, Any]`: the values by their keys.

    Raises:
        FileNotFoundError: If there is no such file. The message names the nearest one.
        ValueError: If the file is no mapping in YAML, or a key is unknown. The message names the file, the key and the
            nearest known key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}.{nearest_file(path)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options and their values, such as `max_history: 50`, got {values!r:.80}.")
    for key in values:
        if key not in keys and key != ENVIRONMENT:
            raise ValueError(f"{path} has the unknown key {key!r}; {_nearest_key(str(key), keys)}")
    variables = values.get(ENVIRONMENT, {})
    if not isinstance(variables, dict):
        raise ValueError(f"`{ENVIRONMENT}` in {path} must hold variables and their values, got {variables!r}.")
    return values


def recipe_options(values: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """
    Turns the values of a recipe into arguments of the command line.

    Args:
        values (`Mapping[str, Any]`):
            The result of [`read_recipe`].

    Returns:
        `tuple[list[str], dict[str, Any]]`: the arguments; and the values that the command line cannot express, which
        are mappings and `null`.
    """
    options: list[str] = []
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if key == ENVIRONMENT:
            continue
        if value is None or isinstance(value, dict):
            kept[key] = value
        elif isinstance(value, list):
            options += [f"--{key}", *map(_text, value)]
        else:
            options.append(f"--{key}={_text(value)}")
    return options, kept


def set_environment(values: Mapping[str, Any]) -> None:
    """Sets the environment variables that a recipe names."""
    os.environ.update({name: _text(value) for name, value in values.get(ENVIRONMENT, {}).items()})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _nearest_key(key: str, keys: Collection[str]) -> str:
    found = nearest(key, keys)
    return found if found.startswith("did") else "`patchrec train --help-all` lists the keys."
