"""Rows that are ordered by bucket, cut into batches at fixed offsets.

    rows, ordered by bucket  | bucket 0            | bucket 1       | bucket 2  |
    remainder="spill"        [ 0 0 0 ][ 0 0 0 ][ 0 | 1 1 ][ 1 1 1 |][ 2 2 ][ 2 ]
    remainder="keep"         [ 0 0 0 ][ 0 0 0 ][ 0 ][ 1 1 1 ][ 1 1 ][ 2 2 ][ 2 ]
    remainder="drop"         [ 0 0 0 ][ 0 0 0 ]  0  [ 1 1 1 ]  1 1  [ 2 2 ]  2

No batch has a row of a longer bucket than its own.

With "spill", nested buckets are passed in a snake, so that rows of two outer buckets that share a batch are alike in
the inner leaf. Where inner buckets ascend, what does not fill a batch goes into the next longer one. Where they
descend, the last batch of each is filled up with rows of the next shorter ones.

    outer                    | short           | long              |
    inner                    | long     short  | short | long      |
    rows, in this order      | bucket 1 | 0    | 2     | 3         |
    remainder="spill"        [ 1 1 1 ][ 1 | 0 0 ][ 0 | 2 2 ][ 2 | 3 3 ][ 3 ]

NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_bucketing.checks import show
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import RowLengths
from keras_bucketing.planning.boundaries import Counts
from keras_bucketing.planning.buckets import Buckets


@dataclass(frozen=True)
class BatchRules:
    """How batches are cut and padded, besides boundaries and sizes.

    Attributes:
        remainder: Str, what happens to rows that do not fill a batch of their bucket. "spill": they go into the next
            longer bucket, and the last ones make one partial batch; another one if `Buckets.apart` stops the spill.
            "keep": each bucket makes one partial batch. "drop": they are left out.
        multiple: Int. The rows of every batch are a multiple of it, so fewer rows than that may be spare.
        pad_to_bucket_boundary: Bool, whether batches are padded to the longest length that their bucket allows.
        min_length: Int, the minimum padded length, in timesteps.
    """

    remainder: str = "spill"
    multiple: int = 1
    pad_to_bucket_boundary: bool = False
    min_length: int = 1


class Passage(NamedTuple):
    """The order in which rows are cut into batches: that of the buckets, or a snake through nested ones.

    Attributes:
        order: Int array `(num_buckets,)`: the buckets in this order.
        last: Int array `(num_buckets,)`: for each of them, the place in this order of the last one whose rows may fill
            up its batches. It is its own place, unless the buckets behind it are shorter.
    """

    order: Counts
    last: Counts


def snake(outer: Counts) -> Passage:
    """Passes the inner buckets of every second outer bucket in descending order, and those of the last one ascending.

    Args:
        outer: Int array `(num_buckets,)`, the outer bucket of each bucket; without nested ones, each its own.

    Example:
        >>> order, last = snake(np.array([0, 0, 1, 1, 1, 2, 2]))
        >>> order.tolist(), last.tolist()
        ([0, 1, 4, 3, 2, 5, 6], [0, 1, 4, 4, 4, 5, 6])
    """
    numbers = np.arange(len(outer))
    descends = (outer[-1] - outer) % 2 == 1
    order = np.lexsort((np.where(descends, -numbers, numbers), outer))
    return Passage(order, np.where(descends, np.searchsorted(outer, outer, side="right") - 1, numbers))


def passage_of(buckets: Buckets, remainder: str) -> Passage:
    """The order in which the rows of these buckets are cut: a snake where they spill."""
    return snake(buckets.outer_buckets if remainder == "spill" else np.arange(len(buckets.upper_lengths)))


@dataclass(frozen=True)
class BatchSpans:
    """The positions in the ordered rows that the batches of each bucket take, batch by batch.

    Attributes:
        begins: Int64 array `(num_buckets,)`: the position of the first row.
        middles: Int64 array `(num_buckets,)`: where batches of another size begin. Batches with rows of other buckets
            have a size of their own where a budget holds fewer of them.
        ends: Int64 array `(num_buckets,)`: one after the last row; the same for a bucket without a batch.
        sizes: Int64 array `(num_buckets, 2)`: the rows of a batch before the middle and behind it. Only the last one of
            a span may have fewer.
        order: Int array `(num_buckets,)`: the buckets in the order of the rows, as of `Passage`.
    """

    begins: Counts
    middles: Counts
    ends: Counts
    sizes: Counts
    order: Counts

    @property
    def rows(self) -> Counts:
        """Int64 array `(num_buckets,)`: the rows in the batches of each bucket."""
        return self.ends - self.begins

    @property
    def batch_sizes(self) -> Counts:
        """Int64 array `(num_buckets,)`: the most rows of a batch of each bucket."""
        largest: Counts = self.sizes.max(axis=1)
        return largest

    @property
    def num_batches(self) -> Counts:
        """Int64 array `(num_buckets,)`: the batches of each bucket."""
        before: Counts = (self.middles - self.begins) // self.sizes[:, 0]
        return before - (self.middles - self.ends) // self.sizes[:, 1]


def spans_of(buckets: Buckets, remainder: str, multiple: int) -> BatchSpans:
    """The rows that the batches of these buckets take, as `batch_spans` does."""
    passage, mixed_sizes = passage_of(buckets, remainder), buckets.mixed_sizes
    return batch_spans(buckets.counts, buckets.batch_sizes, remainder, multiple, buckets.apart, mixed_sizes, passage)


def batch_spans(
    counts: Counts,
    batch_sizes: Sequence[int] | Counts,
    remainder: str,
    multiple: int,
    apart: int | None = None,
    mixed_sizes: Sequence[int] | Counts | None = None,
    passage: Passage | None = None,
) -> BatchSpans:
    """Finds the rows that the batches of each bucket take; `remainder` and `multiple` as in `BatchRules`.

    Args:
        counts: Int array `(num_buckets,)`, the rows of each bucket.
        batch_sizes: Ints, the rows of a batch of each bucket: multiples of `multiple`.
        remainder: Str.
        multiple: Int.
        apart: Int, a bucket that no rows spill into, as of `Buckets`; or None.
        mixed_sizes: Ints, the rows of a batch that rows of shorter buckets have spilled into; None for `batch_sizes`.
        passage: The order of the rows; None for that of the buckets.

    Example:
        Five rows and four, in batches of three: two rows of the first bucket spill into the second.

        >>> spans = batch_spans(np.array([5, 4]), [3, 3], remainder="spill", multiple=1)
        >>> spans.begins.tolist(), spans.ends.tolist(), spans.num_batches.tolist()
        ([0, 3], [3, 9], [1, 2])
    """
    order, last = snake(np.arange(len(counts))) if passage is None else passage
    num_rows, in_order = int(counts.sum()), counts[order]
    row_ends = np.cumsum(in_order)
    # All sizes are multiples of `multiple`, so that how many rows are spare does not depend on where the cuts are. As
    # many are held back where longer buckets begin, in case they are rows before: those behind them then move up, but
    # must not move up into a batch of a shorter bucket.
    limits = (row_ends[last] - count_spare_rows(num_rows, remainder, multiple)).tolist()
    partial_at = {num_rows} if remainder == "spill" else set()
    if apart is not None:
        partial_at.add(int(counts[:apart].sum()))
    ends_in_partial = [remainder == "keep" or end in partial_at for end in row_ends[last].tolist()]
    sizes, lasts, row_begins = np.asarray(batch_sizes)[order], last.tolist(), (row_ends - in_order).tolist()
    both_sizes = np.stack([sizes, sizes], axis=1)
    own_sizes = sizes.tolist()
    mixed_sizes = own_sizes if mixed_sizes is None else np.asarray(mixed_sizes)[order].tolist()
    bounds = np.zeros((len(counts), 3), np.int64)
    begin, waits = 0, -1
    for place in np.flatnonzero(in_order).tolist():
        size, mixed, row_end, limit = own_sizes[place], mixed_sizes[place], int(row_ends[place]), limits[place]
        middle = end = begin
        if place <= waits:
            pass
        elif place == lasts[place]:
            if mixed < size:  # rows that have spilled are in the first batches
                middle = _filled(begin, row_begins[place], limit, mixed, mixed)
                both_sizes[place, 0] = mixed
            end = _filled(middle, row_end, limit, size, multiple if ends_in_partial[place] else size)
        else:  # the last batch is filled up with rows of shorter buckets
            own = mixed if begin < row_begins[place] else size
            both_sizes[place] = own, mixed
            middle = _filled(begin, row_end, min(row_end, limit), own, own)
            end = _filled(middle, row_end, limit, mixed, multiple if ends_in_partial[place] else mixed)
            if end < row_end:  # with too few of them, all wait for the next outer bucket
                waits = lasts[place]
        bounds[place] = begin, middle, end
        begin = max(limit, begin) if remainder == "drop" else end
    by_bucket = np.argsort(order)
    begins, middles, ends = bounds[by_bucket].T
    return BatchSpans(begins, middles, ends, both_sizes[by_bucket], order)


def _filled(begin: int, until: int, limit: int, size: int, step: int) -> int:
    """Where batches of a size end that reach from `begin` as far as `until`, or in steps as far as the limit allows."""
    return begin + max(min(-(-(until - begin) // size) * size, (limit - begin) // step * step), 0)


def count_spare_rows(num_rows: int, remainder: str, multiple: int) -> int:
    """The number of rows that no batch has room for, other than those that `remainder="drop"` leaves out."""
    return 0 if remainder == "drop" else num_rows % multiple


@dataclass(frozen=True)
class BatchCuts:
    """Where the ordered rows are cut into batches.

    Attributes:
        starts: Int64 array `(num_batches,)`: the position of each batch's first row.
        stops: Int64 array `(num_batches,)`: one after its last row.
        buckets: Int64 array `(num_batches,)`: the bucket whose size and boundary each batch has.
        num_spare: Int, rows that no batch has room for, because batches have a multiple of so many rows. Whichever rows
            these are, from whichever buckets: ordered behind all others, they leave every batch without a row of a
            longer bucket than its own.
        order: Int array `(num_buckets,)`: the buckets in the order of the rows, as of `Passage`.
    """

    starts: Counts
    stops: Counts
    buckets: Counts
    num_spare: int
    order: Counts

    @property
    def places(self) -> Counts:
        """Int array `(num_buckets,)`: the place of each bucket in the order."""
        return np.argsort(self.order)

    @classmethod
    def from_spans(cls, spans: BatchSpans, num_spare: int) -> BatchCuts:
        """Cuts each span into batches of its sizes."""
        begins, ends, sizes = (
            part[spans.order].ravel()
            for part in (
                np.stack([spans.begins, spans.middles], axis=1),
                np.stack([spans.middles, spans.ends], axis=1),
                spans.sizes,
            )
        )
        num_batches = -(-(ends - begins) // sizes)
        parts = np.repeat(np.arange(len(begins)), num_batches)
        within = np.arange(len(parts)) - np.repeat(np.cumsum(num_batches) - num_batches, num_batches)
        starts = begins[parts] + within * sizes[parts]
        stops = np.minimum(starts + sizes[parts], ends[parts])
        return cls(starts, stops, spans.order[parts // 2], num_spare, spans.order)


def cut_batches(buckets: Buckets, remainder: str, multiple: int) -> BatchCuts:
    """Cuts rows that are ordered by bucket into batches; `remainder` and `multiple` as in `BatchRules`.

    Raises:
        ValueError: If there is no batch at all.
    """
    spans = spans_of(buckets, remainder, multiple)
    if not spans.rows.any():
        raise ValueError(_no_batches(buckets, remainder, multiple))
    return BatchCuts.from_spans(spans, count_spare_rows(int(buckets.counts.sum()), remainder, multiple))


def _no_batches(buckets: Buckets, remainder: str, multiple: int) -> str:
    rows = int(buckets.counts.sum())
    if rows < multiple:
        return (
            f"`x` has too few sequences for a single batch. Expected at least {multiple} (batch_size_multiple x "
            f"num_shards), received {rows}. Lower batch_size_multiple or num_shards."
        )
    return (
        f"No bucket of `x` has enough sequences for a full batch, and remainder={show(remainder)} leaves the rest "
        f"out. Received {show(buckets.counts.tolist())} sequences for batches of {show(buckets.batch_sizes)}. Lower "
        "the batch size or "
        'pass remainder="spill".'
    )


def min_padded_lengths(
    lengths: RowLengths, buckets: Buckets, cuts: BatchCuts, pad_to_bucket_boundary: bool, minlen: int = 1
) -> Lengths:
    """The minimum padded length of the leaves of each batch, for all rows it may get: `(num_batches, num_leaves)`.

    A batch with a longer row is padded to that. With `pad_to_bucket_boundary` no row is longer, so a bucket has one
    shape. A leaf that is the longest of every row, such as a single one, is padded to the longest length that the
    bucket allows. Any other is padded to the longest that it has in the bucket: a transcript is not padded to the
    length of the audio. In nested buckets both levels are padded to the longest that their bucket allows; a batch with
    rows of several outer buckets, to the longest that one of these allows.

    Labels of their own length are padded to at least one timestep, not to `minlen`: kernels do not take a time axis of
    size 0.
    """
    min_lengths = np.array([1 if leaf.is_label else minlen for leaf in lengths.leaves], np.int64)
    if not pad_to_bucket_boundary:
        return np.tile(min_lengths, (len(cuts.buckets), 1))
    # The rows that spill from shorter buckets can be longer in a leaf that does not choose the bucket. Spare rows only
    # move the others up. All of these are places in the order of the rows.
    order, own, row_ends = cuts.order, cuts.places[cuts.buckets], np.cumsum(buckets.counts[cuts.order])
    first = np.searchsorted(row_ends, cuts.starts, side="right")
    lowest, highest = np.arange(len(order)), np.arange(len(order))
    np.minimum.at(lowest, own, first)
    np.maximum.at(highest, own, np.searchsorted(row_ends, cuts.stops - 1 + cuts.num_spare, side="right"))
    upper_lengths = {level.name: np.where(buckets.counts > 0, level.upper_lengths, 0) for level in buckets.levels}
    if buckets.levels:  # one shape for all batches of a bucket that rows of other outer buckets have spilled into
        outer = buckets.outer_buckets[order]
        first = np.where(outer[first] < outer[own], lowest[own], first)
    columns = []
    for leaf in lengths.leaves:
        if leaf.name in upper_lengths:
            columns.append(longest_within(upper_lengths[leaf.name][order], first, own))
        elif not buckets.levels and not leaf.is_label and np.array_equal(leaf.lengths, lengths.longest):
            columns.append(buckets.upper_lengths[cuts.buckets])
        else:
            columns.append(longest_within(buckets.longest(leaf.lengths)[order], lowest, highest)[own])
    padded: Lengths = np.maximum(np.stack(columns, axis=1), min_lengths)
    return padded


def longest_within(lengths: Lengths, first: Counts, last: Counts) -> Lengths:
    """The longest of the lengths `(num_buckets,)` from a first bucket to a last one, for each pair of these.

    Example:
        >>> longest_within(np.array([2, 9, 4, 5]), first=np.array([0, 1, 2]), last=np.array([0, 3, 3])).tolist()
        [2, 9, 5]
    """
    longest = lengths[last]
    for at in np.flatnonzero(first < last).tolist():  # few: those with rows of other buckets
        longest[at] = lengths[first[at] : last[at] + 1].max()
    return longest
