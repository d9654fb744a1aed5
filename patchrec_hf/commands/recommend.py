"""Recommend items for all users of a file, and write them to a Parquet file."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..runtime.moments import parse_moment
from .errors import errors_in_one_line
from .index_options import SAVED_INDEX, add_index_option, check_index_option
from .plain_options import PlainParser


if TYPE_CHECKING:
    from accelerate import PartialState

    from ..jobs.job import JobSummary


_EXAMPLES = """\
users.parquet or users.jsonl: one row per user, with user_id, item_ids and optionally timestamps, exclude, candidates
(lists). Or one row per interaction, also as CSV: user_id, item_id, timestamp. top.parquet: one row per user, with
user_id and the lists item_ids, titles, scores. The same command continues an interrupted job. On several GPUs:
  accelerate launch -m patchrec_hf recommend outputs/final --histories users.parquet --output top.parquet
"""
_OF_JOB = (
    "k",
    "method",
    "num_beams",
    "max_title_tokens",
    "max_tokens",
    "exclude_seen",
    "unique_titles",
    "moment",
    "num_candidates",
    "time_unit",
    "date_format",
    "separator",
    "quote_char",
    "has_header",
    "drop_unknown",
    "on_error",
    "batch_size",
    "users_per_part",
)


def main(arguments: list[str]) -> None:
    """
    Runs the command.

    Args:
        arguments (`list[str]`):
            The arguments behind `patchrec recommend`.

    Raises:
        SystemExit: If the user's input is wrong, with one line that says how to mend it.
    """
    try:
        with errors_in_one_line():
            _run(parse(arguments))
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command continues the job.") from None


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    Parses the arguments.

    Args:
        arguments (`list[str]`):
            The arguments behind `patchrec recommend`.

    Raises:
        ValueError: If an option is unknown, or a value cannot be read.
    """
    parser = PlainParser(
        "recommend",
        usage="%(prog)s CHECKPOINT --histories FILE --output FILE.parquet [options]",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=29, width=119),
    )
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("checkpoint", metavar="CHECKPOINT", help="a directory, or a repository of the Hub")
    add("--histories", metavar="FILE", required=True, help="the users and their histories")
    add("--output", metavar="FILE", required=True, help="the Parquet file to write; it must not exist")
    add("--columns", metavar="OURS=THEIRS", nargs="+", help="the file's names for our columns: user_id=customer")
    add(
        "--time_unit", metavar="UNIT", default="s", help="unit of times that are numbers: s, ms, us or ns (default: s)"
    )
    add("--date_format", metavar="FORMAT", help="format of times that are texts, such as %%d/%%m/%%Y")
    add("--separator", metavar="CHAR", help="separator of a CSV file (default: found)")
    add("--quote_char", metavar="CHAR", help="character around values of a CSV file; empty if there is none")
    add("--has_header", action=switch, default=True, help="the first line of a CSV file names the columns (default)")
    add("--k", type=int, metavar="K", default=10, help="items for each user (default: 10)")
    add("--method", help="exact, beam, all, item or fusion (default: the checkpoint's best)")
    add("--num_beams", type=int, metavar="N", help="beams of the method beam")
    add("--max_title_tokens", type=int, metavar="N", help="most title tokens that the method exact reads for a user")
    add("--max_tokens", type=int, metavar="N", help="most positions of a history, if the layout has a budget")
    add("--exclude_seen", action=switch, default=True, help="leave out the items of the history (default)")
    add("--unique_titles", action=switch, default=True, help="recommend each title once (default)")
    add(
        "--moment",
        type=_moment,
        metavar="TIME",
        help="moment of asking: seconds since 1970, or 2026-05-31T18:00 (UTC)",
    )
    add_index_option(parser)
    add("--num_candidates", type=int, metavar="N", help="items that the index proposes (default for exact: 200)")
    add("--drop_unknown", action="store_true", help="leave out ids that the catalog lacks, instead of an error")
    add("--on_error", metavar="DO", default="stop", help="stop (default) or skip users who cannot be ranked")
    add("--batch_size", type=int, metavar="N", default=8, help="histories per forward (default: 8)")
    add("--users_per_part", type=int, metavar="N", default=1024, help="users who are read together (default: 1024)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: the accelerator, if there is one)")
    add("--dtype", help="float32, bfloat16 or float16 (default: the checkpoint's)")
    add("--revision", help="revision of a repository of the Hub")
    add(
        "--trust_layout_code", action="store_true", help="import the checkpoint's layout, if it is a class of your own"
    )
    args = parser.parse(arguments)
    check_index_option(args.index, args.method)
    for pair in args.columns or ():
        if not all(pair.partition("=")):
            raise ValueError(f"--columns takes pairs such as user_id=customer, got {pair!r}.")
    return args


def _moment(text: str) -> int:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removesuffix(".")) from None  # the parser ends the sentence


def _run(args: argparse.Namespace) -> None:
    # These bring in torch, which takes long to import, so that --help does without them.
    import torch

    from ..jobs.history_files import find_histories
    from ..jobs.job import check_arguments
    from ..jobs.recommend_users import recommend_users
    from ..runtime.recommender import PatchRecommender

    columns = dict(pair.split("=", 1) for pair in args.columns or ())
    settings: dict[str, Any] = {name: getattr(args, name) for name in _OF_JOB}
    # These are checked before a model is loaded.
    check_arguments(args.output, args.on_error, args.batch_size, args.users_per_part)
    written = (args.time_unit, args.date_format, args.separator, args.quote_char, args.has_header)
    find_histories(args.histories, columns, *written)
    state = _processes(args.device)
    device = args.device or str(state.device)
    loading = {name: value for name, value in (("dtype", args.dtype), ("revision", args.revision)) if value}
    recommender = PatchRecommender.from_pretrained(
        args.checkpoint, trust_layout_code=args.trust_layout_code, **loading
    )
    try:
        recommender.model.to(device)
        index = args.index
        if index == SAVED_INDEX:
            index = recommender.load_index(args.checkpoint, **({"revision": args.revision} if args.revision else {}))
        summary = recommend_users(recommender, args.histories, args.output, columns=columns, index=index, **settings)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The device's memory is full at --batch_size {args.batch_size}. The same command continues the job with "
            f"a lower one. ({error})"
        ) from error
    if state.is_main_process:
        print(report(summary))
    if state.num_processes > 1:
        state.destroy_process_group()


def _processes(device: str | None) -> PartialState:
    """Joins the processes that a launcher has started."""
    import torch
    from accelerate import PartialState

    # A process waits for the slowest one, and the others for the merging, which may take longer than torch's limit.
    cpu = device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, timeout=timedelta(days=7))
    if device not in (None, "cpu") and state.num_processes > 1:
        raise ValueError(
            f"Each of {state.num_processes} processes has a device of its own. Leave out --device {device}."
        )
    return state


def report(summary: JobSummary) -> str:
    """
    Returns the text that the command prints at its end.

    Args:
        summary ([`JobSummary`]):
            The finished job.
    """
    lines = [
        f"{summary.num_ranked:,} users in {summary.seconds:.1f} s: {summary.users_per_second:,.1f} users per second.",
        f"{summary.num_recommended:,} users with recommendations: {summary.output}",
    ]
    if (before := summary.num_recommended + summary.num_skipped - summary.num_ranked) > 0:
        lines.insert(0, f"{before:,} users were ranked before the job was interrupted.")
    if summary.num_dropped:
        lines.append(f"{summary.num_dropped:,} ids that the catalog lacks were left out.")
    if summary.skipped is not None:
        lines.append(f"{summary.num_skipped:,} users were skipped, with reasons: {summary.skipped}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
