"""The tree reader: reads prompts once, and then any prefixes of titles behind them, with a cache for each user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from accelerate import PartialState
from transformers import DynamicCache

from .attention import tree_attention_mask
from .catalog_softmax import catalog_log_softmax
from .encoding import EncodedHistory, pad_histories
from .history_cache import as_dynamic_cache
from .modeling import PatchRecForCausalLM
from .read_groups import ReadCost, read_groups
from .read_histories import PromptToRank, ReadPrompt
from .sharding import is_plain_linear
from .title_tokens import ragged_arange
from .tree_cache import TreeCache, join_caches
from .trie import TitleTrie


_MAX_LOGITS = 2**25  # 128 MiB in float32
_PRUNE_ABOVE = 128
"""Number of cached nodes from which on the reader looks for nodes that it can drop."""
_NOBODY = -1
"""Number of a user who left, in a cache whose other users were not read since."""


class TreeReader:
    """
    Scores the nodes of a title trie after the prompts of users, who come in and leave at any time.

    The keys and values of a prompt are kept once for each user. Every node that is read adds its keys and values, and
    sees the prompt and its ancestors. Nodes are numbered in preorder, so node `m` is on the path to node `n` exactly
    if `m <= n < subtree_ends[m]`, and the mask follows from the numbers alone.

    Users who have similarly much to read share a forward (see [`read_groups`]) and a [`TreeCache`].

    Args:
        model ([`PatchRecForCausalLM`]):
            The model, in evaluation mode, with attention that takes masks.
        trie ([`TitleTrie`]):
            The titles.
        pad_id (`int`):
            Token that pads short prompts.
        synchronize (`bool`):
            Whether all processes read together, with the same number of calls of the model and of its head on each.
        temperature (`float`, *optional*):
            If given, a token's probability is one among the tokens with which a title of the trie can go on, of logits
            that are divided by this number. Otherwise it is one among the whole vocabulary.
    """

    def __init__(
        self,
        model: PatchRecForCausalLM,
        trie: TitleTrie,
        pad_id: int,
        synchronize: bool,
        temperature: float | None = None,
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.trie = trie
        self._padding = trie.num_nodes
        """Node number of padding: it pads rows of queries, and sees only padding."""
        self._unseen = trie.num_nodes + 1
        self._pad_id = pad_id
        self._synchronize = synchronize
        self._cost = ReadCost.of_model(model)
        self._ends = np.append(trie.subtree_ends, [self._unseen, self._unseen])
        self._ends_on_device = torch.from_numpy(self._ends).to(model.device)
        self._tokens = torch.from_numpy(np.append(trie.tokens, pad_id)).to(model.device)
        self._depths = torch.from_numpy(np.append(trie.depths, 1)).to(model.device)
        self._caches: list[TreeCache] = []
        self._kv_lengths: dict[int, int] = {}
        self._hidden = torch.empty(0, 0)
        self._row_of_place = np.empty(0, dtype=np.int64)

    def admit(self, users: np.ndarray, prompts: Sequence[PromptToRank]) -> None:
        """
        Reads the prompts of users who come in. If a prompt is a [`ReadPrompt`], only its rest is read. The places for
        [`TreeReader.log_probs`] are their indices in `users`.

        Args:
            users (`numpy.ndarray` of shape `(n,)`, int64):
                Numbers of the users, none of whom is present.
            prompts (`Sequence[PromptToRank]`):
                Their histories; responses, if any, are ignored.
        """
        lengths = np.array([prompt.prompt_length for prompt in prompts], dtype=np.int64)
        num_read = np.array([p.num_read if isinstance(p, ReadPrompt) else 0 for p in prompts], dtype=np.int64)
        groups = []
        for rows in (np.flatnonzero(num_read == 0), np.flatnonzero(num_read > 0)):
            num_queries = (lengths - num_read)[rows]
            groups += [rows[group] for group in read_groups(num_queries, lengths[rows], self._cost)]

        def read_group(group: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
            some = [prompts[index] for index in group]
            read = [prompt for prompt in some if isinstance(prompt, ReadPrompt)]
            encoded = [prompt for prompt in some if not isinstance(prompt, ReadPrompt)]
            hidden = self._read_rest(users[group], read) if read else self._read_prompts(users[group], encoded)
            return hidden, group

        self._read_groups(groups, read_group)

    def leave(self, users: np.ndarray) -> None:
        """Forgets users. The memory of a user is free as soon as the others of the same cache are read again."""
        marked = [
            replace(cache, users=np.where(np.isin(cache.users, users), _NOBODY, cache.users)) for cache in self._caches
        ]
        self._caches = [cache for cache in marked if (cache.users != _NOBODY).any()]
        for user in users.tolist():
            self._kv_lengths.pop(user, None)

    def kv_length(self, user: int) -> int:
        """Largest number of keys and values that a layer's head held for a user at once, without padding."""
        return self._kv_lengths[user]

    def read(self, users: np.ndarray, nodes: np.ndarray) -> None:
        """
        Reads nodes. The ancestors of each node were read before, or are among the earlier nodes of the same user. The
        places for [`TreeReader.log_probs`] are the indices in `nodes`.

        Args:
            users, nodes (`numpy.ndarray` of shape `(n,)`, int64):
                Each node and its user. Users ascend.
        """
        present, counts = np.unique(users, return_counts=True)
        held = {user: held for cache in self._caches for user, held in self._num_held(cache)}
        num_keys = counts + np.array([held[user] for user in present.tolist()], dtype=np.int64)

        def read_group(group: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
            cache = self._cache_of(present[group])
            places = np.flatnonzero(np.isin(users, present[group]))
            sorter = np.argsort(cache.users)
            rows = sorter[np.searchsorted(cache.users, users[places], sorter=sorter)]
            columns = ragged_arange(counts[group])
            table = np.full((len(group), int(counts[group].max())), self._padding)
            table[rows, columns] = nodes[places]
            hidden = self._read_table(cache, table)
            return hidden[
                torch.from_numpy(rows).to(hidden.device), torch.from_numpy(columns).to(hidden.device)
            ], places

        self._read_groups(read_groups(counts, num_keys, self._cost), read_group)

    def forget(self) -> None:
        """Drops every node from the caches, and keeps the prompts only."""
        for number, cache in enumerate(self._caches):
            rows = np.flatnonzero(cache.users != _NOBODY)
            self._caches[number] = join_caches([(cache, rows, cache.nodes[rows] == 0)], self._unseen)

    def prune(self, users: np.ndarray, nodes: np.ndarray) -> None:
        """
        Drops from a cache the nodes that lead to no open prefix, if they are at least half of its nodes.

        Args:
            users, nodes (`numpy.ndarray` of shape `(n,)`, int64):
                The open prefixes.
        """
        # The nodes of all users on one number line, user after user.
        line = np.sort(users * (self._unseen + 1) + nodes)
        for number, cache in enumerate(self._caches):
            num_columns, longest_prompt = cache.nodes.shape[1], int((cache.nodes == 0).sum(axis=1).max())
            if num_columns - longest_prompt < _PRUNE_ABOVE:
                continue
            rows = np.flatnonzero(cache.users != _NOBODY)
            held, starts = cache.nodes[rows], cache.users[rows, None] * (self._unseen + 1)
            leads_on = np.searchsorted(line, starts + held) < np.searchsorted(line, starts + self._ends[held])
            is_kept = (held == 0) | leads_on
            num_dropped = num_columns - int(is_kept.sum(axis=1).max())
            if 2 * num_dropped >= num_columns - longest_prompt:
                self._caches[number] = join_caches([(cache, rows, is_kept)], self._unseen)

    @property
    def is_normalized(self) -> bool:
        """Whether the probabilities of all titles sum to 1, because only tokens of titles share them."""
        return self.temperature is not None

    def log_probs(self, places: np.ndarray, children: np.ndarray) -> np.ndarray:
        """
        Computes log-probabilities of tokens after the prompts or nodes that were read last. If they are normalized
        over titles, an only child has the log-probability 0, and no logit is computed for it.

        Args:
            places (`numpy.ndarray` of shape `(P,)`, int64):
                Places of the prompts or nodes that were read last.
            children (`numpy.ndarray` of shape `(P,)`, int64):
                The nodes whose tokens are scored. The nodes that were read are their parents.

        Returns:
            `numpy.ndarray` of shape `(P,)`, float32.

        Raises:
            FloatingPointError: If a score is not a number.
        """
        rows = self._row_of_place[places]
        if self.temperature is None:
            result = self._vocabulary_log_probs(rows, children)
        else:
            result = np.zeros(len(children), dtype=np.float32)
            is_choice = self.trie.is_choice[self.trie.parents[children]]
            result[is_choice] = self._catalog_log_probs(rows[is_choice], children[is_choice], self.temperature)
        if not np.isfinite(result).all():
            raise FloatingPointError(
                "The model's scores are not numbers (NaN or infinity), so nothing can be ranked. Check the training "
                "loss, and that the weights were loaded whole."
            )
        return result

    def _vocabulary_log_probs(self, rows: np.ndarray, children: np.ndarray) -> np.ndarray:
        device = self._hidden.device
        # Only the requested rows are projected, in chunks with small logits.
        rows, row_of_pair = np.unique(rows, return_inverse=True)
        order = np.argsort(row_of_pair, kind="stable")
        pair_rows = torch.from_numpy(row_of_pair[order]).to(device)
        tokens = torch.from_numpy(self.trie.tokens[children[order]]).to(device)
        hidden = self._hidden[torch.from_numpy(rows).to(device)]
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
        return result

    def _catalog_log_probs(self, rows: np.ndarray, children: np.ndarray, temperature: float) -> np.ndarray:
        trie, device = self.trie, self._hidden.device
        # All children of a node that was read share its probability, whichever of them are asked for.
        rows, first, row_of_pair = np.unique(rows, return_index=True, return_inverse=True)
        nodes, node_of_row = np.unique(trie.parents[children[first]], return_inverse=True)
        _, siblings = trie.children_of(nodes)
        tokens, columns = np.unique(trie.tokens[siblings], return_inverse=True)
        counts = trie.num_children[nodes]
        starts, counts = (np.cumsum(counts) - counts)[node_of_row], counts[node_of_row]
        tokens_on_device = torch.from_numpy(tokens).to(device)
        width = len(tokens) if is_plain_linear(self.model.lm_head) else self.model.config.decoder_config.vocab_size
        step = max(1, _MAX_LOGITS // max(width, 1))
        parts = [torch.empty(0, device=device)]
        for chunk in range(self.largest(-(-len(rows) // step))):
            part = slice(chunk * step, (chunk + 1) * step)
            hidden = self._hidden[torch.from_numpy(rows[part]).to(device)]
            logits = self.model.compute_token_logits(hidden, tokens_on_device)
            cells = np.repeat(starts[part], counts[part]) + ragged_arange(counts[part])
            cell_rows = np.repeat(np.arange(len(hidden)), counts[part])
            cell_columns = torch.from_numpy(columns[cells]).to(logits.device)
            cell_rows_on_device = torch.from_numpy(cell_rows).to(logits.device)
            log_probs = catalog_log_softmax(logits, cell_rows_on_device, cell_columns, temperature)
            parts.append(log_probs.to(device))
        cell_of_pair = (np.cumsum(counts) - counts)[row_of_pair] + trie.places_among_siblings[children]
        # Rounding must not lift a probability above 1: a prefix bounds the titles below it.
        return np.minimum(torch.cat(parts).cpu().numpy()[cell_of_pair], 0)

    def largest(self, value: int) -> int:
        """Returns the largest `value` of all processes that read together."""
        if not self._synchronize:
            return value
        values = torch.tensor(value, device=PartialState().device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return int(values)

    def _read_groups(
        self, groups: Sequence[np.ndarray], read_group: Callable[[np.ndarray], tuple[torch.Tensor, np.ndarray]]
    ) -> None:
        """Keeps the hidden states that `read_group` returns for the places that it returns."""
        hidden, places = [], [np.empty(0, dtype=np.int64)]
        num_forwards = self.largest(len(groups))
        for group in groups:
            states, where = read_group(group)
            hidden.append(states)
            places.append(where)
        for _ in range(num_forwards - len(groups)):  # other processes still read
            hidden.append(self._read_nothing())
        self._hidden = torch.cat(hidden)
        self._row_of_place = np.argsort(np.concatenate(places))

    def _read_prompts(self, users: np.ndarray, prompts: Sequence[EncodedHistory]) -> torch.Tensor:
        """Reads prompts in one forward. Returns the states of their last tokens, of shape `(G, H)`."""
        device, num_tokens = self.model.device, np.array([[prompt.prompt_length] for prompt in prompts])
        batch = {key: value.to(device) for key, value in pad_histories(prompts, self._pad_id).items()}
        lengths, longest = torch.from_numpy(num_tokens).to(device), int(num_tokens.max())
        positions = torch.arange(longest, device=device).expand(len(prompts), -1)
        is_prompt = positions < lengths
        # Short prompts are padded at their end. Each padding position is visible to itself only.
        visible = (positions[:, :, None] >= positions[:, None, :]) & (
            is_prompt[:, None, :] | torch.eye(longest, dtype=torch.bool, device=device)
        )
        nodes = np.where(np.arange(longest) < num_tokens, 0, self._unseen)
        # Without a configuration the cache keeps every position, also in sliding-window layers. The mask hides
        # positions outside the window.
        cache = TreeCache(users, lengths, nodes, torch.from_numpy(nodes).to(device), positions, DynamicCache())
        hidden = self._forward(
            cache,
            visible,
            positions,
            input_ids=batch["input_ids"][:, :longest],
            patch_token_ids=batch["patch_token_ids"],
            patch_positions=batch["patch_positions"],
            patch_divisors=batch["patch_divisors"],
            patch_title_starts=batch["patch_title_starts"],
            supervised_positions=lengths - 1,
        )
        self._caches.append(cache)
        self._note_kv_lengths(cache)
        return hidden[:, 0]

    def _read_rest(self, users: np.ndarray, prompts: Sequence[ReadPrompt]) -> torch.Tensor:
        """Reads the rest of prompts in one forward. Returns the states of their last tokens, of shape `(G, H)`."""
        device = self.model.device
        num_read, rest = np.array([[prompt.num_read] for prompt in prompts]), np.stack([p.rest_ids for p in prompts])
        longest = int(num_read.max())
        nodes = np.where(np.arange(longest) < num_read, 0, self._unseen)
        positions = torch.from_numpy(num_read + np.arange(rest.shape[1])).to(device)
        cache = TreeCache(
            users,
            torch.from_numpy(num_read + rest.shape[1]).to(device),
            nodes,
            torch.from_numpy(nodes).to(device),
            torch.arange(longest, device=device).expand(len(prompts), -1),
            as_dynamic_cache([(prompt.cache, prompt.user) for prompt in prompts], longest),
        ).extended(np.zeros_like(rest), torch.zeros_like(positions), positions)
        visible = (cache.key_nodes == 0)[:, None, :] & (cache.key_positions[:, None, :] <= positions[:, :, None])
        hidden = self._forward(cache, visible, positions, input_ids=torch.from_numpy(rest).to(device))
        self._caches.append(cache)
        self._note_kv_lengths(cache)
        return hidden[:, -1]

    def _read_table(self, cache: TreeCache, table: np.ndarray) -> torch.Tensor:
        """Reads nodes of shape `(G, Q)` in one forward. Returns their states, of shape `(G, Q, H)`."""
        queries = torch.from_numpy(table).to(self.model.device)
        positions = cache.lengths + self._depths[queries] - 1
        longer = cache.extended(table, queries, positions)
        keys, query = longer.key_nodes[:, None, :], queries[:, :, None]
        visible = (keys <= query) & (query < self._ends_on_device[keys])
        hidden = self._forward(longer, visible, positions, input_ids=self._tokens[queries])
        self._caches[self._caches.index(cache)] = longer
        self._note_kv_lengths(longer)
        return hidden

    def _read_nothing(self) -> torch.Tensor:
        """Reads a padding token that no user sees. Returns no states, of shape `(0, H)`."""
        nobody, zero = np.empty(0, dtype=np.int64), torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        cache = TreeCache(nobody, zero, nobody[None], zero, zero, DynamicCache())
        return self._forward(
            cache, torch.ones_like(zero, dtype=torch.bool)[None], zero, input_ids=zero + self._pad_id
        )[0, :0]

    def _cache_of(self, users: np.ndarray) -> TreeCache:
        """Returns the cache that holds exactly these users, who ascend. Splits and joins caches if there is none."""
        for cache in self._caches:
            if np.array_equal(np.sort(cache.users), users):
                return cache
        joined, rest = [], []
        for cache in self._caches:
            is_wanted = np.isin(cache.users, users)
            if not is_wanted.any():
                rest.append(cache)
                continue
            joined.append(self._columns_of(cache, is_wanted))
            is_left = ~is_wanted & (cache.users != _NOBODY)
            if is_left.any():
                rest.append(join_caches([self._columns_of(cache, is_left)], self._unseen))
        self._caches = [*rest, join_caches(joined, self._unseen)]
        return self._caches[-1]

    def _columns_of(self, cache: TreeCache, is_chosen: np.ndarray) -> tuple[TreeCache, np.ndarray, np.ndarray]:
        """Returns what [`join_caches`] needs to copy the chosen users."""
        rows = np.flatnonzero(is_chosen)
        return cache, rows, cache.nodes[rows] < self._padding

    def _num_held(self, cache: TreeCache) -> Iterator[tuple[int, int]]:
        """Yields each user of a cache, and the number of keys that the user holds."""
        yield from zip(cache.users.tolist(), (cache.nodes < self._padding).sum(axis=1).tolist(), strict=True)

    def _note_kv_lengths(self, cache: TreeCache) -> None:
        for user, num_held in self._num_held(cache):
            self._kv_lengths[user] = max(self._kv_lengths.get(user, 0), num_held)

    def _forward(
        self, cache: TreeCache, visible: torch.Tensor, positions: torch.Tensor, **inputs: torch.Tensor
    ) -> torch.Tensor:
        config, dtype = self.model.config.decoder_config, self.model.dtype
        mask = tree_attention_mask(visible, positions, cache.key_positions, config, dtype)
        outputs = self.model.model(
            attention_mask=mask, position_ids=positions, past_key_values=cache.layers, use_cache=True, **inputs
        )
        return outputs.last_hidden_state
