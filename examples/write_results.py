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

from reproduction.tables import plot, require_matplotlib, to_markdown

from patchrec_hf.runs import write_json


INTRODUCTION = """# Results

What `examples/reproduce_paper.py` measured. This page is made from the folders in [results](results) by
`python examples/write_results.py`; no number in it is typed by hand. The command of each table stands above it.

The methods:

- **Vanilla**: the LLM is fine-tuned on whole histories as text.
- **PatchRec-I**: patch pre-training, then fine-tuning with the latest items as text and a patch for each older one
  (the paper's PFT-I, `ItemPatchLayout`).
- **PatchRec-S**: the same, with one patch for several of the oldest items (PFT-S, `SessionPatchLayout`).
- **Fusion**: PatchRec-I and the baseline that ranks validation best, mixed by a weight that validation chose.
- The others are [baselines](baselines.md). Only MoRec reads titles.

How to read the tables: the *smoke* scale only shows that everything works. The *laptop* scale trains backbones of two
to three million parameters from scratch, which know nothing of language or of the world, on few examples. It compares
what methods make of the same data and little compute; it does not say what the paper's backbone reaches. Its
settings come from trials of PatchRec-I on MovieLens-100K's validation rows; the other LLMs take them over, and so does
Goodreads, but for a larger vocabulary. Intervals are by resampling users: they hold the chance of which users were
tested, not that of another seed. Whatever was chosen was chosen on validation, whose HR@20 is given too; test is later
in time, and harder.

What the laptop tables show: on MovieLens-100K, PatchRec learns more from the same examples than plain text does, and
ranks faster; given the same time, plain text catches up, as packing makes text cheap to train on. What they do not
show: anything of methods on Goodreads, where a new backbone learns little from so few examples. There, LLMs are above
chance and far below co-visitation, and neither patches nor pre-training make a difference beyond chance.
"""


def main(folders: Sequence[Path], output: Path) -> None:
    require_matplotlib()
    for folder in folders:
        if not (folder / "results.json").exists():
            raise SystemExit(
                f"{folder} is no table or figure: it holds no results.json. Give its table_* or figure_*."
            )
        values = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        facts = [values["dataset"], values["scale"]["name"], values["seed"], folder.name]
        facts += [f"{name}_{value}" for name, value in values["changes"].items()]
        kept = output.with_suffix("") / "-".join(map(str, facts))
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
