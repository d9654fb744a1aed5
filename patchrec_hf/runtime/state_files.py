"""State files: user states in one safetensors file, with the fingerprint of the checkpoint that read them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .fingerprints import SHOWN
from .history_cache import HistoryCache, KeysAndValues
from .history_plans import HistoryPlan
from .hub_files import FORMAT_VERSION, check_format_version
from .layouts import Layout
from .modeling import PatchRecForCausalLM
from .processing import PatchRecProcessor
from .read_histories import ReadHistories
from .saved_layouts import layout_from_dict, layout_to_dict
from .title_tokens import TitleTokens


@dataclass(frozen=True, eq=False)
class SavedState:
    """
    A saved state as far as it can be read without a model.

    Args:
        item_ids (`list`):
            The ids of the items, oldest first: a list for one user, a list of them for a batch.
        timestamps (`list`, *optional*):
            When each item was chosen, in seconds, in the form of `item_ids`.
        block_size (`int`):
            See [`PatchRecommender.start`].
        is_single (`bool`):
            Whether the state was one user's instead of a batch.
        layout (`Mapping[str, Any]`):
            The layout, as [`layout_to_dict`] writes it.
        fingerprint (`Mapping[str, str]`):
            See [`checkpoint_fingerprint`].
    """

    item_ids: list[Any]
    timestamps: list[Any] | None
    block_size: int
    is_single: bool
    layout: Mapping[str, Any]
    fingerprint: Mapping[str, str]


def save_histories(
    path: str | os.PathLike,
    histories: ReadHistories,
    layout: Layout,
    block_size: int,
    is_single: bool,
    fingerprint: Mapping[str, str],
) -> None:
    """
    Writes read histories as one file. Keys and values are saved without padding, user after user.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        histories ([`ReadHistories`]):
            The histories.
        layout, block_size, is_single, fingerprint:
            See [`SavedState`].
    """
    histories.prompts()  # reads what a failed append has left out
    plans, processor = histories.plans, histories.processor
    lengths = torch.tensor([plan.length for plan in plans])
    tensors = {"num_positions": lengths, "states": histories.states.cpu()}
    for number, buffers in enumerate(histories.cache.layers):
        if buffers is None:
            continue
        for name, buffer in zip(("keys", "values"), buffers, strict=True):
            is_held = (torch.arange(buffer.shape[2]) < lengths[:, None]).to(buffer.device)
            tensors[f"{name}.{number}"] = buffer.transpose(1, 2)[is_held].cpu()
    items = np.concatenate([plan.items for plan in plans])
    times = [plan.timestamps for plan in plans if plan.timestamps is not None]
    facts = {
        "item_ids": [processor.catalog.item_ids[plan.items].tolist() for plan in plans],
        "timestamps": [array.tolist() for array in times] if times else None,
        "seeds": [plan.seed for plan in plans],
        "title_checksums": _title_checksums(processor.title_tokens, items).tolist(),
        "layout": layout_to_dict(layout),
        "block_size": block_size,
        "is_single": is_single,
        "fingerprint": dict(fingerprint),
    }
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory. Name the file to write, such as {target / 'ada.safetensors'}."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    save_file(tensors, part, {"format_version": str(FORMAT_VERSION), "user_state": json.dumps(facts)})
    os.replace(part, target)


def read_saved(path: str | os.PathLike) -> SavedState:
    """
    Reads a saved state without its keys and values.

    Raises:
        ValueError: If the file holds no state, or a newer version of the library wrote it.
    """
    return _without_arrays(_read_facts(path))


def load_histories(
    path: str | os.PathLike,
    model: PatchRecForCausalLM,
    processor: PatchRecProcessor,
    fingerprint: Mapping[str, str],
) -> tuple[ReadHistories, Layout, SavedState]:
    """
    Reads what [`save_histories`] wrote.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        model, processor:
            A model and its processor.
        fingerprint (`Mapping[str, str]`):
            Their fingerprint.

    Returns:
        `tuple[ReadHistories, Layout, SavedState]`

    Raises:
        ValueError: If the state does not fit the model and the processor, or the file holds no state.
    """
    facts = _read_facts(path)
    saved = _without_arrays(facts)
    differing = [name for name in fingerprint if saved.fingerprint.get(name) != fingerprint[name]]
    if differing:
        name = differing[0]
        shown = f" ({saved.fingerprint.get(name)} and {fingerprint[name]})" if name in SHOWN else ""
        raise ValueError(f"{path} holds a state of another checkpoint: {name} differ{shown}. {_ANEW}")
    lists = facts["item_ids"]
    if max(map(len, lists)) > processor.max_history:
        raise ValueError(
            f"{path} holds a history of {max(map(len, lists))} items, but the processor's `max_history` is "
            f"{processor.max_history}. {_ANEW}"
        )
    if saved.block_size >= processor.max_history:
        raise ValueError(
            f"{path} holds histories whose oldest items leave in blocks of {saved.block_size} items, but the "
            f"processor's `max_history` is {processor.max_history}. {_ANEW}"
        )
    items = _find(path, lists, facts["title_checksums"], processor)
    is_own = saved.layout == json.loads(json.dumps(layout_to_dict(processor.layout)))
    layout = processor.layout if is_own else layout_from_dict(dict(saved.layout))
    times = [None] * len(lists) if facts["timestamps"] is None else facts["timestamps"]
    plans = [
        HistoryPlan.make(processor, layout, indices, None if moments is None else np.array(moments, np.int64), seed)
        for indices, moments, seed in zip(items, times, facts["seeds"], strict=True)
    ]
    with safe_open(path, framework="pt") as file:
        lengths = file.get_tensor("num_positions")
        if lengths.tolist() != [plan.length for plan in plans]:
            raise ValueError(f"{path} holds a state that the layout {layout} now lays out differently. {_ANEW}")
        stored = set(file.keys())
        layers: list[KeysAndValues | None] = []
        for number in range(model.config.decoder_config.num_hidden_layers):
            if f"keys.{number}" not in stored:
                layers.append(None)
                continue
            keys, values = (_padded(file.get_tensor(f"{kind}.{number}"), lengths) for kind in ("keys", "values"))
            layers.append((keys.to(model.device), values.to(model.device)))
        states = file.get_tensor("states").to(model.device)
    return ReadHistories(model, processor, HistoryCache(len(plans), layers), plans, states), layout, saved


_ANEW = (
    "A state continues only with what has read it. Start anew: `saved = UserState.read_saved(path)`, then "
    "`recommender.start(saved.item_ids, saved.timestamps)`."
)


def _without_arrays(facts: Mapping[str, Any]) -> SavedState:
    item_ids, timestamps = facts["item_ids"], facts["timestamps"]
    if facts["is_single"]:
        item_ids, timestamps = item_ids[0], None if timestamps is None else timestamps[0]
    return SavedState(
        item_ids, timestamps, facts["block_size"], facts["is_single"], facts["layout"], facts["fingerprint"]
    )


def _read_facts(path: str | os.PathLike) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}. Name a file that `UserState.save` wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} holds no user state ({error}). `UserState.save` writes one.") from error
    check_format_version(int(texts.get("format_version", 0)), Path(path).name)
    if "user_state" not in texts:
        raise ValueError(f"{path} holds no user state. `UserState.save` writes one.")
    facts: dict[str, Any] = json.loads(texts["user_state"])
    return facts


def _find(
    path: str | os.PathLike, lists: list[list[Any]], checksums: list[int], processor: PatchRecProcessor
) -> list[np.ndarray]:
    """Returns the catalog indices of histories whose titles are as they were."""
    catalog = processor.catalog
    flat = [item_id for item_ids in lists for item_id in item_ids]
    try:
        indices = catalog.indices_of(flat)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds a state of another catalog. {error.args[0]} {_LEAVE_OUT}") from error
    is_other = _title_checksums(processor.title_tokens, indices) != np.array(checksums)
    if is_other.any():
        place = int(np.flatnonzero(is_other)[0])
        raise ValueError(
            f"{path} holds a state of another catalog: item {flat[place]} had another title than "
            f"{catalog.titles[indices[place]]!r} when it was read. {_ANEW}"
        )
    return np.split(indices, np.cumsum([len(item_ids) for item_ids in lists])[:-1])


_LEAVE_OUT = (
    "To start anew without such items, read the others from `UserState.read_saved(path).item_ids`, and call "
    "`recommender.start`."
)


def _title_checksums(titles: TitleTokens, items: np.ndarray) -> np.ndarray:
    distinct, inverse = np.unique(items, return_inverse=True)
    return np.array([zlib.crc32(titles[item].tobytes()) for item in distinct.tolist()])[inverse]


def _padded(held: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Returns columns of shape `(total, heads, D)`, user after user, in shape `(B, heads, K, D)`."""
    is_held = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = held.new_zeros(*is_held.shape, *held.shape[1:])
    padded[is_held] = held
    return padded.transpose(1, 2).contiguous()
