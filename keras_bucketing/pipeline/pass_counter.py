"""The in-graph record of passes over a dataset: which epoch comes next, which one was begun last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

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


class PassStart(NamedTuple):
    """Where a pass begins: int64 scalars, in graph.

    Attributes:
        number: The pass' number, from 1.
        epoch: The epoch that it reads.
        first_batch: The batch of that epoch it begins with.
        seed: The seed of the order.
    """

    number: tf.Tensor
    epoch: tf.Tensor
    first_batch: tf.Tensor
    seed: tf.Tensor


class NextPosition(NamedTuple):
    """The epoch and the batch that the next pass begins with."""

    epoch: int
    first_batch: int


class _State(NamedTuple):
    """The entries of the variable, in their order."""

    next_epoch: Any
    next_first_batch: Any
    number: Any
    epoch: Any
    first_batch: Any
    seed: Any


class PassCounter:
    """Hands out epochs to passes, inside the graph, whoever iterates.

    Keras makes more iterators than it reads from, and wraps the dataset under `class_weight` and distribution
    strategies, so neither `__iter__` nor Python attributes can count passes. Here a pass takes its number when it
    yields its first batch. Two threads that begin a pass at once get different epochs.

    Args:
        seed: Int, the seed of the order, kept here so that a loaded state can replace it without building a new graph.
    """

    def __init__(self, seed: int = 0):
        def make() -> tuple[tf.Variable, tf.CriticalSection]:
            with tf.device("CPU:0"):
                state = tf.Variable(_State(0, 0, 0, 0, 0, seed), dtype=tf.int64, trainable=False, name="passes")
                return state, tf.CriticalSection(name="passes_lock")

        # A variable made under `strategy.scope()` would be mirrored to its devices. Scopes are kept by thread.
        with ThreadPoolExecutor(max_workers=1) as outside_of_scopes:
            self._state, self._lock = outside_of_scopes.submit(make).result()

    def begin_pass(self) -> PassStart:
        """Begins a pass; in graph."""

        def advance() -> list[tf.Tensor]:
            state = _State(*tf.unstack(self._state.read_value()))
            start = PassStart(state.number + 1, state.next_epoch, state.next_first_batch, state.seed)
            begun = _State(start.epoch + 1, 0, start.number, start.epoch, start.first_batch, start.seed)
            with tf.control_dependencies([self._state.assign(tf.stack(begun), read_value=False)]):
                return [tf.identity(start.number), *start[1:]]

        return PassStart(*self._lock.execute(advance))

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""
        state = self._read()
        return PassPosition(state.number, state.epoch, state.first_batch)

    @property
    def variable(self) -> tf.Variable:
        """What holds the record; to be read, never assigned."""
        return self._state

    @property
    def seed(self) -> int:
        """The seed of the order."""
        seed: int = self._read().seed
        return seed

    @property
    def next_position(self) -> NextPosition:
        """Where the next pass begins."""
        state = self._read()
        return NextPosition(state.next_epoch, state.next_first_batch)

    def seek(self, epoch: int, batch: int, seed: int | None = None) -> None:
        """Lets the next pass begin there."""

        def jump() -> tf.Tensor:
            state = _State(*tf.unstack(self._state.read_value()))
            moved = state._replace(next_epoch=epoch, next_first_batch=batch, seed=state.seed if seed is None else seed)
            return self._state.assign(tf.stack(moved), read_value=True)

        self._lock.execute(jump)

    def _read(self) -> _State:
        return _State(*self._state.numpy().tolist())
