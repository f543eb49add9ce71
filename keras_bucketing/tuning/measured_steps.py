"""Times training steps of a model on batches of given shapes, and leaves no trace in the model or the dataset."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.tuning.restored_model import restored_model


@dataclass(frozen=True)
class StepTimes:
    """The measured steps.

    Attributes:
        seconds: Float array `(num_measured,)`, the median of each batch that fits into memory.
        too_large: Int, the cells of the smallest batch that does not fit, or None.
    """

    seconds: np.ndarray
    too_large: int | None


def time_steps(
    model: keras.Model, dataset: BucketedSequence, batches: Sequence[np.ndarray], cells: Sequence[int], repeats: int
) -> StepTimes:
    """Trains on some batches, one after the other, several times over, and goes back to where the model was.

    Args:
        model: A compiled model.
        dataset: Holds the rows.
        batches: For each batch an int array of row indices into the input, small batches first.
        cells: Ints, the timesteps of each batch, increasing.
        repeats: Int, how often each batch is timed.

    Raises:
        tf.errors.ResourceExhaustedError: If not even the first batch fits into memory.
    """
    with restored_model(model):
        _build(model, dataset, batches[0])
        with restored_model(model):
            too_large = None
            while True:
                clock = _StepClock()
                try:
                    _train(model, dataset, batches, repeats, clock)
                    break
                except tf.errors.ResourceExhaustedError:
                    failed = len(clock.begins) - 1
                    too_large = cells[_order(len(batches), repeats)[failed]]
                    batches = [batch for batch, of_batch in zip(batches, cells, strict=True) if of_batch < too_large]
                    if not batches:
                        raise
                    cells = cells[: len(batches)]
    seconds = np.diff(clock.begins) / model.steps_per_execution
    order = np.array(_order(len(batches), repeats))
    timed = np.arange(len(order)) >= len(batches)  # the first round traces, compiles and fills caches
    medians = [float(np.median(seconds[timed & (order == batch)])) for batch in range(len(batches))]
    return StepTimes(np.array(medians), too_large)


def _build(model: keras.Model, dataset: BucketedSequence, rows: np.ndarray) -> None:
    """Makes the variables that `fit` would make, so that their first values are known."""
    batch = next(iter(dataset.batches_of_rows([rows])))
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    with model.distribute_strategy.scope():
        model(x)
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def _order(num_batches: int, repeats: int) -> list[int]:
    """The batches in the order of training: an untimed round, then the timed ones, each beginning with another."""
    rounds = [[(shift + index) % num_batches for index in range(num_batches)] for shift in range(repeats)]
    return [*range(num_batches), *(batch for of_round in rounds for batch in of_round)]


def _train(
    model: keras.Model, dataset: BucketedSequence, batches: Sequence[np.ndarray], repeats: int, clock: _StepClock
) -> None:
    together = model.steps_per_execution  # batches that one call of the hooks stands for
    rows = [batches[batch] for batch in _order(len(batches), repeats) for _ in range(together)]
    model.fit(dataset.batches_of_rows(rows), callbacks=[clock], shuffle=False, verbose=0)


class _StepClock(keras.callbacks.Callback):
    """Notes when steps begin, and when the last one ends: a step takes until the next one begins, with all of `fit`.

    Attributes:
        begins: List of floats, seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[float] = []

    def on_train_begin(self, logs: object = None) -> None:
        weights = self.model.trainable_variables
        self._smallest = min(weights, key=lambda weight: int(np.prod(weight.shape)), default=None)

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        self._note()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self._note()

    def _note(self) -> None:
        # An accelerator works on while Python goes ahead; to read what a step writes is to wait for it.
        if self._smallest is not None:
            tf.convert_to_tensor(self._smallest.value).numpy()
        self.begins.append(time.perf_counter())
