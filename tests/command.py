"""The command `patchrec`: as its installed script starts it, or by the entry point that pyproject.toml names."""

import os
import sys
import tomllib
from pathlib import Path

from processes import run_process


ROOT = Path(__file__).parents[1]
ENTRY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["patchrec"]


def patchrec(*arguments, **settings):
    """Runs the command in a process of its own, with this checkout as the package, and returns what it printed."""
    script = Path(sys.executable).with_name("patchrec")
    module, function = ENTRY.split(":")
    start = [script] if script.is_file() else [sys.executable, "-c", f"from {module} import {function}; {function}()"]
    return run_process([*start, *arguments], env=with_checkout(), **settings)


def with_checkout():
    """The environment in which Python finds this checkout first."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
