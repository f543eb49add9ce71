"""Boundaries and sizes for the shortest epoch under bounds. NumPy only.

A step costs overhead + length x (per timestep + rows x per cell). What its rows cost is the same however they are put
together, but for the padding, so an epoch is shortest with as few and as short batches as possible. If it must have so
many of them, these are best made of the shortest sequences:

    length        short . . . . . . . . . . . . . . . long
    rows a batch  least  least | between | most  most  most

Where short ends, and how many buckets are worth it, is tried; each time `best_buckets` finds the boundaries. The sizes
are then fitted to the real cuts, with what spills from one bucket into the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from keras_bucketing.planning.batch_spans import batch_spans
from keras_bucketing.planning.boundaries import count_lengths
from keras_bucketing.tuning.bucket_search import Stretches, best_buckets
from keras_bucketing.tuning.epoch_forecast import BatchRules, EpochForecast, forecast_epoch
from keras_bucketing.tuning.size_bounds import SizeBounds
from keras_bucketing.tuning.step_costs import StepCosts

# As few buckets as are at most so much slower than the best: batches of wider buckets are more random.
ENOUGH = 1.01
_STRETCHES = 200  # a bucket may end at so many lengths
_SPLITS = 24  # of them so many are tried as the end of what is short
_PRICES = (0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005)  # of a bucket, as shares of an epoch
# Of a bucket; with fewer, the boundaries fit better, and the batches are less random. One batch alone would be the same
# in every epoch, from which an LSTM learns less, the more so the larger it is.
_MIN_BATCHES = (2, 3)
_EXACT = 12  # so many choices, the best by a bound, are forecast exactly


@dataclass(frozen=True)
class SizeChoice:
    """Boundaries and sizes of buckets, in the sense of `BucketedSequence`."""

    bucket_boundaries: list[int]
    bucket_batch_sizes: list[int]


def choose_sizes(lengths: np.ndarray, costs: StepCosts, bounds: SizeBounds, rules: BatchRules) -> SizeChoice | None:
    """Chooses what is forecast to take the shortest epoch, or 1 % more in fewer buckets.

    Args:
        lengths: Int64 array `(num_sequences,)`, increasing, in timesteps.
        costs: What a step costs.
        bounds: What to keep to.
        rules: How the batches are cut and padded.

    Returns:
        The choice; None if none is found that keeps to the bounds.
    """
    found = []
    for choice in _promising_choices(lengths, costs, bounds, rules):
        forecast = forecast_epoch(lengths, choice.bucket_boundaries, choice.bucket_batch_sizes, costs, rules)
        if keeps_to(bounds, choice, forecast, lengths, costs, rules.multiple):
            found.append((forecast.seconds, choice))
        if len(found) == _EXACT:
            break
    enough = ENOUGH * min((seconds for seconds, _ in found), default=0.0)
    good_enough = [choice for seconds, choice in found if seconds <= enough]
    return min(good_enough, key=lambda choice: len(choice.bucket_batch_sizes), default=None)


def keeps_to(
    bounds: SizeBounds,
    choice: SizeChoice,
    forecast: EpochForecast,
    lengths: np.ndarray,
    costs: StepCosts,
    multiple: int,
) -> bool:
    """Whether a choice keeps to the bounds; other arguments as of `choose_sizes`.

    Args:
        bounds: What to keep to.
        choice: Boundaries and sizes.
        forecast: Of an epoch with these.
        lengths: Int64 array `(num_sequences,)`, increasing, in timesteps.
        costs: What a step costs.
        multiple: Int. Every batch has a multiple of it.
    """
    ends = np.searchsorted(lengths, [*choice.bucket_boundaries, lengths[-1] + 1])
    filled = np.flatnonzero(np.diff(ends, prepend=0))
    rows = np.array(choice.bucket_batch_sizes)[filled]
    most = bounds.most_rows(lengths[ends[filled] - 1], costs, multiple)
    sizes_fit = (rows >= np.minimum(bounds.min_rows, most)).all() and (rows <= most).all()
    enough_updates = forecast.num_updates >= bounds.min_updates
    return bool(sizes_fit) and enough_updates and forecast.batch_mates >= bounds.min_batch_mates


def _promising_choices(
    lengths: np.ndarray, costs: StepCosts, bounds: SizeBounds, rules: BatchRules
) -> list[SizeChoice]:
    """Choices, the one first whose epoch is the shortest if every batch is as long as its bucket allows."""
    stretches = _stretches(lengths, costs, bounds, rules.multiple)
    if not stretches.most.all():
        return []
    found: dict[tuple[int, ...], tuple[float, SizeChoice]] = {}
    for ends, min_batches in _partitions(stretches, bounds.max_buckets):
        sizes = _fitted_sizes(stretches, ends, min_batches, bounds.min_updates, rules)
        if sizes is not None:
            last = np.array(ends) - 1
            boundaries = [int(length) + 1 for length in stretches.lengths[last[:-1]]]
            begins, stops = batch_spans(_rows_in(stretches, ends), sizes, rules.remainder, rules.multiple)
            rows = stops - begins
            batches = -(-rows // np.array(sizes))
            seconds = float(batches @ stretches.step[last] + rows @ stretches.row[last])
            found[(*ends, *sizes)] = (seconds, SizeChoice(boundaries, sizes))
    return [choice for _, choice in sorted(found.values(), key=lambda entry: entry[0])]


def _stretches(lengths: np.ndarray, costs: StepCosts, bounds: SizeBounds, multiple: int) -> Stretches:
    """The lengths that buckets may end at: all of them, or those at even steps of the rows and of the length."""
    distinct, counts = count_lengths(lengths)
    rows_up_to = np.cumsum(counts)
    if len(distinct) > _STRETCHES:
        half = _STRETCHES // 2
        by_rows = np.searchsorted(rows_up_to, np.linspace(0, rows_up_to[-1], half + 1)[1:])
        by_length = np.searchsorted(distinct, np.geomspace(distinct[0], distinct[-1], half) - 0.5)
        kept = np.union1d(by_rows, by_length)
        distinct, rows_up_to = distinct[kept], rows_up_to[kept]
    most = bounds.most_rows(distinct, costs, multiple)
    least = np.minimum(bounds.min_rows, most)
    return Stretches(
        distinct,
        np.concatenate([[0], rows_up_to]),
        least,
        most,
        step=costs.seconds(0, distinct),
        row=costs.per_cell * distinct,
    )


def _partitions(stretches: Stretches, max_buckets: int) -> Iterator[tuple[list[int], int]]:
    """Ends of buckets that may be good, and how many batches each of them has at least."""
    size = len(stretches.lengths)
    yield [size], 1
    rows = np.diff(stretches.rows_up_to)
    epoch = float(rows @ (stretches.step / stretches.most + stretches.row))
    splits = np.unique(np.linspace(0, size, min(_SPLITS, size) + 1).astype(int)).tolist()
    for num_short, price, min_batches in product(splits, _PRICES, _MIN_BATCHES):
        ends = best_buckets(stretches, num_short, price * epoch, min_batches)
        if ends is not None and len(ends) <= max_buckets:
            yield ends, min_batches


def _rows_in(stretches: Stretches, ends: list[int]) -> np.ndarray:
    return np.diff(stretches.rows_up_to[[0, *ends]])


def _fitted_sizes(
    stretches: Stretches, ends: list[int], min_batches: int, min_updates: int, rules: BatchRules
) -> list[int] | None:
    """The sizes of buckets that end there; None where they cannot make enough updates."""
    last = np.array(ends) - 1
    rows = _rows_in(stretches, ends)
    least, most = stretches.least[last], stretches.most[last]
    # The fewest batches that hold the rows, and those of one size.
    fewest = np.maximum(-(-rows // most), min_batches)
    most = np.clip(-(-rows // fewest // rules.multiple) * rules.multiple, least, most)
    return _sizes(rows, least, most, min_updates, rules)


def _sizes(
    in_bucket: np.ndarray, least: np.ndarray, most: np.ndarray, min_updates: int, rules: BatchRules
) -> list[int] | None:
    """The least rows for as few of the shortest buckets as make enough updates; for the last of them, as many as do."""

    def makes_enough(sizes: np.ndarray) -> bool:
        begins, stops = batch_spans(in_bucket, sizes.tolist(), rules.remainder, rules.multiple)
        return int((-(-(stops - begins) // sizes)).sum()) >= min_updates

    sizes = most.copy()
    for bucket in range(len(sizes)):
        if makes_enough(sizes):
            break
        sizes[bucket] = least[bucket]
    else:
        if not makes_enough(sizes):
            return None
        bucket = len(sizes)
    if bucket:
        bucket -= 1
        low, high = int(least[bucket]) // rules.multiple, int(most[bucket]) // rules.multiple
        while high - low > 1:
            middle = (low + high) // 2
            sizes[bucket] = middle * rules.multiple
            low, high = (middle, high) if makes_enough(sizes) else (low, middle)
        sizes[bucket] = low * rules.multiple
    return [int(size) for size in sizes]
