"""The least length that each leaf of each batch is padded to, whatever rows the batch gets. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_bucketing.inputs.leaf_lengths import LeafLengths, lengths_of_rows
from keras_bucketing.planning.batch_cuts import BatchCuts
from keras_bucketing.planning.buckets import Buckets


def least_padded_lengths(
    leaves: Sequence[LeafLengths], buckets: Buckets, cuts: BatchCuts, pad_to_bucket_boundary: bool, minlen: int = 1
) -> np.ndarray:
    """Finds what the batches are padded to at least; a batch with a longer row is padded to that.

    With `pad_to_bucket_boundary` no row is longer, so that a bucket has one shape. A leaf that is the longest of every
    row, as a single one is, is padded to the longest length that the bucket allows. Any other is padded to the longest
    that it has there: a transcript is not padded to the length of the audio.

    Args:
        leaves: The lengths of each.
        buckets: The buckets of the rows.
        cuts: The batches.
        pad_to_bucket_boundary: Whether all batches of a bucket have one padded length.
        minlen: Int, the least padded length of the leaves of `x`. Labels of their own length are padded to one timestep
            at least: kernels do not take a time axis of size 0.

    Returns:
        Int64 array `(num_batches, num_leaves)`, in timesteps.
    """
    least = np.array([1 if leaf.is_label else minlen for leaf in leaves], np.int64)
    if not pad_to_bucket_boundary:
        return np.tile(least, (len(cuts.buckets), 1))
    of_rows = lengths_of_rows(leaves)
    lowest = _lowest_buckets(buckets, cuts)
    columns = [
        buckets.upper_lengths
        if not leaf.is_label and np.array_equal(leaf.lengths, of_rows)
        else _longest_within(leaf.lengths, buckets, lowest)
        for leaf in leaves
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
