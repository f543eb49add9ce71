"""Rows drawn by weights: how many of each bucket an epoch has, and the share of each row in them.

    row          0   1   2   3   4          a bucket of five rows, of which an epoch draws four weight       1   1   1
    2   3 expected    .5  .5  .5   1  1.5
                [---|---|---|-------|-----------]       rows side by side, in a new order in each epoch
                  x       x       x       x             one step apart: systematic sampling

The rows of a bucket are drawn at equal distances from a random start, so a row that is expected 1.5 times comes once or
twice. The number of draws of each bucket is the same in all epochs, and so is the number of batches. NumPy only: the
random draws are made in graph, by `epoch_plan`.

Systematic sampling is as old as Madow and Madow, "On the theory of systematic sampling" (Annals of Mathematical
Statistics, 1944).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import INT32_MAX, check_integer, show, show_typed
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.planning.boundaries import Counts

Weights = NDArray[np.float64]
_UNIT_BITS = 62  # of what all draws of an epoch are together, so that int64 holds the sums


@dataclass(frozen=True)
class Sampling:
    """The rows that may be drawn.

    Attributes:
        rows: Int64 array `(num_rows,)`, increasing.
        weights: Float64 array `(num_rows,)`, above 0.
        num_draws: Int, the draws of an epoch, before rounding.
        is_exact: Whether the user gave the number.
    """

    rows: RowIndices
    weights: Weights
    num_draws: int
    is_exact: bool

    def rounded_draws(self, row_buckets: NDArray[np.int32], num_buckets: int, multiple: int) -> Counts:
        """The draws of each bucket `(num_buckets,)`: as expected, by the largest remainder, at least one.

        Raises:
            ValueError: If the user's number is less than one for each bucket with rows.
        """
        weights = np.bincount(row_buckets, self.weights, minlength=num_buckets).astype(np.float64)
        num_filled = int(np.count_nonzero(weights))
        if self.is_exact and self.num_draws < max(num_filled, multiple):
            raise ValueError(
                "`rows_per_epoch` is too small. Expected at least "
                + (
                    f"{multiple}, batch_size_multiple x num_shards"
                    if multiple >= num_filled
                    else f"{num_filled}, one row of each bucket"
                )
                + f", received {self.num_draws}."
                + ("" if multiple >= num_filled else " Raise it, or pass fewer buckets with num_buckets.")
            )
        total = max(self.num_draws // multiple, -(-num_filled // multiple), 1) * multiple
        return round_draws(weights, total)


@dataclass(frozen=True)
class RowDraws:
    """The draws of the epochs of a dataset: a pure function of these, the seed and the epoch.

    Attributes:
        rows: Int64 array `(num_rows,)`, the rows that may be drawn.
        units: Int64 array `(num_rows,)`, the expected number of draws of each, in units: integers, so that every
            machine draws the same rows. The units of a bucket are a whole number of draws together.
        unit: Int, the units of one draw: a power of two.
        num_draws: Int, the draws of an epoch.
    """

    rows: RowIndices
    units: NDArray[np.int64]
    unit: int
    num_draws: int

    @classmethod
    def of(cls, sampling: Sampling, row_buckets: NDArray[np.int32], draws: Counts) -> RowDraws:
        """The draws of rows in buckets, given the number of draws of each bucket."""
        num_draws = int(draws.sum())
        unit = 1 << (_UNIT_BITS - num_draws.bit_length())
        order = np.argsort(row_buckets, kind="stable")
        buckets = row_buckets[order]
        splits = np.cumsum(np.bincount(row_buckets, minlength=len(draws)))
        filled = np.flatnonzero(draws)
        # Where each row ends among those of its bucket, from 0 to 1: a bucket's weights may be tiny beside another's.
        shares = sampling.weights[order] / np.bincount(row_buckets, sampling.weights, minlength=len(draws))[buckets]
        sums = np.cumsum(shares)
        before = np.concatenate([[0.0], sums])[np.concatenate([[0], splits[:-1]])]
        ends = np.minimum(sums - before[buckets], 1.0) * (draws[buckets] * float(unit))
        ends = np.rint(ends).astype(np.int64)
        ends[splits[filled] - 1] = draws[filled] * unit
        starts = np.concatenate([[0], ends[:-1]])
        starts[splits[filled[:-1]]] = 0
        units = np.empty(len(order), np.int64)
        units[order] = ends - starts
        return cls(sampling.rows, units, unit, num_draws)

    def fingerprint_bytes(self) -> Iterator[bytes]:
        """The bytes that identify these draws of the data."""
        yield f"{self.num_draws} draws".encode()
        for part in (self.rows, self.units):
            yield part.astype("<i8").tobytes()


def round_draws(weights: Weights, num_draws: int) -> Counts:
    """Rounds the draws `(num_buckets,)`, in proportion to the weights: by the largest remainder, none without weight.

    A bucket with weight gets at least one. It then differs from its expectation by less than one draw, unless so many
    buckets expect less than one that the others do not have enough remainders for all of them.

    Example:
        >>> round_draws(np.array([1.0, 2.0, 4.0, 0.0]), 10).tolist(), round_draws(np.array([0.01, 1.0]), 10).tolist()
        ([1, 3, 6, 0], [1, 9])
    """
    expected = weights / np.cumsum(weights)[-1] * num_draws
    draws: Counts = np.floor(expected).astype(np.int64)
    draws[weights > 0] = np.maximum(draws[weights > 0], 1)
    missing = num_draws - int(draws.sum())
    if missing > 0:
        remainders = np.where(weights > 0, expected - draws, -1.0)
        draws[np.argsort(-remainders, kind="stable")[:missing]] += 1
    for _ in range(-missing):
        draws[np.argmax(np.where(draws > 1, draws - expected, -np.inf))] -= 1
    return draws


def typical_lengths(lengths: Lengths, expected: Weights) -> Lengths:
    """The lengths of the draws of an average epoch, increasing: those at its quantiles.

    Args:
        lengths: Int array `(num_rows,)`.
        expected: The expected number of draws of each row: a whole number together.

    Example:
        >>> typical_lengths(np.array([5, 2, 9]), np.array([2.0, 1.0, 0.4]) / 3.4 * 5).tolist()
        [2, 5, 5, 5, 9]
    """
    distinct, expected = _weights_of_lengths(lengths, expected)
    sums = np.cumsum(expected)
    num_draws = round(float(sums[-1]))
    ends = np.ceil(sums * (num_draws / sums[-1]) - 0.5).astype(np.int64)
    ends[-1] = num_draws
    typical: Lengths = np.repeat(distinct, np.diff(ends, prepend=0))
    return typical


def _weights_of_lengths(lengths: Lengths, weights: Weights) -> tuple[Lengths, Weights]:
    """The distinct lengths, increasing, and the weight of all rows of each."""
    distinct, rows = np.unique(lengths, return_inverse=True)
    return distinct, np.bincount(rows, weights).astype(np.float64)


def count_weights(lengths: Lengths, weights: Weights) -> tuple[Lengths, Counts]:
    """The distinct lengths, increasing, and the weight of each in whole numbers, at least 1: for `best_partitions`.

    The weights are multiplied by a power of two, so that whole numbers stay in proportion, and partitions are those of
    the same number of rows.
    """
    distinct, weights = _weights_of_lengths(lengths, weights)
    bits = min(30, 60 - int(distinct[-1]).bit_length())
    scale = bits - int(np.ceil(np.log2(np.cumsum(weights)[-1])))
    counts: Counts = np.maximum(np.rint(np.ldexp(weights, scale)), 1).astype(np.int64)
    return distinct, counts


def typical_rows(lengths: Lengths, expected: Weights) -> RowIndices:
    """The rows of the draws of an average epoch, the shortest first."""
    order = np.argsort(lengths, kind="stable")
    sums = np.cumsum(expected[order])
    num_draws = round(float(sums[-1]))
    rows: RowIndices = order[np.searchsorted(sums, (np.arange(num_draws) + 0.5) * (sums[-1] / num_draws))]
    return rows


def expected_draws(weights: Weights, row_buckets: NDArray[np.int32], draws: Counts) -> Weights:
    """The mean number of draws of each row in an epoch."""
    sums = np.bincount(row_buckets, weights, minlength=len(draws))
    # Shares first: the weights of a bucket may be so tiny beside those of others that one over their sum is infinite.
    expected: Weights = weights / np.where(sums > 0, sums, 1.0)[row_buckets] * draws[row_buckets]
    return expected


# The arguments.


@dataclass(frozen=True)
class SamplingArguments:
    """Checked arguments, before the rows are known.

    Attributes:
        weights: Float64 array, of a finite sum, or None for equal weights.
        rows_per_epoch: Int or None.
    """

    weights: Weights | None
    rows_per_epoch: int | None

    def of_rows(self, num_given: int, kept: RowIndices | None) -> Sampling:
        """The rows that may be drawn, numbered among those that were not dropped as empty, `kept`.

        Raises:
            ValueError: If there is not one weight for each row of the input, or no remaining weight is above 0.
        """
        weights = np.ones(num_given) if self.weights is None else self.weights
        if len(weights) != num_given:
            raise ValueError(
                f"`sampling_weights` must have one value for each row. Expected shape ({num_given},), received "
                f"({len(weights)},)."
            )
        weights = weights if kept is None else weights[kept]
        rows = np.flatnonzero(weights)
        if not rows.size:
            raise ValueError(
                "`sampling_weights` are 0 for all rows that are left, so there is nothing to draw. Expected a weight "
                "above 0 for at least one of them."
            )
        number = len(rows) if self.rows_per_epoch is None else self.rows_per_epoch
        return Sampling(rows, weights[rows], number, self.rows_per_epoch is not None)


def check_sampling(
    sampling_weights: object, rows_per_epoch: object, remainder: str, shuffle: bool
) -> SamplingArguments | None:
    """Checks everything that needs no data; None if each row is read once."""
    if sampling_weights is None and rows_per_epoch is None:
        return None
    given = "sampling_weights" if sampling_weights is not None else "rows_per_epoch"
    if not shuffle:
        raise ValueError(
            f"`{given}` makes every epoch draw different rows. Expected shuffle=True, received "
            "False. To read every row once, in order, leave it out: dataset.subset(rows, shuffle=False, "
            "sampling_weights=None, rows_per_epoch=None)."
        )
    if remainder == "drop":
        raise ValueError(
            f"`{given}` draws as many rows as batches have room for, so that none are left. Expected "
            'remainder="spill" or "keep", received "drop".'
        )
    number = None if rows_per_epoch is None else check_integer("rows_per_epoch", rows_per_epoch, maximum=INT32_MAX)
    return SamplingArguments(None if sampling_weights is None else _check_weights(sampling_weights), number)


def _check_weights(sampling_weights: Any) -> Weights:
    fix = "Pass one number for each row, e.g. 1 / class_counts[y]."
    try:
        array = np.asarray(sampling_weights)
    except (TypeError, ValueError):
        array = np.array(None)
    if array.dtype.kind == "b":
        raise TypeError(
            "`sampling_weights` must be numbers. Received booleans. To read only some of the rows, use "
            "dataset.subset(mask); to draw them equally often, pass mask.astype(float)."
        )
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`sampling_weights` must be numbers. Received {show_typed(sampling_weights)}. {fix}")
    if array.ndim != 1:
        raise ValueError(
            f"`sampling_weights` must have one dimension. Expected shape (num_sequences,), received {array.shape}. "
            f"{fix}"
        )
    weights = array.astype(np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"`sampling_weights` must be finite numbers, at least 0. Received {show(array[at].item())} at "
            f"sampling_weights[{at}]."
        )
    if not weights.any():
        raise ValueError(
            f"`sampling_weights` must not all be 0. Received {len(weights)} of them, none above 0. A row of weight 0 "
            "is never drawn."
        )
    with np.errstate(over="ignore"):
        return weights if np.isfinite(weights.sum()) else weights / weights.max()
