"""The buckets of a dataset: their rows, the sizes of their batches, and the rows of a process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_bucketing.checks import INT64_MAX, check_flat_list, check_integer, show
from keras_bucketing.data.row_splits import Lengths, row_splits_of
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.boundaries import BucketBoundaries, Counts, NestedBoundaries, is_nested


class Level(NamedTuple):
    """One of the two leaves of nested buckets.

    Attributes:
        name: Str, the name of the leaf.
        lower_lengths: Int64 array `(num_buckets,)`: the shortest length of that leaf that each bucket allows.
        upper_lengths: Int64 array `(num_buckets,)`: the longest; without a boundary, the longest of the data.
    """

    name: str
    lower_lengths: Lengths
    upper_lengths: Lengths


@dataclass(frozen=True)
class Buckets:
    """The buckets of a dataset.

    Attributes:
        boundaries: Ints, one fewer than buckets; bucket i holds `boundaries[i - 1] <= length < boundaries[i]`. Of
            nested buckets `[outer, inner]`: those of one leaf, and for each of its buckets those of another.
        batch_sizes: Ints, rows, one for each bucket.
        upper_lengths: Int64 array `(num_buckets,)`: the longest length that each bucket allows, in timesteps. The last
            one has no boundary, so this is the longest of the data; for nested buckets, the longer of the two leaves.
        row_buckets: Int32 array `(num_rows,)`: the bucket of each row.
        apart: Int, the first bucket of a few outliers, which no rows spill into; None without outliers.
        draws: Int64 array `(num_buckets,)`: how many rows of each bucket an epoch draws by weights; None if it reads
            each row once.
        mixed_sizes: Ints, rows, one for each bucket: the size of a batch with rows of other buckets, if a budget holds
            fewer of them; None if this happens nowhere.
        levels: The outer and the inner leaf of nested buckets, which are numbered in lexicographic order; else empty.
    """

    boundaries: BucketBoundaries
    batch_sizes: list[int]
    upper_lengths: Lengths
    row_buckets: NDArray[np.int32]
    apart: int | None = None
    draws: Counts | None = None
    mixed_sizes: list[int] | None = None
    levels: tuple[Level, ...] = ()

    @classmethod
    def from_lengths(cls, lengths: Lengths, boundaries: list[int], batch_sizes: Sequence[int] = ()) -> Buckets:
        """Puts rows of these lengths into buckets; without sizes, `dataclasses.replace` adds them.

        Example:
            >>> buckets = Buckets.from_lengths(np.array([1, 9, 2, 4]), boundaries=[3, 6])
            >>> buckets.row_buckets.tolist(), buckets.upper_lengths.tolist(), buckets.counts.tolist()
            ([0, 2, 0, 1], [2, 5, 9], [2, 1, 1])
        """
        row_buckets = np.searchsorted(boundaries, lengths, side="right").astype(np.int32)
        upper_lengths = np.array([*(boundary - 1 for boundary in boundaries), lengths.max()], np.int64)
        return cls(boundaries, list(batch_sizes), upper_lengths, row_buckets)

    @classmethod
    def nested(cls, outer: LeafLengths, inner: LeafLengths, boundaries: NestedBoundaries) -> Buckets:
        """Puts rows into buckets of the outer leaf, and in each of these into buckets of the inner one.

        Example:
            >>> outer, inner = LeafLengths("a", np.array([1, 9, 2, 9])), LeafLengths("b", np.array([5, 1, 2, 7]))
            >>> buckets = Buckets.nested(outer, inner, [[3], [[3, 5], [4]]])
            >>> buckets.row_buckets.tolist(), [level.upper_lengths.tolist() for level in buckets.levels]
            ([2, 3, 0, 4], [[2, 2, 2, 9, 9], [2, 4, 5, 3, 7]])
        """
        outer_buckets = Buckets.from_lengths(outer.lengths, boundaries[0])
        lowers = np.array([1, *boundaries[0]])
        first_rows = row_splits_of(outer_buckets.counts.astype(np.int64))
        dtype = np.int16 if len(lowers) < 2**15 else np.int32  # NumPy sorts small integers the fastest
        by_outer = np.argsort(outer_buckets.row_buckets.astype(dtype), kind="stable")
        row_buckets = np.zeros(len(by_outer), np.int32)
        ranges: list[tuple[int, int, int, int]] = []
        for number, inner_boundaries in enumerate(boundaries[1]):
            rows = by_outer[first_rows[number] : first_rows[number + 1]]
            row_buckets[rows] = len(ranges) + np.searchsorted(inner_boundaries, inner.lengths[rows], side="right")
            edges = [1, *inner_boundaries, int(inner.lengths[rows].max(initial=0)) + 1]
            ranges += [
                (int(lowers[number]), int(outer_buckets.upper_lengths[number]), lower, upper - 1)
                for lower, upper in pairwise(edges)
            ]
        columns = np.array(ranges, np.int64).T
        levels = Level(outer.name, *columns[:2]), Level(inner.name, *columns[2:])
        return cls(boundaries, [], np.maximum(columns[1], columns[3]), row_buckets, levels=levels)

    @cached_property
    def counts(self) -> Counts:
        """Int array `(num_buckets,)`: the rows of each bucket in an epoch."""
        if self.draws is not None:
            return self.draws
        return np.bincount(self.row_buckets, minlength=len(self.upper_lengths))

    @property
    def outer_buckets(self) -> Counts:
        """Int array `(num_buckets,)`: the outer bucket of each one; without nested buckets, each is its own."""
        if not is_nested(self.boundaries):
            return np.arange(len(self.upper_lengths))
        inner = self.boundaries[1]
        return np.repeat(np.arange(len(inner)), [len(boundaries) + 1 for boundaries in inner])

    def longest(self, lengths: Lengths) -> Lengths:
        """Int64 array `(num_buckets,)`: the longest of the lengths `(num_rows,)` in each bucket; 0 for an empty one."""
        longest = np.zeros(len(self.upper_lengths), np.int64)
        # Of these dtypes alone `at` is fast: of others it takes fifty times as long.
        np.maximum.at(longest, self.row_buckets.astype(np.intp), lengths.astype(np.int64, copy=False))
        return longest

    def padded_to_boundary(self, name: str, length: int) -> int:
        """The minimum padded length of the leaf `name` if batches are padded to the boundary."""
        if not is_nested(self.boundaries):
            return max(length, int(self.upper_lengths[np.searchsorted(self.boundaries, length, side="right")]))
        outer = self.levels[0]
        if name != outer.name:  # its boundaries depend on the length of the other one
            return length
        return max(length, int(outer.upper_lengths[np.searchsorted(outer.lower_lengths, length, side="right") - 1]))


DEFAULT_BATCH_SIZE = 32  # as of `fit`


@dataclass(frozen=True)
class BatchSizing:
    """How batches are sized: by rows, by rows of each bucket, or by a budget with an optional limit on rows.

    Attributes:
        batch_size: Int, rows, the same for every bucket; next to a budget, the maximum.
        bucket_batch_sizes: Ints, rows, one for each bucket.
        max_timesteps_per_batch: Int, the maximum of padded timesteps (rows x padded length) of a batch.
        multiple: Int, the rows of every batch are a multiple of it.
        quadratic_length: Int, in the budget a row of padded length L counts as L + L^2 / quadratic_length; None for L.
    """

    batch_size: int | None
    bucket_batch_sizes: list[int] | None
    max_timesteps_per_batch: int | None
    multiple: int
    quadratic_length: int | None = None

    def rows_at(self, upper_lengths: Lengths) -> Counts:
        """The rows of a batch, for each longest length of a bucket; 0 if not even `multiple` of them fit."""
        if self.max_timesteps_per_batch is not None:
            rows = rows_within_budget(upper_lengths, self.max_timesteps_per_batch, self.multiple, self.quadratic_length)
            return rows if self.batch_size is None else np.minimum(rows, self.batch_size)
        if self.batch_size is not None:
            return np.full(len(upper_lengths), self.batch_size)
        return np.full(len(upper_lengths), max(DEFAULT_BATCH_SIZE // self.multiple, 1) * self.multiple)

    def budget_for(self, length: int) -> int:
        """The smallest budget that holds `multiple` rows of this padded length."""
        if self.quadratic_length is None:
            return self.multiple * length
        return -(-self.multiple * length * (length + self.quadratic_length) // self.quadratic_length)

    @property
    def longest_in_budget(self) -> int:
        """The longest padded length of which the budget holds `multiple` rows; 0 if there is none."""
        budget = self.max_timesteps_per_batch or 0
        if self.quadratic_length is None:
            return budget // self.multiple
        # The larger root of multiple x L x (L + quadratic_length) = budget x quadratic_length, rounded down: whether
        # the square root is, and then the half, makes no difference to that.
        square = self.quadratic_length**2 + 4 * (budget * self.quadratic_length // self.multiple)
        return (math.isqrt(square) - self.quadratic_length) // 2


def rows_within_budget(
    upper_lengths: ArrayLike, max_timesteps: int, multiple: int = 1, quadratic_length: int | None = None
) -> Counts:
    """The most rows whose padded timesteps stay within a budget, as a multiple of `multiple`, 0 where none fit.

    The rule of OpenNMT-tf's `batch_type="tokens"` and of fairseq's `--max-tokens`; with `quadratic_length`, of lhotse's
    `quadratic_duration`.

    >>> rows_within_budget([3, 6, 9, 12], 512).tolist()
    [170, 85, 56, 42]
    >>> rows_within_budget([3, 6, 9, 12], 512, multiple=8).tolist()
    [168, 80, 56, 40]
    >>> rows_within_budget([3, 6, 9, 12], 512, quadratic_length=6).tolist()  # 4.5, 12, 22.5 and 36 timesteps a row
    [113, 42, 22, 14]
    """
    lengths = np.asarray(upper_lengths)
    if quadratic_length is not None:
        longest, max_timesteps = int(lengths.max(initial=0)), max_timesteps * quadratic_length
        if max(longest * (longest + quadratic_length), max_timesteps) > INT64_MAX:
            lengths = lengths.astype(object)  # integers of Python
        lengths = lengths * (lengths + quadratic_length)
    rows: Counts = (max_timesteps // lengths // multiple * multiple).astype(np.int64)
    return rows


def check_sizing(
    batch_size: object,
    bucket_batch_sizes: object,
    max_timesteps_per_batch: object,
    batch_size_multiple: object,
    num_shards: int,
    quadratic_length: object = None,
) -> BatchSizing:
    """Checks the arguments that size batches."""
    others = {"batch_size": batch_size, "max_timesteps_per_batch": max_timesteps_per_batch}
    others = {name: value for name, value in others.items() if value is not None}
    if bucket_batch_sizes is not None and others:
        received = " and ".join(f"{name}={show(value)}" for name, value in others.items())
        raise ValueError(
            "`bucket_batch_sizes` has the rows of every bucket, so no other size may be given with it. Received "
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
    if quadratic_length is not None:
        quadratic_length = check_integer("quadratic_length", quadratic_length, maximum=INT64_MAX)
        if max_timesteps_per_batch is None:
            raise ValueError(
                "`quadratic_length` says what a row counts in a budget. Expected max_timesteps_per_batch next to it, "
                f"received quadratic_length={quadratic_length} alone. Pass max_timesteps_per_batch, or leave it out."
            )
    return BatchSizing(batch_size, bucket_batch_sizes, max_timesteps_per_batch, multiple, quadratic_length)


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `num_shards` takes rows index, index + num_shards, ... of every batch."""

    num_shards: int
    index: int


def check_shard(
    num_shards: object, shard_index: object, needs_seed: bool, find: Callable[[], tuple[object, object]] | None = None
) -> Shard:
    """Checks the arguments; shards that draw different seeds would not share one plan.

    If `num_shards` is None, `find` returns both.
    """
    if num_shards is None and find is not None:
        if check_integer("shard_index", shard_index, minimum=0):
            raise ValueError(
                "`shard_index` is found together with the number of shards where num_shards=None. Expected 0, received "
                f"{shard_index}. Leave it out, or pass num_shards."
            )
        num_shards, shard_index = find()
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


def check_minlen(minlen: object, maxlen: object) -> int:
    """The minimum padded length; sequences cannot be cut shorter than they are padded to."""
    max_length = None if maxlen is None else check_integer("maxlen", maxlen)
    min_length = 1 if minlen is None else check_integer("minlen", minlen)
    if max_length is not None and min_length > max_length:
        raise ValueError(f"`minlen` must not exceed `maxlen`. Expected at most {max_length}, received {min_length}.")
    return min_length


def _check_batch_size(name: str, value: object, multiple: int) -> int:
    size = check_integer(name, value)
    if size % multiple:
        below, above = size // multiple * multiple, (size // multiple + 1) * multiple
        raise ValueError(
            f"`{name}` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of {multiple}, "
            f"received {size}. Use {f'{below} or ' if below else ''}{above}."
        )
    return size
