"""Changes to the calling `fit` for which Keras has no hook.

They run code after all other callbacks, delay SIGTERM until a step has ended, choose the first epoch, and tell which
data are read. The module also copies callbacks, as tuners do for each trial.
"""

from __future__ import annotations

import copy
import inspect
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

import keras

Logs = dict[str, Any] | None  # what Keras hands to a hook


class RunAfterCallbacks:
    """Calls functions after all callbacks of a `fit` have run one of their hooks.

    Keras appends its `History` to the callbacks that it is given (keras/src/callbacks/callback_list.py), and
    `model.history` is that object. Where the caller has put a `History` of its own before this callback, none is
    called.

    Args:
        model: The model, in `on_train_begin` of a callback.
        hooks: Functions by the name of the hook, with the hook's arguments; among them "on_train_begin".

    Attributes:
        is_installed: Bool, from the end of `on_train_begin` on: whether the functions are called.

    Example:
        >>> hooks = {
        ...     "on_train_begin": lambda logs=None: print("all callbacks have begun"),
        ...     "on_epoch_begin": lambda epoch, logs=None: print("all callbacks have begun epoch", epoch),
        ... }
        >>> begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: RunAfterCallbacks(model, hooks))
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(np.ones((1, 1)), np.ones(1), verbose=0, callbacks=[begin])
        all callbacks have begun
        all callbacks have begun epoch 0
    """

    def __init__(self, model: keras.Model, hooks: Mapping[str, Callable[..., None]]):
        self.is_installed = False
        self._history = getattr(model, "history", None)
        self._names: list[str] = []
        if isinstance(self._history, keras.callbacks.History):
            for name, hook in hooks.items():
                setattr(self._history, name, self._call_both(name, getattr(self._history, name), hook))
                self._names.append(name)

    def remove(self) -> None:
        """Leaves the `History` as it was."""
        for name in self._names:
            delattr(self._history, name)
        self._names = []

    def _call_both(self, name: str, first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
        def call_both(*args: object, **kwargs: object) -> None:
            first(*args, **kwargs)
            if name == "on_train_begin":  # of a History before this callback it has run already
                self.is_installed = True
            if self.is_installed:
                second(*args, **kwargs)

        return call_both


EXIT_CODE = 128 + signal.SIGTERM  # what shells and Kubernetes show for a process that SIGTERM has ended


class PreemptionSignal:
    """Notes that SIGTERM has arrived while `fit` runs, and keeps the earlier handler.

    Clouds and schedulers send it before they take a machine away; a backup can be written before `leave` passes it on.
    A second SIGTERM goes to the earlier handler at once, and so does one that arrives when `fit` has ended by an
    exception, of which Keras tells no callback.

    Args:
        model: The model whose `fit` runs.

    Attributes:
        received: Bool, whether SIGTERM has arrived.

    Raises:
        ValueError: If `fit` does not run in the main thread, or a library outside Python handles SIGTERM.
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
        """Restores the earlier handler."""
        # In Python, two bound methods of one object are equal but not the same.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)

    def leave(self) -> NoReturn:
        """Passes the signal on to the earlier handler, and ends the process in order."""
        self.stop()
        if callable(self._previous):
            self._previous(signal.SIGTERM, None)
        raise SystemExit(EXIT_CODE)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.received and _is_in_fit(frame, self._model):
            self.received = True
            return
        self.stop()
        signal.raise_signal(signal.SIGTERM)


def _is_in_fit(frame: FrameType | None, model: keras.Model) -> bool:
    return any(_calls_of(model, frame, ("fit",)))


def _calls_of(model: keras.Model, frame: FrameType | None, methods: Collection[str]) -> Iterator[FrameType]:
    """The running calls of these methods of a model, from a frame outwards."""
    while frame is not None:
        if frame.f_code.co_name in methods and frame.f_locals.get("self") is model:
            yield frame
        frame = frame.f_back


def set_first_epoch(model: keras.Model, epoch: int) -> None:
    """Makes every `fit` of the model begin with that epoch; 0 gives control back to `initial_epoch`.

    Only a private attribute does this, `model._initial_epoch`, which `fit` reads after `on_train_begin`, and which
    stays set for all later calls of `fit` (keras/src/backend/tensorflow/trainer.py). Keras' own callback sets it when
    it restores (keras/src/callbacks/backup_and_restore.py), so it restores a backup here that holds only the epoch.
    """
    with tempfile.TemporaryDirectory() as directory:
        callback = keras.callbacks.BackupAndRestore(directory)
        callback.set_model(_ModelWithoutWeights())
        callback.on_epoch_end(epoch - 1)  # writes that the epoch after it is the next
        callback.set_model(model)
        callback.on_train_begin()


def data_of_call(model: keras.Model) -> Any:
    """The `x` of the running `fit`, `evaluate` or `predict` of a model, called in one of its hooks; None if none runs.

    Callbacks are not told it. What has been read meanwhile is no evidence: the data of a call that has ended may still
    be read ahead by a thread of tf.data.
    """
    for call in _calls_of(model, inspect.currentframe(), ("fit", "evaluate", "predict")):
        if str(call.f_globals.get("__name__", "")).startswith("keras."):  # not a method of a subclass around it
            return call.f_locals.get("x")
    return None


class _ModelWithoutWeights:
    """Something that Keras' callback can back up without writing any weights."""

    def save_weights(self, filepath: str, overwrite: bool = True) -> None:
        """Writes nothing."""


def call_while_alive(method: Callable[..., None]) -> Callable[..., None]:
    """A function that calls a method as long as its object is alive, and does not keep it alive."""
    reference = weakref.WeakMethod(method)

    def call(*args: object, **kwargs: object) -> None:
        bound = reference()
        if bound is not None:
            bound(*args, **kwargs)

    return call


def copy_callback(callback: Any, memo: dict[int, Any], own: Mapping[str, object]) -> Any:
    """A deep copy that belongs to no model yet, e.g. for another trial of a tuner.

    Args:
        callback: The callback to copy.
        memo: As in `copy.deepcopy`.
        own: The attributes that are not copied: datasets, which are shared, and what starts again with the copy.
    """
    copied = object.__new__(type(callback))
    memo[id(callback)] = copied
    memo.update((id(value), value) for value in own.values())  # also where an attribute of a subclass holds it
    keras.callbacks.Callback.__init__(copied)
    of_keras = set(vars(copied))  # the model and what fit() has said
    for name, value in vars(callback).items():
        if name not in own and name not in of_keras:
            setattr(copied, name, copy.deepcopy(value, memo))
    vars(copied).update(own)
    return copied
