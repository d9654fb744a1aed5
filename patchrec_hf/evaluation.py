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
        ranks (`numpy.ndarray` of shape `(n,)`, float64):
            The target's place: 1 is first, infinity is beyond the ranking's end. Items with the target's title are one
            with it: the best of them counts.
        user_ids (`numpy.ndarray` of shape `(n,)`, int64):
            Whose target it is.
        certified (`numpy.ndarray` of shape `(n,)`, bool):
            Whether the ranking is proven to be the exact top k.
        counts (`numpy.ndarray` of shape `(n, 3)`, int64):
            [`TokenCounts`] of the prompt as fed.
        text_counts (`numpy.ndarray` of shape `(n, 3)`, int64):
            [`TokenCounts`] with every item as text.
    """

    ranks: np.ndarray
    user_ids: np.ndarray
    certified: np.ndarray
    counts: np.ndarray
    text_counts: np.ndarray

    def metrics(self, ks: Sequence[int]) -> dict[str, float]:
        """HR, NDCG and MRR, the three compression ratios, and the share of certified rankings."""
        return {
            **ranking_metrics(self.ranks, ks),
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
            How deep to rank.
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
        ValueError: If the data set is empty, or as [`rank_catalog`] does.
    """
    if len(dataset) == 0:
        raise ValueError("The data set to rank is empty.")
    state = PartialState()
    chosen = np.arange(len(dataset))
    if max_rows is not None and max_rows < len(dataset):
        chosen = np.linspace(0, len(dataset) - 1, max_rows).astype(np.int64)
    # One target a row, so that all processes can hold equal shares; the last row fills up the last share.
    pairs = [(index, position) for index in chosen.tolist() for position in dataset[index]["target_positions"]]
    share = -(-len(pairs) // state.num_processes)
    mine = [
        pairs[min(place, len(pairs) - 1)]
        for place in range(state.process_index * share, (state.process_index + 1) * share)
    ]
    rows = [{**dataset[index], "target_positions": [position]} for index, position in mine]
    catalog = collator.processor.catalog
    examples = collator.encode_rows(rows)
    histories = [catalog.indices_of(row["item_ids"][: row["target_positions"][0]]) for row in rows]
    targets = catalog.indices_of([row["item_ids"][row["target_positions"][0]] for row in rows])

    was_training = model.training
    model.eval()
    trie = build_trie(collator.processor.title_tokens, collator.processor.prompt.end_of_turn_id)
    ranking = rank_catalog(
        model,
        trie,
        examples,
        collator.processor.prompt.pad_id,
        k=min(k, len(catalog)),
        num_beams=num_beams,
        excluded=[history[history != target] for history, target in zip(histories, targets, strict=True)]
        if exclude_seen
        else None,
        batch_size=batch_size,
        show_progress=show_progress and state.is_main_process,
    )
    model.train(was_training)

    leaves = np.append(trie.leaf_of_item, -1)[ranking.items]
    is_target = leaves == trie.leaf_of_item[targets][:, None]
    ranks = np.where(is_target.any(axis=1), is_target.argmax(axis=1) + 1.0, np.inf)
    counts, text_counts = token_counts(examples)
    user_ids = np.array([row["user_id"] for row in rows])
    columns = np.column_stack([ranks, user_ids, ranking.certified, counts, text_counts])
    # One tensor of equal shape everywhere; float64 holds every id and count exactly.
    everywhere = gather(torch.from_numpy(columns).to(model.device if state.num_processes > 1 else "cpu"))
    columns = everywhere.cpu().numpy()[: len(pairs)]
    return RankedTargets(
        ranks=columns[:, 0],
        user_ids=columns[:, 1].astype(np.int64),
        certified=columns[:, 2].astype(bool),
        counts=columns[:, 3:6].astype(np.int64),
        text_counts=columns[:, 6:9].astype(np.int64),
    )
