"""Runs of a model that change nothing, and comparisons of their outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.checking.sample import Array, Batch
from keras_bucketing.predicting.batch_runs import layers_inside, reset_states, stateful_layers, value_of
from keras_bucketing.predicting.time_axes import axis_that_grew

_EPSILONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_FLOAT32_EPSILON = 2.0**-23


# What a model computes.


class Runner:
    """Runs a model in inference mode, with the states of stateful layers reset before each run.

    Attributes:
        graph_error: The error of the graph, as in `fit` and `predict`, if the model runs only without a graph.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.graph_error: str | None = None
        self._stateful = stateful_layers(model)
        parameters = inspect.signature(model.call).parameters
        self._options = {"training": False} if "training" in parameters else {}
        self._names = _input_names(model)
        self._in_graph: Callable[[Any], Any] | None = None
        if keras.config.backend() == "tensorflow" and not getattr(model, "run_eagerly", False):
            # As keras/src/backend/tensorflow/trainer.py makes the function of `predict`: the first batch is traced with
            # its number of timesteps, and the next one with any.
            self._in_graph = tf.function(self._call, reduce_retracing=True)

    def __call__(self, batch: Batch) -> list[Array]:
        """The outputs for a batch, as arrays."""
        self.reset_states()
        tensors = self.tensors_of(batch)
        if self._in_graph is not None:
            try:
                return _arrays(self._in_graph(tensors))
            except Exception as error:
                self.reset_states()
                outputs = _arrays(self._call(tensors))  # what raises here as well is no matter of graphs
                self.graph_error, self._in_graph = f"{type(error).__name__}: {error}".strip(), None
                return outputs
        return _arrays(self._call(tensors))

    def eagerly(self, batch: Batch) -> Any:
        """The outputs for a batch, as the model returns them."""
        self.reset_states()
        return self._call(self.tensors_of(batch))

    def tensors_of(self, batch: Batch) -> Any:
        """The x of a batch as tensors; of a dict only the entries that the model declares."""
        x = batch.x
        if self._names is not None and isinstance(x, dict) and self._names < set(x):
            x = {name: x[name] for name in self._names}
        return keras.tree.map_structure(keras.ops.convert_to_tensor, x)

    def _call(self, x: Any) -> Any:
        return self.model(x, **self._options)

    def reset_states(self) -> None:
        """Sets the states of stateful layers to zero."""
        reset_states(self._stateful)


def _input_names(model: keras.Model) -> set[str] | None:
    """The keys of the dict that a functional model declares, or None."""
    try:
        declared = model.input
    except (AttributeError, ValueError, RuntimeError):
        return None
    return set(declared) if isinstance(declared, dict) else None


def inputs_by_position(model: keras.Model, keys: list[str]) -> dict[str, str]:
    """Which entry each input of a functional model gets instead of its own, since the dataset has more entries.

    Before Keras 3.16 such a dict is fed by position (keras#23258).
    """
    names = _input_names(model)
    if names is None or not names < set(keys) or _selects_by_name():
        return {}
    return {name: key for name, key in zip(sorted(names), sorted(keys), strict=False) if name != key}


def _selects_by_name() -> bool:
    return tuple(map(int, keras.version().split(".")[:2])) >= (3, 16)


def _arrays(outputs: Any) -> list[Array]:
    flat = [to_array(output) for output in keras.tree.flatten(outputs) if hasattr(output, "shape")]
    return [output for output in flat if output is not None]


def to_array(tensor: Any) -> Array | None:
    """A tensor's values, half precision as float32; None if it has none, e.g. inside a compiled loop."""
    try:
        array = np.array(keras.ops.convert_to_numpy(tensor))
    except Exception:
        return None
    if array.dtype.kind not in "biuf":
        if "float" not in str(array.dtype):
            return None
        return array.astype(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


# A model as it is, and in half precision.


def fill_zero_weights(model: keras.Model) -> None:
    """Gives random values to trainable weights that are all zero, as biases are before training.

    With zero biases many layers turn zeros into zeros, so padding does not show before the first training step.
    """
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        value = value_of(variable)
        if not np.any(value != 0):
            variable.assign(rng.normal(scale=0.1, size=value.shape).astype(np.float32))


def half_precision(model: keras.Model) -> str | None:
    """The coarsest half precision that a layer computes in, or None."""
    dtypes = {layer.compute_dtype for layer in layers_inside(model)}
    return next((name for name in ("bfloat16", "float16") if name in dtypes), None)


def rounding_factor(dtype: str | None) -> float:
    """The ratio of a dtype's epsilon to that of float32."""
    return 1.0 if dtype is None else _EPSILONS[dtype] / _FLOAT32_EPSILON


@contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Makes the layers of mixed precision compute in float32, as their variables are stored."""
    mixed = [
        layer
        for layer in layers_inside(model)
        if layer.compute_dtype in _EPSILONS and layer.variable_dtype == "float32"
    ]
    policies = [layer.dtype_policy for layer in mixed]
    try:
        for layer in mixed:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in zip(mixed, policies, strict=True):
            layer.dtype_policy = policy


@contextmanager
def full_products() -> Iterator[None]:
    """Turns off TensorFloat-32, which multiplies with ten bits on newer GPUs, so that shapes round differently."""
    with ExitStack() as stack:
        if keras.config.backend() == "tensorflow":
            enabled = tf.config.experimental.tensor_float_32_execution_enabled()
            stack.callback(tf.config.experimental.enable_tensor_float_32_execution, enabled)
            tf.config.experimental.enable_tensor_float_32_execution(False)
        elif keras.config.backend() == "jax":
            import jax

            stack.enter_context(jax.default_matmul_precision("float32"))
        elif keras.config.backend() == "torch":
            import torch

            owner: Any

            for owner in (torch.backends.cudnn, torch.backends.cuda.matmul):
                stack.callback(setattr, owner, "allow_tf32", owner.allow_tf32)
                owner.allow_tf32 = False
            stack.enter_context(torch.no_grad())
        yield


# Differences between two runs, on real timesteps.


@dataclass(frozen=True)
class Difference:
    """The difference of two outputs.

    Attributes:
        absolute: Float, the largest difference; NaN if only one of two values is.
        exceeds: Float, the largest difference in units of `1 + |output|`.
        row: Int, the position of that row in the batch.
        output: Int, the index of the output.
    """

    absolute: float = 0.0
    exceeds: float = 0.0
    row: int = 0
    output: int = 0


def real_sizes(
    shape: Any, other: Any, padded: tuple[int, ...], others: tuple[int, ...], lengths: list[int]
) -> list[int] | None:
    """How much of each axis of a row's output depends only on real timesteps.

    An axis that grows with the padding is a time axis. Its size for a row without padding follows from how it grows: as
    much as the time axis, or, with strides, in proportion.

    Args:
        shape: The shape of one run's output, without the batch.
        other: The same of a run with other padding.
        padded: The padded length of each time axis in the first run.
        others: In the other run.
        lengths: The row's length on each time axis.

    Returns:
        None if an axis grows in an unexplained way.
    """
    if len(shape) != len(other):
        return None
    sizes = []
    for size, size_of_other in zip(shape, other, strict=True):
        growth = size_of_other - size
        if growth == 0:
            sizes.append(size)
            continue
        growths = [of_other - size_of_axis for size_of_axis, of_other in zip(padded, others, strict=True)]
        grown = [index for index in range(len(padded)) if growths[index]]
        exact = axis_that_grew(growth, growths)
        if exact is not None:
            real = lengths[exact] + size - padded[exact]
        elif grown and (len(grown) == 1 or len(set(padded)) == 1):
            slope = growth / (others[grown[0]] - padded[grown[0]])
            real = int(np.floor(slope * lengths[grown[0]] + size - slope * padded[grown[0]] + 1e-9))
        else:
            return None
        sizes.append(max(0, min(real, size, size_of_other)))
    return sizes


def row_difference(one: Array, two: Array, sizes: list[int], pads_left: bool) -> tuple[float, float]:
    """The largest difference between a row of two runs, absolute and in units of `1 + |output|`."""
    one, two = (_cropped(array, sizes, pads_left) for array in (one, two))
    if one.size == 0:
        return 0.0, 0.0
    one, two = one.astype(np.float64), two.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, np.abs(one - two))
        exceeds = np.where(np.isfinite(apart), apart / (1 + np.minimum(np.abs(one), np.abs(two))), np.inf)
    return float(np.where(np.isnan(apart), np.inf, apart).max()), float(exceeds.max())


def _cropped(array: Array, sizes: list[int], pads_left: bool) -> Array:
    for axis, size in enumerate(sizes):
        start = array.shape[axis] - size if pads_left else 0
        array = array.take(range(start, start + size), axis=axis)
    return array


def compare(
    one: list[Array],
    two: list[Array],
    first: Batch,
    second: Batch,
    pads_left: bool,
    rows: list[tuple[int, int]] | None = None,
) -> Difference:
    """Compares the outputs of two runs row by row.

    Args:
        one: Outputs of the first run.
        two: Outputs of the second.
        first: The batch of the first run.
        second: The batch of the second run.
        pads_left: Whether padding is at the beginning.
        rows: Pairs of positions, a row of the first batch and the same in the second. Defaults to all, in order.
    """
    num_rows = len(first.lengths[0]) if first.lengths else len(keras.tree.flatten(first.x)[0])
    worst = Difference()
    for output, (a, b) in enumerate(zip(one, two, strict=True)):
        if not a.ndim or not b.ndim or len(a) != num_rows or len(b) != num_rows:
            pairs = [(0, 0)] if rows is None and a.shape == b.shape else []
            a, b = a[np.newaxis], b[np.newaxis]
            lengths_of = [list(first.padded_lengths)]
        else:
            pairs = [(row, row) for row in range(num_rows)] if rows is None else rows
            lengths_of = [[int(of_axis[row]) for of_axis in first.lengths] for row in range(num_rows)]
        for row, row_of_two in pairs:
            sizes = real_sizes(a.shape[1:], b.shape[1:], first.padded_lengths, second.padded_lengths, lengths_of[row])
            if sizes is None:
                continue
            absolute, exceeds = row_difference(a[row], b[row_of_two], sizes, pads_left)
            if exceeds > worst.exceeds or absolute > worst.absolute:
                worst = Difference(max(absolute, worst.absolute), max(exceeds, worst.exceeds), row, output)
    return worst
