"""The log of delivered batches, written in graph and read by those who know which of them were consumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.monitoring.batch_log import KEPT_PASSES, LogEntry, entry_of_batch, stats_of_entries
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition, outside_of_scopes

# A dataset that is iterated without a callback would fill its log for ever. This many entries are a few megabytes and
# far more than the batches which can be waiting to be read.
MAX_UNREAD_BATCHES = 65536
_PASS_SHIFT = 32  # an entry's key: pass number << 32 | index in the pass


def key_of(number: int, index: int) -> int:
    """The key of a batch of a pass."""
    return (number << _PASS_SHIFT) + index


def _parsed(entry: bytes) -> LogEntry:
    parsed: LogEntry = tf.io.parse_tensor(entry, tf.int32).numpy()
    return parsed


class BatchLog:
    """Remembers the lengths of each delivered batch until they are read; written in graph.

    A running total would count what was prefetched, so every batch has its own entry.

    Args:
        names: What statistics call the leaves of a batch.
        bucket_boundaries: Optional list of ints, to tell the bucket of a batch from its padded length; may be replaced.
        is_endless: Whether a pass has no end, or its figures as a whole are not asked for.
        forgets_unasked: Whether a pass that is not asked about keeps its newest batches only; `expect_questions` says
            which ones are.
        adds_up: Function that returns the leaf whose lengths each leaf has, for a pass of unknown length: if it is not
            asked about, all batches but the newest are added up, for its figures as a whole. None: they are kept.
    """

    def __init__(
        self,
        names: list[str],
        bucket_boundaries: list[int] | None,
        is_endless: bool,
        forgets_unasked: bool = False,
        adds_up: Callable[[], list[int]] | None = None,
    ):
        self._names = names
        self.bucket_boundaries = bucket_boundaries
        self._is_endless = is_endless
        self._finished = outside_of_scopes(lambda: tf.Variable(0, dtype=tf.int64, trainable=False, name="finished"))
        self._finished_stats = (0, PaddingStats())  # of the pass of that number
        self._last_asked: tf.Variable | None = None  # the newest pass that is asked about
        self._adds_up = adds_up
        self._added_up: dict[int, PaddingStats] = {}  # by pass, what is not in the log any more
        if forgets_unasked or adds_up is not None:
            self._last_asked = outside_of_scopes(lambda: tf.Variable(0, dtype=tf.int64, trainable=False, name="asked"))
        self._read_entries: dict[int, dict[int, LogEntry]] = {}  # by pass and key, for the figures of whole passes
        with tf.device("CPU:0"):
            # A table holds values of one shape only, batches have as many lengths as rows: hence serialized.
            self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
        self._kept: dict[int, LogEntry] = {}

    def write(
        self, pass_number: tf.Tensor, index: tf.Tensor, lengths: tf.Tensor, padded_lengths: tf.Tensor
    ) -> tf.Operation:
        """Notes a batch, with the lengths of its leaves as `row_lengths` returns them; in graph."""
        key = tf.bitwise.left_shift(pass_number, tf.constant(_PASS_SHIFT, tf.int64)) + index
        entry = tf.io.serialize_tensor(entry_of_batch(lengths, padded_lengths))
        written = self._table.insert(key, entry)
        if self._last_asked is None:
            return written
        is_forgotten = (pass_number > self._last_asked.read_value()) & (index >= MAX_UNREAD_BATCHES)
        with tf.control_dependencies([written]):
            if self._adds_up is not None:
                is_forgotten &= tf.equal(index % MAX_UNREAD_BATCHES, 0)
                stop = index - MAX_UNREAD_BATCHES
                return tf.cond(
                    is_forgotten,
                    lambda: tf.numpy_function(self._add_up_table, [pass_number, stop], tf.int64),
                    lambda: tf.constant(0, tf.int64),
                )
            return self._table.remove(
                tf.where(is_forgotten, key - MAX_UNREAD_BATCHES, tf.constant(-1, tf.int64))[tf.newaxis]
            )

    def _add_up_table(self, number: np.int64, stop: np.int64) -> np.int64:
        """Adds up the unread batches before `stop` of a pass, and removes them from the log."""
        start = max(int(stop) - MAX_UNREAD_BATCHES, 0)
        taken = self._take(range(key_of(int(number), start), key_of(int(number), int(stop))))
        self._add_up(int(number), list(taken.values()), self._adds_up() if self._adds_up is not None else [])
        return np.int64(0)

    def _take(self, keys: Sequence[int]) -> dict[int, LogEntry]:
        """Takes entries out of the table, as far as it has them."""
        wanted = tf.constant(keys, tf.int64)
        found = self._table.lookup(wanted).numpy()
        self._table.remove(wanted)
        return {key: _parsed(entry) for key, entry in zip(keys, found, strict=True) if entry}

    def _add_up(self, number: int, entries: list[LogEntry], owners: list[int] | None) -> None:
        stats = stats_of_entries(entries, self._names, self.bucket_boundaries, owners)
        self._added_up[number] = self._added_up.get(number, PaddingStats()) + stats
        self._added_up = self._newest_of(self._added_up)

    def _newest_of(self, of_passes: dict[int, Any]) -> dict[int, Any]:
        """What belongs to the newest passes, and to the one that was finished last."""
        newest = {*sorted(of_passes)[-KEPT_PASSES:], int(self._finished.numpy())}
        return {number: kept for number, kept in of_passes.items() if number in newest}

    def expect_questions(self, newest_pass: int) -> None:
        """Keeps all batches of that pass and the next one, since their figures may be asked for."""
        if self._last_asked is not None:
            self._last_asked.assign(newest_pass + 1)

    def forget_old_passes(self, newest_pass: tf.Tensor) -> tf.Tensor:
        """Drops passes where too much was never read; in graph. Returns how many entries.

        The newest two passes stay, and the one that was finished last.
        """

        def forget() -> tf.Tensor:
            keys = tf.reshape(self._table.export()[0], [-1])
            oldest_kept = tf.bitwise.left_shift(newest_pass - 1, tf.constant(_PASS_SHIFT, tf.int64))
            is_finished = tf.equal(tf.bitwise.right_shift(keys, tf.constant(_PASS_SHIFT, tf.int64)), self._finished)
            old = tf.boolean_mask(keys, tf.logical_and(keys < oldest_kept, tf.logical_not(is_finished)))
            with tf.control_dependencies([self._table.remove(old)]):
                return tf.size(old, tf.int64)

        return tf.cond(self._table.size() > MAX_UNREAD_BATCHES, forget, lambda: tf.constant(0, tf.int64))

    def finish(self, number: tf.Tensor) -> tf.Tensor:
        """Notes that a pass is finished; in graph. Returns its number."""
        with tf.control_dependencies([self._finished.assign(number, read_value=False)]):
            return tf.identity(number)

    def finished_stats(self, owners: list[int] | None = None) -> PaddingStats:
        """The figures of the pass that was finished last; those of no batch before the first."""
        number = int(self._finished.numpy())
        if number != self._finished_stats[0]:
            keys, values = (part.numpy() for part in self._table.export())
            unread = {
                int(key): _parsed(value)
                for key, value in zip(keys.reshape(-1), values.reshape(-1), strict=True)
                if key >> _PASS_SHIFT == number
            }
            entries = {**self._read_entries.get(number, {}), **unread}
            ordered = [entries[key] for key in sorted(entries)]
            whole = stats_of_entries(ordered, self._names, self.bucket_boundaries, owners)
            self._finished_stats = number, self._added_up[number] + whole if number in self._added_up else whole
        return self._finished_stats[1]

    def pass_stats(
        self, position: PassPosition, start: int, stop: int, owners: list[int] | None = None
    ) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded, as far as they were delivered.

        What was read leaves the log; it can be asked for again until batches after it are.
        """
        keys = list(range(key_of(position.number, start), key_of(position.number, stop)))
        entries = self._read(keys, owners)
        return stats_of_entries(entries, self._names, self.bucket_boundaries, owners)

    def _read(self, keys: list[int], owners: list[int] | None) -> list[LogEntry]:
        if not keys:
            return []
        end_of_pass = key_of((keys[0] >> _PASS_SHIFT) + 1, 0)
        self._kept = {key: entry for key, entry in self._kept.items() if keys[0] <= key < end_of_pass}
        read = self._take([key for key in keys if key not in self._kept])
        self._kept |= read
        self._remember(keys[0] >> _PASS_SHIFT, read, owners)
        return [self._kept[key] for key in keys if key in self._kept]

    def _remember(self, number: int, entries: dict[int, LogEntry], owners: list[int] | None) -> None:
        """Keeps what was read of a pass until a later one is finished, for its figures as a whole."""
        if self._is_endless:
            return
        remembered = self._read_entries.setdefault(number, {})
        remembered.update(entries)
        if len(remembered) > 2 * MAX_UNREAD_BATCHES:
            oldest = sorted(remembered)[:-MAX_UNREAD_BATCHES]
            self._add_up(number, [remembered.pop(key) for key in oldest], owners)
        self._read_entries = self._newest_of(self._read_entries)
