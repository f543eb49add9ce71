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
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import Lengths, RowIndices, row_splits_of
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.boundaries import (
    Counts,
    NestedBoundaries,
    boundaries_after,
    boundaries_of_counts,
    count_lengths,
)
from keras_bucketing.planning.buckets import BatchSizing, Buckets
from keras_bucketing.planning.cuts import BatchCuts, BatchRules, count_spare_rows, spans_of
from keras_bucketing.planning.draws import Weights, count_weights

_MAX_ENDS = 200  # that buckets of an automatic choice may have
_MAX_NUMBER = 64  # of outer buckets, and of inner ones in each
_OUTER_CHOICES = 5  # so many, the best by what their batches are expected to pad, are tried
_INNER_NUMBERS = (4, 8, 16, 32, 64)


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


def nested_candidates(outer: Lengths, inner: Lengths, sizing: BatchSizing) -> Iterator[NestedBoundaries]:
    """Boundaries with several numbers of buckets, none of which has fewer rows than a batch."""
    outer_choices = sorted(_partitions(outer, sizing, inner=inner), key=lambda choice: choice[1])
    for outer_boundaries, _ in outer_choices[:_OUTER_CHOICES]:
        of_row = np.searchsorted(outer_boundaries, outer, side="right")
        uppers = [*(boundary - 1 for boundary in outer_boundaries), int(outer.max())]
        rows_before = row_splits_of(np.bincount(of_row)).tolist()
        choices = [
            [boundaries for boundaries, _ in _partitions(inner[of_row == bucket], sizing, upper, rows_before[bucket])]
            for bucket, upper in enumerate(uppers)
        ]
        most = max(map(len, choices))
        for number in sorted({min(number, most) for number in _INNER_NUMBERS}):
            # An outer bucket with few rows has as many inner ones as these allow.
            yield [outer_boundaries, [choice[min(number, len(choice)) - 1] for choice in choices]]


def _partitions(
    lengths: Lengths,
    sizing: BatchSizing,
    other_length: int = 1,
    rows_before: int = 0,
    inner: Lengths | None = None,
) -> list[tuple[list[int], float]]:
    """Boundaries of 1, 2, ... buckets of minimum padding that can have the rows of a batch, each with that padding.

    Args:
        lengths: Int64 array `(num_rows,)`.
        sizing: What says the rows of a batch.
        other_length: Int, what the other leaf of the rows is padded to.
        rows_before: Int, how many rows are in buckets before these.
        inner: Int64 array `(num_rows,)`, the inner lengths of the same rows, for outer buckets.
    """
    distinct, rows = _possible_ends(lengths)
    min_rows = np.minimum(np.maximum(sizing.rows_at(np.maximum(distinct, other_length)), 1), rows[-1])
    before = np.concatenate([[0], rows])
    # cost[i, j]: of one bucket from the i-th to the j-th end. So few ends that each step is one operation.
    in_bucket = rows - before[:-1, np.newaxis]
    batch_size = int(min_rows[-1]) if sizing.max_timesteps_per_batch is None else None
    padded = before + rows_before
    if batch_size is not None:  # rows that do not fill a batch of their bucket are padded in the next one
        padded = padded // batch_size * batch_size
    cost = (padded[1:] - padded[:-1, np.newaxis]) * distinct.astype(np.float64)
    if inner is not None:
        cost += _inner_costs(distinct, lengths, inner, batch_size, int(np.median(min_rows)))
    cost[in_bucket < min_rows] = np.inf
    best, starts = cost[0], list[Counts]()
    found = [(list[int](), float(best[-1]))]
    for _ in range(2, min(_MAX_NUMBER, len(distinct)) + 1):
        total = best[:-1, np.newaxis] + cost[1:]
        starts.append(np.argmin(total, axis=0) + 1)
        best = total.min(axis=0)
        if not np.isfinite(best[-1]):
            break
        found.append((boundaries_after(distinct, _ends(starts, len(distinct))), float(best[-1])))
    return found


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


def _inner_costs(
    ends: Lengths, lengths: Lengths, inner: Lengths, batch_size: int | None, typical_size: int
) -> NDArray[np.float64]:
    """What an outer bucket from each end to each other one is padded to in the inner leaf: `(num_ends, num_ends)`.

    As if its rows were sorted by it. The last of them share a batch with the first ones of the next outer bucket, which
    are padded as far as they are.
    """
    uppers, _ = _possible_ends(inner)
    at = np.searchsorted(ends, lengths) * len(uppers) + np.searchsorted(uppers, inner)
    table = np.bincount(at, minlength=len(ends) * len(uppers)).reshape(len(ends), len(uppers))
    table = np.cumsum(np.cumsum(table, axis=0), axis=1)  # the rows up to an end, and up to an inner length
    size = batch_size or typical_size
    costs = np.zeros((len(ends), len(ends)))
    for start in range(len(ends)):
        first = table[start - 1] if start else np.zeros_like(table[0])
        rows = table[start:] - first
        in_bucket = rows[:, -1:]
        num_batches = np.maximum(in_bucket // size, 1)
        of_batch = in_bucket / num_batches
        padded = np.minimum(np.floor(rows / of_batch + 1e-9), num_batches) * of_batch
        left = (first[-1] + in_bucket) % size if batch_size else np.full_like(in_bucket, size // 2)
        left[-1] = 0
        # The longest of those that are left, which are any of about a batch of the longest.
        longest = np.argmax(rows >= in_bucket - size / (left + 1), axis=1)
        shortest = np.argmax(rows >= np.minimum(size / 2, in_bucket), axis=1)
        filling = np.where(left > 0, size - left, 0)[:, 0]
        costs[start, start:] = np.diff(padded, axis=1, prepend=0) @ uppers
        costs[start, start:] += filling * (uppers[longest] - uppers[shortest])
    return costs


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
