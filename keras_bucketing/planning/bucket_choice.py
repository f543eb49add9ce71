"""The choice of the buckets: given boundaries, or those of minimum padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_bucketing.checks import check_integer
from keras_bucketing.planning.boundaries import (
    best_partitions,
    boundaries_after,
    check_boundaries,
    count_lengths,
    optimal_bucket_boundaries,
)
from keras_bucketing.planning.buckets import BatchSizing, Buckets
from keras_bucketing.planning.cuts import batch_spans


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


# How many buckets, where nobody says: by the padding that is left once the batches are really cut.
#
# Minimum padding puts every row into its own bucket. Real batches do not: what does not fill a batch spills into the
# next longer one, and on a heavy tail that takes back what many buckets gain. So each number of buckets is judged by
# its cuts. NumPy only.


MOST_BUCKETS = 32
# Enough: beyond it another bucket buys little and makes the batches less random.
ENOUGH_EFFICIENCY = 0.95
# Where that cannot be reached: this share of the best that can. On long tails it costs about 2 % more timesteps for
# a fifth to a third fewer repeated meetings (`python -m benchmarks.automatic_buckets`).
SHARE_OF_BEST = 0.975
# With one shape a bucket, each has to save so much of the timesteps: compiling a shape takes XLA 2 to 3 seconds, which
# is that share of a training of four minutes.
SAVED_BY_A_SHAPE = 0.01


def automatic_bucket_boundaries(
    lengths: np.ndarray,
    batch_rows: Callable[[np.ndarray], np.ndarray],
    remainder: str = "spill",
    multiple: int = 1,
    few_shapes: bool = False,
) -> list[int]:
    """Finds as few minimum-padding buckets as come close to the best, none smaller than its batch.

    Args:
        lengths: Int64 array of shape `(num_sequences,)`.
        batch_rows: Function from longest lengths, shape `(num_distinct,)`, to the rows of a batch of a bucket that ends
            there. It must not grow with the length.
        remainder: What becomes of rows that do not fill a batch of their bucket; see `cut_batches`.
        multiple: Int. Every batch has a multiple of it.
        few_shapes: Whether each bucket is a shape to compile, so that it has to save 1 % of the timesteps.

    Returns:
        List of boundaries, as of `optimal_bucket_boundaries`. At most 32 buckets, and one bucket where the data is too
        small for two.
    """
    distinct, counts = count_lengths(lengths)
    rows = np.maximum(batch_rows(distinct), multiple)
    rows_before = np.concatenate([[0], np.cumsum(counts)])
    timesteps_before = np.concatenate([[0], np.cumsum(counts * distinct)])
    partitions: list[list[int]] = []
    efficiencies: list[float] = []
    most = min(MOST_BUCKETS, len(distinct))
    for ends, _ in best_partitions(distinct, counts, np.minimum(rows, lengths.size), most):
        last = np.array(ends) - 1
        in_bucket, timesteps = np.diff(rows_before[[0, *ends]]), np.diff(timesteps_before[[0, *ends]])
        begins, stops = batch_spans(in_bucket, rows[last].tolist(), remainder, multiple)
        taken = stops - begins
        # Rows that are left out are any of their bucket if it drops them, else any of all.
        real = taken @ (timesteps / in_bucket) if remainder == "drop" else timesteps.sum() * taken.sum() / lengths.size
        padded = int(taken @ distinct[last])
        partitions.append(ends)
        efficiencies.append(real / padded if padded else 0.0)
    return boundaries_after(distinct, partitions[_fewest(np.array(efficiencies), few_shapes)])


def _fewest(efficiencies: np.ndarray, few_shapes: bool) -> int:
    """The first number of buckets, counted from 0, that is close enough to the best; fewer if shapes are dear."""
    enough = min(ENOUGH_EFFICIENCY, SHARE_OF_BEST * float(efficiencies.max()))
    fewest = int(np.argmax(efficiencies >= enough))
    if few_shapes:
        worth = efficiencies * (1 - SAVED_BY_A_SHAPE) ** np.arange(len(efficiencies))
        fewest = int(np.argmax(worth[: fewest + 1]))
    return fewest
