"""A `tf.data.Dataset` of padded batches that writes down, in graph, what it delivers."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_bucketing.monitoring.batch_log import Batch, EntryKeys, MaskValue, flat_keys, flatten, x_of
from keras_bucketing.monitoring.counted_passes import MonitoredPasses
from keras_bucketing.monitoring.graph_log import BatchLog
from keras_bucketing.pipeline.passes import PassCounter, PassPosition, without_autograph
from keras_bucketing.unpadding.graph import check_padding_of, evidence_of, leaves_at, measure_rows, sequence_paths
from keras_bucketing.unpadding.spans import Side
from keras_bucketing.unpadding.unnoticed import UnnoticedPaddingCheck


def _unchanged(leaf: Any) -> Any:
    return leaf


class MonitoredDataset(MonitoredPasses, tf.data.Dataset):
    """A `tf.data.Dataset` that counts the padding of the batches that it yields; made by `monitor_padding`.

    A monitored `keras.utils.PyDataset` and a monitored generator have the same three methods.

    Attributes:
        num_batches: Int, the batches of a pass; None if that is unknown or infinite.

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0]]).batch(1)
        >>> monitored = keras_bucketing.monitor_padding(dataset)
        >>> for batch in monitored:
        ...     pass  # a training step
        >>> monitored.padding_stats().padding_efficiency
        0.5
    """

    _log: BatchLog

    def __init__(
        self,
        dataset: tf.data.Dataset,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
        padding: Side | None = None,
    ):
        x, names = flatten(x_of(dataset.element_spec), _unchanged)
        self.unmonitored = dataset
        self._element_spec = dataset.element_spec
        self.mask_value, self._padding = mask_value, padding
        self._paths = sequence_paths(x, flat_keys(sequences, names))
        check_padding_of(x, self._paths, mask_value)
        self._evidence = evidence_of(x, self._paths, is_named=sequences is not None)
        self._names = [names[path] for path in self._paths]
        self._dtypes = [leaf.dtype for leaf in leaves_at(x, self._paths)]
        self._counter = PassCounter()
        num_batches = int(dataset.cardinality())
        is_endless = num_batches == tf.data.INFINITE_CARDINALITY
        self._adds_up = num_batches < 0
        self._log = BatchLog(self._names, bucket_boundaries, is_endless, self._owners_so_far)
        self._padding_check = UnnoticedPaddingCheck(mask_value, padding)
        if num_batches == tf.data.UNKNOWN_CARDINALITY:
            self._inner = tf.data.Dataset.range(1).flat_map(without_autograph(self._pass_of_unknown_length))
            self._inner = self._inner.with_options(dataset.options())  # which a function would hide
        else:
            no_pass = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
            # `scan` hands its state from batch to batch of one pass, and keeps the cardinality.
            noted = dataset.scan(no_pass, without_autograph(self._record)).prefetch(1)
            # What was prefetched is not handed out yet.
            self._inner = noted.map(without_autograph(functools.partial(self._hand_out, num_batches)))
        # TensorFlow would add a prefetch, which reads batches before they are asked for.
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        self._inner = self._inner.with_options(options)
        super().__init__(tf.data.experimental.to_variant(self._inner))

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._inner]

    @property
    def element_spec(self) -> Batch:
        """The structure of the batches, as given."""
        return self._element_spec

    @property
    def num_batches(self) -> int | None:
        """The number of batches of a pass; None if that is unknown or infinite."""
        cardinality = int(self.cardinality())
        return cardinality if cardinality >= 0 else None

    def _newest_pass(self) -> PassPosition:
        return self._counter.newest_pass()

    def _before_figures(self) -> None:
        self._judge()
        self._padding_check.warn_once(self._names, self._dtypes)

    def _judge(self) -> list[int]:
        number = self._counter.newest_pass().number
        return self._padding_check.refuse_uncertain(number, self._evidence, self._names, self._dtypes)

    def _owners_so_far(self) -> list[int]:
        """Which leaf's lengths are whose, by what was delivered; each its own where it is refused when it is asked."""
        try:
            return self._judge()
        except ValueError:
            return []

    def _record(self, state: tuple[tf.Tensor, tf.Tensor], batch: Batch) -> tuple[tuple[tf.Tensor, tf.Tensor], Batch]:
        """Writes a batch into the log; in graph. The state is the pass' number and the batch's index in it."""
        number, index = state
        number = tf.cond(tf.equal(index, 0), self._begin_pass, lambda: number)
        with tf.control_dependencies(self._write(number, index, batch)):
            return (number, tf.identity(index + 1)), (number, tf.identity(index + 1), batch)

    def _begin_pass(self) -> tf.Tensor:
        number = self._counter.begin_pass().number
        with tf.control_dependencies([self._log.forget_old_passes(number)]):
            return tf.identity(number)

    def _write(self, number: tf.Tensor, index: tf.Tensor, batch: Batch) -> list[tf.Operation]:
        x, _ = flatten(x_of(batch), _unchanged)
        measured = measure_rows(x, self._evidence, self.mask_value, self._padding)
        sampled = self._padding_check.sample(number, index, leaves_at(x, self._paths), measured)
        written = self._log.write(number, index, measured.lengths, measured.padded_lengths)
        if not self._adds_up:
            return [sampled, written]
        with tf.control_dependencies([written]):
            return [sampled, self._log.add_up_now_and_then(number, index)]

    def _hand_out(self, num_batches: int, number: tf.Tensor, count: tf.Tensor, batch: Batch) -> Batch:
        """Notes that a pass is finished, with the last of its `num_batches`, -1 for an endless one; in graph."""
        tf.cond(tf.equal(count, num_batches), lambda: self._log.finish(number), lambda: tf.constant(0, tf.int64))
        return batch

    def _pass_of_unknown_length(self, _: tf.Tensor) -> tf.data.Dataset:
        """One pass over batches of unknown number: it is finished when a batch after the last is asked for."""
        number = self._begin_pass()

        def record(index: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, Batch]:
            with tf.control_dependencies(self._write(number, index, batch)):
                return tf.identity(index + 1), batch

        def finish(_: tf.Tensor) -> tf.data.Dataset:
            with tf.control_dependencies([self._log.finish(number)]):
                return self.unmonitored.take(tf.constant(0, tf.int64))

        noted = self.unmonitored.scan(tf.constant(0, tf.int64), without_autograph(record)).prefetch(1)
        return noted.concatenate(tf.data.Dataset.range(1).flat_map(without_autograph(finish)))
