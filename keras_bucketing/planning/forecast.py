"""The cost of an epoch of batches, on average over its shuffles: padding, memory, randomness, labels.

Each epoch shuffles the rows of a bucket evenly, so a batch holds a random sample of each bucket that it takes rows
from, and all expectations are exact; none is sampled. Two terms are used throughout:

- the distinct batchmates of a sequence are the other sequences that it shares a batch with in some epochs, each counted
  once: the more, the more random the batches;
- a repeated pair is two sequences that share a batch in both of two epochs.

NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.planning.boundaries import Counts, count_lengths
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import BatchCuts, BatchRules, BatchSpans, spans_of

Figures = NDArray[np.float64]  # expectations
BATCHMATE_EPOCHS = 10  # that distinct batchmates are counted over: about as long as people train


class BatchKinds(NamedTuple):
    """The batches of every epoch, by bucket and by how many rows of each bucket they take.

    Attributes:
        buckets: Int64 array `(num_kinds,)`: the bucket whose size and boundary the batches have.
        rows: Int64 array `(num_kinds, num_buckets)`: the rows of each bucket in such a batch.
        numbers: Int64 array `(num_kinds,)`: how many batches of an epoch are of that kind.
    """

    buckets: Counts
    rows: Counts
    numbers: Counts

    @property
    def sizes(self) -> Counts:
        """Int64 array `(num_kinds,)`: the rows of such a batch."""
        sizes: Counts = self.rows.sum(axis=1)
        return sizes


@dataclass(frozen=True)
class ShuffledBatches:
    """The cost of the batches of every epoch, on average over its shuffles.

    Attributes:
        spans: The rows that the batches of each bucket take. Spare rows are assumed to be the longest.
        counts: Int array `(num_buckets,)`: the rows in each bucket.
        max_lengths: Int array `(num_buckets,)`: the maximum padded length of a batch of each bucket, in timesteps.
        lengths: The lengths of all rows; None if all batches are padded to these maxima.

    Example:
        Batches of two rows, from buckets of three rows and one: the second batch takes one of each.

        >>> lengths = np.array([1, 1, 2, 9])
        >>> batches = ShuffledBatches.from_buckets(lengths, Buckets.from_lengths(lengths, [3], [2, 2]), BatchRules())
        >>> batches.kinds.rows.tolist(), batches.num_batches, batches.largest_batch
        ([[2, 0], [1, 1]], 2, 18)
        >>> round(batches.padded_timesteps, 3)  # 2 x 5/3 + 2 x 9
        21.333
    """

    spans: BatchSpans
    counts: Counts
    max_lengths: Lengths
    lengths: LengthTable | None = None

    @classmethod
    def from_buckets(cls, lengths: Lengths, buckets: Buckets, rules: BatchRules) -> ShuffledBatches:
        """The batches of rows in these buckets; their lengths in increasing order, whatever that of the buckets is."""
        spans = spans_of(buckets, rules.remainder, rules.multiple)
        if rules.pad_to_bucket_boundary:
            return cls(spans, buckets.counts, buckets.upper_lengths)
        last_rows = np.maximum(np.cumsum(buckets.counts), 1) - 1
        return cls(spans, buckets.counts, lengths[last_rows], LengthTable.from_counts(*count_lengths(lengths)))

    @classmethod
    def from_nested(cls, buckets: Buckets, rules: BatchRules) -> ShuffledBatches:
        """The batches of nested buckets, as if all were padded to their maxima; which rows share batches is exact."""
        spans = spans_of(buckets, rules.remainder, rules.multiple)
        return cls(spans, buckets.counts, buckets.upper_lengths)

    @property
    def num_batches(self) -> int:
        """Int, the batches of an epoch."""
        return int(self.spans.num_batches.sum())

    @property
    def largest_batch(self) -> int:
        """Int, the maximum of padded timesteps in a batch."""
        return int((np.minimum(self.spans.batch_sizes, self.spans.rows) * self.max_lengths).max())

    @property
    def padded_timesteps(self) -> float:
        """The sum over the batches of rows x padded length: exactly, an int, or else its expectation."""
        if self.lengths is None:
            return int(self.spans.rows @ self.max_lengths)
        return float((self.kinds.numbers * self.kinds.sizes) @ self.padded_lengths)

    def expected_cost(self, cost_of_batch: Callable[[Counts, Figures, Figures], Figures]) -> float:
        """The sum over the batches of a cost that is linear in the padded length and in its square.

        Args:
            cost_of_batch: Function from rows, padded lengths and their squares, arrays `(num_kinds,)`, to the cost of
                such batches.
        """
        costs = cost_of_batch(self.kinds.sizes, self.padded_lengths, self._expected_powers(2))
        return float(self.kinds.numbers @ costs)

    @cached_property
    def kinds(self) -> BatchKinds:
        """The kinds of batches, in which all expectations are summed up."""
        cuts = BatchCuts.from_spans(self.spans, num_spare=0)
        starts, stops, counts = cuts.starts, cuts.stops, self.counts[cuts.order]
        ends = np.cumsum(counts)
        first = np.searchsorted(ends, starts, side="right")
        last = np.searchsorted(ends, stops - 1, side="right")
        # Two batches are of one kind where they agree on these: between its first and its last bucket one takes all.
        first_rows = np.minimum(stops, ends[first]) - starts
        last_rows = stops - np.maximum(starts, ends[last] - counts[last])
        _, index, numbers = np.unique(
            np.stack([cuts.buckets, first, last, first_rows, last_rows]), axis=1, return_index=True, return_counts=True
        )
        begins = ends - counts
        rows = np.minimum(stops[index, np.newaxis], ends) - np.maximum(starts[index, np.newaxis], begins)
        return BatchKinds(cuts.buckets[index], np.maximum(rows, 0)[:, cuts.places], numbers)

    @cached_property
    def padded_lengths(self) -> Figures:
        """Float array `(num_kinds,)`: the mean padded length of the batches of each kind, in timesteps."""
        return self._expected_powers(1)

    def _expected_powers(self, power: int) -> Figures:
        """Float array `(num_kinds,)`: the mean of a power of the padded length of the batches of each kind."""
        longest = self.max_lengths[self.kinds.buckets].astype(np.float64) ** power
        if self.lengths is None:
            return longest
        # The longest row is of the longest bucket that the batch has rows of.
        rows, kinds = self.kinds.rows, np.arange(len(longest))
        buckets = rows.shape[1] - 1 - np.argmax(rows[:, ::-1] > 0, axis=1)
        ends = np.cumsum(self.counts)
        drawn = rows[kinds, buckets]
        # A batch of all rows of a bucket has its longest.
        some = drawn < self.counts[buckets]
        last, size = ends[buckets] - 1, self.counts[buckets]
        longest[~some] = self.lengths.length_of(last[~some]).astype(np.float64) ** power
        if some.any():
            longest[some] = self.lengths.expected_longest((last - size + 1)[some], size[some], drawn[some], power)
        return longest

    def distinct_batchmates(self, num_epochs: int = BATCHMATE_EPOCHS) -> float:
        """The expected number of distinct batchmates of a row in some epochs, averaged over all rows.

        Two rows of a bucket of n share one of its batches, with c rows of it each, with probability p = sum c (c - 1) /
        (n (n - 1)), rows of two buckets with p = sum c d / (n m), and in one epoch at least with 1 - (1 - p) **
        num_epochs.
        """
        rows = self.kinds.rows
        shared = (rows.T @ (rows * self.kinds.numbers[:, np.newaxis])).astype(float)
        np.fill_diagonal(shared, (rows * (rows - 1) / 2).T @ self.kinds.numbers)
        pairs = np.outer(self.counts, self.counts).astype(float)
        np.fill_diagonal(pairs, self.counts * (self.counts - 1) / 2)
        each_once = np.triu_indices(len(pairs))
        shared, pairs = shared[each_once], pairs[each_once]
        chance = np.divide(shared, pairs, out=np.zeros_like(pairs), where=pairs > 0)
        return float(2 * (pairs * (1 - (1 - np.minimum(chance, 1)) ** num_epochs)).sum() / self.counts.sum())

    def label_imbalance(self, labels: Labels) -> float:
        """The expected distance of the batches' labels from those of all rows, as a multiple of that of random batches.

        It is the squared distance of the sums of a batch from those of as many average rows. The sums of c random rows
        out of n have mean c m and variance c v (n - c) / (n - 1), if m and v are the mean and the variance of the n
        rows. The labels are in the order of the lengths.
        """
        means, variances = labels.moments(self.counts)
        overall_mean, overall_variance = labels.moments(self.counts.sum(keepdims=True))
        rows, sizes, num_rows = self.kinds.rows, self.kinds.sizes, int(self.counts.sum())
        distance = ((rows @ means - sizes[:, np.newaxis] * overall_mean) ** 2).sum(axis=1)
        distance += (rows * (self.counts - rows) / np.maximum(self.counts - 1, 1)) @ variances
        random_distance = sizes * (num_rows - sizes) / max(num_rows - 1, 1) * overall_variance
        expected = float(self.kinds.numbers @ random_distance)
        return float(self.kinds.numbers @ distance) / expected if expected else 1.0


@dataclass(frozen=True)
class Labels:
    """One label per sequence, as numbers whose sums describe a batch.

    Attributes:
        values: Int array `(num_sequences,)`, the class of each sequence from 0 on; or float array
            `(num_sequences, num_columns)`, values.
        num_classes: Int; 0 for values.
    """

    values: NDArray[np.number]
    num_classes: int

    def in_order(self, rows: Counts) -> Labels:
        """The labels of these rows."""
        return Labels(self.values[rows], self.num_classes)

    def moments(self, counts: Counts) -> tuple[Figures, Figures]:
        """The means and variances of consecutive groups of sequences; of classes, one column each is 0 or 1.

        Args:
            counts: Int array `(num_groups,)`, the sequences of each group, together all of them.

        Returns:
            Means `(num_groups, num_columns)`, and the variances of all columns together `(num_groups,)`. Both are 0 for
            an empty group.

        Example:
            >>> Labels(np.array([0, 1, 0]), num_classes=2).moments(np.array([1, 2]))
            (array([[1. , 0. ],
                   [0.5, 0.5]]), array([0. , 0.5]))
        """
        some = np.maximum(counts, 1)[:, np.newaxis]
        groups = np.repeat(np.arange(len(counts)), counts)
        if self.num_classes:
            numbers = np.bincount(groups * self.num_classes + self.values, minlength=len(counts) * self.num_classes)
            shares = numbers.reshape(len(counts), self.num_classes) / some
            return shares, (shares * (1 - shares)).sum(axis=1)
        sums, squares = np.zeros((2, len(counts), self.values.shape[1]))
        np.add.at(sums, groups, self.values)
        means = sums / some
        np.add.at(squares, groups, (self.values - means[groups]) ** 2)
        return means, (squares / some).sum(axis=1)


@dataclass(frozen=True)
class LengthTable:
    """Lengths in increasing order, each distinct one once, with its rows.

    Attributes:
        distinct: Int64 array `(num_distinct,)`, increasing.
        rows_up_to: Int64 array `(num_distinct,)`: how many rows are not longer.
        timesteps_up_to: Int64 array `(num_distinct,)`: how many timesteps these have together.
        max_points: Int, expectations over more distinct lengths are sums over about so many groups of them; None for
            exact ones.
    """

    distinct: Lengths
    rows_up_to: Counts
    timesteps_up_to: Counts
    max_points: int | None = None

    @classmethod
    def from_counts(cls, distinct: Lengths, counts: Counts, max_points: int | None = None) -> LengthTable:
        """The table of what `count_lengths` returns."""
        return cls(distinct, np.cumsum(counts), np.cumsum(distinct * counts), max_points)

    def length_of(self, rows: Counts) -> Lengths:
        """The lengths of the rows at these positions."""
        return self.distinct[np.searchsorted(self.rows_up_to, rows, side="right")]

    def expected_longest(self, first_rows: Counts, num_rows: Counts, drawn: Counts, power: int = 1) -> Figures:
        """The expected longest of some rows drawn from consecutive ones, without replacement, or a power of it.

        The longest of m rows out of n is at most `l` with the hypergeometric probability
        `C(rows not longer than l, m) / C(n, m)`.

        Args:
            first_rows: Int array `(num_cases,)`: the position of the first row that may be drawn, in each case.
            num_rows: Int array `(num_cases,)`: how many rows from there on may be drawn.
            drawn: Int array `(num_cases,)`: how many are drawn, from 1 to that number.
            power: Int, the power of the length.
        """
        first = np.searchsorted(self.rows_up_to, first_rows, side="right")
        last = np.searchsorted(self.rows_up_to, first_rows + num_rows - 1, side="right")
        points, means = zip(*map(self._points, first_rows.tolist(), first.tolist(), last.tolist()), strict=True)
        cases = np.repeat(np.arange(len(drawn)), [len(part) for part in points])
        rows = np.minimum(np.concatenate(points), (first_rows + num_rows)[cases]) - first_rows[cases]
        # Fewer rows than are drawn cannot hold them all.
        m, n = drawn[cases], num_rows[cases]
        enough = rows >= m
        rows = np.where(enough, rows, m)
        log_ways = _log_factorial(rows) - _log_factorial(rows - m)
        log_all = _log_factorial(num_rows) - _log_factorial(num_rows - drawn)
        at_most = np.where(enough, np.exp(log_ways - log_all[cases]), 0.0)
        at_most[enough & (rows == n)] = 1.0
        starts = np.searchsorted(cases, np.arange(len(drawn)))
        exactly = np.diff(at_most, prepend=0.0)
        exactly[starts] = at_most[starts]
        return np.add.reduceat(exactly * np.concatenate(means) ** power, starts)

    def _points(self, first_row: int, first: int, last: int) -> tuple[Counts, Figures]:
        """Of the distinct lengths first..last, or of groups of them: the last row, exclusive, and the mean length."""
        if self.max_points is None or last - first < self.max_points:
            return self.rows_up_to[first : last + 1], self.distinct[first : last + 1].astype(float)
        # The longest row is most likely among the longest few, so the groups get finer towards them.
        half = self.max_points // 2
        span = last - first
        from_end = np.concatenate([np.geomspace(1, span + 1, half), np.linspace(1, span + 1, half)])
        ends = np.union1d(last + 1 - from_end.astype(np.int64), [last])
        rows = self.rows_up_to[ends]
        timesteps = self.timesteps_up_to[ends]
        before = int(self.rows_up_to[first - 1]) if first else 0
        timesteps_before = int(self.timesteps_up_to[first - 1]) if first else 0
        means = np.diff(timesteps, prepend=timesteps_before) / np.diff(rows, prepend=before)
        return rows, means


_SMALL_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 32)))])


def _log_factorial(numbers: Counts) -> Figures:
    """The logarithm of each factorial: by Stirling's series, whose next term is below 1e-15 from 32 on."""
    large = np.maximum(numbers, 32).astype(float)
    inverse = 1 / large
    series = inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 * (1 / 1260 - inverse**2 / 1680)))
    stirling = large * (np.log(large) - 1) + 0.5 * np.log(2 * np.pi * large) + series
    figures: Figures = np.where(numbers < 32, _SMALL_FACTORIALS[np.minimum(numbers, 31)], stirling)
    return figures


def expected_random_timesteps(lengths: Lengths, batch_rows: Counts) -> float:
    """The expected padded timesteps of random batches, each padded to its longest row: exact.

    Args:
        lengths: Int array of shape `(num_sequences,)`, at least 0, in timesteps.
        batch_rows: Int array of shape `(num_batches,)`, the number of these sequences in each batch.

    Returns:
        Float, the expected sum over the batches of rows x longest row.

    Example:
        Two of the lengths 1, 1, 4: the longest is 1 with probability 1/3 and 4 with 2/3, so 3 on average.

        >>> import numpy as np
        >>> round(expected_random_timesteps(np.array([1, 1, 4]), np.array([2])), 9)
        6.0
    """
    sizes, num_batches = np.unique(batch_rows[batch_rows > 0], return_counts=True)
    if not sizes.size:
        return 0.0
    table = LengthTable.from_counts(*count_lengths(lengths))
    first, num_rows = np.array([0]), np.array([lengths.size])
    timesteps = (
        batches * size * float(table.expected_longest(first, num_rows, np.array([size]))[0])  # one by one, for memory
        for size, batches in zip(sizes.tolist(), num_batches.tolist(), strict=True)
    )
    return math.fsum(timesteps)
