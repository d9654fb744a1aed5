"""The processor: turns histories into model inputs with a tokenizer, a catalog, a prompt and a layout."""

from __future__ import annotations

import copy
import difflib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME, TensorType

from .catalog import Catalog, check_learned_items
from .encoding import EncodedHistory, FoldedItems, TokenCounts, pad_histories
from .fusion import Fusion
from .history_units import HistoryPart, HistoryUnits, encode_units, fold_items
from .hub_files import (
    CATALOG_NAME,
    CO_VISITATION_NAME,
    FORMAT_VERSION,
    check_format_version,
    check_path,
    explained_lookup,
    find_file,
    hub_kwargs,
    push_kwargs,
)
from .layouts import ItemPatchLayout, Layout, asks_for, check_layout, lay_out
from .long_layouts import BudgetLayout
from .neighbors import NeighborTable
from .padding import replace_text_padding
from .prompts import (
    Prompt,
    PromptTemplate,
    add_special_tokens,
    render_prompt,
    tokenizer_fingerprint,
    with_padding,
)
from .saved_layouts import check_saved_layout, layout_from_dict, layout_to_dict
from .time_gaps import gap_buckets
from .title_similarity import title_similarity
from .title_tokens import TitleTokens, tokenize_titles
from .trie import TitleTrie, build_trie
from .user_histories import Item, as_batch, as_timestamps, find_items


_SETTINGS = ("catalog", "prompt", "layout", "max_history", "separate_patches", "item_residuals", "time_gaps")
_TRAINED_SETTINGS = ("patcher", "patcher_layers")
PROMPT_KEYS = (
    "input_ids",
    "attention_mask",
    "patch_token_ids",
    "patch_positions",
    "patch_divisors",
    "patch_title_starts",
)
"""Tensors of a batch that the model reads a prompt from."""


class PatchRecProcessor(ProcessorMixin):
    """
    Turns item ids into model inputs. The processor is saved with the checkpoint, so that a checkpoint recommends
    without any other file.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The backbone's tokenizer, with the special tokens (see [`add_special_tokens`]). Its padding token is
            replaced if texts can hold it (see [`replace_text_padding`]).
        catalog ([`Catalog`]):
            The items that can be recommended.
        prompt ([`PromptTemplate`] or [`Prompt`]):
            The words around the history. The processor renders a template once, when it is made.
        layout ([`Layout`], *optional*, defaults to `ItemPatchLayout(5)`):
            Granularity of each item in fine-tuning, evaluation and recommendation.
        max_history (`int`, *optional*, defaults to `100`):
            Only the latest `max_history` items of a history are read, as in the paper. Histories are cut by whole
            items, never by tokens.
        separate_patches (`bool`, *optional*, defaults to `True`):
            Whether a separator follows each patch, as in the paper.
        item_residuals (`bool` or `int`, *optional*, defaults to `False`):
            Whether patches also hold the items' learned residuals (see [`ItemResidual`]). A number restricts them to
            that number of first items of the catalog. The paper has none.
        time_gaps (`int`, *optional*, defaults to `0`):
            Number of buckets of time gaps (see [`gap_buckets`]). If above 0, the patch of an item also holds the
            learned vector of how long after the item before it the item was chosen (see [`TimeGaps`]), and histories
            need timestamps. 24 buckets reach from a minute to many years. The paper has none.

    Raises:
        ValueError: If the tokenizer lacks the special tokens or knows no token of any title, if a title holds an added
            token (see [`tokenize_titles`]) or tokenizes to nothing, or if `max_history` is less than 1.
        TypeError: If an argument has the wrong type.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        catalog: Catalog,
        prompt: PromptTemplate | Prompt,
        layout: Layout | None = None,
        max_history: int = 100,
        separate_patches: bool = True,
        item_residuals: bool | int = False,
        time_gaps: int = 0,
    ) -> None:
        if not isinstance(max_history, (int, np.integer)) or max_history < 1:
            raise ValueError(f"`max_history` must be a whole number of at least 1, got {max_history!r}.")
        if not isinstance(catalog, Catalog):
            raise TypeError(f"`catalog` must be a `Catalog`, got `{type(catalog).__name__}`.")
        if not isinstance(prompt, (Prompt, PromptTemplate)):
            raise TypeError(f"`prompt` must be a `PromptTemplate`, got `{type(prompt).__name__}`.")
        check_saved_layout(layout)
        replace_text_padding(tokenizer)
        super().__init__(tokenizer)
        self.catalog = catalog
        rendered = prompt if isinstance(prompt, Prompt) else render_prompt(prompt, tokenizer)
        self.prompt = with_padding(rendered, tokenizer)
        self.layout: Layout = ItemPatchLayout() if layout is None else layout
        self.max_history = max_history
        self.separate_patches = separate_patches
        self.num_residuals = len(catalog) if item_residuals is True else int(item_residuals)
        """Number of first items of the catalog whose patches hold a learned residual."""
        if not 0 <= self.num_residuals <= len(catalog):
            raise ValueError(
                f"`item_residuals` must be a boolean or lie between 0 and the catalog's {len(catalog)} items, got "
                f"{item_residuals!r}."
            )
        if type(time_gaps) is not int or time_gaps < 0:
            raise ValueError(f"`time_gaps` must be a whole number of at least 0, got {time_gaps!r}.")
        self.num_time_gaps = time_gaps
        """Number of buckets of time gaps whose vectors patches hold."""
        self.title_tokens = _tokenize_catalog(catalog, tokenizer)
        self.fusion: Fusion | None = None
        """Mixes the model's scores with other parts, where a catalog is ranked by `method="fusion"`."""

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike,
        catalog: Catalog,
        prompt: PromptTemplate,
        layout: Layout | None = None,
        max_history: int = 100,
        separate_patches: bool = True,
        item_residuals: bool = False,
        time_gaps: int = 0,
        **kwargs: Any,
    ) -> PatchRecProcessor:
        """
        Loads a backbone's tokenizer, adds the special tokens to it, and makes a processor with it.

        Args:
            backbone (`str` or `os.PathLike`):
                A repository of the Hub or a directory, as for [`PatchRecForCausalLM.from_backbone`].
            catalog, prompt, layout, max_history, separate_patches, item_residuals, time_gaps:
                See [`PatchRecProcessor`].
            **kwargs:
                Passed to [`~transformers.AutoTokenizer.from_pretrained`].
        """
        check_path(backbone, kwargs)
        _check_spelling(kwargs, "from_backbone")
        with explained_lookup(backbone, kwargs):
            tokenizer = AutoTokenizer.from_pretrained(backbone, **kwargs)
        add_special_tokens(tokenizer)
        return cls(tokenizer, catalog, prompt, layout, max_history, separate_patches, item_residuals, time_gaps)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Returns the names of the parts that transformers saves and loads."""
        return ["tokenizer"]

    def with_layout(self, layout: Layout) -> PatchRecProcessor:
        """
        Returns a copy of the processor with another layout.

        Raises:
            TypeError: If it is no layout that a checkpoint can keep (see [`check_saved_layout`]).
        """
        if layout is None:
            raise TypeError("`layout` must be a layout such as `ItemPatchLayout(5)`, got None.")
        check_saved_layout(layout)
        other = copy.copy(self)
        other.layout = layout
        if "trie" in self.__dict__:
            other.__dict__["trie"] = self.trie  # the titles are the same
        return other

    def layout_within(self, max_tokens: int, layout: Layout | None = None) -> BudgetLayout:
        """
        Returns a layout with another budget.

        Args:
            max_tokens (`int`):
                Most positions of a history.
            layout ([`Layout`], *optional*):
                Replaces the processor's layout.

        Raises:
            ValueError: If the layout has no budget, or if `max_tokens` is below what a prompt needs.
        """
        layout = self.layout if layout is None else layout
        if not isinstance(layout, BudgetLayout):
            raise ValueError(
                f"`max_tokens={max_tokens!r}` needs a layout with a budget, and the layout is {layout}. Train with "
                "`BudgetLayout(max_tokens=..., min_tokens=...)`, which serves any budget between the two, or pass "
                "`layout=BudgetLayout(...)`."
            )
        return layout.with_budget(max_tokens)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and workers get no trie: it may be large, and a copy may have other titles.
        return {name: value for name, value in self.__dict__.items() if name != "trie"}

    def with_fusion(self, fusion: Fusion | None) -> PatchRecProcessor:
        """
        Returns a copy of the processor with another fusion, or with none.

        Args:
            fusion ([`~patchrec_hf.runtime.fusion.Fusion`], *optional*):
                The fusion.

        Raises:
            TypeError: If it is no fusion.
            ValueError: If a part of the fusion was made for another catalog.
        """
        if fusion is not None:
            if not isinstance(fusion, Fusion):
                raise TypeError(f"`fusion` must be a `Fusion` or None, got `{type(fusion).__name__}`.")
            fusion.check_catalog(self.catalog)
        other = self.with_layout(self.layout)
        other.fusion = fusion
        return other

    def with_prior(self, prior: Fusion | None) -> PatchRecProcessor:
        """Former name of [`PatchRecProcessor.with_fusion`]."""
        warnings.warn("`with_prior` is deprecated; use `with_fusion`.", FutureWarning, stacklevel=2)
        return self.with_fusion(prior)

    @property
    def prior(self) -> Fusion | None:
        """Former name of `fusion`."""
        warnings.warn("`prior` is deprecated; use `fusion`.", FutureWarning, stacklevel=2)
        return self.fusion

    def with_catalog(self, catalog: Catalog, grows_residuals: bool = False) -> PatchRecProcessor:
        """
        Returns a copy of the processor with other items to recommend. The model reads an item as its title, so new
        items need no training.

        A model with an item head knows items by their numbers in the catalog. So the copy's catalog begins with the
        present items, in their order, and the new items follow.

        Args:
            catalog ([`Catalog`]):
                The items.
            grows_residuals (`bool`, *optional*, defaults to `False`):
                Whether new items have residuals in their patches too, if the present items do. The model must
                have them (see [`~patchrec_hf.grow_catalog`], which adds both).

        Raises:
            ValueError: If a title holds an added token or tokenizes to nothing, or if the catalog lacks an item that
                has a residual or is known to the fusion.

        Example:
        ```python
        >>> processor = processor.with_catalog(processor.catalog.with_items({9001: "A New Book"}))
        >>> PatchRecommender(model, processor).recommend([3, 14, 9001])
        ```
        """
        other = copy.copy(self)
        other.catalog = catalog = self._reordered(catalog)
        other.title_tokens = self._tokens_of(catalog)
        other.__dict__.pop("title_neighbors", None)
        if grows_residuals and self.num_residuals > 0:
            other.num_residuals = len(catalog)
        return other

    def _tokens_of(self, catalog: Catalog) -> TitleTokens:
        """Tokenizes the titles of another catalog: only new ones, if they follow the present ones."""
        present = self.catalog.titles
        if catalog.titles[: len(present)] != present:
            return _tokenize_catalog(catalog, self.tokenizer)
        return self.title_tokens.extended(tokenize_titles(catalog.titles[len(present) :], self.tokenizer))

    def _reordered(self, catalog: Catalog) -> Catalog:
        """Returns `catalog` with the present catalog's items first, in their order, because models number them so."""
        present = self.catalog.item_ids
        num_learned = max(self.num_residuals, 0 if self.fusion is None else self.fusion.num_items)
        learned = slice(num_learned)
        check_learned_items(catalog, self.catalog.id_numbers[learned], in_order=False, learned_ids=present[learned])
        kept = catalog.indices_of(present[np.isin(self.catalog.id_numbers, catalog.id_numbers)])
        order = np.concatenate([kept, np.setdiff1d(np.arange(len(catalog)), kept)])
        if np.array_equal(order, np.arange(len(catalog))):
            return catalog
        return Catalog(catalog.item_ids[order], tuple(catalog.titles[index] for index in order))

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer (see [`tokenizer_fingerprint`])."""
        return tokenizer_fingerprint(self.tokenizer)

    @cached_property
    def trie(self) -> TitleTrie:
        """The title trie of the catalog, which can spell every title. It is built on first use."""
        return build_trie(self.title_tokens, self.prompt.end_of_turn_id)

    @cached_property
    def title_neighbors(self) -> NeighborTable:
        """Similar titles of the catalog (see [`title_similarity`]). They are computed on first use."""
        return title_similarity(self.title_tokens, self.catalog.id_numbers)

    def encode(
        self,
        history: np.ndarray,
        target: int | None = None,
        *,
        layout: Layout | None = None,
        seed: Sequence[int] | None = None,
        max_history: int | None = None,
        titles: TitleTokens | None = None,
        timestamps: np.ndarray | None = None,
    ) -> EncodedHistory:
        """
        Encodes one history.

        Args:
            history (`numpy.ndarray` of shape `(num_items,)`, int64):
                Catalog indices, oldest first.
            target (`int`, *optional*):
                Catalog index of the item to predict. Without it there is no response.
            layout ([`Layout`], *optional*):
                Replaces the processor's layout.
            seed (`Sequence[int]`, *optional*):
                Seed of a random layout. If not given, the seed is computed from the history (see
                [`TitleTokens.checksum`]).
            max_history (`int`, *optional*):
                Replaces the processor's `max_history`.
            titles ([`TitleTokens`], *optional*):
                The titles that `history` and `target` index. If not given, the titles of the catalog.
            timestamps (`numpy.ndarray` of shape `(num_items,)`, int64, *optional*):
                When each item was chosen, in seconds. They are read only if [`~PatchRecProcessor.reads_timestamps`].
                The first item that is read has no gap.

        Returns:
            [`EncodedHistory`]

        Raises:
            TypeError: If `layout` is no layout (see [`check_layout`]).
            ValueError: If the history is empty, or timestamps that are read are missing or descend.
        """
        titles = self.title_tokens if titles is None else titles
        check_layout(layout)
        timestamps = self._timestamps(len(history), timestamps, max_history or self.max_history, layout)
        history = np.asarray(history)[-(max_history or self.max_history) :]
        if len(history) == 0:
            raise ValueError("The history is empty; a recommendation needs at least one earlier item.")
        prompt = self.prompt
        seed = (titles.checksum(history),) if seed is None else seed
        segments = lay_out(
            layout or self.layout,
            len(history),
            seed,
            title_lengths=titles.lengths[history],
            timestamps=timestamps,
            separate_patches=self.separate_patches,
        )
        units = HistoryUnits.from_segments(segments, len(history))
        gaps = None if self.num_time_gaps == 0 or timestamps is None else gap_buckets(timestamps, self.num_time_gaps)
        part = self.encode_units(history, units, titles, gaps)
        history_start = len(prompt.prefix_ids) + 1
        prompt_ids = np.concatenate(
            [prompt.prefix_ids, [prompt.start_id], part.input_ids, [prompt.end_id], prompt.suffix_ids]
        ).astype(np.int64)
        response_ids = np.empty(0) if target is None else np.append(titles[target], prompt.end_of_turn_id)
        num_title_tokens, length = int(titles.lengths[history].sum()), len(part.input_ids)
        text_length = num_title_tokens + len(history) - 1
        return EncodedHistory(
            input_ids=np.concatenate([prompt_ids, response_ids]).astype(np.int64),
            prompt_length=len(prompt_ids),
            patch_token_ids=part.patches.token_ids,
            patch_positions=history_start + part.patches.positions,
            patch_divisors=part.patches.divisors,
            patch_title_starts=part.patches.title_starts,
            counts=TokenCounts(length - part.num_separators, length, len(prompt_ids)),
            text_counts=TokenCounts(num_title_tokens, text_length, len(prompt_ids) - length + text_length),
            items=history,
            item_ends=np.where(part.item_ends < 0, -1, history_start + part.item_ends),
        )

    def encode_units(
        self, items: np.ndarray, units: HistoryUnits, titles: TitleTokens | None = None, gaps: np.ndarray | None = None
    ) -> HistoryPart:
        """
        Turns the units of a history into positions, without the prompt around them.

        Args:
            items (`numpy.ndarray` of shape `(n,)`, int64):
                Catalog indices, oldest first.
            units ([`HistoryUnits`]):
                Their units.
            titles ([`TitleTokens`], *optional*):
                The titles that `items` index. If not given, the titles of the catalog.
            gaps (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
                For each item, the bucket of its time gap, or [`NO_GAP`].

        Returns:
            [`HistoryPart`]
        """
        return encode_units(
            items,
            units,
            self.title_tokens if titles is None else titles,
            patch_id=self.prompt.patch_id,
            separator_id=self.prompt.separator_id,
            separate_patches=self.separate_patches,
            num_residuals=self.num_residuals,
            gaps=gaps,
        )

    def reads_timestamps(self, layout: Layout | None = None) -> bool:
        """
        Returns whether histories need timestamps, because patches hold time gaps or the layout asks for them.

        Args:
            layout ([`Layout`], *optional*):
                Replaces the processor's layout.
        """
        return self.num_time_gaps > 0 or "timestamps" in asks_for(self.layout if layout is None else layout)

    def missing_timestamps(self, subject: str, layout: Layout | None = None) -> ValueError:
        """
        Returns the error that says why histories need timestamps, and how they get them.

        Args:
            subject (`str`):
                The beginning of a sentence, which says that something has no timestamps.
            layout ([`Layout`], *optional*):
                Replaces the processor's layout.
        """
        reader, mend = "The patches of this model hold time gaps", "make the processor with `time_gaps=0`"
        if self.num_time_gaps == 0:
            reader = f"The layout {self.layout if layout is None else layout} reads timestamps"
            mend = "choose a layout that reads none"
        return ValueError(
            f"{reader}, but {subject}. A recommendation needs the timestamps of the history: rows with the column "
            f"`timestamps`, as rows of interactions with times have, or `recommend(..., timestamps=...)` and "
            f"`start(..., timestamps=...)`. Or {mend}."
        )

    def _timestamps(
        self, num_items: int, timestamps: np.ndarray | None, max_history: int, layout: Layout | None
    ) -> np.ndarray | None:
        """Returns the timestamps of the part of a history that is read; `None` if nothing reads them."""
        if not self.reads_timestamps(layout):
            return None
        if timestamps is None:
            raise self.missing_timestamps("a history has no `timestamps`", layout)
        if len(timestamps) != num_items:
            raise ValueError(f"A history has {num_items} items and {len(timestamps)} timestamps; give one for each.")
        return np.asarray(timestamps)[-max_history:]

    def fold_items(
        self,
        items: np.ndarray,
        sizes: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        titles: TitleTokens | None = None,
        gaps: np.ndarray | None = None,
    ) -> FoldedItems:
        """
        Lists what is folded into the patches of items: the tokens of an item's title, then its residual, if it has
        one, then its time gap, if one is given.

        Args:
            items (`numpy.ndarray` of shape `(n,)`, int64):
                Catalog indices.
            sizes (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
                For each item, the number of items that share its patch; 1 if not given.
            positions (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
                The position of each item's patch. If not given, the items have one patch each, from position 0 on.
            titles ([`TitleTokens`], *optional*):
                The titles that `items` index. If not given, the titles of the catalog.
            gaps (`numpy.ndarray` of shape `(n,)`, int64, *optional*):
                For each item, the bucket of its time gap, or [`NO_GAP`].

        Returns:
            [`FoldedItems`]
        """
        titles = self.title_tokens if titles is None else titles
        sizes = np.ones(len(items), dtype=np.int64) if sizes is None else sizes
        positions = np.arange(len(items)) if positions is None else positions
        return fold_items(items, sizes, positions, titles, self.num_residuals, gaps)

    def count_history_tokens(
        self, title_lengths: np.ndarray, layout: Layout | None = None, timestamps: np.ndarray | None = None
    ) -> np.ndarray:
        """
        Counts the positions of histories, with their separators, without encoding the histories.

        Args:
            title_lengths (`numpy.ndarray` of shape `(num_histories, num_items)`, int64):
                Number of tokens in each item's title.
            layout ([`Layout`], *optional*):
                Replaces the processor's layout. A random layout is drawn once for all histories.
            timestamps (`numpy.ndarray` of shape `(num_histories, num_items)`, int64, *optional*):
                When each item was chosen, in seconds. A layout that asks for them needs them.

        Returns:
            `numpy.ndarray` of shape `(num_histories,)`, int64.
        """
        layout = self.layout if layout is None else layout
        # A layout that asks for nothing lays out all histories of one length alike.
        num_alike = 1 if asks_for(layout) else max(len(title_lengths), 1)
        counts = [
            self._count_alike(
                title_lengths[first : first + num_alike], layout, None if timestamps is None else timestamps[first]
            )
            for first in range(0, len(title_lengths), num_alike)
        ]
        return np.concatenate(counts) if counts else np.empty(0, dtype=np.int64)

    def _count_alike(self, title_lengths: np.ndarray, layout: Layout, timestamps: np.ndarray | None) -> np.ndarray:
        segments = lay_out(
            layout,
            title_lengths.shape[1],
            title_lengths=title_lengths[0],
            timestamps=timestamps,
            separate_patches=self.separate_patches,
        )
        units = HistoryUnits.from_segments(segments, title_lengths.shape[1])
        num_patches, is_separated = (~units.unit_is_text).sum(), units.is_separated(self.separate_patches)
        return title_lengths[:, units.is_text].sum(axis=1) + num_patches + is_separated.sum()

    def __call__(
        self,
        histories: Sequence[Item] | Sequence[Sequence[Item]],
        layout: Layout | None = None,
        padding_side: Literal["left", "right"] = "left",
        return_tensors: str | TensorType = "pt",
        timestamps: Sequence[int] | Sequence[Sequence[int]] | np.ndarray | None = None,
    ) -> BatchFeature:
        """
        Turns histories into the prompts that `model.generate` takes.

        Args:
            histories (`Sequence[int | str | Title]`, or a sequence of them):
                One history or a batch of them, oldest item first (see [`PatchRecommender.recommend`]).
            layout ([`Layout`], *optional*):
                Replaces the processor's layout.
            padding_side (`"left"` or `"right"`, *optional*, defaults to `"left"`):
                Side on which short prompts are padded. Generation needs `"left"`.
            return_tensors (`"pt"` or `"np"`, *optional*, defaults to `"pt"`):
                Whether to return tensors of PyTorch or arrays of NumPy.
            timestamps (`Sequence[int]`, or a sequence of them, *optional*):
                See [`PatchRecommender.recommend`].

        Returns:
            [`~transformers.BatchFeature`]: the tensors of the prompts, as in [`pad_histories`].

        Raises:
            TypeError: If `histories` are no histories.
            ValueError: If a history is empty, or `return_tensors` has another value.
            KeyError: If an item id is not in the catalog.
        """
        if return_tensors not in ("pt", "np", TensorType.PYTORCH, TensorType.NUMPY):
            raise ValueError(f"`return_tensors` must be 'pt' or 'np', got {return_tensors!r}.")
        is_single, batch = as_batch(histories)
        found = find_items(batch, self.catalog, self.title_tokens, self.tokenizer)
        times = as_timestamps(timestamps, batch, is_single)
        encoded = [
            self.encode(items, layout=layout, titles=found.titles, timestamps=None if times is None else times[row])
            for row, items in enumerate(found.items)
        ]
        tensors = pad_histories(encoded, self.prompt.pad_id, padding_side)
        prompts = {key: tensors[key] for key in PROMPT_KEYS}
        if return_tensors in ("np", TensorType.NUMPY):
            return BatchFeature({key: value.numpy() for key, value in prompts.items()})
        return BatchFeature(prompts)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-ready values. The catalog and the tokenizer are saved in other files."""
        return {
            "processor_class": type(self).__name__,
            "format_version": FORMAT_VERSION,
            "prompt": self.prompt.to_dict(),
            "layout": layout_to_dict(self.layout),
            "max_history": self.max_history,
            "separate_patches": self.separate_patches,
            "item_residuals": self.num_residuals,
            "fusion": None if self.fusion is None else self.fusion.to_dict(),
            "time_gaps": self.num_time_gaps,
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self.catalog)} items, layout={self.layout}, max_history={self.max_history}, "
            f"separate_patches={self.separate_patches}, time_gaps={self.num_time_gaps}, fusion={self.fusion})"
        )

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Saves the tokenizer, `processor_config.json`, `catalog.parquet` and the fusion, if there is one."""
        upload = push_kwargs(save_directory, kwargs)
        super().save_pretrained(save_directory, **{key: kwargs[key] for key in kwargs if key not in upload})
        self.catalog.to_parquet(os.path.join(save_directory, CATALOG_NAME))
        if self.fusion is not None:
            self.fusion.save_files(save_directory)
        if push_to_hub:
            self.push_to_hub(**upload)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        layout: Layout | None = None,
        trust_layout_code: bool = False,
        **kwargs: Any,
    ) -> PatchRecProcessor:
        """
        Loads the processor of a checkpoint.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A directory or a repository of the Hub.
            layout ([`Layout`], *optional*):
                Replaces the saved layout.
            trust_layout_code (`bool`, *optional*, defaults to `False`):
                Whether a saved layout that is a class of your own may be imported by its import path, which runs the
                code of its module. The code itself is not saved with a checkpoint.
            **kwargs:
                Arguments for the Hub, such as `revision`, `token` and `cache_dir`, and `trust_remote_code` for a
                tokenizer with code of its own.

        Raises:
            OSError: If the checkpoint has no `processor_config.json` or `catalog.parquet`.
            ValueError: If the saved layout is not from this library, `layout` is not given and its code is not trusted
                or cannot be imported, or if a newer version of the library wrote the checkpoint.
        """
        _check_spelling(kwargs, "from_pretrained")
        trust_remote_code = kwargs.get("trust_remote_code", False)  # if unset, transformers asks at the terminal
        with open(find_file(pretrained_model_name_or_path, PROCESSOR_NAME, kwargs), encoding="utf-8") as file:
            values = json.load(file)
        check_format_version(values.get("format_version", 0), f"{pretrained_model_name_or_path}/{PROCESSOR_NAME}")
        processor = cls(
            tokenizer=AutoTokenizer.from_pretrained(
                pretrained_model_name_or_path, trust_remote_code=trust_remote_code, **hub_kwargs(kwargs)
            ),
            catalog=Catalog.from_parquet(find_file(pretrained_model_name_or_path, CATALOG_NAME, kwargs)),
            prompt=Prompt.from_dict(values["prompt"]),
            layout=layout_from_dict(values["layout"], trust_layout_code) if layout is None else layout,
            max_history=values["max_history"],
            separate_patches=values["separate_patches"],
            item_residuals=values.get("item_residuals", 0),
            time_gaps=values.get("time_gaps", 0),
        )
        if values.get("fusion") is not None:
            fusion = Fusion.from_dict(
                values["fusion"], lambda name: find_file(pretrained_model_name_or_path, name, kwargs)
            )
            return processor.with_fusion(fusion)
        if values.get("has_prior", False):  # before format version 2
            path = find_file(pretrained_model_name_or_path, CO_VISITATION_NAME, kwargs)
            return processor.with_fusion(Fusion.from_prior(path))
        return processor


def _check_spelling(kwargs: Mapping[str, Any], function: str) -> None:
    """Checks that no keyword which a tokenizer would swallow is a misspelt setting of the processor."""
    for name in kwargs:
        if name in _TRAINED_SETTINGS:
            raise TypeError(
                f"`{function}` takes no `{name}`, which belongs to the model: set it in "
                f"`PatchFinetuneConfig({name}=...)` or `PatchPretrainConfig`, or call `model.add_patcher`."
            )
        nearest = difflib.get_close_matches(name, _SETTINGS, 1, cutoff=0.8)
        if nearest == [name]:
            raise TypeError(f"`{function}` takes no `{name}`: a checkpoint keeps its own.")
        if nearest:
            raise TypeError(f"`{function}` got an unexpected keyword `{name}`; did you mean `{nearest[0]}`?")


def _tokenize_catalog(catalog: Catalog, tokenizer: PreTrainedTokenizerBase) -> TitleTokens:
    titles = tokenize_titles(catalog.titles, tokenizer)
    if (titles.ids == tokenizer.unk_token_id).all():
        raise ValueError(
            f"None of the {len(titles)} titles (such as {catalog.titles[0]!r}) shares a token with "
            f"{type(tokenizer).__name__}, which reads them all as {tokenizer.unk_token}. Choose a backbone whose "
            "tokenizer knows the titles' script."
        )
    return titles
