"""What was padded in each bucket."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_bucketing.padding.efficiency import padding_efficiency
from keras_bucketing.padding.text_table import format_table


@dataclasses.dataclass(frozen=True)
class BucketPaddingStats:
    """What was padded in the batches of one bucket.

    Attributes:
        bucket: Int, which bucket, counted from the shortest.
        longest: Int, the longest padded length among its batches, in timesteps.
        num_sequences: Int, rows in its batches. Rows that spilled into it from shorter buckets count here.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths, of all leaves.
        total_timesteps: Int, sum over the batches of rows x padded length, of all leaves.

    Example:
        >>> BucketPaddingStats(0, 10, 6, 2, 45, 60).padding_efficiency
        0.75
    """

    bucket: int
    longest: int
    num_sequences: int
    num_batches: int
    real_timesteps: int
    total_timesteps: int

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    def __add__(self, other: BucketPaddingStats) -> BucketPaddingStats:
        return BucketPaddingStats(
            self.bucket,
            max(self.longest, other.longest),
            self.num_sequences + other.num_sequences,
            self.num_batches + other.num_batches,
            self.real_timesteps + other.real_timesteps,
            self.total_timesteps + other.total_timesteps,
        )


def stats_of_buckets(
    buckets: np.ndarray, rows: np.ndarray, real: np.ndarray, total: np.ndarray, padded_lengths: np.ndarray
) -> tuple[BucketPaddingStats, ...]:
    """Adds the batches of each bucket up.

    Args:
        buckets: Int array of shape `(num_batches,)`, the index of each batch's bucket.
        rows: Int array of shape `(num_batches,)`.
        real: Int array of shape `(num_batches,)`, real timesteps.
        total: Int array of shape `(num_batches,)`, real and padded timesteps.
        padded_lengths: Int array of shape `(num_batches,)`, in timesteps.

    Returns:
        A tuple of `BucketPaddingStats`, one for each bucket that has a batch, the shortest first.
    """
    indices, position = np.unique(buckets, return_inverse=True)
    figures = np.zeros((4, indices.size), np.int64)
    for figure, of_batch in zip(figures, (rows, np.ones_like(rows), real, total), strict=True):
        np.add.at(figure, position, of_batch)
    longest = np.zeros(indices.size, np.int64)
    np.maximum.at(longest, position, padded_lengths)
    columns = np.stack([indices, longest, *figures], axis=1).tolist()
    return tuple(BucketPaddingStats(*column) for column in columns)


def bucket_table(buckets: tuple[BucketPaddingStats, ...]) -> str:
    """A line for each bucket."""
    header = ["bucket", "padded to", "sequences", "batches", "real", "timesteps", "efficiency"]
    rows = [(*dataclasses.astuple(stats), stats.padding_efficiency) for stats in buckets]
    return format_table(header, rows)
