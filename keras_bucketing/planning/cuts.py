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

from keras_bucketing.data.rows import RowLengths
from keras_bucketing.planning.buckets import Buckets


@dataclass(frozen=True)
class BatchRules:
    """How batches are cut and padded, besides boundaries and sizes.

    Attributes:
        remainder: Str, what becomes of the rows that do not fill a batch of their bucket. "spill": they go into the
            next longer bucket, and what is left at the end makes one partial batch. "keep": each bucket makes one
            partial batch. "drop": they are left out.
        multiple: Int. Every batch has a multiple of it, so fewer than that many rows may be spare.
        pad_to_bucket_boundary: Bool, whether batches are padded to the longest length that their bucket allows.
        min_length: Int, the length that batches are padded to at least, in timesteps.
    """

    remainder: str = "spill"
    multiple: int = 1
    pad_to_bucket_boundary: bool = False
    min_length: int = 1


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

    starts: np.ndarray
    stops: np.ndarray
    buckets: np.ndarray
    num_spare: int


def cut_batches(buckets: Buckets, remainder: str, multiple: int) -> BatchCuts:
    """Cuts rows that are ordered by bucket into batches.

    Args:
        buckets: How many rows there are in each, and how many make a batch: a multiple of `multiple`.
        remainder: What becomes of the rows that do not fill a batch of their bucket. "spill": they go into the next
            longer bucket, and what is left at the end makes one partial batch. "keep": each bucket makes one partial
            batch. "drop": they are left out.
        multiple: Int. Every batch has a multiple of it, so fewer than that many rows may be spare.

    Raises:
        ValueError: If there is no batch at all.
    """
    begins, ends = batch_spans(buckets.counts, buckets.batch_sizes, remainder, multiple)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for bucket, (begin, end, size) in enumerate(zip(begins, ends, buckets.batch_sizes, strict=True)):
        starts = np.arange(begin, end, size)
        for part, of_bucket in zip(
            parts, (starts, np.minimum(starts + size, end), np.full(len(starts), bucket)), strict=True
        ):
            part.append(of_bucket)
    starts, stops, batch_buckets = (np.concatenate(part).astype(np.int64) for part in parts)
    if not len(starts):
        raise ValueError(_no_batches(buckets, remainder, multiple))
    return BatchCuts(starts, stops, batch_buckets, spare_rows(len(buckets.row_buckets), remainder, multiple))


def _no_batches(buckets: Buckets, remainder: str, multiple: int) -> str:
    rows = len(buckets.row_buckets)
    if rows < multiple:
        return (
            f"`x` has too few sequences for a single batch. Expected at least {multiple} (batch_size_multiple x "
            f"num_shards), received {rows}. Lower batch_size_multiple or num_shards."
        )
    return (
        f"No bucket of `x` has enough sequences for a full batch, and remainder={remainder!r} leaves the rest out. "
        f"Received {buckets.counts.tolist()} sequences for batches of {buckets.batch_sizes}. Lower the batch size or "
        'pass remainder="spill".'
    )


# Which of the rows that are ordered by bucket the batches of each bucket take. NumPy only.


def batch_spans(
    counts: np.ndarray, batch_sizes: Sequence[int], remainder: str, multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds, for each bucket, the positions that its batches take: from a begin to an end, batch after batch.

    Args:
        counts: Int array `(num_buckets,)`, the rows of each bucket.
        batch_sizes: Ints, the rows of a batch of each bucket: multiples of `multiple`.
        remainder: "spill", "keep" or "drop"; see `cut_batches`.
        multiple: Int. Every batch has a multiple of it.

    Returns:
        Two int64 arrays `(num_buckets,)`: the position of the first row, and one after that of the last. Only the last
        batch of a span may be smaller than the bucket's batch size. Both are equal for a bucket without a batch.

    Example:
        Five rows and four, in batches of three: two rows of the first bucket spill into the second.

        >>> batch_spans(np.array([5, 4]), [3, 3], remainder="spill", multiple=1)
        (array([0, 3]), array([3, 9]))
    """
    begins = np.zeros(len(counts), np.int64)
    ends = np.zeros(len(counts), np.int64)
    # All sizes are multiples of `multiple`, so that how many rows are spare does not depend on where the cuts are. Each
    # bucket holds back as many, in case they are its own: the rows behind them then move up, but those of the next
    # bucket must not move up into a batch of this one.
    num_spare = spare_rows(int(counts.sum()), remainder, multiple)
    filled = np.flatnonzero(counts).tolist()
    bucket_ends = np.cumsum(counts).tolist()
    begin = 0
    for bucket in filled:
        available = max(bucket_ends[bucket] - num_spare, begin)
        takes_partial = remainder == "keep" or (remainder == "spill" and bucket == filled[-1])
        step = multiple if takes_partial else batch_sizes[bucket]
        begins[bucket] = begin
        ends[bucket] = begin = begin + (available - begin) // step * step
        if remainder == "drop":
            begin = available
    return begins, ends


def spare_rows(num_rows: int, remainder: str, multiple: int) -> int:
    """How many rows no batch has room for, other than those that `remainder="drop"` leaves out.

    Args:
        num_rows: Int, the rows of all buckets.
        remainder: As in `batch_spans`.
        multiple: As in `batch_spans`.
    """
    return 0 if remainder == "drop" else num_rows % multiple


# The least length that each leaf of each batch is padded to, whatever rows the batch gets. NumPy only.


def least_padded_lengths(
    lengths: RowLengths, buckets: Buckets, cuts: BatchCuts, pad_to_bucket_boundary: bool, minlen: int = 1
) -> np.ndarray:
    """Finds what the batches are padded to at least; a batch with a longer row is padded to that.

    With `pad_to_bucket_boundary` no row is longer, so that a bucket has one shape. A leaf that is the longest of every
    row, as a single one is, is padded to the longest length that the bucket allows. Any other is padded to the longest
    that it has there: a transcript is not padded to the length of the audio.

    Args:
        lengths: The lengths of all leaves.
        buckets: The buckets of the rows.
        cuts: The batches.
        pad_to_bucket_boundary: Whether all batches of a bucket have one padded length.
        minlen: Int, the least padded length of the leaves of `x`. Labels of their own length are padded to one timestep
            at least: kernels do not take a time axis of size 0.

    Returns:
        Int64 array `(num_batches, num_leaves)`, in timesteps.
    """
    least = np.array([1 if leaf.is_label else minlen for leaf in lengths.leaves], np.int64)
    if not pad_to_bucket_boundary:
        return np.tile(least, (len(cuts.buckets), 1))
    lowest = _lowest_buckets(buckets, cuts)
    columns = [
        buckets.upper_lengths
        if not leaf.is_label and np.array_equal(leaf.lengths, lengths.longest)
        else _longest_within(leaf.lengths, buckets, lowest)
        for leaf in lengths.leaves
    ]
    padded: np.ndarray = np.maximum(np.stack(columns, axis=1), least)[cuts.buckets]
    return padded


def _lowest_buckets(buckets: Buckets, cuts: BatchCuts) -> np.ndarray:
    """Int array `(num_buckets,)`: the shortest bucket whose rows a batch of each bucket may hold.

    The rows that spill from shorter buckets can be longer in a leaf that does not choose the bucket. Spare rows only
    move the others up, to batches of shorter buckets, never down.
    """
    ends = np.cumsum(buckets.counts)
    lowest = np.arange(len(ends))
    np.minimum.at(lowest, cuts.buckets, np.searchsorted(ends, cuts.starts, side="right"))
    return lowest


def _longest_within(lengths: np.ndarray, buckets: Buckets, lowest: np.ndarray) -> np.ndarray:
    """Int64 array `(num_buckets,)`: the longest length from the lowest bucket up to each."""
    longest = np.zeros(len(lowest), np.int64)
    np.maximum.at(longest, buckets.row_buckets, lengths)
    return np.array([longest[low : bucket + 1].max() for bucket, low in enumerate(lowest.tolist())], np.int64)
