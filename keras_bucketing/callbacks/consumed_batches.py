"""Which batches of which pass a model has consumed, from nothing but Keras' callback hooks.

    hook              on_epoch_begin   batch_begin(0)  ...  batch_begin(3)  ...  batch_end(5)   on_epoch_end
    called here       begin()          begin_step(0)        begin_step(3)        end_step(5)    consumed()
    newest pass       4                                     5: pass 5 is ours

What was planned or prefetched does not count. A pass that begins after `begin()` is the one Keras reads: Keras makes
more iterators than it reads from, but a pass takes its number only when its first batch is read.

`ConsumedBatches` follows one reader of one dataset, `RunningCall` a whole call of `fit`, `evaluate` or `predict`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_bucketing.callbacks.fit_hooks import Logs
from keras_bucketing.monitoring.counted_arrays import CountedArrays
from keras_bucketing.monitoring.counted_dataset import CountedDataset
from keras_bucketing.monitoring.monitored_generator import MonitoredGenerator
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition


class Consumed(NamedTuple):
    """The batches `start` to `stop - 1` of a pass, counted from where the pass began: arguments of `pass_stats`."""

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
        try:
            # Not `num_batches`: to a PyDataset, being asked for it means that a pass begins.
            self._num_batches: int | None = len(dataset)
        except TypeError:
            self._num_batches = None
        # Whether Keras calls begin_step(0) before it reads the first batch. With tf.data it reads between the hooks;
        # only under PyTorch it reads before the hook (`EpochIterator.__next__`,
        # keras/src/trainers/epoch_iterator.py). None: the threads of a `PyDataset` read at any time.
        self._reads_after_hook: bool | None = None
        if isinstance(dataset, tf.data.Dataset):
            self._reads_after_hook = keras.config.backend() != "torch"
        # The pass that is read, None until it has been found, and whether it was looked for since `_mark`.
        self._position: PassPosition | None = None
        self._located = True
        # As of `_mark`: how many passes had begun, and the batch that the next one would begin with.
        self._passes_before = 0
        self._first_batch = 0
        # How many passes others have begun since then between `pause` and `resume`.
        self._passes_of_others = 0
        self._ended = True
        # Whether passes have begun unannounced: no figure is certain any more.
        self._interleaved = False
        # Whether the model's count of rows has ever matched the batches, so that it can be relied upon.
        self._rows_matched = False
        # The current epoch consumes the batches from `_start` on, and has consumed `_steps` of them as far as the hooks
        # tell. `consumed` may find that it were fewer: then the next epoch begins at `_resolved_stop`.
        self._start = 0
        self._resolved_stop: int | None = None
        self._lock = threading.Lock()  # of the next two
        self._steps = 0
        self._steps_per_execution = 1

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
        elif self._reads_after_hook:
            self._mark()  # passes that have begun since `begin` belong to other readers
        elif self._reads_after_hook is False and self.dataset.newest_pass().number > self._passes_before:
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
        """Finds the pass that is read, before anybody else begins one on the same dataset, as a validation does.

        Calling it again does nothing.
        """
        if self._located:
            return
        self._located = True
        newest = self.dataset.newest_pass()
        passes = newest.number - self._passes_before
        if self._position is not None and isinstance(self.dataset, keras.utils.PyDataset):
            # Ours continues (`steps_per_epoch`), and another reader has begun one. A PyDataset cannot tell who
            # asks, and counts a batch for the newest.
            self._interleaved |= passes > 0 and self._has_rest(self._position)
            self._interleaved |= passes == 0 and self._position.number != newest.number
        if passes > 0:
            # Of several passes that have begun, ours is the first. The others validate on the same dataset: under a
            # distribution strategy Keras builds the model on a batch before it calls on_test_begin.
            ours = PassPosition(self._passes_before + 1, newest.epoch - passes + 1, self._first_batch)
            self._position = newest if passes == 1 else ours
            self._start = 0

    def pause(self) -> None:
        """Announces another reader of the same dataset, inside a hook; `resume` marks that it has ended."""
        self.locate()
        self._passes_of_others -= self.dataset.newest_pass().number

    def resume(self) -> None:
        """Marks that the reader which `pause` announced has read its last batch."""
        self._passes_of_others += self.dataset.newest_pass().number

    def end(self, max_unannounced: int = 0) -> None:
        """Marks that Keras has read its last batch, before anybody else begins a pass; calling it again does nothing.

        `max_unannounced` is how many passes may have begun without having been announced.
        """
        if self._ended:
            return
        self.locate()
        self._ended = True
        ours = 0 if self._position is None else self._position.number > self._passes_before
        unannounced = self.dataset.newest_pass().number - self._passes_before - self._passes_of_others - ours
        # Once that happened, nothing is certain until a new iterator is made.
        self._interleaved |= unannounced > max_unannounced

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

        It ran more batches than the pass has, or another pass began unannounced.
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
        """Where the last group of batches really ended: Keras reports all of it even if the data ended inside.

        `.take(7)` in groups of 3 runs 7 batches, `steps_per_epoch=7` runs 9, and their hooks are the same.
        """
        last_group = max(self._start, stop - self._steps_per_execution)
        if rows is not None:
            for candidate in range(stop, last_group, -1):
                if self.dataset.pass_stats(position, self._start, candidate).num_sequences == rows:
                    self._rows_matched = True
                    return candidate
            # The model does count rows, so that these come from more than one pass.
            self._interleaved |= self._rows_matched
        return stop if expected_steps is None else min(stop, self._start + expected_steps)


class ConsumedGenerator(ConsumedBatches):
    """The same for a Python generator, where neither hooks nor passes tell when Keras begins a pass: its rules do.

    Keras takes the first batches out and begins each of its passes with them, unseen (`GeneratorDataAdapter` in
    keras/src/trainers/data_adapters/generator_data_adapter.py). A call begins with a pass, and an epoch goes on with
    that of the epoch before if this one made all the steps that Keras had announced; otherwise the data ended, and
    Keras makes another iterator (`EpochIterator` in keras/src/trainers/epoch_iterator.py).

    Args:
        dataset: What `monitor_padding` made of the generator.
        expected_steps: Optional int, the steps of an epoch that Keras announced.
        is_known: Whether it is what the call was given; otherwise a generator may have been made of it, and only a pass
            that another reader than Keras has begun, and that no call was followed through, counts.
    """

    def __init__(self, dataset: MonitoredGenerator, expected_steps: int | None, is_known: bool):
        super().__init__(dataset)
        self._generator = dataset
        self._num_batches = None
        self._expected_steps = expected_steps
        self._is_read: bool | None = True if is_known else None  # None: to be found out at the first step

    def begin(self) -> None:
        """As in `ConsumedBatches`."""
        goes_on = self._expected_steps is not None and 0 < self._expected_steps <= self._steps
        stop = self._stop() if self._resolved_stop is None else self._resolved_stop
        self._resolved_stop = None
        self._start = stop if goes_on else 0
        is_newer = self._generator.follow_newest()
        if self._is_read is None:
            self._is_read = is_newer
        if not goes_on:
            # All passes that Keras makes of what it has taken out begin alike: as long as ours has not shown, the
            # newest one stands for it.
            newest = self._generator.newest_pass()
            self._position = newest if newest.number and self._is_read else None
            self._passes_before = newest.number
            self._located = False
        self._ended = False
        with self._lock:
            self._steps = 0
            self._steps_per_execution = 1

    def begin_step(self, step: int) -> None:
        """As in `ConsumedBatches`."""
        if step > 0:
            self.locate()

    def locate(self) -> None:
        """As in `ConsumedBatches`; until the pass shows, which it need not."""
        newest = self._generator.newest_pass()
        if self._position is None:
            return
        if not self._located and newest.number > self._passes_before:
            self._located = True
            number = self._passes_before + 1
            self._position = PassPosition(number, number - 1, 0)
        # More passes belong to other readers, e.g. a validation on the same generator.
        self._interleaved |= newest.number > self._passes_before + 1
        self._generator.follow_newest()

    def pause(self) -> None:
        """As in `ConsumedBatches`."""
        self.locate()

    def resume(self) -> None:
        """As in `ConsumedBatches`."""

    def end(self, max_unannounced: int = 0) -> None:
        """As in `ConsumedBatches`."""
        if not self._ended:
            self._ended = True
            self.locate()


class ConsumedArrays(ConsumedBatches):
    """The same for arrays, which count as a whole where a call reads them.

    Args:
        dataset: The arrays.
        is_known: Whether they are read without a doubt; otherwise they are where the call has as many rows.
    """

    def __init__(self, dataset: CountedArrays, is_known: bool):
        super().__init__(dataset)
        self._num_rows = dataset.num_rows
        self._is_known = is_known
        self.num_missing_rows = 0

    def begin(self) -> None:
        """As in `ConsumedBatches`."""
        self._ended = False
        with self._lock:
            self._steps = 0

    def begin_step(self, step: int) -> None:
        """As in `ConsumedBatches`."""

    def locate(self) -> None:
        """As in `ConsumedBatches`."""

    def pause(self) -> None:
        """As in `ConsumedBatches`."""

    def resume(self) -> None:
        """As in `ConsumedBatches`."""

    def end(self, max_unannounced: int = 0) -> None:
        """As in `ConsumedBatches`."""
        self._ended = True

    def consumed(
        self, count_rows: Callable[[], int | None] = lambda: None, expected_steps: int | None = None
    ) -> Consumed | None:
        """All of them, if they were read; as in `ConsumedBatches`."""
        rows = count_rows()
        if not self._steps or (not self._is_known and rows != self._num_rows):
            return None
        self.num_missing_rows = 0 if rows is None else max(self._num_rows - rows, 0)
        return Consumed(self.dataset.newest_pass(), 0, 1)

    @property
    def overran(self) -> bool:
        """As in `ConsumedBatches`."""
        return False


def follow(dataset: CountedDataset, steps: int | None, is_known: bool) -> ConsumedBatches:
    """What follows a reader of a dataset of any kind.

    `steps` are those of an epoch that Keras announced; `is_known` says that nothing else than this dataset is read.
    """
    if isinstance(dataset, MonitoredGenerator):
        return ConsumedGenerator(dataset, steps, is_known)
    if isinstance(dataset, CountedArrays):
        return ConsumedArrays(dataset, is_known)
    return ConsumedBatches(dataset)


class RunningCall:
    """A running call of `fit`, `evaluate` or `predict`: what it reads, its position, and its duration.

    Where it was given something that was made of one of several datasets, which one it reads is known only when one of
    them begins a pass; if several have, the first counts.

    Args:
        datasets: The datasets that may be read.
        model: The model whose loss metric counts the rows; None in `predict`, whose outputs are counted.
        params: What Keras gave to `set_params`; None if it gave nothing.
        is_validation: Whether it is the validation of an epoch.
        known: Optional dataset, the one that is certainly read, if neither passes nor rows can tell.

    Attributes:
        counts_loss: Bool, whether the rows are those of the loss metric.
        num_missing_rows: Int, known after `padding_stats`: rows of arrays that count although they were not read.
        is_validation: Bool, as given.
        overran: Bool, known after `padding_stats`: as in `ConsumedBatches`.
    """

    def __init__(
        self,
        datasets: Iterable[CountedDataset],
        model: keras.Model | None = None,
        params: dict[str, Any] | None = None,
        is_validation: bool = False,
        known: CountedDataset | None = None,
    ):
        self.counts_loss = model is not None
        self.is_validation = is_validation
        self.overran = False
        self.num_missing_rows = 0
        self._expected_steps: int | None = (params or {}).get("steps")
        self._candidates = [follow(dataset, self._expected_steps, is_known=dataset is known) for dataset in datasets]
        self._needs_rows = any(isinstance(candidate, ConsumedArrays) for candidate in self._candidates)
        self._model = model
        self._rows_before_reset = 0  # what the loss metric had counted before callbacks' evaluations reset it
        self._lock = threading.Lock()
        self._output_rows = 0
        self._rows: int | None = None
        self._ended = True
        self._began = self._seconds = 0.0

    def begin(self) -> None:
        """Marks the beginning of an epoch, an evaluation or a prediction, where Keras resets the metrics."""
        for candidate in self._candidates:
            candidate.begin()
        self._rows_before_reset = 0
        self._ended = False
        self._began = time.perf_counter()

    def begin_step(self, step: int) -> None:
        """As in `ConsumedBatches`."""
        for candidate in self._candidates:
            candidate.begin_step(step)

    def end_step(self, step: int) -> None:
        """As in `ConsumedBatches`; thread-safe."""
        for candidate in self._candidates:
            candidate.end_step(step)

    def add_outputs(self, logs: Logs) -> None:
        """Counts the rows of the outputs in the logs of `on_predict_batch_end`; thread-safe."""
        outputs = keras.tree.flatten(logs or {})
        # CallbackList turns outputs of a single element into a float.
        rows = [int(output.shape[0]) if getattr(output, "shape", ()) else 1 for output in outputs[:1]]
        with self._lock:
            self._output_rows += sum(rows)

    def pause(self, resets_metrics: bool) -> None:
        """Announces that a callback evaluates or predicts with the same model; `resume` marks that it has."""
        for candidate in self._candidates:
            candidate.pause()
        if resets_metrics:
            self._rows_before_reset += self._rows_of_loss() or 0

    def resume(self, resets_metrics: bool) -> None:
        """Marks that it has done so; the metric goes on from what was evaluated."""
        for candidate in self._candidates:
            candidate.resume()
        if resets_metrics:
            self._rows_before_reset -= self._rows_of_loss() or 0

    def end(self, max_unannounced: int = 0) -> None:
        """Stops the clock and counts the rows, before a validation resets them; calling it again does nothing.

        `max_unannounced` is as in `ConsumedBatches.end`.
        """
        if self._ended:
            return
        self._ended = True
        self._seconds = time.perf_counter() - self._began
        for candidate in self._candidates:
            candidate.end(max_unannounced)
        rows = self._rows_of_loss() if self.counts_loss else self._output_rows or None
        self._rows = None if rows is None else rows + self._rows_before_reset

    def padding_stats(self) -> PaddingStats | None:
        """The padding, with the duration; None if none of the datasets was read."""
        self.end()
        for candidate in self._candidates:
            consumed = candidate.consumed(lambda: self._rows, self._expected_steps)
            if consumed is not None:
                self.overran = candidate.overran
                self.num_missing_rows = getattr(candidate, "num_missing_rows", 0)
                return dataclasses.replace(candidate.dataset.pass_stats(*consumed), seconds=self._seconds)
        return None

    def _rows_of_loss(self) -> int | None:
        """The rows that the model's loss metric has averaged since it was reset, if they are needed.

        Keras weights each batch's loss by its rows (`train_step` in keras/src/backend/*/trainer.py), so that the weight
        adds up to them. A model with its own `train_step` may not: then the answer fits no batch, or is None.
        """
        if self._model is None or (getattr(self._model, "steps_per_execution", 1) <= 1 and not self._needs_rows):
            return None  # one step at a time, the hooks leave no doubt
        for metric in self._model.metrics:
            if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
                # Not `convert_to_numpy`: a Keras variable's `__array__` does not know NumPy 2's `copy`, and is warned
                # of it.
                return round(float(keras.ops.sum(metric.count)))
        return None
