"""What the shuffled batches of buckets are like on average, without drawing one: their padding, company and labels.

Each epoch shuffles the rows of a bucket evenly, so a batch holds a random sample of each bucket that it takes rows of,
and all expectations are exact. NumPy only.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_bucketing.padding.labels import Labels
from keras_bucketing.padding.random_batches import expected_random_timesteps
from keras_bucketing.planning.batch_cuts import BatchCuts


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
