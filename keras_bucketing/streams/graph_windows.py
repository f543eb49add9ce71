"""The rows of a `tf.data.Dataset` as windows, in graph, without a function that is called for each row.

`ragged_batch` calls one, which takes longer than most rows take to read, and `padded_batch` does not say how long the
rows were. So a few rows at a time are padded twice, with 0 and with 1. Where both copies hold their padding there is
none of the rows, whatever these hold.

rows  ->  windows, each of them datasets of its leaves  ->  groups, padded twice  ->  values and sizes  ->  `Leaves`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bucketing.data.row_format import LeafFormat, Leaves, RowFormat, WindowLeaf
from keras_bucketing.data.tree import Path, leaves, map_leaves

# So many rows are padded to the longest of them, as in a batch of a model. More take more memory, fewer take more time.
_ROWS_OF_GROUP = 32

_do_not_convert = tf.autograph.experimental.do_not_convert


def windows_of_rows(
    rows: tf.data.Dataset, row_format: RowFormat, num_rows: int, drop_empty: bool
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Windows of `num_rows` rows, or of fewer at the end; `Leaves` in the order of the format, in every epoch."""
    formats, specs = row_format.leaves, _flat(rows.element_spec)

    def has_timesteps(*row: Any) -> tf.Tensor:
        by_leaf = zip(formats, _flat(row), strict=True)
        return tf.reduce_all(tf.stack([_length(value) for leaf, value in by_leaf if leaf in row_format.sequences]) > 0)

    def window(*batch: Any) -> Leaves:
        return tuple(map(_leaf_of_batch, formats, _flat(batch)))

    def window_of_groups(*parts: Any) -> Leaves:
        groups = tuple(map(_in_groups, specs, _flat(parts)))
        in_groups = tf.data.Dataset.zip(groups).map(_do_not_convert(group))
        whole = in_groups.ragged_batch(-(-num_rows // _ROWS_OF_GROUP)).get_single_element()
        return tuple(map(_joined, formats, whole))

    def group(*padded: Any) -> Leaves:
        return tuple(map(_leaf_of_group, formats, padded))

    if drop_empty:
        rows = rows.filter(_do_not_convert(has_timesteps))
    if all(map(_can_be_batched, specs)):
        windows = rows.batch(num_rows).map(_do_not_convert(window))
    elif any(0 in leaf.shape for leaf in row_format.sequences):  # where there is nothing, there is no padding to see
        windows = rows.ragged_batch(num_rows).map(_do_not_convert(window))
    else:
        windows = rows.window(num_rows).map(_do_not_convert(window_of_groups))
    return lambda _: windows


def with_shapes_of_format(rows: tf.data.Dataset, row_format: RowFormat) -> tf.data.Dataset:
    """Rows whose shapes are not declared, with those of the format; others are refused, with the number of the row."""

    def check(number: tf.Tensor, element: Any) -> Any:
        element = element if isinstance(element, tuple) else (element,)
        formats = dict(zip([path for path, _ in leaves(element)], row_format.leaves, strict=True))
        checks = [
            _assert_shape(formats[path], value, number) for path, value in leaves(element) if not _is_ragged(value)
        ]

        def declare(path: Path, value: Any) -> Any:
            shape = _shape_in_rows(formats[path])
            return value if _is_ragged(value) else tf.ensure_shape(value, shape)

        with tf.control_dependencies(checks):
            return map_leaves(declare, element)

    return rows.enumerate().map(_do_not_convert(check))


def _is_ragged(value: Any) -> bool:
    return isinstance(value, tf.RaggedTensor)


def _shape_in_rows(leaf: LeafFormat) -> tuple[int | None, ...]:
    return (None, *leaf.shape) if leaf.is_sequence else leaf.shape


def _assert_shape(leaf: LeafFormat, value: tf.Tensor, row: tf.Tensor) -> tf.Operation:
    expected, received = _shape_in_rows(leaf), tf.shape(value)
    sizes = [(axis, size) for axis, size in enumerate(expected) if size is not None]
    fits = tf.cond(
        tf.equal(tf.size(received), len(expected)),
        lambda: tf.reduce_all(tf.stack([tf.constant(True), *(tf.equal(received[axis], size) for axis, size in sizes)])),
        lambda: tf.constant(False),
    )
    is_label = leaf.path[0] == "y" and not leaf.is_sequence
    hint = " If these are labels of timesteps, pass timestep_labels=True." if is_label and expected else ""
    message = (
        f"`{leaf.name}` must have one shape in all rows. Expected {expected} as in the first rows.{hint} Row and "
        "received shape:"
    )
    return tf.debugging.Assert(fits, [message, row, received])


def _flat(element: Any) -> list[Any]:
    """The leaves of an element, or of what has its structure, in the order of `RowFormat.leaves`."""
    x, y, weights = (*(element if isinstance(element, tuple) else (element,)), None, None)[:3]
    return [leaf for _, leaf in leaves((x, y, weights))]


def _length(value: Any) -> tf.Tensor:
    return value.nrows(tf.int32) if isinstance(value, tf.RaggedTensor) else tf.shape(value)[0]


def _can_be_batched(spec: Any) -> bool:
    return isinstance(spec, tf.RaggedTensorSpec) or bool(spec.shape.is_fully_defined())


def _in_groups(spec: Any, leaf: tf.data.Dataset) -> Any:
    """A leaf of the rows of a window in batches; of rows of different lengths, one padded with 0 and one with 1."""
    if _can_be_batched(spec):
        return leaf.batch(_ROWS_OF_GROUP)
    return tuple(
        leaf.padded_batch(_ROWS_OF_GROUP, spec.shape, padding_values=tf.cast(padding, spec.dtype)) for padding in (0, 1)
    )


def _leaf_of_group(leaf: LeafFormat, padded: Any) -> Any:
    """A leaf of a group: one value a row, or the values of its sequences one after the other and their sizes."""
    if not isinstance(padded, tuple):
        batched = _leaf_of_batch(leaf, padded)
        return (batched.values, batched.sizes) if leaf.is_sequence else batched
    zeros, ones = padded
    first, other = (_first_feature(each) for each in (zeros, ones))
    is_real = ~(tf.equal(first, tf.cast(0, first.dtype)) & tf.equal(other, tf.cast(1, other.dtype)))
    return tf.boolean_mask(zeros, is_real), tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32)


def _first_feature(padded: tf.Tensor) -> tf.Tensor:
    """One number for each timestep: what is true of it is true of all."""
    return padded[(..., *[0] * (len(padded.shape) - 2))]


def _leaf_of_batch(leaf: LeafFormat, batch: Any) -> Any:
    """The rows of a ragged batch, or of one whose rows all have one length."""
    if not leaf.is_sequence:
        return batch
    if isinstance(batch, tf.RaggedTensor):
        splits = tf.cast(batch.row_splits, tf.int64)
        return WindowLeaf(batch.values, splits[:-1], tf.cast(splits[1:] - splits[:-1], tf.int32))
    num_rows, time = tf.shape(batch)[0], tf.shape(batch)[1]
    values = tf.reshape(batch, tf.concat([[num_rows * time], tf.shape(batch)[2:]], 0))
    return WindowLeaf(values, tf.cast(tf.range(num_rows) * time, tf.int64), tf.fill([num_rows], time))


def _joined(leaf: LeafFormat, groups: Any) -> Any:
    """A leaf of a window, of what `ragged_batch` made of its groups."""
    if not leaf.is_sequence:
        return groups.values
    values, sizes = (part.values for part in groups)
    return WindowLeaf(values, tf.cumsum(tf.cast(sizes, tf.int64), exclusive=True), sizes)
