"""Hooks that run after those of all callbacks, and so right before Keras does what comes next."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn

import keras
import numpy as np


class LastHooks:
    """Calls functions after all callbacks of a `fit` have run one of their hooks.

    Keras appends its `History` to the callbacks that it is given (keras/src/callbacks/callback_list.py), and
    `model.history` is that object. Where the caller has put a `History` of its own before this callback, none is
    called.

    Args:
        model: The model, in `on_train_begin` of a callback.
        hooks: Functions by the name of the hook, with the hook's arguments; among them "on_train_begin".

    Attributes:
        are_last: Bool, from the end of `on_train_begin` on: whether they are called.

    Example:
        >>> hooks = {
        ...     "on_train_begin": lambda logs=None: print("all callbacks have begun"),
        ...     "on_epoch_begin": lambda epoch, logs=None: print("all callbacks have begun epoch", epoch),
        ... }
        >>> begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: LastHooks(model, hooks))
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(np.ones((1, 1)), np.ones(1), verbose=0, callbacks=[begin])
        all callbacks have begun
        all callbacks have begun epoch 0
    """

    def __init__(self, model: keras.Model, hooks: Mapping[str, Callable[..., None]]):
        self.are_last = False
        self._history = getattr(model, "history", None)
        self._names: list[str] = []
        if isinstance(self._history, keras.callbacks.History):
            for name, hook in hooks.items():
                setattr(self._history, name, self._both(name, getattr(self._history, name), hook))
                self._names.append(name)

    def remove(self) -> None:
        """Leaves the `History` as it was."""
        for name in self._names:
            delattr(self._history, name)
        self._names = []

    def _both(self, name: str, first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
        def both(*args: Any, **kwargs: Any) -> None:
            first(*args, **kwargs)
            if name == "on_train_begin":  # of a History before this callback it has run already
                self.are_last = True
            if self.are_last:
                second(*args, **kwargs)

        return both


# SIGTERM, as clouds and schedulers send it before they take a machine away, kept until a backup is written.


EXIT_CODE = 128 + signal.SIGTERM  # what shells and Kubernetes show for a process that SIGTERM has ended


class PreemptionSignal:
    """Notes that SIGTERM has come while `fit` runs, and keeps the handler that was there before.

    A second SIGTERM goes to that handler at once, and so does one that comes when `fit` has ended by an exception,
    which Keras tells no callback.

    Args:
        model: The model whose `fit` runs.

    Attributes:
        received: Bool, whether SIGTERM has come.

    Raises:
        ValueError: If `fit` does not run in the main thread, or a library outside of Python handles SIGTERM.
    """

    def __init__(self, model: keras.Model):
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(
                "`save_before_preemption` needs fit() to run in the main thread, the only one that Python lets handle "
                "signals. Received another thread. Call fit() in the main thread, or leave it out."
            )
        self._previous = signal.getsignal(signal.SIGTERM)
        if self._previous is None:
            raise ValueError(
                "`save_before_preemption` needs to put SIGTERM's handler back afterwards. Received a handler that was "
                "not installed from Python. Leave it out, and save by save_freq."
            )
        self.received = False
        self._model = model
        signal.signal(signal.SIGTERM, self._handle)

    def stop(self) -> None:
        """Puts the handler back that was there before."""
        # In Python, two bound methods of one object are equal but not the same.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)

    def leave(self) -> NoReturn:
        """Passes the signal on to the handler that was there before, and ends the process in order."""
        self.stop()
        if callable(self._previous):
            self._previous(signal.SIGTERM, None)
        raise SystemExit(EXIT_CODE)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if not self.received and _is_in_fit(frame, self._model):
            self.received = True
            return
        self.stop()
        signal.raise_signal(signal.SIGTERM)


def _is_in_fit(frame: FrameType | None, model: keras.Model) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False


# What a backup holds of a Keras model: weights, optimizer, random states, and the epoch that `fit` begins with.


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
