"""Lengths and sizing options to buckets: their boundaries and the rows of their batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_bucketing.checks import check_integer
from keras_bucketing.planning.automatic_buckets import automatic_bucket_boundaries
from keras_bucketing.planning.boundaries import check_boundaries, optimal_bucket_boundaries
from keras_bucketing.planning.sizing import BatchSizing


@dataclass(frozen=True)
class Buckets:
    """The buckets of a dataset.

    Attributes:
        boundaries: Ints, one less than there are buckets; bucket i holds `boundaries[i - 1] <= length < boundaries[i]`.
        batch_sizes: Ints, rows, one for each bucket.
        upper_lengths: Int64 array `(num_buckets,)`: the longest length that each bucket allows, in timesteps.
        row_buckets: Int array `(num_rows,)`: the bucket of each row.
    """

    boundaries: list[int]
    batch_sizes: list[int]
    upper_lengths: np.ndarray
    row_buckets: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Int array `(num_buckets,)`: the rows in each bucket."""
        return np.bincount(self.row_buckets, minlength=len(self.upper_lengths))


def choose_buckets(
    lengths: np.ndarray,
    sizing: BatchSizing,
    bucket_boundaries: Any = None,
    num_buckets: Any = None,
    pad_to_bucket_boundary: bool = False,
    kept: np.ndarray | None = None,
    minlen: int = 1,
    remainder: str = "spill",
) -> Buckets:
    """Finds the buckets, from given boundaries or as those of minimum padding.

    Args:
        lengths: Int64 array `(num_rows,)`, timesteps.
        sizing: The checked sizes.
        bucket_boundaries: Ints or None, as the user gave them.
        num_buckets: Int or None, as the user gave it.
        pad_to_bucket_boundary: Whether batches are padded to the longest allowed length, so that this is what a budget
            holds.
        kept: Int array `(num_rows,)` or None: what an error message calls each row.
        minlen: Int, the length that every batch is padded to at least, so that no bucket ends below it unless the user
            says so, and that is what a budget holds.
        remainder: What becomes of rows that do not fill a batch of their bucket; the automatic number depends on it.
    """
    if bucket_boundaries is not None:
        boundaries = check_boundaries(bucket_boundaries)
        _check_number(num_buckets, boundaries)
    else:
        padded = np.maximum(lengths, minlen)
        boundaries = _find_boundaries(padded, sizing, num_buckets, pad_to_bucket_boundary, remainder)
    if sizing.bucket_batch_sizes is not None and len(sizing.bucket_batch_sizes) != len(boundaries) + 1:
        raise ValueError(
            f"`bucket_batch_sizes` must have one entry for each bucket. Expected {len(boundaries) + 1} for the "
            f"boundaries {_shorten(boundaries)}, received {len(sizing.bucket_batch_sizes)}."
        )
    row_buckets = np.searchsorted(boundaries, lengths, side="right").astype(np.int32)
    longest = int(lengths.max())
    upper_lengths = np.array([*(boundary - 1 for boundary in boundaries), longest], np.int64)
    filled = np.bincount(row_buckets, minlength=len(upper_lengths)) > 0
    budgeted = upper_lengths
    if not pad_to_bucket_boundary:  # then a batch is no longer than the longest row of its bucket
        longest_in_bucket = np.zeros(len(upper_lengths), np.int64)
        np.maximum.at(longest_in_bucket, row_buckets, lengths)
        budgeted = np.where(filled, longest_in_bucket, upper_lengths)
    budgeted = np.maximum(budgeted, minlen)
    sizes = np.array(sizing.bucket_batch_sizes) if sizing.bucket_batch_sizes is not None else sizing.rows_at(budgeted)
    _check_budget(sizes, budgeted, filled, lengths, row_buckets, sizing, kept, minlen)
    return Buckets(boundaries, np.maximum(sizes, sizing.multiple).tolist(), upper_lengths, row_buckets)


def _find_boundaries(
    lengths: np.ndarray, sizing: BatchSizing, num_buckets: Any, pad_to_bucket_boundary: bool, remainder: str
) -> list[int]:
    if sizing.bucket_batch_sizes is not None:
        wanted = len(sizing.bucket_batch_sizes)
        if num_buckets is not None and check_integer("num_buckets", num_buckets) != wanted:
            raise ValueError(
                f"`num_buckets` must match `bucket_batch_sizes`. Expected {wanted}, one for each size, received "
                f"{num_buckets}."
            )
        distinct = len(np.unique(lengths))
        if distinct < wanted:
            raise ValueError(
                f"`bucket_batch_sizes` has more entries than there are distinct lengths. Expected at most {distinct}, "
                f"received {wanted}."
            )
        return optimal_bucket_boundaries(lengths, wanted)
    if num_buckets is not None:
        return optimal_bucket_boundaries(lengths, num_buckets)
    return automatic_bucket_boundaries(
        lengths, sizing.rows_at, remainder, sizing.multiple, few_shapes=pad_to_bucket_boundary
    )


def _check_number(num_buckets: Any, boundaries: list[int]) -> None:
    if num_buckets is not None and check_integer("num_buckets", num_buckets) != len(boundaries) + 1:
        raise ValueError(
            f"`num_buckets` must match `bucket_boundaries`. Expected {len(boundaries) + 1}, one more than there are "
            f"boundaries, received {num_buckets}. Leave one of the two out."
        )


def _check_budget(
    sizes: np.ndarray,
    budgeted: np.ndarray,
    filled: np.ndarray,
    lengths: np.ndarray,
    row_buckets: np.ndarray,
    sizing: BatchSizing,
    kept: np.ndarray | None,
    minlen: int,
) -> None:
    """Refuses a budget that cannot hold one row (or `multiple` rows) of some bucket."""
    too_long = np.flatnonzero(filled & (sizes < 1))
    if not too_long.size:
        return
    bucket = int(too_long[-1])
    row = int(np.flatnonzero(row_buckets == bucket)[np.argmax(lengths[row_buckets == bucket])])
    needed, room = int(budgeted[bucket]), sizing.max_timesteps_per_batch // sizing.multiple  # type: ignore[operator]
    padded = f", padded to {needed}" if needed > lengths[row] else ""
    fix = f", or cut long sequences with maxlen={room}" if room else ""
    if padded:
        fix = ", or lower minlen" if needed == minlen else ", or lower that bucket's boundary"
    raise ValueError(
        f"`max_timesteps_per_batch` must hold at least {sizing.multiple} row{'s' if sizing.multiple > 1 else ''} of "
        f"every sequence. Expected at least {sizing.multiple * needed} for the {lengths[row]} timesteps of "
        f"x[{row if kept is None else kept[row]}]{padded}, received {sizing.max_timesteps_per_batch}. "
        f"Raise the budget{fix}."
    )


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 10 else f"[{values[0]}, {values[1]}, ..., {values[-1]}]"
