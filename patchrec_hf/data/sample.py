"""A sample data set for trying the library: real public-domain books, synthetic reading histories."""

from importlib.resources import files

import numpy as np
import numpy.typing as npt
import polars as pl


SAMPLE_NOTICE = (
    "The sample reading histories are synthetic (generated from a seed, no real reader behind them); the books are "
    "real, first published before 1929 and in the public domain in the United States."
)

IntArray = npt.NDArray[np.int64]

_SCHEMA = {
    "item_id": pl.Int64,
    "title": pl.String,
    "author": pl.String,
    "year": pl.Int64,
    "shelf": pl.String,
    "series": pl.String,
    "series_index": pl.Int64,
}

_START = 1_546_300_800  # 2019-01-01 00:00:00 UTC
_DAY = 86_400
_HORIZON = 3 * 365 * _DAY
_MIN_LENGTH, _MEDIAN_LENGTH, _MAX_LENGTH = 20, 45, 120

# Weights are kept as integers so that the draws do not depend on how a platform rounds sums of floats.
_POPULARITY_UNIT = 100_000
_TASTE_UNIT = 200
_BACKGROUND = 3  # weight of a shelf that is not among the tastes of the reader
_SAME_SHELF = 3  # factor on the shelf of the previous book
_CLOCK = 64  # steps in which popularity moves from its early to its late value


def load_sample_items() -> pl.DataFrame:
    """
    Loads the books of the sample data set.

    Returns:
        `polars.DataFrame`:
            One row per book, in `item_id` order, with the columns `item_id` (`Int64`, `0` to `n - 1`), `title`,
            `author`, `year` (`Int64`, first publication, mostly as a book), `shelf` (genre), `series` and
            `series_index` (`Int64`). The last two are null for a book outside any series. `series_index` has gaps
            where the catalog lacks a volume.
    """
    # Quotation marks and apostrophes are part of the titles, so quoting is off.
    text = files("patchrec_hf.data").joinpath("sample_books.tsv").read_bytes()
    return pl.read_csv(text, separator="\t", quote_char=None, schema=_SCHEMA, null_values=[""])


def _next_volumes(items: pl.DataFrame) -> tuple[IntArray, IntArray]:
    """For every item: the next volume of its series (-1 if none), and the first one (itself if it is in no series)."""
    following = np.full(items.height, -1, dtype=np.int64)
    first = np.arange(items.height, dtype=np.int64)
    volumes: dict[str, list[tuple[int, int]]] = {}
    for item_id, series, index in items.select("item_id", "series", "series_index").iter_rows():
        if series is not None:
            volumes.setdefault(series, []).append((index, item_id))
    for members in volumes.values():
        ordered = [item_id for _, item_id in sorted(members)]
        following[ordered[:-1]] = ordered[1:]
        first[ordered] = ordered[0]
    return following, first


def _draw_times(rng: np.random.Generator, num_users: int, width: int, lengths: IntArray) -> IntArray:
    """Timestamps `(num_users, width)`, non-decreasing along a row: bursts of books that lie days or weeks apart."""
    shape = (num_users, width)
    days = rng.integers(_DAY, 12 * _DAY, shape)
    weeks = rng.integers(14 * _DAY, 70 * _DAY, shape)
    gaps = np.where(rng.random(shape) < 0.7, days, weeks)
    # Inside a burst, most books are marked as read in the very same second.
    within = np.where(rng.random(shape) < 0.6, 0, rng.integers(5, 900, shape))
    gaps = np.where(rng.random(shape) < 0.4, gaps, within)
    gaps[:, 0] = 0
    start = rng.integers(0, _HORIZON * 94 // 100, num_users)
    offsets = np.cumsum(gaps, axis=1)
    span = offsets[np.arange(num_users), lengths - 1]
    # A reader who starts late reads faster, so that no history is cut and its length does not depend on the start.
    window = np.minimum(span, (_HORIZON - start) * rng.integers(75, 101, num_users) // 100)
    times: IntArray = _START + start[:, None] + offsets * window[:, None] // np.maximum(span, 1)[:, None]
    return times


def _draw_tastes(rng: np.random.Generator, num_users: int, num_shelves: int) -> tuple[IntArray, IntArray]:
    """Shelf weights `(num_users, num_shelves)` at the start and at the end of each history, with 2 to 4 tastes."""
    order = np.argsort(rng.random((num_users, num_shelves)), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    is_taste = rank < rng.integers(2, 5, num_users)[:, None]
    weights = rng.integers(_TASTE_UNIT // 10, _TASTE_UNIT + 1, (2, num_users, num_shelves))
    weights = np.where(is_taste, weights, _BACKGROUND)
    return weights[0], weights[1]


def generate_sample_interactions(num_users: int = 600, seed: int = 0) -> pl.DataFrame:
    """
    Generates synthetic reading histories over the books of [`load_sample_items`].

    Each reader has two to four favorite shelves whose weights drift along the history. A reader tends to stay on the
    shelf of the previous book, and mostly continues a started series with its next volume, at once or soon. Popularity
    follows a Zipf law and drifts a little over the three years covered. No reader reads a book twice. About 3% of the
    books are released late: nobody reads them in the first 96% of the time span.

    Args:
        num_users (`int`, *optional*, defaults to `600`):
            Number of readers.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the generator. The same seed gives the same histories.

    Returns:
        `polars.DataFrame`:
            One row per book read, with the columns `user_id` (`Int64`, `0` to `num_users - 1`), `item_id` (`Int64`)
            and `timestamp` (`Int64`, seconds since 1970 UTC). Rows are sorted by user, then by time. Rows of a user
            that share a timestamp are in reading order, which a stable sort keeps.

    Raises:
        ValueError: If `num_users` is less than 1.
    """
    if num_users < 1:
        raise ValueError(f"`num_users` must be at least 1, got {num_users}.")
    items = load_sample_items()
    num_items = items.height
    following, first = _next_volumes(items)
    shelves = sorted(set(items["shelf"].to_list()))
    shelf_of = np.array([shelves.index(name) for name in items["shelf"].to_list()], dtype=np.int64)
    rng = np.random.Generator(np.random.PCG64(seed))

    lengths = np.rint(_MEDIAN_LENGTH * np.exp(0.5 * rng.standard_normal(num_users))).astype(np.int64)
    lengths = np.clip(lengths, _MIN_LENGTH, _MAX_LENGTH)
    width = int(lengths.max())
    times = _draw_times(rng, num_users, width, lengths)
    early_taste, late_taste = _draw_tastes(rng, num_users, len(shelves))

    zipf = (rng.permutation(num_items) + 2.0) ** -1.0
    # Readers enter a series at its first volume, whichever volume is drawn. Later volumes therefore get a low weight.
    zipf = np.where(first == np.arange(num_items), zipf, 0.15 * zipf)
    drift = np.exp(0.2 * rng.standard_normal((2, num_items)))
    popularity = np.maximum(np.rint(_POPULARITY_UNIT * zipf * drift).astype(np.int64), 1)

    used = np.arange(width) < lengths[:, None]
    begin, end = int(times[used].min()), int(times[used].max())
    release = begin + -(-(end - begin) * 96 // 100)
    # Only books that no other volume follows are released late: a late middle volume would hold up its series.
    cold = rng.permutation(np.flatnonzero(following < 0))[: num_items * 3 // 100]
    popularity[:, cold] = np.maximum(popularity[:, cold], int(popularity.max()) // 2)  # new books are talked about
    is_cold = np.zeros(num_items, dtype=np.bool_)
    is_cold[cold] = True

    unread = np.ones((num_users, num_items), dtype=np.bool_)
    pending = np.full(num_users, -1, dtype=np.int64)  # next volume of the series the reader is in
    last_shelf = np.full(num_users, -1, dtype=np.int64)
    chosen = np.full((num_users, width), -1, dtype=np.int64)
    for step in range(width):
        users = np.flatnonzero(lengths > step)
        now = times[users, step]
        rows = np.arange(users.size)
        available = unread[users] & ~(is_cold & (now < release)[:, None])

        clock = ((now - begin) * _CLOCK // max(end - begin, 1))[:, None]
        left = (lengths[users] - step)[:, None]
        taste = early_taste[users] * left + late_taste[users] * (lengths[users][:, None] - left)
        started = last_shelf[users] >= 0
        taste[rows[started], last_shelf[users][started]] *= _SAME_SHELF
        weight = (popularity[0] * (_CLOCK - clock) + popularity[1] * clock) * taste[:, shelf_of] * available
        cumulative = np.cumsum(weight, axis=1)
        ticket = rng.integers(0, cumulative[:, -1])
        pick = (cumulative <= ticket[:, None]).sum(axis=1)

        # A drawn volume stands for its series: nearly always, the reader takes the first unread volume instead.
        in_order = rng.random(users.size) < 0.97
        volume = np.where(in_order, first[pick], pick)
        while (behind := ~unread[users, volume]).any():
            volume = np.where(behind, following[volume], volume)

        waiting = pending[users]
        can_continue = (waiting >= 0) & available[rows, waiting]
        volume = np.where(can_continue & (rng.random(users.size) < 0.6), waiting, volume)

        # A book outside the series mostly interrupts it only. Sometimes the reader gives the series up.
        after = following[volume]
        keep = (after < 0) & (volume != waiting) & (rng.random(users.size) < 0.85)
        after = np.where(keep, waiting, after)
        taken = (after >= 0) & ~unread[users, after]
        pending[users] = np.where(taken, -1, after)
        unread[users, volume] = False
        last_shelf[users] = shelf_of[volume]
        chosen[users, step] = volume

    return pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(num_users, dtype=np.int64), lengths),
            "item_id": chosen[used],
            "timestamp": times[used],
        }
    )
