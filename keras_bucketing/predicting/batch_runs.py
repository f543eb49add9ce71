"""Runs of a model on every backend: batch by batch, compiled by XLA or not, without a trace in the model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Array = NDArray[Any]


def layers_inside(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A model and all layers inside of it, at any depth, each once."""
    found: dict[int, keras.layers.Layer] = {}
    waiting: list[Any] = [model]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, keras.layers.Layer):
            found[id(value)] = value
            waiting += list(vars(value).values())
        elif isinstance(value, dict):
            waiting += list(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting += list(value)
    return list(found.values())


def stateful_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that keep a state from batch to batch."""
    return [layer for layer in layers_inside(model) if getattr(layer, "stateful", False)]


def reset_states(layers: list[keras.layers.Layer]) -> None:
    """Sets the states of stateful layers to zero."""
    for layer in layers:
        if getattr(layer, "states", True) is not None and hasattr(layer, "reset_state"):
            layer.reset_state()


def declared_batch_size(model: keras.Model) -> int | None:
    """The batch size of the model's inputs, if they have one."""
    try:
        shapes = [tensor.shape for tensor in keras.tree.flatten(model.inputs)]
    except (AttributeError, ValueError):
        return None
    return next((int(shape[0]) for shape in shapes if shape and shape[0] is not None), None)


def value_of(variable: Any) -> Array:
    """A copy of the value of a variable."""
    # By way of a copy: `convert_to_numpy` hands TensorFlow's variables to NumPy 2, whose `copy` they do not know.
    return np.array(keras.ops.convert_to_numpy(keras.ops.copy(variable.value)))


@contextmanager
def restored_variables(model: keras.Model) -> Iterator[None]:
    """Brings back the values of all variables at the end, and the random states of Python and NumPy.

    The variables are the weights, the random states of dropout, and what the optimizer and the metrics have counted.
    Metrics that are made in between are reset.
    """
    variables = [*model.variables, *(v for metric in getattr(model, "metrics", []) for v in metric.variables)]
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    # None of them is read at the end: after an error JAX may have deleted what they hold.
    values = {id(variable): (variable, value_of(variable)) for variable in variables}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        for metric in getattr(model, "metrics", []):
            if any(id(variable) not in values for variable in metric.variables):
                metric.reset_state()
        for variable, value in values.values():
            variable.assign(value)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def restored_model(model: keras.Model) -> Iterator[None]:
    """Brings back the model as it was at the end, also after an error or an interrupt.

    These are the values of its variables, `model.history`, `model.stop_training`, and the random states of Python,
    NumPy and PyTorch.
    """
    attributes = {name: getattr(model, name) for name in ("history", "stop_training") if hasattr(model, name)}
    with ExitStack() as stack:
        stack.enter_context(restored_variables(model))
        if keras.backend.backend() == "torch":
            stack.enter_context(_restored_modules(model))
        try:
            yield
        finally:
            if "history" not in attributes and hasattr(model, "history"):
                del model.history
            for name, attribute in attributes.items():
                setattr(model, name, attribute)


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


class BatchPredictor:
    """Predicts batch after batch with a model, each row as a sequence of its own: states are reset before each batch.

    `predict` of JAX and PyTorch joins the batches and fails where their outputs have unequal shapes
    (keras/src/backend/jax/trainer.py), so each batch goes through `predict_on_batch`.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._stateful = stateful_layers(model)
        self._num_devices = _num_devices(model)
        self._multiple = self._num_devices
        if self._stateful:
            self._multiple = max(declared_batch_size(model) or 1, self._multiple)

    def __call__(self, x: Any) -> Any:
        """The outputs for the `x` of a batch, a structure of arrays `(batch, ...)`."""
        reset_states(self._stateful)
        num_rows = len(keras.tree.flatten(x)[0])
        num_more = -num_rows % self._multiple
        if num_more:
            rows = np.minimum(np.arange(num_rows + num_more), num_rows - 1)
            x = keras.tree.map_structure(lambda leaf: leaf[rows], x)
        outputs = self._run(x)
        if not num_more:
            return outputs
        return keras.tree.map_structure(
            lambda output: output[:num_rows] if np.shape(output)[:1] == (num_rows + num_more,) else output, outputs
        )

    def _run(self, x: Any) -> Any:
        if self._num_devices > 1:
            # `predict_on_batch` gives every replica the whole batch; `predict` shares it out among them.
            return self._model.predict(tf.data.Dataset.from_tensors((x,)), verbose=0)
        return self._model.predict_on_batch(keras.tree.map_structure(keras.ops.convert_to_tensor, x))

    @contextmanager
    def states_restored(self) -> Iterator[None]:
        """Brings the states of stateful layers back at the end."""
        variables = [variable for layer in self._stateful for variable in layer.non_trainable_variables]
        values = [(variable, value_of(variable)) for variable in variables]
        try:
            yield
        finally:
            for variable, value in values:
                variable.assign(value)


def _num_devices(model: keras.Model) -> int:
    """Among how many devices `fit` and `predict` share each batch."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None:
        return int(strategy.num_replicas_in_sync)
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(np.prod(distribution.device_mesh.shape))
