"""From lengths to the batches of an epoch: a pure function of (lengths, options, seed, epoch).

    rows, shortest first   | bucket 0            | bucket 1       | bucket 2  |
    shuffled inside        | 4 9 2 7 0 5 8       | 1 11 3 6 12    | 10 13 14  |
    cut at fixed offsets   [ 4 9 2 ][ 7 0 5 ][ 8 | 1 11 ][ 3 6 12 |][ 10 13 ][ 14 ]      (remainder="spill")
    batches shuffled       [ 3 6 12 ][ 4 9 2 ][ 14 ][ 8 1 11 ][ 7 0 5 ][ 10 13 ]

The offsets, and so the number of batches, are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import Lengths, row_splits_of
from keras_bucketing.data.rows import RowLengths
from keras_bucketing.planning.boundaries import Counts
from keras_bucketing.planning.buckets import Buckets, Shard
from keras_bucketing.planning.cuts import BatchCuts, min_padded_lengths
from keras_bucketing.planning.draws import RowDraws

_PHILOX = tf.random.Algorithm.PHILOX.value
_OF_DRAWS = np.uint64(1 << 63)  # streams of random numbers that no order of an epoch uses


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch.

    Attributes:
        epoch: Int, the number of the epoch.
        rows: Int64 array `(num_rows,)`, row indices into the input, batch by batch.
        batch_splits: Int64 array `(num_batches + 1,)`: batch i holds `rows[batch_splits[i]:batch_splits[i + 1]]`.
        padded_lengths: Int64 array `(num_batches,)`, in timesteps; if there are several leaves, of the longest one of
            `x`.
        buckets: Int64 array `(num_batches,)`, the bucket whose size and boundary each batch has.
        left_out: Int64 array, increasing: the row indices that this epoch does not yield, on any shard. Rows that
            `sampling_weights` did not draw are not left out.
        leaf_padded_lengths: Dict from the name of each leaf that is padded separately, e.g. `x['audio']`, to its padded
            lengths, int64 array `(num_batches,)`.

    Example:
        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False)
        >>> plan = dataset.epoch_plan(0)
        >>> len(plan), plan[0].tolist(), plan.padded_lengths.tolist()
        (2, [1, 2], [2, 3])
    """

    epoch: int
    rows: NDArray[np.int64]
    batch_splits: NDArray[np.int64]
    padded_lengths: Lengths
    buckets: NDArray[np.int64]
    left_out: NDArray[np.int64]
    leaf_padded_lengths: dict[str, Lengths] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.padded_lengths)

    def __getitem__(self, batch: int) -> NDArray[np.int64]:
        """The row indices of one batch."""
        if not -len(self) <= batch < len(self):
            raise IndexError(f"Batch {batch} is out of range. Expected an index below {len(self)}.")
        batch %= len(self)
        return self.rows[self.batch_splits[batch] : self.batch_splits[batch + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[batch] for batch in range(len(self)))

    def of_shard(self, shard: Shard) -> EpochPlan:
        """The rows of one shard in each batch; the padded lengths stay those of the whole batches.

        Args:
            shard: The shard. Every batch must have a multiple of `num_shards` rows.
        """
        if shard.num_shards == 1:
            return self
        sizes = np.diff(self.batch_splits)
        within = np.arange(len(self.rows)) - np.repeat(self.batch_splits[:-1], sizes)
        is_own = within % shard.num_shards == shard.index
        return replace(self, rows=self.rows[is_own], batch_splits=self.batch_splits // shard.num_shards)

    def renumbered(self, kept: NDArray[np.int64], num_given: int) -> EpochPlan:
        """The same plan in the row indices of an input, of which only some rows were planned.

        Args:
            kept: Int64 array `(num_planned,)`, increasing: the index in the input of each planned row.
            num_given: Int, the number of rows of the input. Those that are not in `kept` are left out.
        """
        dropped = np.setdiff1d(np.arange(num_given), kept, assume_unique=True)
        return replace(self, rows=kept[self.rows], left_out=np.union1d(kept[self.left_out], dropped))


class Cut(NamedTuple):
    """The position of a batch in the ordered rows, and its padded length; of one batch or of all, in NumPy or in graph.

    Attributes:
        start: Int32 `(1,)`, as for `tf.slice`: the position of the first row. Of all batches, `(num_batches, 1)`.
        size: Int32 `(1,)`, the number of rows of the batch.
        min_lengths: Int32 `(num_leaves,)`, the minimum padded length of each leaf, in timesteps.
    """

    start: tf.Tensor | np.ndarray
    size: tf.Tensor | np.ndarray
    min_lengths: tf.Tensor | np.ndarray


class FirstBatches(NamedTuple):
    """The batches that come first in the first epochs: the largest, or one of each shape.

    Attributes:
        row_lengths: Int32 `(num_rows,)`, the longest leaf of each row, labels of their own length included; None if the
            shape of a batch does not depend on its rows.
        shapes: Int32 `(num_batches,)`, the number of each batch's shape, 0 for the largest; None if it does.
        quadratic_length: Int64 scalar; a batch of R rows of padded length L has the size R x (L + L^2 /
            quadratic_length). None for R x L.
    """

    row_lengths: tf.Tensor | None
    shapes: tf.Tensor | None
    quadratic_length: tf.Tensor | None

    def moved(self, rows: tf.Tensor, batches: tf.Tensor, cuts: Cut) -> tf.Tensor:
        """The batches `(num_batches,)` of an epoch of these ordered rows, with the first batches in front.

        All others keep their order. Among batches of equal size or of one shape, the first is taken.
        """
        positions = tf.range(tf.size(batches))
        if self.shapes is None:
            sizes = self._sizes(rows, cuts, batches)
            is_largest = sizes == tf.reduce_max(sizes)
            is_first = is_largest & (tf.cumsum(tf.cast(is_largest, tf.int32)) == 1)
            rank = tf.zeros_like(positions)
        else:
            rank = tf.gather(self.shapes, batches)
            firsts = tf.math.unsorted_segment_min(positions, rank, tf.size(self.shapes))
            is_first = positions == tf.gather(firsts, rank)
        # Unique keys, since `tf.argsort` promises no order for equal ones.
        return tf.gather(batches, tf.argsort(tf.where(is_first, rank, tf.size(batches) + positions)))

    def _sizes(self, rows: tf.Tensor, cuts: Cut, batches: tf.Tensor) -> tf.Tensor:
        """Float64 `(num_batches,)`: the padded timesteps of these batches, as counted by a budget."""
        starts, num_rows = cuts.start[:, 0], cuts.size[:, 0]
        positions = tf.range(tf.size(rows))
        owners = tf.searchsorted(starts, positions, side="right") - 1
        # Rows behind the last of a batch are left out.
        owner = tf.maximum(owners, 0)
        is_in = (owners >= 0) & (positions < tf.gather(starts + num_rows, owner))
        lengths = tf.where(is_in, tf.gather(self.row_lengths, rows), 0)
        longest = tf.math.unsorted_segment_max(lengths, owner, tf.size(starts))
        longest = tf.cast(tf.gather(tf.maximum(longest, tf.reduce_max(cuts.min_lengths, 1)), batches), tf.float64)
        if self.quadratic_length is not None:
            longest += longest**2 / tf.cast(self.quadratic_length, tf.float64)
        return longest * tf.cast(tf.gather(num_rows, batches), tf.float64)


_EPOCHS_WITH_FIRST_BATCHES = 2  # what builds a model may take epoch 0


class DrawTensors(NamedTuple):
    """The tensors that draw the rows of an epoch, from `RowDraws`.

    Attributes:
        rows: Int32 `(num_candidates,)`, the rows that may be drawn.
        units: Int64 `(num_candidates,)`, the expected number of draws of each, in units.
        unit: Int64 scalar, the units of one draw: a power of two.
        num_draws: Int32 scalar.
    """

    rows: tf.Tensor
    units: tf.Tensor
    unit: tf.Tensor
    num_draws: tf.Tensor

    def draw(self, candidates: tf.Tensor, key: tf.Tensor, stream: tf.Tensor, has_batches: tf.Tensor | int) -> tf.Tensor:
        """Draws `(num_draws,)` of the candidates. The candidates are ordered by bucket, and so are the draws.

        The positions of all draws are one apart, from a random start. The candidates of a bucket take a whole number of
        draws, so that many positions fall on them.
        """
        ends = tf.cumsum(tf.gather(self.units, candidates))
        counter = _counter(stream)
        start = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[], key=key, counter=counter, alg=_PHILOX, dtype=tf.int64
        )
        positions = tf.bitwise.bitwise_and(start, self.unit - 1)
        positions += self.unit * tf.cast(tf.range(self.num_draws * has_batches), tf.int64)
        # `tf.searchsorted` cannot reshape what is empty.
        at = tf.raw_ops.UpperBound(sorted_inputs=ends[tf.newaxis], values=positions[tf.newaxis])[0]
        return tf.gather(candidates, at)


class EpochTensors(NamedTuple):
    """The tensors that order and cut the epochs of one dataset: a structure, so that one graph can serve all datasets.

    Attributes:
        row_places: Int32 `(num_rows,)`, the place of each row's bucket in the order of the cuts, or of that of each row
            that may be drawn; None if rows stay sorted by length.
        sorted_rows: Int32 `(num_rows,)`, the rows, shortest first; None if they are shuffled.
        num_partitions: Int, at least the number of buckets. A power of two, so that there are few graphs.
        num_used: Int32 scalar, the number of rows in batches; None if that is all of them.
        cuts: The cuts of all batches, in the order of their buckets.
        first: The batches that come first in epochs 0 and 1; None if their order does not change.
        draws: The tensors that draw rows; None if each row is read once.
    """

    row_places: tf.Tensor | None
    sorted_rows: tf.Tensor | None
    num_partitions: int
    num_used: tf.Tensor | None
    cuts: Cut
    first: FirstBatches | None = None
    draws: DrawTensors | None = None

    def order(self, epoch: tf.Tensor, seed: tf.Tensor, has_batches: tf.Tensor | int = 1) -> tuple[tf.Tensor, tf.Tensor]:
        """The order of an epoch: int32 rows `(num_rows,)`, and batches `(num_batches,)` that are cut from them.

        The rows are ordered by bucket, except for the spare ones at the end. If the int32 scalar `has_batches` is 0,
        not 1, the epoch has no batches, and almost nothing is computed: `tf.cond` would make two more graphs.
        """
        rows, batches = self._shuffled_order(epoch, seed, has_batches)
        if self.first is not None:
            moved = self.first.moved(rows, batches, self.cuts)
            batches = tf.where(epoch < _EPOCHS_WITH_FIRST_BATCHES, moved, batches)
        return rows, batches

    def _shuffled_order(
        self, epoch: tf.Tensor, seed: tf.Tensor, has_batches: tf.Tensor | int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        batches = tf.range(tf.size(self.cuts.start) * has_batches)
        if self.row_places is None:
            return self.sorted_rows, batches
        # One shuffle of all rows, then a stable split by bucket: every operation is part of the graph that each new
        # iterator prepares, at a tenth of a millisecond each, and a loop over the buckets took three times as long.
        key = tf.reshape(tf.cast(seed, tf.uint64), [1])
        stream = tf.cast(2 * epoch, tf.uint64)
        used = rows = shuffled(tf.range(tf.size(self.row_places) * has_batches), key, stream)
        spare = []
        if self.num_used is not None:
            used, spare = rows[: self.num_used], [rows[self.num_used :]]
        by_bucket = self._by_bucket(used)
        batch_order = shuffled(batches, key, stream + tf.constant(1, tf.uint64))
        if self.draws is not None:
            # A row that is drawn twice would lie beside itself, so the draws are shuffled as well.
            drawn = self.draws.draw(tf.concat(by_bucket, 0), key, stream + _OF_DRAWS, has_batches)
            by_bucket = self._by_bucket(shuffled(drawn, key, stream + _OF_DRAWS + tf.constant(1, tf.uint64)))
            return tf.gather(self.draws.rows, tf.concat(by_bucket, 0)), batch_order
        return tf.concat([*by_bucket, *spare], 0), batch_order

    def _by_bucket(self, rows: tf.Tensor) -> list[tf.Tensor]:
        parts: list[tf.Tensor] = tf.dynamic_partition(rows, tf.gather(self.row_places, rows), self.num_partitions)
        return parts

    def batches(
        self, epoch: tf.Tensor, first_batch: tf.Tensor, seed: tf.Tensor, has_batches: tf.Tensor | int = 1
    ) -> tuple[tf.Tensor, Cut]:
        """The ordered rows of an epoch, and the cuts of its batches from `first_batch` on."""
        rows, batch_order = self.order(epoch, seed, has_batches)
        rest = batch_order[first_batch:]
        return rows, Cut(*(tf.gather(part, rest) for part in self.cuts))


class EpochPlanner:
    """Plans the epochs of one dataset.

    Args:
        lengths: The lengths of all leaves that are padded separately.
        buckets: The buckets of the rows.
        cuts: The batches, from `cut_batches`.
        pad_to_bucket_boundary: Whether all batches of a bucket are padded to one length.
        shuffle: Whether each epoch shuffles rows and batches; if not, they stay sorted by length.
        minlen: Int, the minimum padded length of the leaves of `x`.
        largest_first: Whether epochs 0 and 1 begin with the largest batch, or with one of each shape.
        quadratic_length: Int, for the size of a batch, as in `BatchSizing`; or None.
        draws: How often rows are drawn; the buckets are then those of the rows that may be. None if all rows are read.
    """

    def __init__(
        self,
        lengths: RowLengths,
        buckets: Buckets,
        cuts: BatchCuts,
        pad_to_bucket_boundary: bool,
        shuffle: bool,
        minlen: int = 1,
        largest_first: bool = False,
        quadratic_length: int | None = None,
        draws: RowDraws | None = None,
    ):
        self._leaves = lengths.leaves
        self._buckets = cuts.buckets
        planned = lengths if draws is None else lengths.of_rows(draws.rows)
        min_lengths = min_padded_lengths(planned, buckets, cuts, pad_to_bucket_boundary, minlen)
        starts, sizes = (part[:, np.newaxis] for part in (cuts.starts, cuts.stops - cuts.starts))
        self._cuts = Cut(starts, sizes, min_lengths)
        row_places = cuts.places[buckets.row_buckets]
        with tf.device("CPU:0"):
            self.tensors = EpochTensors(
                row_places=tf.constant(row_places, tf.int32) if shuffle else None,
                sorted_rows=None if shuffle else tf.constant(_sorted_rows(lengths, buckets, row_places), tf.int32),
                num_partitions=max(32, 1 << (len(buckets.upper_lengths) - 1).bit_length()),
                num_used=tf.constant(len(buckets.row_buckets) - cuts.num_spare) if cuts.num_spare else None,
                cuts=Cut(*(tf.constant(part, tf.int32) for part in self._cuts)),
                first=self._first_batches(pad_to_bucket_boundary, quadratic_length) if largest_first else None,
                draws=None if draws is None else _in_graph(draws),
            )

    def _first_batches(self, pad_to_bucket_boundary: bool, quadratic_length: int | None) -> FirstBatches:
        if not pad_to_bucket_boundary:
            longest = np.maximum.reduce([leaf.lengths for leaf in self._leaves])
            quadratic = None if quadratic_length is None else tf.constant(quadratic_length, tf.int64)
            return FirstBatches(tf.constant(longest, tf.int32), None, quadratic)
        shapes = np.concatenate([self._cuts.size, self._cuts.min_lengths], axis=1)
        distinct, of_batch = np.unique(shapes, axis=0, return_inverse=True)
        longest = distinct[:, 1:].max(axis=1).astype(float)
        largest = distinct[:, 0] * (longest if quadratic_length is None else longest + longest**2 / quadratic_length)
        rank = np.argsort(np.argsort(-largest, kind="stable"))
        return FirstBatches(None, tf.constant(rank[of_batch.reshape(-1)], tf.int32), None)

    @property
    def num_batches(self) -> int:
        """The number of batches of every epoch."""
        return len(self._buckets)

    def plan(self, epoch: int, seed: int) -> EpochPlan:
        """The batches of an epoch, as arrays: exactly those that the pipeline yields, on all shards together."""
        with tf.device("CPU:0"):
            tensors = self.tensors.order(tf.constant(epoch, tf.int64), tf.constant(seed, tf.int64))
        rows, order = (tensor.numpy() for tensor in tensors)
        starts, sizes = self._cuts.start[order, 0], self._cuts.size[order, 0]
        splits = row_splits_of(sizes)
        within = np.arange(splits[-1]) - np.repeat(splits[:-1], sizes)
        batch_rows = rows[within + np.repeat(starts, sizes)].astype(np.int64)
        padded = [
            np.maximum(np.maximum.reduceat(leaf.lengths[batch_rows], splits[:-1]), min_lengths)
            for leaf, min_lengths in zip(self._leaves, self._cuts.min_lengths[order].T, strict=True)
        ]
        sequences = [lengths for leaf, lengths in zip(self._leaves, padded, strict=True) if not leaf.is_label]
        left_out = np.full(len(rows), self.tensors.draws is None)
        if self.tensors.draws is None:
            left_out[batch_rows] = False
        return EpochPlan(
            epoch=epoch,
            rows=batch_rows,
            batch_splits=splits,
            padded_lengths=sequences[0] if len(sequences) == 1 else np.maximum.reduce(sequences),
            buckets=self._buckets[order],
            left_out=np.flatnonzero(left_out),
            leaf_padded_lengths={leaf.name: lengths for leaf, lengths in zip(self._leaves, padded, strict=True)},
        )


def _in_graph(draws: RowDraws) -> DrawTensors:
    parts = ((draws.rows, tf.int32), (draws.units, tf.int64), (draws.unit, tf.int64), (draws.num_draws, tf.int32))
    return DrawTensors(*(tf.constant(part, dtype) for part, dtype in parts))


def _sorted_rows(lengths: RowLengths, buckets: Buckets, row_places: Counts) -> NDArray[np.int64]:
    """The rows by length; in nested buckets in their order, and in each bucket by length."""
    by_length = np.argsort(lengths.longest, kind="stable")
    if not buckets.levels:
        return by_length
    return by_length[np.argsort(row_places[by_length], kind="stable")]


def shuffled(values: tf.Tensor, key: tf.Tensor, stream: tf.Tensor) -> tf.Tensor:
    """Shuffles with the stream `stream` of the random numbers of `key`.

    It does the same as `tf.random.experimental.stateless_shuffle`, but keys the generator with a sixth of the
    operations. Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is made for this: any two
    keys give independent numbers, and so do the streams, which the upper half of its counter separates. It is the same
    on every device; "auto_select" is not.

    Args:
        values: Tensor `(n,)`.
        key: Uint64 `(1,)`.
        stream: Uint64 scalar.
    """
    return tf.raw_ops.StatelessShuffle(value=values, key=key, counter=_counter(stream), alg=_PHILOX)


def _counter(stream: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.constant(0, tf.uint64), stream])
