"""Rows that end or begin in one and the same timestep: padding that was not noticed, and taken for data.

`unnoticed_padding` looks at whole arrays, `UnnoticedPaddingCheck` at the first batches of a dataset. Both count
the runs of one timestep at the rows' ends or beginnings, and say which `mask_value` to pass.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.unpadding.arrays import PaddedSequences
from keras_bucketing.unpadding.spans import is_padding

# A single repeated timestep is a coincidence; so are runs in a row out of twenty, or of a value that occurs all over.
_MIN_RUN = 2
_MIN_SHARE_OF_ROWS = 0.1
_MIN_SHARE_OF_VALUE = 0.75
_MAX_VALUES_OF_PART = 2**22  # of an array, so that what is computed on it stays small

# The first batches: enough rows for a verdict, few enough to keep, 32 MiB at most and less than one usually.
_MAX_BATCHES = 32
_MAX_FEATURES = 4
_MAX_VALUES_OF_SAMPLE = 2**16  # unless a single row has more


def unnoticed_padding(padded: list[PaddedSequences], mask_value: Any) -> Iterator[str]:
    """A warning for each array whose rows are all of one length, although they end or begin in constant runs."""
    for entry in padded:
        if not (entry.found or entry.is_cut) or (entry.lengths != entry.lengths[0]).any():
            continue
        runs = find_runs(entry.array)
        if runs is None:
            continue
        if is_padding(runs.value.reshape(1, 1, -1), mask_value).all():
            fix = f'Pass padding="{"post" if runs.at_end else "pre"}", or leave `padding` out.'
        else:
            fix = suggest_mask_value(runs, "Pad after normalizing, or pass the real lengths, lengths=...")
        yield (
            f"All rows of `{entry.name}` have {entry.lengths[0]} real timesteps by mask_value={show(mask_value)}, so "
            f"that buckets save nothing. But {runs.describe()}, which looks like padding. {fix} If "
            "these timesteps are real, pass the lengths."
        )


class UnnoticedPaddingCheck:
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
        self._num_checked = 0  # samples, when they were looked at for the last time
        self._warned = False

    def sample(
        self, pass_number: tf.Tensor | int, index: tf.Tensor | int, leaves: list[tf.Tensor], lengths: tf.Tensor
    ) -> tf.Tensor:
        """Keeps some rows of a batch, if it is one of the first of the first pass; in graph or eagerly.

        Passes are numbered from 1, batches from 0, int64 scalars. Leaves are `(batch, time, ...)`, their lengths by
        `mask_value` int32 `(num_leaves, batch)`. Returns a scalar to wait for.
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

        is_first = tf.logical_and(tf.equal(pass_number, 1), tf.less(index, _MAX_BATCHES))
        return tf.cond(tf.logical_and(is_first, tf.size(lengths) > 0), keep, lambda: tf.constant(False))

    def warn_once(self, names: list[str], dtypes: list[tf.DType]) -> None:
        """Warns, at the line of the caller outside of this package, if padding was not noticed in one of the leaves."""
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
        fix = suggest_mask_value(runs, 'Pad after normalizing, or add the real lengths to a dict `x` as "lengths".')
        return (
            f"monitor_padding: all rows of `{name}` are equally long by mask_value={show(self._mask_value)}, so that "
            f"the figures may count padding as data. But {runs.describe()}, which looks like padding. {fix} If these "
            "timesteps are real, ignore this."
        )


def _sample(leaf: tf.Tensor) -> tf.Tensor:
    """Some rows of a batch with some of their features, `(rows, time, features)`."""
    shape = tf.shape(leaf)
    num_features = tf.reduce_prod(shape[2:])
    features = tf.reshape(leaf, tf.stack([shape[0], shape[1], num_features]))[:, :, :_MAX_FEATURES]
    values = tf.maximum(shape[1] * tf.minimum(num_features, _MAX_FEATURES), 1)
    return features[: tf.maximum(_MAX_VALUES_OF_SAMPLE // values, 1)]


def _level_of_caller() -> int:
    """The `stacklevel` of the nearest line outside of this package, Keras and TensorFlow, such as a call of `fit`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("keras_bucketing", "keras", "tensorflow"):
            return level
        level, frame = level + 1, frame.f_back
    return 2


def suggest_mask_value(runs: ConstantRuns, without_a_number: str) -> str:
    """The advice to pass a `mask_value`, if one number fills the timesteps."""
    values = runs.value.reshape(-1).tolist()
    if len(set(map(str, values))) == 1:
        value = values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]
        nan = 'float("nan")'
        return f"Pass mask_value={show(value) if value == value else nan}."
    return f"No `mask_value` can be the padding, since its features differ: was it normalized? {without_a_number}"


@dataclass(frozen=True)
class ConstantRuns:
    """What rows that end (or begin) in a run of one and the same timestep have in common.

    Attributes:
        at_end: Whether the runs are at the rows' ends.
        value: Array `features`, the timestep.
        num_rows: Int, all rows but those that are constant throughout, which say nothing.
        num_runs: Int, the rows with a run of at least two timesteps.
        shortest: Int, the shortest run.
        longest: Int, the longest run.
        timesteps: Int, the timesteps of all runs.
        all_timesteps: Int, all timesteps that hold this value, in these rows.
    """

    at_end: bool
    value: np.ndarray
    num_rows: int
    num_runs: int
    shortest: int
    longest: int
    timesteps: int
    all_timesteps: int

    @property
    def looks_like_padding(self) -> bool:
        """Whether enough rows have a run, of differing lengths, of a timestep that hardly occurs elsewhere.

        Enough are two, and a tenth of the rows; three in four timesteps of that value must lie in the runs. Padding
        does so, while plateaus and frequent values are spread over the rows.
        """
        return (
            self.num_runs >= max(2, _MIN_SHARE_OF_ROWS * self.num_rows)
            and self.longest > self.shortest
            and self.timesteps >= _MIN_SHARE_OF_VALUE * self.all_timesteps
        )

    def describe(self) -> str:
        """What was found, for a warning."""
        return (
            f"{self.num_runs} of {self.num_rows} rows {'end' if self.at_end else 'begin'} in {self.shortest} to "
            f"{self.longest} timesteps of {show(self.value.tolist())}"
        )


def find_runs(array: np.ndarray) -> ConstantRuns | None:
    """The runs in a whole array of numbers `(num_rows, time, *features)` that look like padding, or None."""
    if not array.size:
        return None
    rows = max(1, _MAX_VALUES_OF_PART * len(array) // array.size)
    with tf.device("CPU:0"):
        return runs_like_padding([tf.constant(array[at : at + rows]) for at in range(0, len(array), rows)])


def runs_like_padding(batches: Sequence[tf.Tensor]) -> ConstantRuns | None:
    """The runs at the ends or at the beginnings of the rows of some batches that look like padding, or None."""
    for at_end in (True, False):
        counted = [count_runs(batch, at_end) for batch in batches]
        runs = add_up_runs([(counts.numpy(), value.numpy()) for counts, value in counted], at_end)
        if runs is not None and runs.looks_like_padding:
            return runs
    return None


def add_up_runs(parts: Iterable[tuple[np.ndarray, np.ndarray]], at_end: bool) -> ConstantRuns | None:
    """Adds up what `count_runs` found in several batches, for the value with the most runs; None if none has a run."""
    num_rows = 0
    counts_by_value: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
    for counts, value in parts:
        num_rows += int(counts[0])
        if counts[1]:
            counts_by_value.setdefault(str(value.tolist()), (value, []))[1].append(counts)
    if not counts_by_value:
        return None
    value, found = max(counts_by_value.values(), key=lambda entry: sum(counts[1] for counts in entry[1]))
    table = np.stack(found)
    _, num_runs, _, _, timesteps, all_timesteps = map(int, table.sum(axis=0))
    shortest, longest = int(table[:, 2].min()), int(table[:, 3].max())
    return ConstantRuns(at_end, value, num_rows, num_runs, shortest, longest, timesteps, all_timesteps)


def count_runs(batch: tf.Tensor, at_end: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Counts the runs of one timestep, that of the longest run, in a batch `(num_rows, time, *features)`.

    Returns int64 `(6,)`, the numbers of `ConstantRuns` in their order, and the timestep, flat.
    """
    shape = tf.shape(batch)
    num_rows, time = shape[0], shape[1]
    flat = tf.reshape(batch, [num_rows, time, -1])
    if not at_end:
        flat = tf.reverse(flat, [1])
    run = _run_at_end(_equal(flat, flat[:, -1:]))
    is_mixed = run < time
    value = flat[tf.argmax(tf.where(is_mixed, run, 0)), -1]
    holds_value = tf.logical_and(_equal(flat, value), is_mixed[:, tf.newaxis])
    runs = _run_at_end(holds_value)
    runs = tf.boolean_mask(runs, runs >= _MIN_RUN)
    counts = [
        tf.math.count_nonzero(is_mixed),
        tf.size(runs),
        tf.reduce_min(tf.concat([runs, [time]], 0)),
        tf.reduce_max(tf.concat([runs, [0]], 0)),
        tf.reduce_sum(runs),
        tf.math.count_nonzero(holds_value),
    ]
    return tf.stack([tf.cast(count, tf.int64) for count in counts]), value


def _run_at_end(holds: tf.Tensor) -> tf.Tensor:
    """Int32 `(num_rows,)`: how many of the last timesteps hold."""
    time = tf.shape(holds)[1]
    last_without = tf.reduce_max(tf.where(holds, -1, tf.range(time)), axis=1)
    return time - 1 - last_without


def _equal(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Bool `(num_rows, time)`: whether all features are equal; NaN equals NaN."""
    equal = tf.equal(left, right)
    if left.dtype.is_floating:
        equal = tf.logical_or(equal, tf.logical_and(tf.math.is_nan(left), tf.math.is_nan(right)))
    return tf.reduce_all(equal, axis=2)
