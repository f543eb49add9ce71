"""Row indices to one padded batch through a function that loads rows, in several threads at once."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_bucketing.data.arrays import aligned_empty, host_tensor
from keras_bucketing.data.loader import Loaded, Loader, LoadError

_QUIET_SECONDS = 0.05  # after which no prefetching thread is about to call
_PATIENCE_SECONDS = 10.0


class PendingCalls:
    """Counts calls, and makes the interpreter wait for them before it ends.

    If a thread of TensorFlow is in Python, or waits for it, when the interpreter ends, it never returns (`take_gil` in
    CPython's ceval_gil.h ends it). Its iterator then waits for it when it is deleted, and the process hangs, as a
    program did every few runs that left a loop over the batches early. Python joins the threads that load first; each
    batch that is still to be prefetched then fails at once, and this waits for the last of them.

    Example:
        >>> calls = PendingCalls()
        >>> with calls.track():
        ...     calls.num_running
        1
        >>> calls.wait()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_running = 0
        self._num_begun = 0

    @contextmanager
    def track(self) -> Iterator[None]:
        """A call, from its beginning to its end."""
        with self._lock:
            if not self._num_begun:
                atexit.register(self.wait)
            self._num_begun += 1
            self.num_running += 1
        try:
            yield
        finally:
            with self._lock:
                self.num_running -= 1

    def wait(self) -> None:
        """Waits until no call runs and none has begun for a moment."""
        now = quiet_since = time.monotonic()
        give_up, num_begun = now + _PATIENCE_SECONDS, self._num_begun
        while now < min(quiet_since + _QUIET_SECONDS, give_up):
            time.sleep(_QUIET_SECONDS / 10)
            now = time.monotonic()
            if self.num_running or self._num_begun != num_begun:
                quiet_since, num_begun = now, self._num_begun


_calls = PendingCalls()


class Batch(Protocol):
    """The part of a batch that a table needs.

    Attributes:
        rows: Int32 tensor, the rows to gather.
        all_rows: Int32 tensor, the rows of all shards, which set the padded length.
        epoch: Int64 scalar, the epoch for functions that take it.
        loaded: The loaded data of this batch, by the object that loads them.
    """

    rows: tf.Tensor
    all_rows: tf.Tensor
    epoch: tf.Tensor | int
    loaded: dict[Any, list[tf.Tensor]]

    def padded_to(self, column: int) -> tf.Tensor:
        """The minimum padded length of a leaf."""


class LoadedTable:
    """One sequence per row, padded to the length given by the announced lengths, whatever lengths are loaded.

    Args:
        row_loader: Loads this leaf, and those that come with it.
        leaf: The rows.
        padding_value: Number that fills up the sequences.
        column: The index of this leaf among a batch's minimum padded lengths.
    """

    def __init__(self, row_loader: RowLoader, leaf: Loaded, padding_value: Any, column: int):
        self._row_loader = row_loader
        self._position = row_loader.add(leaf, padding_value, column)
        self._shape = [None, None, *leaf.leaf.feature_shape]
        self.leaf = leaf

    def fingerprint_bytes(self) -> Iterator[bytes]:
        """The bytes that identify these rows: dtype, features and lengths; nothing is loaded."""
        leaf = self.leaf
        yield f"{leaf.dtype.name}{leaf.leaf.feature_shape}{leaf.loader.length_tolerance}{leaf.truncating}".encode()
        for array in (leaf.rows, leaf.lengths, leaf.announced):
            yield array.astype(np.int64).tobytes()

    def gather(self, batch: Batch) -> tf.Tensor:
        """The padded sequences `(batch, time, *features)`."""
        return tf.ensure_shape(self._row_loader.outputs(batch)[self._position], self._shape)


class LoadedLengthsTable:
    """The length of each row as loaded and truncated: that of the longest, if there are several leaves.

    Args:
        row_loader: Loads the leaves.
        leaves: The leaves whose lengths count; each has a table already.
    """

    def __init__(self, row_loader: RowLoader, leaves: list[Loaded]):
        self._row_loader = row_loader
        self._positions = [row_loader.position_of(leaf) for leaf in leaves]

    def gather(self, batch: Batch) -> tf.Tensor:
        """Int32 `(batch,)`."""
        lengths = tf.gather(self._row_loader.outputs(batch)[-1], self._positions)
        return tf.ensure_shape(tf.reduce_max(lengths, axis=0), [None])


@dataclass(frozen=True)
class _Part:
    """One of the sequences of a row.

    Attributes:
        leaf: Its leaf.
        index: Its index in the result of the loader.
        lengths: Int64 array `(num_rows,)`: the maximum timesteps of a row in a batch.
        lengths_tensor: The same, in graph.
        padding: The padding value.
        column: Its index among a batch's minimum padded lengths.
    """

    leaf: Loaded
    index: int
    lengths: np.ndarray
    lengths_tensor: tf.Tensor
    padding: np.generic
    column: int

    def padded_length(self, batch: Batch) -> tf.Tensor:
        """The padded length from announced lengths, since no shard loads the rows of another; in graph."""
        longest = tf.reduce_max(tf.gather(self.lengths_tensor, batch.all_rows))
        return tf.maximum(longest, batch.padded_to(self.column))

    def empty_batch(self, num_rows: int, padded_length: int) -> np.ndarray:
        """A batch of padding only."""
        shape = (num_rows, padded_length, *self.leaf.leaf.feature_shape)
        batch = aligned_empty(shape, self.leaf.values.dtype)
        batch[...] = self.padding
        return batch

    def cut(self, sequence: np.ndarray, row: int) -> np.ndarray:
        """A loaded sequence, cut to the room that a batch has for it."""
        excess = max(len(sequence) - int(self.lengths[row]), 0)
        return sequence[excess:] if self.leaf.truncating == "pre" else sequence[: len(sequence) - excess]


class RowLoader:
    """Loads the rows of a batch, all sequences of a row at once, in separate threads.

    TensorFlow keeps every function that `tf.numpy_function` has ever been given (script_ops.py adds it to the outermost
    graph, which lives as long as the process). So it gets one that refers to this object only weakly: the dataset holds
    this object, and frees it, together with the user's function and its data, when it is deleted.
    """

    def __init__(self, loader: Loader):
        self._loader = loader
        self._parts: list[_Part] = []
        self._threads = ThreadPoolExecutor(loader.num_parallel_loads, "load")  # starts them when they are needed

    def add(self, leaf: Loaded, padding_value: Any, column: int) -> int:
        """Adds one of the sequences of a row; returns its position among the outputs."""
        lengths = leaf.lengths
        index = self._loader.leaves.index(leaf.leaf)
        padding = leaf.values.dtype.type(padding_value)
        part = _Part(leaf, index, lengths, host_tensor(lengths.astype(np.int32)), padding, column)
        self._parts.append(part)
        return len(self._parts) - 1

    def position_of(self, leaf: Loaded) -> int:
        """The position of a leaf that was added."""
        return next(position for position, part in enumerate(self._parts) if part.leaf is leaf)

    def outputs(self, batch: Batch) -> list[tf.Tensor]:
        """The padded sequences of each leaf, and the lengths `(num_leaves, batch)`; in graph, once for a batch."""
        if self not in batch.loaded:
            padded_lengths = tf.stack([part.padded_length(batch) for part in self._parts])
            dtypes = [*(part.leaf.values.dtype for part in self._parts), tf.int32]
            inputs = [batch.rows, padded_lengths, tf.cast(batch.epoch, tf.int64)]
            batch.loaded[self] = tf.numpy_function(_make_weak_loader(self), inputs, dtypes)
        return batch.loaded[self]

    def load_batch(self, rows: np.ndarray, padded_lengths: np.ndarray, epoch: int) -> list[np.ndarray]:
        """Loads and pads a batch; NumPy.

        Args:
            rows: Int array `(num_rows,)`.
            padded_lengths: Int array `(num_leaves,)`.
            epoch: Int, the epoch of the batch.

        Returns:
            The padded sequences of each leaf, and the lengths, int32 `(num_leaves, num_rows)`.

        Raises:
            LoadError: If a row cannot be loaded: the first such row of the batch, whichever thread fails first.
        """
        parts = zip(self._parts, padded_lengths.tolist(), strict=True)
        padded = [part.empty_batch(len(rows), length) for part, length in parts]
        lengths = np.empty((len(padded), len(rows)), np.int32)
        loads = [
            self._threads.submit(self._load_row, row, epoch, [batch[at] for batch in padded], lengths[:, at])
            for at, row in enumerate(rows.tolist())
        ]
        try:
            for load in loads:
                load.result()
        finally:
            for load in loads:
                load.cancel()
        return [*padded, lengths]

    def _load_row(self, row: int, epoch: int, padded: list[np.ndarray], lengths: np.ndarray) -> None:
        """Loads one row into its place in the batch."""
        if not any(part.leaf.announced[row] for part in self._parts):  # on_empty="keep"
            lengths[:] = 1
            return
        given_row = int(self._parts[0].leaf.rows[row])
        sequences = self._loader.read(given_row, epoch)
        for position, part in enumerate(self._parts):
            sequence = sequences[part.index]
            self._loader.check_length(part.leaf.leaf, given_row, len(sequence), int(part.leaf.announced[row]))
            sequence = part.cut(sequence, row)
            padded[position][: len(sequence)] = sequence
            lengths[position] = max(len(sequence), 1)


def _make_weak_loader(row_loader: RowLoader) -> Callable[[np.ndarray, np.ndarray, np.ndarray], list[np.ndarray]]:
    known_weakly = weakref.ref(row_loader)

    def load_batch(rows: np.ndarray, padded_lengths: np.ndarray, epoch: np.ndarray) -> list[np.ndarray]:
        row_loader = known_weakly()
        if row_loader is None:
            raise LoadError("The BucketedSequence that loads these rows no longer exists. Keep a reference to it.")
        with _calls.track():
            return row_loader.load_batch(rows, padded_lengths, int(epoch))

    return load_batch
