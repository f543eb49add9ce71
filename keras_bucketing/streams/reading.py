"""Reads a stream once, from beginning to end, into a column for each leaf.

`read_stream` decides what the elements are and lets a `RowReader` or a `BatchReader` take them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_bucketing.checks import UnclearError, ask_all
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path
from keras_bucketing.streams.batch_reader import BatchReader
from keras_bucketing.streams.columns import ColumnBuilder, MemoryStore, Store
from keras_bucketing.streams.elements import (
    Element,
    LeafSpec,
    Specs,
    common_specs,
    describe_shapes,
    inputs_of,
    kind_of_dtype,
    leaves_of,
    map_element,
    template_of,
)
from keras_bucketing.streams.lookahead import LOOKAHEAD, Lookahead
from keras_bucketing.streams.progress import Progress
from keras_bucketing.streams.roles import (
    Role,
    Roles,
    is_batched,
    looks_like_rows,
    roles_in_batches,
    unclear_elements,
    unclear_labels,
)
from keras_bucketing.streams.row_reader import NewColumn, RowReader
from keras_bucketing.streams.sources import Stream
from keras_bucketing.unpadding.batches import BatchOptions
from keras_bucketing.unpadding.entries import EntryKind, leaf_name, read_table
from keras_bucketing.unpadding.sides import SideOfRuns
from keras_bucketing.unpadding.spans import runs_at_both_ends
from keras_bucketing.unpadding.unnoticed import warn_of


@dataclass(frozen=True)
class Contents:
    """What a stream held; unpacked, it is `x`, `y` and `sample_weight`.

    Attributes:
        element: The structures of `x`, `y` and `sample_weight`, with `Rows` or an array for each leaf.
        label_padding: What labels of each timestep were padded with, a number or an array of the shape of one; None
            where there is none.
        masks: What messages call the masks of `x`.
    """

    element: Element
    label_padding: Any = None
    masks: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.element)


def read_stream(stream: Stream, options: BatchOptions, new_store: Callable[[Path], Store], name: str) -> Contents:
    """Reads everything.

    Args:
        stream: What to read.
        options: What the caller said about its elements.
        new_store: Function that makes the place where the values of a leaf go, from the path of the leaf.
        name: What to call the source in an error message.

    Raises:
        TypeError: If a leaf does not hold numbers.
        ValueError: If rows do not fit together, there are none, or it is not certain what they are.
    """
    ahead = look_ahead(stream, stream.elements())
    template = ahead.template
    if template is None:
        raise ValueError(f"`{name}` has no sequences. Expected at least one element, received none.")
    if template[0] is None:
        raise TypeError(f"`{name}` must yield x, (x, y) or (x, y, sample_weight). Received None for x in element 0.")
    columns: list[ColumnBuilder] = []

    may_be_batches = options.batched is None and not stream.batched and stream.roles is None
    hint = "; if each element of the dataset is a batch of rows, pass batched=True" if may_be_batches else ""

    def new_column(path: Path, is_ragged: bool) -> ColumnBuilder:
        columns.append(ColumnBuilder(leaf_name(path), new_store(path), is_ragged, hint))
        return columns[-1]

    try:
        reader = open_reader(stream, options, ahead, new_column)
        progress = Progress(
            f"Reading `{name}`",
            "rows" if stream.counts_rows else "batches",
            stream.total,
            hint=None if stream.is_bounded else _endless_hint(name),
        )
        count = num_elements = 0
        for element in ahead:
            reader.read(element)
            del element  # before the source makes the next one
            num_elements += 1  # noqa: SIM113  enumerate would keep the element
            count = reader.num_rows if stream.counts_rows else num_elements
            progress.update(count)
        progress.finish(count)
        warnings = reader.finish()
        contents = Contents(
            finish_columns(reader.columns, options, reader.values_of_rows), reader.label_padding(), reader.mask_names()
        )
        warn_of(warnings)
        return contents
    except BaseException:
        for column in columns:
            column.abandon()
        raise


def _endless_hint(name: str) -> str:
    return (
        f"`{name}` does not say how many rows it has, and all of them are read. If it has no end, memory or the disk "
        "will be full: pass max_rows, or use BucketedStream, which reads while a model trains."
    )


# What is assumed, where an argument should say it, to find out what else should be said.
_ASSUMED: dict[str, Any] = {"batched": True, "timestep_labels": True, "padding": "post"}


def open_reader(
    stream: Stream, options: BatchOptions, ahead: Lookahead, new_column: NewColumn
) -> BatchReader | RowReader:
    """As `make_reader`; what the caller has to say is asked at once."""
    try:
        return make_reader(stream, options, ahead, new_column)
    except UnclearError as error:
        raise _all_questions(error, stream, options, ahead) from None


def _all_questions(error: UnclearError, stream: Stream, options: BatchOptions, ahead: Lookahead) -> UnclearError:
    """The error with what else the first elements leave open."""

    def read(assumed: dict[str, Any]) -> None:
        of_batches = replace(stream, batched=True, roles=None, unclear=None) if "batched" in assumed else stream
        reader = make_reader(of_batches, replace(options, **assumed), ahead, _throwaway_column)
        for element in ahead.held:
            reader.read(element)

    return ask_all(error, _ASSUMED, read)


def _throwaway_column(path: Path, is_ragged: bool) -> ColumnBuilder:
    return ColumnBuilder(leaf_name(path), MemoryStore(), is_ragged)


def look_ahead(stream: Stream, elements: Iterator[Element]) -> Lookahead:
    """As many of the elements of a stream as it takes to decide what they are."""
    is_known = stream.roles is not None or _are_rows(stream)
    return Lookahead(elements, 1 if is_known else LOOKAHEAD)


def _are_rows(stream: Stream) -> bool:
    """Whether elements are read as single rows, whatever their shapes are."""
    return stream.batched is False or (stream.batched is None and stream.kind != "tf.data.Dataset")


def make_reader(
    stream: Stream, options: BatchOptions, ahead: Lookahead, new_column: NewColumn
) -> BatchReader | RowReader:
    """Decides what the elements are, or says what the caller has to say."""
    if stream.unclear is not None:
        raise stream.unclear
    held, template = ahead.held, template_of(ahead.held[0])
    if _are_rows(stream):
        return RowReader(held[0], template, new_column, refuse_batches=stream.batched is None)
    declared = None if stream.spec is None else leaves_of(stream.spec)
    if stream.roles is not None and declared is not None:
        return BatchReader(held, template, declared, stream.roles, options, new_column)
    seen = common_specs(ahead.specs)
    if stream.batched is None and not is_batched(seen):
        return RowReader(held[0], template, new_column)
    if declared is None:
        return BatchReader(held, template, seen, roles_of_seen(seen, held, options), options, new_column)
    num_whole = len(ahead.specs) - 1  # the last batch may be a partial one
    if options.batched is None and num_whole:
        seen = common_specs(ahead.specs[:-1])
        if looks_like_rows(declared, seen, num_whole):
            raise unclear_elements(describe_shapes(seen) + f" in the first {num_whole} elements")
    roles = roles_in_batches(declared, options.timestep_labels, options.sequences)
    return BatchReader(held, template, declared, roles, options, new_column)


def roles_of_seen(seen: Specs, first: list[Element], options: BatchOptions) -> Roles:
    """What each leaf of a batch holds whose shape was seen, not declared: one size in these batches proves nothing.

    Beside an entry of varying length, another of two axes is a sequence as well if a mask or lengths tell its own, or
    may be one unless rows begin and others end with `mask_value`, as one-hot vectors do.
    """
    roles = roles_in_batches(seen, options.timestep_labels, options.sequences)
    more = [] if options.sequences is not None else _more_sequences(seen, roles, first, options)
    if not more:
        return roles
    varied = {
        path: LeafSpec((*spec.shape[:1], None, *spec.shape[2:]), spec.dtype) if path in more else spec
        for path, spec in seen.items()
    }
    times = {seen[path].shape[1] for path in more}
    for path, spec in seen.items():  # labels as long as these are either
        is_open = path[0] != "x" and spec.rank > 1 and not spec.ragged_rank and options.timestep_labels is None
        if is_open and spec.shape[1] in times:
            raise unclear_labels(path, seen)
    return roles_in_batches(varied, options.timestep_labels, None)


def _more_sequences(seen: Specs, roles: Roles, first: list[Element], options: BatchOptions) -> list[Path]:
    """Leaves of one size beside one of varying length that are, or may be, sequences as well."""
    in_x = inputs_of(seen)
    if not any(spec.ragged_rank or (spec.rank > 1 and spec.shape[1] is None) for spec in in_x.values()):
        return []
    table = read_table({path: EntryKind(spec.rank, kind_of_dtype(spec.dtype)) for path, spec in in_x.items()})
    fixed = [
        path for path, spec in in_x.items() if roles[path] is Role.VALUE and spec.rank > 1 and not spec.ragged_rank
    ]
    return [
        path
        for path in fixed
        if path in table.lengths
        or (path in table.masks and _has_shape_of_mask(seen, path, table.masks[path]))
        or _may_be_padded(path, first, options)
    ]


def _has_shape_of_mask(seen: Specs, path: Path, mask: Path) -> bool:
    return seen[path].shape[:2] == seen[mask].shape[:2]


def _may_be_padded(path: Path, first: list[Element], options: BatchOptions) -> bool:
    """Whether no rows of these batches contradict padding at one end."""
    evidence = SideOfRuns(leaf_name(path), options.mask_value, options.padding)
    for element in first:
        array = np.asarray(leaves_of(element)[path])
        if isinstance(options.mask_value, np.ndarray) and array.shape[2:] != options.mask_value.shape:
            return False
        evidence.add(runs_at_both_ends(array, options.mask_value), array.shape[1])
    return not evidence.is_unclear


def finish_columns(columns: Element, options: BatchOptions, values_of_rows: set[Path]) -> Element:
    """Ends all columns; labels, and `values_of_rows` of `x`, turn out to be values of one shape, or one a timestep."""
    x_lengths = [
        column.lengths
        for path, column in leaves_of(columns).items()
        if path[0] == "x" and column.is_ragged and path not in values_of_rows
    ]

    def finish(path: Path, column: ColumnBuilder) -> Leaf:
        if path in values_of_rows:
            return np.asarray(column.finish(as_values=True)).view(np.ndarray)  # not to be read as sequences again
        if path[0] == "x":
            return column.finish()
        return column.finish(column.is_ragged and _are_values(column, x_lengths, options))

    return map_element(finish, columns)


def _are_values(column: ColumnBuilder, x_lengths: list[Lengths], options: BatchOptions) -> bool:
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
    fits_a_leaf = any(np.array_equal(lengths, those) for those in x_lengths)
    return options.labels_align and not different.size and not fits_a_leaf
