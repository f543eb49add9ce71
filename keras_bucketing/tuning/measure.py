"""Training steps of a model: which shapes to measure, and how, without a trace in the model or dataset."""

from __future__ import annotations

import ctypes
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.planning.boundaries import Counts
from keras_bucketing.planning.forecast import Figures
from keras_bucketing.predicting.batch_runs import layers_inside, value_of
from keras_bucketing.tuning.choose import fit_memory_costs

_LENGTHS = 4  # from short to the longest, each so many times the one before
_SIZES = 3  # the same from the least rows to the most
_SHORT = 0.05  # the share of the sequences that are shorter than the shortest batch
_EMPTY_EPOCHS = 3  # that are timed, of the smallest batch
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
    """

    probes: Sequence[ProbeBatch]
    seconds: Figures
    first_seconds: Figures
    peak_bytes: Figures
    usable_bytes: float | None = None
    too_large: int | None = None
    epoch_seconds: float = 0.0

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


def time_steps(
    model: keras.Model, dataset: BucketedSequence, probes: Sequence[ProbeBatch], repeats: int, verbose: int = 0
) -> StepTimes:
    """Trains on some batches, one after the other, several times over, and goes back to where the model was.

    Args:
        model: A compiled model.
        dataset: Holds the rows.
        probes: The batches, whose rows are indices into the input, small ones first.
        repeats: Int, how often the largest batch is timed; small ones up to four times as often.
        verbose: Int, as of `fit`.

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
        with restored_model(model):
            epochs = _EpochMeter()
            _train(model, dataset, [probes[0].rows] * 2, epochs)
    seconds = np.array(meter.seconds) / model.steps_per_execution
    order = np.array(meter.order)
    order[: len(probes)] = -1  # the first round traces, compiles and fills caches
    medians = np.array([np.median(seconds[order == probe]) for probe in range(len(probes))])
    first, peaks = seconds[: len(probes)], np.array(meter.peak_bytes)
    return StepTimes(probes, medians, first, peaks, limit, too_large, float(np.median(epochs.seconds)))


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
        # An accelerator works on while Python goes ahead; to read what a step puts out is to wait for it. JAX has no
        # values in the variables of a model that trains.
        keras.tree.map_structure(keras.ops.convert_to_numpy, dict(logs or {}))
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
    """Measures what epochs of two equal steps take besides these.

    Attributes:
        seconds: List of floats, one an epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._times = [time.perf_counter()]

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self._times.append(time.perf_counter())

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        first, second, end = np.diff([*self._times, time.perf_counter()])
        self.seconds.append(float(max(first - second, 0.0) + end))
        self.model.stop_training = len(self.seconds) == _EMPTY_EPOCHS


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


def always_compiles(model: keras.Model) -> bool:
    """Whether training compiles each shape as it is."""
    backend = keras.backend.backend()
    return not model.run_eagerly and (backend == "jax" or (backend == "tensorflow" and bool(model.jit_compile)))


def may_be_compiled(model: keras.Model) -> bool:
    """Whether XLA could compile the training steps, where it does not already: on TensorFlow, on one device."""
    if keras.backend.backend() != "tensorflow" or model.run_eagerly or model.jit_compile:
        return False
    alone = model.distribute_strategy.num_replicas_in_sync == 1
    return alone and all(layer.supports_jit for layer in layers_inside(model))


@contextmanager
def compiled_by_xla(model: keras.Model) -> Iterator[None]:
    """Lets a model of the TensorFlow backend train as with `jit_compile=True`, and brings back its own function."""
    jit_compile, train_function = model.jit_compile, model.train_function
    try:
        model.jit_compile, model.train_function = True, None
        yield
    finally:
        model.jit_compile, model.train_function = jit_compile, train_function


@contextmanager
def restored_model(model: keras.Model) -> Iterator[None]:
    """Brings back the values of all variables at the end, also after an error or an interrupt.

    These are the weights, the random states of dropout, and what the optimizer and the metrics have counted; besides
    them `model.history`, `model.stop_training`, and the random states of Python, NumPy and PyTorch. Metrics that are
    made in between are reset.
    """
    values = [(variable, value_of(variable)) for variable in _variables(model)]
    attributes = {name: getattr(model, name) for name in ("history", "stop_training") if hasattr(model, name)}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with ExitStack() as stack:
        if keras.backend.backend() == "torch":
            stack.enter_context(_restored_modules(model))
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


@contextmanager
def _restored_modules(model: Any) -> Iterator[None]:
    """Brings back what PyTorch keeps beside the variables: the modes of the modules, gradients, its random states.

    Keras draws dropout without a seed from PyTorch's own generator (keras/src/backend/torch/random.py).
    """
    import torch

    modes = {id(module): module.training for module in model.modules()}
    mode = model.training  # of modules that `fit` makes as well
    gradients = {id(parameter): parameter.grad for parameter in model.parameters()}
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module in model.modules():
                module.training = modes.get(id(module), mode)
            for parameter in model.parameters():
                parameter.grad = gradients.get(id(parameter))


def _variables(model: keras.Model) -> list[Any]:
    variables = [*model.variables, *(variable for metric in model.metrics for variable in metric.variables)]
    if model.optimizer is not None:
        variables += model.optimizer.variables
    return list({id(variable): variable for variable in variables}.values())
