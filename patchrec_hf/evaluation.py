"""Evaluation: the rank of each target among the whole catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from datasets import Dataset

from .collators import PatchDataCollator, token_counts
from .metrics import compression_ratios, ranking_metrics
from .modeling import PatchRecForCausalLM
from .ranking import rank_catalog
from .trie import build_trie


@dataclass(frozen=True, eq=False)
class RankedTargets:
    """
    What an evaluation found for each of n targets.

    Args:
        item_ranks (`numpy.ndarray` of shape `(n,)`, float64):
            The target's place: 1 is first, infinity is beyond the ranking's end. Items that share a title share its
            score, and so the mean of their places.
        title_ranks (`numpy.ndarray` of shape `(n,)`, float64):
            The place of the best item that has the target's title.
        user_ids (`numpy.ndarray` of shape `(n,)`, int64):
            Whose target it is.
        certified (`numpy.ndarray` of shape `(n,)`, bool):
            Whether the ranking is proven to be the exact top k.
        counts (`numpy.ndarray` of shape `(n, 3)`, int64):
            [`TokenCounts`] of the prompt as fed.
        text_counts (`numpy.ndarray` of shape `(n, 3)`, int64):
            [`TokenCounts`] with every item as text.
    """

    item_ranks: np.ndarray
    title_ranks: np.ndarray
    user_ids: np.ndarray
    certified: np.ndarray
    counts: np.ndarray
    text_counts: np.ndarray

    def metrics(self, ks: Sequence[int]) -> dict[str, float]:
        """
        HR, NDCG and MRR with credit by item (`hr@k`) and by title (`title_hr@k`), the three compression ratios, and
        the share of certified rankings.
        """
        by_title = {f"title_{name}": value for name, value in ranking_metrics(self.title_ranks, ks).items()}
        return {
            **ranking_metrics(self.item_ranks, ks),
            **by_title,
            **compression_ratios(self.counts, self.text_counts),
            "certified_share": float(self.certified.mean()),
        }


def rank_targets(
    model: PatchRecForCausalLM,
    collator: PatchDataCollator,
    dataset: Dataset,
    k: int = 20,
    max_rows: int | None = None,
    num_beams: int | None = None,
    exclude_seen: bool = False,
    batch_size: int = 8,
    show_progress: bool = True,
) -> RankedTargets:
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
            How deep to rank; the whole catalog if it has fewer items.
        max_rows (`int`, *optional*):
            Rank only so many rows, evenly spaced over the data set.
        num_beams (`int`, *optional*):
            See [`rank_catalog`].
        exclude_seen (`bool`, *optional*, defaults to `False`):
            Whether items of the history cannot be recommended. The target itself always can.
        batch_size (`int`, *optional*, defaults to `8`):
            Users per forward.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar, on the main process.

    Returns:
        [`RankedTargets`]

    Raises:
        ValueError: If the data set is empty, model and processor were not made for each other, or as [`rank_catalog`]
            does.
    """
    if len(dataset) == 0:
        raise ValueError("The data set to rank is empty.")
    model.check_processor(collator.processor)
    state, catalog, prompt = PartialState(), collator.processor.catalog, collator.processor.prompt
    if max_rows is not None and max_rows < len(dataset):
        dataset = dataset.select(np.linspace(0, len(dataset) - 1, max_rows).astype(np.int64))
    # One target a row, so that all processes can hold equal shares; the last row fills up the last share.
    rows = [{**row, "target_positions": [position]} for row in dataset for position in row["target_positions"]]
    share = -(-len(rows) // state.num_processes)
    first = state.process_index * share
    mine = [rows[min(place, len(rows) - 1)] for place in range(first, first + share)]
    examples = collator.encode_rows(mine)
    histories = [catalog.indices_of(row["item_ids"][: row["target_positions"][0]]) for row in mine]
    targets = catalog.indices_of([row["item_ids"][row["target_positions"][0]] for row in mine])
    excluded = None
    if exclude_seen:
        excluded = [history[history != target] for history, target in zip(histories, targets, strict=True)]

    trie = build_trie(collator.processor.title_tokens, prompt.end_of_turn_id)
    was_training = model.training
    model.eval()
    try:
        ranking = rank_catalog(
            model,
            trie,
            examples,
            prompt.pad_id,
            k=min(k, len(catalog)),
            num_beams=num_beams,
            excluded=excluded,
            batch_size=batch_size,
            show_progress=show_progress and state.is_main_process,
        )
    finally:
        model.train(was_training)

    title_ranks, num_ties = _title_ranks(ranking.items, targets, trie.leaf_of_item, excluded)
    columns = np.column_stack([title_ranks, num_ties, ranking.certified, *token_counts(examples)])
    everywhere = gather(torch.from_numpy(columns).to(model.device if state.num_processes > 1 else "cpu"))
    columns = everywhere.cpu().numpy()[: len(rows)]
    return RankedTargets(
        item_ranks=columns[:, 0] + (columns[:, 1] - 1) / 2,
        title_ranks=columns[:, 0],
        user_ids=np.array([row["user_id"] for row in rows]),
        certified=columns[:, 2].astype(bool),
        counts=columns[:, 3:6].astype(np.int64),
        text_counts=columns[:, 6:9].astype(np.int64),
    )


def _title_ranks(
    items: np.ndarray, targets: np.ndarray, leaf_of_item: np.ndarray, excluded: Sequence[np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each target: the place of the first item with its title, and how many rankable items have that title."""
    leaves = leaf_of_item[targets]
    is_target = np.append(leaf_of_item, -1)[items] == leaves[:, None]
    ranks = np.where(is_target.any(axis=1), is_target.argmax(axis=1) + 1.0, np.inf)
    num_ties = np.bincount(leaf_of_item)[leaves]
    if excluded is not None:
        num_ties = num_ties - [
            int((leaf_of_item[seen] == leaf).sum())
            for seen, leaf in zip(map(np.unique, excluded), leaves, strict=True)
        ]
    return ranks, num_ties
