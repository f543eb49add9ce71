"""Rows that end or begin in one and the same timestep: unnoticed padding, taken for data.

Every reader keeps a sample of the rows whose lengths were read off the values: `RowSample`, or in graph
`UnnoticedPaddingCheck`. If all of them have the same amount of padding, usually none, the runs of one timestep at their
ends or beginnings are counted, and a warning says which `mask_value` to pass.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path
from keras_bucketing.unpadding.constant_runs import ConstantRuns, runs_like_padding
from keras_bucketing.unpadding.entries import check_shared_masks, leaf_name
from keras_bucketing.unpadding.evidence import COUNTS, Evidence
from keras_bucketing.unpadding.graph import MeasuredRows
from keras_bucketing.unpadding.spans import (
    OneTimestep,
    Side,
    Span,
    extent_of,
    is_padding,
    padding_of,
    real_timesteps,
    show_mask_value,
)

_MAX_VALUES_OF_PART = 2**22  # of an array, so that what is computed on it stays small

# The first batches: enough rows for a verdict, few enough to keep, 32 MiB at most and less than one usually.
_MAX_BATCHES = 32
_MAX_ROWS = 1024  # of a sample
_ENOUGH_TIMESTEPS = 4096  # of one value under a mask, for certainty that they are padding
_MAX_VALUES_OF_SAMPLE = 2**16  # unless a single row has more


class RowSample:
    """Every n-th row of a padded leaf, at most 1,024, and whether all rows have the same amount of padding.

    The rows come from the whole data: as more arrive, n doubles.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._num_rows = 0
        self._num_values = 0
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []  # the numbers of rows, and the rows, of one padded length
        self._padding: int | None = None  # timesteps of the first row
        self._times: set[int] = set()
        self._are_alike = True

    def add(self, array: np.ndarray, lengths: Lengths) -> None:
        """Takes rows `(num_rows, time, *features)` and their lengths by `mask_value`."""
        if not self._are_alike or not len(array):
            return
        padding = array.shape[1] - lengths
        self._padding = int(padding[0]) if self._padding is None else self._padding
        if (padding != self._padding).any():
            self._are_alike, self._kept = False, []
            return
        self._times |= {array.shape[1]} if len(self._times) < 2 else set()
        numbers = self._num_rows + np.arange(len(array))
        self._num_rows += len(array)
        row_values = array[:1].size
        while (number := np.count_nonzero(numbers % self._stride == 0)) + self._count() > 1:
            num_values = number * row_values + self._num_values
            if number + self._count() <= _MAX_ROWS and num_values <= _MAX_VALUES_OF_PART:
                break
            kept, self._kept, self._num_values = self._kept, [], 0
            self._stride *= 2
            for part in kept:
                self._keep(*part)
        self._keep(numbers, array)

    def _keep(self, numbers: np.ndarray, array: np.ndarray) -> None:
        chosen = numbers % self._stride == 0
        if chosen.any():
            rows = _with_short_rows(array[chosen])  # a copy
            self._kept.append((numbers[chosen], rows))
            self._num_values += rows.size

    def _count(self) -> int:
        return sum(len(numbers) for numbers, _ in self._kept)

    def message(self, name: str, mask_value: Any) -> str | None:
        """The warning about a leaf, if its padding was not noticed."""
        if not self._are_alike or not self._kept:
            return None
        with tf.device("CPU:0"):
            runs = runs_like_padding([tf.constant(rows) for _, rows in self._kept])
        if runs is None:
            return None
        time = self._times.pop() if len(self._times) == 1 else None
        return unnoticed_message(name, mask_value, runs, None if time is None else time - (self._padding or 0))


def _with_short_rows(rows: np.ndarray) -> np.ndarray:
    """The rows without the middle of those that alone have more values than a part may."""
    half = max(_MAX_VALUES_OF_PART // max(rows[:1, :1].size, 1) // 2, 1)
    return rows if rows.shape[1] <= 2 * half else np.concatenate([rows[:, :half], rows[:, -half:]], axis=1)


def unnoticed_message(name: str, mask_value: Any, runs: ConstantRuns, timesteps: int | None = None) -> str:
    """The warning; `timesteps` is the length of all rows, if they have one."""
    length = "are equally long" if timesteps is None else f"have {timesteps} real timesteps"
    is_known = runs.value.dtype.kind in "biuf" and _is_mask_value(runs.value, mask_value)
    if is_known:
        fix = f'Pass padding="{"post" if runs.at_end else "pre"}", or leave `padding` out.'
    else:
        fix = suggest_mask_value(
            runs, 'Pad after normalizing, or give the real lengths: lengths=..., or in a dict `x` as "lengths".'
        )
    return (
        f"All rows of `{name}` {length} by mask_value={show_mask_value(mask_value)}, so that padding may count as "
        f"data. But {runs.describe()}, which looks like padding. {fix} If these timesteps are real, pass the lengths, "
        "or ignore this."
    )


def _is_mask_value(value: np.ndarray, mask_value: Any) -> bool:
    if isinstance(mask_value, np.ndarray):
        return mask_value.size == value.size and bool(
            is_padding(value.reshape(1, 1, *mask_value.shape), mask_value).all()
        )
    return bool(is_padding(value.reshape(1, 1, -1), mask_value).all())


def warn_of(messages: Iterable[str]) -> None:
    """Warns at the line of the caller outside this package."""
    for message in messages:
        warnings.warn(message, stacklevel=level_of_caller())


class UnderMask:
    """The values under a mask: refuses a mask that is True on padding, as PyTorch's key_padding_mask."""

    def __init__(self, label: str, name: str, checks_itself: bool = True):
        self._label, self._name, self._checks_itself = label, name, checks_itself
        self._real, self._rest = OneTimestep(), OneTimestep()
        self._num_real = 0

    @property
    def rest(self) -> OneTimestep:
        """The values that the mask calls padding."""
        return self._rest

    def add(self, array: np.ndarray, span: Span) -> None:
        """Adds rows of the leaf, and which of their timesteps the mask calls real."""
        self._num_real += int(span.lengths.sum())
        self._real.add_parts(real_timesteps(array, span))
        self._rest.add_parts(padding_of(array, span))
        if self._checks_itself and self._num_real >= _ENOUGH_TIMESTEPS:
            self.check()

    def check(self) -> None:
        """Raises a ValueError if all real values are one timestep, and the rest is not."""
        if self._real.value is not None and self._real.is_constant and not self._rest.is_constant:
            raise ValueError(
                f"`{self._label}` must be True where `{self._name}` is real. Received a mask under which all data is "
                f"{show(self._real.value.tolist())} and only the padding differs, as if it were True where the padding "
                "is. Pass its opposite, ~mask."
            )


class UnnoticedPaddingCheck:
    """Keeps some rows of the first batches, and warns once if they end or begin in what looks like padding.

    It also counts the rows of all batches that end and that begin in `mask_value`, and refuses uncertain lengths.

    Args:
        mask_value: The given value of padding.
        padding: The given end of padding, or None.
    """

    def __init__(self, mask_value: Any, padding: Side | None = None):
        self._mask_value, self._padding_side = mask_value, padding
        with tf.device("CPU:0"):
            # A table holds values of one shape only: hence serialized.
            self._samples = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
            self._padding = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
            self._masks = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
            self._runs = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=[0] * COUNTS)
        self._lock = threading.Lock()
        self._num_checked = 0  # samples, when they were looked at for the last time
        self._warned = False
        self._unnoticed: set[int] = set()  # leaves whose padding holds something else

    def sample(
        self, pass_number: tf.Tensor | int, index: tf.Tensor | int, leaves: list[tf.Tensor], measured: MeasuredRows
    ) -> tf.Tensor:
        """Keeps some rows of a batch, if it is one of the first of the first pass; in graph or eagerly.

        Passes are numbered from 1, batches from 0, int64 scalars. Leaves are `(batch, time, ...)`. Returns a scalar to
        wait for.
        """
        lengths = measured.lengths

        def keep() -> tf.Tensor:
            kept = []
            for number, leaf in enumerate(map(tf.convert_to_tensor, leaves)):
                key = tf.cast(index, tf.int64) * len(leaves) + number
                padding = tf.shape(leaf)[1] - lengths[number]
                rows = _sample(leaf)
                of_sample = [self._padding.insert(key, tf.io.serialize_tensor(padding))]
                if number in measured.is_under_mask:
                    mask = measured.is_under_mask[number][: tf.shape(rows)[0]]
                    of_sample.append(self._masks.insert(key, tf.io.serialize_tensor(mask)))
                # The sample comes last: whoever finds its key finds the rest, too. Passes are read in other threads.
                with tf.control_dependencies(_operations(of_sample)):
                    kept.append(self._samples.insert(key, tf.io.serialize_tensor(rows)))
            with tf.control_dependencies(_operations(kept)):
                return tf.constant(True)

        is_first = tf.logical_and(tf.equal(pass_number, 1), tf.less(index, _MAX_BATCHES))
        keys = self._keys_of_pass(pass_number, measured.counts.shape[0])
        counted = self._runs.insert(keys, self._runs.lookup(keys) + measured.counts)
        with tf.control_dependencies(_operations([counted])):
            return tf.cond(tf.logical_and(is_first, tf.size(lengths) > 0), keep, lambda: tf.constant(False))

    @staticmethod
    def _keys_of_pass(pass_number: tf.Tensor | int, num_counted: int) -> tf.Tensor:
        return tf.cast(pass_number, tf.int64) * num_counted + tf.range(num_counted, dtype=tf.int64)

    def refuse_uncertain(
        self, pass_number: int, evidence: Evidence | None, names: list[str], dtypes: list[tf.DType]
    ) -> list[int]:
        """Refuses figures of a pass if it is not certain what they count.

        Returns for each leaf the one whose lengths it has, as `Evidence.judge` does; `evidence` is None if no batch was
        measured.

        Raises:
            ValueError: If it is not certain.
        """
        if evidence is None:
            return []
        with self._lock:
            counts = self._runs.lookup(self._keys_of_pass(pass_number, evidence.num_counted)).numpy()
            try:
                owners = evidence.judge(counts, names, self._mask_value, self._padding_side, self._unnoticed)
            except ValueError:
                if not self._find_unnoticed(names, dtypes):
                    raise
                owners = evidence.judge(counts, names, self._mask_value, self._padding_side, self._unnoticed)
            rests: dict[Path, OneTimestep] = {}
            for number, mask in evidence.masked:
                path = ("x", *evidence.paths[number])
                under = self._under_mask(number, leaf_name(mask), names, dtypes)
                if dtypes[number] != tf.bool:
                    under.check()
                if path in evidence.table.shared:
                    rests[path] = under.rest
            check_shared_masks(rests, evidence.table.masks)
            return owners

    def _find_unnoticed(self, names: list[str], dtypes: list[tf.DType]) -> bool:
        """Whether there are more leaves than before with unnoticed padding: the warning is about these."""
        if self._unnoticed or self._warned:
            return False
        self._unnoticed = {
            number
            for number, (name, dtype) in enumerate(zip(names, dtypes, strict=True))
            if self._message(name, *self._kept(number, len(names), dtype)) is not None
        }
        return bool(self._unnoticed)

    def _under_mask(self, number: int, label: str, names: list[str], dtypes: list[tf.DType]) -> UnderMask:
        keys = self._keys_of_leaf(number, len(names))
        under = UnderMask(label, names[number], checks_itself=False)
        for sample, mask in zip(self._samples.lookup(keys), self._masks.lookup(keys), strict=True):
            if mask.numpy():
                rows = tf.io.parse_tensor(sample, dtypes[number]).numpy()
                is_real = tf.io.parse_tensor(mask, tf.bool).numpy()
                if is_real.shape == rows.shape[:2]:  # without gaps, or it would have been refused
                    extent = extent_of(is_real, lambda block: block)
                    under.add(rows, Span(extent.first, extent.stop, extent.time))
        return under

    def warn_once(self, names: list[str], dtypes: list[tf.DType]) -> None:
        """Warns, at the line of the caller outside this package, about unnoticed padding in one of the leaves."""
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
                    warn_of([message])
                    return

    def _kept(self, number: int, num_leaves: int, dtype: tf.DType) -> tuple[list[tf.Tensor], np.ndarray]:
        """The samples of a leaf, and the amount of padding of each row; none while its first batch is being kept."""
        keys = self._keys_of_leaf(number, num_leaves)
        samples = [tf.io.parse_tensor(entry, dtype) for entry in self._samples.lookup(keys)]
        padding = [tf.io.parse_tensor(entry, tf.int32).numpy() for entry in self._padding.lookup(keys)]
        return samples, np.concatenate([np.zeros(0, np.int32), *padding])

    def _keys_of_leaf(self, number: int, num_leaves: int) -> tf.Tensor:
        keys = self._samples.export()[0]
        return tf.sort(tf.boolean_mask(keys, keys % num_leaves == number))

    def _message(self, name: str, samples: list[tf.Tensor], padding: np.ndarray) -> str | None:
        samples = [sample for sample in samples if sample.shape.num_elements()]
        if (padding != padding[:1]).any():
            return None
        runs = runs_like_padding(samples)
        if runs is None:
            return None
        return unnoticed_message(name, self._mask_value, runs)


def _operations(operations: list[tf.Operation | None]) -> list[tf.Operation]:
    """Those that there are: eagerly, a table returns None."""
    return [operation for operation in operations if operation is not None]


def _sample(leaf: tf.Tensor) -> tf.Tensor:
    """Some rows of a batch, with all of their features."""
    values = tf.maximum(tf.reduce_prod(tf.shape(leaf)[1:]), 1)
    return leaf[: tf.maximum(_MAX_VALUES_OF_SAMPLE // values, 1)]


def level_of_caller() -> int:
    """The `stacklevel` of the nearest line outside this package, Keras and TensorFlow, such as a call of `fit`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("keras_bucketing", "keras", "tensorflow"):
            return level
        level, frame = level + 1, frame.f_back
    return 2


def suggest_mask_value(runs: ConstantRuns, without_a_number: str) -> str:
    """The advice to pass a `mask_value`, if one number fills the timesteps."""
    values = runs.value.reshape(-1).tolist()
    nan = 'float("nan")'
    if len(set(map(str, values))) == 1:
        value = values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]
        return f"Pass mask_value={show(value) if value == value else nan}."
    vector = show(values) if all(value == value for value in values) else "[...]"
    return (
        f"If it is a symbol of its own, pass mask_value={vector}. No number can be the padding, since its features "
        f"differ: was it normalized? {without_a_number}"
    )
