"""How many rows a model has received, as far as Keras itself counts them."""

from __future__ import annotations

import threading
from typing import Any

import keras


def rows_in_loss(model: Any) -> int | None:
    """The rows that the model's loss metric has averaged since it was reset, at the beginning of an epoch.

    Keras weights each batch's loss by its rows (`train_step` in keras/src/backend/*/trainer.py), so that
    the weight adds up to them. A model with its own `train_step` may not: then the answer fits no batch, or
    is None.
    """
    for metric in model.metrics:
        if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
            # Not `convert_to_numpy`: a Keras variable's `__array__` does not know NumPy 2's `copy`, and is warned of it.
            return round(float(keras.ops.sum(metric.count)))
    return None


class PredictedRows:
    """Adds up the rows of the outputs in the logs of `on_predict_batch_end`; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0

    def add(self, logs: dict[str, Any] | None) -> None:
        """Adds one step's outputs."""
        outputs = keras.tree.flatten(logs or {})
        # CallbackList turns outputs of a single element into a float.
        rows = [int(output.shape[0]) if getattr(output, "shape", ()) else 1 for output in outputs[:1]]
        with self._lock:
            self._rows += sum(rows)

    @property
    def total(self) -> int | None:
        """The rows so far; None if there were no outputs."""
        with self._lock:
            return self._rows or None
