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
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    bucket_ends = np.cumsum(buckets.counts)
    filled = np.flatnonzero(buckets.counts)
    # All sizes are multiples of `multiple`, so that how many rows are spare does not depend on where the cuts are. Each
    # bucket holds back as many, in case they are its own: the rows behind them then move up, but those of the next
    # bucket must not move up into a batch of this one.
    num_spare = 0 if remainder == "drop" else len(buckets.row_buckets) % multiple
    begin = 0
    for bucket in filled.tolist():
        size = buckets.batch_sizes[bucket]
        end = max(int(bucket_ends[bucket]) - num_spare, begin)
        full = (end - begin) // size
        edges = begin + size * np.arange(full + 1)
        begin = int(edges[-1])
        if remainder == "keep" or (remainder == "spill" and bucket == filled[-1]):
            partial = (end - begin) // multiple * multiple
            if partial:
                begin += partial
                edges = np.append(edges, begin)
        elif remainder == "drop":
            begin = end
        for part, of_bucket in zip(parts, (edges[:-1], edges[1:], np.full(len(edges) - 1, bucket)), strict=True):
            part.append(of_bucket)
    if not sum(map(len, parts[0])):
        raise ValueError(_no_batches(buckets, remainder, multiple))
    starts, stops, batch_buckets = (np.concatenate(part).astype(np.int64) for part in parts)
    return BatchCuts(starts, stops, batch_buckets, num_spare)


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
