"""The entry point of `patchrec`: the list of commands, which takes no more than the standard library."""

import sys

import pytest
from command import ROOT, patchrec, with_checkout
from processes import run_process

from patchrec_hf.commands.main import COMMANDS


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_help_lists_all_commands(arguments):
    done = patchrec(*arguments)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert lines == list(COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"]])
def test_nothing_heavy_is_imported(arguments):
    code = f"""
import sys
from patchrec_launcher import main
sys.argv = ["patchrec", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
print("heavy:", [name for name in ("numpy", "patchrec_hf", "torch", "transformers", "trl") if name in sys.modules])
"""
    done = run_process([sys.executable, "-c", code], env=with_checkout(), check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_a_misspelt_command_is_named():
    done = patchrec("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "patchrec has no command 'trian'; did you mean 'train'?\n"


def test_the_wheel_holds_the_launcher():
    """Else the installed script would find no module of this name."""
    assert (ROOT / "patchrec_launcher.py").is_file()
    assert 'py-modules = ["patchrec_launcher"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
