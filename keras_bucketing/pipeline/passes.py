"""Passes over a dataset, in graph: which epoch the next pass reads, and which reads begin no pass.

An iterator that TensorFlow restores from a checkpoint is refused. Reads with which Keras builds a model do not count.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import tensorflow as tf

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class PassPosition(NamedTuple):
    """A pass over a dataset.

    Attributes:
        number: Int, how many passes have begun so far; 0 before the first.
        epoch: Int, the epoch that this pass reads.
        first_batch: Int, the batch of that epoch with which it began: 0, except after `seek` or `load_state_dict`.

    Example:
        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=1)
        >>> for epoch in range(2):
        ...     batches = list(dataset)
        >>> dataset.newest_pass()
        PassPosition(number=2, epoch=1, first_batch=0)
    """

    number: int
    epoch: int
    first_batch: int


class PassStart(NamedTuple):
    """The start of a pass: int64 scalars, in graph.

    Attributes:
        number: The number of the pass, from 1.
        epoch: The epoch that it reads.
        first_batch: The batch of that epoch with which it begins.
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
    """The entries of the variable, in their order: int64 scalars, or ints where they are read."""

    next_epoch: tf.Tensor
    next_first_batch: tf.Tensor
    number: tf.Tensor
    epoch: tf.Tensor
    first_batch: tf.Tensor
    seed: tf.Tensor


class PassCounter:
    """Assigns epochs to passes, inside the graph, for every kind of iteration.

    Keras makes more iterators than it reads from, and wraps the dataset under `class_weight` and distribution
    strategies, so neither `__iter__` nor Python attributes can count passes. Here a pass takes its number when it
    yields its first batch. Two threads that begin a pass at once get different epochs.

    Args:
        seed: Int, the seed of the order, kept here so that a loaded state can replace it without building a new graph.
    """

    def __init__(self, seed: int = 0):
        self._state = outside_of_scopes(
            lambda: tf.Variable(_State(0, 0, 0, 0, 0, seed), dtype=tf.int64, trainable=False, name="passes")
        )
        self._newest_read = (0, 0)  # the newest pass that Python code reads, and how many batches it got

    def begin_pass(self) -> PassStart:
        """Begins a pass; in graph."""
        return begin_pass(self._state)

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""
        state = self._read()
        return PassPosition(state.number, state.epoch, state.first_batch)

    def count_read(self, iterator: Any) -> None:
        """Counts a batch that Python code got from an iterator over the dataset itself."""
        if not iterator.num_read:
            iterator.pass_number = self.newest_pass().number
        iterator.num_read += 1
        self._newest_read = max(self._newest_read, (iterator.pass_number, iterator.num_read))

    def is_read_to_end(self, num_batches: int) -> bool:
        """Whether the newest pass has yielded the last batch of its epoch, as far as can be seen.

        Reads by tf.data, for a `take` or `map` on top, cannot be seen, and count as read to the end.
        """
        number, _, first_batch = self.newest_pass()
        read_number, num_read = self._newest_read
        return number > 0 and (read_number < number or num_read == num_batches - first_batch)

    @property
    def variable(self) -> tf.Variable:
        """The variable with the record; to be read, never assigned."""
        return self._state

    @property
    def seed(self) -> int:
        """The seed of the order."""
        seed: int = self._read().seed
        return seed

    @property
    def next_position(self) -> NextPosition:
        """The position where the next pass begins."""
        state = self._read()
        return NextPosition(state.next_epoch, state.next_first_batch)

    def seek(self, epoch: int, batch: int, seed: int | None = None) -> None:
        """Makes the next pass begin at this position."""

        def jump() -> tf.Tensor:
            state = _State(*tf.unstack(self._state.read_value()))
            moved = state._replace(next_epoch=epoch, next_first_batch=batch, seed=state.seed if seed is None else seed)
            return self._state.assign(tf.stack(moved), read_value=True)

        _lock().execute(jump)

    def _read(self) -> _State:
        return _State(*self._state.numpy().tolist())


def counting_iterator(iterator: Any, counter: PassCounter) -> Any:
    """The same iterator, but the counter counts each batch that Python code gets from it."""
    base: Any = type(iterator)
    iterator.__class__ = _counting_class(base)
    iterator.pass_counter, iterator.pass_number, iterator.num_read = counter, 0, 0
    return iterator


@functools.cache
def _counting_class(base: Any) -> Any:
    # A class of its own, not a wrapper: Keras hands the iterators of tf.data to its graphs.
    class CountingIterator(base):
        """Counts what Python code gets."""

        def __next__(self) -> Any:
            batch = super().__next__()
            self.pass_counter.count_read(self)
            return batch

        def get_next(self) -> Any:
            batch = super().get_next()
            if tf.executing_eagerly():
                self.pass_counter.count_read(self)
            return batch

    return CountingIterator


def begin_pass(state: tf.Variable) -> PassStart:
    """Begins a pass of the counter with this variable; in graph."""

    def advance() -> list[tf.Tensor]:
        before = _State(*tf.unstack(state.read_value()))
        start = PassStart(before.number + 1, before.next_epoch, before.next_first_batch, before.seed)
        begun = _State(start.epoch + 1, 0, start.number, start.epoch, start.first_batch, start.seed)
        with tf.control_dependencies([state.assign(tf.stack(begun), read_value=False)]):
            return [tf.identity(start.number), *start[1:]]

    return PassStart(*_lock().execute(advance))


def _lock() -> tf.CriticalSection:
    """Guards the variables of all counters, each for microseconds: one lock, since one graph serves all of them."""
    with _MAKING_LOCK:  # functools.cache lets two threads make two
        return _make_lock()


_MAKING_LOCK = threading.Lock()


@functools.cache
def _make_lock() -> tf.CriticalSection:
    return outside_of_scopes(lambda: tf.CriticalSection(name="passes_lock"))


# Refusal of checkpoints: TensorFlow's checkpoint of an iterator would bring back other rows.
#
# Which epoch a pass reads is decided by a counter outside of the iterator, and a checkpoint of the iterator does not
# hold it: after a restart the restored iterator, or its next pass under `.repeat()`, would read another epoch. The
# position belongs in `BucketedSequence.state_dict()`. There are three ways to checkpoint an iterator:
#
# - As it is, TensorFlow asks the functions of the pipeline for stateful operations before it saves, as long as the
#   stage that calls them lives. `depend_on` makes one of the last stage so: "ReadVariableOp is stateful." TensorFlow
#   makes this message of the names of operations alone (tensorflow/core/framework/dataset.h), so that no pipeline can
#   put a sentence of its own there: the documentation explains it.
# - With `experimental_symbolic_checkpoint` it does not ask. It saves how far the sources have got, calls the functions
#   again when it restores, and the pass would begin again as the next epoch. `refuse_restored_iterators` notices that
#   and fails with a sentence. `BucketedSequence.with_options` refuses the option before anything is saved.
# - With `experimental_external_state_policy` the user says that state in functions is to be ignored. Then the elements
#   that the functions got are saved too, and the pass goes on with its own rows; in another process it is refused.
#
# What a stage above has taken out of the pass already (`shuffle` with a buffer for all of it) is saved with that
# stage, and comes back as it was.
#
# A `GeneratorDataset` in the pipeline, even one that is never read, would refuse the second way when it is saved. But
# TensorFlow 2.21 sets `M_TRIM_THRESHOLD` of the C library for the whole process wherever it makes one
# (tensorflow/core/kernels/data/generator_dataset_op.cc), after which batches of more than 128 KB are given back to the
# system each time and an epoch takes about twice the processor time.


NO_CHECKPOINT = (
    "The iterator of a BucketedSequence cannot be restored from a checkpoint: it does not hold which epoch is read. "
    "Save dataset.state_dict() and restore it with dataset.load_state_dict(state), or use BackupAndRestoreSequence."
)


def depend_on(variable: tf.Variable, function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """The same function, formally dependent on a variable."""

    def dependent(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with tf.control_dependencies([variable.read_value()]):
            return function(*args, **kwargs)

    return dependent


def refuse_restored_iterators(
    begin: Callable[[], PassStart],
    batches: Callable[[PassStart, tf.Tensor], tf.data.Dataset],
    first_number: tf.Tensor,
) -> tf.data.Dataset:
    """The batches of the pass that `begin` begins. Iterators that TensorFlow restores from a checkpoint fail.

    A pass takes two tickets, each with a number. The first has no batches, so that the second is taken after a
    checkpoint can be saved: in a restored iterator, the range of the first ticket continues where it was, but now
    begins with the number of another pass. A number that does not belong to its pass reveals the checkpoint. So does a
    number of another process, since numbers begin at random.

    Args:
        begin: Begins a pass, in graph. Called by each iterator.
        batches: The batches of a pass, as a function of its start alone. There are none if the int64 scalar behind the
            start, which is 0 or 1, is 0.
        first_number: Int64 scalar, below 2**60: random, so that it differs in each process.

    Raises:
        tf.errors.InvalidArgumentError: From `tf.train.Checkpoint.restore` or the next element.
    """

    def tickets(_: tf.Tensor) -> tf.data.Dataset:
        start = begin()
        # The range has no end, for TensorFlow would miss the numbers of another process beyond it in words of its own.
        numbers = tf.data.Dataset.range(first_number + 2 * start.number, tf.int64.max)
        return tf.data.Dataset.zip((numbers, tf.data.Dataset.from_tensors(start).repeat())).take(2)

    def batches_of(ticket: tf.Tensor, start: PassStart) -> tf.data.Dataset:
        nth = ticket - (first_number + 2 * start.number)
        with tf.control_dependencies([tf.debugging.Assert((nth == 0) | (nth == 1), [NO_CHECKPOINT])]):
            return batches(start, nth)

    return tf.data.Dataset.range(1).flat_map(without_autograph(tickets)).flat_map(without_autograph(batches_of))


# Whether Keras reads a batch only to build a model on its shapes.


# keras/src/trainers/trainer.py: under JAX and PyTorch, `fit` and `evaluate` read one batch here unless model, loss and
# metrics are all built, drop the iterator, and begin with another one.
_FUNCTION_NAME = "_symbolic_build"


def is_symbolic_build() -> bool:
    """Whether the caller iterates in order to build a Keras model.

    Only the call stack tells: Keras has no hook before that read, and an iterator that is dropped after one batch may
    also be `take(1)`, or `fit(steps_per_epoch=1)`, whose batch counts. If Keras renames the function, the first `fit`
    begins with epoch 1 again; a test would notice.

    The call stack is Python's. If tf.data iterates over the dataset because something is on top (`.map()`,
    `class_weight`, a distribution strategy), no Python code is called, and the operations of the graph cannot know the
    purpose of the batch.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == _FUNCTION_NAME and _is_of_keras(frame):
            return True
        frame = frame.f_back
    return False


# Whether Keras reads from a Python generator.
#
# It takes the first two batches out (`peek_and_restore` in keras/src/trainers/data_adapters/generator_data_adapter.py)
# and begins each of its passes with these, followed by what the generator still has.

_PEEK_NAME = "peek_and_restore"


def reader_of_iterator() -> str:
    """Who asks the caller for an iterator: "peek" or "keras" for Keras, "user" for all others.

    If Keras renames the function, the batches that Keras takes out count as a separate pass; a test would notice.
    """
    frame = sys._getframe(2)
    if not _is_of_keras(frame):
        return "user"
    return "peek" if frame.f_code.co_name == _PEEK_NAME else "keras"


def _is_of_keras(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("keras.")


# How functions and resources of a pipeline are made.


def without_autograph(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Exempts a function without Python control flow over tensors from AutoGraph."""
    converted: Callable[_Parameters, _Result] = tf.autograph.experimental.do_not_convert(function)
    return converted


def outside_of_scopes(make: Callable[[], _Result]) -> _Result:
    """Makes something in host memory, in a separate thread, since scopes are stored per thread.

    A variable made under `strategy.scope()` would be mirrored to its devices, and a graph traced there belongs to it.
    """

    def on_host() -> _Result:
        with tf.device("CPU:0"):
            return make()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(on_host).result()
