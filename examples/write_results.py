"""
Writes docs/results.md from the folders of `reproduce_paper.py`: every figure in it is one that a run has measured.

    python examples/write_results.py outputs/reproduction/*/table_* outputs/reproduction/*/figure_*

Each folder's `results.json` is copied to docs/results first, so that the page can be made again from what is kept with
it; without folders it is.
"""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from reproduction.tables import plot, to_markdown

from patchrec_hf.runs import write_json


INTRODUCTION = """# Results

What `examples/reproduce_paper.py` measured. This page is made from the folders in [results](results) by
`python examples/write_results.py`; nothing in it is typed by hand. The command of each table stands above it.

How to read it: the laptop scale trains backbones of a few million parameters from scratch, without any knowledge of
language, on few examples. It compares what methods make of the same data and little compute; it does not say what the
paper's backbone reaches. Intervals are by resampling users; they hold the chance of which users were tested, not that
of another seed.
"""


def main(folders: Sequence[Path], output: Path) -> None:
    for folder in folders:
        values = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        parts = [values["dataset"], values["scale"]["name"], values["seed"], folder.name]
        parts += [f"{name}_{value}" for name, value in values["changes"].items()]
        name = "-".join(map(str, parts))
        kept = output.with_suffix("") / name
        kept.mkdir(parents=True, exist_ok=True)
        if values["data_dir"] is not None:
            values["data_dir"] = "DIRECTORY"  # where it was on one machine helps nobody
        write_json(kept / "results.json", values)
    parts = [INTRODUCTION]
    for kept in sorted(output.with_suffix("").glob("*/results.json")):
        values = json.loads(kept.read_text(encoding="utf-8"))
        plot(values, kept.with_name("plot.svg"))
        picture = f"![HR@20 of each method]({kept.with_name('plot.svg').relative_to(output.parent).as_posix()})"
        parts.append(f"{to_markdown(values).removeprefix('#')}\n{picture}\n")
    part = output.with_suffix(".part")
    part.write_text("\n".join(parts), encoding="utf-8")
    part.replace(output)
    print(f"{output} holds {len(parts) - 1} tables and figures.")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="Folders of finished tables and figures.")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="The page.")
    args = parser.parse_args()
    main(args.folders, args.output)
