"""One label a sequence, as numbers whose sums say what a batch holds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from keras_bucketing.planning.boundaries import count_lengths
from keras_bucketing.planning.cuts import BatchCuts


@dataclasses.dataclass(frozen=True)
class Labels:
    """Classes, or values.

    Attributes:
        values: Int array `(num_sequences,)`, the class of each sequence from 0 on; or float array `(num_sequences,
            num_columns)`, values.
        num_classes: Int; 0 for values.
    """

    values: np.ndarray
    num_classes: int

    def in_order(self, rows: np.ndarray) -> Labels:
        """The labels of these rows."""
        return Labels(self.values[rows], self.num_classes)

    def moments(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The means and variances of consecutive groups of sequences; of classes, one column each is 0 or 1.

        Args:
            counts: Int array `(num_groups,)`, the sequences of each group, together all of them.

        Returns:
            Float arrays: means `(num_groups, num_columns)`, and the variances of all columns together `(num_groups,)`.
            Both are 0 for an empty group.

        Example:
            >>> check_labels(["a", "b", "a"], 3).moments(np.array([1, 2]))
            (array([[1. , 0. ],
                   [0.5, 0.5]]), array([0. , 0.5]))
        """
        some = np.maximum(counts, 1)[:, np.newaxis]
        groups = np.repeat(np.arange(len(counts)), counts)
        if self.num_classes:
            cells = np.bincount(groups * self.num_classes + self.values, minlength=len(counts) * self.num_classes)
            shares = cells.reshape(len(counts), self.num_classes) / some
            return shares, (shares * (1 - shares)).sum(axis=1)
        sums, squares = np.zeros((2, len(counts), self.values.shape[1]))
        np.add.at(sums, groups, self.values)
        means = sums / some
        np.add.at(squares, groups, (self.values - means[groups]) ** 2)
        return means, (squares / some).sum(axis=1)


def check_labels(y: Any, num_sequences: int) -> Labels:
    """Takes labels as the user has them.

    Args:
        y: Array `(num_sequences,)`: integers, booleans and strings are classes, floats are values. Or numbers
            `(num_sequences, num_columns)`, such as one-hot classes.
        num_sequences: Int, how many there must be.

    Raises:
        TypeError: If `y` is neither numbers nor strings.
        ValueError: If it has another shape, or holds NaN.
    """
    try:
        array = np.asarray(y)
    except ValueError:  # of uneven shape
        array = np.array(None)
    if array.dtype.kind not in "biufUS":
        raise TypeError(
            "`y` must be one number or string a sequence. Received a list of uneven shape or other objects "
            f"({type(y).__name__}). Labels of each timestep do not say how uneven batches are: leave them out."
        )
    if array.ndim not in (1, 2) or len(array) != num_sequences or (array.ndim == 2 and array.dtype.kind in "US"):
        raise ValueError(
            f"`y` must have one label for each length. Expected shape ({num_sequences},), or ({num_sequences}, "
            f"num_columns) of numbers, received {array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array).reshape(num_sequences, -1).all(axis=1)))
        raise ValueError(f"`y` must be finite. Received {array[at]} at y[{at}]. Leave that sequence out.")
    if array.ndim == 1 and array.dtype.kind != "f":
        classes, of_rows = np.unique(array, return_inverse=True)
        return Labels(of_rows, len(classes))
    return Labels(array.reshape(num_sequences, -1).astype(float), 0)


# What batches filled at random would cost, without drawing one.


_log_factorial = np.vectorize(lambda number: math.lgamma(number + 1.0), otypes=[np.float64])


def expected_random_timesteps(lengths: np.ndarray, batch_rows: np.ndarray) -> float:
    """Expects the timesteps of random batches that are padded to their longest row.

    The longest of m rows drawn without replacement from n is at most `l` with the hypergeometric probability
    `C(rows not longer than l, m) / C(n, m)`, which gives its expectation exactly.

    Args:
        lengths: Int array of shape `(num_sequences,)`, at least 0, in timesteps.
        batch_rows: Int array of shape `(num_batches,)`, how many of these sequences each batch takes.

    Returns:
        Float, the expected sum over the batches of rows x longest row, in timesteps.

    Example:
        Two of the lengths 1, 1, 4: the longest is 1 with probability 1/3 and 4 with 2/3, so 3 on average.

        >>> import numpy as np
        >>> round(expected_random_timesteps(np.array([1, 1, 4]), np.array([2])), 9)
        6.0
    """
    if lengths.size == 0:
        return 0.0
    distinct, counts = count_lengths(lengths)
    rows_up_to = np.cumsum(counts)
    log_factorial_up_to = _log_factorial(rows_up_to)
    sizes, num_batches = np.unique(batch_rows[batch_rows > 0], return_counts=True)
    timesteps = 0.0
    for size, batches in zip(sizes.tolist(), num_batches.tolist(), strict=True):
        enough = rows_up_to >= size  # fewer rows than the batch takes cannot hold all of it
        log_ways = log_factorial_up_to[enough] - _log_factorial(rows_up_to[enough] - size)
        at_most = np.exp(log_ways - log_ways[-1])
        longest = float(distinct[enough] @ np.diff(at_most, prepend=0.0))
        timesteps += batches * size * longest
    return timesteps


# What the shuffled batches of buckets are like on average, without drawing one: their padding, company and labels.
#
# Each epoch shuffles the rows of a bucket evenly, so a batch holds a random sample of each bucket that it takes rows
# of, and all expectations are exact. NumPy only.


@dataclasses.dataclass(frozen=True)
class ShuffledBatches:
    """The batches of every epoch, by how many rows of each bucket they take.

    Attributes:
        rows: Int64 array `(num_kinds, num_buckets)`: the rows of each bucket in a batch of each kind.
        numbers: Int64 array `(num_kinds,)`: the batches of each kind.
        counts: Int64 array `(num_buckets,)`: the rows of each bucket.
    """

    rows: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray

    @classmethod
    def from_cuts(cls, counts: np.ndarray, cuts: BatchCuts) -> ShuffledBatches:
        """Gathers batches of one kind.

        Args:
            counts: Int array `(num_buckets,)`: the rows of each bucket.
            cuts: The batches, with no spare rows.

        Example:
            Batches of two rows, from buckets of three rows and one: the second batch takes one of each.

            >>> pairs = BatchCuts(np.array([0, 2]), np.array([2, 4]), np.array([0, 1]), 0)
            >>> ShuffledBatches.from_cuts(np.array([3, 1]), pairs).rows.tolist()
            [[2, 0], [1, 1]]
        """
        ends = np.cumsum(counts)
        first = np.searchsorted(ends, cuts.starts, side="right")
        last = np.searchsorted(ends, cuts.stops - 1, side="right")
        # Two batches are of one kind where they agree on these: between its first and its last bucket one takes all.
        of_first = np.minimum(cuts.stops, ends[first]) - cuts.starts
        of_last = cuts.stops - np.maximum(cuts.starts, ends[last] - counts[last])
        _, index, numbers = np.unique(
            np.stack([first, last, of_first, of_last]), axis=1, return_index=True, return_counts=True
        )
        starts, stops = cuts.starts[index, np.newaxis], cuts.stops[index, np.newaxis]
        rows = np.maximum(np.minimum(stops, ends) - np.maximum(starts, ends - counts), 0)
        return cls(rows, numbers, counts)

    def expected_longest(self, lengths: np.ndarray) -> np.ndarray:
        """Expects the longest row of a batch of each kind: float array `(num_kinds,)`, in timesteps.

        Args:
            lengths: Int array `(num_sequences,)`, increasing.
        """
        ends = np.cumsum(self.counts)
        longest = np.zeros(len(self.rows))
        for kind, rows in enumerate(self.rows):
            bucket = np.flatnonzero(rows)[-1]  # the longest row is of the longest bucket
            of_bucket = lengths[ends[bucket] - self.counts[bucket] : ends[bucket]]
            longest[kind] = expected_random_timesteps(of_bucket, rows[[bucket]]) / rows[bucket]
        return longest

    def expected_timesteps(self, lengths: np.ndarray) -> float:
        """Expects the sum over the batches of rows x longest row, in timesteps.

        Args:
            lengths: Int array `(num_sequences,)`, increasing.
        """
        return float((self.numbers * self.rows.sum(axis=1)) @ self.expected_longest(lengths))

    def expected_batch_mates(self, num_epochs: int) -> float:
        """Expects how many other rows a row shares a batch with in so many epochs, each counted once.

        The average over all rows. Two rows of a bucket of n share one of its batches, with c rows of it each, with
        probability p = sum c (c - 1) / (n (n - 1)), rows of two buckets with p = sum c d / (n m), and in one epoch at
        least with 1 - (1 - p) ** num_epochs.
        """
        shared = (self.rows.T @ (self.rows * self.numbers[:, np.newaxis])).astype(float)
        np.fill_diagonal(shared, (self.rows * (self.rows - 1) / 2).T @ self.numbers)
        pairs = np.outer(self.counts, self.counts).astype(float)
        np.fill_diagonal(pairs, self.counts * (self.counts - 1) / 2)
        each_once = np.triu_indices(len(pairs))
        shared, pairs = shared[each_once], pairs[each_once]
        chance = np.divide(shared, pairs, out=np.zeros_like(pairs), where=pairs > 0)
        return float(2 * (pairs * (1 - (1 - np.minimum(chance, 1)) ** num_epochs)).sum() / self.counts.sum())

    def expected_label_imbalance(self, labels: Labels) -> float:
        """Expects how far the batches' labels are from those of all rows, as a multiple of what random batches have.

        The squared distance of the sums of a batch from those of as many average rows. Those of c random rows out of n
        have mean c m and variance c v (n - c) / (n - 1), if m and v are the mean and the variance of the n rows.

        Args:
            labels: One label a row, in the order of the lengths.
        """
        means, variances = labels.moments(self.counts)
        overall_mean, overall_variance = labels.moments(self.counts.sum(keepdims=True))
        sizes, num_rows = self.rows.sum(axis=1), int(self.counts.sum())
        distance = ((self.rows @ means - sizes[:, np.newaxis] * overall_mean) ** 2).sum(axis=1)
        distance += (self.rows * (self.counts - self.rows) / np.maximum(self.counts - 1, 1)) @ variances
        of_random = sizes * (num_rows - sizes) / max(num_rows - 1, 1) * overall_variance
        expected = float(self.numbers @ of_random)
        return float(self.numbers @ distance) / expected if expected else 1.0
