"""Reads a stream once, from beginning to end, into one growing column for each leaf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from keras_bucketing.streams.batch_layout import (
    BatchOptions,
    describe_shapes,
    is_batched,
    looks_like_batches,
    looks_like_rows,
    unclear_elements,
)
from keras_bucketing.streams.batch_reader import BatchReader
from keras_bucketing.streams.element_specs import NAMES, Triple, map_named, named_leaves, spec_of_elements
from keras_bucketing.streams.growing import GrowingColumn, Store
from keras_bucketing.streams.progress import Progress
from keras_bucketing.streams.row_reader import RowReader
from keras_bucketing.streams.sources import Stream

_LOOKAHEAD = 8  # elements that are looked at before it is decided what their axes mean


@dataclass(frozen=True)
class Column:
    """A leaf that has been read.

    Attributes:
        number: Which store it went to, in the order in which they were made.
        values: Array `(num_values, *features)` of sequences, or `(num_rows, *features)`.
        lengths: Int64 array `(num_rows,)` of sequences, or None for one value a row.
    """

    number: int
    values: np.ndarray
    lengths: np.ndarray | None


def read_stream(stream: Stream, options: BatchOptions, new_store: Callable[[], Store], name: str) -> Triple:
    """Reads everything.

    Args:
        stream: What to read.
        options: What the caller said about its elements.
        new_store: Function that makes the place where the values of a leaf go.
        name: What to call the source in an error message.

    Returns:
        The structures of `x`, `y` and `sample_weight`, with a `Column` for each leaf.

    Raises:
        TypeError: If a leaf does not hold numbers.
        ValueError: If rows do not fit together, there are none, or it is not certain what they are.
    """
    elements = stream.elements()
    first = list(islice(elements, _LOOKAHEAD))
    if not first:
        raise ValueError(f"`{name}` has no sequences. Expected at least one element, received none.")
    if first[0][0] is None:
        raise TypeError(f"`{name}` must yield x, (x, y) or (x, y, sample_weight). Received None for x in element 0.")
    names = [leaf_name for top, part in zip(NAMES, first[0], strict=True) for leaf_name, _ in named_leaves(part, top)]
    if len(set(names)) < len(names):  # messages shorten the names, and here they tell the leaves apart
        raise ValueError("The keys of the dicts that an element is made of must be shorter, to be told apart.")
    columns: list[GrowingColumn] = []

    def new_column(leaf_name: str, is_ragged: bool) -> GrowingColumn:
        columns.append(GrowingColumn(leaf_name, new_store(), is_ragged))
        return columns[-1]

    try:
        reader = _make_reader(stream, options, first, new_column)
        progress = Progress(f"Reading `{name}`", "rows" if stream.counts_rows else "batches", stream.total)
        index = -1
        for index, element in enumerate(chain(first, elements)):
            reader.read(element)
            progress.update(reader.num_rows if stream.counts_rows else index + 1)
        progress.finish(reader.num_rows if stream.counts_rows else index + 1)
        return _finish(reader.columns, columns, options)
    except BaseException:
        for column in columns:
            column.abandon()
        raise


def _make_reader(
    stream: Stream, options: BatchOptions, first: list[Triple], new_column: Callable[[str, bool], GrowingColumn]
) -> BatchReader | RowReader:
    """Decides what the elements are, or says what the caller has to say."""
    if stream.roles is not None and stream.spec is not None:
        return BatchReader(first, stream.spec, stream.roles, options, new_column)
    template = first[0]
    seen = spec_of_elements(first)
    batched = stream.batched
    if batched is None and stream.kind == "tf.data.Dataset":
        batched = is_batched(seen)
    if not batched:
        if batched is None and looks_like_batches(seen, len(first)):
            raise unclear_elements(describe_shapes(seen) + f" in all of the first {len(first)} elements")
        return RowReader(template, new_column)
    spec = seen if stream.spec is None else stream.spec
    if options.batched is None and stream.spec is not None and len(first) > 1:
        seen = spec_of_elements(first[:-1])
        if looks_like_rows(spec, seen, len(first) - 1):
            raise unclear_elements(describe_shapes(seen) + f" in the first {len(first) - 1} elements")
    return BatchReader(first, spec, None, options, new_column)


def _finish(structures: Triple, columns: list[GrowingColumn], options: BatchOptions) -> Triple:
    """Ends all columns; labels turn out to be one a timestep, or values of one shape."""
    of_x = [column.lengths for _, column in named_leaves(structures[0], "x") if column.is_ragged]
    finished = []
    for top, structure in zip(NAMES, structures, strict=True):

        def finish(_: str, column: GrowingColumn, is_input: bool = top == "x") -> Column:
            as_values = column.is_ragged and not is_input and _are_values(column, of_x, options)
            return Column(columns.index(column), *column.finish(as_values))

        finished.append(map_named(structure, top, finish))
    return finished[0], finished[1], finished[2]


def _are_values(column: GrowingColumn, of_x: list[np.ndarray], options: BatchOptions) -> bool:
    """Whether labels with an axis are values of one shape, as one-hot labels are: all as long, and unlike the rows."""
    lengths = column.lengths
    different = np.flatnonzero(lengths != lengths[0])
    if options.timestep_labels is False and different.size:
        at = int(different[0])
        raise ValueError(
            f"`{column.name}` must hold values of one shape with timestep_labels=False. Received {lengths[0]} at "
            f"{column.name}[0] and {lengths[at]} at {column.name}[{at}]. Leave timestep_labels out if these are labels "
            "of timesteps."
        )
    if options.timestep_labels is not None:
        return not options.timestep_labels
    fits_a_leaf = any(np.array_equal(lengths, those) for those in of_x)
    return options.labels_align and not different.size and not fits_a_leaf
