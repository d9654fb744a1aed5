"""Evaluation: the rank of each target among the whole catalog."""

from __future__ import annotations

import math
import platform
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
from accelerate import PartialState
from datasets import Dataset
from tqdm.auto import tqdm

from ..batches.collators import PatchDataCollator, token_counts
from ..data.rows import check_user_ids
from ..runtime.backbones import is_sharded
from ..runtime.catalog import Catalog
from ..runtime.modeling import PatchRecForCausalLM
from ..runtime.ranking import Method, rank_catalog
from ..runtime.trie import TitleTrie, build_trie
from .metrics import ranks_from_scores
from .parts import run_in_parts
from .protocol import PROTOCOLS, STRICT, EvaluationProtocol
from .report import COUNT_COLUMNS, EvaluationReport


_TRAIN_ROWS_AT_ONCE = 10_000


class Scorer(Protocol):
    """Any recommender that scores the whole catalog, such as the baselines."""

    def score(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Scores of shape `(B, num_items)`, in catalog order, for lists of item ids."""
        ...


def rank_targets(
    model: PatchRecForCausalLM,
    collator: PatchDataCollator,
    dataset: Dataset,
    k: int | None = 20,
    method: Method = "exact",
    num_beams: int | None = None,
    length_penalty: float = 0.0,
    max_expansions: int | None = None,
    protocol: EvaluationProtocol | Literal["strict", "authors"] = "strict",
    exclude_seen: bool = False,
    max_rows: int | None = None,
    train_dataset: Dataset | None = None,
    batch_size: int = 8,
    resume_dir: str | Path | None = None,
    show_progress: bool = True,
) -> EvaluationReport:
    """
    Ranks the catalog for each row of a data set and looks up its targets. Under a launcher, every process ranks a
    share of the rows and returns all results.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model.
        collator ([`PatchDataCollator`]):
            Encodes the rows.
        dataset ([`~datasets.Dataset`]):
            Example rows.
        k (`int`, *optional*, defaults to `20`):
            How many titles to rank, and so at least as many items. `None` ranks the whole catalog, by reading all of
            it (method `"all"`).
        method, num_beams, length_penalty, max_expansions:
            See [`rank_catalog`].
        protocol ([`EvaluationProtocol`], `"strict"` or `"authors"`, *optional*, defaults to `"strict"`):
            When a ranked title counts as the target.
        exclude_seen (`bool`, *optional*, defaults to `False`):
            Whether items of the history cannot be recommended. The target itself always can.
        max_rows (`int`, *optional*):
            Rank only so many rows, evenly spaced over the data set.
        train_dataset ([`~datasets.Dataset`], *optional*):
            The rows that the model learned from; if given, the report tells warm targets from cold ones.
        batch_size (`int`, *optional*, defaults to `8`):
            Users per forward; bounds the memory.
        resume_dir (`str` or `pathlib.Path`, *optional*):
            Where finished rows are kept, so that an interrupted evaluation goes on with the same directory. It is for
            one model; delete it when the report is saved.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, on the main process.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: If the data set is empty, a number is out of range, model and processor were not made for each
            other, or as [`rank_catalog`] does.
        FileExistsError: If `resume_dir` holds parts of an evaluation of other targets, or with other arguments.
        KeyError: If the catalog lacks an item.
        TypeError: If the backbone cannot attend to a tree.
        FloatingPointError: If the model's scores are not numbers.
        RuntimeError: If several processes were launched but do not know of each other.
    """
    processor = collator.processor
    catalog, prompt = processor.catalog, processor.prompt
    model.check_processor(processor)
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"`protocol` must be one of {', '.join(map(repr, PROTOCOLS))}, got {protocol!r}.")
        protocol = PROTOCOLS[protocol]
    targets = _targets(dataset, catalog, max_rows, train_dataset)
    trie = build_trie(processor.title_tokens, prompt.end_of_turn_id, protocol.complete_prefixes)
    all_titles = _Titles(trie, np.empty(0, dtype=np.int64))
    num_titles = len(all_titles.items)
    if k is None and method == "exact":
        method = "all"
    k = num_titles if k is None else min(k, num_titles)
    settings = {
        "ranker": "PatchRec",
        "k": k,
        "method": method,
        "num_beams": 2 * k if method == "beam" and num_beams is None else num_beams,
        "length_penalty": length_penalty,
        "max_expansions": max_expansions,
        "protocol": asdict(protocol),
        "exclude_seen": exclude_seen,
        "layout": str(collator.layout or processor.layout),
        "max_history": processor.max_history,
        "max_rows": max_rows,
        "seed": collator.seed,
    }

    def rank(places: np.ndarray) -> np.ndarray:
        rows, wanted = _rows(dataset, targets, places), targets["target"].to_numpy()[places]
        examples = collator.encode_rows(rows)
        titles = [all_titles] * len(rows)
        if exclude_seen:
            seen = _seen(rows, wanted, catalog)
            if not protocol.credit_items:
                own = trie.leaf_of_item[wanted]
                seen = [
                    trie.items_spelled_like(items[trie.leaf_of_item[items] != leaf])
                    for items, leaf in zip(seen, own, strict=True)
                ]
            titles = [_Titles(trie, items) for items in seen]
        ranking = rank_catalog(
            model,
            trie,
            examples,
            prompt.pad_id,
            k=k,
            method=method,
            num_beams=num_beams,
            length_penalty=length_penalty,
            max_expansions=max_expansions,
            candidates=[row.items for row in titles],
            batch_size=batch_size,
            synchronize=synchronize,
        )
        if protocol.credit_items:
            ranks = np.array([row.ranks(*pair) for row, *pair in zip(titles, ranking.items, wanted, strict=True)])
        else:
            title_ranks = protocol.places(catalog.titles, ranking.items, wanted)
            ranks = np.column_stack([title_ranks, title_ranks, np.ones(len(rows))])
        return np.column_stack([ranks, ranking.certified, ranking.num_read, *token_counts(examples)])

    synchronize = PartialState().num_processes > 1 and is_sharded(model)
    was_training = model.training
    model.eval()
    try:
        found = run_in_parts(
            rank, len(targets), batch_size, resume_dir, {**settings, **_identity(targets)}, show_progress
        )
    finally:
        model.train(was_training)
    columns = ["item_rank", "title_rank", "num_ties", "certified", "num_read", *COUNT_COLUMNS]
    columns += [f"text_{name}" for name in COUNT_COLUMNS]
    return _report(
        targets,
        settings,
        k if k < num_titles else math.inf,
        **{name: found[:, place] for place, name in enumerate(columns)},
    )


def score_targets(
    scorer: Scorer,
    catalog: Catalog,
    dataset: Dataset,
    exclude_seen: bool = False,
    max_rows: int | None = None,
    train_dataset: Dataset | None = None,
    batch_size: int = 256,
    show_progress: bool = True,
) -> EvaluationReport:
    """
    Evaluates a recommender that scores the whole catalog, by the strict protocol. Every process does all of it.

    Args:
        scorer ([`Scorer`]):
            A fitted baseline, or any object with its `score`.
        catalog ([`Catalog`]):
            The items that it scores.
        dataset, exclude_seen, max_rows, train_dataset, show_progress:
            See [`rank_targets`].
        batch_size (`int`, *optional*, defaults to `256`):
            Histories of one call of `score`. More take more memory, some arrays of `(batch_size, num_items)`.

    Returns:
        [`EvaluationReport`]

    Raises:
        ValueError: If the data set is empty, a number is out of range, the scores have another shape than
            `(B, num_items)`, or one is NaN.
        KeyError: If the catalog lacks an item.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    targets = _targets(dataset, catalog, max_rows, train_dataset)
    # As objects: NumPy's own strings would each take as much as the longest.
    _, title_of_item = np.unique(np.array(catalog.titles, dtype=object), return_inverse=True)
    by_title = np.argsort(title_of_item, kind="stable")
    title_starts = np.flatnonzero(np.diff(title_of_item[by_title], prepend=-1))
    parts = []
    with tqdm(total=len(targets), desc="Scoring", unit="user", disable=not show_progress) as progress:
        for start in range(0, len(targets), batch_size):
            places = np.arange(start, min(start + batch_size, len(targets)))
            rows, wanted = _rows(dataset, targets, places), targets["target"].to_numpy()[places]
            scores = np.array(scorer.score([_history(row) for row in rows]), dtype=np.float64)
            if scores.shape != (len(rows), len(catalog)):
                raise ValueError(
                    f"{type(scorer).__name__}.score gave an array of shape {scores.shape}, expected "
                    f"{(len(rows), len(catalog))}: one score for each history and item."
                )
            allowed = np.ones(scores.shape, dtype=bool)
            if exclude_seen:
                for row, items in enumerate(_seen(rows, wanted, catalog)):
                    allowed[row, items] = False
            item_ranks = ranks_from_scores(scores, wanted, allowed)
            num_ties = ((scores == scores[np.arange(len(rows)), wanted][:, None]) & allowed).sum(axis=1)
            # A title scores what its best item does.
            allowed_scores = np.where(allowed, scores, -np.inf)[:, by_title]
            title_ranks = ranks_from_scores(
                np.maximum.reduceat(allowed_scores, title_starts, axis=1),
                title_of_item[wanted],
                np.logical_or.reduceat(allowed[:, by_title], title_starts, axis=1),
            )
            parts.append(np.column_stack([item_ranks, title_ranks, num_ties]))
            progress.update(len(places))
    found = np.concatenate(parts)
    return _report(
        targets,
        {
            "ranker": type(scorer).__name__,
            "k": len(catalog),
            "protocol": asdict(STRICT),
            "exclude_seen": exclude_seen,
            "max_rows": max_rows,
        },
        math.inf,
        item_rank=found[:, 0],
        title_rank=found[:, 1],
        num_ties=found[:, 2],
    )


def _targets(dataset: Dataset, catalog: Catalog, max_rows: int | None, train_dataset: Dataset | None) -> pl.DataFrame:
    """One row a target: where it stands in `dataset`, and what the report says of it before it is ranked."""
    if len(dataset) == 0:
        raise ValueError("The data set to rank is empty.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` must be at least 1 or None, got {max_rows}.")
    rows = np.arange(len(dataset))
    if max_rows is not None and max_rows < len(rows):
        rows = np.linspace(0, len(rows) - 1, max_rows).astype(np.int64)
    check_user_ids(dataset)
    frame = dataset.select(rows).select_columns(["user_id", "item_ids", "target_positions"]).to_polars()
    bad = frame.filter(
        (pl.col("target_positions").list.min() < 1)
        | (pl.col("target_positions").list.max() >= pl.col("item_ids").list.len())
    )
    if len(bad) > 0:
        raise ValueError(
            f"Row of user {bad['user_id'][0]}: target positions {bad['target_positions'][0].to_list()} must lie "
            f"between 1 and {len(bad['item_ids'][0]) - 1}; a target is one of the row's items, after at least one "
            "other."
        )
    targets = frame.select(
        pl.Series("row", rows),
        pl.col("user_id").cast(pl.Int64),
        history_length=pl.col("target_positions").cast(pl.List(pl.Int64)),
        target_id=pl.col("item_ids").list.gather(pl.col("target_positions")).cast(pl.List(pl.Int64)),
    )
    targets = targets.explode("history_length", "target_id").drop_nulls("target_id")
    if len(targets) == 0:
        raise ValueError("The data set to rank has rows, but no target positions.")
    is_cold = pl.lit(None, dtype=pl.Boolean)
    if train_dataset is not None:
        parts = train_dataset.select_columns(["item_ids"]).with_format("polars").iter(_TRAIN_ROWS_AT_ONCE)
        known = pl.concat([part["item_ids"].explode().unique() for part in parts]).unique()
        is_cold = ~pl.col("target_id").is_in(known.implode())
    indices = pl.Series("target", catalog.indices_of(targets["target_id"].to_numpy()))
    return targets.with_columns(indices, is_cold=is_cold)


def _rows(dataset: Dataset, targets: pl.DataFrame, places: np.ndarray) -> list[dict[str, Any]]:
    """The example rows of some targets, each with that target only."""
    chosen = targets[places]
    rows = dataset.select(chosen["row"].to_numpy())["item_ids"]
    return [
        {"user_id": user_id, "item_ids": item_ids, "target_positions": [position]}
        for user_id, item_ids, position in zip(chosen["user_id"], rows, chosen["history_length"], strict=True)
    ]


def _history(row: dict[str, Any]) -> list[int]:
    return row["item_ids"][: row["target_positions"][0]]


def _seen(rows: Sequence[dict[str, Any]], wanted: np.ndarray, catalog: Catalog) -> list[np.ndarray]:
    """Of each row: the items of its history, but for the target."""
    return [np.setdiff1d(catalog.indices_of(_history(row)), target) for row, target in zip(rows, wanted, strict=True)]


class _Titles:
    """
    The titles that may be recommended for one row, each by its first item; items that are spelled alike are one title.
    """

    def __init__(self, trie: TitleTrie, excluded: np.ndarray) -> None:
        self._leaf_of_item = trie.leaf_of_item
        self._leaves, self.items, self._num_items = trie.titles_of(np.setdiff1d(trie.items, excluded))

    def ranks(self, ranked: np.ndarray, target: int) -> tuple[float, float, int]:
        """
        The target's rank among all items and among titles, and how many items share the former, by a list of titles.
        """
        leaf, leaves = self._leaf_of_item[target], self._leaf_of_item[ranked[ranked >= 0]]
        if leaf < 0:  # it cannot be spelled
            return np.inf, np.inf, 1
        num_items = self._num_items[np.searchsorted(self._leaves, [leaf, *leaves])]
        places = np.flatnonzero(leaves == leaf)
        if len(places) == 0:
            return np.inf, np.inf, int(num_items[0])
        item_rank = 1 + num_items[1 : 1 + places[0]].sum() + (num_items[0] - 1) / 2
        return item_rank, 1.0 + places[0], int(num_items[0])


def _identity(targets: pl.DataFrame) -> dict[str, int]:
    """What tells these targets from others, in a few JSON-ready values."""
    columns = targets.select("user_id", "target_id", "history_length").to_numpy()
    return {"num_targets": len(targets), "targets_crc32": zlib.crc32(np.ascontiguousarray(columns).tobytes())}


def _report(targets: pl.DataFrame, settings: dict[str, Any], depth: float, **columns: np.ndarray) -> EvaluationReport:
    versions = {name: version(name) for name in ("patchrec-hf", "torch", "transformers")}
    whole = ("num_ties", "num_read", *COUNT_COLUMNS, *(f"text_{name}" for name in COUNT_COLUMNS))
    examples = targets.select("user_id", "target_id", "history_length", "is_cold").with_columns(
        *(pl.Series(name, columns[name], dtype=pl.Float64) for name in ("item_rank", "title_rank")),
        certified=pl.Series(columns["certified"]).cast(pl.Boolean)
        if "certified" in columns
        else pl.lit(None, pl.Boolean),
        **{
            name: pl.Series(columns[name]).cast(pl.Int64) if name in columns else pl.lit(None, dtype=pl.Int64)
            for name in whole
        },
    )
    return EvaluationReport(
        examples,
        {
            **settings,
            "ties": "share the mean of their places",
            "num_targets": len(examples),
            "versions": {"python": platform.python_version(), **versions},
        },
        ks=tuple(cutoff for cutoff in (10, 20) if cutoff <= depth) or (int(depth),),
        depth=depth,
    )
