"""Balance: finds out whether few users hold much of the training interactions."""

from __future__ import annotations

import polars as pl


_HEAVY_USERS, _LARGE_SHARE = 0.01, 0.2


def find_heavy_users(interactions: pl.DataFrame | pl.LazyFrame) -> str | None:
    """
    Looks at the 1 % of users, but at least one user, who have the most training interactions.

    Args:
        interactions (`polars.DataFrame` or `polars.LazyFrame`):
            The columns `user_id` and `split`.

    Returns:
        `str`, *optional*: a warning, if these users hold more than 20 % of the training interactions and more than
        20 times what as many average users hold. `None` otherwise.
    """
    train = interactions.lazy().filter(pl.col("split").cast(pl.String) == "train")
    counts = train.group_by("user_id").len().collect(engine="streaming")["len"].to_list()
    counts.sort(reverse=True)
    if not counts:
        return None
    num_heavy = max(1, int(_HEAVY_USERS * len(counts)))
    share = sum(counts[:num_heavy]) / sum(counts)
    if share <= _LARGE_SHARE * max(1, num_heavy / len(counts) / _HEAVY_USERS):
        return None
    users = "The user" if num_heavy == 1 else f"The {num_heavy} users"
    verb = "holds" if num_heavy == 1 else "hold"
    heaviest = ", ".join(f"{count:,}" for count in counts[:3])
    return (
        f"{users} with the most training interactions, of {len(counts):,} users, {verb} {share:.0%} of them. The "
        f"heaviest users have {heaviest}; the median user has {counts[len(counts) // 2]:,}. If these are bots or "
        "shared accounts, the model learns mostly from them. Leave them out with "
        "`filters={'max_user_interactions': ...}` or `filters={'where': ...}`."
    )
