"""The first elements of a stream, looked at before it is decided what they are, and read after that."""

from __future__ import annotations

import copy
import itertools
import pickle
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
import tensorflow as tf

from keras_bucketing.streams.elements import (
    Element,
    Specs,
    check_element,
    leaves_of,
    map_element,
    specs_of,
    template_of,
)

LOOKAHEAD = 8  # elements that are looked at before it is decided what they are
_MAX_HELD_BYTES = 1 << 24  # in memory
_IMMUTABLE = (bool, int, float, complex, str, bytes, np.generic, tf.Tensor, tf.RaggedTensor, tf.SparseTensor)


class Lookahead:
    """Elements of a stream that come twice: some of the first ones to look at, and then all of them, each once.

    A source may fill the memory of an element again for the next one: so each is copied before the next one is asked
    for. What takes much memory waits in a temporary file until it is read.

    Args:
        elements: The stream.
        number: How many elements to look at, at most.

    Attributes:
        specs: The leaves of each of these.
        template: The `template_of` the first one; None if there is none.

    Raises:
        TypeError: If a dict of the first element has keys that are not strings.
    """

    def __init__(self, elements: Iterator[Element], number: int):
        self.specs: list[Specs] = []
        self.template: Element | None = None
        self._elements = elements
        self._waiting: deque[Element | int] = deque()  # an element, or where it begins in the file
        self._file: IO[bytes] | None = None
        self._held_bytes = 0
        for element in elements:
            check_element(element, len(self.specs))
            self.template = self.template or template_of(element)
            self.specs.append(specs_of(element))
            self._waiting.append(element if number == 1 else self._keep(element))
            del element
            if len(self.specs) == number:
                break

    @property
    def held(self) -> list[Element]:
        """The first elements, up to one that is not in memory; the very first one is read again, wherever it waits."""
        held: list[Element] = []
        for element in self._waiting:
            if isinstance(element, int):
                break
            held.append(element)
        return held or [self._load(element) for element in itertools.islice(self._waiting, 1)]

    def __iter__(self) -> Iterator[Element]:
        """All elements of the stream; each is forgotten when it is yielded."""
        while self._waiting:
            yield self._load(self._waiting.popleft())
        if self._file is not None:
            self._file.close()
        yield from self._elements

    def _keep(self, element: Element) -> Element | int:
        num_bytes = sum(map(_num_bytes, leaves_of(element).values()))
        if self._held_bytes + num_bytes > _MAX_HELD_BYTES:
            position = self._save(element)
            if position is not None:
                return position
        self._held_bytes += num_bytes
        return map_element(lambda _, leaf: _copied(leaf), element)

    def _save(self, element: Element) -> int | None:
        """Where an element lies in the file; None where it cannot be saved."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed when it has been read, or forgotten
            position = self._file.seek(0, 2)
            pickle.dump(map_element(_as_numpy, element), self._file, pickle.HIGHEST_PROTOCOL)
        except Exception:  # a full disk, or a leaf that only its library knows: then it waits in memory
            return None
        return position

    def _load(self, waiting: Element | int) -> Element:
        if not isinstance(waiting, int) or self._file is None:
            return waiting  # type: ignore[return-value]
        self._file.seek(waiting)
        element: Element = pickle.load(self._file)
        return element


def _as_numpy(_: object, leaf: Any) -> Any:
    """A tensor as an array, which can be pickled; anything else unchanged."""
    return leaf.numpy() if isinstance(leaf, tf.Tensor) else leaf


def _copied(leaf: Any) -> Any:
    """A copy of a leaf; leaves that cannot be copied are refused by the checks of reading."""
    if leaf is None or isinstance(leaf, _IMMUTABLE):
        return leaf
    if type(leaf) is np.ndarray and leaf.dtype != object:
        return leaf.copy()
    if type(leaf) in (list, tuple):
        return type(leaf)(map(_copied, leaf))
    if isinstance(leaf, Iterable) and not hasattr(leaf, "__len__") and not hasattr(leaf, "__array__"):
        return [_copied(entry) for entry in leaf]
    try:
        return copy.deepcopy(leaf)
    except Exception:  # e.g. a memoryview, or a tensor of PyTorch that needs a gradient
        return _copied_array(leaf)


def _copied_array(leaf: Any) -> Any:
    try:
        array = np.array(leaf)
    except Exception:
        return leaf
    return array if array.dtype.kind in "biuf" else leaf


def _num_bytes(leaf: Any) -> int:
    """The memory that a leaf takes, more or less."""
    if isinstance(leaf, tf.RaggedTensor):
        return _num_bytes(leaf.flat_values)
    if isinstance(leaf, tf.Tensor):
        return int(leaf.shape.num_elements() or 0) * int(leaf.dtype.size)
    if isinstance(leaf, (list, tuple)) or (isinstance(leaf, np.ndarray) and leaf.dtype == object):
        return sum(map(_num_bytes, leaf))
    return int(getattr(leaf, "nbytes", 8))
