"""Anything that yields rows or batches of rows, made into one kind of iterator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.checks import UnclearError, check_no_arguments
from keras_bucketing.data import columns
from keras_bucketing.data.arrays import comes_from
from keras_bucketing.data.convert import as_rows
from keras_bucketing.data.other_kinds import refuse_frame, refuse_sparse
from keras_bucketing.data.rows import StoredSequences
from keras_bucketing.streams.elements import (
    Element,
    as_json,
    check_element,
    common_specs,
    leaves_of,
    map_element,
    spec_of_dataset,
    specs_of,
    split_element,
)
from keras_bucketing.streams.lookahead import LOOKAHEAD
from keras_bucketing.streams.roles import Roles, is_batched, roles_in_rows
from keras_bucketing.unpadding.batches import BatchOptions
from keras_bucketing.unpadding.entries import leaf_name

# One call for so many rows: a tf.data.Dataset hands 3,000 single elements a second over to Python, and 37,000 rows in
# batches of 32. To count their bytes, row by row in graph, takes 2.6 times as long. A model's batch is no smaller, so
# this much memory is there.
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Stream:
    """What is read, one element after the other.

    Attributes:
        kind: What it is, for a description.
        elements: Function that begins to read.
        batched: Whether an element is a batch of rows; None where that is for the elements to tell.
        total: The number of rows or batches, or None if it is unknown.
        counts_rows: Whether that number is one of rows.
        spec: A `LeafSpec` for each leaf of an element as it was declared, or None.
        roles: What its leaves hold where that is known from the declaration.
        unclear: What its declaration leaves open, or None.
        is_bounded: Whether the caller has said how many rows to read at most.
    """

    kind: str
    elements: Callable[[], Iterator[Element]]
    batched: bool | None
    total: int | None
    counts_rows: bool
    spec: Element | None = None
    roles: Roles | None = None
    unclear: UnclearError | None = None
    is_bounded: bool = False

    def describe(self) -> dict[str, object]:
        """What can be compared with another stream without reading either, for JSON."""
        spec = None if self.spec is None else as_json(self.spec)
        return {"kind": self.kind, "total": self.total, "element_spec": spec}


def open_stream(source: Any, options: BatchOptions, name: str, may_be_endless: bool = False) -> Stream:
    """Finds out what a source is; nothing is read yet.

    Args:
        source: A `tf.data.Dataset`, a `keras.utils.PyDataset`, a function that returns an iterable, or an iterable.
        options: What the caller said about its elements.
        name: What to call it in an error message.
        may_be_endless: Whether it need not end; its `total` is then `tf.data.INFINITE_CARDINALITY`.

    Raises:
        TypeError: If it is none of these, or yields text.
        ValueError: If it never ends, or if it is not certain what an element is.
    """
    refuse_frame(source, name)
    refuse_sparse(source, name)
    if isinstance(source, tf.RaggedTensor):
        source = tf.data.Dataset.from_tensor_slices(source)
    elif columns.is_ragged_column(source) and not comes_from("pandas", source):
        source = StoredSequences(*as_rows(source, name).concatenated())
    if isinstance(source, tf.data.Dataset):
        return _open_dataset(source, options, name, may_be_endless)
    if isinstance(source, keras.utils.PyDataset):
        return _open_py_dataset(source, options, name, may_be_endless)
    return _open_iterable(source, options, name, may_be_endless)


def bound_rows(stream: Stream, max_rows: int) -> Stream:
    """The same stream, which ends after so many rows; the batch that has more is cut."""

    def read() -> Iterator[Element]:
        elements = stream.elements()
        are_batches, remaining = stream.batched, max_rows
        if stream.unclear is not None:  # the reader asks
            yield from elements
        if are_batches is None and stream.kind == "tf.data.Dataset":  # the shapes are for the elements to tell
            first = list(itertools.islice(elements, LOOKAHEAD))
            are_batches = bool(first) and is_batched(common_specs([specs_of(element) for element in first]))
            elements = itertools.chain(first, elements)
        for element in elements:
            num_rows = _num_rows(element) if are_batches else 1
            yield element if num_rows <= remaining else _first_rows(element, remaining)
            del element  # before the source makes the next one
            remaining -= num_rows
            if remaining <= 0:
                return

    total = stream.total
    if stream.counts_rows:
        total = max_rows if total in (None, tf.data.INFINITE_CARDINALITY) else min(total, max_rows)
    elif total == tf.data.INFINITE_CARDINALITY:
        total = None
    return replace(stream, elements=read, total=total, is_bounded=True)


def _num_rows(batch: Element) -> int:
    """The rows of a batch; 1 where its leaves do not have equally many, which is for the reader to refuse."""
    numbers = {_num_entries(leaf) for leaf in leaves_of(batch).values()}
    return numbers.pop() if len(numbers) == 1 else 1


def _num_entries(leaf: Any) -> int:
    if isinstance(leaf, tf.RaggedTensor):
        return int(leaf.nrows())
    if isinstance(leaf, (list, tuple)):
        return len(leaf)
    shape: Any = getattr(leaf, "shape", ())
    return int(shape[0]) if len(shape) else 1


def _first_rows(batch: Element, number: int) -> Element:
    return map_element(lambda _, leaf: leaf[:number], batch)


def _open_dataset(dataset: tf.data.Dataset, options: BatchOptions, name: str, may_be_endless: bool) -> Stream:
    cardinality = int(dataset.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY and not may_be_endless:
        raise _endless_error(name, "Leave out .repeat(), or end it with .take(number).")
    total = None if cardinality == tf.data.UNKNOWN_CARDINALITY else cardinality
    one_by_one = _without_prefetch(dataset)
    spec = spec_of_dataset(dataset.element_spec)
    if spec is None:  # the shapes are for the elements to tell
        batched = options.batched
        return Stream("tf.data.Dataset", lambda: _split_elements(one_by_one), batched, total, not batched)
    specs = leaves_of(spec)
    try:
        batched = is_batched(specs) if options.batched is None else options.batched
    except UnclearError as error:  # asked when the first elements show what else is not clear
        return Stream("tf.data.Dataset", lambda: _split_elements(one_by_one), None, total, False, spec, unclear=error)
    if batched:
        return Stream("tf.data.Dataset", lambda: _split_elements(one_by_one), True, total, False, spec)
    several = dataset.ragged_batch(_ROWS_AT_ONCE)
    roles = roles_in_rows(specs, options.timestep_labels)
    return Stream("tf.data.Dataset", lambda: _split_elements(several), True, total, True, spec, roles)


def _without_prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without the prefetch that TensorFlow would add, which reads elements before they are asked for."""
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


def _open_py_dataset(dataset: keras.utils.PyDataset, options: BatchOptions, name: str, may_be_endless: bool) -> Stream:
    total = dataset.num_batches
    if total is None and not may_be_endless:
        raise _endless_error(name, "Give it a num_batches.")

    batched = options.batched is not False

    def read() -> Iterator[Element]:
        for index in itertools.count() if total is None else range(total):
            element = split_element(dataset[index], index, list_is_tuple=True)
            check_element(element, index)
            _refuse_empty_batch(element, index, name, batched)
            yield element

    number = tf.data.INFINITE_CARDINALITY if total is None else int(total)
    return Stream("keras.utils.PyDataset", read, batched, number, not batched)


def _open_iterable(source: Any, options: BatchOptions, name: str, may_be_endless: bool) -> Stream:
    if isinstance(source, (itertools.count, itertools.cycle)) and not may_be_endless:
        raise _endless_error(name, "Pass the rows of one epoch, e.g. itertools.islice(rows, number).")
    is_iterable = hasattr(source, "__iter__")
    if isinstance(source, (str, bytes, dict, np.generic)) or not (callable(source) or is_iterable):
        hint = ""
        if isinstance(source, dict):
            hint = " Yield rows, e.g. ({'a': a, 'b': b} for a, b in zip(...)), or pass a dict to BucketedSequence."
        elif not isinstance(source, (str, bytes)) and hasattr(source, "__getitem__"):  # a dataset of PyTorch
            hint = " Pass its rows: (rows[index] for index in range(len(rows)))."
        raise TypeError(
            f"`{name}` cannot be read. Expected a tf.data.Dataset, a keras.utils.PyDataset, a generator function or an "
            f"iterable of x, (x, y) or (x, y, sample_weight), received {type(source).__name__}.{hint}"
        )
    if isinstance(source, (np.ndarray, tf.Tensor)) and source.dtype != object:
        raise TypeError(
            f"`{name}` must yield sequences of different lengths. Received one array of shape {tuple(source.shape)}. "
            "If it is padded, use BucketedSequence.from_padded(x, ...)."
        )

    # torch's DataLoader makes lists of the tuples that its dataset yields; by itself, of those in them as well.
    list_is_tuple = comes_from("torch", source)
    is_collated = getattr(getattr(source, "collate_fn", None), "__name__", "") == "default_collate"

    def read() -> Iterator[Element]:
        elements = source if is_iterable else _call(source, name)
        return _split_elements(map(_with_tuples, elements) if is_collated else elements, list_is_tuple)

    return Stream("iterable", read, options.batched, length_of(source), not options.batched)


def _with_tuples(element: Any) -> Any:
    if isinstance(element, dict):
        return {key: _with_tuples(value) for key, value in element.items()}
    return tuple(map(_with_tuples, element)) if isinstance(element, (list, tuple)) else element


def length_of(source: Any) -> int | None:
    """The number of elements; None if it is unknown, or if `__len__` raises, as a DataLoader's may."""
    try:
        return len(source)
    except Exception:  # what code of others raises; a bar without a total is all that depends on it
        return None


def _is_empty(leaf: object) -> bool:
    return leaf == [] if isinstance(leaf, list) else isinstance(leaf, np.ndarray) and leaf.shape[:1] == (0,)


def _refuse_empty_batch(element: Element, index: int, name: str, batched: bool) -> None:
    """Refuses a batch without rows, which says nothing about the shapes of others."""
    for path, leaf in leaves_of(element).items():
        if batched and _is_empty(leaf):
            raise ValueError(
                f"`{name}` must yield batches of at least one row. Received none for `{leaf_name(path)}` in batch "
                f"{index}. Correct its num_batches, or leave that batch out."
            )


def _call(function: Callable[[], Any], name: str) -> Iterable[Any]:
    check_no_arguments(name, function)
    rows = function()
    if not isinstance(rows, Iterable):
        raise TypeError(
            f"`{name}` must return something to iterate over. Expected a generator function, received one that returns "
            f"{type(rows).__name__}."
        )
    return rows


def _split_elements(elements: Iterable[Any], list_is_tuple: bool = False) -> Iterator[Element]:
    index = 0
    for element in elements:
        yield split_element(element, index, list_is_tuple)
        del element
        index += 1  # noqa: SIM113  enumerate would keep the element until the next one is there


def _endless_error(name: str, fix: str) -> ValueError:
    return ValueError(
        f"`{name}` never ends, so it cannot be read once from beginning to end. {fix} Or pass max_rows, or use "
        "BucketedStream, which reads while a model trains."
    )
