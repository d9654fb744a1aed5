"""The methods of each table and figure of the paper, and of this library's own ablations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from patchrec_hf import DropLayout, ItemPatchLayout, Layout, SessionPatchLayout, TextLayout


StageName = Literal["pretrain", "dropout", "finetune", "items"]
PRETRAINED: tuple[StageName, ...] = ("pretrain", "finetune")
ALL_ITEMS = "all"


@dataclass(frozen=True)
class LLMMethod:
    """
    A method that trains an LLM.

    Args:
        layout ([`Layout`]):
            Layout of fine-tuning and evaluation.
        stages (`tuple[str, ...]`):
            The stages of training, in order: `"pretrain"` (section 3.3.1), `"dropout"` (pre-training whose second twin
            lacks items instead of compressing them, section 4.5.2), `"finetune"` (section 3.3.2), and `"items"`
            (fine-tuning by [`ALL_PATCH_PRESET`], which predicts items instead of titles).
        max_history (`int` or `"all"`, *optional*):
            Items per history; the scale's number if not given, `"all"` for the longest history of the data.
        tokens_of (`str`, *optional*):
            A method. Histories then have as many items as fit into that method's mean number of tokens.
        at_equal_time (`bool`):
            Whether the method trains for the same time as [`TIME_REFERENCE`], instead of on the same number of
            examples.
        min_interactions (`int`, *optional*):
            Only users with more interactions are ranked.
        title_normalizer (`"vocabulary"` or `"catalog"`, *optional*):
            Among which tokens a title's token is predicted; as the scale says if not given.
        has_fusion (`bool`):
            Whether the trained model is joined with counts, by [`fit_fusion`].
    """

    layout: Layout
    stages: tuple[StageName, ...] = PRETRAINED
    max_history: int | Literal["all"] | None = None
    tokens_of: str | None = None
    at_equal_time: bool = False
    min_interactions: int | None = None
    title_normalizer: Literal["vocabulary", "catalog"] | None = None
    has_fusion: bool = False

    @property
    def predicts_items(self) -> bool:
        """Whether the model learns items instead of titles, by a recipe with a budget of its own."""
        return self.stages == ("items",)


@dataclass(frozen=True)
class Plan:
    """
    The methods of a table, a figure or an ablation.

    Args:
        title (`str`):
            Such as `"Table 2"`.
        about (`str`):
            One line about it, with the paper's section.
        methods (`tuple[str, ...]`):
            In the order of the table.
        reference (`str`):
            The method that the others are compared with.
        paper (`str`, *optional*):
            The numbers that the paper's text gives for a figure.
        axis (`str`):
            The plot's horizontal axis: `"HR@20"` for bars, else `"items"`, `"tokens"`, `"compression ratio"` or
            `"time"`.
    """

    title: str
    about: str
    methods: tuple[str, ...]
    reference: str
    paper: str | None = None
    axis: Literal["HR@20", "items", "tokens", "compression ratio", "time"] = "HR@20"


TIME_REFERENCE = "PatchRec-I"
"""Methods at equal time train for the same time as this one."""

PAPER_BASELINES = ("GRU4Rec", "Caser", "SASRec", "LinRec", "Mamba4Rec", "MoRec")
BAR = "CoVisitation"
"""The untrained baseline that every method is compared with."""
RECENT_POPULARITY = "RecentPopularity"
BASELINES = ("Popularity", RECENT_POPULARITY, BAR, "Transitions", *PAPER_BASELINES)
FUSION = "Fusion"
VOCABULARY = "PatchRec-I (vocabulary)"
"""PatchRec-I with the paper's loss, for scales that have another one."""
ALL_PATCH, ALL_PATCH_FUSION = "All-patch", "All-patch + fusion"
_AT_EQUAL_TIME = ("Vanilla", "PatchRec-S", "PatchRec-I without pre-training", "PatchRec-S without pre-training")
LONG_HISTORIES = ("Vanilla (long histories)", "PatchRec-I (long histories)", "PatchRec-S (long histories)")

TABLES, FIGURES = (2, 3, 4), (2, 5, 6, 7, 8)
ABLATIONS = ("equal-time", "dropped-items", "text-items", "sessions")


def llm_methods(session_group_size: int, max_history: int) -> dict[str, LLMMethod]:
    """
    Returns all methods that train an LLM, by name.

    Args:
        session_group_size (`int`):
            Items per session.
        max_history (`int`):
            The scale's items per history. The paper's is 100; at other scales, all numbers of items that the paper
            derives from it shrink alike.
    """
    item, session, text = ItemPatchLayout(), SessionPatchLayout(session_group_size), TextLayout()
    methods = {
        "Vanilla": LLMMethod(text, ("finetune",)),
        "PatchRec-I": LLMMethod(item),
        "PatchRec-S": LLMMethod(session),
        "PatchRec-I without pre-training": LLMMethod(item, ("finetune",)),
        "PatchRec-S without pre-training": LLMMethod(session, ("finetune",)),
        "Dropout": LLMMethod(text, ("dropout",)),
        "Patch Pre-training": LLMMethod(item, ("pretrain",)),
        VOCABULARY: LLMMethod(item, title_normalizer="vocabulary"),
        ALL_PATCH: LLMMethod(ItemPatchLayout(0), ("items",)),
        ALL_PATCH_FUSION: LLMMethod(ItemPatchLayout(0), ("items",), has_fusion=True),
    }
    methods |= {f"Drop {share:.0%}": LLMMethod(DropLayout(share), ("finetune",)) for share in (0.5, 0.9)}
    methods |= {f"{name} (equal time)": replace(methods[name], at_equal_time=True) for name in _AT_EQUAL_TIME}
    for length in _lengths(max_history)[:-1]:
        methods |= {
            f"{name} ({length} items)": replace(methods[name], max_history=length)
            for name in ("Vanilla", "PatchRec-I")
        }
    counts = {*(1, 2, 10), *_text_counts(max_history)} - {item.num_text_items}
    methods |= {f"PatchRec-I ({count} as text)": LLMMethod(ItemPatchLayout(count)) for count in sorted(counts)}
    for name in _item_methods(max_history):
        methods[_vanilla_like(name)] = LLMMethod(text, ("finetune",), tokens_of=name)
    methods |= {
        f"PatchRec-S (groups of {size})": LLMMethod(SessionPatchLayout(size))
        for size in (2, 5, 10, 20)
        if size != session_group_size
    }
    few = max_history // 5
    settings = ((text, ("finetune",), 3 * max_history // 2), (ItemPatchLayout(few), PRETRAINED, 7 * max_history // 2))
    settings = (*settings, (SessionPatchLayout(few), PRETRAINED, ALL_ITEMS))
    for name, (layout, stages, length) in zip(LONG_HISTORIES, settings, strict=True):
        methods[name] = LLMMethod(layout, stages, length, min_interactions=5 * max_history)
    return methods


def find_plan(
    table: int | None, figure: int | None, ablation: str | None, max_history: int, session_group_size: int
) -> Plan:
    """
    Returns the plan of a table, a figure or an ablation.

    Args:
        table, figure (`int`, *optional*):
            A number of [`TABLES`] or [`FIGURES`].
        ablation (`str`, *optional*):
            A name of [`ABLATIONS`].
        max_history, session_group_size:
            See [`llm_methods`].

    Raises:
        ValueError: If not exactly one of the first three is given, or there is no such table, figure or ablation.
    """
    given = {"table": table, "figure": figure, "ablation": ablation}
    chosen = [(kind, value) for kind, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ValueError("Pass exactly one of --table, --figure and --ablation.")
    (kind, value), known = chosen[0], {"table": TABLES, "figure": FIGURES, "ablation": ABLATIONS}
    if value not in known[kind]:
        choices = " or ".join(f"--{name} {', '.join(map(str, values))}" for name, values in known.items())
        raise ValueError(f"There is no {kind} {value} here. Choose {choices}.")
    make: Callable[[int, int], Plan] = _PLANS[kind, value]
    return make(max_history, session_group_size)


def _table_2(max_history: int, session_group_size: int) -> Plan:
    return Plan(
        "Table 2",
        "All methods (section 4.2). The paper's table has no Popularity, RecentPopularity, CoVisitation, Transitions, "
        "PatchRec-I (vocabulary), All-patch and fusions.",
        (*BASELINES, "Vanilla", "PatchRec-I", VOCABULARY, "PatchRec-S", FUSION, ALL_PATCH, ALL_PATCH_FUSION),
        "PatchRec-I",
    )


def _table_3(max_history: int, session_group_size: int) -> Plan:
    names = ("PatchRec-I", "PatchRec-S")
    return Plan(
        "Table 3",
        "With and without patch pre-training (section 4.5.1).",
        tuple(method for name in names for method in (f"{name} without pre-training", name)),
        "PatchRec-I",
    )


def _table_4(max_history: int, session_group_size: int) -> Plan:
    return Plan(
        "Table 4",
        "Patch pre-training alone, against text, and against pre-training that leaves items out (section 4.5.2).",
        ("Vanilla", "Dropout", "Patch Pre-training"),
        "Vanilla",
    )


def _figure_5(max_history: int, session_group_size: int) -> Plan:
    suffixes = [*(f" ({length} items)" for length in _lengths(max_history)[:-1]), ""]
    return Plan(
        "Figure 5",
        "The same items in both histories (section 4.3.1).",
        tuple(f"{name}{suffix}" for name in ("Vanilla", "PatchRec-I") for suffix in suffixes),
        "Vanilla",
        "PatchRec-I is above Vanilla by more than 5% on MovieLens-1M and 30% on Goodreads, and comparable on "
        "MovieLens-100K.",
        axis="items",
    )


def _figure_6(max_history: int, session_group_size: int) -> Plan:
    names = _item_methods(max_history)
    return Plan(
        "Figure 6",
        f"PatchRec-I on {max_history} items, of which more and more are text, and Vanilla on as many tokens "
        "(section 4.3.2).",
        tuple(method for name in names for method in (_vanilla_like(name), name)),
        "PatchRec-I",
        "PatchRec-I is above Vanilla by 7% to 13% on MovieLens-1M, 20% to 72% on Goodreads, and 2% to 19% on "
        "MovieLens-100K.",
        axis="tokens",
    )


def _figure_7(max_history: int, session_group_size: int) -> Plan:
    return Plan(
        "Figure 7",
        f"Compression ratio and HR@20, all on {max_history} items (section 4.4).",
        ("Vanilla", *_item_methods(max_history), *_session_methods(session_group_size)),
        "Vanilla",
        axis="compression ratio",
    )


def _figure_2(max_history: int, session_group_size: int) -> Plan:
    # The paper's Figure 2 shows for MovieLens-1M what Figure 7 shows for the other data sets.
    return replace(_figure_7(max_history, session_group_size), title="Figure 2")


def _figure_8(max_history: int, session_group_size: int) -> Plan:
    return Plan(
        "Figure 8",
        f"Users with more than {5 * max_history} interactions (section 4.6): Vanilla reads {3 * max_history // 2} "
        f"items, PatchRec-I {7 * max_history // 2}, of which {max_history // 5} are text, and PatchRec-S all, in "
        f"groups of {max_history // 5}.",
        LONG_HISTORIES,
        LONG_HISTORIES[0],
        "On MovieLens-1M, PatchRec-I is above Vanilla by 25.11% in 12.99% of the time, and PatchRec-S by 20.31%, "
        "13.09 times as fast.",
        axis="time",
    )


def _equal_time(max_history: int, session_group_size: int) -> Plan:
    methods = ("PatchRec-I", *_AT_EQUAL_TIME, *(f"{name} (equal time)" for name in _AT_EQUAL_TIME))
    return Plan("Ablation equal-time", "Methods that train as long as PatchRec-I.", methods, "PatchRec-I")


def _dropped_items(max_history: int, session_group_size: int) -> Plan:
    methods = ("PatchRec-I", "Vanilla", "Drop 50%", "Drop 90%")
    return Plan(
        "Ablation dropped-items", "Fine-tuning and ranking without a share of the items.", methods, "PatchRec-I"
    )


def _text_items(max_history: int, session_group_size: int) -> Plan:
    counts = (1, 2, ItemPatchLayout().num_text_items, 10)
    methods = tuple(_item_method(count) for count in counts)
    return Plan("Ablation text-items", "The number of latest items that stay text.", methods, "PatchRec-I")


def _sessions(max_history: int, session_group_size: int) -> Plan:
    methods = ("PatchRec-I", *_session_methods(session_group_size))
    return Plan("Ablation sessions", "The number of items of a session.", methods, "PatchRec-I")


_PLANS: dict[tuple[str, int | str], Callable[[int, int], Plan]] = {
    ("table", 2): _table_2,
    ("table", 3): _table_3,
    ("table", 4): _table_4,
    ("figure", 2): _figure_2,
    ("figure", 5): _figure_5,
    ("figure", 6): _figure_6,
    ("figure", 7): _figure_7,
    ("figure", 8): _figure_8,
    ("ablation", "equal-time"): _equal_time,
    ("ablation", "dropped-items"): _dropped_items,
    ("ablation", "text-items"): _text_items,
    ("ablation", "sessions"): _sessions,
}


def _lengths(max_history: int) -> list[int]:
    """Numbers of items in Figure 5: 20, 40, 60, 80 and 100 for histories of 100 items."""
    return [round(share * max_history) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]


def _text_counts(max_history: int) -> list[int]:
    """Numbers of items that stay text in Figures 2, 6 and 7. The paper does not list them."""
    default = ItemPatchLayout().num_text_items
    return sorted({default, *(round(share * max_history) for share in (0.25, 0.5, 0.75))})


def _item_method(count: int) -> str:
    return "PatchRec-I" if count == ItemPatchLayout().num_text_items else f"PatchRec-I ({count} as text)"


def _item_methods(max_history: int) -> list[str]:
    return [_item_method(count) for count in _text_counts(max_history)]


def _session_methods(session_group_size: int) -> list[str]:
    sizes = sorted({2, 5, 10, 20, session_group_size})
    return ["PatchRec-S" if size == session_group_size else f"PatchRec-S (groups of {size})" for size in sizes]


def _vanilla_like(name: str) -> str:
    """Returns the name of Vanilla on as many tokens as another method."""
    inner = name.replace(" (", ", ").replace(")", "")
    return f"Vanilla (tokens of {inner})"
