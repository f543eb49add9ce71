"""Which batches of which pass a model has consumed, from nothing but Keras' callback hooks.

    hook              on_epoch_begin   batch_begin(0)  ...  batch_begin(3)  ...  batch_end(5)   on_epoch_end
    called here       begin()          begin_step(0)        begin_step(3)        end_step(5)    consumed()
    newest pass       4                                     5: pass 5 is ours

What was planned or prefetched does not count. A pass that begins after `begin()` is the one Keras reads: Keras makes
more iterators than it reads from, but a pass takes its number only when its first batch is read.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_bucketing.monitoring.monitor_padding import CountedDataset
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition


class Consumed(NamedTuple):
    """The batches `start` to `stop - 1` of a pass, counted from where the pass began."""

    position: PassPosition
    start: int
    stop: int


class ConsumedBatches:
    """Follows one reader of one dataset: a training run, an evaluation or a prediction.

    `end_step` may be called late, out of order and from another thread, as Keras does with callbacks that are
    `async_safe`; the other methods belong in hooks that Keras calls in order (`on_*_begin`, `on_epoch_end`,
    `on_test_end`). Memory and time per step are those of one comparison.

    One object lives as long as one call of `fit`, `evaluate` or `predict`: each of them makes a new iterator, and only
    inside `fit` may an epoch go on with the pass of the epoch before (`steps_per_epoch`).

    Args:
        dataset: A `CountedDataset`: what was given to Keras, or what is wrapped in it.

    Example:
        >>> class Dataset:
        ...     number = 0
        ...
        ...     def __len__(self):
        ...         return 4
        ...
        ...     def newest_pass(self):
        ...         return PassPosition(self.number, epoch=self.number - 1, first_batch=0)
        >>> dataset = Dataset()
        >>> batches = ConsumedBatches(dataset)
        >>> batches.begin()
        >>> dataset.number = 1  # the first batch is read
        >>> batches.begin_step(0)
        >>> batches.end_step(0)
        >>> batches.begin_step(1)
        >>> batches.end_step(1)
        >>> batches.consumed()
        Consumed(position=PassPosition(number=1, epoch=0, first_batch=0), start=0, stop=2)
    """

    def __init__(self, dataset: CountedDataset):
        self.dataset = dataset
        self._num_batches = _num_batches_of(dataset)
        # With tf.data, Keras reads between the hooks; only under PyTorch it reads before it tells that a step begins
        # (`EpochIterator.__next__`, keras/src/trainers/epoch_iterator.py). The threads of a `PyDataset` read at any
        # time.
        self._tells_before_reading: bool | None = None
        if isinstance(dataset, tf.data.Dataset):
            self._tells_before_reading = keras.config.backend() != "torch"
        self._lock = threading.Lock()
        self._position: PassPosition | None = None
        self._located = True
        self._passes_before = 0
        self._first_batch = 0
        self._passes_of_others = 0
        self._ended = True
        self._interleaved = False
        self._rows_agreed = False
        self._start = 0
        self._steps = 0
        self._steps_per_execution = 1
        self._resolved_stop: int | None = None

    def begin(self) -> None:
        """Marks the beginning of an epoch, an evaluation or a prediction, before its first batch is read."""
        self._start = self._stop() if self._resolved_stop is None else self._resolved_stop
        self._resolved_stop = None
        self._mark()
        self._ended = False
        with self._lock:
            self._steps = 0
            self._steps_per_execution = 1

    def begin_step(self, step: int) -> None:
        """Notes that Keras is about to run the batches from `step` on."""
        if step > 0:  # before the first step, no batch may have been read
            self.locate()
        elif self._tells_before_reading:
            self._mark()  # what has begun since `begin` is somebody else's
        elif self._tells_before_reading is False and self.dataset.newest_pass().number > self._passes_before:
            self._passes_before = self.dataset.newest_pass().number - 1  # Keras' own is the newest
            self.locate()

    def end_step(self, step: int) -> None:
        """Notes that Keras has run the batches up to `step`; thread-safe."""
        with self._lock:
            # The first group of an epoch begins at step 0, so that the smallest end tells the size of a group.
            is_first = self._steps == 0 or step + 1 < self._steps_per_execution
            self._steps_per_execution = step + 1 if is_first else self._steps_per_execution
            self._steps = max(self._steps, step + 1)

    def locate(self) -> None:
        """Finds out which pass is being read, before anybody else begins one on the same dataset.

        To be called before a validation begins; calling it again does nothing.
        """
        if self._located:
            return
        self._located = True
        newest = self.dataset.newest_pass()
        passes = newest.number - self._passes_before
        if self._position is not None and isinstance(self.dataset, keras.utils.PyDataset):
            # Ours goes on (`steps_per_epoch`), and somebody else has begun one. A PyDataset is not told which of them
            # asks for a batch, and takes it for one of the newest.
            self._interleaved |= passes > 0 and self._has_rest(self._position)
            self._interleaved |= passes == 0 and self._position.number != newest.number
        if passes > 0:
            # Of several passes that have begun, ours is the first. The others validate on the same dataset: under a
            # distribution strategy Keras builds the model on a batch before it calls on_test_begin.
            ours = PassPosition(self._passes_before + 1, newest.epoch - passes + 1, self._first_batch)
            self._position = newest if passes == 1 else ours
            self._start = 0

    def pause(self) -> None:
        """Marks that somebody who tells of it reads the same dataset, in a hook; `resume` marks the end of that."""
        self.locate()
        self._passes_of_others -= self.dataset.newest_pass().number

    def resume(self) -> None:
        """Marks that whoever `pause` was called for has read its last batch."""
        self._passes_of_others += self.dataset.newest_pass().number

    def end(self, most_others: int = 0) -> None:
        """Marks that Keras has read its last batch, before anybody else begins a pass; calling it again does nothing.

        Args:
            most_others: How many passes may have begun that nobody told of.
        """
        if self._ended:
            return
        self.locate()
        self._ended = True
        ours = 0 if self._position is None else self._position.number > self._passes_before
        unexplained = self.dataset.newest_pass().number - self._passes_before - self._passes_of_others - ours
        # Once that happened, nothing is certain until a new iterator is made.
        self._interleaved |= unexplained > most_others

    def current(self) -> tuple[PassPosition, int] | None:
        """The pass and how many of its batches have been consumed; None before the first.

        Exact wherever `on_train_batch_end` is called in order, that is unless Keras dispatches it asynchronously.
        """
        self.locate()
        return None if self._position is None else (self._position, self._stop())

    def consumed(
        self, count_rows: Callable[[], int | None] = lambda: None, expected_steps: int | None = None
    ) -> Consumed | None:
        """What was consumed since `begin()`.

        Args:
            count_rows: Function that returns how many rows the model has received, if it knows. Asked only where the
                hooks leave a doubt: with `steps_per_execution` > 1, the last group of batches may have been short.
            expected_steps: Optional int, the steps that Keras announced; used where `count_rows` does not know.

        Returns:
            A `Consumed`, with no batch if the data ended before the first step; None if this dataset was never read.
        """
        self.end()
        if self._position is None:
            return None
        stop = self._stop()
        if self._steps_per_execution > 1:
            stop = self._resolve_short_group(self._position, stop, count_rows(), expected_steps)
        self._resolved_stop = stop
        return Consumed(self._position, self._start, stop)

    @property
    def overran(self) -> bool:
        """Whether Keras reads something made of several passes, as far as the hooks show it.

        It ran more batches than the pass has, or another pass began that nobody told of.
        """
        if self._position is None:
            return False
        beyond = 0
        if self._num_batches is not None:
            beyond = self._start + self._steps - (self._num_batches - self._position.first_batch)
        # Less is the last group of batches, which may be short.
        return self._interleaved or beyond >= self._steps_per_execution

    def _has_rest(self, position: PassPosition) -> bool:
        """Whether batches of a pass are left, where the epoch begins."""
        return self._num_batches is None or self._start < self._num_batches - position.first_batch

    def _mark(self) -> None:
        """Notes which passes have begun, and where the next one will; ours is looked for again, among later ones."""
        self._passes_before = self.dataset.newest_pass().number
        self._passes_of_others = 0
        self._first_batch = getattr(self.dataset, "next_first_batch", 0)
        self._located = False

    def _stop(self) -> int:
        stop = self._start + self._steps
        if self._position is None or self._num_batches is None:
            return stop
        return min(stop, self._num_batches - self._position.first_batch)

    def _resolve_short_group(
        self, position: PassPosition, stop: int, rows: int | None, expected_steps: int | None
    ) -> int:
        """Keras reports the whole last group even if the data ended inside it.

        `.take(7)` in groups of 3 runs 7 batches, `steps_per_epoch=7` runs 9, and their hooks are the same.
        """
        last_group = max(self._start, stop - self._steps_per_execution)
        if rows is not None:
            for candidate in range(stop, last_group, -1):
                if self.dataset.pass_stats(position, self._start, candidate).num_sequences == rows:
                    self._rows_agreed = True
                    return candidate
            # The model does count rows, so that these come from more than one pass.
            self._interleaved |= self._rows_agreed
        return stop if expected_steps is None else min(stop, self._start + expected_steps)


class EvaluatedBatches:
    """Follows all datasets that may be evaluated: which of them is shows only when one of them begins a pass.

    Args:
        datasets: The candidates; where several have begun a pass, the first of them counts.
    """

    def __init__(self, datasets: Iterable[CountedDataset]):
        self._candidates = [ConsumedBatches(dataset) for dataset in datasets]
        for candidate in self._candidates:
            candidate.begin()
        self.overran = False  # known after `padding_stats`, as in `ConsumedBatches`
        self._began = time.perf_counter()

    def begin_step(self, step: int) -> None:
        """Notes that Keras is about to run the batches from `step` on."""
        for candidate in self._candidates:
            candidate.begin_step(step)

    def end_step(self, step: int) -> None:
        """Notes that Keras has run the batches up to `step`; thread-safe."""
        for candidate in self._candidates:
            candidate.end_step(step)

    def pause(self) -> None:
        """As in `ConsumedBatches`."""
        for candidate in self._candidates:
            candidate.pause()

    def resume(self) -> None:
        """As in `ConsumedBatches`."""
        for candidate in self._candidates:
            candidate.resume()

    def padding_stats(self, count_rows: Callable[[], int | None], expected_steps: int | None) -> PaddingStats | None:
        """What was padded, and how long it took; None if none of the datasets was read.

        Args:
            count_rows: As in `ConsumedBatches.consumed`.
            expected_steps: As in `ConsumedBatches.consumed`.
        """
        seconds = time.perf_counter() - self._began
        for candidate in self._candidates:
            consumed = candidate.consumed(count_rows, expected_steps)
            if consumed is not None:
                self.overran = candidate.overran
                return dataclasses.replace(candidate.dataset.pass_stats(*consumed), seconds=seconds)
        return None


def _num_batches_of(dataset: CountedDataset) -> int | None:
    # Not `num_batches`: to a PyDataset, being asked for it means that a pass begins.
    try:
        return len(dataset)
    except TypeError:
        return None
