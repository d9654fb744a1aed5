"""
Starts the command `patchrec` by the path of its module. To import the module by its name would import the package
first, and with it PyTorch, which takes seconds. So `patchrec --help` answers at once.
"""

import runpy
from pathlib import Path


def main() -> None:
    """Runs the command with the arguments of the process."""
    runpy.run_path(str(Path(__file__).with_name("patchrec_hf") / "commands" / "main.py"), run_name="__main__")
