"""Buckets of one leaf, and in each of them buckets of another, for rows with several lengths.

    source    short . . . . . . | . . . . long
    target    short | long      | short | long
    bucket      0   |   1       |   2   |   3

One length decides a bucket badly where a row has two that are unlike: all rows of its longest leaf's length meet, and
the other leaf is padded to the longest of what it happens to have there. Rows spill in the order of these buckets, so
what does not fill a batch goes into the next longer bucket of the inner leaf, and from the last of an outer bucket into
the first of the next one. A forecast of what such batches pad would need the chances of several leaves at once; one
epoch is drawn instead, the same in every process. NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.boundaries import (
    Counts,
    NestedBoundaries,
    boundaries_after,
    count_lengths,
    optimal_bucket_boundaries,
)
from keras_bucketing.planning.buckets import BatchSizing, Buckets
from keras_bucketing.planning.cuts import BatchCuts, BatchRules, count_spare_rows, spans_of

_MAX_ENDS = 200  # that a bucket of an automatic choice may have, at even steps of the rows
_OUTER_NUMBERS = (4, 8, 12, 16, 18, 20, 24)
_INNER_NUMBERS = (4, 8, 12, 16, 24, 32)


def two_levels(leaves: Sequence[LeafLengths]) -> tuple[LeafLengths, LeafLengths] | None:
    """The two leaves with the most timesteps in all; None for a single leaf.

    A leaf with the same lengths as another adds nothing, and comes last.
    """
    repeats = [
        any(np.array_equal(leaf.lengths, other.lengths) for other in leaves[:index])
        for index, leaf in enumerate(leaves)
    ]
    order = sorted(range(len(leaves)), key=lambda at: (repeats[at], -int(leaves[at].lengths.sum(dtype=np.int64))))
    return (leaves[order[0]], leaves[order[1]]) if len(order) > 1 else None


def padded_at_least(leaf: LeafLengths, minlen: int) -> Lengths:
    """The minimum padded lengths of these lengths in a batch."""
    return np.maximum(leaf.lengths, 1 if leaf.is_label else minlen).astype(np.int64)


def optimal_nested_boundaries(outer: Lengths, inner: Lengths, number: tuple[int, int]) -> NestedBoundaries:
    """The minimum-padding boundaries of the outer leaf, and of the inner leaf in each of its buckets."""
    outer_boundaries = optimal_bucket_boundaries(outer, number[0])
    of_row = np.searchsorted(outer_boundaries, outer, side="right")
    parts = [inner[of_row == bucket] for bucket in range(len(outer_boundaries) + 1)]
    return [outer_boundaries, [optimal_bucket_boundaries(part, number[1]) for part in parts]]


def nested_candidates(outer: Lengths, inner: Lengths, sizing: BatchSizing) -> Iterator[NestedBoundaries]:
    """Boundaries with several numbers of buckets, none of which has fewer rows than a batch."""
    for outer_boundaries in _partitions(outer, sizing, 1, _OUTER_NUMBERS):
        of_row = np.searchsorted(outer_boundaries, outer, side="right")
        uppers = [*(boundary - 1 for boundary in outer_boundaries), int(outer.max())]
        choices = [
            list(_partitions(inner[of_row == bucket], sizing, upper, _INNER_NUMBERS))
            for bucket, upper in enumerate(uppers)
        ]
        for number in range(max(map(len, choices))):
            # An outer bucket with few rows has as many inner ones as these allow.
            yield [outer_boundaries, [choice[min(number, len(choice) - 1)] for choice in choices]]


def _partitions(
    lengths: Lengths, sizing: BatchSizing, other_length: int, numbers: Sequence[int]
) -> Iterator[list[int]]:
    """Boundaries of minimum padding with so many buckets, as long as each can have the rows of a batch.

    Args:
        lengths: Int64 array `(num_rows,)`.
        sizing: What says the rows of a batch.
        other_length: Int, what the other leaf of the rows is padded to.
        numbers: Ints, increasing. Where there cannot be as many, as many as there can.
    """
    distinct, counts = count_lengths(lengths)
    rows = np.cumsum(counts)
    if len(distinct) > _MAX_ENDS:
        kept = np.unique(np.searchsorted(rows, np.linspace(0, rows[-1], _MAX_ENDS + 1)[1:]))
        distinct, rows = distinct[kept], rows[kept]
    min_rows = np.minimum(np.maximum(sizing.rows_at(np.maximum(distinct, other_length)), 1), rows[-1])
    before = np.concatenate([[0], rows])
    # cost[i, j]: of one bucket from the i-th to the j-th end. So few ends that each step is one operation.
    in_bucket = rows - before[:-1, np.newaxis]
    cost = np.where(in_bucket >= min_rows, in_bucket * distinct, np.inf)
    best, starts, found = cost[0], list[Counts](), [[len(distinct)]]
    for _ in range(2, min(max(numbers), len(distinct)) + 1):
        total = best[:-1, np.newaxis] + cost[1:]
        starts.append(np.argmin(total, axis=0) + 1)
        best = total.min(axis=0)
        if not np.isfinite(best[-1]):
            break
        found.append(_ends(starts, len(distinct)))
    for number in sorted({min(number, len(found)) for number in numbers}):
        yield boundaries_after(distinct, found[number - 1])


def _ends(starts: list[Counts], size: int) -> list[int]:
    """The ends (exclusive) of the best partition, from where the last bucket of each partition starts."""
    ends = [size]
    for start in reversed(starts):
        ends.append(int(start[ends[-1] - 1]))
    return ends[::-1]


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

    def efficiency(self, buckets: Buckets, rules: BatchRules, apart: int | None = None) -> float:
        """Real over padded timesteps of all leaves, if rows spill and each batch is padded to its own longest.

        1 if there are too few rows for a batch.
        """
        spans = spans_of(replace(buckets, apart=apart), "spill", rules.multiple)
        cuts = BatchCuts.from_spans(spans, count_spare_rows(len(self.rows), "spill", rules.multiple))
        if not cuts.stops.size:
            return 1.0
        of_row = buckets.row_buckets[self.rows]
        order = np.argsort(of_row.astype(np.int16) if len(buckets.counts) < 2**15 else of_row, kind="stable")
        order = order[: cuts.stops[-1]]
        sizes = cuts.stops - cuts.starts
        real = sum(int(lengths[order].sum()) for lengths in self.leaves)
        padded = sum(int(sizes @ np.maximum.reduceat(lengths[order], cuts.starts)) for lengths in self.leaves)
        return real / padded


def first_outlier_bucket(
    buckets: Buckets, drawn: DrawnEpoch, rules: BatchRules, max_share: float, saved: float
) -> int | None:
    """The first of the last buckets, with a few rows in all, that nothing spills into where that saves enough."""
    if rules.remainder != "spill":
        return None
    filled = np.flatnonzero(buckets.counts)
    num_behind = np.cumsum(buckets.counts[::-1])[::-1][filled]
    # Where an outer bucket begins: an outlier of the inner leaf has rows of other outer buckets behind it.
    begins_outer = np.diff(buckets.levels[0].lower_lengths[filled], prepend=np.inf) > 0
    candidates = filled[begins_outer & (num_behind <= max_share * len(drawn.rows))].tolist()
    if not candidates:
        return None
    efficiencies = {bucket: drawn.efficiency(buckets, rules, bucket) for bucket in candidates}
    apart = max(efficiencies, key=lambda bucket: efficiencies[bucket])
    now = drawn.efficiency(buckets, rules)
    return apart if now <= (1 - saved) * efficiencies[apart] else None
