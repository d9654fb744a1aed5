"""Skipped histories: results that say why nothing was recommended for a history, beside the results for others"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from .catalog import Catalog
from .moments import as_moments
from .recommendations import Recommendation
from .user_histories import as_batch, candidate_indices, split_candidates, split_histories


OnError = Literal["raise", "skip"]
ON_ERROR = get_args(OnError)
_ERRORS = (ValueError, KeyError, TypeError)
_ROW_0 = re.compile(r"\b[Rr]ow 0\b")

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class SkippedHistory(Sequence[Recommendation]):
    """
    The result for a history for which nothing can be recommended, with `on_error="skip"`: a list without
    recommendations, which says why.

    Args:
        reason (`str`):
            A sentence that says why.

    Example:
    ```python
    >>> results = recommender.recommend([[3, 14], [123456]], on_error="skip")
    >>> [result.reason for result in results if isinstance(result, SkippedHistory)]
    ```
    """

    reason: str

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        return ()[index]


def check_on_error(on_error: str) -> bool:
    """
    Returns whether histories for which nothing can be recommended are skipped.

    Args:
        on_error (`"raise"` or `"skip"`):
            Whether they are an error, or are skipped.

    Raises:
        ValueError: If it is neither of these.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
    return on_error == "skip"


def recommend_or_skip(
    recommend: Callable[..., Any],
    check_history: Callable[[list[Any]], Any],
    catalog: Catalog,
    histories: Any,
    **arguments: Any,
) -> Any:
    """
    Recommends for each history for which this is possible.

    Args:
        recommend (`Callable`):
            Takes a list of histories, and the arguments below for them. It raises `ValueError`, `KeyError` or
            `TypeError` if one of them cannot be recommended for.
        check_history (`Callable`):
            Takes the items of a history, and raises one of these errors if an item cannot be looked up.
        catalog ([`Catalog`]):
            The catalog, in which candidates of all histories are looked up first: a wrong one is no fault of a
            history, and neither is a wrong moment of all histories.
        histories (`Any`):
            One history or several, as [`PatchRecommender.recommend`] takes them.
        **arguments (`Any`):
            `candidates`, `times` and `timestamps` of [`PatchRecommender.recommend`], if it takes them.

    Returns:
        As [`PatchRecommender.recommend`] does, with a [`SkippedHistory`] in the place of a list that cannot be made.

    Raises:
        TypeError: If these are no histories, or a candidate or the moment of all histories is of the wrong kind.
        ValueError: If the number of candidate lists, of moments or of timestamps is not the number of histories, or
            the candidates of all histories are none, or their moment is no second.
        KeyError: If a candidate of all histories is not in the catalog.
    """
    is_single, rows = split_histories(histories)
    per_row = {
        name: _split(name, value, len(rows), is_single) for name, value in arguments.items() if value is not None
    }
    _check_shared(per_row, catalog)
    results: list[Any] = [None] * len(rows)
    good = []
    for row, history in enumerate(rows):
        try:
            ((_, (items,)),) = [as_batch([history])]
            check_history(items)
            good.append(row)
        except _ERRORS as error:
            results[row] = SkippedHistory(reason_of(error))

    def recommend_rows(numbers: Sequence[int]) -> Any:
        chosen = {
            name: value if is_shared else [value[row] for row in numbers]
            for name, (is_shared, value) in per_row.items()
        }
        return recommend([rows[row] for row in numbers], **chosen)

    for row, result in zip(good, each_or_reason(good, recommend_rows, _ERRORS), strict=True):
        results[row] = SkippedHistory(result) if isinstance(result, str) else result
    return results[0] if is_single else results


def _split(name: str, value: Any, num_rows: int, is_single: bool) -> tuple[bool, Any]:
    """Returns whether an argument is the same for all histories, and the argument or one value for each history."""
    if name == "candidates":
        return split_candidates(value, num_rows)
    if name == "times":
        values = np.asarray(value)
        if values.ndim == 0:
            return True, value
        value = values.tolist()
    elif is_single:
        value = [value]
    if len(value) != num_rows:
        raise ValueError(f"`{name}` holds {len(value)} entries for {num_rows} histories. Give one for each.")
    return False, value


def _check_shared(per_row: Mapping[str, tuple[bool, Any]], catalog: Catalog) -> None:
    """Looks at arguments that all histories share, whose faults would be found in each of them."""
    for name, check in (
        ("candidates", lambda ids: candidate_indices(ids, 1, catalog)),
        ("times", lambda moment: as_moments(moment, 1)),
    ):
        is_shared, value = per_row.get(name, (False, None))
        if is_shared:
            check(value)


def each_or_reason(
    rows: Sequence[_Row],
    work: Callable[[Sequence[_Row]], Sequence[_Result]],
    errors: type[Exception] | tuple[type[Exception], ...],
) -> list[_Result | str]:
    """
    Works on rows together. If one of them raises an error, halves of them are tried, down to this one.

    Args:
        rows (`Sequence`):
            The rows.
        work (`Callable`):
            Takes some rows, at least one, and returns a result for each.
        errors (`type[Exception]` or a tuple of them):
            Errors that are the fault of a row. Others are raised.

    Returns:
        `list`: for each row its result, or the reason why there is none.
    """
    if len(rows) == 0:
        return []
    try:
        return [*work(rows)]
    except errors as error:
        if len(rows) == 1:
            return [reason_of(error)]
    half = len(rows) // 2
    return each_or_reason(rows[:half], work, errors) + each_or_reason(rows[half:], work, errors)


def reason_of(error: Exception) -> str:
    """Returns why a row that alone raised an error has no result. The error calls it row 0 of a batch of one."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    message = message.replace(" (row 0)", "").replace(" in row 0", "")
    return _ROW_0.sub(lambda match: "this row" if match[0][0] == "r" else "This row", message)
