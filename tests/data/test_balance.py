"""Users who hold much of the training interactions."""

import polars as pl
import pytest

from patchrec_hf.data.balance import find_heavy_users


def table(*counts, split="train"):
    users = [user for user, count in enumerate(counts) for _ in range(count)]
    return pl.DataFrame({"user_id": users, "split": [split] * len(users)})


def test_three_bots_by_hand():
    """Of 297 users with 10 interactions and 3 with 350, the three heaviest hold 1,050 of 4,020."""
    warning = find_heavy_users(table(*[10] * 297, 350, 350, 350))
    assert warning.startswith("The 3 users with the most training interactions, of 300 users, hold 26% of them.")
    assert "The heaviest users have 350, 350, 350; the median user has 10." in warning
    assert "max_user_interactions" in warning


def test_one_bot_among_few_users():
    assert "The user with the most training interactions, of 50 users, holds 67% of them" in find_heavy_users(
        table(*[10] * 49, 1_000).lazy()
    )


@pytest.mark.parametrize(
    "counts",
    [
        [10] * 300,
        # 240 of 3,210, and 900 of 3,870 for 3 of 300 users would be more than a fifth.
        [*[10] * 297, 80, 80, 80],
        # Each of a handful of users holds much, and none of them is unusual.
        [10, 12, 9],
        [10, 1],
    ],
)
def test_users_who_hold_their_share(counts):
    assert find_heavy_users(table(*counts)) is None


def test_only_training_interactions_count():
    assert find_heavy_users(pl.concat([table(*[10] * 300), table(3_000, split="test")])) is None
    assert find_heavy_users(table(3_000, split="test")) is None
    categories = table(*[10] * 49, 1_000).with_columns(pl.col("split").cast(pl.Categorical))
    assert find_heavy_users(categories) is not None
