"""Rows that are ordered by bucket, cut into batches at fixed offsets.

    rows, ordered by bucket  | bucket 0            | bucket 1       | bucket 2  |
    remainder="spill"        [ 0 0 0 ][ 0 0 0 ][ 0 | 1 1 ][ 1 1 1 |][ 2 2 ][ 2 ]
    remainder="keep"         [ 0 0 0 ][ 0 0 0 ][ 0 ][ 1 1 1 ][ 1 1 ][ 2 2 ][ 2 ]
    remainder="drop"         [ 0 0 0 ][ 0 0 0 ]  0  [ 1 1 1 ]  1 1  [ 2 2 ]  2

No batch has a row of a longer bucket than its own. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_bucketing.planning.batch_spans import batch_spans, spare_rows
from keras_bucketing.planning.buckets import Buckets


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
