"""Single rows of a `tf.data.Dataset`, handed over to Python some at a time: few enough to fit into memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.data.tree import Path
from keras_bucketing.streams.elements import Element, is_none, leaves_of, map_element, split_element

# One call for so many rows: a tf.data.Dataset hands 3,000 single elements a second over to Python. Where rows are
# large, a call ends with the first one that makes the bytes as many as these.
MAX_ROWS = 32
MAX_BYTES = 1 << 22
_COST_OF_END = 1 << 62


def batches_of_rows(dataset: tf.data.Dataset) -> Iterator[Element]:
    """Batches of the rows as `ragged_batch` makes them: `tf.RaggedTensor`s of what varies, arrays of the rest.

    Where rows differ in an axis that is not time, a batch holds a list of arrays, which is for the reader to refuse.
    """
    structure = map_element(lambda _, leaf: None if is_none(leaf) else leaf, split_element(dataset.element_spec))
    declared = leaves_of(structure)
    if not all(isinstance(leaf, tf.TensorSpec) for leaf in declared.values()):  # rows of rows
        yield from map(split_element, dataset.ragged_batch(1))
        return
    read = _reader_of(tuple(declared.items()))
    iterator = iter(_with_end(dataset))
    is_end = False
    while not is_end:
        batch, is_end = _batch_of(*read(iterator), declared, structure)
        if batch is not None:
            yield batch
        del batch  # before more is read


def _batch_of(
    ended: tf.Tensor, leaves: list[list[tf.Tensor]], declared: dict[Path, tf.TensorSpec], structure: Element
) -> tuple[Element | None, bool]:
    """The rows that were read, None where there are none, and whether that is the end."""
    is_end = bool(ended)
    num_rows = len(leaves[0][-1]) - is_end
    if not num_rows:
        return None, is_end
    specs = zip(declared.items(), leaves, strict=True)
    made = {path: _leaf_of(joined, num_rows, spec) for (path, spec), joined in specs}
    return map_element(lambda path, _: made[path], structure), is_end


def without_prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without the prefetch that TensorFlow would add, which reads elements before they are asked for."""
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


def _with_end(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The rows, each with whether it is the end, which comes behind all of them as an empty row.

    No function is mapped over the rows: TensorFlow would call it for several of them at once, and keep these.
    """

    def empty(spec: Any) -> Any:
        return None if is_none(spec) else tf.zeros([size or 0 for size in spec.shape], spec.dtype)

    rows = tf.data.Dataset.zip((dataset, tf.data.Dataset.from_tensors(False).repeat()))
    end = (tf.nest.map_structure(empty, dataset.element_spec), True)
    return without_prefetch(rows.concatenate(tf.data.Dataset.from_tensors(end)))


@functools.lru_cache(maxsize=64)
def _reader_of(declared: tuple[tuple[Path, tf.TensorSpec], ...]) -> Callable[[Any], tuple[tf.Tensor, Any]]:
    """A function that takes rows out of an iterator: whether it is at its end, and what `_joined` makes of each leaf.

    A row costs its bytes and, so that there are no more than `MAX_ROWS`, some more; the end costs all. A loop in graph
    takes longer for each operation than that takes itself: hence as few as possible, and lists that need no index.
    """
    specs = [spec for _, spec in declared]
    cost_of_any = MAX_BYTES // MAX_ROWS

    def goes_on(budget: tf.Tensor, *_: Any) -> tf.Tensor:
        return budget > 0

    def read(iterator: Any) -> tuple[tf.Tensor, Any]:
        def take(budget: tf.Tensor, *lists: Any) -> tuple[Any, ...]:
            row, is_end = iterator.get_next()
            leaves = list(leaves_of(split_element(row)).values())
            costs = [tf.cast(is_end, tf.int64) * _COST_OF_END + cost_of_any]
            costs += [tf.size(leaf, tf.int64) * leaf.dtype.size for leaf in leaves if leaf.shape.rank]
            parts = [part for leaf, spec in zip(leaves, specs, strict=True) for part in _parts_of(leaf, spec)]
            pushed = [
                tf.raw_ops.TensorListPushBack(input_handle=rows, tensor=part)
                for rows, part in zip(lists, parts, strict=True)
            ]
            return budget - tf.add_n(costs), *pushed

        empty = [tf.zeros([size or 0 for size in spec.shape], spec.dtype) for spec in specs]
        parts = [_parts_of(leaf, spec) for leaf, spec in zip(empty, specs, strict=True)]
        lists = [
            tf.raw_ops.EmptyTensorList(element_shape=-1, max_num_elements=-1, element_dtype=part.dtype)
            for of_leaf in parts
            for part in of_leaf
        ]
        begin = (tf.constant(MAX_BYTES, tf.int64), *lists)
        budget, *lists = tf.while_loop(goes_on, take, begin, parallel_iterations=1)
        filled = iter(lists)
        joined = [_joined([next(filled) for _ in of_leaf], spec) for of_leaf, spec in zip(parts, specs, strict=True)]
        return budget < -_COST_OF_END // 2, joined

    function: Callable[[Any], tuple[tf.Tensor, Any]] = tf.function(read, autograph=False)
    return function


def _is_sequence(shape: tf.TensorShape) -> bool:
    """Whether nothing but the first axis is of unknown size."""
    return bool(shape.rank) and shape[0] is None and shape[1:].is_fully_defined()


def _parts_of(leaf: tf.Tensor, spec: tf.TensorSpec) -> list[tf.Tensor]:
    """What is kept of a leaf of one row: itself; where other axes are of unknown size, its values and its shape."""
    if spec.shape.is_fully_defined() or _is_sequence(spec.shape):
        return [leaf]
    return [tf.reshape(leaf, [-1]), tf.shape(leaf, tf.int64)]


def _joined(lists: list[tf.Tensor], spec: tf.TensorSpec) -> list[tf.Tensor]:
    """The rows of a leaf: all of them, or their values and lengths, or their values and shapes."""
    if spec.shape.is_fully_defined():
        return [_stack(lists[0], spec.shape.as_list(), spec.dtype)]
    shape = [-1, *spec.shape[1:]] if len(lists) == 1 else [-1]
    values, lengths = tf.raw_ops.TensorListConcatV2(
        input_handle=lists[0],
        element_dtype=spec.dtype,
        element_shape=tf.constant(shape, tf.int32),
        leading_dims=tf.zeros([0], tf.int64),
    )
    return [values, lengths if len(lists) == 1 else _stack(lists[1], [spec.shape.rank], tf.int64)]


def _stack(rows: tf.Tensor, shape: list[int], dtype: tf.DType) -> tf.Tensor:
    element_shape = tf.constant(shape, tf.int32, [len(shape)])
    return tf.raw_ops.TensorListStack(input_handle=rows, element_shape=element_shape, element_dtype=dtype)


def _leaf_of(joined: list[tf.Tensor], num_rows: int, spec: tf.TensorSpec) -> Any:
    """What `ragged_batch` makes of these rows, or a list of arrays where they differ in an axis that is not time."""
    if len(joined) == 1:
        return joined[0][:num_rows].numpy()
    values, shapes = joined[0], joined[1][:num_rows].numpy()
    if _is_sequence(spec.shape):
        return tf.RaggedTensor.from_row_lengths(values, shapes, validate=False)
    if (shapes[:, 1:] != shapes[0, 1:]).any():
        stops = np.cumsum(shapes.prod(axis=1))[:-1]
        return [row.reshape(shape) for row, shape in zip(np.split(values.numpy(), stops), shapes.tolist(), strict=True)]
    timesteps = tf.reshape(values, [shapes[:, 0].sum(), *shapes[0, 1:]])
    return tf.RaggedTensor.from_row_lengths(timesteps, shapes[:, 0], validate=False)
