"""From the lengths of a window of a stream to its batches: a pure function of (lengths, seed, epoch, window).

    rows, shortest first     | bucket 0              | bucket 1       | bucket 2  |
    shuffled inside          | 4 9 2 7 0 5 8 15      | 1 11 3 6 12    | 10 13 14  |
    cut from the longest     | 4 9 2 [ 7 0 5 ][ 8 15 1 ][ 11 3 6 ][ 12 10 ][ 13 14 ]
    batches shuffled           wait  [ 11 3 6 ][ 13 14 ][ 7 0 5 ][ 12 10 ][ 8 15 1 ]

What does not fill a batch of a bucket is filled up with rows of the next shorter one, so that a window leaves no rare
length behind: the rows that wait for the next window are among its shortest. None of them waits twice.

In NumPy, called once a window: TensorFlow would rewrite a graph of its hundreds of operations in each pass, which takes
longer than planning does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.planning.boundaries import Counts
from keras_bucketing.planning.buckets import BatchSizing

Indices = NDArray[np.int64]


class WindowPlan(NamedTuple):
    """The batches of a window.

    Attributes:
        order: Int64 `(num_rows,)`: the rows of the window; first those that wait, then by bucket, the shortest first.
        num_waiting: Int, how many wait for the next window.
        starts: Int64 `(num_batches,)`: the position of each batch's first row in `order`.
        sizes: Int64 `(num_batches,)`: the rows of each batch.
        buckets: Int64 `(num_batches,)`: the bucket of each batch; no row of it belongs to a longer one.
        padded_lengths: Int64 `(num_batches,)`: what the sequences of each batch are padded to at least.
    """

    order: Indices
    num_waiting: int
    starts: Indices
    sizes: Counts
    buckets: Indices
    padded_lengths: Lengths


class WindowKey(NamedTuple):
    """Which random numbers a window draws: those of its number in an epoch, under a seed."""

    seed: int
    epoch: int
    window: int

    def permutation(self, size: int, purpose: int) -> Indices:
        """One of `size` things, another one for each purpose; the same with every version of NumPy."""
        philox = np.random.Philox(key=[self.seed, self.epoch], counter=[0, self.window, purpose, 0])
        return np.argsort(philox.random_raw(size), kind="stable")


@dataclass(frozen=True)
class WindowPlanner:
    """Plans windows.

    Attributes:
        sizing: How batches are sized.
        most_rows: Ints, the rows of a batch of each bucket, or of all; next to a budget, the most of them.
        min_length: Int, the least padded length.
        max_length: Int, the length that longer sequences have been cut to; None for none.
        pad_to_bucket_boundary: Bool, whether batches are padded to the longest length that their bucket allows.
        drop_remainder: Bool, whether the one partial batch of a pass is left out.
        shuffle: Bool, whether rows inside their bucket and batches are shuffled; if not, rows are sorted by length.
    """

    sizing: BatchSizing
    most_rows: list[int]
    min_length: int
    max_length: int | None
    pad_to_bucket_boundary: bool
    drop_remainder: bool
    shuffle: bool

    def plan(
        self,
        lengths: Lengths,
        label_lengths: Lengths,
        num_waited: int,
        boundaries: list[int],
        key: WindowKey,
        is_last: bool = False,
    ) -> WindowPlan:
        """Plans the full batches of a window, and of the last one that of the rows which are left.

        Args:
            lengths: Int64 `(num_rows,)`, the timesteps that each row needs.
            label_lengths: Int64 `(num_rows,)`, what labels of their own length are padded to; they count in a budget.
            num_waited: How many rows come from the window before; they are the first ones.
            boundaries: As `BucketedSequence.bucket_boundaries`.
            key: The random numbers of the window.
            is_last: Whether the source has ended.

        Raises:
            ValueError: If a row does not fit into the budget, or is beyond the last bucket's upper end.
        """
        lengths = np.maximum(lengths, self.min_length)
        buckets = np.searchsorted(boundaries, lengths, side="right")
        num_buckets = len(boundaries) + 1
        upper_lengths = self._upper_lengths(boundaries, lengths)
        counts = np.bincount(buckets, minlength=num_buckets)
        needed = np.maximum(_longest(lengths, buckets, num_buckets), _longest(label_lengths, buckets, num_buckets))
        rows = self._rows_of_batches(counts, np.maximum(needed, upper_lengths))
        ends, num_batches = _cut_from_the_longest(counts, rows)
        num_waiting = len(lengths) - int((num_batches * rows).sum())
        ranks = key.permutation(len(lengths), 0) if self.shuffle else np.arange(len(lengths))
        order = np.lexsort((ranks, buckets if self.shuffle else lengths))
        order = _let_others_wait(order, order < num_waited, num_waiting)

        batch_buckets = np.repeat(np.arange(len(rows)), num_batches)
        within = np.arange(len(batch_buckets)) - np.repeat(np.cumsum(num_batches) - num_batches, num_batches)
        sizes = rows[batch_buckets]
        starts = ends[batch_buckets] - (within + 1) * sizes
        batches = key.permutation(len(starts), 1) if self.shuffle else np.argsort(starts)
        parts = np.stack([starts, sizes, batch_buckets])[:, batches]
        spare = num_waiting % self.sizing.multiple
        if is_last and not self.drop_remainder and num_waiting > spare:
            partial = [spare, num_waiting - spare, buckets[order[spare:num_waiting]].max()]
            parts = np.append(parts, np.transpose([partial]), axis=1)
        starts, sizes, batch_buckets = parts
        return WindowPlan(order, num_waiting, starts, sizes, batch_buckets, upper_lengths[batch_buckets])

    def _upper_lengths(self, boundaries: list[int], lengths: Lengths) -> Lengths:
        """Int64 `(num_buckets,)`: what the sequences of each bucket are padded to at least."""
        if not self.pad_to_bucket_boundary:
            return np.full(len(boundaries) + 1, self.min_length, np.int64)
        last = self.max_length
        if last is None:  # as in tf.data, the last boundary is an upper end
            last = boundaries[-1]
            if lengths.max(initial=0) >= last:
                raise ValueError(
                    "With pad_to_bucket_boundary=True, sequences must be shorter than the last of `bucket_boundaries`, "
                    f"as in tf.data. Expected lengths below {last}, received {lengths.max()}. Add a boundary, or cut "
                    "sequences with maxlen."
                )
        return np.maximum([*(boundary - 1 for boundary in boundaries), last], self.min_length)

    def _rows_of_batches(self, counts: Counts, padded_lengths: Lengths) -> Counts:
        """Int64 `(num_buckets,)`: the rows of a full batch of each bucket, whose longest leaf is padded to that."""
        most_rows = np.broadcast_to(np.array(self.most_rows, np.int64), len(counts))
        if self.sizing.max_timesteps_per_batch is None:
            return most_rows
        # A batch is filled up with rows of shorter buckets, whose labels may be longer.
        padded_lengths = np.maximum.accumulate(padded_lengths)
        fitting = self.sizing.rows_at(padded_lengths)
        too_long = padded_lengths[(counts > 0) & (fitting == 0)]
        if too_long.size:
            raise ValueError(
                "`max_timesteps_per_batch` must hold every sequence, with its labels, "
                f"{self.sizing.multiple} of them with batch_size_multiple. Expected at least "
                f"{self.sizing.budget_for(int(too_long.max()))} for {too_long.max()} timesteps, received "
                f"{self.sizing.max_timesteps_per_batch}. Raise it, or cut long sequences with maxlen."
            )
        return np.minimum(np.maximum(fitting, self.sizing.multiple), most_rows)


def _longest(lengths: Lengths, buckets: Indices, num_buckets: int) -> Lengths:
    """Int64 `(num_buckets,)`: the longest of the lengths in each bucket, at least 1."""
    longest = np.ones(num_buckets, np.int64)
    np.maximum.at(longest, buckets, lengths)
    return longest


def _cut_from_the_longest(counts: Counts, rows: Counts) -> tuple[Indices, Counts]:
    """Where the batches of each bucket end among the ordered rows, and how many there are: int64 `(num_buckets,)`.

    Each bucket takes as many batches as hold its rows, and fills them up with the longest rows below. Where there are
    too few of these, one batch less; what is left is less than a batch, and nothing below can make one.
    """
    ends, num_batches = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
    begins = np.cumsum(counts) - counts
    end = int(counts.sum())
    for bucket in reversed(range(len(counts))):
        size = int(rows[bucket])
        wanted = -(-max(end - int(begins[bucket]), 0) // size)
        ends[bucket], num_batches[bucket] = end, min(wanted, end // size)
        end -= int(num_batches[bucket]) * size
        if num_batches[bucket] < wanted:
            break
    return ends, num_batches


def _let_others_wait(order: Indices, has_waited: NDArray[np.bool_], num_waiting: int) -> Indices:
    """Moves the first `num_waiting` rows that have not waited to the front; the last window may have too few of them.

    All others keep their order, so that they only move towards batches of longer buckets, which may hold them.
    """
    waits = np.zeros(len(order), bool)
    waits[np.flatnonzero(~has_waited)[:num_waiting]] = True
    waits[np.flatnonzero(has_waited)[: num_waiting - int(waits.sum())]] = True
    return np.concatenate([order[waits], order[~waits]])
