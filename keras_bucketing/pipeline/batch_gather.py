"""Row indices to one padded batch, in graph: a ragged gather out of the flat values."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.inputs.collect import Inputs
from keras_bucketing.inputs.ragged import Ragged
from keras_bucketing.inputs.storage import host_tensor, stored_floatx
from keras_bucketing.inputs.structures import Leaf, Structure
from keras_bucketing.planning.sizing import Shard


class BatchGatherer:
    """Holds the data as tensors in host memory and gathers padded batches out of it.

    Args:
        inputs: The checked data.
        padding_value: Number that fills up the sequences of `x`.
        label_padding_value: Number that fills up per-timestep labels.
        include_lengths: Whether `x` gains the lengths.
        pads_further: Whether batches may be padded beyond their own longest sequence.
        shard: Which rows of each batch to gather.
    """

    def __init__(
        self,
        inputs: Inputs,
        padding_value: Any,
        label_padding_value: Any,
        include_lengths: bool,
        pads_further: bool,
        shard: Shard,
    ):
        self._pads_further = pads_further
        self._shard = shard
        splits: list[tuple[np.ndarray, tf.Tensor]] = []
        self._x = _tables(inputs.x, padding_value, splits)
        self._y = _tables(inputs.y, label_padding_value, splits)
        self._weights = _tables(inputs.sample_weight, 0, splits)
        self._weighs_timesteps = any(isinstance(table, _RaggedTable) for table in tf.nest.flatten(self._y))
        self._lengths = None
        if include_lengths:
            self._lengths = _PlainTable(inputs.lengths.astype(np.int32))

    def __call__(self, rows: tf.Tensor, cut: tf.Tensor) -> Any:
        """Gathers one batch.

        Args:
            rows: Int32 `(num_rows,)`, row indices.
            cut: Int32 `(3, 1)`: where the batch starts in `rows`, how many rows it has, and the least padded length.

        Returns:
            `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras unpacks them.
        """
        start, size, padded_to = tf.unstack(cut)
        batch = _Batch(tf.slice(rows, start, size), padded_to[0] if self._pads_further else None, self._shard)
        x = tf.nest.map_structure(batch.gather, self._x)
        if self._lengths is not None:
            x = self._with_lengths(x, batch.gather(self._lengths), batch)
        if self._y is None:
            return (x,) if isinstance(x, tuple) else x
        y = tf.nest.map_structure(batch.gather, self._y)
        if self._weighs_timesteps:
            return x, y, self._timestep_weights(y, batch)
        if self._weights is None:
            return x, y
        return x, y, tf.nest.map_structure(batch.gather, self._weights)

    @property
    def tensors(self) -> list[tf.Tensor]:
        """All the data, as tensors."""
        tables = [table for table in tf.nest.flatten((self._x, self._y, self._weights)) if table is not None]
        return [tensor for table in tables for tensor in table.tensors]

    def _with_lengths(self, x: Structure, row_lengths: tf.Tensor, batch: _Batch) -> dict[str, Any]:
        """Adds the rows' lengths; and where there are several ragged leaves, those of each."""
        lengths = {"lengths": row_lengths}
        if not isinstance(x, dict):
            return {"sequences": x, **lengths}
        ragged = {name: table for name, table in self._x.items() if isinstance(table, _RaggedTable)}
        if len(ragged) > 1:
            lengths |= {f"{name}_lengths": table.lengths(batch.rows) for name, table in ragged.items()}
        return {**x, **lengths}

    def _timestep_weights(self, y: Structure, batch: _Batch) -> Structure:
        """1 on real and 0 on padded timesteps, times the caller's own weights; rows' weights for plain labels."""
        weights = self._weights
        if not tf.nest.is_nested(weights):
            weights = tf.nest.map_structure(lambda _: weights, self._y)

        def weigh(labels: tf.Tensor, table: _Table, weight: _Table | None) -> tf.Tensor:
            if isinstance(weight, _RaggedTable):
                return batch.gather(weight)
            floatx = stored_floatx()
            row_weights = tf.ones(tf.shape(batch.rows), floatx) if weight is None else batch.gather(weight)
            if isinstance(table, _PlainTable):
                return row_weights
            mask = tf.sequence_mask(table.lengths(batch.rows), tf.shape(labels)[1], floatx)
            return mask * row_weights[:, tf.newaxis]

        flat = zip(tf.nest.flatten(y), tf.nest.flatten(self._y), tf.nest.flatten(weights), strict=True)
        return tf.nest.pack_sequence_as(self._y, [weigh(*leaf) for leaf in flat])


class _Batch:
    """The rows of one batch; all shards' rows, where there are several, set the padded length."""

    def __init__(self, all_rows: tf.Tensor, padded_to: tf.Tensor | None, shard: Shard):
        self.all_rows = all_rows
        self.rows = all_rows[shard.index :: shard.num_shards] if shard.num_shards > 1 else all_rows
        self.padded_to = padded_to

    def gather(self, table: _Table) -> tf.Tensor:
        return table.gather(self)


class _PlainTable:
    """One value a row."""

    def __init__(self, array: np.ndarray):
        self._rows = host_tensor(array)

    @property
    def tensors(self) -> list[tf.Tensor]:
        return [self._rows]

    def gather(self, batch: _Batch) -> tf.Tensor:
        return tf.gather(self._rows, batch.rows)


class _RaggedTable:
    """One sequence a row."""

    def __init__(self, leaf: Ragged, padding_value: Any, splits: tf.Tensor):
        values = leaf.values_tensor()
        # By way of NumPy: tf.cast would round a Python float to float32 first, and refuses an int beyond int64.
        self._padding = tf.constant(leaf.values.dtype.type(padding_value))
        self._feature_shape = leaf.values.shape[1:]
        self._values, self._splits = values, splits

    @property
    def tensors(self) -> list[tf.Tensor]:
        return [self._values, self._splits]

    def lengths(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(self._splits, rows + 1) - tf.gather(self._splits, rows), tf.int32)

    def gather(self, batch: _Batch) -> tf.Tensor:
        # Not tf.gather of a RaggedTensor: its kernel checks the row splits of all the data at every call
        # (tensorflow/core/kernels/ragged_gather_op.cc, ValidateSplits).
        starts, limits = tf.gather(self._splits, batch.rows), tf.gather(self._splits, batch.rows + 1)
        timesteps = tf.ragged.range(starts, limits)
        sequences = timesteps.with_values(tf.gather(self._values, timesteps.values))
        longest = batch.padded_to
        if batch.rows is not batch.all_rows:
            own_longest = tf.reduce_max(self.lengths(batch.all_rows))
            longest = own_longest if longest is None else tf.maximum(longest, own_longest)
        elif longest is not None:
            longest = tf.maximum(longest, tf.cast(tf.reduce_max(limits - starts), tf.int32))
        shape = None
        if longest is not None:
            shape = tf.concat([[-1], [longest], tf.constant(self._feature_shape, tf.int32)], 0)
        padded = sequences.to_tensor(self._padding, shape=shape)
        return tf.ensure_shape(padded, [None, None, *self._feature_shape])


_Table = _PlainTable | _RaggedTable


def _tables(structure: Structure, padding_value: Any, splits: list[tuple[np.ndarray, tf.Tensor]]) -> Structure:
    """Leaves to tables; leaves with the same row splits share them."""

    def table(leaf: Leaf | None) -> _Table | None:
        if leaf is None:
            return None
        if not isinstance(leaf, Ragged):
            return _PlainTable(leaf)
        for known, tensor in splits:
            if np.array_equal(known, leaf.row_splits):
                return _RaggedTable(leaf, padding_value, tensor)
        splits.append((leaf.row_splits, host_tensor(leaf.row_splits)))
        return _RaggedTable(leaf, padding_value, splits[-1][1])

    return tf.nest.map_structure(table, structure)
