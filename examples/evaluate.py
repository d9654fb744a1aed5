"""
Evaluates a checkpoint or a baseline on the whole catalog, and writes a report (JSON, Markdown, and Parquet with one
row per target).

    python examples/evaluate.py --model outputs/goodreads/finetune/final --output_dir outputs/evaluation
    python examples/evaluate.py --baseline popularity --data_dir data/goodreads --output_dir outputs/popularity
    python examples/evaluate.py --baseline outputs/sasrec --data_dir data/goodreads --output_dir outputs/sasrec_report

Several processes share the targets: `torchrun --nproc_per_node 2 examples/evaluate.py ...`. The same command resumes
an interrupted evaluation. `--compare DIR` compares the report with the report of another run on the same targets. If
`--output_dir` holds a finished report, `--compare` does not make it again. `--protocol effects` shows how each rule of
the release changes the metrics.
"""

import shutil
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import polars as pl
import torch
from accelerate import PartialState
from transformers import AutoModel, HfArgumentParser

from patchrec_hf import (
    RELEASE_PROTOCOL,
    STRICT_PROTOCOL,
    EvaluationReport,
    PatchRecommender,
    evaluate_model,
    evaluate_scorer,
    load_recommendation_data,
)
from patchrec_hf.baselines import CoVisitation, Popularity, SequentialRecommender
from patchrec_hf.runs import claim_run, finish_run


EFFECTS = {  # from the strict protocol to the release's, each with one more rule of the release
    "strict": STRICT_PROTOCOL,
    "and a title that begins another cannot end": replace(STRICT_PROTOCOL, complete_prefixes=False),
    "and a title is listed once": replace(STRICT_PROTOCOL, complete_prefixes=False, credit_items=False),
    "and titles that begin with the target's count": replace(RELEASE_PROTOCOL, take_last_match=False),
    "and the last match counts (release)": RELEASE_PROTOCOL,
}
BASELINES = {"popularity": Popularity, "co-visitation": CoVisitation}
PROTOCOLS = {"strict": {"strict": STRICT_PROTOCOL}, "release": {"release": RELEASE_PROTOCOL}, "effects": EFFECTS}


@dataclass
class Arguments:
    """The recommender to evaluate, the rows, and the rules."""

    output_dir: str = field(metadata={"help": "Directory for the report."})
    model: str | None = field(default=None, metadata={"help": "A checkpoint of this library."})
    baseline: str | None = field(default=None, metadata={"help": f"{', '.join(BASELINES)}, or a saved baseline."})
    data_dir: str | None = field(default=None, metadata={"help": "A prepared data set. Default: the embedded sample."})
    split: str = field(
        default="test", metadata={"help": "The rows to rank.", "choices": ["train", "validation", "test"]}
    )
    max_history: int | None = field(
        default=None, metadata={"help": "Items per history. Default: the model's, or 100."}
    )
    ks: list[int] = field(default_factory=lambda: [10, 20], metadata={"help": "Cut-offs."})
    method: str | None = field(
        default=None, metadata={"help": "Ranking method. Default: item if the model has an item head, else exact."}
    )
    num_beams: int | None = field(default=None, metadata={"help": "Beams of the method beam."})
    max_title_tokens: int | None = field(
        default=None, metadata={"help": "Title tokens that the method exact reads for a row at most."}
    )
    protocol: str = field(default="strict", metadata={"help": "Rules for a hit.", "choices": list(PROTOCOLS)})
    exclude_seen: bool = field(default=False, metadata={"help": "Whether to leave out items of the history."})
    max_rows: int | None = field(default=None, metadata={"help": "Number of rows to rank, evenly spaced."})
    batch_size: int = field(default=8, metadata={"help": "Histories per forward."})
    seed: int = field(default=0, metadata={"help": "Seed of random layouts."})
    compare: str | None = field(default=None, metadata={"help": "Directory of another report to compare with."})


def main(args: Arguments) -> None:
    if (args.model is None) == (args.baseline is None):
        raise SystemExit("Give exactly one of --model and --baseline.")
    if args.baseline is not None and (args.protocol, args.method) != ("strict", None):
        raise SystemExit("A baseline scores every item: leave out --protocol and --method.")
    state = PartialState(cpu=not torch.accelerator.is_available())
    max_history = args.max_history or 100
    if args.model is not None:
        recommender = PatchRecommender.from_pretrained(args.model)  # merges an adapter
        model, processor = recommender.model.to(state.device), recommender.processor
        max_history, own_catalog = args.max_history or processor.max_history, processor.catalog
    elif args.baseline not in BASELINES:
        scorer = load_baseline(args.baseline).to(state.device)
        own_catalog = scorer.catalog
    splits, catalog = load_recommendation_data(args.data_dir or "sample", max_history=max_history)
    rows, train = splits[args.split], splits["train"]
    if args.baseline not in BASELINES:
        catalog.check_same_titles(own_catalog)
        catalog = own_catalog
    other = EvaluationReport.load(args.compare) if args.compare else None
    try:  # the directory is claimed last, so that a mistake in the arguments leaves no files behind
        claim_run(args.output_dir, {k: v for k, v in asdict(args).items() if k not in ("compare", "batch_size")})
    except FileExistsError as error:
        if other is None or not Path(args.output_dir, "results.json").exists():
            raise SystemExit(str(error)) from None
        state.print(f"{args.output_dir} holds a finished report. It is compared as it is.\n")
        if state.is_main_process:
            compare(args, EvaluationReport.load(args.output_dir), other)
        return

    reports: dict[str, EvaluationReport] = {}
    if args.baseline is not None:
        if args.baseline in BASELINES:
            scorer = BASELINES[args.baseline](catalog).fit(train)
        reports["strict"] = evaluate_scorer(
            scorer, catalog, rows, args.exclude_seen, args.max_rows, train, show_progress=state.is_main_process
        )
    else:
        for number, (name, protocol) in enumerate(PROTOCOLS[args.protocol].items(), 1):
            state.print(f"Protocol {number} of {len(PROTOCOLS[args.protocol])}: {name}")
            report = evaluate_model(
                model,
                processor,
                rows,
                seed=args.seed,
                method=args.method,
                k=None if args.method == "all" else max(args.ks),
                num_beams=args.num_beams,
                max_title_tokens=args.max_title_tokens,
                protocol=protocol,
                exclude_seen=args.exclude_seen,
                max_rows=args.max_rows,
                train_dataset=train,
                batch_size=args.batch_size,
                resume_dir=Path(args.output_dir, "parts", str(number)),
            )
            reports[name] = report.with_settings(model=args.model)
    if not state.is_main_process:
        return

    num_rows = {name: len(part) for name, part in splits.items()}
    data = {"data set": args.data_dir or "sample", "split": args.split, "rows": num_rows, "items": len(catalog)}
    data["max_history"] = max_history
    data["items with a shared title"] = catalog.num_shared_titles()
    reports = {name: replace(report.with_settings(**data), ks=tuple(args.ks)) for name, report in reports.items()}
    last = reports[list(reports)[-1]]
    last.save(args.output_dir)
    finish_run(args.output_dir, last.metrics())
    shutil.rmtree(Path(args.output_dir, "parts"), ignore_errors=True)
    print(last.to_markdown())
    if len(reports) > 1:
        k = max(args.ks)
        table = pl.DataFrame([{"protocol": name, **report.metrics()} for name, report in reports.items()])
        show(table.select("protocol", f"hr@{k}", f"ndcg@{k}", f"title_hr@{k}"), Path(args.output_dir, "effects.md"))
    if other is not None:
        compare(args, last, other)


def load_baseline(name: str) -> SequentialRecommender:
    try:
        model = AutoModel.from_pretrained(name)
    except OSError as error:
        raise SystemExit(
            f"--baseline must be one of {', '.join(BASELINES)} or a saved baseline, got {name}: {error}"
        ) from None
    if not isinstance(model, SequentialRecommender):
        raise SystemExit(f"{name} holds a {type(model).__name__}, which is no baseline. Pass it as --model.")
    return model


def compare(args: Arguments, report: EvaluationReport, other: EvaluationReport) -> None:
    print(f"{args.output_dir} (this), {args.compare} (other), and this minus other with its 95% interval by users:\n")
    show(report.compare(other), Path(args.output_dir, "comparison.md"))


def show(table: pl.DataFrame, path: Path) -> None:
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        float_precision=4,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=200,
        fmt_str_lengths=100,
    ):
        print(table)
        path.write_text(f"{table}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = HfArgumentParser(Arguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    try:
        main(*parser.parse_args_into_dataclasses())
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
