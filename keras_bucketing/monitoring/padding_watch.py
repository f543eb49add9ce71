"""A look at the first batches: do their rows end or begin in padding that `mask_value` does not show?"""

from __future__ import annotations

import sys
import threading
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.inputs.constant_runs import runs_like_padding
from keras_bucketing.inputs.overlooked_padding import cure_of_value

# Enough rows for a verdict, few enough to keep: 32 MiB at most, and less than one usually.
_MOST_BATCHES = 32
_MOST_FEATURES = 4
_MOST_VALUES = 2**16  # of a batch, unless a single row has more


class PaddingWatch:
    """Keeps some rows of the first batches, and warns once if they end or begin in what looks like padding.

    Args:
        mask_value: What padding is said to hold.
    """

    def __init__(self, mask_value: Any):
        self._mask_value = mask_value
        with tf.device("CPU:0"):
            # A table holds values of one shape only: hence serialized.
            self._samples = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
            self._padding = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
        self._lock = threading.Lock()
        self._num_checked = 0
        self._warned = False

    def note(self, pass_number: Any, index: Any, leaves: list[Any], lengths: tf.Tensor) -> tf.Tensor:
        """Keeps some rows of a batch, if it is one of the first of the first pass; in graph or eagerly.

        Args:
            pass_number: Int64 scalar, from 1.
            index: Int64 scalar, which batch of the pass.
            leaves: Arrays `(batch, time, ...)`.
            lengths: Int32 `(num_leaves, batch)`, the rows' lengths by `mask_value`, in timesteps.

        Returns:
            A scalar to wait for.
        """

        def keep() -> tf.Tensor:
            kept = []
            for number, leaf in enumerate(map(tf.convert_to_tensor, leaves)):
                key = tf.cast(index, tf.int64) * len(leaves) + number
                padding = tf.shape(leaf)[1] - lengths[number]
                kept.append(self._samples.insert(key, tf.io.serialize_tensor(_sample(leaf))))
                kept.append(self._padding.insert(key, tf.io.serialize_tensor(padding)))
            with tf.control_dependencies([operation for operation in kept if operation is not None]):
                return tf.constant(True)

        is_first = tf.logical_and(tf.equal(pass_number, 1), tf.less(index, _MOST_BATCHES))
        return tf.cond(tf.logical_and(is_first, tf.size(lengths) > 0), keep, lambda: tf.constant(False))

    def warn_once(self, names: list[str], dtypes: list[tf.DType]) -> None:
        """Warns, at the line of the caller outside of this package, if padding was overlooked.

        Args:
            names: What to call the leaves.
            dtypes: Their dtypes.
        """
        with self._lock:
            num_kept = int(self._samples.size())
            if self._warned or num_kept == self._num_checked:
                return
            self._num_checked = num_kept
            for number, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
                message = self._message(name, *self._kept(number, len(names), dtype))
                if message is not None:
                    self._warned = True
                    self._samples.remove(self._samples.export()[0])
                    warnings.warn(message, stacklevel=_level_of_caller())
                    return

    def _kept(self, number: int, num_leaves: int, dtype: tf.DType) -> tuple[list[tf.Tensor], np.ndarray]:
        """The samples of a leaf, and how much of each row was padding."""
        keys = self._samples.export()[0]
        keys = tf.sort(tf.boolean_mask(keys, keys % num_leaves == number))
        samples = [tf.io.parse_tensor(entry, dtype) for entry in self._samples.lookup(keys)]
        padding = [tf.io.parse_tensor(entry, tf.int32).numpy() for entry in self._padding.lookup(keys)]
        return samples, np.concatenate(padding)

    def _message(self, name: str, samples: list[tf.Tensor], padding: np.ndarray) -> str | None:
        samples = [sample for sample in samples if sample.shape.num_elements()]
        if (padding != padding[0]).any():
            return None
        runs = runs_like_padding(samples)
        if runs is None:
            return None
        cure = cure_of_value(runs, 'Pad after normalizing, or add the real lengths to a dict `x` as "lengths".')
        return (
            f"monitor_padding: all rows of `{name}` are equally long by mask_value={show(self._mask_value)}, so that "
            f"the figures may count padding as data. But {runs.describe()}, which looks like padding. {cure} If these "
            "timesteps are real, ignore this."
        )


def _sample(leaf: tf.Tensor) -> tf.Tensor:
    """Some rows of a batch with some of their features, `(rows, time, features)`."""
    shape = tf.shape(leaf)
    num_features = tf.reduce_prod(shape[2:])
    features = tf.reshape(leaf, tf.stack([shape[0], shape[1], num_features]))[:, :, :_MOST_FEATURES]
    values = tf.maximum(shape[1] * tf.minimum(num_features, _MOST_FEATURES), 1)
    return features[: tf.maximum(_MOST_VALUES // values, 1)]


def _level_of_caller() -> int:
    """The `stacklevel` of the nearest line outside of this package, Keras and TensorFlow, such as a call of `fit`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("keras_bucketing", "keras", "tensorflow"):
            return level
        level, frame = level + 1, frame.f_back
    return 2
