"""From the lengths of a window of a stream to its batches, in graph: a pure function of (lengths, seed, epoch, window).

    rows, shortest first     | bucket 0              | bucket 1       | bucket 2  |
    shuffled inside          | 4 9 2 7 0 5 8 15      | 1 11 3 6 12    | 10 13 14  |
    cut from the longest     | 4 9 2 [ 7 0 5 ][ 8 15 1 ][ 11 3 6 ][ 12 10 ][ 13 14 ]
    batches shuffled           wait  [ 11 3 6 ][ 13 14 ][ 7 0 5 ][ 12 10 ][ 8 15 1 ]

What does not fill a batch of a bucket is filled up with rows of the next shorter one, so that a window leaves no rare
length behind: the rows that wait for the next window are among its shortest. None of them waits twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_bucketing.planning.epoch_plan import shuffled


class BatchLimits(NamedTuple):
    """How many rows a batch of each bucket has.

    Attributes:
        rows: Int32 `(num_buckets,)`: rows, where a batch has no budget; next to a budget, the most rows.
        max_timesteps: Int, the most padded timesteps of a batch; None where there is no budget.
        multiple: Int, every batch has a multiple of so many rows.
    """

    rows: tf.Tensor
    max_timesteps: int | None
    multiple: int


class WindowPlan(NamedTuple):
    """The batches of a window.

    Attributes:
        order: Int32 `(num_rows,)`: the rows of the window; first those that wait, then by bucket, the shortest first.
        num_waiting: Int32 scalar: how many wait for the next window.
        starts: Int32 `(num_batches,)`: the position of each batch's first row in `order`.
        sizes: Int32 `(num_batches,)`: the rows of each batch.
        buckets: Int32 `(num_batches,)`: the bucket of each batch; no row of it belongs to a longer one.
    """

    order: tf.Tensor
    num_waiting: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor
    buckets: tf.Tensor


def plan_window(
    lengths: tf.Tensor,
    has_waited: tf.Tensor,
    boundaries: tf.Tensor,
    upper_lengths: tf.Tensor,
    limits: BatchLimits,
    key: tf.Tensor,
    stream: tf.Tensor,
    shuffle: bool,
) -> WindowPlan:
    """Plans the full batches of a window.

    Args:
        lengths: Int32 `(num_rows,)`: the padded length that each row needs.
        has_waited: Bool `(num_rows,)`: which rows come from the window before.
        boundaries: Int32 `(num_buckets - 1,)`, as `BucketedSequence.bucket_boundaries`.
        upper_lengths: Int32 `(num_buckets,)`: the length that batches of a bucket are padded to, which a budget counts;
            0 where that is the longest row that the bucket has in this window.
        limits: The rows of the batches.
        key: Uint64 `(1,)`, the seed.
        stream: Uint64 scalar, the random numbers of this window; the next one is used too.
        shuffle: Whether rows inside their bucket and batches are shuffled; if not, rows are sorted by length.
    """
    num_rows = tf.size(lengths)
    buckets = tf.searchsorted(boundaries, lengths, side="right")
    # Unique keys, since `tf.argsort` promises no order for equal ones.
    rank = shuffled(tf.range(num_rows), key, stream) if shuffle else tf.range(num_rows)
    keys = tf.cast(buckets if shuffle else lengths, tf.int64) * 2**32 + tf.cast(rank, tf.int64)
    order = tf.cast(tf.argsort(keys), tf.int32)

    num_buckets = tf.size(boundaries) + 1
    counts = tf.math.unsorted_segment_sum(tf.ones_like(lengths), buckets, num_buckets)
    longest = tf.maximum(tf.math.unsorted_segment_max(lengths, buckets, num_buckets), 1)
    rows = _rows_of_batches(counts, tf.maximum(longest, upper_lengths), limits)
    ends, num_batches = _cut_from_the_longest(counts, rows, num_rows)
    num_waiting = num_rows - tf.reduce_sum(num_batches * rows)
    order = _let_others_wait(order, tf.gather(has_waited, order), num_waiting)

    batch_buckets = tf.repeat(tf.range(num_buckets), num_batches)
    within = tf.range(tf.size(batch_buckets)) - tf.repeat(tf.cumsum(num_batches, exclusive=True), num_batches)
    sizes = tf.gather(rows, batch_buckets)
    starts = tf.gather(ends, batch_buckets) - (within + 1) * sizes
    batches = tf.range(tf.size(starts))
    batches = shuffled(batches, key, stream + tf.constant(1, tf.uint64)) if shuffle else tf.argsort(starts)
    return WindowPlan(order, num_waiting, *(tf.gather(part, batches) for part in (starts, sizes, batch_buckets)))


def _rows_of_batches(counts: tf.Tensor, padded_lengths: tf.Tensor, limits: BatchLimits) -> tf.Tensor:
    """Int32 `(num_buckets,)`: the rows of a full batch of each bucket."""
    if limits.max_timesteps is None:
        return limits.rows
    fitting = tf.cast(limits.max_timesteps // tf.cast(padded_lengths, tf.int64), tf.int64)
    fitting = fitting // limits.multiple * limits.multiple
    too_long = (counts > 0) & (fitting < limits.multiple)
    needed = tf.reduce_max(tf.where(too_long, padded_lengths, 0)) * limits.multiple
    message = (
        "`max_timesteps_per_batch` must hold every sequence, "
        f"{limits.multiple} of them with batch_size_multiple. Raise it, or cut long sequences with maxlen. Received "
        f"{limits.max_timesteps}, expected at least"
    )
    with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(too_long), [message, needed])]):
        rows = tf.minimum(tf.maximum(fitting, limits.multiple), tf.cast(limits.rows, tf.int64))
        return tf.cast(rows, tf.int32)


def _cut_from_the_longest(counts: tf.Tensor, rows: tf.Tensor, num_rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the batches of each bucket end among the ordered rows, and how many there are: int32 `(num_buckets,)`.

    Each bucket takes as many batches as hold its rows, and fills them up with the longest rows below. Where there are
    too few of these, one batch less; what is left is less than a batch, and nothing below can make one.
    """
    begins_of_buckets = tf.cumsum(counts, exclusive=True)
    num_buckets = tf.size(counts)

    def cut(step: tf.Tensor, end: tf.Tensor, ends: tf.TensorArray, num_batches: tf.TensorArray) -> tuple[Any, ...]:
        bucket = num_buckets - 1 - step
        size = rows[bucket]
        wanted = -(-tf.maximum(end - begins_of_buckets[bucket], 0) // size)
        taken = tf.minimum(wanted, end // size)
        rest = end - taken * size
        is_last = taken < wanted
        ends, num_batches = ends.write(bucket, end), num_batches.write(bucket, taken)
        return tf.where(is_last, num_buckets, step + 1), rest, ends, num_batches

    ends, num_batches = (tf.TensorArray(tf.int32, num_buckets, clear_after_read=False) for _ in range(2))
    _, _, ends, num_batches = tf.while_loop(
        lambda step, *_: step < num_buckets, cut, (tf.constant(0), num_rows, ends, num_batches)
    )
    return tf.ensure_shape(ends.stack(), [None]), tf.ensure_shape(num_batches.stack(), [None])


def _let_others_wait(order: tf.Tensor, has_waited: tf.Tensor, num_waiting: tf.Tensor) -> tf.Tensor:
    """Moves the first `num_waiting` rows that have not waited to the front; the last window may have too few of them.

    All others keep their order, so that they only move towards batches of longer buckets, which may hold them.
    """
    waits = _first(~has_waited, num_waiting)
    waits |= _first(has_waited, num_waiting - tf.reduce_sum(tf.cast(waits, tf.int32)))
    return tf.concat([tf.boolean_mask(order, waits), tf.boolean_mask(order, ~waits)], 0)


def _first(mask: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """The first `number` True entries of a mask."""
    return mask & (tf.cumsum(tf.cast(mask, tf.int32)) <= number)
