"""Any dataset of padded batches, made readable for `PaddingStatsCallback`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_bucketing.monitoring.batch_log import BatchLog
from keras_bucketing.planning.buckets import check_boundaries
from keras_bucketing.monitoring.monitored_py_dataset import MonitoredPyDataset
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.pass_counter import PassCounter, PassPosition
from keras_bucketing.monitoring.row_lengths import check_padding_of, row_lengths, sequence_paths


def monitor_padding(
    dataset: Any, mask_value: Any = 0, *, sequences: Any = None, bucket_boundaries: list[int] | None = None
) -> Any:
    """Lets a `PaddingStatsCallback` read the padding of a dataset that knows nothing of bucketing.

    The batches pass through unchanged. Wrap the finished dataset, after `.repeat()`, `.take()`,
    `.shuffle()` and the like, and give the result both to `fit` and to the callback.

    Lengths are read off the batches. In a dict with a one-dimensional integer entry "lengths", that entry is
    believed. Otherwise the padding of a row is its run of `mask_value` timesteps at the end, or at the
    beginning where more rows of the batch begin with `mask_value` than end with it; `mask_value` inside a
    sequence is data. Where `x` has several entries, those with a time axis of unknown size count, or those
    of rank 2 and more if there is none, and a row is as long as its longest.

    Args:
        dataset: A `tf.data.Dataset` of batches, `x`, `(x, y)` or `(x, y, sample_weight)`, or a
            `keras.utils.PyDataset` of them. The sequences have the shape `(batch, time)` or
            `(batch, time, ...)`, padded right or left.
        mask_value: What padding holds. Defaults to 0; `""` for strings; `nan` works too.
        sequences: Optional str or int, which entry of a dict or tuple `x` holds the sequences.
        bucket_boundaries: Optional list of ints as in `tf.data.Dataset.bucket_by_sequence_length`, to get
            figures for each bucket. Defaults to None: those of `dataset`, if it has any.

    Returns:
        A `tf.data.Dataset` or a `keras.utils.PyDataset` that yields the same batches. A `BucketedSequence` knows its
        padding already and comes back as it is. (In a dataset made from one, as by `.repeat()`, rows that spilled into
        a longer bucket and fill a batch there alone count for their own.)

    Raises:
        TypeError: If `dataset` is neither, or `mask_value` of another kind than the sequences.
        ValueError: If their dtype cannot hold `mask_value`, if no entry of `x`, or more than one, can be a batch of
            sequences, or if a `PyDataset` uses processes (`use_multiprocessing=True`), which cannot report to this one.

    Example:
    >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0, 0], [5, 0, 0, 0]]).batch(2)
    >>> monitored = monitor_padding(dataset)
    >>> [batch.shape for batch in monitored]
    [TensorShape([2, 4])]
    >>> stats = monitored.pass_stats(monitored.newest_pass(), start=0, stop=1)
    >>> stats.real_timesteps, stats.total_timesteps
    (3, 8)
    """
    if hasattr(dataset, "pass_stats") and hasattr(dataset, "newest_pass"):
        return dataset
    if bucket_boundaries is not None:
        bucket_boundaries = check_boundaries(bucket_boundaries)
    if isinstance(dataset, tf.data.Dataset):
        return MonitoredDataset(dataset, mask_value, sequences, bucket_boundaries)
    if isinstance(dataset, keras.utils.PyDataset):
        return MonitoredPyDataset(dataset, mask_value, sequences, bucket_boundaries)
    raise TypeError(
        "`dataset` cannot be monitored. Expected a tf.data.Dataset or a keras.utils.PyDataset of padded batches, "
        f"received {type(dataset).__name__}. Make one of arrays with tf.data.Dataset.from_tensor_slices((x, "
        "y)).shuffle(len(x)).batch(32)."
    )


class MonitoredDataset(tf.data.Dataset):
    """A `tf.data.Dataset` that writes down what it delivers; made by `monitor_padding`."""

    def __init__(self, dataset: tf.data.Dataset, mask_value: Any, sequences: Any, bucket_boundaries: list[int] | None):
        self._counter = PassCounter()
        self._log = BatchLog(bucket_boundaries)
        self._mask_value = mask_value
        self._paths = sequence_paths(_x_of(dataset.element_spec), sequences)
        check_padding_of(_x_of(dataset.element_spec), self._paths, mask_value)
        self._element_spec = dataset.element_spec
        no_pass = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        # `scan` hands its state from batch to batch of one pass, and keeps the cardinality.
        self._inner = dataset.scan(no_pass, self._record).prefetch(1)
        super().__init__(tf.data.experimental.to_variant(self._inner))

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._inner]

    @property
    def element_spec(self) -> Any:
        """The structure of the batches, as given."""
        return self._element_spec

    @property
    def num_batches(self) -> int | None:
        """Batches of a pass; None where that is unknown or infinite."""
        cardinality = int(self.cardinality())
        return cardinality if cardinality >= 0 else None

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""
        return self._counter.newest_pass()

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What was padded in some batches of a pass; what was read leaves the log.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.
        """
        return self._log.pass_stats(position, start, stop)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def _record(self, state: tuple[tf.Tensor, tf.Tensor], batch: Any) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
        pass_number, index = state
        pass_number = tf.cond(tf.equal(index, 0), self._begin_pass, lambda: pass_number)
        lengths, padded_length = row_lengths(_x_of(batch), self._paths, self._mask_value)
        with tf.control_dependencies([self._log.write(pass_number, index, lengths, padded_length)]):
            return (pass_number, tf.identity(index + 1)), batch

    def _begin_pass(self) -> tf.Tensor:
        number = self._counter.begin_pass()[0]
        with tf.control_dependencies([self._log.forget_old_passes(number)]):
            return tf.identity(number)


def _x_of(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element
