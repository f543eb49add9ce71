"""What a backup holds of a Keras model: weights, optimizer, random states, and the epoch that `fit` begins with."""

from __future__ import annotations

import tempfile
from typing import Any

import keras
import numpy as np


def save_weights(model: keras.Model, path: str) -> None:
    """Writes the weights of the model and of its optimizer."""
    model.save_weights(path, overwrite=True)


def model_state(model: keras.Model) -> dict[str, Any]:
    """What the file of the weights does not hold: the random states of dropout, and what kind of weights they are."""
    return {
        "variables": _kinds(model),
        "random_states": [keras.ops.convert_to_numpy(state).tolist() for state in _random_states(model)],
    }


def check_model_state(model: keras.Model, state: dict[str, Any]) -> None:
    """Refuses the state of another model or optimizer, which Keras would load in part, or skip with a warning.

    Raises:
        ValueError: If number, shapes or dtypes of the variables differ.
    """
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    expected, received = _kinds(model), state["variables"]
    if len(expected) != len(received):
        difference = f"Expected {len(expected)} variables, received {len(received)}"
    elif expected != received:
        at = next(i for i, kinds in enumerate(zip(expected, received, strict=True)) if kinds[0] != kinds[1])
        difference = f"Expected {expected[at]} as variable {at}, received {received[at]}"
    elif len(_random_states(model)) != len(state["random_states"]):
        difference = f"Expected {len(_random_states(model))} random states, received {len(state['random_states'])}"
    else:
        return
    raise ValueError(
        f"The backup in `backup_dir` belongs to another model or optimizer. {difference}. Build and compile the model "
        "as before, or pass another `backup_dir`."
    )


def restore_model(model: keras.Model, weights_path: str, state: dict[str, Any]) -> None:
    """Loads weights and random states; to be called after `check_model_state`."""
    model.load_weights(weights_path)
    for variable, value in zip(_random_states(model), state["random_states"], strict=True):
        variable.assign(np.asarray(value, dtype=keras.ops.convert_to_numpy(variable).dtype))


def set_first_epoch(model: keras.Model, epoch: int) -> None:
    """Lets every `fit` of the model begin with that epoch; 0 gives `initial_epoch` its say again.

    Only a private attribute does that, `model._initial_epoch`, which `fit` reads after `on_train_begin`, and which
    stays set for all later calls of `fit` (keras/src/backend/tensorflow/trainer.py). Keras' own callback sets it when
    it restores (keras/src/callbacks/backup_and_restore.py), so here it restores a backup that holds nothing but the
    epoch.
    """
    with tempfile.TemporaryDirectory() as directory:
        callback = keras.callbacks.BackupAndRestore(directory)
        callback.set_model(_ModelWithoutWeights())
        callback.on_epoch_end(epoch - 1)  # writes that the epoch after it is the next
        callback.set_model(model)
        callback.on_train_begin()


class _ModelWithoutWeights:
    """Something that Keras' callback can back up without writing any weights."""

    def save_weights(self, filepath: str, overwrite: bool = True) -> None:
        """Writes nothing."""


def _kinds(model: keras.Model) -> list[str]:
    variables = [*model.weights, *(model.optimizer.variables if model.optimizer is not None else ())]
    return [f"{variable.dtype} {tuple(variable.shape)}" for variable in variables]


def _random_states(model: keras.Model) -> list[Any]:
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]
