"""The tree reader: reads prompts once, and then any prefixes of titles behind them, with a cache for each user."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from transformers import DynamicCache

from .attention import tree_attention_mask
from .encoding import EncodedHistory, pad_histories
from .modeling import PatchRecForCausalLM
from .trie import TitleTrie


_MAX_LOGITS = 2**25  # 128 MiB in float32
_PRUNE_ABOVE = 128
"""Number of cached nodes from which on the reader looks for nodes that it can drop."""


class TreeReader:
    """
    Scores the nodes of a title trie after the prompts of B users.

    The keys and values of a prompt are kept once for each user. Every node that is read adds its keys and values, and
    sees the prompt and its ancestors. Nodes are numbered in preorder, so node `m` is on the path to node `n` exactly
    if `m <= n < subtree_ends[m]`, and the mask follows from the numbers alone.

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, in evaluation mode, with attention that takes masks.
        trie ([`TitleTrie`]):
            The titles.
        pad_id (`int`):
            Token that pads short prompts.
        synchronize (`bool`):
            Whether all processes read together, with the same number of calls of the model and of its head on each.
    """

    def __init__(self, model: PatchRecForCausalLM, trie: TitleTrie, pad_id: int, synchronize: bool) -> None:
        self.model = model
        self.trie = trie
        self.padding = trie.num_nodes
        """Node number of padding: it pads rows, and sees only padding."""
        self._unseen = trie.num_nodes + 1
        self._pad_id = pad_id
        self._synchronize = synchronize
        self._ends = np.append(trie.subtree_ends, [self._unseen, self._unseen])
        self._ends_on_device = torch.from_numpy(self._ends).to(model.device)
        self._tokens = torch.from_numpy(np.append(trie.tokens, pad_id)).to(model.device)
        self._depths = torch.from_numpy(np.append(trie.depths, 1)).to(model.device)
        self._cache = DynamicCache()

    def start(self, prompts: Sequence[EncodedHistory]) -> None:
        """
        Reads the prompts of B users, and forgets all earlier prompts.

        Args:
            prompts (`Sequence[EncodedHistory]`):
                B histories; responses, if any, are ignored.
        """
        device, self.num_users = self.model.device, len(prompts)
        # Without a configuration the cache keeps every position, also in sliding-window layers. The mask hides
        # positions outside the window.
        self._cache = DynamicCache()
        batch = {key: value.to(device) for key, value in pad_histories(prompts, self._pad_id).items()}
        longest = max(prompt.prompt_length for prompt in prompts)
        self._lengths = torch.tensor([[prompt.prompt_length] for prompt in prompts], device=device)
        positions = torch.arange(longest, device=device).expand(self.num_users, -1)
        is_prompt = positions < self._lengths
        # Short prompts are padded at their end. Each padding position is visible to itself only.
        visible = (positions[:, :, None] >= positions[:, None, :]) & (
            is_prompt[:, None, :] | torch.eye(longest, dtype=torch.bool, device=device)
        )
        # The root is the whole prompt, because it is on the path to every node.
        self._key_nodes = torch.where(is_prompt, 0, self._unseen)
        self._key_positions = positions
        self._held_nodes = np.empty((self.num_users, 0), dtype=np.int64)
        self._prompt_columns = self.kv_length = longest
        self._hidden = self._forward(
            visible,
            positions,
            input_ids=batch["input_ids"][:, :longest],
            patch_token_ids=batch["patch_token_ids"],
            patch_positions=batch["patch_positions"],
            patch_divisors=batch["patch_divisors"],
            supervised_positions=self._lengths - 1,
        )

    def read(self, nodes: np.ndarray) -> None:
        """
        Reads nodes. The ancestors of each node were read before, or are further left in its row.

        Args:
            nodes (`numpy.ndarray` of shape `(B, Q)`, int64):
                The nodes, padded with `padding`.
        """
        queries = torch.from_numpy(nodes).to(self.model.device)
        positions = self._lengths + self._depths[queries] - 1
        self._held_nodes = np.concatenate([self._held_nodes, nodes], axis=1)
        self._key_nodes = torch.cat([self._key_nodes, queries], dim=1)
        self._key_positions = torch.cat([self._key_positions, positions], dim=1)
        keys, query = self._key_nodes[:, None, :], queries[:, :, None]
        visible = (keys <= query) & (query < self._ends_on_device[keys])
        self._hidden = self._forward(visible, positions, input_ids=self._tokens[queries])
        self.kv_length = max(self.kv_length, self._key_nodes.shape[1])

    def forget(self) -> None:
        """Drops every node from the cache, and keeps the prompts only."""
        if self._held_nodes.shape[1] > 0:
            self._cache.crop(-self._held_nodes.shape[1])  # a negative length drops the last columns
        self._held_nodes = self._held_nodes[:, :0]
        self._key_nodes = self._key_nodes[:, : self._prompt_columns]
        self._key_positions = self._key_positions[:, : self._prompt_columns]

    def prune(self, users: np.ndarray, nodes: np.ndarray) -> None:
        """
        Drops from the cache the nodes that lead to no open prefix, if they are at least half of the cached nodes.

        Args:
            users, nodes (`numpy.ndarray` of shape `(n,)`, int64):
                The open prefixes.
        """
        held = self._held_nodes
        if held.shape[1] < _PRUNE_ABOVE:
            return
        # The nodes of all users on one number line, user after user.
        starts = np.arange(self.num_users)[:, None] * (self._unseen + 1)
        line = np.sort(starts[users, 0] + nodes)
        is_kept = np.searchsorted(line, starts + held) < np.searchsorted(line, starts + self._ends[held])
        num_kept = int(is_kept.sum(axis=1).max())
        if num_kept > held.shape[1] // 2:
            return
        # Kept nodes come first, in order. Rows with fewer of them end with dropped nodes, which the mask hides.
        columns = np.argsort(~is_kept, axis=1, kind="stable")[:, :num_kept]
        is_dropped = np.arange(num_kept) >= is_kept.sum(axis=1, keepdims=True)
        self._held_nodes = np.where(is_dropped, self._unseen, np.take_along_axis(held, columns, axis=1))
        prompt = np.tile(np.arange(self._prompt_columns), (self.num_users, 1))
        kept_columns = torch.from_numpy(np.concatenate([prompt, self._prompt_columns + columns], axis=1))
        kept_columns = kept_columns.to(self.model.device)
        nodes_held = torch.from_numpy(self._held_nodes).to(self.model.device)
        self._key_nodes = torch.cat([self._key_nodes[:, : self._prompt_columns], nodes_held], dim=1)
        self._key_positions = self._key_positions.gather(1, kept_columns)
        keep_columns(self._cache, kept_columns)

    def log_probs(self, users: np.ndarray, columns: np.ndarray, children: np.ndarray) -> np.ndarray:
        """
        Computes log-probabilities over the whole vocabulary after the prompts or nodes that were read last.

        Args:
            users, columns (`numpy.ndarray` of shape `(P,)`, int64):
                Rows and columns of the nodes that were read last. The prompts are in column 0.
            children (`numpy.ndarray` of shape `(P,)`, int64):
                The nodes whose tokens are scored.

        Returns:
            `numpy.ndarray` of shape `(P,)`, float32.

        Raises:
            FloatingPointError: If a score is not a number.
        """
        device = self._hidden.device
        # Only the requested rows are projected, in chunks with small logits.
        rows, row_of_pair = np.unique(users * self._hidden.shape[1] + columns, return_inverse=True)
        order = np.argsort(row_of_pair, kind="stable")
        pair_rows = torch.from_numpy(row_of_pair[order]).to(device)
        tokens = torch.from_numpy(self.trie.tokens[children[order]]).to(device)
        hidden = self._hidden.flatten(0, 1)[torch.from_numpy(rows).to(device)]
        step = max(1, _MAX_LOGITS // self.model.config.decoder_config.vocab_size)
        num_chunks = self.largest(-(-len(rows) // step))
        cuts = np.searchsorted(row_of_pair[order], step * np.arange(num_chunks + 1))
        parts = [torch.empty(0, device=device)]
        for chunk, (first, last) in enumerate(pairwise(cuts)):
            logits = self.model.compute_logits(hidden[chunk * step : (chunk + 1) * step]).float()
            chunk_rows = pair_rows[first:last] - chunk * step
            parts.append((logits[chunk_rows, tokens[first:last]] - logits.logsumexp(dim=-1)[chunk_rows]).to(device))
        result = np.empty(len(children), dtype=np.float32)
        result[order] = torch.cat(parts).cpu().numpy()
        if not np.isfinite(result).all():
            raise FloatingPointError(
                "The model's scores are not numbers (NaN or infinity), so nothing can be ranked. Check the training "
                "loss, and that the weights were loaded whole."
            )
        return result

    def largest(self, value: int) -> int:
        """Returns the largest `value` of all processes that read together."""
        if not self._synchronize:
            return value
        values = torch.tensor(value, device=PartialState().device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return int(values)

    def _forward(self, visible: torch.Tensor, positions: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        mask = tree_attention_mask(
            visible, positions, self._key_positions, self.model.config.decoder_config, self.model.dtype
        )
        outputs = self.model.model(
            attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True, **inputs
        )
        return outputs.last_hidden_state


def keep_columns(cache: DynamicCache, columns: torch.Tensor) -> None:
    """
    Keeps only some keys and values of each user, in every layer of a cache.

    Args:
        cache ([`~transformers.DynamicCache`]):
            Changed in place. Its layers hold keys and values of shape `(B, heads, K, D)`.
        columns (`torch.LongTensor` of shape `(B, k)`):
            Indices into K.
    """
    for layer in cast(list[Any], cache.layers):
        index = columns[:, None, :, None].to(layer.keys.device)
        layer.keys = layer.keys.take_along_dim(index, dim=2)
        layer.values = layer.values.take_along_dim(index, dim=2)
