"""The in-graph record of delivered batches, read by whoever knows which of them were consumed."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_bucketing.inputs.row_splits import row_splits_of
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.pass_counter import PassPosition

# A dataset that is iterated without a callback would fill its log for ever. This many entries are a few megabytes and
# far more than the batches which can be waiting to be read.
MOST_UNREAD_BATCHES = 65536

_PASS_SHIFT = 32  # an entry's key: pass number << 32 | index in the pass


class BatchLog:
    """Remembers the lengths of each delivered batch until they are read.

    A running total would count what was prefetched, so every batch has its own entry.

    Args:
        names: What statistics call the leaves of a batch.
        bucket_boundaries: Optional list of ints, to tell the bucket of a batch from its padded length.
    """

    def __init__(self, names: list[str], bucket_boundaries: list[int] | None):
        self._names = names
        self._bucket_boundaries = bucket_boundaries
        with tf.device("CPU:0"):
            # A table holds values of one shape only, batches have as many lengths as rows: hence serialized.
            self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
        self._kept: dict[int, np.ndarray] = {}

    def write(
        self, pass_number: tf.Tensor, index: tf.Tensor, lengths: tf.Tensor, padded_lengths: tf.Tensor
    ) -> tf.Operation:
        """Notes a batch, with the lengths of its leaves as `row_lengths` returns them; in graph."""
        key = tf.bitwise.left_shift(pass_number, tf.constant(_PASS_SHIFT, tf.int64)) + index
        entry = tf.io.serialize_tensor(entry_of_batch(lengths, padded_lengths))
        return self._table.insert(key, entry)

    def forget_old_passes(self, newest_pass: tf.Tensor) -> tf.Tensor:
        """Drops all but the newest two passes where too much was never read; in graph. Returns how many entries."""

        def forget() -> tf.Tensor:
            keys = tf.reshape(self._table.export()[0], [-1])
            oldest_kept = tf.bitwise.left_shift(newest_pass - 1, tf.constant(_PASS_SHIFT, tf.int64))
            old = tf.boolean_mask(keys, keys < oldest_kept)
            with tf.control_dependencies([self._table.remove(old)]):
                return tf.size(old, tf.int64)

        return tf.cond(self._table.size() > MOST_UNREAD_BATCHES, forget, lambda: tf.constant(0, tf.int64))

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded, as far as they were delivered.

        What was read leaves the log; it can be asked for again until batches after it are.
        """
        first = position.number << _PASS_SHIFT
        entries = self._read(list(range(first + start, first + stop)))
        return stats_of_entries(entries, self._names, self._bucket_boundaries)

    def _read(self, keys: list[int]) -> list[np.ndarray]:
        if not keys:
            return []
        end_of_pass = ((keys[0] >> _PASS_SHIFT) + 1) << _PASS_SHIFT
        self._kept = {key: entry for key, entry in self._kept.items() if keys[0] <= key < end_of_pass}
        unread = [key for key in keys if key not in self._kept]
        found = self._table.lookup(tf.constant(unread, tf.int64))
        self._table.remove(tf.constant(unread, tf.int64))
        for key, entry in zip(unread, found.numpy(), strict=True):
            if entry:
                self._kept[key] = tf.io.parse_tensor(entry, tf.int32).numpy()
        return [self._kept[key] for key in keys if key in self._kept]


def entry_of_batch(lengths: tf.Tensor, padded_lengths: tf.Tensor) -> tf.Tensor:
    """Int32 `(num_leaves, 1 + rows)`: the padded length of each leaf and the lengths of its rows."""
    return tf.concat([padded_lengths[:, tf.newaxis], lengths], axis=1)


def stats_of_entries(entries: list[np.ndarray], names: list[str], bucket_boundaries: list[int] | None) -> PaddingStats:
    """What was padded in batches, from what `entry_of_batch` made of each of them."""
    if not entries:
        return PaddingStats()
    padded_lengths = np.stack([entry[:, 0] for entry in entries], axis=1)
    # No batch is padded beyond its bucket, so its padded length tells the bucket even where shorter rows spilled.
    buckets = None
    if bucket_boundaries is not None:
        buckets = np.searchsorted(bucket_boundaries, padded_lengths.max(axis=0), side="right")
    return PaddingStats.from_leaves(
        dict(zip(names, np.concatenate([entry[:, 1:] for entry in entries], axis=1), strict=True)),
        row_splits_of(np.array([entry.shape[1] - 1 for entry in entries])),
        dict(zip(names, padded_lengths, strict=True)),
        buckets=buckets,
    )
