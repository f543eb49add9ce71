"""Buckets of one leaf, and in each of them buckets of another, for rows with several lengths.

    source    short . . . . . . | . . . . long
    target    short | long      | short | long
    bucket      0   |   1       |   2   |   3

One length decides a bucket badly where a row has two that are unlike: all rows of its longest leaf's length meet, and
the other leaf is padded to the longest of what it happens to have there. A forecast of what nested buckets pad would
need the chances of several leaves at once; one epoch is drawn instead, the same in every process. NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.boundaries import (
    Counts,
    NestedBoundaries,
    boundaries_after,
    boundaries_of_counts,
    count_lengths,
)
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import BatchCuts, BatchRules, count_spare_rows, spans_of
from keras_bucketing.planning.draws import Weights, count_weights

_MAX_ENDS = 200  # that buckets of an automatic choice may have
_NUMBERS = (4, 8, 12, 16, 24, 32, 48, 64)  # of outer buckets, and of inner ones in each
_MOST_ROWS = 8  # of a bucket on average, in batches


def two_levels(leaves: Sequence[LeafLengths], names: Sequence[str] = ()) -> tuple[LeafLengths, LeafLengths] | None:
    """The two leaves with these names, by default those with the most timesteps in all; None for a single leaf.

    A leaf with the same lengths as another adds nothing, and comes last.
    """
    if names:
        outer, inner = (next(leaf for leaf in leaves if leaf.name == name) for name in names)
        return outer, inner
    repeats = [
        any(np.array_equal(leaf.lengths, other.lengths) for other in leaves[:index])
        for index, leaf in enumerate(leaves)
    ]
    order = sorted(range(len(leaves)), key=lambda at: (repeats[at], -int(leaves[at].lengths.sum(dtype=np.int64))))
    return (leaves[order[0]], leaves[order[1]]) if len(order) > 1 else None


def padded_at_least(leaf: LeafLengths, minlen: int) -> Lengths:
    """The minimum padded lengths of these lengths in a batch."""
    return np.maximum(leaf.lengths, 1 if leaf.is_label else minlen).astype(np.int64)


def optimal_nested_boundaries(
    outer: Lengths, inner: Lengths, number: tuple[int, int], weights: Weights | None = None
) -> NestedBoundaries:
    """The minimum-padding boundaries of the outer leaf, and of the inner leaf in each of its buckets.

    Args:
        outer: Int64 array `(num_rows,)`.
        inner: Int64 array `(num_rows,)`.
        number: How many outer buckets, and how many inner ones in each.
        weights: What the rows are drawn by, `(num_rows,)`; None where each is read once.
    """

    def boundaries(lengths: Lengths, rows: NDArray[np.bool_] | slice, number: int) -> list[int]:
        if weights is None:
            return boundaries_of_counts(*count_lengths(lengths[rows]), number)
        return boundaries_of_counts(*count_weights(lengths[rows], weights[rows]), number)

    outer_boundaries = boundaries(outer, slice(None), number[0])
    of_row = np.searchsorted(outer_boundaries, outer, side="right")
    buckets = range(len(outer_boundaries) + 1)
    return [outer_boundaries, [boundaries(inner, of_row == bucket, number[1]) for bucket in buckets]]


def nested_candidates(outer: Lengths, inner: Lengths, max_buckets: int) -> Iterator[NestedBoundaries]:
    """Minimum-padding boundaries with several numbers of outer and inner buckets.

    In all at most `max_buckets`, and no fewer than an eighth of them; at most three times as many of one leaf as of the
    other.
    """
    for number, outer_boundaries in zip(_NUMBERS, _partitions(outer, _NUMBERS), strict=True):
        numbers = [of for of in _NUMBERS if max_buckets <= _MOST_ROWS * number * of <= _MOST_ROWS * max_buckets]
        numbers = [of for of in numbers if of <= 3 * number <= 9 * of]
        if len(outer_boundaries) + 1 < number or not numbers:
            continue
        of_row = np.searchsorted(outer_boundaries, outer, side="right")
        choices = [_partitions(inner[of_row == bucket], numbers) for bucket in range(number)]
        for of_inner in zip(*choices, strict=True):
            yield [outer_boundaries, list(of_inner)]


def _partitions(lengths: Lengths, numbers: Sequence[int]) -> list[list[int]]:
    """Minimum-padding boundaries of these increasing numbers of buckets, or of as many as there are lengths.

    Of many lengths, only some are possible boundaries.
    """
    distinct, rows = _possible_ends(lengths)
    before = np.concatenate([[0], rows])
    # cost[i, j]: of one bucket up to the i-th end, from the j-th on. So few ends that each step is one operation.
    cost = (rows[:, np.newaxis] - before[:-1]) * distinct.astype(np.float64)[:, np.newaxis]
    cost[before[:-1] >= rows[:, np.newaxis]] = np.inf
    best, starts, ends = cost[:, 0], list[Counts](), np.arange(len(distinct))
    for _ in range(2, min(numbers[-1], len(distinct)) + 1):
        total = best[:-1] + cost[:, 1:]
        start = np.argmin(total, axis=1)
        best = total[ends, start]
        starts.append(start + 1)
    return [boundaries_after(distinct, _ends(starts[: number - 1], len(distinct))) for number in numbers]


def _possible_ends(lengths: Lengths) -> tuple[Lengths, Counts]:
    """The lengths that a bucket may end at, increasing, and the rows up to each of them: all, or those at even steps.

    Half of these are steps of the rows, and half of the length, since there are few rows in a tail.
    """
    distinct, counts = count_lengths(lengths)
    rows = np.cumsum(counts)
    if len(distinct) <= _MAX_ENDS:
        return distinct, rows
    steps = (np.linspace(0, of[-1], _MAX_ENDS // 2 + 1)[1:] for of in (rows, distinct))
    kept = np.union1d(*(np.searchsorted(of, at) for of, at in zip((rows, distinct), steps, strict=True)))
    return distinct[kept], rows[kept]


def _ends(starts: list[Counts], size: int) -> list[int]:
    """The ends (exclusive) of the best partition, from where the last bucket of each partition starts."""
    ends = [size]
    for start in reversed(starts):
        ends.append(int(start[ends[-1] - 1]))
    return ends[::-1]


class Timesteps(NamedTuple):
    """Timesteps of all leaves in an epoch.

    Attributes:
        real: Int, those of the sequences.
        padded: Int64 array `(num_batches,)`, those of each batch, padded to its own longest.
        buckets: Int64 array `(num_batches,)`, the bucket of each batch.
    """

    real: int
    padded: Counts
    buckets: Counts

    @property
    def efficiency(self) -> float:
        """Real over padded timesteps; 1 if there are too few rows for a batch."""
        return self.real / int(self.padded.sum()) if self.padded.size else 1.0

    @property
    def num_batches(self) -> int:
        """The number of batches."""
        return len(self.padded)


class DrawnEpoch(NamedTuple):
    """One epoch of rows with several leaves, drawn the same way in every process, to judge buckets by.

    Attributes:
        rows: Int64 array `(num_rows,)`, all of them in a random order.
        leaves: Tuple of int arrays `(num_rows,)`, the lengths of each leaf in that order, as padded at least.
    """

    rows: RowIndices
    leaves: tuple[Lengths, ...]

    @classmethod
    def of(cls, leaves: Sequence[LeafLengths], minlen: int) -> DrawnEpoch:
        """Draws the order; the raw output of a bit generator is the same in every version of NumPy."""
        rows = np.argsort(np.random.PCG64(0).random_raw(len(leaves[0].lengths)), kind="stable")
        return cls(rows, tuple(padded_at_least(leaf, minlen)[rows] for leaf in leaves))

    def timesteps(self, buckets: Buckets, rules: BatchRules) -> Timesteps:
        """What this epoch comes to in these buckets, if rows spill."""
        spans = spans_of(buckets, "spill", rules.multiple)
        cuts = BatchCuts.from_spans(spans, count_spare_rows(len(self.rows), "spill", rules.multiple))
        if not cuts.stops.size:
            return Timesteps(0, cuts.stops, cuts.buckets)
        places = cuts.places.astype(np.int16 if len(buckets.counts) < 2**15 else np.int32)
        order = np.argsort(places[buckets.row_buckets][self.rows], kind="stable")[: cuts.stops[-1]]
        leaves = [lengths[order] for lengths in self.leaves]
        longest = np.sum([np.maximum.reduceat(lengths, cuts.starts) for lengths in leaves], axis=0)
        real = sum(int(lengths.sum()) for lengths in leaves)
        return Timesteps(real, (cuts.stops - cuts.starts) * longest, cuts.buckets)


def first_outlier_bucket(
    buckets: Buckets, drawn: DrawnEpoch, rules: BatchRules, max_share: float, saved: float
) -> int | None:
    """The first of the last buckets, with a few rows in all, that nothing spills into where that saves enough."""
    if rules.remainder != "spill":
        return None
    filled = np.flatnonzero(buckets.counts)
    num_behind = np.cumsum(buckets.counts[::-1])[::-1][filled]
    # Where an outer bucket begins: an outlier of the inner leaf has rows of other outer buckets behind it.
    begins_outer = np.diff(buckets.outer_buckets[filled], prepend=-1) > 0
    candidates = filled[begins_outer & (num_behind <= max_share * len(drawn.rows))].tolist()
    if not candidates:
        return None
    # What is padded in their batches is all that can be saved: first by a bound, then as it is.
    most_rows = int(buckets.counts[candidates[0] :].sum()) + max(buckets.batch_sizes)
    if most_rows * sum(int(of.max()) for of in drawn.leaves) < saved * sum(int(of.sum()) for of in drawn.leaves):
        return None
    now = drawn.timesteps(replace(buckets, apart=None), rules)
    enough = saved * int(now.padded.sum())
    if now.padded[now.buckets >= candidates[0]].sum() < enough:
        return None
    alone = [int(drawn.timesteps(replace(buckets, apart=bucket), rules).padded.sum()) for bucket in candidates]
    return candidates[int(np.argmin(alone))] if min(alone) <= int(now.padded.sum()) - enough else None
