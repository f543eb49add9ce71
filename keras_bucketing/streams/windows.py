"""A source of rows in windows, which each pass reads from the beginning: what `BucketedStream` is made of.

A `tf.data.Dataset` of rows or of ragged batches stays in graph; shapes that it does not declare are those of the first
rows. Everything else, padded batches among it, is read in Python by the readers of `from_dataset`, window by window.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.checks import shorten
from keras_bucketing.data.arrays import standard_dtype
from keras_bucketing.data.collect import Inputs, collect_inputs
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.row_format import LeafFormat, RowFormat, WindowLeaf
from keras_bucketing.data.rows import Rows
from keras_bucketing.data.tree import Path, Structure, leaves
from keras_bucketing.streams.batch_reader import BatchReader
from keras_bucketing.streams.columns import ColumnBuilder, MemoryStore
from keras_bucketing.streams.elements import Element, leaves_of, map_element
from keras_bucketing.streams.graph_windows import windows_of_rows, with_shapes_of_format
from keras_bucketing.streams.lookahead import Lookahead
from keras_bucketing.streams.reading import finish_columns, make_reader, open_reader
from keras_bucketing.streams.roles import Role, Roles, roles_in_batches, roles_in_rows
from keras_bucketing.streams.row_reader import RowReader
from keras_bucketing.streams.sources import Stream, length_of, open_stream
from keras_bucketing.unpadding.batches import BatchOptions
from keras_bucketing.unpadding.entries import leaf_name
from keras_bucketing.unpadding.unnoticed import warn_of

_LOOKAHEAD = 8  # elements that are looked at before it is decided what a row is made of


class RowSource(NamedTuple):
    """Where the rows of a stream come from.

    Attributes:
        inputs: A few rows, or made-up ones of their structure: what a row is made of.
        windows: Function from a format, a number of rows, and whether to leave out empty ones, to windows of so many:
            a dataset for each epoch, an int64 scalar in graph, with the leaves in the order of `RowFormat.leaves`.
        num_rows: How many rows a pass has, or None where that is unknown.
        is_endless: Whether it never ends.
        type_name: What `repr` calls it.
        description: What can be compared with another source without reading either, for JSON.
        label_padding: What labels of the first padded batches were padded with; None where there is none.
        masks: What messages call the masks of `x`.
    """

    inputs: Inputs
    windows: Callable[[RowFormat, int, bool], Callable[[tf.Tensor], tf.data.Dataset]]
    num_rows: int | None
    is_endless: bool
    type_name: str
    description: dict[str, object]
    label_padding: Any = None
    masks: tuple[str, ...] = ()


def open_row_source(source: Any, options: BatchOptions, takes_label_padding: bool = False) -> RowSource:
    """Finds out what the rows of a source are made of.

    Args:
        source: As in `BucketedStream`.
        options: What the caller said about its elements.
        takes_label_padding: Whether labels are padded with what the source has padded them with.

    Raises:
        TypeError: If it cannot be read, or not twice.
        ValueError: If it is not certain what an element is.
    """
    if isinstance(source, Iterator):
        raise TypeError(
            f"`source` must start again in every epoch, and {type(source).__name__} is finished after the first. Pass "
            "the generator function instead of what it returned, or a list; or read it once with "
            "BucketedSequence.from_dataset."
        )
    stream, stream_of_epoch = _open_epochs(source, options)
    if stream.total == 0:
        raise _no_sequences()
    is_endless = stream.total == tf.data.INFINITE_CARDINALITY
    if isinstance(source, tf.RaggedTensor):
        source = tf.data.Dataset.from_tensor_slices(source)
    roles = _roles_in_graph(stream, options) if isinstance(source, tf.data.Dataset) else None
    num_rows = stream.total if stream.counts_rows and not is_endless else None
    if roles is not None:
        rows = source if stream.counts_rows else source.unbatch()
        inputs = _inputs_of_specs(stream, roles, options.labels_align) or _first_rows(stream, options)[0]
        return RowSource(
            inputs,
            functools.partial(windows_of_rows, rows),
            num_rows,
            is_endless,
            stream.kind,
            stream.describe(),
        )
    inputs, first, found = _first_rows(stream, options)
    if isinstance(source, tf.data.Dataset) and isinstance(found, RowReader):  # of unknown shapes
        rows = with_shapes_of_format(source, format_of_rows(inputs))
        return RowSource(
            inputs, functools.partial(windows_of_rows, rows), num_rows, is_endless, stream.kind, stream.describe()
        )
    if isinstance(found, BatchReader):
        num_rows = None
    windows = _WindowReader(stream_of_epoch, options, first).windows
    type_name = type(source).__name__ if stream.kind == "iterable" else stream.kind
    label_padding = found.label_padding() if takes_label_padding else None
    return RowSource(
        inputs, windows, num_rows, is_endless, type_name, stream.describe(), label_padding, found.mask_names()
    )


def _open_epochs(source: Any, options: BatchOptions) -> tuple[Stream, Callable[[int], Stream]]:
    """What is known of a source, and what is read of it in an epoch."""
    if _takes_epoch(source):
        total = length_of(source)

        def stream_of_epoch(epoch: int) -> Stream:
            return replace(open_stream(functools.partial(source, epoch), options, "source", True), total=total)

        return stream_of_epoch(0), stream_of_epoch
    stream = open_stream(source, options, "source", True)
    if isinstance(source, keras.utils.PyDataset):
        told = replace(stream, elements=functools.partial(_epoch_of, source, stream.elements))
        return stream, lambda _: told
    return stream, lambda _: stream


def _epoch_of(dataset: keras.utils.PyDataset, elements: Callable[[], Iterator[Element]]) -> Iterator[Element]:
    """An epoch of a `PyDataset`, which may shuffle where `fit` would tell it that one begins or ends."""
    dataset.on_epoch_begin()
    yield from elements()
    dataset.on_epoch_end()


def _takes_epoch(source: Any) -> bool:
    """Whether a source is a function of the epoch; refuses one that needs more than that."""
    if not callable(source) or hasattr(source, "__iter__"):
        return False
    try:
        signature = inspect.signature(source)
    except (TypeError, ValueError):  # a function in C that does not say
        return False
    required = [each for each in signature.parameters.values() if each.default is each.empty and each.kind in _REQUIRED]
    by_name = [each for each in required if each.kind is each.KEYWORD_ONLY]
    if by_name or len(required) > 1:
        raise TypeError(
            "`source` must take no argument, as in source(), or the epoch, as in source(epoch). Received a function of "
            f"{shorten(str(signature))}. Give other parameters a default, or bind them with functools.partial."
        )
    return bool(required)


_REQUIRED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def _no_sequences() -> ValueError:
    return ValueError("`source` has no sequences. Expected at least one element, received none.")


def format_of_rows(inputs: Inputs) -> RowFormat:
    """What rows are made of, as a window has them."""

    def leaf_format(path: Path, leaf: Leaf) -> LeafFormat:
        if isinstance(leaf, Rows):
            return LeafFormat(path, True, leaf.dtype, leaf.feature_shape)
        return LeafFormat(path, False, standard_dtype(leaf.dtype, leaf_name(path)), leaf.shape[1:])

    structure = map_element(leaf_format, (inputs.x, inputs.y, inputs.sample_weight))
    ragged = [leaf.path for _, leaf in leaves(structure) if leaf.is_sequence]
    labels = [path for path in ragged if path[0] == "y"]
    weight_owners = {path: ("y", *path[1:]) for path in ragged if path[0] == "sample_weight"}
    return RowFormat(
        structure,
        {("y", *label): ("x", *owner) for label, owner in inputs.label_owners.items()},
        {path: owner if owner in labels else labels[0] for path, owner in weight_owners.items()},
        () if inputs.align_labels else tuple(labels),
    )


# In graph.


def _roles_in_graph(stream: Stream, options: BatchOptions) -> Roles | None:
    """What the leaves of a dataset hold that needs no Python: rows, or batches none of whose leaves is padded."""
    if stream.spec is None:
        return None
    specs = leaves_of(stream.spec)
    if stream.counts_rows:
        return roles_in_rows(specs, options.timestep_labels)
    roles = roles_in_batches(specs, options.timestep_labels)
    return None if Role.PADDED in roles.values() else roles


def _inputs_of_specs(stream: Stream, roles: Roles, labels_align: bool) -> Inputs | None:
    """Two made-up rows of the structure that a dataset declares; None where only real ones tell labels apart."""
    in_x = [path for path, role in roles.items() if path[0] == "x" and role is Role.SEQUENCE]
    of_labels = [path for path, role in roles.items() if path[0] == "y" and role is Role.SEQUENCE]
    if labels_align and of_labels and len(in_x) > 1:
        return None
    first_axis = 1 if stream.counts_rows else 2

    def leaf(path: Path, spec: Any) -> Any:
        shape = spec.shape[first_axis:] if roles[path] is Role.SEQUENCE else spec.shape[first_axis - 1 :]
        if None in shape:
            raise ValueError(
                f"`{leaf_name(path)}` must have one axis of unknown size at most, that of time. Received the shape "
                f"{spec.shape}. Give the others their sizes with tf.ensure_shape."
            )
        if roles[path] is Role.SEQUENCE:
            return [np.zeros((length, *shape), spec.dtype) for length in (1, 2)]
        return np.zeros((2, *shape), spec.dtype)

    return collect_inputs(*map_element(leaf, _spec(stream)), align_labels=labels_align)


def _spec(stream: Stream) -> Element:
    if stream.spec is None:
        raise AssertionError("A dataset in graph has a spec.")
    return stream.spec


# In Python.


def _first_rows(stream: Stream, options: BatchOptions) -> tuple[Inputs, Element, BatchReader | RowReader]:
    """The first rows, checked against one another, their leaves as they were read, and what has read them."""
    ahead = Lookahead(_named(stream.elements()), _LOOKAHEAD)
    if ahead.template is None:
        raise _no_sequences()
    if ahead.template[0] is None:
        raise TypeError("`source` must yield x, (x, y) or (x, y, sample_weight). Received None for x in element 0.")
    reader = open_reader(stream, options, ahead, _new_column)
    for element in itertools.islice(ahead, _LOOKAHEAD):
        reader.read(element)
    if len(ahead.specs) < _LOOKAHEAD:  # these are all: what is wrong is said before the first epoch
        reader.finish()
    columns = finish_columns(reader.columns, options, reader.values_of_rows)
    return collect_inputs(*columns, align_labels=options.labels_align), columns, reader


def _new_column(path: Path, is_ragged: bool) -> ColumnBuilder:
    return ColumnBuilder(leaf_name(path), MemoryStore(), is_ragged)


class _WindowReader:
    """Reads a source in Python, window by window.

    Args:
        stream_of_epoch: What to read, from the epoch.
        options: What the caller said about its elements.
        template: The leaves of its first rows.
    """

    def __init__(self, stream_of_epoch: Callable[[int], Stream], options: BatchOptions, template: Element):
        self._stream_of_epoch, self._options = stream_of_epoch, options
        self._is_ragged = {path: isinstance(leaf, Rows) for path, leaf in leaves_of(template).items()}
        self._warned: set[str] = set()  # each of them in one pass only

    def windows(self, row_format: RowFormat, num_rows: int, drop_empty: bool) -> Callable[[tf.Tensor], tf.data.Dataset]:
        """Datasets of windows; each begins to read the source."""
        signature = tuple(
            WindowLeaf(
                tf.TensorSpec((None, *leaf.shape), leaf.dtype),
                tf.TensorSpec((None,), tf.int64),
                tf.TensorSpec((None,), tf.int32),
            )
            if leaf.is_sequence
            else tf.TensorSpec((None, *leaf.shape), leaf.dtype)
            for leaf in row_format.leaves
        )

        def read(epoch: np.int64) -> Iterator[tuple[Any, ...]]:
            return self._read(self._stream_of_epoch(int(epoch)), row_format, num_rows, drop_empty)

        return lambda epoch: tf.data.Dataset.from_generator(read, output_signature=signature, args=(epoch,))

    def _read(
        self, stream: Stream, row_format: RowFormat, num_rows: int, drop_empty: bool
    ) -> Iterator[tuple[Any, ...]]:
        elements = _named(stream.elements())
        ahead = Lookahead(elements, _LOOKAHEAD)
        if ahead.template is None:
            return
        reader = make_reader(stream, self._options, ahead, _new_column)
        _check_same_structure(reader.columns, row_format)
        total = stream.total if stream.kind == "iterable" and stream.counts_rows else None
        first_row = largest = 0
        for element in ahead:
            before = reader.num_rows
            if before == total:
                raise _wrong_length(total, "more")
            if before > first_row and before + largest - first_row > num_rows:
                yield self._window(reader.columns, row_format, drop_empty)
                reader.begin_columns()
                first_row = before
                for column in leaves_of(reader.columns).values():
                    column.first_row = first_row
            reader.read(element)
            largest = max(largest, reader.num_rows - before)
        if total is not None and reader.num_rows < total:
            raise _wrong_length(total, str(reader.num_rows))
        self._warn(reader.finish())
        yield self._window(reader.columns, row_format, drop_empty)

    def _warn(self, messages: list[str]) -> None:
        new = [message for message in messages if message not in self._warned]
        self._warned.update(new)
        warn_of(new)

    def _finish(self, path: Path, column: ColumnBuilder) -> Leaf:
        """The leaf of a window, as values of one shape where the first rows were that."""
        are_values = column.is_ragged and not self._is_ragged[path]
        if are_values and np.unique(column.lengths).size > 1:
            raise ValueError(
                f"`{column.name}` held values of one shape in the first rows, and lengths from {column.lengths.min()} "
                f"to {column.lengths.max()} later. If these are labels of timesteps, pass timestep_labels=True."
            )
        return column.finish(are_values)

    def _window(self, columns: Structure, row_format: RowFormat, drop_empty: bool) -> tuple[Any, ...]:
        by_path, values = leaves_of(columns), leaves_of(map_element(self._finish, columns))
        keep = None
        if drop_empty:
            keep = np.all([values[leaf.path].sizes > 0 for leaf in row_format.sequences], axis=0)
        for leaf in row_format.leaves:
            _check_kind(leaf, values[leaf.path], by_path[leaf.path])
        return tuple(_converted(leaf, values[leaf.path], keep) for leaf in row_format.leaves)


def _wrong_length(total: int, received: str) -> ValueError:
    return ValueError(
        f"`source` must have as many rows in every pass as its length says. Expected {total}, received {received}. "
        "Correct its __len__, or pass a function, which has none: then the number of batches is unknown."
    )


def _check_same_structure(columns: Element, row_format: RowFormat) -> None:
    """Refuses a pass whose rows are built unlike those that the stream was made with."""
    by_path = leaves_of(columns)
    expected, received = [leaf.path for leaf in row_format.leaves], list(by_path)
    if set(expected) != set(received):
        raise ValueError(
            f"All passes over `source` must have rows of one structure. Expected {_names(expected)} as when the stream "
            f"was made, received {_names(received)}. Yield the same entries in every epoch."
        )
    for leaf in row_format.sequences:
        if not by_path[leaf.path].is_ragged:
            raise ValueError(
                f"All passes over `source` must have rows of one structure. Expected a sequence in `{leaf.name}`, as "
                "when the stream was made, received one value per row."
            )


def _names(paths: list[Path]) -> str:
    return ", ".join(f"`{leaf_name(path)}`" for path in paths)


def _named(elements: Iterator[Element]) -> Iterator[Element]:
    """The elements; an error of the source says which element it concerns."""
    for index in itertools.count():
        try:
            element = next(elements)
        except StopIteration:
            return
        except (TypeError, ValueError) as error:  # of this package, as it takes elements apart; or like them
            raise type(error)(f"Element {index} of `source`: {shorten(str(error))}") from error
        except Exception as error:
            raise RuntimeError(
                f"`source` raised {type(error).__name__} at element {index}: {shorten(str(error))}"
            ) from error
        yield element


def _converted(leaf: LeafFormat, value: Leaf, keep: Any) -> Any:
    """A leaf of a window in the dtype of the first rows."""
    if isinstance(value, Rows):
        rows = value if keep is None else value.select(keep)
        values = rows.values.astype(leaf.dtype, copy=False).reshape(len(rows.values), *leaf.shape)
        return WindowLeaf(values, rows.starts.astype(np.int64), rows.sizes.astype(np.int32))
    array = value if keep is None else value[keep]
    return array.astype(leaf.dtype, copy=False)


def _check_kind(leaf: LeafFormat, value: Leaf, column: ColumnBuilder) -> None:
    """Refuses a leaf of a window of another dtype or shape than in the first rows."""
    if isinstance(value, Rows):
        if not len(value.values):  # nothing but empty rows
            return
        dtype, shape = value.dtype, value.feature_shape
    else:
        dtype, shape = standard_dtype(value.dtype, leaf.name), value.shape[1:]
    fits = np.can_cast(dtype, leaf.dtype) or (dtype.kind in "biu" and leaf.dtype.kind == "f")
    if shape != leaf.shape or not fits:
        row = column.row_of_dtype if shape == leaf.shape else column.row_of_features
        common = np.float32 if "f" in (dtype.kind, leaf.dtype.kind) else np.result_type(dtype, leaf.dtype)
        raise ValueError(
            f"`{leaf.name}` must have one dtype and shape in all rows. Expected {leaf.dtype} of shape {leaf.shape} as "
            f"in the first rows, received {dtype} of shape {shape} at {leaf.name}[{row}]. Convert them all, e.g. with "
            f"np.asarray(row, np.{np.dtype(common)})."
        )
