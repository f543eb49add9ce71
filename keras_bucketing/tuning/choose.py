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

from keras_bucketing.padding.report import EPOCHS_OF_MATES
from keras_bucketing.planning.boundaries import count_lengths
from keras_bucketing.planning.bucket_choice import MOST_BUCKETS
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import batch_spans, cut_batches
from keras_bucketing.planning.forecast import ShuffledBatches
from keras_bucketing.tuning.measure import StepCosts

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


# The buckets whose batches take the least time, by dynamic programming over the lengths. NumPy only.


_NEVER = np.inf


@dataclass(frozen=True)
class Stretches:
    """Lengths that a bucket may end at, increasing, each with what lies between it and the one before.

    Attributes:
        lengths: Int64 array `(num_stretches,)`, in timesteps.
        rows_up_to: Int64 array `(num_stretches + 1,)`: how many rows are not longer; 0 at its beginning.
        least: Int64 array `(num_stretches,)`: the least rows of a batch that ends there.
        most: Int64 array `(num_stretches,)`: the most rows of such a batch.
        step: Float array `(num_stretches,)`: seconds of such a batch, apart from its rows.
        row: Float array `(num_stretches,)`: seconds of each row in such a batch.
    """

    lengths: np.ndarray
    rows_up_to: np.ndarray
    least: np.ndarray
    most: np.ndarray
    step: np.ndarray
    row: np.ndarray


def best_buckets(stretches: Stretches, num_short: int, price: float, min_batches: int) -> list[int] | None:
    """Finds the ends (exclusive, of stretches) of the buckets that take the least time.

    Buckets that end among the `num_short` shortest stretches make as many batches as they can, since the epoch needs
    them; the others make as few. A batch is worth what the longest of the short ones costs: that is what another one of
    them would cost instead.

    Args:
        stretches: Where buckets may end.
        num_short: Int, from 0 to the number of stretches.
        price: Float, the seconds that each bucket must save.
        min_batches: Int, the least batches of a bucket. One batch alone is the same in every epoch.

    Returns:
        List of ints, the last of them the number of stretches; None where no buckets have enough rows.
    """
    size = len(stretches.lengths)
    worth = stretches.step[num_short - 1] if num_short else 0.0
    best = np.full(size + 1, _NEVER)
    best[0] = 0.0
    start = np.zeros(size + 1, np.int64)
    for end in range(1, size + 1):
        last = end - 1
        rows = stretches.rows_up_to[end] - stretches.rows_up_to[:end]  # of the buckets from each stretch up to this one
        fewest = np.maximum(-(-rows // stretches.most[last]), min_batches)
        most = rows // stretches.least[last]
        batches = most if end <= num_short else fewest
        cost = best[:end] + batches * (stretches.step[last] - worth) + rows * stretches.row[last] + price
        cost[most < fewest] = _NEVER
        start[end] = int(np.argmin(cost))
        best[end] = cost[start[end]]
    if best[size] == _NEVER:
        return None
    ends = [size]
    while start[ends[-1]]:
        ends.append(int(start[ends[-1]]))
    return ends[::-1]


# What tuned batches must keep to. NumPy only.


@dataclass(frozen=True)
class SizeBounds:
    """What the batches must keep to.

    Attributes:
        min_updates: Int, the least number of batches an epoch.
        min_rows: Int, the least rows of a batch that is not the last one.
        max_rows: Int, the most rows of a batch.
        max_timesteps_per_batch: Int, the most cells of a batch, or None.
        max_step_seconds: Float, the longest that a step may take, or None.
        max_buckets: Int, the most buckets.
        min_batch_mates: Float, how many other sequences a sequence must at least share a batch with in ten epochs.
    """

    min_updates: int
    min_rows: int
    max_rows: int
    max_timesteps_per_batch: int | None = None
    max_step_seconds: float | None = None
    max_buckets: int = MOST_BUCKETS
    min_batch_mates: float = 0.0

    def most_rows(self, lengths: np.ndarray, costs: StepCosts, multiple: int) -> np.ndarray:
        """The most rows at each padded length, multiples of `multiple`: 0 where not even that many keep the bounds."""
        rows = np.full(len(lengths), float(self.max_rows))
        if self.max_timesteps_per_batch is not None:
            rows = np.minimum(rows, self.max_timesteps_per_batch // lengths)
        if self.max_step_seconds is not None:
            left = self.max_step_seconds - costs.seconds(0, lengths)
            for_one = costs.per_cell * lengths
            fitting = np.divide(left, for_one, out=np.full(len(lengths), np.inf), where=for_one > 0)
            rows = np.minimum(rows, np.where(left >= 0, fitting, 0))
        whole: np.ndarray = rows.astype(np.int64) // multiple * multiple
        return whole


# How long an epoch of given buckets and sizes takes, and how many updates it makes. NumPy only.


@dataclass(frozen=True)
class BatchRules:
    """What a dataset says about its batches besides boundaries and sizes; as of `BucketedSequence`."""

    remainder: str = "spill"
    multiple: int = 1
    pad_to_bucket_boundary: bool = False


@dataclass(frozen=True)
class EpochForecast:
    """What an epoch comes to.

    Attributes:
        seconds: Float, the expectation over the shuffles of the sum of the steps.
        num_updates: Int, the batches.
        largest_batch: Int, the most timesteps that a batch may have, padding included.
        batch_mates: Float, how many other sequences a sequence shares a batch with in ten epochs, as in
            `padding_report`.
    """

    seconds: float
    num_updates: int
    largest_batch: int
    batch_mates: float


def forecast_epoch(
    lengths: np.ndarray, boundaries: list[int], batch_sizes: list[int], costs: StepCosts, rules: BatchRules
) -> EpochForecast:
    """Cuts an epoch as the planner does, and adds its steps up.

    Args:
        lengths: Int64 array `(num_sequences,)`, increasing, in timesteps: what each row is padded to at least.
        boundaries: Ints, as of `BucketedSequence`.
        batch_sizes: Ints, rows, one for each bucket: multiples of that of the rules.
        costs: What a step costs.
        rules: How the batches are cut and padded.
    """
    row_buckets = np.searchsorted(boundaries, lengths, side="right")
    upper_lengths = np.array([*(boundary - 1 for boundary in boundaries), lengths[-1]], np.int64)
    buckets = Buckets(boundaries, batch_sizes, upper_lengths, row_buckets)
    cuts = cut_batches(buckets, rules.remainder, rules.multiple)
    batches = ShuffledBatches.from_cuts(buckets.counts, cuts)
    rows = cuts.stops - cuts.starts
    if rules.pad_to_bucket_boundary:
        longest = upper_lengths[cuts.buckets]
        seconds = float(costs.seconds(rows, longest).sum())
    else:
        longest = lengths[np.cumsum(buckets.counts)[cuts.buckets] - 1]
        of_kind = costs.seconds(batches.rows.sum(axis=1), batches.expected_longest(lengths))
        seconds = float(batches.numbers @ of_kind)
    mates = batches.expected_batch_mates(EPOCHS_OF_MATES)
    return EpochForecast(seconds, len(rows), int((rows * longest).max()), mates)
