"""
Prepares a data set: from raw files to Parquet, with a card that says what is in it.

The paper's MovieLens-100K, with ties in the order of the authors' files:
    python examples/prepare_data.py ml-100k data/ml-100k --ties release

A log of one's own, with its titles in another file, until every user and item has five interactions:
    python examples/prepare_data.py clicks.csv data/clicks --items products.csv \
        --columns user_id=customer item_id=sku --min_user_interactions 5 --min_item_users 5 --iterate

The output directory holds interactions.parquet and items.parquet, which `load_recommendation_data` and the other
examples (as `--data_dir`) take; sequences.parquet, a row a user; and README.md, the card. Ids are the raw ones where
those are numbers. (The authors count MovieLens' items from 0, so theirs are one less.)
"""

import argparse
from functools import partial
from pathlib import Path

import polars as pl
from transformers import AutoTokenizer

from patchrec_hf import describe_data, leave_one_out_split, prepare_data, temporal_split, user_ratio_split


SPLITS = {"temporal": temporal_split, "leave_one_out": leave_one_out_split, "user_ratio": user_ratio_split}


def main(args: argparse.Namespace) -> None:
    output_dir = Path(args.output_dir)
    if any(output_dir.glob("*")):
        raise SystemExit(f"{output_dir} is not empty. Choose another directory, or empty it.")
    if args.plot and not args.tokenizer:
        raise SystemExit("`--plot` draws tokens, so it needs `--tokenizer`.")
    split = SPLITS[args.split]
    data = prepare_data(
        args.data,
        filters={name: getattr(args, name) for name in FILTERS if getattr(args, name) is not None},
        split=partial(split, cuts=tuple(args.cuts)) if args.cuts else split,
        ties=args.ties,
        columns=dict(pair.split("=", 1) for pair in args.columns) if args.columns else None,
        items=args.items,
        time_unit=args.time_unit,
        cache_dir=args.cache_dir,
    )
    card = describe_data(data, AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None)
    data.save(output_dir)
    sequence = [pl.col(name) for name in ("item_id", "timestamp", "split") if name in data.interactions.columns]
    sequences = data.interactions.group_by("user_id", maintain_order=True).agg(*sequence)
    sequences.write_parquet(output_dir / "sequences.parquet")
    (output_dir / "README.md").write_text(card.to_markdown(), encoding="utf-8")
    if args.plot:
        card.plot_title_lengths(args.plot)
    print(card.to_markdown())
    if args.push_to_hub:
        print(data.push_to_hub(args.push_to_hub))


FILTERS = {
    "min_rating": (float, "lower ratings are left out"),
    "min_user_interactions": (int, "users with fewer are left out"),
    "min_item_users": (int, "items with fewer users are left out"),
    "iterate": (None, "repeat that until every user and item has as many (k-core)"),
    "drop_untitled": (None, "leave out interactions with items without a title"),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a name, directory, archive or file; see `prepare_data`")
    parser.add_argument("output_dir", help="where to write; new or empty")
    parser.add_argument("--items", help="the titles, for a log of one's own")
    parser.add_argument("--columns", nargs="+", metavar="OURS=THEIRS", help="what the files call our columns")
    parser.add_argument("--time_unit", choices=["s", "ms", "us", "ns"], default="s", help="of times that are numbers")
    for name, (kind, text) in FILTERS.items():
        how = {"type": kind} if kind else {"action": argparse.BooleanOptionalAction}
        parser.add_argument(f"--{name}", default=None, help=f"{text}; the data set's own rule if not given", **how)
    parser.add_argument("--split", choices=list(SPLITS), default="temporal")
    parser.add_argument("--cuts", type=float, nargs=2, help="shares at which validation and test begin")
    parser.add_argument("--ties", choices=["stable", "release"], default="stable", help="order of equal times")
    parser.add_argument("--tokenizer", help="a backbone, to count the tokens of titles with")
    parser.add_argument("--plot", help="an image of the titles' lengths")
    parser.add_argument("--push_to_hub", metavar="USER/NAME", help="share data of one's own")
    parser.add_argument("--cache_dir", help="for downloads and prepared data")
    try:
        main(parser.parse_args())
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
