"""Protocols: decide when a ranked title counts as the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EvaluationProtocol:
    """
    Rules that match a ranked list with its target. The defaults are strict. With all four inverted, they are the rules
    of the released code (`eval.py` and `fti_eval.py`).

    Args:
        complete_prefixes (`bool`, *optional*, defaults to `True`):
            Whether a title that begins another title can be generated. The released code gives such a title no
            end-of-title edge.
        credit_prefixes (`bool`, *optional*, defaults to `False`):
            Whether a title counts as the target if it begins with the target's letters: "Emmanuel" for "Emma".
        take_last_match (`bool`, *optional*, defaults to `False`):
            Whether the last of several matches gives the rank, instead of the first.
        credit_items (`bool`, *optional*, defaults to `True`):
            Whether items with the same title are ranked one by one, and share the mean of their ranks. If not, the
            list holds each title once, and a title counts for all of its items. `credit_prefixes` and
            `take_last_match` need `credit_items=False`.

    Raises:
        ValueError: If `credit_prefixes` or `take_last_match` is set together with `credit_items`.
    """

    complete_prefixes: bool = True
    credit_prefixes: bool = False
    take_last_match: bool = False
    credit_items: bool = True

    def __post_init__(self) -> None:
        if self.credit_items and (self.credit_prefixes or self.take_last_match):
            raise ValueError(
                "`credit_prefixes` and `take_last_match` match lists of titles, so they need `credit_items=False`."
            )

    def ranks(self, titles: Sequence[str], items: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """
        Finds the rank of each target in its list.

        Args:
            titles (`Sequence[str]`):
                The catalog's titles.
            items (`numpy.ndarray` of shape `(B, k)`, int64):
                Catalog indices, best first; -1 after the end of a shorter list.
            targets (`numpy.ndarray` of shape `(B,)`, int64):
                Catalog indices.

        Returns:
            `numpy.ndarray` of shape `(B,)`, float64: 1 is first, infinity is not in the list.
        """
        titles_and_none = np.array([*titles, ""], dtype=object)  # index -1: no item
        ranked_titles, target_titles = titles_and_none[items], titles_and_none[targets][:, None]
        if self.credit_prefixes:
            is_match = np.frompyfunc(str.startswith, 2, 1)(ranked_titles, target_titles).astype(bool)
        else:
            is_match = (ranked_titles == target_titles).astype(bool)
        if self.take_last_match:
            ranks = items.shape[1] - is_match[:, ::-1].argmax(axis=1)
        else:
            ranks = 1 + is_match.argmax(axis=1)
        return np.where(is_match.any(axis=1), ranks, np.inf)


STRICT_PROTOCOL = EvaluationProtocol()
"""Every title can be generated, and only the target's title counts as the target."""

RELEASE_MATCHING = EvaluationProtocol(
    complete_prefixes=False, credit_prefixes=True, take_last_match=True, credit_items=False
)
"""The matching rules of the released code. They can be used with any method that ranks titles."""

PROTOCOLS = {"strict": STRICT_PROTOCOL, "release-matching": RELEASE_MATCHING}
"""The rules by name. The name `"release"` of [`evaluate_model`] means more than rules: the release's decoding too."""


def find_protocol(protocol: EvaluationProtocol | str) -> EvaluationProtocol:
    """
    Finds a protocol by its name.

    Args:
        protocol ([`EvaluationProtocol`], `"strict"` or `"release-matching"`):
            A name, or a protocol, which is returned unchanged.

    Raises:
        ValueError: If no protocol has that name.
    """
    if isinstance(protocol, EvaluationProtocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"The rules must be one of {', '.join(map(repr, PROTOCOLS))}, got {protocol!r}.")
    return PROTOCOLS[protocol]
