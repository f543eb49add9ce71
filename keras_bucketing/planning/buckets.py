"""The buckets of a dataset: their boundaries, and the rows of their batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_bucketing.checks import INT64_MAX, check_flat_list, check_integer, show


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


# How many rows a batch has, and which of them belong to one process.


DEFAULT_BATCH_SIZE = 32  # as of `fit`


@dataclass(frozen=True)
class BatchSizing:
    """How batches are sized: by rows, by rows of each bucket, or by a budget, which rows may cap.

    Attributes:
        batch_size: Int, rows, the same for every bucket; next to a budget, the most rows.
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
            rows = rows_within_budget(upper_lengths, self.max_timesteps_per_batch, self.multiple)
            return rows if self.batch_size is None else np.minimum(rows, self.batch_size)
        if self.batch_size is not None:
            return np.full(len(upper_lengths), self.batch_size)
        return np.full(len(upper_lengths), max(DEFAULT_BATCH_SIZE // self.multiple, 1) * self.multiple)


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
    others = {"batch_size": batch_size, "max_timesteps_per_batch": max_timesteps_per_batch}
    others = {name: value for name, value in others.items() if value is not None}
    if bucket_batch_sizes is not None and others:
        received = " and ".join(f"{name}={show(value)}" for name, value in others.items())
        raise ValueError(
            "`bucket_batch_sizes` says the rows of every bucket, so no other size may stand next to it. Received "
            f"{received} as well. Leave one of them out."
        )
    multiple = check_integer("batch_size_multiple", batch_size_multiple) * num_shards
    if batch_size is not None:
        batch_size = _check_batch_size("batch_size", batch_size, multiple)
    if bucket_batch_sizes is not None:
        sizes = check_flat_list("bucket_batch_sizes", bucket_batch_sizes)
        if not sizes:
            raise ValueError("`bucket_batch_sizes` is empty. Expected one size for each bucket.")
        bucket_batch_sizes = [
            _check_batch_size(f"bucket_batch_sizes[{index}]", size, multiple) for index, size in enumerate(sizes)
        ]
    if max_timesteps_per_batch is not None:
        max_timesteps_per_batch = check_integer("max_timesteps_per_batch", max_timesteps_per_batch, maximum=INT64_MAX)
    return BatchSizing(batch_size, bucket_batch_sizes, max_timesteps_per_batch, multiple)


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `num_shards` takes rows index, index + num_shards, ... of every batch."""

    num_shards: int
    index: int


def check_shard(num_shards: Any, shard_index: Any, needs_seed: bool) -> Shard:
    """Checks the arguments; shards that draw a seed of their own would not share one plan."""
    num_shards = check_integer("num_shards", num_shards)
    shard_index = check_integer("shard_index", shard_index, minimum=0)
    if shard_index >= num_shards:
        raise ValueError(
            f"`shard_index` is out of range. Expected an int below num_shards={num_shards}, received {shard_index}."
        )
    if num_shards > 1 and needs_seed:
        raise ValueError(
            f"`seed` must be given for num_shards={num_shards} with shuffle=True: all shards must draw the same "
            "order. Pass the same seed in every process."
        )
    return Shard(num_shards, shard_index)


def _check_batch_size(name: str, value: Any, multiple: int) -> int:
    size = check_integer(name, value)
    if size % multiple:
        below, above = size // multiple * multiple, (size // multiple + 1) * multiple
        raise ValueError(
            f"`{name}` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of {multiple}, "
            f"received {size}. Use {f'{below} or ' if below else ''}{above}."
        )
    return size
