"""
Evaluate a checkpoint or a baseline on the whole catalog, and write a report.

    patchrec evaluate outputs/final --output_dir outputs/evaluation
    patchrec evaluate --baseline popularity --output_dir outputs/popularity --compare outputs/evaluation

The report is JSON, Markdown, and Parquet with one row per target. The same command resumes an interrupted evaluation.
"""

import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import PartialState

from ..baselines import CoVisitation, Fusion, Popularity, SequentialRecommender, Transitions, load_baseline
from ..baselines.saved import FUSION_NAME
from ..data.data_arguments import DataArguments
from ..evaluation.models import evaluate_model
from ..evaluation.protocol import RELEASE_MATCHING, STRICT_PROTOCOL, EvaluationProtocol
from ..evaluation.report import EvaluationReport
from ..evaluation.scorers import evaluate_scorer
from ..evaluation.targets import find_targets
from ..runs import claim_run
from ..runtime.configuration import Normalizer
from ..runtime.ranking import default_method
from ..runtime.ranking_config import Method
from ..runtime.recommender import PatchRecommender
from .errors import errors_in_one_line
from .evaluate_arguments import BASELINES, EvaluateArguments, make_parser
from .evaluate_reports import show_report, write_reports


__all__ = ["evaluate", "main", "parse"]

_NOTES = """
Your own log, with the arguments that `patchrec train` had:
    patchrec evaluate outputs/shop/final --data clicks.csv --items products.csv \\
        --columns user_id=customer item_id=sku title=name --output_dir outputs/shop_report --plot outputs/shop.png

Several processes share the targets: `torchrun --nproc_per_node 2 -m patchrec_hf evaluate ...`. `--compare DIR`
compares the report with the report of another run on the same targets. A report on other targets is refused before
anything is ranked. If `--output_dir` holds a finished report, `--compare` and `--plot` do not make it again.
`--protocol release` evaluates as the released code does: it decodes titles anew for each of `--ks`, and each has a
report of its own. The report of the largest stands in `--output_dir`, the others in folders of it, such as `at_10`.
`--protocol effects` shows how each matching rule of the release changes the metrics.
"""
EFFECTS = {  # from the strict protocol to the release's matching, each with one more rule of the release
    "strict": STRICT_PROTOCOL,
    "and a title that begins another cannot end": replace(STRICT_PROTOCOL, complete_prefixes=False),
    "and a title is listed once": replace(STRICT_PROTOCOL, complete_prefixes=False, credit_items=False),
    "and titles that begin with the target's count": replace(RELEASE_MATCHING, take_last_match=False),
    "and the last match counts (release-matching)": RELEASE_MATCHING,
}


def main(arguments: list[str]) -> None:
    """Runs `patchrec evaluate` with the arguments after the command's name."""
    with errors_in_one_line():
        evaluate(*parse(arguments))


def parse(arguments: list[str] | None = None) -> tuple[EvaluateArguments, DataArguments]:
    """
    Parses the arguments; the arguments of the process if not given. The first may be the checkpoint, in place of
    `--model`.

    Raises:
        ValueError: If an argument is unknown, or a value is wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-"):
        if any(text.partition("=")[0] == "--model" for text in arguments):
            raise ValueError(f"Give the checkpoint once, as {arguments[0]} or as --model.")
        arguments = ["--model", *arguments]
    args, data = make_parser(str(__doc__), _NOTES).parse(arguments)
    return args, data


def evaluate(args: EvaluateArguments, data: DataArguments) -> None:
    """
    Ranks the targets of rows by a checkpoint or a baseline, and writes and prints the report.

    Args:
        args ([`EvaluateArguments`]):
            The recommender, the rows and the rules.
        data ([`DataArguments`]):
            The data set.

    Raises:
        ValueError: If arguments do not go together, or reports cannot be compared. Nothing is written then.
        SystemExit: If `output_dir` holds a finished report and there is nothing to compare or draw, if matplotlib is
            missing, or if there is no such baseline.
        OSError, KeyError, TypeError: As loading the recommender and the data do.
    """
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
        scorer = load_saved(str(args.baseline))
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
                method=cast(Method | None, args.method),
                k=k,
                num_beams=args.num_beams,
                length_penalty=args.length_penalty,
                max_title_tokens=args.max_title_tokens,
                normalizer=cast(Normalizer | None, args.normalizer),
                temperature=args.temperature,
                protocol=cast(EvaluationProtocol | Literal["strict", "release", "release-matching"], protocol),
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
    write_reports(args, reports, other)


def evaluations_of(args: EvaluateArguments) -> dict[str, tuple[EvaluationProtocol | str, int | None]]:
    """Returns protocol and k of each evaluation, by the name to show."""
    if args.protocol == "release":
        return {f"release, {k} groups": ("release", k) for k in sorted(set(args.ks))}
    protocols: dict[str, EvaluationProtocol | str] = {args.protocol: args.protocol}
    if args.protocol == "effects":
        protocols = {**EFFECTS}
    k = None if args.method == "all" else max(args.ks)
    return {name: (protocol, k) for name, protocol in protocols.items()}


def load_saved(name: str) -> Fusion | Popularity | CoVisitation | Transitions | SequentialRecommender:
    """
    Loads a saved baseline or fusion.

    Raises:
        SystemExit: If it is a checkpoint of an LLM, or there is none.
    """
    try:
        return Fusion.from_pretrained(name) if Path(name, FUSION_NAME).is_file() else load_baseline(name)
    except TypeError as error:
        raise SystemExit(f"{error} Pass it as --model.") from None
    except OSError as error:
        raise SystemExit(
            f"--baseline must be one of {', '.join(BASELINES)} or a saved baseline, got {name}: {error}"
        ) from None
