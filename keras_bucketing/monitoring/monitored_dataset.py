"""A `tf.data.Dataset` that writes down what it delivers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_bucketing.monitoring.batch_log import BatchLog
from keras_bucketing.monitoring.padding_watch import PaddingWatch
from keras_bucketing.monitoring.row_lengths import check_padding_of, entry_name, leaves_at, row_lengths, sequence_paths
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.as_it_is import as_it_is
from keras_bucketing.pipeline.pass_counter import PassCounter, PassPosition


class MonitoredDataset(tf.data.Dataset):
    """A `tf.data.Dataset` that writes down what it delivers; made by `monitor_padding`."""

    def __init__(self, dataset: tf.data.Dataset, mask_value: Any, sequences: Any, bucket_boundaries: list[int] | None):
        self._counter = PassCounter()
        self._mask_value = mask_value
        self._paths = sequence_paths(_x_of(dataset.element_spec), sequences)
        check_padding_of(_x_of(dataset.element_spec), self._paths, mask_value)
        self._log = BatchLog([entry_name(path) for path in self._paths], bucket_boundaries)
        self._watch = PaddingWatch(mask_value)
        self._element_spec = dataset.element_spec
        no_pass = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        # `scan` hands its state from batch to batch of one pass, and keeps the cardinality.
        self._inner = dataset.scan(no_pass, as_it_is(self._record)).prefetch(1)
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
        dtypes = [leaf.dtype for leaf in leaves_at(_x_of(self._element_spec), self._paths)]
        self._watch.warn_once([entry_name(path) for path in self._paths], dtypes)
        return self._log.pass_stats(position, start, stop)

    def _record(self, state: tuple[tf.Tensor, tf.Tensor], batch: Any) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
        pass_number, index = state
        pass_number = tf.cond(tf.equal(index, 0), self._begin_pass, lambda: pass_number)
        lengths, padded_lengths = row_lengths(_x_of(batch), self._paths, self._mask_value)
        seen = self._watch.note(pass_number, index, leaves_at(_x_of(batch), self._paths), lengths)
        with tf.control_dependencies([seen, self._log.write(pass_number, index, lengths, padded_lengths)]):
            return (pass_number, tf.identity(index + 1)), batch

    def _begin_pass(self) -> tf.Tensor:
        number = self._counter.begin_pass().number
        with tf.control_dependencies([self._log.forget_old_passes(number)]):
            return tf.identity(number)


def _x_of(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element
