"""
Writes the tree of the package into docs/design.md, from the first line of each room's and module's docstring.

    python docs/house.py           # writes
    python docs/house.py --check   # fails if the page is not up to date
"""

import argparse
import ast
from graphlib import TopologicalSorter
from pathlib import Path


ROOT = Path(__file__).parents[1]
PACKAGE, PAGE = ROOT / "patchrec_hf", ROOT / "docs" / "design.md"
BEGIN, END = "<!-- python docs/house.py -->\n", "<!-- end -->\n"
# Each room imports only from the rooms that this list names before it.
ROOMS = ("runtime", "data", "batches", "evaluation", "baselines", "hub", "training", "demo", "commands")


def summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")


def local_imports(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module}


def in_order(room: Path) -> list[Path]:
    """Returns the modules of a room, each after the modules that it imports from the same room."""
    paths = {path.stem: path for path in sorted(room.glob("*.py")) if path.stem != "__init__"}
    imports = {name: sorted(local_imports(path) & paths.keys()) for name, path in paths.items()}
    return [paths[name] for name in TopologicalSorter(imports).static_order()]


def tree() -> str:
    lines = ["```", "patchrec_hf/"]
    for path in (PACKAGE / "__init__.py", PACKAGE / "runs.py", PACKAGE / "tiny.py"):
        lines.append(f"  {path.name:<22}{summary(path)}")
    for room in ROOMS:
        lines += ["", f"  {room + '/':<22}{summary(PACKAGE / room / '__init__.py')}"]
        lines += [f"    {path.stem:<20}{summary(path)}" for path in in_order(PACKAGE / room)]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    written = before + BEGIN + tree() + END + rest.split(END, 1)[1]
    if check and written != page:
        raise SystemExit("docs/design.md does not show the package as it is. Run `python docs/house.py`.")
    if not check:
        PAGE.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
