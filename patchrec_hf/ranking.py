"""Ranking: the k items of the catalog whose titles the model holds most likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache

from .attention import tree_attention_mask
from .backbones import maskable_attention
from .encoding import EncodedExample, pad_examples
from .modeling import PatchRecForCausalLM
from .trie import TitleTrie


_LOGITS_AT_ONCE = 2**25  # 128 MiB in float32


@dataclass(frozen=True, eq=False)
class CatalogRanking:
    """
    The best items for each of B histories.

    Args:
        items (`numpy.ndarray` of shape `(B, k)`, int64):
            Catalog indices, best first; each item at most once. Items that share a title share its score and stand in
            catalog order. -1 where fewer than k items may be recommended.
        scores (`numpy.ndarray` of shape `(B, k)`, float32):
            Σ log p(title tokens + end of turn | prompt), over the whole vocabulary; -infinity where `items` is -1.
        certified (`numpy.ndarray` of shape `(B,)`, bool):
            Whether the list is proven to be the exact top k: no prefix that the beam dropped scored above the k-th
            item.
    """

    items: np.ndarray
    scores: np.ndarray
    certified: np.ndarray


@torch.no_grad()
def rank_catalog(
    model: PatchRecForCausalLM,
    trie: TitleTrie,
    prompts: Sequence[EncodedExample],
    pad_id: int,
    k: int = 20,
    num_beams: int | None = None,
    excluded: Sequence[np.ndarray] | None = None,
    batch_size: int = 8,
    show_progress: bool = False,
) -> CatalogRanking:
    """
    Ranks the catalog for each prompt with a beam search that only spells titles.

    A prompt is read once and its keys and values are kept once, however many beams there are: all beams of a user are
    branches of one tree, and a mask lets each see the prompt and its own ancestors.

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
        num_beams (`int`, *optional*):
            Prefixes that are kept at each depth, at least k; `2 * k` if not given. With as many as the catalog has
            items the result is exact.
        excluded (`Sequence[numpy.ndarray]`, *optional*):
            For each prompt, the catalog indices that may not be recommended.
        batch_size (`int`, *optional*, defaults to `8`):
            Users per forward.
        show_progress (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        [`CatalogRanking`]

    Raises:
        ValueError: If k is less than 1 or above the catalog's size, there are fewer beams than k, a prompt is longer
            than the model's context, or a user has no item left to recommend.
        TypeError: If the backbone cannot attend to a tree (recurrent or ALiBi models).
        FloatingPointError: If the model's scores are not numbers.
    """
    num_items = len(trie.leaf_of_item)
    if not 1 <= k <= num_items:
        raise ValueError(f"`k` must lie between 1 and the catalog's {num_items} items, got {k}.")
    if not prompts:
        raise ValueError("There is nothing to rank: no prompt was given.")
    if excluded is not None and len(excluded) != len(prompts):
        raise ValueError(f"`excluded` needs one array for each of {len(prompts)} prompts, got {len(excluded)}.")
    num_beams = 2 * k if num_beams is None else num_beams
    if num_beams < k:
        raise ValueError(f"`num_beams` must be at least k = {k}, got {num_beams}.")
    longest = max(prompt.prompt_length for prompt in prompts) + trie.max_depth
    if model.max_length is not None and longest > model.max_length:
        raise ValueError(
            f"The longest prompt takes {longest} tokens with a title, but the model reads at most {model.max_length}. "
            "Lower the processor's `max_history`, or choose a layout that compresses more."
        )
    with maskable_attention(model, model.model.language_model):
        if not model.supports_tree_attention():
            raise TypeError(
                f"{type(model.model.language_model).__name__} cannot attend to a tree of candidates: its state or its "
                "positions do not follow the attention mask. Use a backbone with attention and position ids."
            )
        search = _BeamSearch(model, trie, k, num_beams)
        starts = range(0, len(prompts), batch_size)
        parts = []
        for start in tqdm(starts, desc="Ranking", unit="batch", disable=not show_progress):
            rows = slice(start, start + batch_size)
            allowed = np.ones((len(prompts[rows]), num_items), dtype=bool)
            for row, items in enumerate(excluded[rows] if excluded is not None else ()):
                allowed[row, items] = False
                if not allowed[row].any():
                    raise ValueError(
                        f"Row {start + row} has no item left to recommend: all {num_items} items are excluded."
                    )
            parts.append(search.run(prompts[rows], pad_id, allowed))
    return CatalogRanking(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class _BeamSearch:
    """Level by level over the trie, one forward a level, for a batch of users at once."""

    def __init__(self, model: PatchRecForCausalLM, trie: TitleTrie, k: int, num_beams: int) -> None:
        self.model = model
        self.trie = trie
        self.k = k
        self.num_beams = num_beams
        device = model.device
        self.tokens = torch.from_numpy(trie.tokens).to(device)
        self.first_child = torch.from_numpy(trie.child_offsets[:-1]).to(device)
        self.num_children = torch.from_numpy(np.diff(trie.child_offsets)).to(device)
        # Under ZeRO-3 and FSDP2 every process must run the same number of forwards.
        self.may_stop_early = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1

    def run(
        self, prompts: Sequence[EncodedExample], pad_id: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        device, num_users = self.model.device, len(prompts)
        live = self._live_nodes(allowed)
        cache, hidden, visible, key_positions, lengths = self._read_prompts(prompts, pad_id)
        # What each open prefix is: its node, its score, and its slot among the level's queries.
        nodes = torch.zeros((num_users, 1), dtype=torch.long, device=device)
        scores = torch.zeros((num_users, 1), device=device)
        leaf_scores = torch.full((num_users, self.trie.num_nodes), -torch.inf, device=device)
        dropped = torch.full((num_users,), -torch.inf, device=device)
        for depth in range(self.trie.max_depth):
            users, slots, children, child_scores = self._children(nodes, scores, hidden, live)
            is_leaf = self.num_children[children] == 0
            leaf_scores[users[is_leaf], children[is_leaf]] = child_scores[is_leaf]
            is_open = ~is_leaf
            nodes, scores, slots, cut = _best_per_user(
                users[is_open], slots[is_open], children[is_open], child_scores[is_open], num_users, self.num_beams
            )
            dropped = torch.maximum(dropped, cut)
            if depth + 1 == self.trie.max_depth:
                break
            if self.may_stop_early and self._settled(leaf_scores, scores):
                break
            # A branch sees what its parent saw, and itself.
            width = nodes.shape[1]
            visible = visible.gather(1, slots[..., None].expand(-1, -1, visible.shape[2]))
            itself = torch.eye(width, dtype=torch.bool, device=device).expand(num_users, -1, -1)
            visible = torch.cat([visible, itself], dim=2)
            positions = (lengths + depth)[:, None].expand(-1, width)
            key_positions = torch.cat([key_positions, positions], dim=1)
            tokens = self.tokens[nodes].clamp(min=0)  # a slot that no prefix fills holds the root, which has no token
            hidden = self._forward(visible, positions, key_positions, cache, input_ids=tokens)
        # A prefix left open by an early stop scores below the k-th item, so it changes nothing.
        return self._collect(leaf_scores.cpu().numpy(), dropped.cpu().numpy(), allowed)

    def _read_prompts(
        self, prompts: Sequence[EncodedExample], pad_id: int
    ) -> tuple[DynamicCache, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The prompts' cache, and of each: its last hidden state, visible keys, their positions and its length."""
        batch = {key: value.to(self.model.device) for key, value in pad_examples(prompts, pad_id).items()}
        lengths = torch.tensor([prompt.prompt_length for prompt in prompts], device=self.model.device)
        longest = int(max(prompt.prompt_length for prompt in prompts))
        input_ids = batch["input_ids"][:, :longest]
        positions = torch.arange(longest, device=input_ids.device)
        is_prompt = positions < lengths[:, None]
        key_positions = positions.expand(len(prompts), -1)
        causal = (positions[:, None] >= positions) & (
            is_prompt[:, None, :] | torch.eye(longest, dtype=torch.bool, device=input_ids.device)
        )
        # Without a configuration the cache keeps every position, also in sliding-window layers: the mask narrows it.
        cache = DynamicCache()
        hidden = self._forward(
            causal,
            key_positions,
            key_positions,
            cache,
            input_ids=input_ids,
            patch_token_ids=batch["patch_token_ids"],
            patch_positions=batch["patch_positions"],
            patch_divisors=batch["patch_divisors"],
            supervised_positions=lengths[:, None] - 1,
        )
        return cache, hidden, is_prompt[:, None, :], key_positions, lengths

    def _forward(
        self,
        visible: torch.Tensor,
        positions: torch.Tensor,
        key_positions: torch.Tensor,
        cache: DynamicCache,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        mask = tree_attention_mask(
            visible, positions, key_positions, self.model.config.decoder_config, self.model.dtype
        )
        outputs = self.model.model(
            attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **inputs
        )
        return outputs.last_hidden_state

    def _child_log_probs(self, hidden: torch.Tensor, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """
        Log-probability of each child's token after its parent, over the whole vocabulary. `parents` ascends and
        indexes the flattened rows of `hidden`, of which only so many are projected at once that their logits stay
        small.
        """
        rows = hidden.flatten(0, 1)
        log_probs = torch.empty(len(parents), device=rows.device)
        step = max(1, _LOGITS_AT_ONCE // self.model.config.decoder_config.vocab_size)
        starts = torch.arange(0, len(rows) + step, step, device=rows.device)
        cuts = torch.searchsorted(parents, starts).tolist()
        for start, first, last in zip(starts.tolist(), cuts, cuts[1:], strict=False):
            logits = self.model.compute_logits(rows[start : start + step]).float()
            here = parents[first:last] - start
            log_probs[first:last] = logits[here, tokens[first:last]] - logits.logsumexp(dim=-1)[here]
        if not torch.isfinite(log_probs).all():
            raise FloatingPointError(
                "The model's scores are not numbers (NaN or infinity), so nothing can be ranked. Check the training "
                "loss, and that the weights were loaded whole."
            )
        return log_probs

    def _live_nodes(self, allowed: np.ndarray) -> torch.Tensor:
        """Whether an allowed item stands below each node, shape `(num_users, num_nodes)`."""
        live = np.zeros((len(allowed), self.trie.num_nodes), dtype=bool)
        if allowed.all():
            live[:] = True
        else:
            for row, items in enumerate(allowed):
                live[row, self.trie.paths[items]] = True
        return torch.from_numpy(live).to(self.model.device)

    def _children(
        self, nodes: torch.Tensor, scores: torch.Tensor, hidden: torch.Tensor, live: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """All live children of all open prefixes, flat: user, parent's slot, node, score."""
        num_users, width = nodes.shape
        # A slot that no prefix fills has the score -infinity and no children.
        counts = torch.where(scores > -torch.inf, self.num_children[nodes], 0).flatten()
        parents = torch.repeat_interleave(torch.arange(num_users * width, device=nodes.device), counts)
        offsets = torch.arange(len(parents), device=nodes.device) - (counts.cumsum(0) - counts)[parents]
        children = self.first_child[nodes].flatten()[parents] + offsets
        kept = live[parents // width, children]
        parents, children = parents[kept], children[kept]
        log_probs = self._child_log_probs(hidden, parents, self.tokens[children])
        return parents // width, parents % width, children, scores.flatten()[parents] + log_probs

    def _settled(self, leaf_scores: torch.Tensor, open_scores: torch.Tensor) -> bool:
        """Whether no open prefix of any user can still enter its top k: log-probabilities only lower a score."""
        best_leaves = leaf_scores.topk(min(self.k, leaf_scores.shape[1]), dim=1).values[:, -1]
        return bool((best_leaves >= open_scores.amax(dim=1)).all())

    def _collect(
        self, leaf_scores: np.ndarray, dropped: np.ndarray, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        item_scores = np.where(allowed, leaf_scores[:, self.trie.leaf_of_item], -np.inf)
        items = np.argsort(-item_scores, axis=1, kind="stable")[:, : self.k]
        scores = np.take_along_axis(item_scores, items, axis=1)
        # Of a user with fewer than k allowed items, every allowed item must be there.
        last = scores[np.arange(len(items)), np.minimum(allowed.sum(axis=1), self.k) - 1]
        return np.where(np.isfinite(scores), items, -1), scores, np.isfinite(last) & (last >= dropped)


def _best_per_user(
    users: torch.Tensor, slots: torch.Tensor, nodes: torch.Tensor, scores: torch.Tensor, num_users: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The `width` best candidates of each user as rows, and the best score among those that were cut. `users` ascends.
    Rows of users with fewer candidates are filled up with the root at -infinity.
    """
    counts = torch.bincount(users, minlength=num_users)
    longest = max(int(counts.max()), 1)
    column = torch.arange(len(users), device=users.device) - (counts.cumsum(0) - counts)[users]
    table = torch.full((num_users, longest), -torch.inf, device=scores.device)
    table[users, column] = scores
    best = table.topk(min(width + 1, longest), dim=1)
    cut = torch.full((num_users,), -torch.inf, device=scores.device)
    if longest > width:
        cut = best.values[:, width]
    chosen = best.indices[:, :width]

    def take(values: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros((num_users, longest), dtype=torch.long, device=values.device)
        rows[users, column] = values
        return rows.gather(1, chosen)

    return take(nodes), best.values[:, :width], take(slots), cut
