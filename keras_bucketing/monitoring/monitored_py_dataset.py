"""A `PyDataset` of padded batches that notes what it delivers."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator

import keras

from keras_bucketing.monitoring.batch_log import Batch, BatchMeasure, EntryKeys, HostLog, MaskValue, x_of
from keras_bucketing.monitoring.counted_passes import MonitoredPasses
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from keras_bucketing.unpadding.spans import Side


class MonitoredPyDataset(MonitoredPasses, keras.utils.PyDataset):
    """Passes a `PyDataset` through and notes the lengths of its batches; made by `monitor_padding`.

    With `workers` <= 1, batches are asked for in the order of consumption, and the figures are exact. With more
    threads, an epoch that is consumed whole is exact too. If it is cut short (`steps_per_epoch`, stopping in
    mid-epoch), the last few counted batches may not be those consumed, and a warning says so. If `fit` trains and
    validates on the same object with `steps_per_epoch`, the callback warns that figures may be wrong.

    Each loop `for batch in monitored` is a pass. Batches that are asked for by their index belong to a new pass as soon
    as one is asked for again, or all have been.

    `PyDataset` has no hook between two passes. Keras asks for `num_batches` when one begins; with several threads it
    does so in the middle as well, but there it stops them all before `on_epoch_end`
    (keras/src/trainers/data_adapters/py_dataset_adapter.py).

    Example:
        >>> class Batches(keras.utils.PyDataset):
        ...     def __len__(self):
        ...         return 2
        ...
        ...     def __getitem__(self, index):
        ...         return np.array([[7, 8, 0], [5, 0, 0]])
        >>> monitored = keras_bucketing.monitor_padding(Batches())
        >>> batches = [monitored[index] for index in range(monitored.num_batches)]  # `num_batches` begins a pass
        >>> monitored.newest_pass()
        PassPosition(number=1, epoch=0, first_batch=0)
        >>> stats = monitored.pass_stats(monitored.newest_pass(), start=0, stop=len(batches))
        >>> stats.num_sequences, stats.real_timesteps, stats.total_timesteps
        (4, 6, 12)
        >>> for batch in monitored:
        ...     pass  # a training step
        >>> monitored.padding_stats().padding_efficiency
        0.5
    """

    _log: HostLog

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
        padding: Side | None = None,
    ):
        if dataset.use_multiprocessing:
            raise ValueError(
                "A PyDataset with `use_multiprocessing=True` cannot be monitored, since other processes make its "
                "batches. Set `dataset.use_multiprocessing = False`; `workers` may stay the same."
            )
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self.unmonitored = dataset
        self.mask_value, self._padding = mask_value, padding
        self._measure = BatchMeasure(mask_value, sequences, bucket_boundaries, padding)
        self._log = HostLog(self._measure)  # in the order of delivery
        self._lock = threading.RLock()  # of what follows
        self._pass_ended = True
        self._indexed = 0  # the newest pass that is read by index
        self._position = 0  # of its next batch
        self._indices: set[int] = set()  # of its batches, if they have an end
        self._num_batches: int | None = None
        self._warned = False

    def __len__(self) -> int:
        count = self.unmonitored.num_batches
        if count is None:
            raise TypeError("An endless PyDataset has no length.")
        return int(count)

    @property
    def num_batches(self) -> int | None:
        """The number of batches of a pass; None for an endless one."""
        if self.workers <= 1:
            self._pass_ended = True
        count: int | None = self.unmonitored.num_batches
        return count

    def on_epoch_begin(self) -> None:
        """Passes the call on."""
        self.unmonitored.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes the call on."""
        if self.workers > 1:
            self._pass_ended = True
        self.unmonitored.on_epoch_end()

    def __getitem__(self, index: int) -> Batch:
        with self._lock:
            if self._pass_ended or self._begins_again(index):
                self._pass_ended = False
                self._num_batches = self.unmonitored.num_batches
                self._indexed, self._position, self._indices = self._log.begin(), 0, set()
            number, num_batches, position = self._indexed, self._num_batches, self._position
            self._position += 1
            if num_batches is not None:
                self._indices.add(index)
        batch = self.unmonitored[index]
        self._note(batch, number, position, num_batches)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """A separate pass, whatever else is read."""
        num_batches = self.unmonitored.num_batches
        number = 0
        for index in itertools.count() if num_batches is None else range(num_batches):
            batch = self.unmonitored[index]
            number = number or self._log.begin()
            self._note(batch, number, index, num_batches)
            yield batch

    def _newest_pass(self) -> PassPosition:
        return self._log.newest_pass()

    def _before_figures(self) -> None:
        self._measure.warn_once()

    def pass_stats(  # noqa: D102  as in the base class, whose docstring it has
        self, position: PassPosition, start: int, stop: int
    ) -> PaddingStats:
        is_cut_short = start > 0 or self._log.num_noted(position.number) > stop
        if is_cut_short and self.workers > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"With workers={self.workers}, batches are made out of order, and this epoch did not consume all of "
                "them: the padding statistics may have counted a few others. Use workers=1 for exact figures.",
                stacklevel=2,
            )
        return super().pass_stats(position, start, stop)

    def _begins_again(self, index: int) -> bool:
        """Whether a batch, asked for by its index, cannot belong to the pass of those before it.

        Threads ask for batches ahead, and Keras tells where their pass ends.
        """
        if self.workers > 1 or not self._position:
            return False
        if self._num_batches is None:
            return index == 0
        return self._position >= self._num_batches or index in self._indices

    def _note(self, batch: Batch, number: int, position: int, num_batches: int | None) -> None:
        entry = self._measure.measure(x_of(batch), number, position)
        with self._lock:
            self._log.note(number, position, entry)
            if self._log.num_noted(number) == num_batches:
                self._log.finish(number)
