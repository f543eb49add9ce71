"""Hooks that run after those of all callbacks, and so right before Keras does what comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras


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
