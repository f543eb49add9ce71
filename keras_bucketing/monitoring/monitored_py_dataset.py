"""A `PyDataset` of padded batches that notes what it delivers."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator

import keras

from keras_bucketing.monitoring.batch_log import (
    KEPT_PASSES,
    MAX_KEPT_BATCHES,
    Batch,
    BatchMeasure,
    EntryKeys,
    LogEntry,
    MaskValue,
    x_of,
)
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from keras_bucketing.unpadding.spans import Side


class MonitoredPyDataset(keras.utils.PyDataset):
    """Passes a `PyDataset` through and notes the lengths of its batches; made by `monitor_padding`.

    With `workers` <= 1, batches are asked for in the order of consumption, and the figures are exact. With more
    threads, an epoch that is consumed whole is exact too. If it is cut short (`steps_per_epoch`, stopping in
    mid-epoch), the last few counted batches may not be those consumed, and a warning says so. If `fit` trains and
    validates on the same object with `steps_per_epoch`, the callback warns that figures may be wrong.

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
        self._lock = threading.RLock()  # of what follows
        self._pass_ended = True
        self._newest = 0
        self._indexed = 0  # the newest pass that is read by index
        self._position = 0  # of its next batch
        self._indices: set[int] = set()  # of its batches, if they have an end
        self._num_batches: int | None = None
        self._entries: dict[int, dict[int, LogEntry]] = {}  # by pass, and by the order of delivery
        self._unfinished: dict[int, dict[int, LogEntry]] = {}  # the same of passes that end, and nothing is forgotten
        self._finished = PaddingStats()
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
                self._indexed, self._position, self._indices = self._begin_pass(self._num_batches), 0, set()
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
            number = number or self._begin_pass(num_batches)
            self._note(batch, number, index, num_batches)
            yield batch

    def newest_pass(self) -> PassPosition:
        """The newest pass of which a batch was asked for.

        Returns:
            A tuple of ints `(number, epoch, first_batch)`: how many passes have begun so far, 0 before the first;
            `number - 1`; and 0, the batch that the pass began with.
        """
        with self._lock:
            return PassPosition(self._newest, self._newest - 1, 0)

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The padding of the batches `start` to `stop - 1` of a pass, in the order in which they were asked for.

        Ask in the order of the batches: everything before `start` is forgotten. Of passes that were not asked about,
        the newest four are remembered.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.

        Returns:
            A `PaddingStats` of these batches, of every entry of `x` that holds sequences.
        """
        with self._lock:
            delivered = self._entries.get(position.number, {})
            for index in [index for index in delivered if index < start]:
                del delivered[index]
            entries = [delivered[index] for index in range(start, stop) if index in delivered]
            is_cut_short = start > 0 or max(delivered, default=-1) >= stop
        if is_cut_short and self.workers > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"With workers={self.workers}, batches are made out of order, and this epoch did not consume all of "
                "them: the padding statistics may have counted a few others. Use workers=1 for exact figures.",
                stacklevel=2,
            )
        self._measure.warn_once()
        return self._measure.stats(entries)

    def padding_stats(self) -> PaddingStats:
        """The padding of the last finished pass, that is, one of which all batches were yielded.

        Each loop `for batch in monitored` is a pass. Batches that are asked for by their index belong to a new pass as
        soon as one is asked for again, or all have been.

        Returns:
            A `PaddingStats`, which is empty before the first pass is finished.
        """
        self._measure.warn_once()
        with self._lock:
            return self._finished

    def _begins_again(self, index: int) -> bool:
        """Whether a batch, asked for by its index, cannot belong to the pass of those before it.

        Threads ask for batches ahead, and Keras tells where their pass ends.
        """
        if self.workers > 1 or not self._position:
            return False
        if self._num_batches is None:
            return index == 0
        return self._position >= self._num_batches or index in self._indices

    def _begin_pass(self, num_batches: int | None) -> int:
        with self._lock:
            self._newest += 1
            self._entries[self._newest] = {}
            if num_batches is not None:
                self._unfinished[self._newest] = {}
            for kept in (self._entries, self._unfinished):
                kept.pop(self._newest - KEPT_PASSES, None)
            return self._newest

    def _note(self, batch: Batch, number: int, position: int, num_batches: int | None) -> None:
        entry = self._measure.measure(x_of(batch), number, position)
        with self._lock:
            if number in self._entries:  # unless so many others have begun that this one is forgotten
                self._entries[number][position] = entry
                self._entries[number].pop(position - MAX_KEPT_BATCHES, None)
            unfinished = self._unfinished.get(number)
            if unfinished is None:
                return
            unfinished[position] = entry
            if len(unfinished) == num_batches:
                del self._unfinished[number]
                self._finished = self._measure.stats([unfinished[at] for at in sorted(unfinished)])
