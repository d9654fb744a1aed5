"""Which methods make up each table and figure of the paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patchrec_hf import DropLayout, ItemPatchLayout, SessionPatchLayout, TextLayout


@dataclass(frozen=True)
class LLMMethod:
    """
    Args:
        layout ([`Layout`]):
            Of fine-tuning and evaluation.
        is_pretrained (`bool`):
            Whether patch pre-training comes first.
        max_history (`int`, *optional*):
            Items of a history, where that is not the scale's.
        at_equal_time (`bool`):
            Whether it trains as long as the reference does, instead of on as many examples.
    """

    layout: TextLayout | ItemPatchLayout | SessionPatchLayout | DropLayout
    is_pretrained: bool
    max_history: int | None = None
    at_equal_time: bool = False


REFERENCE = "PatchRec-I"
"""What the others are compared with: it sets the time of those that train as long."""

BASELINES = ("Popularity", "CoVisitation", "GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec")
FUSION = "Fusion"
LENGTHS = (0.2, 0.5)
"""Shorter histories of figures 5 and 6, as shares of the scale's."""


def llm_methods(session_group_size: int, max_history: int) -> dict[str, LLMMethod]:
    """
    All methods that train an LLM, by name.

    Args:
        session_group_size (`int`):
            Items of a session.
        max_history (`int`):
            Items of a history, of the scale.
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
    The methods of a table or figure, in their order.

    Args:
        table (`int`, *optional*):
            2 (overall), 3 (without pre-training) or 4 (items left out instead of compressed).
        figure (`int`, *optional*):
            5 (metrics by history length), 6 (metrics by tokens), 7 (items that stay text) or 8 (items of a session).
        max_history, session_group_size:
            See [`llm_methods`].

    Raises:
        ValueError: If exactly one of both is not given, or there is no such one.
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
            *BASELINES, "Vanilla", REFERENCE, "PatchRec-S", "Vanilla (equal time)", "PatchRec-S (equal time)", FUSION
        ],
        ("table", 3): [
            REFERENCE, "PatchRec-I without pre-training", "PatchRec-S", "PatchRec-S without pre-training",
            "PatchRec-I without pre-training (equal time)", "PatchRec-S without pre-training (equal time)",
        ],
        ("table", 4): [
            REFERENCE, "Vanilla", "Drop 50%", "Drop 90%", "Vanilla (equal time)", "Drop 50% (equal time)",
            "Drop 90% (equal time)",
        ],
        ("figure", 5): by_length,
        ("figure", 6): by_length,
        ("figure", 7): ["PatchRec-I (1 as text)", "PatchRec-I (2 as text)", REFERENCE, "PatchRec-I (10 as text)"],
        ("figure", 8): [REFERENCE, *sessions],
    }  # fmt: skip
    if (table is None) == (figure is None):
        raise ValueError("Give exactly one of --table and --figure.")
    key = ("figure", figure) if table is None else ("table", table)
    if key not in plans:
        raise ValueError(f"There is no {key[0]} {key[1]} here; choose --table 2, 3 or 4, or --figure 5, 6, 7 or 8.")
    return plans[key]


def _shorter(max_history: int) -> list[int]:
    return [round(share * max_history) for share in LENGTHS]
