"""Python generators of padded batches, and objects that make iterators of them, made countable."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import types
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

from keras_bucketing.checks import check_no_arguments
from keras_bucketing.monitoring.batch_log import Batch, BatchMeasure, EntryKeys, HostLog, MaskValue, x_of
from keras_bucketing.monitoring.counted_passes import MonitoredPasses
from keras_bucketing.monitoring.pass_log import LogEntry
from keras_bucketing.pipeline.passes import PassPosition, reader_of_iterator
from keras_bucketing.unpadding.spans import Side


def is_source_of_batches(source: object) -> bool:
    """Whether it is an iterator, an object that makes one, or a function that may."""
    if hasattr(source, "__next__"):
        return True
    if _is_data(source) or isinstance(source, type):
        return False
    return hasattr(source, "__iter__") or callable(source)


def _iterators_of(source: Any) -> Callable[[], Iterator[Batch]] | None:
    """A function that makes an iterator of batches for each pass; None for an iterator, which is a single pass."""
    if hasattr(source, "__next__"):
        return None
    if hasattr(source, "__iter__"):
        return lambda: iter(source)
    check_no_arguments("dataset", source)
    return lambda: _iterator_of_result(source())


def _is_data(source: object) -> bool:
    """Whether something that can be iterated over is data rather than a sequence of batches."""
    return isinstance(source, (list, tuple, dict, set, str, bytes)) or hasattr(source, "__array__")


def _iterator_of_result(result: object) -> Iterator[Batch]:
    if not hasattr(result, "__iter__") or _is_data(result):
        raise TypeError(
            "`dataset` must return an iterator of padded batches, as a generator function does. Received a function "
            f"that returns {type(result).__name__}. Let it yield each batch."
        )
    iterator: Iterator[Batch] = iter(result)
    return iterator


class MonitoredGenerator(MonitoredPasses, Generator[Batch, Any, Any]):
    """Yields the batches of a Python generator, and notes the lengths of each; made by `monitor_padding`.

    To `fit` it is a generator: Keras asks `isinstance(x, types.GeneratorType)` and takes no other iterator. A real
    generator can have no methods of its own, so this class names that type as its `__class__`, as `unittest.mock` and
    `weakref.proxy` do.

    Made from a generator or another iterator, it continues that iterator, and there is one pass. Made from a function,
    or from an object that makes iterators, it begins a pass with each loop.

    Keras takes the first two batches out and begins each of its passes with them: under `steps_per_epoch` it makes one
    pass, until the batches end, otherwise one per epoch. They are counted when the model gets them. In later passes
    over a function, they replace the first two.
    """

    _log: HostLog

    def __init__(
        self,
        source: Any,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
        padding: Side | None = None,
    ):
        self._make = _iterators_of(source)
        self.unmonitored = source
        self.mask_value = mask_value
        self._measure = BatchMeasure(mask_value, sequences, bucket_boundaries, padding)
        self._log = HostLog(self._measure)
        self._lock = threading.RLock()  # of what follows
        self._is_exhausted = False
        self._own: _Pass | None = None  # what `next` reads
        self._peeks: list[_Peek] = []  # what Keras has taken the first batches of, in the newest call and that before
        self._newest_of_others = 0  # the newest pass that another reader than Keras has begun
        self._followed = 0  # the newest of them that a call of Keras has been followed through

    __class__ = property(lambda self: types.GeneratorType)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("A monitored generator cannot be copied or pickled. Call monitor_padding() for another one.")

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        if self._make is not None and hasattr(self.unmonitored, "__len__"):
            return len(self.unmonitored)
        raise TypeError("A generator has no length.")

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        reader = reader_of_iterator()
        with self._lock:
            if reader == "peek":
                return self._peek()
            peek = self._peeks[-1] if self._peeks else None
            if reader == "keras" and peek is not None:
                if peek.reader() is not None and len(self._peeks) > 1:
                    peek = self._peeks[0]  # Keras still takes batches out, and reads ahead for the call before
                return self._next_pass_of_keras(peek)
            return self if self._make is None else self._new_pass()

    def __next__(self) -> Batch:
        return self._read(next)

    def send(self, value: Any) -> Batch:
        """Sends a value into the generator, whose answer is a batch like any other."""
        return self._read(next) if value is None else self._read(lambda iterator: iterator.send(value))

    def throw(self, *exception: Any) -> Batch:
        """Raises an exception inside of the generator, whose answer is a batch like any other."""
        return self._read(lambda iterator: iterator.throw(*exception))

    def close(self) -> None:
        """Closes the generator; what it has yielded is no finished pass."""
        with self._lock:
            own, self._own = self._own, None
        close = getattr(self.unmonitored if self._make is None else own and own.iterator, "close", None)
        if close is not None:
            close()

    def _newest_pass(self) -> PassPosition:
        return self._log.newest_pass()

    def _before_figures(self) -> None:
        self._measure.warn_once()

    def follow_newest(self) -> bool:
        """Notes that a call of Keras is followed through the newest pass, and whether it is the first one to be.

        Only passes count that Keras reads through something else: those of its own may begin late, in a thread that
        reads ahead for a call that has ended.
        """
        with self._lock:
            is_first, self._followed = self._newest_of_others > self._followed, self._newest_of_others
            return is_first

    def _read(self, advance: Callable[[Any], Batch]) -> Batch:
        with self._lock:
            if self._own is None:
                self._own = self._new_pass()
            own = self._own
        try:
            return own.read(advance)
        except StopIteration:
            if self._make is not None:  # the next one begins another pass
                self._own = None
            raise

    def _new_pass(self, prefix: list[LogEntry] | None = None) -> _Pass:
        if self._make is None:
            return _Pass(self, self.unmonitored, prefix)
        iterator = self._make()
        return _Pass(self, itertools.islice(iterator, len(prefix), None) if prefix else iterator, prefix)

    def _peek(self) -> Iterator[Batch]:
        """An iterator of which Keras takes out the first batches, to begin each pass of a call with them."""
        peeked = self._new_pass()
        peeked.is_peek = True
        reader = (batch for batch in peeked)  # Keras lets go of it when it has them
        self._peeks, self._own = [*self._peeks[-1:], _Peek(peeked, weakref.ref(reader))], None
        return reader

    def _next_pass_of_keras(self, peek: _Peek) -> _Pass:
        """Keras begins with what it has taken out, and asks here for more: at first for the rest of that pass."""
        if peek.prefix is None:
            peek.prefix, peek.peeked.is_peek = self._log.entries(peek.peeked.number), False
            return peek.peeked
        return self._new_pass(peek.prefix)

    def note(self, batch: Batch, number: int, index: int, is_of_keras: bool) -> int:
        """Notes a batch of a pass, of a new one where the number is 0; returns the pass' number."""
        with self._lock:
            entry = self._measure.measure(x_of(batch), number or self.newest_pass().number + 1, index)
            if not number:
                number = self._log.begin()
                self._newest_of_others = self._newest_of_others if is_of_keras else number
            self._log.note(number, index, entry)
            return number

    def begin(self, prefix: list[LogEntry]) -> int:
        """Begins a pass of Keras with what it has taken out before; returns its number."""
        return self._log.begin(prefix)

    def finish(self, number: int) -> None:
        """Notes that an iterator has no more batches: an iterator that is not made again, once and for all."""
        with self._lock:
            if number and not self._is_exhausted:
                self._log.finish(number)
            self._is_exhausted = self._make is None


@dataclasses.dataclass
class _Peek:
    """The pass of which Keras takes out the first batches, what reads them, and these once it has asked for more."""

    peeked: _Pass
    reader: weakref.ref[Iterator[Batch]]
    prefix: list[LogEntry] | None = None


class _Pass:
    """An iterator over one pass, which takes its number when it yields its first batch."""

    def __init__(self, owner: MonitoredGenerator, iterator: Any, prefix: list[LogEntry] | None):
        self.iterator = iterator
        self.number = owner.begin(prefix) if prefix else 0
        self.is_peek = False
        self._owner = owner
        self._index = len(prefix or [])

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Batch:
        return self.read(next)

    def read(self, advance: Callable[[Any], Batch]) -> Batch:
        """Hands on what `advance(iterator)` returns, and notes it."""
        try:
            batch = advance(self.iterator)
        except StopIteration:
            if not self.is_peek:
                self._owner.finish(self.number)
            raise
        self.number = self._owner.note(batch, self.number, self._index, self.is_peek)
        self._index += 1
        return batch
