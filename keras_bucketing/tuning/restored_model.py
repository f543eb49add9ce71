"""A model that is as it was before, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf


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
