"""Rows that are ordered by bucket, cut into batches at fixed offsets.

    rows, ordered by bucket  | bucket 0            | bucket 1       | bucket 2  |
    remainder="spill"        [ 0 0 0 ][ 0 0 0 ][ 0 | 1 1 ][ 1 1 1 |][ 2 2 ][ 2 ]
    remainder="keep"         [ 0 0 0 ][ 0 0 0 ][ 0 ][ 1 1 1 ][ 1 1 ][ 2 2 ][ 2 ]
    remainder="drop"         [ 0 0 0 ][ 0 0 0 ]  0  [ 1 1 1 ]  1 1  [ 2 2 ]  2

No batch has a row of a longer bucket than its own. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BatchSpans:
    """The positions in the bucket-ordered rows that the batches of each bucket take, batch by batch.

    Attributes:
        begins: Int64 array `(num_buckets,)`: the position of the first row.
        ends: Int64 array `(num_buckets,)`: one after that of the last; the same for a bucket without a batch.
        batch_sizes: Int array `(num_buckets,)`: the rows of a batch. Only the last one of a span may have fewer.
        mixed_ends: Int64 array `(num_buckets,)`: one after the last row of the batches at the beginning of a span that
            have other sizes, since rows have spilled into them.
        mixed_sizes: Int array `(num_buckets,)`: the rows of such a batch.
    """

    begins: Counts
    ends: Counts
    batch_sizes: Counts
    mixed_ends: Counts
    mixed_sizes: Counts

    @property
    def rows(self) -> Counts:
        """Int64 array `(num_buckets,)`: the rows in the batches of each bucket."""
        return self.ends - self.begins

    @property
    def num_batches(self) -> Counts:
        """Int64 array `(num_buckets,)`: the batches of each bucket."""
        mixed: Counts = (self.mixed_ends - self.begins) // self.mixed_sizes
        return mixed - (self.mixed_ends - self.ends) // self.batch_sizes


def spans_of(buckets: Buckets, remainder: str, multiple: int) -> BatchSpans:
    """The rows that the batches of these buckets take, as `batch_spans` does."""
    return batch_spans(buckets.counts, buckets.batch_sizes, remainder, multiple, buckets.apart, buckets.mixed_sizes)


def batch_spans(
    counts: Counts,
    batch_sizes: Sequence[int] | Counts,
    remainder: str,
    multiple: int,
    apart: int | None = None,
    mixed_sizes: Sequence[int] | Counts | None = None,
) -> BatchSpans:
    """Finds the rows that the batches of each bucket take; `remainder` and `multiple` as in `BatchRules`.

    Args:
        counts: Int array `(num_buckets,)`, the rows of each bucket.
        batch_sizes: Ints, the rows of a batch of each bucket: multiples of `multiple`.
        remainder: Str.
        multiple: Int.
        apart: Int, a bucket that no rows spill into, as of `Buckets`; or None.
        mixed_sizes: Ints, the rows of a batch that rows of shorter buckets have spilled into; None for `batch_sizes`.

    Example:
        Five rows and four, in batches of three: two rows of the first bucket spill into the second.

        >>> spans = batch_spans(np.array([5, 4]), [3, 3], remainder="spill", multiple=1)
        >>> spans.begins.tolist(), spans.ends.tolist(), spans.num_batches.tolist()
        ([0, 3], [3, 9], [1, 2])
    """
    begins = np.zeros(len(counts), np.int64)
    ends = np.zeros(len(counts), np.int64)
    # All sizes are multiples of `multiple`, so that how many rows are spare does not depend on where the cuts are. Each
    # bucket holds back as many, in case they are its own: the rows behind them then move up, but those of the next
    # bucket must not move up into a batch of this one.
    num_spare = count_spare_rows(int(counts.sum()), remainder, multiple)
    filled = np.flatnonzero(counts).tolist()
    bucket_ends = np.cumsum(counts).tolist()
    sizes = np.asarray(batch_sizes)
    steps = sizes.tolist()
    mixed_ends = np.zeros(len(counts), np.int64)
    mixed = steps if mixed_sizes is None else np.asarray(mixed_sizes).tolist()
    end_in_partial = set(filled if remainder == "keep" else filled[-1:] if remainder == "spill" else [])
    if apart is not None:
        end_in_partial |= set([bucket for bucket in filled if bucket < apart][-1:])
    begin = 0
    for bucket in filled:
        available = max(bucket_ends[bucket] - num_spare, begin)
        step = multiple if bucket in end_in_partial else steps[bucket]
        begins[bucket] = begin
        if mixed[bucket] < steps[bucket]:
            # As many such batches as hold the rows that have spilled. Fewer rows than one of them stay for a partial
            # batch, or spill further.
            spilled = max(bucket_ends[bucket] - int(counts[bucket]) - begin, 0)
            wanted = -(-spilled // mixed[bucket])
            begin += min(wanted, (available - begin) // mixed[bucket]) * mixed[bucket]
        mixed_ends[bucket] = begin
        ends[bucket] = begin = begin + (available - begin) // step * step
        if remainder == "drop":
            begin = available
    return BatchSpans(begins, ends, sizes, mixed_ends, np.asarray(mixed))


def count_spare_rows(num_rows: int, remainder: str, multiple: int) -> int:
    """The number of rows that no batch has room for, other than those that `remainder="drop"` leaves out."""
    return 0 if remainder == "drop" else num_rows % multiple


@dataclass(frozen=True)
class BatchCuts:
    """Where the bucket-ordered rows are cut into batches.

    Attributes:
        starts: Int64 array `(num_batches,)`: the position of each batch's first row.
        stops: Int64 array `(num_batches,)`: one after its last row.
        buckets: Int64 array `(num_batches,)`: the bucket whose size and boundary each batch has.
        num_spare: Int, rows that no batch has room for, because batches have a multiple of so many rows. Whichever rows
            these are, from whichever buckets: ordered behind all others, they leave every batch without a row of a
            longer bucket than its own.
    """

    starts: Counts
    stops: Counts
    buckets: Counts
    num_spare: int

    @classmethod
    def from_spans(cls, spans: BatchSpans, num_spare: int) -> BatchCuts:
        """Cuts each span into batches of its bucket's size."""
        # The batches that rows have spilled into, then the others, bucket by bucket.
        begins, ends, sizes = (
            np.stack(parts, axis=1).ravel()
            for parts in (
                (spans.begins, spans.mixed_ends),
                (spans.mixed_ends, spans.ends),
                (spans.mixed_sizes, spans.batch_sizes),
            )
        )
        num_batches = -(-(ends - begins) // sizes)
        parts = np.repeat(np.arange(len(begins)), num_batches)
        within = np.arange(len(parts)) - np.repeat(np.cumsum(num_batches) - num_batches, num_batches)
        starts = begins[parts] + within * sizes[parts]
        stops = np.minimum(starts + sizes[parts], ends[parts])
        return cls(starts, stops, parts // 2, num_spare)


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
    # move the others up, to batches of shorter buckets, never down.
    first = np.searchsorted(np.cumsum(buckets.counts), cuts.starts, side="right")
    lowest = np.arange(len(buckets.counts))
    np.minimum.at(lowest, cuts.buckets, first)
    upper_lengths = {level.name: np.where(buckets.counts > 0, level.upper_lengths, 0) for level in buckets.levels}
    if buckets.levels:  # one shape for all batches of a bucket that rows of other outer buckets have spilled into
        outer = buckets.levels[0].lower_lengths
        first = np.where(outer[first] < outer[cuts.buckets], lowest[cuts.buckets], first)
    columns = []
    for leaf in lengths.leaves:
        if leaf.name in upper_lengths:
            columns.append(longest_since(upper_lengths[leaf.name], first, cuts.buckets))
        elif not buckets.levels and not leaf.is_label and np.array_equal(leaf.lengths, lengths.longest):
            columns.append(buckets.upper_lengths[cuts.buckets])
        else:
            longest = longest_since(buckets.longest(leaf.lengths), lowest, np.arange(len(lowest)))
            columns.append(longest[cuts.buckets])
    padded: Lengths = np.maximum(np.stack(columns, axis=1), min_lengths)
    return padded


def longest_since(lengths: Lengths, first: Counts, last: Counts) -> Lengths:
    """The longest of the lengths `(num_buckets,)` from a first bucket to a last one, for each pair of these.

    Example:
        >>> longest_since(np.array([2, 9, 4, 5]), first=np.array([0, 1, 2]), last=np.array([0, 3, 3])).tolist()
        [2, 9, 5]
    """
    longest = lengths[last]
    for at in np.flatnonzero(first < last).tolist():  # few: those with rows that have spilled
        longest[at] = lengths[first[at] : last[at] + 1].max()
    return longest
