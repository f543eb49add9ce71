"""Single rows of a `tf.data.Dataset`, handed over to Python some at a time: few enough to fit into memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.data.tree import Path
from keras_bucketing.streams.elements import Element, is_none, leaves_of, map_element, split_element

# One call for so many rows: a tf.data.Dataset hands 3,000 single elements a second over to Python. Where rows are
# large, a call ends with the first one that makes the bytes as many as these.
MAX_ROWS = 32
MAX_BYTES = 1 << 22


def batches_of_rows(dataset: tf.data.Dataset) -> Iterator[Element]:
    """Batches of the rows as `ragged_batch` makes them: `tf.RaggedTensor`s of what varies, arrays of the rest.

    Where rows differ in an axis that is not time, a batch holds a list of arrays, which is for the reader to refuse.
    """
    spec = map_element(lambda _, leaf: None if is_none(leaf) else leaf, split_element(dataset.element_spec))
    declared = leaves_of(spec)
    if not all(isinstance(leaf, tf.TensorSpec) for leaf in declared.values()):  # rows of rows
        yield from map(split_element, dataset.ragged_batch(1))
        return
    read = _reader_of(tuple(declared.items()))
    iterator = iter(_with_end(dataset))
    is_end = False
    while not is_end:
        end, shapes, *values = read(iterator)
        is_end, table = bool(end), shapes.numpy()
        if len(table):
            yield _unpacked(table, values, spec)


def without_prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without the prefetch that TensorFlow would put behind it, which holds elements nobody asked for."""
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
def _reader_of(declared: tuple[tuple[Path, tf.TensorSpec], ...]) -> Callable[[Any], list[tf.Tensor]]:
    """A function that takes rows out of an iterator: whether it is at its end, their shapes, and each leaf, flat."""
    num_sizes = sum(spec.shape.rank for _, spec in declared)

    def goes_on(count: tf.Tensor, num_bytes: tf.Tensor, is_end: tf.Tensor, *_: Any) -> tf.Tensor:
        return (count < MAX_ROWS) & (num_bytes < MAX_BYTES) & ~is_end

    def read(iterator: Any) -> list[tf.Tensor]:
        def take(count: tf.Tensor, num_bytes: tf.Tensor, _: tf.Tensor, *arrays: Any) -> tuple[Any, ...]:
            row, is_end = iterator.get_next()
            leaves = list(leaves_of(split_element(row)).values())
            sizes = tf.concat([tf.shape(leaf, tf.int64) for leaf in leaves], axis=0)
            num_bytes += tf.add_n([tf.size(leaf, tf.int64) * leaf.dtype.size for leaf in leaves])
            flat = [sizes, *(tf.reshape(leaf, [-1]) for leaf in leaves)]
            written = [array.write(count, part) for array, part in zip(arrays, flat, strict=True)]
            return count + 1, num_bytes, is_end, *written

        arrays = [
            tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
            for dtype in (tf.int64, *(spec.dtype for _, spec in declared))
        ]
        begin = (tf.constant(0), tf.constant(0, tf.int64), tf.constant(False), *arrays)
        count, _, is_end, *arrays = tf.while_loop(goes_on, take, begin, parallel_iterations=1)
        shapes, *values = (array.concat() for array in arrays)
        num_rows = count - tf.cast(is_end, tf.int32)
        return [is_end, tf.reshape(shapes, [count, num_sizes])[:num_rows], *values]

    function: Callable[[Any], list[tf.Tensor]] = tf.function(read, autograph=False)
    return function


def _unpacked(table: np.ndarray, values: list[tf.Tensor], spec: Element) -> Element:
    """The structure of `spec` with a leaf of so many rows each."""
    unpacked: dict[Path, Any] = {}
    column = 0
    for (path, leaf), flat in zip(leaves_of(spec).items(), values, strict=True):
        unpacked[path] = _leaf_of(flat, table[:, column : column + leaf.shape.rank], leaf.shape)
        column += leaf.shape.rank
    return map_element(lambda path, _: unpacked[path], spec)


def _leaf_of(flat: tf.Tensor, shapes: NDArray[np.int64], declared: tf.TensorShape) -> Any:
    """One leaf of rows of these shapes, `(num_rows, rank)`."""
    if declared.is_fully_defined():
        of_rows = flat[: len(shapes) * declared.num_elements()]  # without that of the end
        return tf.reshape(of_rows, [len(shapes), *declared]).numpy()
    if (shapes[:, 1:] != shapes[0, 1:]).any():
        stops = np.cumsum(shapes.prod(axis=1))[:-1]
        return [row.reshape(shape) for row, shape in zip(np.split(flat.numpy(), stops), shapes.tolist(), strict=True)]
    timesteps = tf.reshape(flat, [shapes[:, 0].sum(), *shapes[0, 1:]])
    return tf.RaggedTensor.from_row_lengths(timesteps, shapes[:, 0], validate=False)
