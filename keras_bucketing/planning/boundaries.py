"""Bucket boundaries and batch sizes, from lengths alone.

    length     1 . . . . . 9 10 . . . . 19 20 . . . . . . . longest
    boundary                 |              |
               [  bucket 0  ][  bucket 1   ][    bucket 2         ]
    upper                  9             19                 longest

Bucket i holds `boundaries[i - 1] <= length < boundaries[i]`, as in `tf.data.Dataset.bucket_by_sequence_length`: k
buckets have k - 1 boundaries, and the last bucket has no upper end.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import check_flat_list, check_integer, check_lengths
from keras_bucketing.data.row_splits import Lengths

Counts = NDArray[np.integer]  # of rows, or positions among them
# [outer, inner]: those of one leaf, and for each of its buckets those of another.
NestedBoundaries: TypeAlias = list[Any]
BucketBoundaries: TypeAlias = list[int] | NestedBoundaries
_UNREACHABLE = np.iinfo(np.int64).max // 4


def optimal_bucket_boundaries(lengths: Any, num_buckets: int) -> list[int]:
    """Finds the boundaries of at most `num_buckets` buckets that minimize padding.

    Padding is counted as if every sequence were padded to the longest of its bucket. The minimum is exact, found by
    dynamic programming over the distinct lengths: with `best(k, j)` the least padded timesteps of the j shortest
    distinct lengths in k buckets, `best(k, j) = min over i of best(k - 1, i) + upper_j * rows(i..j)`. The cost has the
    quadrangle inequality (Yao, "Efficient dynamic programming using quadrangle inequalities", STOC 1980), so the best i
    grows with j, and divide and conquer finds all of one k in O(U log U) for U distinct lengths.

    Args:
        lengths: Ints `(num_sequences,)`, the timesteps of each sequence, at least 1.
        num_buckets: Int, the number of buckets, at least 1. There are fewer if there are fewer distinct lengths.

    Returns:
        List of ints, as in `tf.data.Dataset.bucket_by_sequence_length`: bucket i holds the sequences with
        `boundaries[i - 1] <= length < boundaries[i]`, in timesteps. k buckets have k - 1 boundaries.

    Raises:
        ValueError: If `lengths` is empty, not flat, not whole or below 1, or if `num_buckets` is below 1.
        TypeError: If `lengths` or `num_buckets` are not integers.

    Example:
        >>> optimal_bucket_boundaries([2, 2, 3, 9, 10, 30], num_buckets=3)
        [4, 11]
    """
    num_buckets = check_integer("num_buckets", num_buckets)
    return boundaries_of_counts(*count_lengths(check_lengths(lengths)), num_buckets)


def boundaries_of_counts(distinct: Lengths, counts: Counts, num_buckets: int) -> list[int]:
    """`optimal_bucket_boundaries` of increasing distinct lengths, given the number of rows of each."""
    if num_buckets >= len(distinct):  # one bucket for each length leaves no padding at all
        return boundaries_after(distinct, list(range(1, len(distinct) + 1)))
    no_minimum = np.zeros(len(distinct), np.int64)
    best: list[int] = []
    for ends, _ in best_partitions(distinct, counts, no_minimum, num_buckets):
        best = ends
    return boundaries_after(distinct, best)


def count_lengths(lengths: Lengths) -> tuple[Lengths, Counts]:
    """The distinct lengths, increasing, and how many rows have each: `np.unique` without sorting all rows."""
    if lengths.max() > 2 * lengths.size + 65536:  # a few huge lengths: a table of all lengths would not pay
        return np.unique(lengths, return_counts=True)
    counts = np.bincount(lengths)
    distinct = np.flatnonzero(counts)
    return distinct, counts[distinct]


def check_boundaries(bucket_boundaries: object, name: str = "bucket_boundaries") -> list[int]:
    """Returns boundaries as ints, after checking that they increase."""
    boundaries = [
        check_integer(f"{name}[{index}]", boundary)
        for index, boundary in enumerate(check_flat_list(name, bucket_boundaries))
    ]
    for index, (previous, boundary) in enumerate(pairwise(boundaries), start=1):
        if boundary <= previous:
            raise ValueError(
                f"`{name}` must increase. Received {boundary} at {name}[{index}] after {previous}. Sort them and "
                "remove duplicates."
            )
    return boundaries


def is_nested(bucket_boundaries: object) -> TypeGuard[NestedBoundaries]:
    """Whether some entry of these boundaries is a list."""
    if not isinstance(bucket_boundaries, (list, tuple)):
        return False
    return any(isinstance(entry, (list, tuple, np.ndarray)) for entry in bucket_boundaries)


def boundaries_after(distinct: Lengths, ends: list[int]) -> list[int]:
    """The boundaries of a partition whose parts end (exclusive) at these distinct lengths."""
    return [int(distinct[end - 1]) + 1 for end in ends[:-1]]


def best_partitions(
    distinct: Lengths, counts: Counts, min_rows: Counts, max_buckets: int
) -> Iterator[tuple[list[int], int]]:
    """Yields, for 1, 2, ... buckets, the best partition's ends (exclusive, into `distinct`) and its padded timesteps.

    Stops when no partition leaves `min_rows` rows in each bucket. `min_rows` has one number for each distinct length at
    which a bucket may end.
    """
    rows_before = np.concatenate([[0], np.cumsum(counts)])  # rows_before[i]: rows of the i shortest distinct lengths
    size = len(distinct)
    # The first bucket of a partition may begin at 0 only, so one bucket is the cost of everything up to j.
    best = np.concatenate([[0], distinct * rows_before[1:]])
    best[1:][rows_before[1:] < min_rows] = _UNREACHABLE
    best[0] = _UNREACHABLE  # a bucket in front of others is never empty
    # A bucket that ends at j must begin at or before latest_start[j]: the constraint is a staircase, which keeps the
    # quadrangle inequality (an infinite cost stays infinite for every narrower bucket).
    latest_start = np.searchsorted(rows_before, rows_before[1:] - min_rows, side="right") - 1
    latest_start = np.concatenate([[-1], np.minimum(latest_start, np.arange(size))])
    starts: list[Counts] = []
    first_end = int(np.argmax(best < _UNREACHABLE)) if best[size] < _UNREACHABLE else size + 1
    for buckets in range(1, max_buckets + 1):
        if buckets > 1:
            # What can be reached is reached from here on: both `best` and `latest_start` are staircases.
            first_start, first_end = first_end, int(np.searchsorted(latest_start, first_end))
            if first_end <= size:
                best, start = _add_bucket(best, distinct, rows_before, latest_start, first_start, first_end)
                starts.append(start)
        if first_end > size:
            if buckets == 1:  # fewer rows than one batch: a single bucket all the same
                yield [size], int(distinct[-1] * rows_before[-1])
            return
        ends = [size]
        for start in reversed(starts):
            ends.append(int(start[ends[-1]]))
        yield ends[::-1], int(best[size])


def _add_bucket(
    best: Lengths, distinct: Lengths, rows_before: Counts, latest_start: Counts, first_start: int, first_end: int
) -> tuple[Lengths, Counts]:
    """Adds a bucket behind every partition: the new costs, and where the last bucket of each starts, both `(U + 1,)`.

    `best[j]` is the cost of the best partition of the j shortest of U distinct lengths, `rows_before[j]` their rows,
    and `latest_start[j]` the last start that leaves enough rows in a bucket ending at j, -1 for none. No bucket can end
    before `first_end`, and the last bucket cannot start before `first_start`; after these, a partition always exists.
    """
    size = len(distinct)
    new_best = np.full(size + 1, _UNREACHABLE, np.int64)
    new_start = np.zeros(size + 1, np.int64)
    # Divide and conquer, all nodes of one level at once. A node (first, last, lowest, highest) says: the ends
    # first..last are open, and their best starts lie in lowest..highest. The end in the middle tries all of these; what
    # it finds bounds the starts of the ends on its left from above, on its right from below. The nodes of a level share
    # at most their bounds, so that a level tries about as many starts as there are lengths.
    first, last = np.array([first_end]), np.array([size])
    lowest, highest = np.array([first_start]), np.array([size - 1])
    while first.size:
        middle = (first + last) // 2
        # The starts of all nodes lie one after the other in `candidates`; each node has one at least.
        widths = np.minimum(highest, latest_start[middle]) - lowest + 1
        offsets = np.concatenate([[0], np.cumsum(widths)[:-1]])
        node = np.repeat(np.arange(middle.size), widths)
        candidates = np.arange(len(node)) + (lowest - offsets)[node]
        cost = best[candidates] + distinct[middle - 1][node] * (rows_before[middle][node] - rows_before[candidates])
        min_cost = np.minimum.reduceat(cost, offsets)
        # Of several starts with the minimum, the first.
        hits = np.flatnonzero(cost == min_cost[node])
        start = candidates[hits[np.searchsorted(node[hits], np.arange(middle.size))]]
        new_best[middle], new_start[middle] = min_cost, start
        left, right = first < middle, middle < last
        first, last, lowest, highest = (
            np.concatenate([first[left], (middle + 1)[right]]),
            np.concatenate([(middle - 1)[left], last[right]]),
            np.concatenate([lowest[left], start[right]]),
            np.concatenate([start[left], highest[right]]),
        )
    return new_best, new_start
