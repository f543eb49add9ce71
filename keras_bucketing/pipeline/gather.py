"""Row indices to one padded batch, in graph: a ragged gather out of the flat values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from keras_bucketing.data import tree
from keras_bucketing.data.arrays import advise_random_access, host_tensor, standard_dtype, stored_floatx
from keras_bucketing.data.collect import Inputs
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.loader import Loaded, Loader
from keras_bucketing.data.rows import PickedValues, Rows, RowTensors
from keras_bucketing.data.tree import Path, Structure
from keras_bucketing.pipeline.dataset_state import sampled_rows, sampled_timesteps
from keras_bucketing.pipeline.host_values import HostValues
from keras_bucketing.pipeline.loading import LoadedLengthsTable, LoadedTable, RowLoader
from keras_bucketing.planning.buckets import Shard
from keras_bucketing.planning.epoch_plan import Cut


class BatchGatherer:
    """Holds the data as tensors in host memory, or in mapped files, and gathers padded batches out of it.

    Args:
        inputs: The checked data.
        padding_value: Number that fills up the sequences of `x`.
        label_padding_value: Number that fills up ragged labels.
        length_entries: The entries of lengths that `x` gains, with their leaves; None for each row's longest.
        timestep_weights: Whether labels per timestep come with weights that are 0 on padding.
        pads_further: Whether batches may be padded beyond their own longest sequence.
        shard: Which rows of each batch to gather.
    """

    def __init__(
        self,
        inputs: Inputs,
        padding_value: Any,
        label_padding_value: Any,
        length_entries: dict[str, Rows | None],
        timestep_weights: bool,
        pads_further: bool,
        shard: Shard,
    ):
        self._shard = shard
        tables = _Tables(pads_further)
        self._tables = RowTables(
            x=tables.of(inputs.x, padding_value, inputs, "x"),
            y=tables.of(inputs.y, label_padding_value, inputs, "y"),
            sample_weight=tables.of(inputs.sample_weight, 0, inputs, "y"),  # padded like the labels of their path
            lengths={
                name: tables.longest_lengths(inputs) if leaf is None else tables.lengths_of(leaf)
                for name, leaf in length_entries.items()
            },
            weighs_timesteps=timestep_weights and bool(inputs.label_owners),
        )

    def __call__(self, rows: tf.Tensor, cut: Cut, epoch: tf.Tensor | int = 0) -> Any:
        """Gathers the batch that is cut from the rows `(num_rows,)`, as `RowTables.gather` does."""
        picked = tf.slice(rows, cut.start, cut.size)
        return self._tables.gather(RowsOfBatch(picked, cut.min_lengths, self._shard, epoch))

    def sequence_paths(self, as_given: bool = False) -> list[Path]:
        """The paths of the sequences in the `x` of a batch, or in `x` as given, in the order of its leaves."""
        x = self._tables.x
        around = ("sequences",) if self._tables.lengths and not isinstance(x, dict) and not as_given else ()
        return [(*around, *path) for path, table in tree.leaves(x) if not isinstance(table, PlainTable)]

    def fingerprint_bytes(self) -> Iterator[bytes]:
        """The bytes that identify these data: dtypes, shapes, lengths, and the values of some rows; all, if few."""
        for _, table in tree.leaves((self._tables.x, self._tables.y, self._tables.sample_weight)):
            yield from table.fingerprint_bytes()

    def stored(self, inputs: Inputs) -> Inputs:
        """The stored data, in which empty rows are empty, for another dataset that shares these rows."""
        x, y, weights = (
            tree.map_leaves(lambda _, table: _without_filling(table.leaf), part)
            for part in (self._tables.x, self._tables.y, self._tables.sample_weight)
        )
        return replace(inputs, x=x, y=y, sample_weight=weights)


class RowTables(NamedTuple):
    """A table for each leaf, each of which gathers its part of a batch.

    Attributes:
        x: Structure of tables.
        y: Structure of tables, or None.
        sample_weight: None, one table, or a structure like `y`.
        lengths: The tables of the entries of lengths that `x` gains.
        weighs_timesteps: Whether labels per timestep come with weights that are 0 on padding.
    """

    x: Structure
    y: Structure
    sample_weight: Structure
    lengths: dict[str, Any]
    weighs_timesteps: bool

    def gather(self, batch: RowsOfBatch) -> Any:
        """Gathers `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras unpacks them; in graph."""
        x = _gather(self.x, batch)
        if self.lengths:
            lengths = {name: table.gather(batch) for name, table in self.lengths.items()}
            x = {**(x if isinstance(x, dict) else {"sequences": x}), **lengths}
        if self.y is None:
            return (x,) if isinstance(x, tuple) else x
        y = _gather(self.y, batch)
        if self.weighs_timesteps:
            return x, y, self._timestep_weights(y, batch)
        if self.sample_weight is None:
            return x, y
        return x, y, _gather(self.sample_weight, batch)

    def _timestep_weights(self, y: Structure, batch: RowsOfBatch) -> Structure:
        """1 on real and 0 on padded timesteps, times the user's weights; the weights of rows for plain labels."""
        tables, weights = dict(tree.leaves(self.y)), dict(tree.leaves(self.sample_weight))

        def weigh(path: Path, labels: tf.Tensor) -> tf.Tensor:
            table, weight = tables[path], weights.get(path, weights.get(()))  # one for all, or one for each
            if isinstance(weight, RaggedTable):
                return weight.gather(batch)
            floatx = stored_floatx()
            row_weights = tf.ones(tf.shape(batch.rows), floatx) if weight is None else weight.gather(batch)
            if isinstance(table, PlainTable):
                return row_weights
            mask = tf.sequence_mask(table.ranges.lengths(batch.rows), tf.shape(labels)[1], floatx)
            return mask * row_weights[:, tf.newaxis]

        return tree.map_leaves(weigh, y)


def _without_filling(leaf: Leaf | PickedValues) -> Leaf | PickedValues:
    return replace(leaf, min_length=0) if isinstance(leaf, Rows) and leaf.min_length else leaf


def _gather(tables: Structure, batch: RowsOfBatch) -> Structure:
    return tree.map_leaves(lambda _, table: table.gather(batch), tables)


class RowsOfBatch:
    """The rows of one batch of an epoch; with several shards, the rows of all of them set the padded length."""

    def __init__(self, all_rows: tf.Tensor, min_lengths: tf.Tensor, shard: Shard, epoch: tf.Tensor | int = 0):
        self.all_rows, self.epoch = all_rows, epoch
        self.rows = all_rows[shard.index :: shard.num_shards] if shard.num_shards > 1 else all_rows
        self._min_lengths = min_lengths
        self._scalars: dict[int, tf.Tensor] = {}
        self.loaded: dict[RowLoader, list[tf.Tensor]] = {}

    def padded_to(self, column: int) -> tf.Tensor:
        """The minimum padded length of a leaf, a scalar; made once, on first use."""
        if column not in self._scalars:
            self._scalars[column] = self._min_lengths[column]
        return self._scalars[column]


class Values(Protocol):
    """Rows of values that are gathered in graph, counted from `begin`."""

    begin: int

    def take(self, rows: tf.Tensor) -> tf.Tensor:
        """Gathers the rows `(n,)`."""


class ValuesInGraph:
    """Rows of a tensor `(num_rows, ...)` that is part of the graph."""

    begin = 0

    def __init__(self, tensor: tf.Tensor):
        self._tensor = tensor

    def take(self, rows: tf.Tensor) -> tf.Tensor:
        """Gathers the rows `(n,)`."""
        return tf.gather(self._tensor, rows)


def padding_scalar(value: Any, dtype: np.dtype) -> tf.Tensor:
    """A padding value as a tensor; through NumPy, since `tf.cast` rounds a Python float to float32 first."""
    return tf.constant(np.asarray(value).astype(dtype))


class PlainTable:
    """One value per row.

    Args:
        values: The values of all rows.
        shape: The shape of all of them, if it is known before they are in a graph.
        row_bytes: Int, the bytes of one of them in memory.
        leaf: The array, if it is in memory or in a mapped file.
        picked: Int64 tensor `(num_rows,)`, the index of each row's value; None if all are rows, in their order.
    """

    def __init__(
        self,
        values: Values,
        shape: tuple[int, ...] = (0,),
        row_bytes: int = 0,
        leaf: np.ndarray | PickedValues | None = None,
        picked: tf.Tensor = None,
    ):
        self._values, self._shape, self._row_bytes = values, shape, row_bytes
        self.leaf, self._picked = leaf, picked

    @classmethod
    def from_array(cls, array: np.ndarray) -> PlainTable:
        """The table of an array `(num_rows, ...)` in memory."""
        array = np.ascontiguousarray(array)
        values = HostValues(array, standard_dtype(array.dtype, "y"))
        return cls(values, array.shape, array[:1].nbytes, array)

    @classmethod
    def from_picked(cls, leaf: PickedValues, picked: tf.Tensor) -> PlainTable:
        """The table of some of the values of an array; `picked` are their indices as a tensor."""
        values = HostValues(leaf.values, standard_dtype(leaf.values.dtype, "y"))
        return cls(values, leaf.shape, leaf.values[:1].nbytes, leaf, picked)

    def fingerprint_bytes(self) -> Iterator[bytes]:
        """The bytes that identify these values."""
        rows = sampled_rows(np.full(self._shape[0], self._row_bytes, np.int64))
        values = self._take(tf.constant(rows))
        yield f"{values.dtype.name}{self._shape}".encode()
        yield values.numpy().tobytes()

    def gather(self, batch: RowsOfBatch) -> tf.Tensor:
        """The values of the batch's rows."""
        return self._take(batch.rows)

    def _take(self, rows: tf.Tensor) -> tf.Tensor:
        if self._picked is not None:
            rows = tf.gather(self._picked, rows)
        return self._values.take(rows + self._values.begin if self._values.begin else rows)


class LengthsTable:
    """The length of one sequence per row; an empty one that counts as one timestep of padding has length 1."""

    def __init__(self, ranges: RowTensors):
        self._ranges = ranges

    def gather(self, batch: RowsOfBatch) -> tf.Tensor:
        """The lengths of the batch's rows, int32 `(batch,)`."""
        return self._ranges.lengths(batch.rows)


class RaggedTable:
    """One sequence per row.

    Args:
        values: The timesteps of all rows.
        padding: Scalar of their dtype, which fills up the rows.
        feature_shape: The shape of one timestep.
        ranges: The positions of the rows in the values.
        column: Int, the column of the cut with the minimum padded length of the leaf, if `pads_further`.
        pads_further: Bool, whether batches may be padded beyond their own longest row.
        leaf: The rows, if they are in memory or in a mapped file; another dataset can share them.
    """

    def __init__(
        self,
        values: Values,
        padding: tf.Tensor,
        feature_shape: tuple[int, ...],
        ranges: RowTensors,
        column: int,
        pads_further: bool,
        leaf: Rows | None = None,
    ):
        self._values, self._padding, self._feature_shape = values, padding, feature_shape
        self.ranges, self.leaf = ranges, leaf
        self._column, self._pads_further = column, pads_further

    @classmethod
    def from_rows(
        cls, rows: Rows, padding_value: Any, ranges: RowTensors, column: int, pads_further: bool
    ) -> RaggedTable:
        """The table of rows in memory, or in a mapped file."""
        values = HostValues(rows.values, rows.dtype)
        advise_random_access(rows.values, rows.values[:1].nbytes * float(rows.sizes.mean()))
        padding = padding_scalar(padding_value, rows.dtype)
        # np.asarray shares the memory of the tensor, so that the starts are there once.
        leaf = replace(rows, starts=np.asarray(ranges.starts), shared=True)
        return cls(values, padding, rows.feature_shape, ranges, column, pads_further, leaf)

    def fingerprint_bytes(self) -> Iterator[bytes]:
        """The bytes that identify these rows."""
        sizes = self.ranges.sizes.numpy()
        timestep_bytes = self._padding.dtype.size * int(np.prod(self._feature_shape))
        rows = sampled_rows(sizes.astype(np.int64) * timestep_bytes)
        sampled = self.ranges.timesteps(rows, self._values.begin, limit=sampled_timesteps(timestep_bytes))
        yield f"{self._padding.dtype.name}{self._feature_shape}".encode()
        yield sizes.tobytes()
        yield self._values.take(sampled.values).numpy().tobytes()

    def gather(self, batch: RowsOfBatch) -> tf.Tensor:
        """The batch's rows, padded: `(batch, time, *feature_shape)`."""
        timesteps = self.ranges.timesteps(batch.rows, self._values.begin)
        sequences = timesteps.with_values(self._values.take(timesteps.values))
        shape = None  # what the longest of these rows needs
        if self._pads_further or batch.rows is not batch.all_rows:
            longest = tf.reduce_max(self.ranges.lengths(batch.all_rows))
            if self._pads_further:
                longest = tf.maximum(longest, batch.padded_to(self._column))
            shape = tf.concat([[-1], [longest], tf.constant(self._feature_shape, tf.int32)], 0)
        padded = sequences.to_tensor(self._padding, shape=shape)
        return tf.ensure_shape(padded, [None, None, *self._feature_shape])


_Table = PlainTable | RaggedTable | LoadedTable
_AnyLengthsTable = PlainTable | LengthsTable | LoadedLengthsTable


class _Tables:
    """Leaves to tables; leaves with equal positions of rows share them."""

    def __init__(self, pads_further: bool):
        self._pads_further = pads_further
        self._tensors: list[tuple[np.ndarray, tf.Tensor]] = []
        self._row_loaders: dict[Loader, RowLoader] = {}

    def of(self, structure: Structure, padding_value: Any, inputs: Inputs, root: str) -> Structure:
        """The tables of a structure, whose leaves are padded like those of "x" or "y"."""

        def table(path: Path, leaf: Leaf | PickedValues) -> _Table:
            if isinstance(leaf, PickedValues):
                return PlainTable.from_picked(leaf, self._tensor(leaf.rows))
            if not isinstance(leaf, Rows):
                return PlainTable.from_array(leaf)
            column = inputs.column_of(root, path)
            if isinstance(leaf, Loaded):
                return LoadedTable(self._row_loader(leaf), leaf, padding_value, column)
            # A batch of nothing but empty rows has one timestep too, as kernels want it.
            pads_further = self._pads_further or not leaf.sizes.all()
            rows = leaf.materialize()
            return RaggedTable.from_rows(rows, padding_value, rows.as_tensors(self._tensor), column, pads_further)

        return tree.map_leaves(table, structure)

    def lengths_of(self, rows: Rows) -> _AnyLengthsTable:
        """The length of each row in one leaf."""
        if isinstance(rows, Loaded):
            return LoadedLengthsTable(self._row_loader(rows), [rows])
        return LengthsTable(rows.as_tensors(self._tensor))

    def longest_lengths(self, inputs: Inputs) -> _AnyLengthsTable:
        """The length of each row in its longest leaf of `x`; one loader loads them all, or all are in memory."""
        loaded = [leaf for _, leaf in tree.leaves(inputs.x) if isinstance(leaf, Loaded)]
        if loaded:
            return LoadedLengthsTable(self._row_loader(loaded[0]), loaded)
        return PlainTable.from_array(inputs.lengths.longest)

    def _tensor(self, array: np.ndarray) -> tf.Tensor:
        for known, tensor in self._tensors:
            if known is array or (known.dtype == array.dtype and np.array_equal(known, array)):
                return tensor
        self._tensors.append((array, host_tensor(array)))
        return self._tensors[-1][1]

    def _row_loader(self, leaf: Loaded) -> RowLoader:
        if leaf.loader not in self._row_loaders:
            self._row_loaders[leaf.loader] = RowLoader(leaf.loader)
        return self._row_loaders[leaf.loader]
