"""Ranking: the k items of the catalog whose titles the model holds most likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from .backbones import gathered_root, maskable_attention
from .encoding import EncodedExample
from .modeling import PatchRecForCausalLM
from .search import AllowedItems, Prefixes, places_in_groups, score_all_titles, search_titles
from .tree_reader import TreeReader
from .trie import TitleTrie


Method = Literal["exact", "beam", "all"]
METHODS = get_args(Method)

_TOKENS_AT_ONCE = {"exact": 64, "all": 512}  # beams read one token of each


@dataclass(frozen=True, eq=False)
class CatalogRanking:
    """
    The best items for each of B histories.

    Args:
        items (`numpy.ndarray` of shape `(B, k)`, int64):
            Catalog indices, best first; each item at most once. Items that share a title share its score and stand in
            catalog order. -1 where fewer than k items may be recommended.
        scores (`numpy.ndarray` of shape `(B, k)`, float64):
            Σ log p(title tokens + end of turn | prompt), over the whole vocabulary, divided as `length_penalty` says
            if there is one; -infinity where `items` is -1.
        certified (`numpy.ndarray` of shape `(B,)`, bool):
            Whether the list is proven to be the exact top k by these scores.
        num_read (`numpy.ndarray` of shape `(B,)`, int64):
            Title tokens that the model read to find it.
        num_columns (`numpy.ndarray` of shape `(B,)`, int64):
            Keys and values that were held at once for the prompt and the titles, for each layer and head.
    """

    items: np.ndarray
    scores: np.ndarray
    certified: np.ndarray
    num_read: np.ndarray
    num_columns: np.ndarray


def rank_catalog(
    model: PatchRecForCausalLM,
    trie: TitleTrie,
    prompts: Sequence[EncodedExample],
    pad_id: int,
    k: int = 20,
    method: Method = "exact",
    num_beams: int | None = None,
    length_penalty: float = 0.0,
    max_expansions: int | None = None,
    candidates: Sequence[np.ndarray] | None = None,
    excluded: Sequence[np.ndarray] | None = None,
    batch_size: int = 8,
    synchronize: bool = False,
    show_progress: bool = False,
) -> CatalogRanking:
    """
    Ranks the catalog for each prompt by score(item) = Σ log p(title tokens + end of turn | prompt).

    A prompt is read once, and its keys and values are kept once. The titles are branches of one tree behind it, of
    which each method reads as much as it needs:

    - `"exact"`: best-first. A prefix's score is an upper bound of every title that it begins, so the search stops when
      no open prefix scores above the k-th best title, and the result is proven to be the top k.
    - `"beam"`: the best `num_beams` prefixes at each depth. The result may miss items, and says whether it can have.
    - `"all"`: every title. The costliest; for the rank of every item, and to check the others.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, in evaluation mode.
        trie ([`TitleTrie`]):
            The catalog's titles.
        prompts (`Sequence[EncodedExample]`):
            The histories; responses, if any, are ignored.
        pad_id (`int`):
            Fills up short prompts.
        k (`int`, *optional*, defaults to `20`):
            How many items to return.
        method (`"exact"`, `"beam"` or `"all"`, *optional*, defaults to `"exact"`):
            See above.
        num_beams (`int`, *optional*):
            For `"beam"`: prefixes that are kept at each depth, at least k; `2 * k` if not given.
        length_penalty (`float`, *optional*, defaults to `0.0`):
            For `"beam"`: the titles that it finds are ranked by score / (number of tokens with the end of turn) **
            length_penalty, and nothing is certified. 1 is the default of transformers' `generate`.
        max_expansions (`int`, *optional*):
            For `"exact"`: title tokens that are read for a user before the search goes on as a beam search for as many
            items as are missing; its result is then rarely certified. A model that finds most titles about equally
            likely needs very many. Without it the search always ends with a certified result.
        candidates (`Sequence[numpy.ndarray]`, *optional*):
            For each prompt, the catalog indices that may be recommended; all if not given.
        excluded (`Sequence[numpy.ndarray]`, *optional*):
            For each prompt, the catalog indices that may not be recommended.
        batch_size (`int`, *optional*, defaults to `8`):
            Users per forward; bounds the memory.
        synchronize (`bool`, *optional*, defaults to `False`):
            Whether every process of a distributed run calls this with as many prompts at the same time. All of them
            then run the same number of forwards, which sharded weights (ZeRO-3, FSDP2) need.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        [`CatalogRanking`]

    Raises:
        ValueError: If k is less than 1 or above the catalog's size, an argument does not fit the method, a prompt is
            longer than the model's context, the titles were made by another tokenizer, an index lies outside the
            catalog, or a user has no item that may be recommended.
        TypeError: If the backbone cannot attend to a tree (recurrent or ALiBi models).
        FloatingPointError: If the model's scores are not numbers.
    """
    num_items = len(trie.items)
    if not 1 <= k <= num_items:
        raise ValueError(f"`k` must lie between 1 and the catalog's {num_items} items, got {k}.")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    if method != "beam" and (num_beams is not None or length_penalty != 0):
        raise ValueError(f"`num_beams` and `length_penalty` belong to `method='beam'`, got `method={method!r}`.")
    if method != "exact" and max_expansions is not None:
        raise ValueError(f"`max_expansions` belongs to `method='exact'`, got `method={method!r}`.")
    if max_expansions is not None and max_expansions < 0:
        raise ValueError(f"`max_expansions` must be at least 0, got {max_expansions}.")
    if method == "beam":
        num_beams = 2 * k if num_beams is None else num_beams
        if num_beams < k:
            raise ValueError(f"`num_beams` must be at least k = {k}, got {num_beams}.")
    for name, arrays in (("candidates", candidates), ("excluded", excluded)):
        if arrays is not None and len(arrays) != len(prompts):
            raise ValueError(f"`{name}` needs one array for each of {len(prompts)} prompts, got {len(arrays)}.")

    def allowed(row: int) -> np.ndarray:
        return _allowed(
            trie, row, None if candidates is None else candidates[row], None if excluded is None else excluded[row]
        )

    if candidates is not None or excluded is not None:
        for row in range(len(prompts)):  # before hours are spent on those before it
            allowed(row)

    def rank(reader: TreeReader, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        allowed_items = AllowedItems(trie, np.stack([allowed(row) for row in rows]))
        if method == "all":
            found = score_all_titles(reader, allowed_items, _TOKENS_AT_ONCE["all"])
        else:
            found = search_titles(
                reader,
                allowed_items,
                k,
                num_beams=num_beams,
                max_expansions=max_expansions,
                tokens_per_wave=_TOKENS_AT_ONCE["exact"],
                prune=length_penalty == 0,
            )
        items, scores = _top_k(trie, found.titles, allowed_items, k, length_penalty)
        certified = (found.dropped <= scores[:, -1]) & (length_penalty == 0)
        return items, scores, certified, found.num_read, np.full(len(rows), reader.num_columns)

    return CatalogRanking(*_in_batches(rank, model, trie, prompts, pad_id, batch_size, synchronize, show_progress))


def score_catalog(
    model: PatchRecForCausalLM,
    trie: TitleTrie,
    prompts: Sequence[EncodedExample],
    pad_id: int,
    batch_size: int = 8,
    synchronize: bool = False,
    show_progress: bool = False,
) -> np.ndarray:
    """
    Scores every item of the catalog for each prompt.

    Args:
        model, trie, prompts, pad_id, batch_size, synchronize, show_progress:
            See [`rank_catalog`].

    Returns:
        `numpy.ndarray` of shape `(B, num_items)`, float32, by catalog index: Σ log p(title tokens + end of turn |
        prompt); -infinity for titles that the trie cannot spell.

    Raises:
        ValueError, TypeError, FloatingPointError: As [`rank_catalog`] does.
    """

    def score(reader: TreeReader, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        everything = AllowedItems(trie, np.ones((len(rows), trie.num_items), dtype=bool))
        found = score_all_titles(reader, everything, _TOKENS_AT_ONCE["all"]).titles
        leaves, items = trie.items_at(found.nodes)
        scores = np.full((len(rows), trie.num_items), -np.inf, dtype=np.float32)
        scores[found.users[leaves], items] = found.scores[leaves]
        return (scores,)

    (scores,) = _in_batches(score, model, trie, prompts, pad_id, batch_size, synchronize, show_progress)
    return scores


def _allowed(trie: TitleTrie, row: int, candidates: np.ndarray | None, excluded: np.ndarray | None) -> np.ndarray:
    """Whether each item may be recommended for the prompt in `row`, shape `(num_items,)`."""
    allowed = np.zeros(trie.num_items, dtype=bool)
    allowed[trie.items] = True
    if candidates is not None:
        is_candidate = np.zeros(trie.num_items, dtype=bool)
        is_candidate[_indices(trie, row, candidates)] = True
        allowed &= is_candidate
        if not allowed.any():
            raise ValueError(
                f"Row {row} has no candidates: its array holds {len(candidates)} items, none of which can be ranked."
            )
    if excluded is not None:
        num_candidates = int(allowed.sum())
        allowed[_indices(trie, row, excluded)] = False
        if not allowed.any():
            raise ValueError(f"Row {row} has no item left to recommend: all {num_candidates} candidates are excluded.")
    return allowed


def _indices(trie: TitleTrie, row: int, indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices, dtype=np.int64)
    outside = (indices < 0) | (indices >= trie.num_items)
    if outside.any():
        raise ValueError(
            f"Row {row} names item {indices[outside][0]}; catalog indices lie between 0 and {trie.num_items - 1}."
        )
    return indices


@torch.no_grad()
def _in_batches(
    answer: Callable[[TreeReader, np.ndarray], tuple[np.ndarray, ...]],
    model: PatchRecForCausalLM,
    trie: TitleTrie,
    prompts: Sequence[EncodedExample],
    pad_id: int,
    batch_size: int,
    synchronize: bool,
    show_progress: bool,
) -> list[np.ndarray]:
    """What `answer` makes of a reader and the rows of its prompts, over all batches and in the order of `prompts`."""
    if not prompts:
        raise ValueError("There is nothing to rank: no prompt was given.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    lengths = np.array([prompt.prompt_length for prompt in prompts])
    longest = int(lengths.max()) + trie.max_depth
    if model.max_length is not None and longest > model.max_length:
        raise ValueError(
            f"The longest prompt takes {longest} tokens with a title, but the model reads at most {model.max_length}. "
            "Lower the processor's `max_history`, or choose a layout that compresses more."
        )
    vocab_size = model.config.decoder_config.vocab_size
    if trie.tokens.max() >= vocab_size:
        raise ValueError(
            f"The titles hold token {trie.tokens.max()}, but the model's vocabulary has {vocab_size} tokens: they "
            "were tokenized for another model."
        )
    order = np.argsort(-lengths, kind="stable")  # prompts of like lengths need little padding
    parts = []
    with (
        gathered_root(model),
        maskable_attention(model, model.model.language_model),
        tqdm(total=len(prompts), desc="Ranking", unit="user", disable=not show_progress) as progress,
    ):
        if not model.supports_tree_attention():
            raise TypeError(
                f"{type(model.model.language_model).__name__} cannot attend to a tree of candidates: its state or its "
                "positions do not follow the attention mask. Use a backbone with attention and position ids."
            )
        reader = TreeReader(model, trie, pad_id, synchronize)
        for start in range(0, len(prompts), batch_size):
            rows = order[start : start + batch_size]
            reader.start([prompts[row] for row in rows])
            parts.append(answer(reader, rows))
            progress.update(len(rows))
    back = np.argsort(order)
    return [np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)]


def _top_k(
    trie: TitleTrie, titles: Prefixes, allowed: AllowedItems, k: int, length_penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """The k best allowed items of each user and their scores, as rows."""
    leaves, items = trie.items_at(titles.nodes)
    users, scores = titles.users[leaves], titles.scores[leaves]
    if length_penalty != 0:
        scores = scores / trie.depths[titles.nodes[leaves]] ** float(length_penalty)
    is_allowed = allowed.mask[users, items]
    users, items, scores = users[is_allowed], items[is_allowed], scores[is_allowed]
    order = np.lexsort((items, -scores, users))
    places = places_in_groups(users[order])
    order, places = order[places < k], places[places < k]
    num_users = len(allowed.mask)
    best_items = np.full((num_users, k), -1)
    best_scores = np.full((num_users, k), -np.inf)
    best_items[users[order], places] = items[order]
    best_scores[users[order], places] = scores[order]
    return best_items, best_scores
