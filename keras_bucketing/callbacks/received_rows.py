"""How many rows a model has received, as far as Keras itself counts them."""

from __future__ import annotations

import threading
from typing import Any

import keras


def rows_in_loss(model: Any) -> int | None:
    """The rows that the model's loss metric has averaged since it was reset, at the beginning of an epoch.

    Keras weights each batch's loss by its rows (`train_step` in keras/src/backend/*/trainer.py), so that the weight
    adds up to them. A model with its own `train_step` may not: then the answer fits no batch, or is None.
    """
    for metric in model.metrics:
        if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
            # Not `convert_to_numpy`: a Keras variable's `__array__` does not know NumPy 2's `copy`, and is warned of
            # it.
            return round(float(keras.ops.sum(metric.count)))
    return None


class RunningCall:
    """A call of `fit`, `evaluate` or `predict` under way: what Keras told of it, and the rows of its loss.

    Args:
        model: The model that is called.
        params: What Keras gave to `set_params`; None where it gave nothing.

    Attributes:
        steps: Int, the steps that Keras announced; None where it does not know.
    """

    def __init__(self, model: Any, params: dict[str, Any] | None):
        self._model = model
        self.steps: int | None = (params or {}).get("steps")
        # One step at a time, the hooks leave no doubt: nobody asks for rows, and the metric is not looked at.
        self._needs_rows = getattr(model, "steps_per_execution", 1) > 1
        self._counted_apart = 0

    def rows(self) -> int | None:
        """The rows that the model has received in this call's epoch, if anybody needs and the model knows them."""
        rows = rows_in_loss(self._model) if self._needs_rows else None
        return None if rows is None else rows + self._counted_apart

    def reset(self) -> None:
        """Notes that Keras has set the metric back, for a new epoch."""
        self._counted_apart = 0

    def pause(self) -> None:
        """Notes that a callback evaluates the same model, which sets the metric back."""
        self._counted_apart += self._rows_now()

    def resume(self) -> None:
        """Notes that it has done so: the metric goes on from what was evaluated."""
        self._counted_apart -= self._rows_now()

    def _rows_now(self) -> int:
        return (rows_in_loss(self._model) or 0) if self._needs_rows else 0


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
