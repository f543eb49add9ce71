"""Hooks that run after those of all callbacks, and so right before Keras does what comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras


class LastHooks:
    """Calls functions after all callbacks of a `fit` have run one of their hooks.

    Keras appends its `History` to the callbacks that it is given (keras/src/callbacks/callback_list.py), and
    `model.history` is that object. A `History` that the caller has put before other callbacks runs before those.

    Args:
        model: The model, in `on_train_begin` of a callback.
        hooks: Functions by the name of the hook, with the hook's arguments.

    Attributes:
        have_run: Bool, whether any of them was called.

    Example:
    >>> hooks = {"on_epoch_begin": lambda epoch, logs=None: print("all others have begun epoch", epoch)}
    >>> begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: LastHooks(model, hooks))
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((1, 1)), np.ones(1), verbose=0, callbacks=[begin])
    all others have begun epoch 0
    """

    def __init__(self, model: keras.Model, hooks: Mapping[str, Callable[..., None]]):
        self.have_run = False
        self._history = getattr(model, "history", None)
        self._names: list[str] = []
        if isinstance(self._history, keras.callbacks.History):
            for name, hook in hooks.items():
                setattr(self._history, name, self._both(getattr(self._history, name), hook))
                self._names.append(name)

    def remove(self) -> None:
        """Leaves the `History` as it was."""
        for name in self._names:
            delattr(self._history, name)
        self._names = []

    def _both(self, first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
        def both(*args: Any, **kwargs: Any) -> None:
            first(*args, **kwargs)
            self.have_run = True
            second(*args, **kwargs)

        return both
