"""
Evaluates a checkpoint or a baseline on the whole catalog, and writes a report (JSON, Markdown, and Parquet with one
row per target).

    python examples/evaluate.py --model outputs/goodreads/finetune/final --output_dir outputs/evaluation
    python examples/evaluate.py --baseline popularity --data_dir data/goodreads --output_dir outputs/popularity
    python examples/evaluate.py --baseline outputs/sasrec --data_dir data/goodreads --output_dir outputs/sasrec_report

Your own log, with the arguments that `examples/train.py` had:
    python examples/evaluate.py --model outputs/shop/final --data clicks.csv --items products.csv \
        --columns user_id=customer item_id=sku title=name --output_dir outputs/shop_report --plot outputs/shop.png

Several processes share the targets: `torchrun --nproc_per_node 2 examples/evaluate.py ...`. The same command resumes
an interrupted evaluation. `--compare DIR` compares the report with the report of another run on the same targets. A
report on other targets is refused before anything is ranked. If `--output_dir` holds a finished report, `--compare`
and `--plot` do not make it again. `--protocol release` evaluates as the released code does: it decodes titles anew for
each of `--ks`, and each has a report of its own. The report of the largest stands in `--output_dir`, the others in
folders of it, such as `at_10`. `--protocol effects` shows how each matching rule of the release changes the metrics.
"""

import math
import shutil
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import torch
from accelerate import PartialState
from transformers import HfArgumentParser

from patchrec_hf import (
    RELEASE_MATCHING,
    STRICT_PROTOCOL,
    EvaluationProtocol,
    EvaluationReport,
    PatchRecommender,
    evaluate_model,
    evaluate_scorer,
)
from patchrec_hf.baselines import CoVisitation, Fusion, Popularity, SequentialRecommender, Transitions, load_baseline
from patchrec_hf.baselines.saved import FUSION_NAME
from patchrec_hf.data.data_arguments import DataArguments
from patchrec_hf.evaluation.plots import plot_calibration, plot_reports
from patchrec_hf.evaluation.targets import find_targets
from patchrec_hf.runs import claim_run, finish_run
from patchrec_hf.runtime.configuration import NORMALIZERS
from patchrec_hf.runtime.ranking import default_method
from patchrec_hf.runtime.ranking_config import ITEM_METHODS, METHODS


EFFECTS = {  # from the strict protocol to the release's matching, each with one more rule of the release
    "strict": STRICT_PROTOCOL,
    "and a title that begins another cannot end": replace(STRICT_PROTOCOL, complete_prefixes=False),
    "and a title is listed once": replace(STRICT_PROTOCOL, complete_prefixes=False, credit_items=False),
    "and titles that begin with the target's count": replace(RELEASE_MATCHING, take_last_match=False),
    "and the last match counts (release-matching)": RELEASE_MATCHING,
}
BASELINES = {"popularity": Popularity, "co-visitation": CoVisitation, "transitions": Transitions}
PROTOCOLS = ["strict", "release", "release-matching", "effects"]


@dataclass
class Arguments:
    """The recommender to evaluate, the rows, and the rules."""

    output_dir: str = field(metadata={"help": "Directory for the report."})
    model: str | None = field(default=None, metadata={"help": "A checkpoint of this library."})
    baseline: str | None = field(default=None, metadata={"help": f"{', '.join(BASELINES)}, or a saved baseline."})
    split: str = field(
        default="test", metadata={"help": "The rows to rank.", "choices": ["train", "validation", "test"]}
    )
    max_history: int | None = field(
        default=None, metadata={"help": "Items per history. Default: the model's, or 100."}
    )
    ks: list[int] = field(default_factory=lambda: [10, 20], metadata={"help": "Cut-offs."})
    method: str | None = field(
        default=None,
        metadata={
            "help": "Ranking method. Default: fusion if the checkpoint has one, item if the model has an item head, "
            "else exact; diverse by the protocol release.",
            "choices": list(METHODS),
        },
    )
    num_beams: int | None = field(default=None, metadata={"help": "Beams of the method beam."})
    length_penalty: float = field(
        default=0.0, metadata={"help": "Exponent of the title length by which scores are divided: 0 sum, 1 mean."}
    )
    max_title_tokens: int | None = field(
        default=None, metadata={"help": "Title tokens that the method exact reads for a row at most."}
    )
    normalizer: str | None = field(
        default=None,
        metadata={
            "help": "Whether a title token's probability is one among the vocabulary or among the catalog's titles. "
            "Default: the checkpoint's.",
            "choices": list(NORMALIZERS),
        },
    )
    temperature: float | None = field(
        default=None, metadata={"help": "By what logits are divided, with `--normalizer catalog`."}
    )
    protocol: str = field(default="strict", metadata={"help": "Rules for a hit.", "choices": PROTOCOLS})
    exclude_seen: bool = field(default=False, metadata={"help": "Whether to leave out items of the history."})
    max_rows: int | None = field(default=None, metadata={"help": "Number of rows to rank, evenly spaced."})
    batch_size: int = field(default=8, metadata={"help": "Histories per forward."})
    seed: int = field(default=0, metadata={"help": "Seed of random layouts."})
    max_tokens: int | None = field(
        default=None, metadata={"help": "Most positions of a history, for a checkpoint whose layout has a budget."}
    )
    trust_layout_code: bool = field(
        default=False, metadata={"help": "Whether to import the checkpoint's layout, if it is a class of your own."}
    )
    compare: str | None = field(default=None, metadata={"help": "Directory of another report to compare with."})
    plot: str | None = field(default=None, metadata={"help": "Where to draw the report (an image file)."})

    def __post_init__(self) -> None:
        least = {"max_history": 1, "num_beams": 1, "max_title_tokens": 0, "max_rows": 1, "batch_size": 1, "seed": 0,
                 "max_tokens": 1}  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"--{name} must be at least {minimum}, got {value}.")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"--ks takes cut-offs of at least 1, got {self.ks}.")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"--length_penalty must be a finite number, got {self.length_penalty}.")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"--temperature must be a positive number, got {self.temperature}.")

    def check_combination(self, default_method: str | None = None) -> None:
        """
        Checks that the arguments go together.

        Args:
            default_method (`str`, *optional*):
                The method of the checkpoint, `"fusion"`, `"item"` or `"exact"`, once it is loaded.

        Raises:
            ValueError: If one has no effect, or contradicts another.
        """
        if (self.model is None) == (self.baseline is None):
            raise ValueError("Give exactly one of --model and --baseline.")
        of_search = {"num_beams": None, "length_penalty": 0.0, "max_title_tokens": None, "normalizer": None,
                     "temperature": None}  # fmt: skip
        given = [name for name, default in of_search.items() if getattr(self, name) != default]
        if self.baseline is not None:
            given += [name for name, default in (("protocol", "strict"), ("method", None), ("max_tokens", None),
                                                 ("trust_layout_code", False))
                      if getattr(self, name) != default]  # fmt: skip
            if given:
                raise ValueError(f"A baseline scores every item: leave out {_options(given)}.")
            return
        if self.protocol == "release" and self.method not in (None, "diverse"):
            raise ValueError(
                "`--protocol release` decodes titles by the method diverse: leave out --method, or choose "
                "`--protocol release-matching`."
            )
        if self.method == "diverse" and self.protocol != "release":
            raise ValueError("`--method diverse` decodes anew for each cut-off: choose `--protocol release`.")
        if self.method in ITEM_METHODS and self.protocol != "strict":
            raise ValueError(
                f"`--method {self.method}` ranks items, so it needs `--protocol strict`, got {self.protocol}."
            )
        searches = ["exact", "beam", "all"]
        uses = {"num_beams": ["beam"], "length_penalty": searches, "max_title_tokens": ["exact"],
                "normalizer": searches, "temperature": searches}  # fmt: skip
        default = default_method if self.protocol in ("strict", "effects") else "exact"
        method = "diverse" if self.protocol == "release" else self.method or default
        # As long as the method is unknown, it is exact, item or fusion, and only the beams are wrong.
        if wrong := [name for name in given if (method or "exact") not in uses[name]]:
            raise ValueError(f"The method {method or 'exact'} does not use {_options(wrong)}: leave it out.")


def main(args: Arguments, data: DataArguments) -> None:
    args.check_combination()
    if args.plot and find_spec("matplotlib") is None:  # said now, and not after the evaluation
        raise SystemExit('`--plot` needs matplotlib: pip install "patchrec-hf[plots]"')
    state = PartialState(cpu=not torch.accelerator.is_available())
    max_history = 100 if args.max_history is None else args.max_history
    if args.model is not None:
        recommender = PatchRecommender.from_pretrained(args.model, trust_layout_code=args.trust_layout_code)
        args.check_combination(default_method(recommender.model, recommender.processor))
        model, processor = recommender.model.to(state.device), recommender.processor
        max_history, own_catalog = args.max_history or processor.max_history, processor.catalog
        if args.max_tokens is not None:
            processor.layout_within(args.max_tokens)  # said now, and not after the data is loaded
    elif args.baseline not in BASELINES:
        scorer = load_saved(args.baseline)
        if isinstance(scorer, SequentialRecommender):
            scorer.to(state.device)
        own_catalog = scorer.catalog
    splits, catalog = data.load(max_history=max_history)
    rows, train = splits[args.split], splits["train"]
    if args.baseline not in BASELINES:
        catalog.check_same_titles(own_catalog)
        catalog = own_catalog
    other = EvaluationReport.load(args.compare) if args.compare else None
    if other is not None:
        ks = [max(args.ks)] if args.protocol == "release" else args.ks
        other.check_comparable(find_targets(rows, catalog, args.max_rows).frame(), ks)
    settings = {name: value for name, value in asdict(args).items() if name not in ("compare", "plot", "batch_size")}
    try:  # the directory is claimed last, so that a mistake in the arguments leaves no files behind
        claim_run(args.output_dir, {**settings, **asdict(data)})
    except FileExistsError as error:
        if not (args.compare or args.plot) or not Path(args.output_dir, "results.json").exists():
            raise SystemExit(str(error)) from None
        state.print(f"{args.output_dir} holds a finished report. It is {'compared' if other else 'drawn'} as it is.\n")
        if state.is_main_process:
            show_report(args, EvaluationReport.load(args.output_dir), other)
        return

    reports: dict[str, EvaluationReport] = {}
    if args.baseline is not None:
        if args.baseline in BASELINES:
            scorer = BASELINES[args.baseline](catalog).fit(train)
        reports["strict"] = evaluate_scorer(
            scorer, catalog, rows, args.exclude_seen, args.max_rows, train, show_progress=state.is_main_process
        )
    else:
        evaluations = evaluations_of(args)
        for number, (name, (protocol, k)) in enumerate(evaluations.items(), 1):
            state.print(f"Evaluation {number} of {len(evaluations)}: {name}")
            report = evaluate_model(
                model,
                processor,
                rows,
                seed=args.seed,
                method=args.method,
                k=k,
                num_beams=args.num_beams,
                length_penalty=args.length_penalty,
                max_title_tokens=args.max_title_tokens,
                normalizer=args.normalizer,
                temperature=args.temperature,
                protocol=protocol,
                exclude_seen=args.exclude_seen,
                max_rows=args.max_rows,
                train_dataset=train,
                batch_size=args.batch_size,
                max_tokens=args.max_tokens,
                resume_dir=Path(args.output_dir, "parts", str(number)),
            )
            reports[name] = report.with_settings(model=args.model)
    if not state.is_main_process:
        return

    num_rows = {name: len(part) for name, part in splits.items()}
    facts = {"data set": data.data, "split": args.split, "rows": num_rows, "items": len(catalog)}
    facts |= {"max_history": max_history, "items with a shared title": catalog.num_shared_titles()}
    reports = {
        name: report.with_settings(**facts)
        if report.only_at_depth
        else replace(report.with_settings(**facts), ks=tuple(args.ks))
        for name, report in reports.items()
    }
    *others, last = reports.values()
    last.save(args.output_dir)
    metrics = {**last.metrics(), **last.beyond_accuracy()}
    if last.only_at_depth:
        for report in others:
            report.save(Path(args.output_dir, f"at_{report.depth}"))
            metrics = {**report.metrics(), **metrics}
    finish_run(args.output_dir, metrics)
    shutil.rmtree(Path(args.output_dir, "parts"), ignore_errors=True)
    if last.only_at_depth:
        rows_of_table = [
            {"k": k, "HR@k": metrics[f"hr@{k}"], "NDCG@k": metrics[f"ndcg@{k}"]} for k in sorted(set(args.ks))
        ]
        print("Each k was decoded anew, so that HR and NDCG at two k can contradict each other:\n")
        show(pl.DataFrame(rows_of_table), Path(args.output_dir, "release.md"))
        saved = [f"{Path(args.output_dir, f'at_{report.depth}')}" for report in others] + [args.output_dir]
        print(f"\nThe reports, with intervals and settings: {', '.join(saved)}.")
    else:
        print(last.to_markdown())
        if others:
            k = max(args.ks)
            table = pl.DataFrame([{"protocol": name, **report.metrics()} for name, report in reports.items()])
            table = table.select("protocol", f"hr@{k}", f"ndcg@{k}", f"title_hr@{k}")
            show(table, Path(args.output_dir, "effects.md"))
    show_report(args, last, other)


def evaluations_of(args: Arguments) -> dict[str, tuple[EvaluationProtocol | str, int | None]]:
    """Returns protocol and k of each evaluation, by the name to show."""
    if args.protocol == "release":
        return {f"release, {k} groups": ("release", k) for k in sorted(set(args.ks))}
    protocols: dict[str, EvaluationProtocol | str] = {args.protocol: args.protocol}
    if args.protocol == "effects":
        protocols = {**EFFECTS}
    k = None if args.method == "all" else max(args.ks)
    return {name: (protocol, k) for name, protocol in protocols.items()}


def _options(names: list[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


def load_saved(name: str) -> Fusion | Popularity | CoVisitation | Transitions | SequentialRecommender:
    try:
        return Fusion.from_pretrained(name) if Path(name, FUSION_NAME).is_file() else load_baseline(name)
    except TypeError as error:
        raise SystemExit(f"{error} Pass it as --model.") from None
    except OSError as error:
        raise SystemExit(
            f"--baseline must be one of {', '.join(BASELINES)} or a saved baseline, got {name}: {error}"
        ) from None


def show_report(args: Arguments, report: EvaluationReport, other: EvaluationReport | None) -> None:
    if other is not None:
        print(
            f"{args.output_dir} (this), {args.compare} (other), and this minus other with its 95% interval by users:\n"
        )
        show(report.compare(other), Path(args.output_dir, "comparison.md"))
    if args.plot:
        plot_reports({args.output_dir: report, **({args.compare: other} if other else {})}, args.plot)
        drawn = [args.plot]
        shown = {args.output_dir: report, **({args.compare: other} if other else {})}
        calibrated = {name: one for name, one in shown.items() if "top_log_probs" in one.targets.columns}
        if calibrated:
            path = Path(args.plot)
            drawn.append(str(path.with_name(f"{path.stem}_calibration{path.suffix}")))
            plot_calibration(calibrated, drawn[1])
        print(f"Drawn in {' and '.join(drawn)}.")


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
    parser = HfArgumentParser(
        (Arguments, DataArguments), description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    try:
        main(*parser.parse_args_into_dataclasses())
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error  # a KeyError shows its message in quotes
        raise SystemExit(f"{type(error).__name__}: {message}") from None
