"""The methods of each table and figure of the paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patchrec_hf import DropLayout, ItemPatchLayout, SessionPatchLayout, TextLayout


@dataclass(frozen=True)
class LLMMethod:
    """
    A method that trains an LLM.

    Args:
        layout ([`Layout`]):
            Layout of fine-tuning and evaluation.
        is_pretrained (`bool`):
            Whether patch pre-training comes first.
        max_history (`int`, *optional*):
            Items per history; the scale's number if not given.
        at_equal_time (`bool`):
            Whether the method trains for the same time as the reference, instead of on the same number of examples.
    """

    layout: TextLayout | ItemPatchLayout | SessionPatchLayout | DropLayout
    is_pretrained: bool
    max_history: int | None = None
    at_equal_time: bool = False


REFERENCE = "PatchRec-I"
"""The method that all others are compared with. Methods at equal time train for the same time as this one."""

BASELINES = ("Popularity", "CoVisitation", "GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec")
FUSION = "Fusion"
LENGTHS = (0.2, 0.5)
"""Lengths of the shorter histories in figures 5 and 6, as shares of the scale's `max_history`."""


def llm_methods(session_group_size: int, max_history: int) -> dict[str, LLMMethod]:
    """
    Returns all methods that train an LLM, by name.

    Args:
        session_group_size (`int`):
            Items per session.
        max_history (`int`):
            The scale's items per history.
    """
    item, session = ItemPatchLayout(), SessionPatchLayout(session_group_size)
    methods = {
        REFERENCE: LLMMethod(item, True),
        "Vanilla": LLMMethod(TextLayout(), False),
        "PatchRec-S": LLMMethod(session, True),
        "PatchRec-I without pre-training": LLMMethod(item, False),
        "PatchRec-S without pre-training": LLMMethod(session, False),
    }
    methods |= {f"Drop {share:.0%}": LLMMethod(DropLayout(share), False) for share in (0.5, 0.9)}
    methods |= {f"{name} (equal time)": replace(method, at_equal_time=True) for name, method in methods.items()}
    for length in _shorter(max_history):
        methods |= {
            f"{name} ({length} items)": replace(methods[name], max_history=length)
            for name in ("Vanilla", REFERENCE, "PatchRec-S")
        }
    methods |= {f"PatchRec-I ({count} as text)": LLMMethod(ItemPatchLayout(count), True) for count in (1, 2, 10)}
    methods |= {
        f"PatchRec-S (groups of {size})": LLMMethod(SessionPatchLayout(size), True)
        for size in (2, 5, 10, 20)
        if size != session_group_size
    }
    return methods


def plan(table: int | None, figure: int | None, max_history: int, session_group_size: int) -> list[str]:
    """
    Returns the methods of a table or figure, in their order.

    Args:
        table (`int`, *optional*):
            2 (overall), 3 (without pre-training) or 4 (items left out instead of compressed).
        figure (`int`, *optional*):
            5 (metrics by history length), 6 (metrics by tokens), 7 (items that stay text) or 8 (items of a session).
        max_history, session_group_size:
            See [`llm_methods`].

    Raises:
        ValueError: If `table` and `figure` are both given or both missing, or there is no such table or figure.
    """
    by_length = [
        name
        for method in ("Vanilla", REFERENCE, "PatchRec-S")
        for name in [*(f"{method} ({length} items)" for length in _shorter(max_history)), method]
    ]
    sizes = sorted({2, 5, 10, 20, session_group_size})
    sessions = ["PatchRec-S" if size == session_group_size else f"PatchRec-S (groups of {size})" for size in sizes]
    plans = {
        ("table", 2): [
            *BASELINES,
            "Vanilla",
            REFERENCE,
            "PatchRec-S",
            "Vanilla (equal time)",
            "PatchRec-S (equal time)",
            FUSION,
        ],
        ("table", 3): [
            REFERENCE,
            "PatchRec-I without pre-training",
            "PatchRec-S",
            "PatchRec-S without pre-training",
            "PatchRec-I without pre-training (equal time)",
            "PatchRec-S without pre-training (equal time)",
        ],
        ("table", 4): [
            REFERENCE,
            "Vanilla",
            "Drop 50%",
            "Drop 90%",
            "Vanilla (equal time)",
            "Drop 50% (equal time)",
            "Drop 90% (equal time)",
        ],
        ("figure", 5): by_length,
        ("figure", 6): by_length,
        ("figure", 7): ["PatchRec-I (1 as text)", "PatchRec-I (2 as text)", REFERENCE, "PatchRec-I (10 as text)"],
        ("figure", 8): [REFERENCE, *sessions],
    }
    if (table is None) == (figure is None):
        raise ValueError("Pass exactly one of --table and --figure.")
    key = ("figure", figure) if table is None else ("table", table)
    if key not in plans:
        raise ValueError(f"There is no {key[0]} {key[1]} here. Choose --table 2, 3 or 4, or --figure 5, 6, 7 or 8.")
    return plans[key]


def _shorter(max_history: int) -> list[int]:
    return [round(share * max_history) for share in LENGTHS]
