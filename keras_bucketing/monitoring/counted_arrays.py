"""Padded arrays, as `fit` takes them, counted once, since every epoch pads the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.monitoring.batch_log import BatchMeasure, EntryKeys, MaskValue, as_host_array
from keras_bucketing.monitoring.pass_log import LogEntry
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from keras_bucketing.planning.boundaries import check_boundaries
from keras_bucketing.unpadding.spans import Side, check_mask_value


class CountedArrays:
    """The padding of arrays. All rows count as one batch, since they have one padded length in every batch.

    Args:
        name: The name of `x` in messages.
        x: An array `(num_rows, time, ...)`, or a dict, tuple or list of them, which may be nested.
        mask_value: The value of padding.
        sequences: Which entries of `x` hold sequences; None to find them.
        bucket_boundaries: Optional list of ints, for the bucket.
        padding: The end that is padded, or None.

    Attributes:
        num_rows: Int.
        stats: A `PaddingStats` of all rows.

    Raises:
        TypeError: If `mask_value` is of another kind than the sequences.
        ValueError: If arrays differ in their number of rows, have none, or if it is not clear which are sequences.

    Example:
        >>> CountedArrays("x", np.array([[7, 8, 0], [5, 0, 0]])).stats.padding_efficiency
        0.5
    """

    def __init__(
        self,
        name: str,
        x: Any,
        mask_value: MaskValue = 0,
        sequences: EntryKeys = None,
        bucket_boundaries: list[int] | None = None,
        padding: Side | None = None,
    ):
        boundaries = None if bucket_boundaries is None else check_boundaries(bucket_boundaries)
        if isinstance(mask_value, (list, tuple, np.ndarray)):
            mask_value = check_mask_value(mask_value)
        self.num_rows = _num_rows(name, x)
        measure = BatchMeasure(mask_value, sequences, boundaries, padding)
        entry: LogEntry = measure.measure(x, pass_number=1, index=0)
        measure.warn_once()
        self.stats = measure.stats([entry])

    def __len__(self) -> int:
        return 1

    def newest_pass(self) -> PassPosition:
        """Always the same: all rows."""
        return PassPosition(1, 0, 0)

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The figures of all rows."""
        return self.stats


def is_arrays(x: Any) -> bool:
    """Whether `fit` would take it as arrays: one, or a structure of them with at least one."""
    leaves = list(_leaves(x))
    return bool(leaves) and all(_is_array(leaf) for leaf in leaves)


def _is_array(leaf: Any) -> bool:
    is_tensor = isinstance(leaf, (np.ndarray, tf.Tensor, tf.RaggedTensor, tf.SparseTensor))
    return is_tensor or hasattr(leaf, "__array__") or hasattr(leaf, "detach")


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return [leaf for value in x.values() for leaf in _leaves(value)]
    if isinstance(x, (tuple, list)):
        return [leaf for value in x for leaf in _leaves(value)]
    return [] if x is None else [x]


def _num_rows(name: str, x: Any) -> int:
    shapes = []
    for leaf in _leaves(x):
        if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
            raise ValueError(
                f"`{name}` must hold padded arrays. Expected arrays of the shape (num_rows, time, ...), received a "
                f"{type(leaf).__name__}. BucketedSequence takes sequences that are not padded, and knows its padding."
            )
        shapes.append(tuple(as_host_array(leaf).shape))
    if len({shape[:1] for shape in shapes}) > 1 or not shapes[0]:
        raise ValueError(
            f"`{name}` must hold arrays with one entry for each row. Expected one first dimension in all, received "
            f"the shapes {show(shapes)}."
        )
    if not shapes[0][0]:
        raise ValueError(f"`{name}` has no rows. Expected at least one.")
    return int(shapes[0][0])
