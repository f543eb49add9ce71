"""Training steps of a model: which shapes to time, how, without a trace in the model or dataset, and what they cost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.planning.boundaries import Counts

Seconds = NDArray[np.float64]
_LENGTHS = 4  # from short to the longest, each so many times the one before
_SIZES = 3  # the same from the least rows to the most
_SHORT = 0.05  # the share of the sequences that are shorter than the shortest batch


class ProbeBatch(NamedTuple):
    """A batch to measure.

    Attributes:
        rows: Int array: positions in the lengths.
        padded_length: Int, the longest of them, in timesteps.
    """

    rows: NDArray[np.int64]
    padded_length: int

    @property
    def padded_timesteps(self) -> int:
        """Int, rows x padded length."""
        return len(self.rows) * self.padded_length


def probe_batches(
    lengths: Lengths, min_rows: int, max_rows: int, multiple: int = 1, max_timesteps: int | None = None
) -> list[ProbeBatch]:
    """Chooses batches of real rows that span what could be proposed, the one with the fewest padded timesteps first.

    Each takes neighbors in the order of the lengths, as the batches of a bucket do.

    Args:
        lengths: Int array `(num_sequences,)`, increasing, in timesteps.
        min_rows: Int, a multiple of `multiple`.
        max_rows: Int, a multiple of `multiple`, not more than there are sequences.
        multiple: Int. Every batch has a multiple of it.
        max_timesteps: Int, the most padded timesteps of a batch, or None. Longer batches have fewer rows, `multiple` at
            least.

    Example:
        >>> lengths = np.arange(1, 101)
        >>> batches = probe_batches(lengths, min_rows=2, max_rows=8)
        >>> [(len(batch.rows), batch.padded_length) for batch in batches[:5]]
        [(2, 6), (4, 6), (2, 16), (8, 8), (4, 16)]
    """
    shortest = int(lengths[int(_SHORT * len(lengths))])
    # Rounded up to whole timesteps, and to the next length that there is.
    padded_lengths = np.ceil(np.geomspace(shortest, int(lengths[-1]), _LENGTHS) - 1e-9)
    ends = np.searchsorted(lengths, padded_lengths, side="right")
    sizes = np.rint(np.geomspace(min_rows, max_rows, _SIZES) / multiple).astype(np.int64) * multiple
    chosen = {}
    for end in ends.tolist():
        for size in sizes.tolist():
            rows = size
            if max_timesteps is not None:
                rows = max(
                    min(size, max_timesteps // int(lengths[max(end, size) - 1]) // multiple * multiple), multiple
                )
            stop = max(end, rows)
            chosen[stop, rows] = ProbeBatch(np.arange(stop - rows, stop), int(lengths[stop - 1]))
    return sorted(chosen.values(), key=lambda batch: (batch.padded_timesteps, batch.padded_length))


@dataclass(frozen=True)
class StepTimes:
    """The measured steps.

    Attributes:
        seconds: Float array `(num_measured,)`, the median of each batch that fits into memory.
        too_large: Int, the padded timesteps of the smallest batch that does not fit, or None.
    """

    seconds: Seconds
    too_large: int | None


def time_steps(
    model: keras.Model,
    dataset: BucketedSequence,
    batches: Sequence[NDArray[np.int64]],
    padded_timesteps: Sequence[int],
    repeats: int,
) -> StepTimes:
    """Trains on some batches, one after the other, several times over, and goes back to where the model was.

    Args:
        model: A compiled model.
        dataset: Holds the rows.
        batches: For each batch an int array of row indices into the input, small batches first.
        padded_timesteps: Ints, those of each batch, increasing.
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
                    too_large = padded_timesteps[_order(len(batches), repeats)[failed]]
                    padded_timesteps = [timesteps for timesteps in padded_timesteps if timesteps < too_large]
                    batches = batches[: len(padded_timesteps)]
                    if not batches:
                        raise
    seconds = np.diff(clock.begins) / model.steps_per_execution
    order = np.array(_order(len(batches), repeats))
    timed = np.arange(len(order)) >= len(batches)  # the first round traces, compiles and fills caches
    medians = [float(np.median(seconds[timed & (order == batch)])) for batch in range(len(batches))]
    return StepTimes(np.array(medians), too_large)


def _build(model: keras.Model, dataset: BucketedSequence, rows: NDArray[np.int64]) -> None:
    """Makes the variables that `fit` would make, so that their first values are known."""
    batch = next(iter(dataset._batches_of_rows([rows])))
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    with model.distribute_strategy.scope():
        model(x)
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def _order(num_batches: int, repeats: int) -> list[int]:
    """The batches in the order of training: an untimed round, then the timed ones, each beginning with another."""
    rounds = [[(shift + index) % num_batches for index in range(num_batches)] for shift in range(repeats)]
    return [*range(num_batches), *(batch for batches in rounds for batch in batches)]


def _train(
    model: keras.Model, dataset: BucketedSequence, batches: Sequence[NDArray[np.int64]], repeats: int, clock: _StepClock
) -> None:
    together = model.steps_per_execution  # batches that one call of the hooks stands for
    rows = [batches[batch] for batch in _order(len(batches), repeats) for _ in range(together)]
    model.fit(dataset._batches_of_rows(rows), callbacks=[clock], shuffle=False, verbose=0)


class _StepClock(keras.callbacks.Callback):
    """Records when steps begin, and when the last one ends: a step takes until the next one begins, with all of `fit`.

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
        self._record_time()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self._record_time()

    def _record_time(self) -> None:
        # An accelerator works on while Python goes ahead; to read what a step writes is to wait for it.
        if self._smallest is not None:
            tf.convert_to_tensor(self._smallest.value).numpy()
        self.begins.append(time.perf_counter())


@contextmanager
def restored_model(model: keras.Model) -> Iterator[None]:
    """Brings back the values of all variables at the end, also after an error or an interrupt.

    These are the weights, the random states of dropout, and what the optimizer and the metrics have counted; besides
    them `model.history`, `model.stop_training`, and the random states of Python and NumPy. Metrics that are made in
    between are reset.
    """
    values = [(variable, tf.convert_to_tensor(variable.value).numpy()) for variable in _variables(model)]
    attributes = {name: getattr(model, name) for name in ("history", "stop_training") if hasattr(model, name)}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        model.reset_metrics()
        for variable, value in values:
            variable.assign(value)
        if "history" not in attributes and hasattr(model, "history"):
            del model.history
        for name, attribute in attributes.items():
            setattr(model, name, attribute)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _variables(model: keras.Model) -> list[Any]:
    variables = [*model.variables, *(variable for metric in model.metrics for variable in metric.variables)]
    if model.optimizer is not None:
        variables += model.optimizer.variables
    return list({id(variable): variable for variable in variables}.values())


@dataclass(frozen=True)
class StepCosts:
    """The parts of a step's time; none is negative.

    Attributes:
        overhead: Float, seconds a step, whatever its shape.
        per_timestep: Float, seconds a timestep of the padded length, whatever the rows: what a recurrent layer pays for
            doing one timestep after the other.
        per_padded_timestep: Float, seconds a row and timestep: of rows x padded length.

    Example:
        >>> costs = StepCosts(overhead=0.5, per_timestep=0.25, per_padded_timestep=0.125)
        >>> costs.seconds(rows=2, padded_lengths=4)
        2.5
    """

    overhead: float
    per_timestep: float
    per_padded_timestep: float

    def seconds(self, rows: Any, padded_lengths: Any) -> Any:
        """Seconds of steps of these shapes.

        Args:
            rows: Int or array, the rows of each batch.
            padded_lengths: Int, float or array, in timesteps; a mean gives the mean of the seconds.
        """
        return self.overhead + (self.per_timestep + self.per_padded_timestep * rows) * padded_lengths


def fit_step_costs(rows: Counts, padded_lengths: Lengths, seconds: Seconds) -> StepCosts:
    """Finds the costs whose relative errors are the smallest, in least squares.

    Relative, because a short step that is 1 ms off matters as much as a long one that is 100 ms off: an epoch has more
    of the short ones.

    Args:
        rows: Int array `(num_steps,)`.
        padded_lengths: Int array `(num_steps,)`, in timesteps.
        seconds: Float array `(num_steps,)`, positive.

    Example:
        >>> costs = StepCosts(overhead=0.5, per_timestep=0.25, per_padded_timestep=0.125)
        >>> rows, lengths = np.array([1, 2, 4, 4]), np.array([8, 2, 2, 8])
        >>> fitted = fit_step_costs(rows, lengths, costs.seconds(rows, lengths))
        >>> [round(cost, 6) for cost in (fitted.overhead, fitted.per_timestep, fitted.per_padded_timestep)]
        [0.5, 0.25, 0.125]
    """
    parts = np.stack([np.ones(len(seconds)), padded_lengths, rows * padded_lengths], axis=1) / seconds[:, np.newaxis]
    scale = parts.max(axis=0)
    parts = parts / scale
    best, min_error = np.zeros(3), float(len(seconds))  # no cost at all: every relative error is 1
    # Where a cost would be negative, the best without negative ones has some of them at 0: with three, all ways to
    # leave some out are quickly tried.
    for number in (1, 2, 3):
        for kept in map(list, combinations(range(3), number)):
            found = np.linalg.lstsq(parts[:, kept], np.ones(len(seconds)), rcond=None)[0]
            error = float(((parts[:, kept] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < min_error:
                best, min_error = np.zeros(3), error
                best[kept] = found
    return StepCosts(*(best / scale).tolist())
