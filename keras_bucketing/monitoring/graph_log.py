"""The log of delivered batches, written in graph and read by those who know which of them were consumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.monitoring.batch_log import entry_of_batch, stats_of_entries
from keras_bucketing.monitoring.pass_log import LogEntry, PassLog
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import outside_of_scopes

_PASS_SHIFT = 32  # an entry's key: pass number << 32 | index in the pass


def _key_of(number: int, index: int) -> int:
    """The key of a batch of a pass."""
    return (number << _PASS_SHIFT) + index


def _parsed(entry: bytes) -> LogEntry:
    parsed: LogEntry = tf.io.parse_tensor(entry, tf.int32).numpy()
    return parsed


class BatchLog(PassLog):
    """Remembers the lengths of each delivered batch until they are read; written in graph.

    A running total would count what was prefetched, so every batch has its own entry.

    Args:
        names: What statistics call the leaves of a batch.
        bucket_boundaries: Optional list of ints, to tell the bucket of a batch from its padded length; may be replaced.
        is_endless: Whether a pass has no end, or its figures as a whole are not asked for.
        find_owners: Function that returns the leaf whose lengths each leaf has, or none where each has its own.
        num_kept: As in `PassLog`.
    """

    def __init__(
        self,
        names: list[str],
        bucket_boundaries: list[int] | None,
        is_endless: bool,
        find_owners: Callable[[], list[int]] = list,
        num_kept: int | None = None,
    ):
        super().__init__(num_kept)
        self._names = names
        self.bucket_boundaries = bucket_boundaries
        self._is_endless, self._find_owners = is_endless, find_owners
        self._finished = outside_of_scopes(lambda: tf.Variable(0, dtype=tf.int64, trainable=False, name="finished"))
        self._finished_stats = (0, PaddingStats())  # of the pass of that number
        with tf.device("CPU:0"):
            # A table holds values of one shape only, batches have as many lengths as rows: hence serialized.
            self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
        self._kept: dict[int, LogEntry] = {}  # by key, what the last question was about
        self._remembered: dict[int, dict[int, LogEntry]] = {}  # by pass and key, for the figures of whole passes

    # In graph.

    def write(
        self, pass_number: tf.Tensor, index: tf.Tensor, lengths: tf.Tensor, padded_lengths: tf.Tensor
    ) -> tf.Operation:
        """Notes a batch, with the lengths of its leaves as `row_lengths` returns them."""
        key = tf.bitwise.left_shift(pass_number, tf.constant(_PASS_SHIFT, tf.int64)) + index
        return self._table.insert(key, tf.io.serialize_tensor(entry_of_batch(lengths, padded_lengths)))

    def add_up_now_and_then(self, pass_number: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """As `add_up`, for each batch of a pass; it calls Python now and then."""

        def add_up(number: np.int64, num_batches: np.int64) -> np.int64:
            self.add_up(int(number), int(num_batches))
            return np.int64(0)

        return tf.cond(
            tf.equal(index % self._added_at_once, 0),
            lambda: tf.numpy_function(add_up, [pass_number, index], tf.int64),
            lambda: tf.constant(0, tf.int64),
        )

    def forget_old_passes(self, newest_pass: tf.Tensor) -> tf.Tensor:
        """Drops passes where too much was never read. Returns how many entries.

        The newest two passes stay, and the one that was finished last.
        """

        def forget() -> tf.Tensor:
            keys = tf.reshape(self._table.export()[0], [-1])
            oldest_kept = tf.bitwise.left_shift(newest_pass - 1, tf.constant(_PASS_SHIFT, tf.int64))
            is_finished = tf.equal(tf.bitwise.right_shift(keys, tf.constant(_PASS_SHIFT, tf.int64)), self._finished)
            old = tf.boolean_mask(keys, tf.logical_and(keys < oldest_kept, tf.logical_not(is_finished)))
            with tf.control_dependencies([self._table.remove(old)]):
                return tf.size(old, tf.int64)

        return tf.cond(self._table.size() > self._num_kept, forget, lambda: tf.constant(0, tf.int64))

    def finish(self, number: tf.Tensor) -> tf.Tensor:
        """Notes that a pass is finished. Returns its number."""
        with tf.control_dependencies([self._finished.assign(number, read_value=False)]):
            return tf.identity(number)

    # In Python.

    def finished_stats(self) -> PaddingStats:
        """The figures of the pass that was finished last; those of no batch before the first."""
        with self._lock:
            number = int(self._finished.numpy())
            if number != self._finished_stats[0]:
                unread = self._take_out(self._keys(number, 0, 1 << _PASS_SHIFT), forgets=False)
                entries = {**self._remembered.get(number, {}), **unread}
                whole = self._sum_of(number)[1] + self._stats([entries[key] for key in sorted(entries)])
                self._finished_stats = number, whole
            return self._finished_stats[1]

    def _stats(self, entries: list[LogEntry]) -> PaddingStats:
        if not entries:
            return PaddingStats()
        return stats_of_entries(entries, self._names, self.bucket_boundaries, self._find_owners())

    def _read(self, number: int, start: int, stop: int) -> list[LogEntry]:
        """What is read leaves the table; it can be read again until batches after it are."""
        end_of_pass, stop = _key_of(number + 1, 0), min(stop, 1 << _PASS_SHIFT)
        if start < stop:
            self._kept = {k: entry for k, entry in self._kept.items() if _key_of(number, start) <= k < end_of_pass}
        read = self._take_out(self._keys(number, start, stop))
        self._kept |= read
        if not self._is_endless:
            self._remembered.setdefault(number, {}).update(read)
            self._remembered = self._newest_of(self._remembered)
        return [self._kept[key] for key in sorted(self._kept) if key < _key_of(number, stop)] if start < stop else []

    def _take(self, number: int, start: int, stop: int) -> list[LogEntry]:
        taken = self._take_out(self._keys(number, start, stop))
        remembered, end = self._remembered.get(number, {}), _key_of(number, stop)
        taken |= {key: remembered.pop(key) for key in [key for key in remembered if key < end]}
        return [taken[key] for key in sorted(taken)]

    def _keys(self, number: int, start: int, stop: int) -> Sequence[int]:
        """The keys of batches of a pass; where these are more than the table has, only those that it has."""
        keys = range(_key_of(number, start), _key_of(number, stop))
        if len(keys) <= int(self._table.size()):
            return keys
        return [key for key in self._table.export()[0].numpy().reshape(-1).tolist() if key in keys]

    def _take_out(self, keys: Sequence[int], forgets: bool = True) -> dict[int, LogEntry]:
        """Takes entries out of the table, as far as it has them."""
        wanted = tf.constant(keys, tf.int64)
        found = self._table.lookup(wanted).numpy()
        if forgets:
            self._table.remove(wanted)
        return {key: _parsed(entry) for key, entry in zip(keys, found, strict=True) if entry}

    def _num_remembered(self, number: int) -> int:
        return len(self._remembered.get(number, {}))

    def _newest_of(self, of_passes: dict[int, Any]) -> dict[int, Any]:
        """What belongs to the newest passes, and to the one that was finished last."""
        finished = int(self._finished.numpy())
        kept = {finished: of_passes[finished]} if finished in of_passes else {}
        return kept | super()._newest_of(of_passes)
