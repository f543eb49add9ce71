"""A look at the first batches: do their rows end or begin in padding that `mask_value` does not show?"""

from __future__ import annotations

import sys
import threading
import warnings
from typing import Any

import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.inputs.constant_runs import add_up_runs, count_runs
from keras_bucketing.inputs.overlooked_padding import cure_of_value

# Enough rows for a verdict, few enough that an epoch does not take longer for it.
_MOST_BATCHES = 64


class PaddingWatch:
    """Counts the constant runs in the first batches of the first pass, and warns once of what looks like padding.

    Args:
        mask_value: What padding is said to hold.
    """

    def __init__(self, mask_value: Any):
        self._mask_value = mask_value
        with tf.device("CPU:0"):
            self._counts = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
            self._values = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
        self._lock = threading.Lock()
        self._num_checked = 0
        self._warned = False

    def note(self, pass_number: Any, index: Any, leaves: list[Any], lengths: tf.Tensor) -> tf.Tensor:
        """Looks at a batch, if it is one of the first; in graph or eagerly.

        Args:
            pass_number: Int64 scalar, from 1.
            index: Int64 scalar, which batch of the pass.
            leaves: Arrays `(batch, time, ...)`.
            lengths: Int32 `(num_leaves, batch)`, the rows' lengths by `mask_value`, in timesteps.

        Returns:
            A scalar to wait for.
        """
        leaves = [tf.convert_to_tensor(leaf) for leaf in leaves]
        has_values = tf.reduce_all([tf.size(leaf) > 0 for leaf in leaves])
        is_first = tf.logical_and(tf.equal(pass_number, 1), tf.less(index, _MOST_BATCHES))

        def write() -> tf.Tensor:
            written = []
            for number, leaf in enumerate(leaves):
                is_even = tf.equal(tf.reduce_min(lengths[number]), tf.reduce_max(lengths[number]))
                for at_end in (False, True):
                    counts, value = count_runs(leaf, at_end)
                    counts = tf.concat([counts, [tf.cast(is_even, tf.int64)]], 0)
                    key = (tf.cast(index, tf.int64) * len(leaves) + number) * 2 + int(at_end)
                    written.append(self._counts.insert(key, tf.io.serialize_tensor(counts)))
                    written.append(self._values.insert(key, tf.io.serialize_tensor(value)))
            with tf.control_dependencies([operation for operation in written if operation is not None]):
                return tf.constant(True)

        return tf.cond(tf.logical_and(has_values, is_first), write, lambda: tf.constant(False))

    def warn_once(self, names: list[str], dtypes: list[tf.DType]) -> None:
        """Warns, at the line of the caller outside of this package, if padding was overlooked.

        Args:
            names: What to call the leaves.
            dtypes: Their dtypes.
        """
        with self._lock:
            num_batches = int(self._counts.size())
            if self._warned or num_batches == self._num_checked:
                return
            self._num_checked = num_batches
            keys = self._counts.export()[0]
            counts = [tf.io.parse_tensor(entry, tf.int64).numpy() for entry in self._counts.lookup(keys)]
            values = self._values.lookup(keys)
            for number, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
                at = [i for i, key in enumerate(keys.numpy()) if key // 2 % len(names) == number]
                if not all(counts[i][6] for i in at):
                    continue
                parts = [(int(keys[i]) % 2, counts[i], tf.io.parse_tensor(values[i], dtype).numpy()) for i in at]
                message = self._message(parts, name)
                if message is not None:
                    self._warned = True
                    warnings.warn(message, stacklevel=_level_of_caller())
                    return

    def _message(self, parts: list[Any], name: str) -> str | None:
        for at_end in (True, False):
            runs = add_up_runs([(counts, value) for end, counts, value in parts if end == at_end], at_end)
            if runs is not None and runs.looks_like_padding:
                cure = cure_of_value(
                    runs, 'Pad after normalizing, or add the real lengths to a dict `x` under the key "lengths".'
                )
                return (
                    f"monitor_padding: the rows of every batch of `{name}` are of one length by "
                    f"mask_value={show(self._mask_value)}, so that the figures may count padding as data. But "
                    f"{runs.describe()}, which looks like padding. {cure} If these timesteps are real, ignore this."
                )
        return None


def _level_of_caller() -> int:
    """The `stacklevel` of the nearest line outside of this package, Keras and TensorFlow, such as a call of `fit`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("keras_bucketing", "keras", "tensorflow"):
            return level
        level, frame = level + 1, frame.f_back
    return 2
