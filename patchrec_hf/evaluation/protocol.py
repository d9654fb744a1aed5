"""Protocols: when a ranked title counts as the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EvaluationProtocol:
    """
    How a ranked list is matched with its target. The defaults are strict. All four inverted are the rules of the
    authors' released code (`eval.py` and `fti_eval.py`).

    Args:
        complete_prefixes (`bool`, *optional*, defaults to `True`):
            Whether a title that begins another can be generated. The release has no end-of-title edge for those.
        credit_prefixes (`bool`, *optional*, defaults to `False`):
            Whether a title that begins with the target's is taken for it, letter by letter: "Emmanuel" for "Emma".
        take_last_match (`bool`, *optional*, defaults to `False`):
            Whether the last of several matches gives the rank, not the first.
        credit_items (`bool`, *optional*, defaults to `True`):
            Whether items of one title are ranked one by one, and share the mean of their places. Otherwise a title
            stands in the list once, and is credited to all of its items; the two rules above need that.

    Raises:
        ValueError: If `credit_prefixes` or `take_last_match` is set, but titles are not listed once.
    """

    complete_prefixes: bool = True
    credit_prefixes: bool = False
    take_last_match: bool = False
    credit_items: bool = True

    def __post_init__(self) -> None:
        if self.credit_items and (self.credit_prefixes or self.take_last_match):
            raise ValueError(
                "`credit_prefixes` and `take_last_match` match lists of titles; they need `credit_items=False`."
            )

    def ranks(self, titles: Sequence[str], items: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """
        The rank of each target in its list.

        Args:
            titles (`Sequence[str]`):
                The catalog's titles.
            items (`numpy.ndarray` of shape `(B, k)`, int64):
                Catalog indices, best first; -1 where a list is shorter.
            targets (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices.

        Returns:
            `numpy.ndarray` of shape `(B,)`, float64: 1 is first, infinity is not in the list.
        """
        texts = np.array([*titles, ""], dtype=object)  # index -1: no item
        found, wanted = texts[items], texts[targets][:, None]
        if self.credit_prefixes:
            is_match = np.frompyfunc(str.startswith, 2, 1)(found, wanted).astype(bool)
        else:
            is_match = (found == wanted).astype(bool)
        if self.take_last_match:
            ranks = items.shape[1] - is_match[:, ::-1].argmax(axis=1)
        else:
            ranks = 1 + is_match.argmax(axis=1)
        return np.where(is_match.any(axis=1), ranks, np.inf)


STRICT_PROTOCOL = EvaluationProtocol()
"""Every title can be spelled, and only the target's own title is the target."""

RELEASE_PROTOCOL = EvaluationProtocol(
    complete_prefixes=False, credit_prefixes=True, take_last_match=True, credit_items=False
)
"""The matching rules of the authors' released code."""

PROTOCOLS = {"strict": STRICT_PROTOCOL, "release": RELEASE_PROTOCOL}


def find_protocol(protocol: EvaluationProtocol | str) -> EvaluationProtocol:
    """
    The protocol of a name.

    Args:
        protocol ([`EvaluationProtocol`], `"strict"` or `"release"`):
            A protocol is returned as it is.

    Raises:
        ValueError: If there is no protocol of that name.
    """
    if isinstance(protocol, EvaluationProtocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {', '.join(map(repr, PROTOCOLS))}, got {protocol!r}.")
    return PROTOCOLS[protocol]
