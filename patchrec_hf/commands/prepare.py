"""
Turn a log or a public data set into Parquet, with a card that describes it.

    patchrec prepare clicks.csv data/clicks --items products.csv --columns user_id=customer item_id=sku
    patchrec train --data data/clicks --output_dir outputs/clicks
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
from transformers import AutoTokenizer

from ..data.conditions import parse_where
from ..data.data_arguments import parse_columns
from ..data.data_card import describe_data
from ..data.interactions import INTERACTIONS_NAME
from ..data.loading import prepare_data
from ..data.peak_memory import peak_gib
from ..data.preparation import write_sequences
from ..data.splits import check_cuts, leave_one_out_split, temporal_split, user_ratio_split
from ..data.titles import tidy_title
from .errors import errors_in_one_line
from .options import CommandParser


__all__ = ["main", "parse", "prepare"]

_NOTES = """
The paper's MovieLens-100K, with ties in the order of the released files:
    patchrec prepare ml-100k data/ml-100k --ties release

Your own log, with titles in another file, filtered until every user and item has five interactions, without returns
and bots, by columns of the log:
    patchrec prepare clicks.csv data/clicks --items products.csv --columns user_id=customer item_id=sku \\
        --min_user_interactions 5 --min_item_users 5 --k_core --where event=buy,rent is_bot=false

The command writes these files to the output directory: interactions.parquet and items.parquet, which
`load_recommendation_data` and the other commands (with `--data`) read; sequences.parquet, with one row per user; and
README.md, the card. Raw ids are kept. (The release counts MovieLens' items from 0, so its ids are one less.)
"""
FILTERS = {
    "min_rating": (float, "leave out lower ratings"),
    "max_user_interactions": (int, "leave out users with more interactions, such as bots"),
    "min_user_interactions": (int, "leave out users with fewer interactions"),
    "min_item_users": (int, "leave out items with fewer users"),
    "k_core": (None, "repeat both filters until every user and item passes them (k-core)"),
    "keep_passing_items": (None, "keep items in the catalog that have enough users, but lose all of them"),
    "drop_untitled": (None, "leave out interactions with items that have no title"),
}
_SHOWN = {
    "The data": [
        "data", "output_dir", "items", "columns", "time_unit", "date_format", "separator", "encoding", "quote_char",
        "has_header", "item_columns", "cache_dir",
    ],
    "The rows that are kept": [*FILTERS, "where"],
    "The splits and the rest": ["split", "cuts", "ties", "tidy_titles", "tokenizer", "plot", "push_to_hub"],
}  # fmt: skip
SPLITS = {"temporal": temporal_split, "leave_one_out": leave_one_out_split, "user_ratio": user_ratio_split}


def main(arguments: list[str]) -> None:
    """Runs `patchrec prepare` with the arguments after the command's name."""
    with errors_in_one_line():
        prepare(parse(arguments))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """
    Parses the arguments; the arguments of the process if not given.

    Raises:
        ValueError: If an argument is unknown, or a value is wrong.
    """
    parser = CommandParser("prepare", description=str(__doc__), shown=_SHOWN, notes=_NOTES)
    parser.add_argument("data", help="a name, directory, archive or file; see `prepare_data`")
    parser.add_argument("output_dir", help="where to write; a new or empty directory")
    parser.add_argument("--items", help="a file with the titles, for your own log")
    parser.add_argument(
        "--columns", nargs="+", metavar="OURS=THEIRS", help="the files' names for this library's columns"
    )
    parser.add_argument("--time_unit", choices=["s", "ms", "us", "ns"], default="s", help="unit of numeric times")
    parser.add_argument("--date_format", help="format of dates, such as %%d/%%m/%%Y; found by itself if possible")
    parser.add_argument("--separator", help="separator of CSV files, if it is not comma, semicolon, tab or |")
    parser.add_argument("--encoding", help="encoding of text files, if it is not UTF-8")
    parser.add_argument("--quote_char", help="character around values of CSV files; empty if there is none")
    parser.add_argument(
        "--has_header",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the first line of CSV files names the columns",
    )
    parser.add_argument(
        "--item_columns", nargs="+", metavar="OURS=THEIRS", help="names in the file of the items, if they differ"
    )
    parser.add_argument("--tidy_titles", action="store_true", help="remove HTML and superfluous white space in titles")
    for name, (kind, text) in FILTERS.items():
        options = {"type": kind} if kind else {"action": argparse.BooleanOptionalAction}
        parser.add_argument(f"--{name}", default=None, help=f"{text}; the data set's own rule if not given", **options)
    parser.add_argument(
        "--where",
        nargs="+",
        metavar="COLUMN=VALUE",
        help="keep the rows with these values: event=buy,rent is_bot=false",
    )
    parser.add_argument("--split", choices=list(SPLITS), default="temporal", help="rule that splits the interactions")
    parser.add_argument("--cuts", type=float, nargs=2, help="shares at which validation and test begin")
    parser.add_argument("--ties", choices=["stable", "release"], default="stable", help="order of equal times")
    parser.add_argument("--tokenizer", help="a backbone, whose tokenizer counts the tokens of titles")
    parser.add_argument("--plot", help="where to draw the lengths of titles (an image file)")
    parser.add_argument("--push_to_hub", metavar="USER/NAME", help="repository to which your own data is pushed")
    parser.add_argument("--cache_dir", help="directory for downloads and prepared data")
    (args,) = parser.parse(sys.argv[1:] if arguments is None else arguments)
    return args


def prepare(args: argparse.Namespace) -> None:
    """
    Prepares a data set, and writes it with its card.

    Args:
        args ([`argparse.Namespace`]):
            The result of [`parse`].

    Raises:
        SystemExit: If the directory is not empty, or arguments do not go together. Nothing is written then.
        ValueError, OSError: As [`prepare_data`] does.
    """
    output_dir = Path(args.output_dir)
    if any(output_dir.glob("*")):
        raise SystemExit(f"{output_dir} is not empty. Choose another directory, or empty it.")
    if args.plot and not args.tokenizer:
        raise SystemExit("`--plot` draws the number of tokens per title, so it needs `--tokenizer`.")
    split: Callable[..., pl.DataFrame] = SPLITS[args.split]
    if args.cuts and args.split == "leave_one_out":
        raise SystemExit("`--cuts` belongs to the splits temporal and user_ratio: leave it out.")
    if args.cuts:  # said before anything is downloaded or read
        check_cuts(args.cuts)
    filters = {name: getattr(args, name) for name in FILTERS if getattr(args, name) is not None}
    if args.where:
        filters["where"] = parse_where(args.where)
    data = prepare_data(
        args.data,
        filters=filters,
        split=partial(split, cuts=tuple(args.cuts)) if args.cuts else split,
        ties=args.ties,
        columns=parse_columns(args.columns) if args.columns else None,
        items=args.items,
        time_unit=args.time_unit,
        date_format=args.date_format,
        separator=args.separator,
        encoding=args.encoding,
        quote_char=args.quote_char,
        has_header=args.has_header,
        item_columns=parse_columns(args.item_columns) if args.item_columns else None,  # type: ignore[arg-type]
        title_rule=tidy_title if args.tidy_titles else None,
        cache_dir=args.cache_dir,
    )
    card = describe_data(data, AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None)
    data.save(output_dir)
    write_sequences(output_dir / INTERACTIONS_NAME, output_dir / "sequences.parquet")
    (output_dir / "README.md").write_text(card.to_markdown(), encoding="utf-8")
    if args.plot:
        card.plot_title_lengths(args.plot)
    print(card.to_markdown())
    if args.push_to_hub:
        print(data.push_to_hub(args.push_to_hub))
    print(f"Peak memory: {peak_gib():.2f} GiB for {len(data.interactions):,} interactions.")
