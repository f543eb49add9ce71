"""Lengths and sizing options to buckets: their boundaries and the rows of their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from keras_bucketing.planning.boundaries import automatic_bucket_boundaries, optimal_bucket_boundaries
from keras_bucketing.checks import INT64_MAX, check_integer
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.padding.text_table import format_table

DEFAULT_BATCH_SIZE = 32  # as of `fit`


@dataclass(frozen=True)
class BatchSizing:
    """How batches are sized: at most one of the three ways is given.

    Attributes:
        batch_size: Int, rows, the same for every bucket.
        bucket_batch_sizes: Ints, rows, one for each bucket.
        max_timesteps_per_batch: Int, the most cells (rows x padded length) of a batch.
        multiple: Int, every batch's rows are a multiple of it.
    """

    batch_size: int | None
    bucket_batch_sizes: list[int] | None
    max_timesteps_per_batch: int | None
    multiple: int

    def rows_at(self, upper_lengths: np.ndarray) -> np.ndarray:
        """The rows of a batch, for each longest length of a bucket; 0 where not even `multiple` of them fit."""
        if self.max_timesteps_per_batch is not None:
            return rows_within_budget(upper_lengths, self.max_timesteps_per_batch, self.multiple)
        if self.batch_size is not None:
            return np.full(len(upper_lengths), self.batch_size)
        return np.full(len(upper_lengths), max(DEFAULT_BATCH_SIZE // self.multiple, 1) * self.multiple)


@dataclass(frozen=True)
class Buckets:
    """The buckets of a data set.

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


def rows_within_budget(upper_lengths: Any, max_timesteps: int, multiple: int = 1) -> np.ndarray:
    """The most rows whose padded cells stay within a budget, as a multiple of `multiple`, 0 where none fit.

    The rule of OpenNMT-tf's `batch_type="tokens"` and of fairseq's `--max-tokens`.

    >>> rows_within_budget([3, 6, 9, 12], 512).tolist()
    [170, 85, 56, 42]
    >>> rows_within_budget([3, 6, 9, 12], 512, multiple=8).tolist()
    [168, 80, 56, 40]
    """
    return max_timesteps // np.asarray(upper_lengths) // multiple * multiple


def check_sizing(
    batch_size: Any,
    bucket_batch_sizes: Any,
    max_timesteps_per_batch: Any,
    batch_size_multiple: Any,
    num_shards: int,
) -> BatchSizing:
    """Checks the arguments that size batches."""
    given = {
        "batch_size": batch_size,
        "bucket_batch_sizes": bucket_batch_sizes,
        "max_timesteps_per_batch": max_timesteps_per_batch,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(
            "The batch size must be given in one way. Expected one of batch_size, bucket_batch_sizes and "
            f"max_timesteps_per_batch, received {' and '.join(f'{name}={value!r}' for name, value in given.items())}."
        )
    multiple = check_integer("batch_size_multiple", batch_size_multiple) * num_shards
    if batch_size is not None:
        batch_size = _check_batch_size("batch_size", batch_size, multiple)
    if bucket_batch_sizes is not None:
        sizes = _as_list("bucket_batch_sizes", bucket_batch_sizes)
        if not sizes:
            raise ValueError("`bucket_batch_sizes` is empty. Expected one size for each bucket.")
        bucket_batch_sizes = [
            _check_batch_size(f"bucket_batch_sizes[{index}]", size, multiple) for index, size in enumerate(sizes)
        ]
    if max_timesteps_per_batch is not None:
        max_timesteps_per_batch = check_integer("max_timesteps_per_batch", max_timesteps_per_batch, maximum=INT64_MAX)
    return BatchSizing(batch_size, bucket_batch_sizes, max_timesteps_per_batch, multiple)


def choose_buckets(
    lengths: np.ndarray,
    sizing: BatchSizing,
    bucket_boundaries: Any = None,
    num_buckets: Any = None,
    pad_to_bucket_boundary: bool = False,
    kept: np.ndarray | None = None,
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
    """
    if bucket_boundaries is not None:
        boundaries = check_boundaries(bucket_boundaries)
        _check_number(num_buckets, boundaries)
    else:
        boundaries = _find_boundaries(lengths, sizing, num_buckets)
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
    sizes = (
        np.array(sizing.bucket_batch_sizes)
        if sizing.bucket_batch_sizes is not None
        else sizing.rows_at(np.maximum(budgeted, 1))
    )
    _check_budget(sizes, budgeted, filled, lengths, row_buckets, sizing, pad_to_bucket_boundary, kept)
    return Buckets(boundaries, np.maximum(sizes, sizing.multiple).tolist(), upper_lengths, row_buckets)


def summarize_buckets(buckets: Buckets, stats: PaddingStats) -> str:
    """The buckets as a text table, with the padding of one epoch."""
    padded = {bucket.bucket: bucket for bucket in stats.buckets}
    longest = [*(boundary - 1 for boundary in buckets.boundaries), int(buckets.upper_lengths[-1])]
    rows = []
    for bucket, (upper, count, size) in enumerate(zip(longest, buckets.counts, buckets.batch_sizes, strict=True)):
        lower = 1 if bucket == 0 else buckets.boundaries[bucket - 1]
        batches = padded[bucket].num_batches if bucket in padded else 0
        efficiency = f"{padded[bucket].padding_efficiency:.3f}" if batches else "-"
        rows.append([f"{lower} - {max(upper, lower)}", int(count), size, batches, efficiency])
    rows.append(["all", stats.num_sequences, "", stats.num_batches, f"{stats.padding_efficiency:.3f}"])
    return format_table(["lengths", "sequences", "rows a batch", "batches", "padding efficiency"], rows)


def _find_boundaries(lengths: np.ndarray, sizing: BatchSizing, num_buckets: Any) -> list[int]:
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
    return automatic_bucket_boundaries(lengths, lambda upper: np.maximum(sizing.rows_at(upper), 1))


def check_boundaries(bucket_boundaries: Any) -> list[int]:
    """Returns increasing ints."""
    boundaries = [
        check_integer(f"bucket_boundaries[{index}]", boundary)
        for index, boundary in enumerate(_as_list("bucket_boundaries", bucket_boundaries))
    ]
    for index, (previous, boundary) in enumerate(pairwise(boundaries), start=1):
        if boundary <= previous:
            raise ValueError(
                f"`bucket_boundaries` must increase. Received {boundary} at bucket_boundaries[{index}] after "
                f"{previous}. Sort them and drop doubles."
            )
    return boundaries


def _check_number(num_buckets: Any, boundaries: list[int]) -> None:
    if num_buckets is not None and check_integer("num_buckets", num_buckets) != len(boundaries) + 1:
        raise ValueError(
            f"`num_buckets` must match `bucket_boundaries`. Expected {len(boundaries) + 1}, one more than there are "
            f"boundaries, received {num_buckets}. Leave one of the two out."
        )


def _check_batch_size(name: str, value: Any, multiple: int) -> int:
    size = check_integer(name, value)
    if size % multiple:
        below, above = size // multiple * multiple, (size // multiple + 1) * multiple
        raise ValueError(
            f"`{name}` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of {multiple}, "
            f"received {size}. Use {f'{below} or ' if below else ''}{above}."
        )
    return size


def _check_budget(
    sizes: np.ndarray,
    budgeted: np.ndarray,
    filled: np.ndarray,
    lengths: np.ndarray,
    row_buckets: np.ndarray,
    sizing: BatchSizing,
    pad_to_bucket_boundary: bool,
    kept: np.ndarray | None,
) -> None:
    """Refuses a budget that cannot hold one row (or `multiple` rows) of some bucket."""
    too_long = np.flatnonzero(filled & (sizes < 1))
    if not too_long.size:
        return
    bucket = int(too_long[-1])
    row = int(np.flatnonzero(row_buckets == bucket)[np.argmax(lengths[row_buckets == bucket])])
    padded = f", padded to {budgeted[bucket]}" if pad_to_bucket_boundary and budgeted[bucket] > lengths[row] else ""
    raise ValueError(
        f"`max_timesteps_per_batch` must hold at least {sizing.multiple} row{'s' if sizing.multiple > 1 else ''} of "
        f"every sequence. Expected at least {sizing.multiple * int(budgeted[bucket])} for the {lengths[row]} "
        f"timesteps of x[{row if kept is None else kept[row]}]{padded}, received {sizing.max_timesteps_per_batch}. "
        "Raise the budget, or "
        f"cut long sequences with maxlen={max(sizing.max_timesteps_per_batch // sizing.multiple, 1)}."  # type: ignore[operator]
    )


def _as_list(name: str, values: Any) -> list[Any]:
    is_flat = isinstance(values, Sequence) or (isinstance(values, np.ndarray) and values.ndim == 1)
    if isinstance(values, (str, bytes)) or not is_flat:
        raise TypeError(f"`{name}` must be a flat list of integers. Received {values!r} ({type(values).__name__}).")
    return list(values)


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 10 else f"[{values[0]}, {values[1]}, ..., {values[-1]}]"
