"""
Writes docs/results.md from the folders of `reproduce_paper.py`. A run has measured every number on the page.

    python examples/write_results.py outputs/reproduction/*/table_* outputs/reproduction/*/figure_*

The script first copies each folder's `results.json` to docs/results, and makes the page from all copies there. Without
folders, it makes the page again from the copies.
"""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reproduction.plots import plot, require_matplotlib
from reproduction.tables import to_markdown

from patchrec_hf.runs import write_json


INTRODUCTION = """# Results

This page shows what `examples/reproduce_paper.py` measured.

- To read the tables, first see [how to read them](#how-to-read-the-tables){findings_link}.
- To measure a table yourself, run the command above it; [baselines.md](baselines.md#the-papers-tables-and-figures)
  explains the options.
- To make this page again, run `python examples/write_results.py`. Every number in the tables comes
  from the folders in [results](results).

## The methods

- **Vanilla**: the LLM is fine-tuned on whole histories as text.
- **PatchRec-I**: patch pre-training, then fine-tuning with the latest items as text and a patch for each older one
  (the paper's PFT-I, `ItemPatchLayout`).
- **PatchRec-S**: the same, with one patch for several of the oldest items (PFT-S, `SessionPatchLayout`).
- **Patch Pre-training**: without fine-tuning, ranked with PatchRec-I's layout. **Dropout**: pre-training that leaves
  items out instead of compressing them, ranked on whole histories as text.
- **PatchRec-I (vocabulary)**: PatchRec-I with the paper's loss, where the scale's loss is among the catalog.
- **All-patch**: each item is one patch, and each patch predicts the next item ([objective.md](objective.md)).
- **Fusion**: PatchRec-I and all baselines, mixed by weights that make validation targets most likely.
  **All-patch + fusion**: All-patch and counts, mixed likewise, in one checkpoint.
- The others are [baselines](baselines.md). Only MoRec and Transitions read titles.

## How to read the tables

{scales}\
Intervals come from resampling users: they hold the chance of which users were tested, but not the chance of another
seed.
"""
SCALES = {  # in the order of the page
    "tiny": "The *tiny* scale is for tests: its methods train for seconds, and their numbers mean nothing.",
    "smoke": "The *smoke* scale only shows that everything works.",
    "laptop": """The *laptop* scale trains backbones of two to three million
parameters from scratch, on few examples; these backbones know nothing of language or of the world. The laptop scale
compares the methods on the same data with little compute. It does not show what the paper's backbone reaches.

The laptop scale's settings come from trials of PatchRec-I on MovieLens-100K's validation rows. The other LLMs take
them over, and so does Goodreads, except for a larger vocabulary. Every choice was made on validation, whose HR@20 is
given too; test is later in time, and harder.""",
}
FINDINGS = {  # of the laptop scale, by data set
    "ml-100k": """\
On MovieLens-100K, at the laptop scale, All-patch + fusion finds more test targets than CoVisitation, and so more than
any other method in the table; the interval of the difference does not hold 0. All-patch alone finds as many as
CoVisitation, in less than half of PatchRec-I's training time. SASRec and GRU4Rec are below CoVisitation.

Methods that predict titles are far below both. At equal examples, Vanilla, PatchRec-I and PatchRec-S cannot be told
apart, and neither can the paper's loss and the loss among the catalog. PatchRec ranks faster than plain text, because
its prompts are shorter, and the loss among the catalog ranks faster than the paper's, because it reads fewer title
tokens. Sixty thousand examples are few: the earlier table, with nearly four times as many and the paper's loss, has
PatchRec-I about twice as high, and there it learns more from the same examples than plain text does.
""",
    "goodreads": """\
On Goodreads, All-patch + fusion finds more test targets than CoVisitation, and the interval of the difference does not
hold 0. All-patch alone cannot be told from CoVisitation. Transitions, which count too, are between the two. Methods
that predict titles were not run anew there. In the earlier table they are above chance and far below co-visitation,
and neither patches nor pre-training make a difference beyond chance.
""",
}


def introduction(studies: Sequence[dict[str, Any]]) -> str:
    """Returns the page's beginning, which explains the scales that the page has, and states what was found at them."""
    scales = {values["scale"]["name"] for values in studies}
    at_laptop = {values["dataset"] for values in studies if values["scale"]["name"] == "laptop"}
    explained = " ".join(text for name, text in SCALES.items() if name in scales)
    findings = [text for dataset, text in FINDINGS.items() if dataset in at_laptop]
    text = INTRODUCTION.format(
        findings_link=" and [the findings](#the-findings)" if findings else "",
        scales=f"{explained}\n\n" if explained else "",
    )
    return "\n".join([text, "## The findings\n", *findings]) if findings else text


def main(folders: Sequence[Path], output: Path) -> None:
    require_matplotlib()
    for folder in folders:
        if not (folder / "results.json").exists():
            raise SystemExit(
                f"{folder} is no table or figure: it holds no results.json. Pass the folder table_* or figure_* in it."
            )
        values = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        # A path on one machine means nothing to readers.
        if values["data_dir"] is not None:
            values["data_dir"] = "DIRECTORY"
        backbone = values["changes"].get("backbone")
        if backbone is not None and Path(backbone).is_dir():
            values["scale"]["backbone"] = values["changes"]["backbone"] = Path(backbone).name
        facts = [values["dataset"], values["scale"]["name"], values["seed"], folder.name]
        facts += [f"{name}_{value}" for name, value in values["changes"].items()]
        kept = output.with_suffix("") / "-".join(map(str, facts)).replace("/", "_")
        kept.mkdir(parents=True, exist_ok=True)
        write_json(kept / "results.json", values)
    studies = {
        kept: json.loads(kept.read_text(encoding="utf-8"))
        for kept in sorted(output.with_suffix("").glob("*/results.json"))
    }
    parts = [introduction(list(studies.values()))]
    for kept, values in studies.items():
        plot(values, kept.with_name("plot.svg"))
        picture = f"![HR@20 of each method]({kept.with_name('plot.svg').relative_to(output.parent).as_posix()})"
        parts.append(f"{to_markdown(values).removeprefix('#')}\n{picture}\n")
    part = output.with_suffix(".part")
    part.write_text("\n".join(parts), encoding="utf-8")
    part.replace(output)
    print(f"{output} holds {len(studies)} {'table or figure' if len(studies) == 1 else 'tables and figures'}.")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="Folders of finished tables and figures.")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="The page to write.")
    args = parser.parse_args()
    main(args.folders, args.output)
