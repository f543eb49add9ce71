"""What steps cost, fitted to measured ones; boundaries and sizes for the shortest epoch under bounds. NumPy only.

A step costs overhead + length x per timestep + rows x (length x per padded timestep + length^2 x per squared length).
What its rows cost is the same however they are put together, but for the padding, so an epoch is shortest with as few
and as short batches as possible. If it must have so many of them, these are best made of the shortest sequences:

    length        short . . . . . . . . . . . . . . . long
    rows a batch  min   min  | between | max   max   max

Where short ends, and how many buckets are worth it, is tried; each time `best_buckets` finds the boundaries. The sizes
are then fitted to the real cuts, with what spills from one bucket into the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, product
from typing import Any

import numpy as np

from keras_bucketing.checks import INT64_MAX
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.planning.boundaries import Counts, boundaries_after, count_lengths
from keras_bucketing.planning.bucket_choice import MAX_BUCKETS, keep_outliers_apart
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import BatchRules, Passage, batch_spans
from keras_bucketing.planning.forecast import Figures, ShuffledBatches

MAX_MISFIT = 0.3  # of a measured step; costs that miss one by more tell nothing about other steps
ATTENTION_SHOWS = 0.1  # where the square of the longest length makes up so much of what its row costs
# As few buckets as are at most so much slower than the best: batches of wider buckets are more random.
TOLERATED_SLOWDOWN = 1.01
_MAX_CANDIDATES = 200  # a bucket may end at so many lengths
_MAX_SPLITS = 24  # of them so many are tried as the end of what is short
# What a bucket must save, as shares of an epoch.
_BUCKET_PENALTIES = (0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005)
# Of a bucket; with fewer, the boundaries fit better, and the batches are less random. One batch alone would be the same
# in every epoch, from which an LSTM learns less, the more so the larger it is.
MIN_BATCHES = (2, 3)
_NUM_FORECASTS = 12  # so many choices, the best by a bound, are forecast exactly


@dataclass(frozen=True)
class StepCosts:
    """The parts of a step's time; none is negative.

    Attributes:
        overhead: Float, seconds per step, for every shape.
        per_timestep: Float, seconds per timestep of the padded length, for any number of rows: a recurrent layer
            computes one timestep after the other.
        per_padded_timestep: Float, seconds per row and timestep, that is, of rows x padded length.
        per_squared_length: Float, seconds per row and square of the padded length: attention compares all pairs of
            timesteps. Defaults to 0.

    Example:
        >>> costs = StepCosts(0.5, per_timestep=0.25, per_padded_timestep=0.125, per_squared_length=0.0625)
        >>> costs.seconds(rows=2, padded_lengths=4)
        4.5
        >>> costs.quadratic_length(longest=4)  # two timesteps more to compare with cost as much as one timestep more
        2
    """

    overhead: float
    per_timestep: float
    per_padded_timestep: float
    per_squared_length: float = 0.0

    def seconds(self, rows: Any, padded_lengths: Any, padded_squares: Any = None) -> Any:
        """The seconds of steps of these shapes.

        Args:
            rows: Int or array, the rows of each batch.
            padded_lengths: Int, float or array, in timesteps; a mean gives the mean of the seconds.
            padded_squares: Float or array, with means of lengths the means of their squares. Defaults to None: the
                squares of the lengths.
        """
        batch_seconds = self.overhead + self.per_timestep * padded_lengths
        return batch_seconds + rows * self.row_seconds(padded_lengths, padded_squares)

    def row_seconds(self, padded_lengths: Any, padded_squares: Any = None) -> Any:
        """Seconds of each row in steps of these padded lengths; arguments as of `seconds`."""
        if padded_squares is None:
            padded_squares = 1.0 * padded_lengths * padded_lengths
        return self.per_padded_timestep * padded_lengths + self.per_squared_length * padded_squares

    def quadratic_length(self, longest: int) -> int | None:
        """The `quadratic_length` with which a budget counts the cost of a row.

        Args:
            longest: Int, the longest padded length, in timesteps.

        Returns:
            Int, in timesteps; None if attention does not show, that is, if less than a tenth of the cost of the longest
            row grows with the square.
        """
        squared = self.per_squared_length * longest**2
        if squared == 0 or squared < ATTENTION_SHOWS * (self.per_padded_timestep * longest + squared):
            return None
        return max(round(self.per_padded_timestep / self.per_squared_length), 1)


@dataclass(frozen=True)
class MemoryCosts:
    """The parts of the memory that a step takes, in bytes; none is negative.

    Attributes:
        limit: Float, the bytes that a step may take.
        base: Float, whatever its shape: weights, and what the optimizer keeps.
        per_padded_timestep: Float, a row and timestep.
        per_squared_length: Float, a row and square of the padded length.
    """

    limit: float
    base: float
    per_padded_timestep: float
    per_squared_length: float

    def peak_bytes(self, rows: Any, padded_lengths: Any) -> Any:
        """The most bytes at a time of steps of these shapes."""
        return self.base + rows * self._row_bytes(padded_lengths)

    def max_rows(self, padded_lengths: Lengths) -> Figures:
        """The most rows of a batch of each padded length: a fraction, infinity where rows take nothing."""
        return _quotient(max(self.limit - self.base, 0.0), self._row_bytes(padded_lengths))

    def max_timesteps(self, lengths: Lengths, quadratic_length: int | None) -> int | None:
        """The largest budget whose batches fit, as `quadratic_length` counts; None if any does.

        The limit of a budget grows or falls with the length, from the shortest to the longest of the lengths.
        """
        ends = np.array([lengths[0], lengths[-1]])
        counted = ends + (ends**2 / quadratic_length if quadratic_length else 0)
        budget = float((counted * self.max_rows(ends)).min())
        return int(budget) if budget < INT64_MAX else None

    def _row_bytes(self, padded_lengths: Any) -> Any:
        return self.per_padded_timestep * padded_lengths + self.per_squared_length * 1.0 * padded_lengths**2


def _quotient(dividend: Any, divisors: Figures) -> Figures:
    """Infinity where the divisor is 0."""
    shape = np.broadcast_shapes(np.shape(dividend), divisors.shape)
    quotient: Figures = np.divide(dividend, divisors, out=np.full(shape, np.inf), where=divisors > 0)
    return quotient


def fit_step_costs(rows: Counts, padded_lengths: Lengths, seconds: Figures) -> StepCosts:
    """Finds the costs whose relative errors are the smallest, in least squares.

    Relative, because a short step that is 1 ms off matters as much as a long one that is 100 ms off: an epoch has more
    of the short ones.

    Args:
        rows: Int array `(num_steps,)`.
        padded_lengths: Int array `(num_steps,)`, in timesteps.
        seconds: Float array `(num_steps,)`, positive.

    Example:
        >>> costs = StepCosts(0.5, per_timestep=0.25, per_padded_timestep=0.125, per_squared_length=0.0625)
        >>> rows, lengths = np.array([1, 2, 4, 4, 2]), np.array([8, 2, 2, 8, 4])
        >>> fitted = fit_step_costs(rows, lengths, costs.seconds(rows, lengths))
        >>> [round(cost, 6) for cost in (fitted.overhead, fitted.per_timestep)]
        [0.5, 0.25]
        >>> [round(cost, 6) for cost in (fitted.per_padded_timestep, fitted.per_squared_length)]
        [0.125, 0.0625]
    """
    lengths = padded_lengths.astype(np.float64)
    parts = [np.ones_like(lengths), lengths, rows * lengths, rows * lengths**2]
    return StepCosts(*_fit_costs(parts, seconds))


def fit_memory_costs(
    rows: Counts, padded_lengths: Lengths, peak_bytes: Figures, limit: float | None
) -> MemoryCosts | None:
    """Finds the memory of a step as `fit_step_costs` finds its time.

    Args:
        rows: Int array `(num_steps,)`.
        padded_lengths: Int array `(num_steps,)`, in timesteps.
        peak_bytes: Float array `(num_steps,)`; NaN where it is not known.
        limit: Float, the bytes that a step may take, or None if nothing says so.

    Returns:
        None without a limit, and where less than three steps are known, or one of them is missed by more than 30 %.
    """
    known = np.flatnonzero(peak_bytes > 0)
    if limit is None or len(known) < 3:
        return None
    rows, lengths, peak_bytes = rows[known], padded_lengths[known].astype(np.float64), peak_bytes[known]
    parts = [np.ones_like(lengths), rows * lengths, rows * lengths**2]
    costs = MemoryCosts(limit, *_fit_costs(parts, peak_bytes))
    worst = np.abs(costs.peak_bytes(rows, lengths) / peak_bytes - 1).max()
    return costs if worst <= MAX_MISFIT else None


def _fit_costs(parts: list[Figures], totals: Figures) -> list[float]:
    """What each of the parts costs, none of it negative: the least squares of the relative errors."""
    relative = np.stack(parts, axis=1) / totals[:, np.newaxis]
    scale = relative.max(axis=0)
    relative = relative / scale
    best, min_error = np.zeros(len(parts)), float(len(totals))  # no cost at all: every relative error is 1
    # Where a cost would be negative, the best without negative ones has some of them at 0: with four, all ways to leave
    # some out are quickly tried.
    for number in range(1, len(parts) + 1):
        for kept in map(list, combinations(range(len(parts)), number)):
            found = np.linalg.lstsq(relative[:, kept], np.ones(len(totals)), rcond=None)[0]
            error = float(((relative[:, kept] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < min_error:
                best, min_error = np.zeros(len(parts)), error
                best[kept] = found
    costs: list[float] = (best / scale).tolist()
    return costs


def forecast_error(errors: Sequence[float]) -> float:
    """The standard error of what costs predict that were fitted to steps with these relative errors.

    >>> forecast_error([0.1, 0.0, 0.1, 0.0, 0.1, 0.1])  # four costs meet four of any six steps
    0.14142135623730953
    """
    num_costs = len(fields(StepCosts))
    return math.sqrt(sum(error**2 for error in errors) / max(len(errors) - num_costs, 1))


@dataclass(frozen=True)
class SizeBounds:
    """What the batches must keep to.

    Attributes:
        min_updates: Int, the least number of batches an epoch.
        min_rows: Int, the least rows of a batch that is not the last one.
        max_rows: Int, the most rows of a batch.
        max_timesteps_per_batch: Int, the most padded timesteps of a batch, or None.
        max_step_seconds: Float, the longest that a step may take, or None.
        max_buckets: Int, the most buckets.
        min_batchmates: Float, the least distinct batchmates of a sequence in ten epochs.
        memory: What a step takes of the memory, with its limit, or None.
    """

    min_updates: int
    min_rows: int
    max_rows: int
    max_timesteps_per_batch: int | None = None
    max_step_seconds: float | None = None
    max_buckets: int = MAX_BUCKETS
    min_batchmates: float = 0.0
    memory: MemoryCosts | None = None

    def max_rows_at(self, lengths: Lengths, costs: StepCosts, multiple: int) -> Counts:
        """The most rows at each padded length, multiples of `multiple`: 0 where not even that many keep the bounds."""
        rows = np.full(len(lengths), float(self.max_rows))
        if self.max_timesteps_per_batch is not None:
            rows = np.minimum(rows, self.max_timesteps_per_batch // lengths)
        if self.memory is not None:
            rows = np.minimum(rows, self.memory.max_rows(lengths))
        if self.max_step_seconds is not None:
            left = self.max_step_seconds - costs.seconds(0, lengths)
            fitting = _quotient(left, costs.row_seconds(lengths))
            rows = np.minimum(rows, np.where(left >= 0, fitting, 0))
        whole: Counts = rows.astype(np.int64) // multiple * multiple
        return whole

    def allow(
        self, lengths: Lengths, buckets: Buckets, forecast: EpochForecast, costs: StepCosts, multiple: int
    ) -> bool:
        """Whether the batches of these buckets, which are so forecast, keep to the bounds."""
        filled = buckets.counts > 0
        rows = np.array(buckets.batch_sizes)[filled]
        max_rows = self.max_rows_at(buckets.longest(lengths)[filled], costs, multiple)
        sizes_fit = bool((rows >= np.minimum(self.min_rows, max_rows)).all() and (rows <= max_rows).all())
        enough_updates = forecast.num_updates >= self.min_updates
        return sizes_fit and enough_updates and forecast.distinct_batchmates >= self.min_batchmates


@dataclass(frozen=True)
class EpochForecast:
    """The forecast of an epoch.

    Attributes:
        seconds: Float, the expectation over the shuffles of the sum of the steps. In the result of `tune_batch_sizes`,
            it includes the time in which `fit` begins and ends an epoch.
        num_updates: Int, the batches.
        largest_batch: Int, the maximum number of timesteps in a batch, padding included.
        distinct_batchmates: Float, how many different sequences a sequence shares a batch with in ten epochs, as in
            `padding_report`.

    Example:
        >>> forecast = EpochForecast(seconds=2.0, num_updates=100, largest_batch=3200, distinct_batchmates=250.0)
        >>> forecast.seconds / forecast.num_updates
        0.02
    """

    seconds: float
    num_updates: int
    largest_batch: int
    distinct_batchmates: float


Choice = tuple[Buckets, EpochForecast]


def forecast_epoch(lengths: Lengths, buckets: Buckets, costs: StepCosts, rules: BatchRules) -> EpochForecast:
    """Adds up the steps of an epoch of rows of these lengths, increasing and at least `rules.min_length`."""
    batches = ShuffledBatches.from_buckets(lengths, buckets, rules)
    seconds = batches.expected_cost(costs.seconds)
    return EpochForecast(seconds, batches.num_batches, batches.largest_batch, batches.distinct_batchmates())


def choose_sizes(lengths: Lengths, costs: StepCosts, bounds: SizeBounds, rules: BatchRules) -> Choice | None:
    """Chooses what is forecast to take the shortest epoch, or 1 % more in fewer buckets.

    Args:
        lengths: Int64 array `(num_sequences,)`, increasing, in timesteps.
        costs: What a step costs.
        bounds: What to keep to.
        rules: How the batches are cut and padded.

    Returns:
        The choice and its forecast; None if none is found that keeps to the bounds.
    """
    found: list[Choice] = []
    for boundaries, sizes in _promising_choices(lengths, costs, bounds, rules):
        buckets = keep_outliers_apart(Buckets.from_lengths(lengths, boundaries, sizes), lengths, rules)
        forecast = forecast_epoch(lengths, buckets, costs, rules)
        if bounds.allow(lengths, buckets, forecast, costs, rules.multiple):
            found.append((buckets, forecast))
        if len(found) == _NUM_FORECASTS:
            break
    enough = TOLERATED_SLOWDOWN * min((forecast.seconds for _, forecast in found), default=0.0)
    good_enough = [choice for choice in found if choice[1].seconds <= enough]
    return min(good_enough, key=lambda choice: len(choice[0].batch_sizes), default=None)


def _promising_choices(
    lengths: Lengths, costs: StepCosts, bounds: SizeBounds, rules: BatchRules
) -> list[tuple[list[int], list[int]]]:
    """Boundaries and sizes, those first whose epoch is the shortest if every batch is as long as its bucket allows."""
    candidates = _candidate_ends(lengths, costs, bounds, rules.multiple)
    if not candidates.max_rows.all():
        return []
    found: dict[tuple[int, ...], tuple[float, list[int], list[int]]] = {}
    for ends, min_batches in _partitions(candidates, bounds.max_buckets):
        last = np.array(ends) - 1
        row_bounds = candidates.min_rows[last], candidates.max_rows[last]
        sizes = fitted_sizes(candidates.rows_in(ends), *row_bounds, min_batches, bounds.min_updates, rules)
        if sizes is not None:
            spans = batch_spans(candidates.rows_in(ends), sizes, rules.remainder, rules.multiple)
            seconds = spans.num_batches @ candidates.batch_seconds[last] + spans.rows @ candidates.row_seconds[last]
            found[(*ends, *sizes)] = (float(seconds), boundaries_after(candidates.lengths, ends), sizes)
    return [(boundaries, sizes) for _, boundaries, sizes in sorted(found.values(), key=lambda entry: entry[0])]


@dataclass(frozen=True)
class CandidateEnds:
    """Lengths that a bucket may end at, increasing, each with what lies between it and the one before.

    Attributes:
        lengths: Int64 array `(num_candidates,)`, in timesteps.
        rows_up_to: Int64 array `(num_candidates + 1,)`: how many rows are not longer; 0 at its beginning.
        min_rows: Int64 array `(num_candidates,)`: the least rows of a batch that ends there.
        max_rows: Int64 array `(num_candidates,)`: the most rows of such a batch.
        batch_seconds: Float array `(num_candidates,)`: seconds of such a batch, apart from its rows.
        row_seconds: Float array `(num_candidates,)`: seconds of each row in such a batch.
    """

    lengths: Lengths
    rows_up_to: Counts
    min_rows: Counts
    max_rows: Counts
    batch_seconds: Figures
    row_seconds: Figures

    def rows_in(self, ends: list[int]) -> Counts:
        """The rows of each bucket; the ends are exclusive, of candidates."""
        return np.diff(self.rows_up_to[[0, *ends]])


def _candidate_ends(lengths: Lengths, costs: StepCosts, bounds: SizeBounds, multiple: int) -> CandidateEnds:
    """All lengths, or those at even steps of the rows and of the length."""
    distinct, counts = count_lengths(lengths)
    rows_up_to = np.cumsum(counts)
    if len(distinct) > _MAX_CANDIDATES:
        half = _MAX_CANDIDATES // 2
        by_rows = np.searchsorted(rows_up_to, np.linspace(0, rows_up_to[-1], half + 1)[1:])
        by_length = np.searchsorted(distinct, np.geomspace(distinct[0], distinct[-1], half) - 0.5)
        kept = np.union1d(by_rows, by_length)
        distinct, rows_up_to = distinct[kept], rows_up_to[kept]
    max_rows = bounds.max_rows_at(distinct, costs, multiple)
    return CandidateEnds(
        distinct,
        np.concatenate([[0], rows_up_to]),
        np.minimum(bounds.min_rows, max_rows),
        max_rows,
        batch_seconds=costs.seconds(0, distinct),
        row_seconds=costs.row_seconds(distinct),
    )


def _partitions(candidates: CandidateEnds, max_buckets: int) -> Iterator[tuple[list[int], int]]:
    """Ends of buckets that may be good, and how many batches each of them has at least."""
    size = len(candidates.lengths)
    yield [size], 1
    rows = np.diff(candidates.rows_up_to)
    epoch = float(rows @ (candidates.batch_seconds / candidates.max_rows + candidates.row_seconds))
    splits = np.unique(np.linspace(0, size, min(_MAX_SPLITS, size) + 1).astype(int)).tolist()
    for num_short, penalty, min_batches in product(splits, _BUCKET_PENALTIES, MIN_BATCHES):
        ends = best_buckets(candidates, num_short, penalty * epoch, min_batches)
        if ends is not None and len(ends) <= max_buckets:
            yield ends, min_batches


def best_buckets(candidates: CandidateEnds, num_short: int, penalty: float, min_batches: int) -> list[int] | None:
    """Finds the ends (exclusive, of candidates) of the buckets that take the least time.

    Buckets that end among the `num_short` shortest candidates make as many batches as they can, since the epoch needs
    them; the others make as few. A batch is worth what the longest of the short ones costs: that is what another one of
    them would cost instead.

    Args:
        candidates: Where buckets may end.
        num_short: Int, from 0 to the number of candidates.
        penalty: Float, the seconds that each bucket must save.
        min_batches: Int, the least batches of a bucket. One batch alone is the same in every epoch.

    Returns:
        List of ints, the last of them the number of candidates; None where no buckets have enough rows.
    """
    size = len(candidates.lengths)
    worth = candidates.batch_seconds[num_short - 1] if num_short else 0.0
    # By dynamic programming: best[end] is the cost of the best buckets that end there, and the last of them begins at
    # start[end].
    best = np.full(size + 1, np.inf)
    best[0] = 0.0
    start = np.zeros(size + 1, np.int64)
    for end in range(1, size + 1):
        last = end - 1
        rows = candidates.rows_up_to[end] - candidates.rows_up_to[:end]  # of the buckets from each candidate up to it
        min_number = np.maximum(-(-rows // candidates.max_rows[last]), min_batches)
        max_number = rows // candidates.min_rows[last]
        batches = max_number if end <= num_short else min_number
        batch_seconds, row_seconds = candidates.batch_seconds[last] - worth, candidates.row_seconds[last]
        cost = best[:end] + batches * batch_seconds + rows * row_seconds + penalty
        cost[max_number < min_number] = np.inf
        start[end] = int(np.argmin(cost))
        best[end] = cost[start[end]]
    if best[size] == np.inf:
        return None
    ends = [size]
    while start[ends[-1]]:
        ends.append(int(start[ends[-1]]))
    return ends[::-1]


def fitted_sizes(
    in_bucket: Counts,
    min_rows: Counts,
    max_rows: Counts,
    min_batches: int,
    min_updates: int,
    rules: BatchRules,
    order: Sequence[int] | None = None,
    passage: Passage | None = None,
) -> list[int] | None:
    """The sizes of buckets of so many rows, which come in as few batches as hold them, all of one size, where they can.

    Where an epoch must have more of them, the buckets in this order, by default from first to last, have the least
    rows. None where that makes too few as well. The rows are cut in the order of `passage`, as of `batch_spans`.
    """
    num_batches = np.maximum(-(-in_bucket // max_rows), min_batches)
    max_rows = np.clip(-(-in_bucket // num_batches // rules.multiple) * rules.multiple, min_rows, max_rows)
    return _sizes(in_bucket, min_rows, max_rows, min_updates, rules, order, passage)


def _sizes(
    in_bucket: Counts,
    min_rows: Counts,
    max_rows: Counts,
    min_updates: int,
    rules: BatchRules,
    order: Sequence[int] | None = None,
    passage: Passage | None = None,
) -> list[int] | None:
    """The least rows for as few of the first buckets as make enough updates; for the last of them, as many as do."""

    def makes_enough(sizes: Counts) -> bool:
        spans = batch_spans(in_bucket, sizes, rules.remainder, rules.multiple, passage=passage)
        return int(spans.num_batches.sum()) >= min_updates

    sizes = max_rows.copy()
    shortened: list[int] = []
    while not makes_enough(sizes):
        if len(shortened) == len(sizes):
            return None
        bucket = len(shortened) if order is None else order[len(shortened)]
        sizes[bucket] = min_rows[bucket]
        shortened.append(bucket)
    if shortened:
        # Between `low`, which makes enough, and `high`, which does not, by bisection.
        bucket = shortened[-1]
        low, high = int(min_rows[bucket]) // rules.multiple, int(max_rows[bucket]) // rules.multiple
        while high - low > 1:
            middle = (low + high) // 2
            sizes[bucket] = middle * rules.multiple
            low, high = (middle, high) if makes_enough(sizes) else (low, middle)
        sizes[bucket] = low * rules.multiple
    sizes_list: list[int] = sizes.tolist()
    return sizes_list
