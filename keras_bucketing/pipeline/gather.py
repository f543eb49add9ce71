"""Row indices to one padded batch, in graph: a ragged gather out of the flat values, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_bucketing.data.arrays import expect_random_reads, host_tensor, standard_dtype, stored_floatx
from keras_bucketing.data.collect import Inputs, labeled_leaf, length_entries
from keras_bucketing.data.loader import Loaded, Loader
from keras_bucketing.data.rows import LeafLengths, Ragged
from keras_bucketing.data.tree import Leaf, Structure, named_leaves
from keras_bucketing.pipeline.dataset_state import sampled_rows, sampled_timesteps
from keras_bucketing.pipeline.host_values import HostValues
from keras_bucketing.pipeline.loading import LoadedLengthsTable, LoadedTable, RowLoader
from keras_bucketing.planning.buckets import Shard


class BatchGatherer:
    """Holds the data as tensors in host memory, or in mapped files, and gathers padded batches out of it.

    Args:
        inputs: The checked data.
        leaves: The lengths of each leaf that is padded on its own, `inputs.leaf_lengths`.
        padding_value: Number that fills up the sequences of `x`.
        label_padding_value: Number that fills up ragged labels.
        include_lengths: Whether `x` gains the lengths.
        timestep_weights: Whether per-timestep labels bring weights that are 0 where they are padding.
        pads_further: Whether batches may be padded beyond their own longest sequence.
        shard: Which rows of each batch to gather.
    """

    def __init__(
        self,
        inputs: Inputs,
        leaves: list[LeafLengths],
        padding_value: Any,
        label_padding_value: Any,
        include_lengths: bool,
        timestep_weights: bool,
        pads_further: bool,
        shard: Shard,
    ):
        self._shard = shard
        tables = _Tables(pads_further)
        of_x, of_y = _columns(inputs, leaves)
        self._x = tables.of(inputs.x, padding_value, of_x)
        self._y = tables.of(inputs.y, label_padding_value, of_y)
        weights = tf.nest.flatten(inputs.sample_weight)
        self._weights = tables.of(inputs.sample_weight, 0, of_y if len(weights) == len(of_y) else [0] * len(weights))
        self._weighs_timesteps = (
            timestep_weights
            and inputs.align_labels
            and any(isinstance(table, _RaggedTable) for table in tf.nest.flatten(self._y))
        )
        self._lengths: dict[str, _AnyLengthsTable] = {}
        if include_lengths:
            self._lengths = {"lengths": tables.lengths_of_rows(inputs)}
            for name, leaf in length_entries(inputs.x, inputs.y, inputs.align_labels).items():
                self._lengths[name] = tables.lengths_of(leaf)

    def __call__(self, rows: tf.Tensor, cut: tf.Tensor) -> Any:
        """Gathers one batch.

        Args:
            rows: Int32 `(num_rows,)`, row indices.
            cut: Int32 `(2 + num_leaves, 1)`: where the batch starts in `rows`, how many rows it has, and the least
                padded length of each leaf.

        Returns:
            `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras unpacks them.
        """
        start, size, *padded_to = tf.unstack(cut)
        batch = _Batch(tf.slice(rows, start, size), padded_to, self._shard)
        x = tf.nest.map_structure(lambda table: table.gather(batch), self._x)
        if self._lengths:
            lengths = {name: table.gather(batch) for name, table in self._lengths.items()}
            x = {**(x if isinstance(x, dict) else {"sequences": x}), **lengths}
        if self._y is None:
            return (x,) if isinstance(x, tuple) else x
        y = tf.nest.map_structure(lambda table: table.gather(batch), self._y)
        if self._weighs_timesteps:
            return x, y, self._timestep_weights(y, batch)
        if self._weights is None:
            return x, y
        return x, y, tf.nest.map_structure(lambda table: table.gather(batch), self._weights)

    def sample(self) -> Iterator[bytes]:
        """What tells these data from others: dtypes, shapes, lengths, and the values of some rows; all, if few."""
        for table in tf.nest.flatten((self._x, self._y, self._weights)):
            if table is not None:
                yield from table.sample()

    def _timestep_weights(self, y: Structure, batch: _Batch) -> Structure:
        """1 on real and 0 on padded timesteps, times the caller's own weights; rows' weights for plain labels."""
        weights = self._weights
        if not tf.nest.is_nested(weights):
            weights = tf.nest.map_structure(lambda _: weights, self._y)

        def weigh(labels: tf.Tensor, table: _TableInMemory, weight: _TableInMemory | None) -> tf.Tensor:
            if isinstance(weight, _RaggedTable):
                return weight.gather(batch)
            floatx = stored_floatx()
            row_weights = tf.ones(tf.shape(batch.rows), floatx) if weight is None else weight.gather(batch)
            if isinstance(table, _PlainTable):
                return row_weights
            mask = tf.sequence_mask(table.lengths(batch.rows), tf.shape(labels)[1], floatx)
            return mask * row_weights[:, tf.newaxis]

        flat = zip(tf.nest.flatten(y), tf.nest.flatten(self._y), tf.nest.flatten(weights), strict=True)
        return tf.nest.pack_sequence_as(self._y, [weigh(*leaf) for leaf in flat])


class _Batch:
    """The rows of one batch; all shards' rows, where there are several, set the padded length."""

    def __init__(self, all_rows: tf.Tensor, padded_to: list[tf.Tensor], shard: Shard):
        self.all_rows = all_rows
        self.rows = all_rows[shard.index :: shard.num_shards] if shard.num_shards > 1 else all_rows
        self._padded_to = padded_to
        self._scalars: dict[int, tf.Tensor] = {}
        self.loaded: dict[RowLoader, list[tf.Tensor]] = {}

    def padded_to(self, column: int) -> tf.Tensor:
        """The least padded length of a leaf, a scalar; made once, and only where somebody asks."""
        if column not in self._scalars:
            self._scalars[column] = self._padded_to[column][0]
        return self._scalars[column]


class _PlainTable:
    """One value a row."""

    def __init__(self, array: np.ndarray):
        array = np.ascontiguousarray(array)
        self._values = HostValues(array, standard_dtype(array.dtype, "y"))
        self._shape, self._row_bytes = array.shape, array[:1].nbytes

    def sample(self) -> Iterator[bytes]:
        rows = sampled_rows(np.full(self._shape[0], self._row_bytes, np.int64))
        values = self._values.take(tf.constant(rows + self._values.begin))
        yield f"{values.dtype.name}{self._shape}".encode()
        yield values.numpy().tobytes()

    def gather(self, batch: _Batch) -> tf.Tensor:
        return self._values.take(batch.rows + self._values.begin if self._values.begin else batch.rows)


class _RowRanges(NamedTuple):
    """Where rows lie in the flat values: int64 starts and int32 sizes, in timesteps."""

    starts: tf.Tensor
    sizes: tf.Tensor


class _LengthsTable:
    """The length of one sequence a row; an empty one that counts as one timestep of padding has length 1."""

    def __init__(self, ranges: _RowRanges, least_length: int):
        self._sizes, self._least_length = ranges.sizes, least_length

    def gather(self, batch: _Batch) -> tf.Tensor:
        return self.of(batch.rows)

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        lengths = tf.gather(self._sizes, rows)
        return tf.maximum(lengths, self._least_length) if self._least_length else lengths


class _RaggedTable:
    """One sequence a row, padded to the length in one column of the cut at least where `pads_further`."""

    def __init__(self, leaf: Ragged, padding_value: Any, ranges: _RowRanges, column: int, pads_further: bool):
        self._values = HostValues(leaf.values, leaf.dtype)
        expect_random_reads(leaf.values, leaf.values[:1].nbytes * float(leaf.sizes.mean()))
        # By way of NumPy: tf.cast would round a Python float to float32 first, and refuses an int beyond int64.
        self._padding = tf.constant(leaf.dtype.type(padding_value))
        self._feature_shape = leaf.values.shape[1:]
        self._ranges = ranges
        self._lengths = _LengthsTable(ranges, leaf.least_length)
        self._column, self._pads_further = column, pads_further

    def sample(self) -> Iterator[bytes]:
        sizes = self._ranges.sizes.numpy()
        timestep_bytes = self._padding.dtype.size * int(np.prod(self._feature_shape))
        rows = sampled_rows(sizes.astype(np.int64) * timestep_bytes)
        starts = tf.gather(self._ranges.starts, rows) + self._values.begin
        sampled = np.minimum(sizes[rows], sampled_timesteps(timestep_bytes)).astype(np.int64)
        yield f"{self._padding.dtype.name}{self._feature_shape}".encode()
        yield sizes.tobytes()
        yield self._values.take(tf.ragged.range(starts, starts + sampled).values).numpy().tobytes()

    def lengths(self, rows: tf.Tensor) -> tf.Tensor:
        return self._lengths.of(rows)

    def gather(self, batch: _Batch) -> tf.Tensor:
        # Not tf.gather of a RaggedTensor: its kernel checks the row splits of all the data at every call
        # (tensorflow/core/kernels/ragged_gather_op.cc, ValidateSplits).
        starts, sizes = tf.gather(self._ranges.starts, batch.rows), tf.gather(self._ranges.sizes, batch.rows)
        if self._values.begin:
            starts += self._values.begin
        timesteps = tf.ragged.range(starts, starts + tf.cast(sizes, tf.int64))
        sequences = timesteps.with_values(self._values.take(timesteps.values))
        longest = batch.padded_to(self._column) if self._pads_further else None
        if batch.rows is not batch.all_rows:
            own_longest = tf.reduce_max(self.lengths(batch.all_rows))
            longest = own_longest if longest is None else tf.maximum(longest, own_longest)
        elif longest is not None:
            longest = tf.maximum(longest, tf.reduce_max(sizes))
        shape = None
        if longest is not None:
            shape = tf.concat([[-1], [longest], tf.constant(self._feature_shape, tf.int32)], 0)
        padded = sequences.to_tensor(self._padding, shape=shape)
        return tf.ensure_shape(padded, [None, None, *self._feature_shape])


_TableInMemory = _PlainTable | _RaggedTable
_Table = _TableInMemory | LoadedTable
_AnyLengthsTable = _PlainTable | _LengthsTable | LoadedLengthsTable


def _columns(inputs: Inputs, leaves: list[LeafLengths]) -> tuple[list[int], list[int]]:
    """For every leaf of `x` and of `y`, which of the padded lengths is its own; 0 for plain ones, which have none."""
    own = iter(range(len(leaves)))
    of_x = [next(own) if isinstance(leaf, Ragged) else 0 for _, leaf in named_leaves(inputs.x, "x")]
    of_y = [
        0 if not isinstance(leaf, Ragged) else labeled_leaf(leaf, leaves) if inputs.align_labels else next(own)
        for _, leaf in named_leaves(inputs.y, "y")
    ]
    return of_x, of_y or [0]


class _Tables:
    """Leaves to tables; leaves whose rows lie alike share where they do."""

    def __init__(self, pads_further: bool):
        self._pads_further = pads_further
        self._tensors: list[tuple[np.ndarray, tf.Tensor]] = []
        self._row_loaders: dict[Loader, RowLoader] = {}

    def of(self, structure: Structure, padding_value: Any, columns: list[int]) -> Structure:
        """The tables of a structure, with the column of each of its leaves."""

        def table(leaf: Leaf | None, column: int) -> _Table | None:
            if leaf is None:
                return None
            if not isinstance(leaf, Ragged):
                return _PlainTable(leaf)
            if isinstance(leaf, Loaded):
                return LoadedTable(self._row_loader(leaf), leaf, padding_value, column)
            # A batch of nothing but empty rows has one timestep too, as kernels want it.
            pads_further = self._pads_further or not leaf.sizes.all()
            settled = leaf.settle()
            return _RaggedTable(settled, padding_value, self.ranges_of(settled), column, pads_further)

        return tf.nest.pack_sequence_as(structure, list(map(table, tf.nest.flatten(structure), columns)))

    def ranges_of(self, leaf: Ragged) -> _RowRanges:
        """Where the rows of a leaf lie, as tensors."""
        return _RowRanges(self._tensor(leaf.starts), self._tensor(leaf.sizes.astype(np.int32, copy=False)))

    def _tensor(self, array: np.ndarray) -> tf.Tensor:
        for known, tensor in self._tensors:
            if known is array or (known.dtype == array.dtype and np.array_equal(known, array)):
                return tensor
        self._tensors.append((array, host_tensor(array)))
        return self._tensors[-1][1]

    def lengths_of(self, leaf: Ragged) -> _AnyLengthsTable:
        """The length of each row in one leaf."""
        if isinstance(leaf, Loaded):
            return LoadedLengthsTable(self._row_loader(leaf), [leaf])
        return _LengthsTable(self.ranges_of(leaf), leaf.least_length)

    def lengths_of_rows(self, inputs: Inputs) -> _AnyLengthsTable:
        """The length of each row in its longest leaf of `x`; one loader loads them all, or all are in memory."""
        loaded = [leaf for leaf in tf.nest.flatten(inputs.x) if isinstance(leaf, Loaded)]
        if loaded:
            return LoadedLengthsTable(self._row_loader(loaded[0]), loaded)
        return _PlainTable(inputs.lengths.astype(np.int32))

    def _row_loader(self, leaf: Loaded) -> RowLoader:
        if leaf.loader not in self._row_loaders:
            self._row_loaders[leaf.loader] = RowLoader(leaf.loader)
        return self._row_loaders[leaf.loader]
