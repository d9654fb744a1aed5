"""Collators: rows in, padded or packed tensors out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from datasets import Dataset

from ..data.rows import Row, check_targets
from ..runtime.configuration import NORMALIZERS, Normalizer
from ..runtime.encoding import IGNORED_LABEL, EncodedHistory, pad_histories
from ..runtime.layouts import (
    DropLayout,
    Layout,
    RandomPatchLayout,
    TextLayout,
    check_layout,
    is_append_only,
)
from ..runtime.long_layouts import BudgetLayout
from ..runtime.processing import PatchRecProcessor
from .candidates import NegativeSampling, all_candidates, candidate_features, draw_candidates
from .choices import choice_tensors, choices_of, with_choices
from .filled import FillerRow
from .packing import pack_histories
from .row_lengths import row_lengths
from .sampling import ScheduledRow


Objective = Literal["title", "item", "both"]
OBJECTIVES = get_args(Objective)
Twin = Literal["compressed", "dropped"]
_TWIN_LAYOUTS: Mapping[str, Callable[[float], Layout]] = {"compressed": RandomPatchLayout, "dropped": DropLayout}

AnyRow = Row | Mapping[str, Any] | ScheduledRow | FillerRow


@dataclass(frozen=True)
class PatchDataCollator:
    """
    Turns rows into a batch that holds one encoded history for each target.

    All targets of a row are predicted from one window, which starts `max_history` items before the row's first target.
    So the prompts of a row begin alike. The history of the first target holds up to `max_history` items, and the
    history of a later target also holds the items in between. With one target per row, this is the paper's setting.

    Args:
        processor ([`PatchRecProcessor`]):
            Encodes histories.
        layout ([`Layout`], *optional*):
            Overrides the processor's layout.
        max_length (`int`, *optional*):
            The model's context, in tokens. A longer history raises an error; it is never cut.
        seed (`int`, *optional*, defaults to `0`):
            Seed of random layouts. Draws depend only on this seed, the step of a [`ScheduledRow`] (0 for other rows)
            and the history of the row's first target, not on when or in which process the collator runs. Each item is
            drawn once for all targets of a row. A [`BudgetLayout`] with `min_tokens` draws the budget of a
            [`ScheduledRow`] in the same way, and keeps to `max_tokens` for other rows.
        tree_packing (`bool`, *optional*, defaults to `False`):
            Whether to pack the batch into one sequence, which holds each prefix that prompts share once (see
            [`pack_histories`]). Otherwise the batch has one padded row for each history.
        objective (`"title"`, `"item"` or `"both"`, *optional*, defaults to `"title"`):
            The model predicts the tokens of the target's title, the target among the catalog's items (by the item
            head), or both. With `"item"`, a row needs one encoded history for all of its targets if the layout is
            append-only, or if all of its items fit a budget as patches: each target is predicted where the item before
            it ends, and nothing stands after the history.
        negatives ([`NegativeSampling`], *optional*):
            Draws the items among which item targets are predicted. If not given, all items of the catalog.
        compares_titles (`bool`, *optional*, defaults to `False`):
            Whether the batch says how similar the items' titles are to the history's (see [`candidate_features`]).
        title_normalizer (`"vocabulary"` or `"catalog"`, *optional*, defaults to `"vocabulary"`):
            Among which tokens a title's token is predicted: all, or those with which a title of the catalog can go on.
            With `"catalog"`, only tokens that the catalog leaves open are labels, and what follows the last of them is
            not read (see [`with_choices`]).
    """

    processor: PatchRecProcessor
    layout: Layout | None = None
    max_length: int | None = None
    seed: int = 0
    tree_packing: bool = False
    objective: Objective = "title"
    negatives: NegativeSampling | None = None
    compares_titles: bool = False
    title_normalizer: Normalizer = "vocabulary"

    def __post_init__(self) -> None:
        check_layout(self.layout)
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {', '.join(map(repr, OBJECTIVES))}, got {self.objective!r}.")
        if self.title_normalizer not in NORMALIZERS:
            raise ValueError(
                f"`title_normalizer` must be one of {', '.join(map(repr, NORMALIZERS))}, got "
                f"{self.title_normalizer!r}."
            )
        if self.negatives is not None:
            self.negatives.check(len(self.processor.catalog))

    def __call__(self, rows: Sequence[AnyRow]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows (`Sequence`):
                Each entry is a [`Row`], a [`ScheduledRow`] or a [`FillerRow`]. Filler rows get no labels.

        Returns:
            `dict[str, torch.Tensor]`: see [`pad_histories`] and, for `tree_packing`, [`pack_histories`]; if items are
            predicted, also [`all_candidates`], [`draw_candidates`] and [`candidate_features`]; if titles are predicted
            among the catalog's, also [`choice_tensors`].

        Raises:
            ValueError: If a row's targets do not ascend, lie `max_history` or more apart, have no earlier item or lie
                outside its items, or a history is longer than `max_length`.
            KeyError: If the catalog lacks an item.
        """
        histories = self.encode_rows(rows)
        if self.tree_packing:
            batch = pack_histories(histories)
        else:
            batch = pad_histories(histories, self.processor.prompt.pad_id)
        if "item_targets" in batch:
            batch |= self._candidates(rows, histories)
        if self._predicts_choices:
            batch |= choice_tensors(self.processor.trie, histories, batch["shift_labels"])
        self._add_twins(batch, rows, histories)
        return batch

    def _add_twins(
        self, batch: dict[str, torch.Tensor], rows: Sequence[AnyRow], histories: Sequence[EncodedHistory]
    ) -> None:
        """Adds to a batch what the trainer needs to know of twins, if there are any."""

    @property
    def _predicts_choices(self) -> bool:
        return self.title_normalizer == "catalog" and self.objective != "item"

    def _candidates(self, rows: Sequence[AnyRow], histories: Sequence[EncodedHistory]) -> dict[str, torch.Tensor]:
        # Outside training, the loss is a full softmax.
        if self.negatives is None or not isinstance(rows[0], ScheduledRow):
            candidates = all_candidates(self.processor)
        else:
            targets = np.concatenate([history.item_targets for history in histories])
            newest = np.concatenate([history.items[-1:] for history in histories])
            seed = (self.seed, rows[0].step, self.processor.title_tokens.checksum(newest))
            candidates = draw_candidates(self.processor, self.negatives, targets, seed)
        title_neighbors = self.processor.title_neighbors if self.compares_titles else None
        items = candidates["candidate_items"][0].numpy()
        return {**candidates, **candidate_features(histories, items, title_neighbors)}

    def encode_rows(self, rows: Sequence[AnyRow]) -> list[EncodedHistory]:
        """Returns the encoded histories of `rows`, in order, without padding or packing them."""
        return [history for row in rows for history in self._encode_row(row, self.layout)]

    def row_lengths(self, dataset: Dataset) -> np.ndarray:
        """
        Counts, for each row, the positions that the encoded history of its last target takes.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows.

        Returns:
            `numpy.ndarray` of shape `(num_rows,)`, int64.
        """
        return row_lengths(dataset, self.processor, self.layout)

    def _encode_row(self, any_row: AnyRow, layout: Layout | None) -> Iterator[EncodedHistory]:
        row = any_row.row if isinstance(any_row, ScheduledRow | FillerRow) else any_row
        step = any_row.step if isinstance(any_row, ScheduledRow) else 0
        processor = self.processor
        indices = processor.catalog.indices_of(row["item_ids"])
        timestamps = _timestamps(row, processor, layout) if processor.reads_timestamps(layout) else None
        targets = row["target_positions"]
        if len(targets) == 0:
            return
        check_targets(row, processor.max_history)
        window_start = max(0, targets[0] - processor.max_history)
        seed = (self.seed, step, processor.title_tokens.checksum(indices[window_start : targets[0]]))
        is_own_layout = layout is self.layout  # pre-training sets its own
        used = processor.layout if layout is None else layout
        if isinstance(used, BudgetLayout) and isinstance(any_row, ScheduledRow):
            layout = used = used.drawn(seed)
        is_filler = isinstance(any_row, FillerRow)
        is_one_sequence = is_append_only(used)
        if isinstance(used, BudgetLayout):
            is_one_sequence = used.keeps_item_patches(targets[-1] - window_start, processor.separate_patches)
        shares_history = self.objective == "item" and is_one_sequence
        groups = [targets] if shares_history else [[position] for position in targets]
        choices: Sequence[np.ndarray | None] = [None] * len(groups)
        if self._predicts_choices and not is_filler:
            choices = choices_of(processor.trie, indices[targets])
        for group, target_choices in zip(groups, choices, strict=True):
            end = group[-1]
            history = processor.encode(
                indices[:end],
                None if is_filler or self.objective == "item" else indices[end],
                layout=layout,
                seed=seed,
                max_history=end - window_start,
                timestamps=None if timestamps is None else timestamps[:end],
            )
            if target_choices is not None:
                history = with_choices(history, processor.trie, target_choices)
            if self.objective != "title":
                item_targets = np.full(len(group), IGNORED_LABEL) if is_filler else indices[group]
                history = self._with_item_targets(history, np.asarray(group) - window_start, item_targets)
            if self.max_length is not None and len(history.input_ids) > self.max_length:
                shorter_rows = f" or `targets_per_row` (this row has {len(targets)})" if len(targets) > 1 else ""
                other_layout = f", or choose a layout that compresses more than {used}"
                raise ValueError(
                    f"A history of user {row.get('user_id')} takes {len(history.input_ids)} tokens, but the model "
                    f"reads at most {self.max_length}. Lower `max_history` (now {processor.max_history})"
                    f"{shorter_rows}{other_layout if is_own_layout else ''}."
                )
            yield history

    def _with_item_targets(
        self, history: EncodedHistory, items_before: np.ndarray, targets: np.ndarray
    ) -> EncodedHistory:
        """Adds item targets to a history. Without a title to predict, the history then ends with its newest item."""
        history = replace(history, item_targets=targets, items_before=items_before)
        if (history.item_positions < 0).any():
            raise ValueError(
                f"`objective={self.objective!r}` predicts an item where the item before it ends, but the layout "
                f"{self.layout or self.processor.layout} leaves that item out. Choose a layout that keeps the newest "
                "items."
            )
        if self.objective == "item":
            input_ids = history.input_ids[: history.history_end + 1]
            history = replace(history, input_ids=input_ids, prompt_length=len(input_ids))
        return history


@dataclass(frozen=True)
class PatchPretrainDataCollator(PatchDataCollator):
    """
    Makes a batch for the paper's patch pre-training, which holds each history twice: first as text, then with items
    compressed at random.

    The progress of a [`ScheduledRow`] is the probability of compression. Other rows, as in evaluation, are encoded
    once, in the fixed layout.

    Args:
        twin (`"compressed"` or `"dropped"`, *optional*, defaults to `"compressed"`):
            How the second history of a row differs from the first. With `"dropped"`, the items that would be
            compressed are left out, except the newest one: the control "Dropout" of the paper's Table 4. It needs
            `objective="title"`.
        distills (`bool`, *optional*, defaults to `False`):
            Whether the batch says which labels the text twins predict, so that the other twins learn from them
            (`distillation_weight` of [`PatchPretrainConfig`]). It needs an objective with titles.
    """

    twin: Twin = "compressed"
    distills: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.twin not in _TWIN_LAYOUTS:
            raise ValueError(f"`twin` must be one of {', '.join(map(repr, _TWIN_LAYOUTS))}, got {self.twin!r}.")
        if self.twin == "dropped" and self.objective != "title":
            raise ValueError(
                f"`objective={self.objective!r}` predicts an item where the item before it ends, but "
                "`twin='dropped'` leaves items out. Use `objective='title'`, or `twin='compressed'`."
            )
        if self.distills and self.objective == "item":
            raise ValueError(
                "`distills=True` needs titles, which twins predict token by token, but `objective='item'` has none. "
                "Use `objective='title'` or 'both'."
            )

    def _add_twins(
        self, batch: dict[str, torch.Tensor], rows: Sequence[AnyRow], histories: Sequence[EncodedHistory]
    ) -> None:
        """
        Adds `shift_teachers` of shape `(B, S)`, int64, to a batch for training: 1 for a label that a text twin
        predicts, 0 for one that the other twin predicts, and -100 for padding.
        """
        if not self.distills or not isinstance(rows[0], ScheduledRow):
            return
        is_teacher = torch.arange(len(histories)) % 2 == 0  # text twins come first, and twins have the same labels
        num_labels = torch.tensor([len(history.next_tokens) for history in histories])
        labels = batch["shift_labels"]
        batch["shift_teachers"] = torch.full_like(labels, IGNORED_LABEL)
        batch["shift_teachers"][labels != IGNORED_LABEL] = is_teacher.repeat_interleave(num_labels).long()

    def row_lengths(self, dataset: Dataset) -> np.ndarray:
        """Counts as [`PatchDataCollator`] does, for the text twin, which is the longer one."""
        return row_lengths(dataset, self.processor, TextLayout())

    def encode_rows(self, rows: Sequence[AnyRow]) -> list[EncodedHistory]:
        """Returns the encoded twins of `rows`, text first, without padding or packing them."""
        histories: list[EncodedHistory] = []
        for row in rows:
            if not isinstance(row, ScheduledRow):
                histories.extend(self._encode_row(row, self.layout))
                continue
            text = self._encode_row(row, TextLayout())
            shorter = self._encode_row(row, _TWIN_LAYOUTS[self.twin](row.progress))
            histories.extend(twin for twins in zip(text, shorter, strict=True) for twin in twins)
        return histories


def _timestamps(row: Row | Mapping[str, Any], processor: PatchRecProcessor, layout: Layout | None) -> np.ndarray:
    if row.get("timestamps") is None:
        raise processor.missing_timestamps(f"the row of user {row.get('user_id')} has no `timestamps`", layout)
    return np.asarray(row["timestamps"])
