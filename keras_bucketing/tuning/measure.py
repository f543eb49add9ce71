"""Training steps of a model: which shapes to measure, and how, without a trace in the model or dataset."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.planning.boundaries import Counts
from keras_bucketing.planning.forecast import Figures
from keras_bucketing.predicting.batch_runs import always_compiles, layers_inside, restored_model, value_of
from keras_bucketing.tuning.choose import StepCosts, fit_memory_costs, fit_step_costs

_LENGTHS = 4  # from short to the longest, each so many times the one before
_SIZES = 3  # the same from the least rows to the most
_SHORT = 0.05  # the share of the sequences that are shorter than the shortest batch
_MAX_EPOCHS = 8  # of the dataset as it is
_MIN_STEPS = 8
_PARTS = 8  # that an epoch or two are split into
_MAX_MORE_REPEATS = 4  # times as often as the largest batch the others are timed at most
# Of an accelerator's memory so much is planned with: allocators leave gaps.
_USABLE_MEMORY = 0.85


class ProbeBatch(NamedTuple):
    """A batch to measure.

    Attributes:
        rows: Int array: positions in the lengths.
        padded_length: Int, the longest of them, in timesteps.
    """

    rows: RowIndices
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


def corner_batches(probes: Sequence[ProbeBatch]) -> list[int]:
    """The positions of five batches that tell most about the others: few rows and many, short and long, one between."""
    by_rows = sorted(range(len(probes)), key=lambda index: (len(probes[index].rows), probes[index].padded_length))
    by_rows_long = sorted(range(len(probes)), key=lambda index: (len(probes[index].rows), -probes[index].padded_length))
    corners = {by_rows[0], by_rows[-1], by_rows_long[0], by_rows_long[-1]}
    others = [index for index in range(len(probes)) if index not in corners]
    return sorted({*corners, *others[len(others) // 2 :][:1]})


@dataclass(frozen=True)
class MeasuredStep:
    """A training step of one shape.

    Attributes:
        rows: Int.
        padded_length: Int, in timesteps.
        seconds: Float, the median of the measurements.
        predicted_seconds: Float, by the fitted costs.
        peak_bytes: Int, the maximum memory in use; None if it was not measured.

    Example:
        >>> step = MeasuredStep(rows=32, padded_length=10, seconds=0.004, predicted_seconds=0.005)
        >>> round(step.predicted_seconds / step.seconds, 2)
        1.25
    """

    rows: int
    padded_length: int
    seconds: float
    predicted_seconds: float
    peak_bytes: int | None = None

    @property
    def error(self) -> float:
        """Float, the error of the prediction, as a share of the measured seconds."""
        return abs(self.predicted_seconds / self.seconds - 1)


@dataclass(frozen=True)
class StepTimes:
    """The measured steps: of the batches that fit into memory.

    Attributes:
        probes: The batches.
        seconds: Float array `(num_steps,)`, the median of each batch.
        first_seconds: Float array `(num_steps,)`, the first step of each batch, which may hold its compilation.
        peak_bytes: Float array `(num_steps,)`, the most memory that was in use; NaN where it is not known.
        usable_bytes: Float, the memory that a step may take; None where nothing says so.
        too_large: Int, the padded timesteps of the smallest batch that does not fit, or None.
        epoch_seconds: Float, what `fit` takes to begin and to end an epoch.
        slowdown: Float, how many times as long a step takes among the others of an epoch as its costs say.
    """

    probes: Sequence[ProbeBatch]
    seconds: Figures
    first_seconds: Figures
    peak_bytes: Figures
    usable_bytes: float | None = None
    too_large: int | None = None
    epoch_seconds: float = 0.0
    slowdown: float = 1.0

    @property
    def rows(self) -> Counts:
        """Int64 array `(num_steps,)`: the rows of each batch."""
        return np.array([len(probe.rows) for probe in self.probes])

    @property
    def padded_lengths(self) -> Lengths:
        """Int64 array `(num_steps,)`, in timesteps."""
        return np.array([probe.padded_length for probe in self.probes])

    @property
    def compile_seconds(self) -> float:
        """Float, by how many seconds the first step of a shape is longer, on average."""
        return float(np.maximum(self.first_seconds - self.seconds, 0).mean())

    @property
    def costs(self) -> StepCosts:
        """What the steps cost."""
        return fit_step_costs(self.rows, self.padded_lengths, self.seconds)

    @property
    def steps(self) -> tuple[MeasuredStep, ...]:
        """Each step with what these costs say of it."""
        predicted = self.costs.seconds(self.rows, self.padded_lengths).tolist()
        memory = [None if np.isnan(peak) else int(peak) for peak in self.peak_bytes]
        columns = (self.rows.tolist(), self.padded_lengths.tolist(), self.seconds.tolist(), predicted, memory)
        return tuple(MeasuredStep(*step) for step in zip(*columns, strict=True))


def time_steps(
    model: keras.Model,
    dataset: BucketedSequence,
    probes: Sequence[ProbeBatch],
    repeats: int,
    verbose: int = 0,
    measures_epoch: bool = True,
) -> StepTimes:
    """Trains on some batches, one after the other, several times over, and goes back to where the model was.

    Args:
        model: A compiled model.
        dataset: Holds the rows.
        probes: The batches, whose rows are indices into the input, small ones first.
        repeats: Int, how often the largest batch is timed; small ones up to four times as often.
        verbose: Int, as of `fit`.
        measures_epoch: Whether to train on epochs of the dataset as well, about as long as on the batches.

    Raises:
        Exception: If not even the first batch fits into memory, what the backend raises.
    """
    memory = device_memory()
    limit = None if memory is None or memory.limit is None else _USABLE_MEMORY * memory.limit
    probes = list(probes)
    too_large = None
    with restored_model(model):
        _build(model, dataset, probes[0].rows)
        while True:
            meter = _StepMeter(probes, repeats, memory, limit, verbose)
            try:
                with restored_model(model):
                    _train(model, dataset, [probes[probe].rows for probe in meter.order], meter)
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                too_large = probes[meter.order[len(meter.seconds)]].padded_timesteps
                limit = max((peak for peak in meter.peak_bytes if peak > 0), default=None)  # what is known to fit
                probes = [probe for probe in probes if probe.padded_timesteps < too_large]
                if not probes:
                    raise
            else:
                if meter.too_large is None:
                    break
                skipped = probes.pop(meter.too_large).padded_timesteps
                too_large = skipped if too_large is None else min(too_large, skipped)
            finally:
                meter.close()
    seconds = np.array(meter.seconds) / model.steps_per_execution
    order = np.array(meter.order)
    order[: len(probes)] = -1  # the first round traces, compiles and fills caches
    medians = np.array([np.median(seconds[order == probe]) for probe in range(len(probes))])
    first, peaks = seconds[: len(probes)], np.array(meter.peak_bytes)
    times = StepTimes(probes, medians, first, peaks, limit, too_large)
    if not measures_epoch or too_large is not None:  # a batch of the dataset as it is might not fit either
        return times
    return _with_epoch(times, model, dataset, max_seconds=sum(meter.seconds[len(probes) :]))


def _with_epoch(times: StepTimes, model: keras.Model, dataset: BucketedSequence, max_seconds: float) -> StepTimes:
    """Adds what an epoch takes besides its steps, and how much longer these take in it.

    Batches of other lengths come one after the other there, and a pass is planned. Where each of their shapes would be
    compiled, only the smallest batch is trained on.
    """
    few_shapes = dataset._batch_rules.pad_to_bucket_boundary or not always_compiles(model)
    if not few_shapes:
        batches = dataset._batches_of_rows([times.probes[0].rows] * 2 * model.steps_per_execution)
        expected = [times.seconds[:1].repeat(len(batches))] * _MAX_EPOCHS
    else:
        batches = dataset._passes_apart()
        plans = [dataset._planner.plan(epoch, dataset.seed) for epoch in range(_MAX_EPOCHS)]
        expected = [times.costs.seconds(np.diff(plan.batch_splits), plan.padded_lengths) for plan in plans]
    groups = np.arange(0, len(batches), model.steps_per_execution)
    meter = _EpochMeter([np.add.reduceat(of_epoch, groups) for of_epoch in expected], max_seconds)
    try:
        with restored_model(model):
            model.fit(batches, epochs=sys.maxsize, callbacks=[meter], shuffle=False, verbose=0)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        return times
    slowdown = meter.slowdown if few_shapes else 1.0
    return replace(times, slowdown=slowdown, epoch_seconds=meter.epoch_seconds)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether any backend, on any device, says with this error that there is not enough memory."""
    if isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "can't allocate memory"))


def _build(model: keras.Model, dataset: BucketedSequence, rows: RowIndices) -> None:
    """Makes the variables that `fit` would make, so that their first values are known."""
    with ExitStack() as scopes:
        if keras.backend.backend() == "tensorflow":
            scopes.enter_context(model.distribute_strategy.scope())
        if not all(layer.built for layer in layers_inside(model)):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(next(iter(dataset._batches_of_rows([rows]))))
            model(keras.tree.map_structure(lambda values: keras.ops.convert_to_tensor(values.numpy()), x))
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)


def _train(
    model: keras.Model, dataset: BucketedSequence, batches: list[RowIndices], meter: keras.callbacks.Callback
) -> None:
    together = model.steps_per_execution  # batches that one call of the hooks stands for
    rows = [of_batch for of_batch in batches for _ in range(together)]
    # A model that `BackupAndRestore` has restored begins at a later epoch than any that is asked for, so the meter ends
    # the training (`_initial_epoch` in keras/src/trainers/trainer.py).
    batches_of_rows = dataset._batches_of_rows(rows)
    model.fit(batches_of_rows, epochs=sys.maxsize, callbacks=[meter], shuffle=False, verbose=0)


def _order(padded_timesteps: Sequence[int], repeats: int) -> list[int]:
    """The batches in the order of training: each once, small ones first, and then in rounds that are shuffled.

    Small batches are in more of the rounds: other programs disturb them the most, and they cost the least. And what a
    large one leaves behind, such as memory to be freed, does not always fall to the same one.
    """
    more = np.sqrt(max(padded_timesteps) / np.array(padded_timesteps))
    repeats_of = repeats * np.clip(more, 1, _MAX_MORE_REPEATS).astype(np.int64)
    random = np.random.default_rng(0)
    order = list(range(len(padded_timesteps)))
    for number in range(int(repeats_of.max())):
        order += random.permutation(np.flatnonzero(repeats_of > number)).tolist()
    return order


class _StepMeter(keras.callbacks.Callback):
    """Measures one epoch of batches: an untimed round of them, then the timed ones.

    A step takes from the end of the one before until its own, with all that `fit` does in between. Where its memory is
    measured, the training stops before a batch of the first round that is expected not to fit.

    Attributes:
        probes: The batches.
        order: Ints, which of them in the order of training.
        seconds: List of floats, those of the steps so far.
        peak_bytes: List of floats, the memory of the steps of the first round so far; NaN where it is not known.
        too_large: Int, the batch that was expected not to fit, or None.
    """

    def __init__(
        self,
        probes: Sequence[ProbeBatch],
        repeats: int,
        memory: DeviceMemory | None,
        limit: float | None,
        verbose: int,
    ):
        super().__init__()
        self.probes = probes
        self.order = _order([probe.padded_timesteps for probe in probes], repeats)
        self.seconds: list[float] = []
        self.peak_bytes: list[float] = []
        self.too_large: int | None = None
        self._memory, self._limit = memory, limit
        self._bar = keras.utils.Progbar(len(self.order), verbose=verbose)

    def on_train_begin(self, logs: object = None) -> None:
        weights = self.model.trainable_variables
        self._smallest = min(weights, key=lambda weight: int(np.prod(weight.shape)), default=None)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        if self._memory is not None and len(self.peak_bytes) < len(self.probes):
            self._memory.begin_step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras has read the logs, and so has waited for the step; an accelerator may still update the weights. JAX does
        # both at once, and has no values in the variables of a model that trains.
        if self._smallest is not None and keras.backend.backend() != "jax":
            value_of(self._smallest)
        self.seconds.append(time.perf_counter() - self._begin)
        if len(self.peak_bytes) < len(self.probes):
            self.peak_bytes.append(np.nan if self._memory is None else self._memory.peak_of_step())
            if self._next_is_too_large():
                self.too_large = len(self.peak_bytes)
                self.model.stop_training = True
        self._bar.update(len(self.seconds))
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.model.stop_training = True

    def close(self) -> None:
        """Ends the progress bar of a training that was cut short."""
        if len(self.seconds) < len(self.order):
            self._bar.update(len(self.seconds), finalize=True)

    def _next_is_too_large(self) -> bool:
        known = len(self.peak_bytes)
        if self._memory is None or known == len(self.probes):
            return False
        rows, lengths = np.array([(len(probe.rows), probe.padded_length) for probe in self.probes]).T
        costs = fit_memory_costs(rows[:known], lengths[:known], np.array(self.peak_bytes), self._limit)
        return costs is not None and bool(costs.peak_bytes(rows[known], lengths[known]) > costs.limit)


class _EpochMeter(keras.callbacks.Callback):
    """Measures epochs whose steps are expected to take so long, as many as there is time for, but one at least.

    Args:
        expected: For each epoch the seconds of its steps, `(num_steps,)`.
        max_seconds: Float.
        clock: Function that returns the time in seconds.
    """

    # Two things would make steps longer than those of a user, on JAX by up to a half. Keras reads the logs of a step
    # before its hook, and so waits for the step, except in threads of their own, which this allows
    # (`_configure_async_dispatch` in keras/src/callbacks/callback_list.py). And `self.model` brings all variables up to
    # date on JAX (keras/src/callbacks/callback.py), which is also an error while the next step holds them.
    async_safe = True

    def __init__(self, expected: Sequence[Figures], max_seconds: float, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        self._expected, self._clock = expected, clock
        self._max_steps = max(int(max_seconds / np.concatenate(expected).mean()), _MIN_STEPS)
        self._times: list[list[float]] = []  # of each epoch: when it began, the end of each step, and its own end

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._trained = model

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        # Between two epochs `fit` works on, and begins to read the next one: that is part of what an epoch takes.
        self._times.append([self._times[-1][-1] if self._times else self._clock()])

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self._times[-1].append(self._clock())  # the step has ended: in the thread, Keras has waited for its logs
        self._trained.stop_training = sum(map(len, self._times)) - len(self._times) >= self._max_steps

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._times[-1].append(self._clock())
        self._times[-1].sort()  # two threads may end in another order than they began in
        self._trained.stop_training |= len(self._times) == len(self._expected)

    @property
    def epoch_seconds(self) -> float:
        """What an epoch took until its first step began."""
        timed = self._timed_epochs()
        return float(np.median([max(times[1] - times[0] - expected[0], 0.0) for times, expected in timed]))

    @property
    def slowdown(self) -> float:
        """How many times as long as expected the steps took."""
        timed = self._timed_epochs()
        if len(timed) > 1:
            before = self.epoch_seconds
            return float(np.median([(times[-1] - times[0] - before) / expected.sum() for times, expected in timed]))
        # Parts of an epoch or two: in the first quarter caches fill, and shapes are compiled.
        pairs = list(zip(self._times, self._expected, strict=False))
        measured = np.concatenate([np.diff(times)[1:-1] for times, _ in pairs])
        expected = np.concatenate([expected[1 : len(times) - 2] for times, expected in pairs])
        parts = zip(*(np.array_split(column, _PARTS)[_PARTS // 4 :] for column in (measured, expected)), strict=True)
        ratios = [part.sum() / of_part.sum() for part, of_part in parts if len(part)]
        return float(np.median(ratios)) if ratios else 1.0

    def _timed_epochs(self) -> list[tuple[list[float], Figures]]:
        """Whole epochs but for the first quarter of them; a single one if there are not three."""
        pairs = list(zip(self._times, self._expected, strict=False))
        whole = [(times, expected) for times, expected in pairs if len(times) == len(expected) + 2]
        return whole[-(-len(whole) // 4) :] if len(whole) > 2 else pairs[-1:]


@dataclass
class DeviceMemory:
    """The memory of an accelerator.

    Attributes:
        limit: Float, its bytes; None where nothing says so.
        read_peak: Function that returns the most bytes that were in use, of the fullest device.
        reset_peak: Function that begins to count again; None where the count goes on, so that a step is only known
            where it takes more than all before it.
    """

    limit: float | None
    read_peak: Callable[[], float]
    reset_peak: Callable[[], None] | None = None
    _before: float = 0.0

    def begin_step(self) -> None:
        """Notes what was in use before."""
        if self.reset_peak is None:
            self._before = self.read_peak()
        else:
            self.reset_peak()

    def peak_of_step(self) -> float:
        """The most bytes in use since the step began; NaN if they are not known."""
        peak = self.read_peak()
        return peak if peak > self._before else np.nan


def device_memory() -> DeviceMemory | None:
    """The memory of the devices that Keras trains on; None where nothing measures it, as on a CPU."""
    return _MEMORY_OF_BACKENDS[keras.backend.backend()]()


def _tensorflow_memory() -> DeviceMemory | None:
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    experimental = tf.config.experimental

    def read_peak() -> float:
        return max(float(experimental.get_memory_info(name)["peak"]) for name in names)

    def reset_peak() -> None:
        for name in names:
            experimental.reset_memory_stats(name)

    try:
        read_peak()
    except ValueError:  # no device, or one that does not count
        return None
    return DeviceMemory(_tensorflow_limit(), read_peak, reset_peak)


def _tensorflow_limit() -> float | None:
    """What the user has limited the first GPU to, or what NVIDIA's driver says: TensorFlow does not say it."""
    for gpu in tf.config.get_visible_devices("GPU"):
        for configuration in tf.config.get_logical_device_configuration(gpu) or []:
            if configuration.memory_limit is not None:
                return float(configuration.memory_limit) * 2**20
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, size = ctypes.c_int(), ctypes.c_size_t()
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    failed = failed or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return None if failed else float(size.value)


def _jax_memory() -> DeviceMemory | None:
    import jax

    def stats() -> list[dict[str, Any]]:
        return [device.memory_stats() or {} for device in jax.local_devices()]

    if not all("peak_bytes_in_use" in of_device for of_device in stats()):
        return None
    limits = [float(of_device["bytes_limit"]) for of_device in stats() if "bytes_limit" in of_device]
    return DeviceMemory(
        min(limits, default=None), lambda: max(float(of_device["peak_bytes_in_use"]) for of_device in stats())
    )


def _torch_memory() -> DeviceMemory | None:
    import torch

    if not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info()
    return DeviceMemory(
        float(free + torch.cuda.memory_reserved()),
        lambda: float(torch.cuda.max_memory_allocated()),
        torch.cuda.reset_peak_memory_stats,
    )


_MEMORY_OF_BACKENDS = {"tensorflow": _tensorflow_memory, "jax": _jax_memory, "torch": _torch_memory}
TRAINING_BACKENDS = tuple(_MEMORY_OF_BACKENDS)
