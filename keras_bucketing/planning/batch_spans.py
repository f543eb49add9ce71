"""Which of the rows that are ordered by bucket the batches of each bucket take. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
