"""The in-graph record of passes over a data set: which epoch comes next, which one was begun last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import tensorflow as tf


class PassPosition(NamedTuple):
    """The newest pass that has begun.

    Attributes:
        number: How many passes have begun so far; 0 before the first.
        epoch: The epoch that this pass reads.
        first_batch: The batch of that epoch it began with: 0 unless `seek` said otherwise.
    """

    number: int
    epoch: int
    first_batch: int


class PassCounter:
    """Hands out epochs to passes, inside the graph, whoever iterates.

    Keras makes more iterators than it reads from, and wraps the data set under `class_weight` and distribution
    strategies, so neither `__iter__` nor Python attributes can count passes. Here a pass takes its number when it
    yields its first batch. Two threads that begin a pass at once get different epochs.

    Args:
        seed: Int, the seed of the order, kept here so that a loaded state can replace it without building a new graph.
    """

    def __init__(self, seed: int = 0):
        def make() -> tuple[tf.Variable, tf.CriticalSection]:
            with tf.device("CPU:0"):
                # [next epoch, its first batch, passes begun, epoch of the newest, first batch of the newest, seed]
                state = tf.Variable([0, 0, 0, 0, 0, seed], dtype=tf.int64, trainable=False, name="passes")
                return state, tf.CriticalSection(name="passes_lock")

        # A variable made under `strategy.scope()` would be mirrored to its devices. Scopes are kept by thread.
        with ThreadPoolExecutor(max_workers=1) as outside_of_scopes:
            self._state, self._lock = outside_of_scopes.submit(make).result()

    def begin_pass(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Begins a pass; in graph. Returns int64 scalars: the pass' number, its epoch, its first batch and the seed."""

        def advance() -> list[tf.Tensor]:
            epoch, batch, passes, _, _, seed = tf.unstack(self._state.read_value())
            number = passes + 1
            begun = tf.stack([epoch + 1, 0, number, epoch, batch, seed])
            with tf.control_dependencies([self._state.assign(begun, read_value=False)]):
                return [tf.identity(number), epoch, batch, seed]

        return tuple(self._lock.execute(advance))

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""
        return PassPosition(*self._read()[2:5])

    @property
    def seed(self) -> int:
        """The seed of the order."""
        return self._read()[5]

    @property
    def next_position(self) -> tuple[int, int]:
        """Epoch and batch that the next pass begins with."""
        state = self._read()
        return state[0], state[1]

    def seek(self, epoch: int, batch: int, seed: int | None = None) -> None:
        """Lets the next pass begin there."""

        def jump() -> tf.Tensor:
            state = self._state.read_value()
            new_seed = state[5] if seed is None else tf.constant(seed, tf.int64)
            position = tf.constant([epoch, batch], tf.int64)
            return self._state.assign(tf.concat([position, state[2:5], [new_seed]], 0), read_value=True)

        self._lock.execute(jump)

    def _read(self) -> list[int]:
        values: list[int] = self._state.numpy().tolist()
        return values
