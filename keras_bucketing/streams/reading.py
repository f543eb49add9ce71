"""Reads a stream once, from beginning to end, into one growing column for each leaf."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show, show_typed
from keras_bucketing.data.arrays import as_regular_array, first_non_number
from keras_bucketing.data.lists import as_row
from keras_bucketing.data.rows import as_ragged
from keras_bucketing.streams.columns import GrowingColumn, Store
from keras_bucketing.streams.elements import (
    NAMES,
    LeafSpec,
    Role,
    Triple,
    describe_shapes,
    is_batched,
    is_list_of_rows,
    leaves_like,
    looks_like_batches,
    looks_like_rows,
    map_named,
    named_leaves,
    refuse_text,
    roles_in_batches,
    spec_of_elements,
    unclear_elements,
)
from keras_bucketing.streams.sources import Stream
from keras_bucketing.unpadding.batches import BatchOptions, PaddedGroup, Span, group_padded_leaves
from keras_bucketing.unpadding.labels import PaddedLabels

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


# Single rows, as Python's iterators yield them, appended to columns.


class RowReader:
    """Reads elements that are one row each: a scalar is one value a row, everything with an axis is a sequence.

    Args:
        template: The first element, whose structure all others share.
        new_column: Function of a leaf's name and of whether it holds sequences.
    """

    def __init__(self, template: Triple, new_column: Callable[[str, bool], GrowingColumn]):
        self.num_rows = 0
        self._template = template
        is_single = not isinstance(template[0], (dict, tuple))

        def make(name: str, leaf: Any) -> GrowingColumn:
            is_sequence = (is_single and name == "x") or isinstance(leaf, (list, tuple)) or np.ndim(leaf) > 0
            return new_column(name, is_sequence)

        x, y, weights = (map_named(part, name, make) for name, part in zip(NAMES, template, strict=True))
        self.columns: Triple = (x, y, weights)
        self._flat = [
            [column for _, column in named_leaves(part, name)] for name, part in zip(NAMES, self.columns, strict=True)
        ]

    def read(self, element: Triple) -> None:
        """Appends one row to every column."""
        row = self.num_rows
        for name, template, part, columns in zip(NAMES, self._template, element, self._flat, strict=True):
            leaves = leaves_like(template, part, (name,), row)
            for column, leaf in zip(columns, leaves, strict=True):
                column.append(
                    _as_sequence(leaf, column.name, row) if column.is_ragged else _as_value(leaf, column, row)
                )
        self.num_rows += 1


def _as_sequence(leaf: Any, name: str, row: int) -> np.ndarray:
    if type(leaf) is np.ndarray and leaf.ndim and leaf.dtype.kind in "biuf":
        return leaf
    _refuse_strings(leaf, f"{name}[{row}]")
    return as_row(leaf, f"{name}[{row}]")


def _as_value(leaf: Any, column: GrowingColumn, row: int) -> np.ndarray:
    where = f"{column.name}[{row}]"
    if not isinstance(leaf, (bool, int, float, np.ndarray, np.generic)):
        _refuse_strings(leaf, where)
    array = as_regular_array(leaf, where, "Give every row the same shape.")
    if array.dtype.kind == "O":
        raise TypeError(
            f"`{where}` must be a number. Received {type(leaf).__name__}. Drop that row or give it a value."
        )
    refuse_text(str(array.dtype), where, leaf)
    return array


def _refuse_strings(leaf: Any, where: str) -> None:
    """Looks for text in a string, in the first entries of a list, and in an array's dtype."""
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, (str, bytes)):
        refuse_text("string", where, leaf)
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and str(getattr(dtype, "name", dtype)) != "object":
        refuse_text(str(getattr(dtype, "name", dtype)), where)


# Batches of rows, ragged or padded, appended to columns row by row.


Leaves = dict[str, Any]  # by name: an array, a `tf.RaggedTensor` or a list of rows
_LABEL_LENGTHS = "x['label_lengths']"  # what include_lengths=True adds for labels of their own length


class BatchReader:
    """Reads elements that are batches.

    Args:
        first: The first batches. They are looked at, not read.
        spec: The leaves of a batch, or of a row where `roles` are given.
        roles: What the leaves hold, or None: that is found out from `spec`.
        options: What the caller said.
        new_column: Function of a leaf's name and of whether it holds sequences.
    """

    def __init__(
        self,
        first: list[Triple],
        spec: Triple,
        roles: Triple | None,
        options: BatchOptions,
        new_column: Callable[[str, bool], GrowingColumn],
    ):
        self.num_rows = 0
        self._batches = 0
        self._template = first[0]
        self._options = options
        self._names = [[leaf_name for leaf_name, _ in named_leaves(part, name)] for name, part in _parts(first[0])]
        roles = roles_in_batches(spec, options.timestep_labels) if roles is None else roles
        self._roles: dict[str, Role] = {
            name: role for top, part in _parts(roles) for name, role in named_leaves(part, top)
        }
        in_x = dict(named_leaves(spec[0], "x"))
        padded = [name for name in in_x if self._roles[name] is Role.PADDED]
        looked_at = [self._leaves(batch, index) for index, batch in enumerate(first)]
        counts = {name for name, leaf in in_x.items() if leaf.rank == 1 and leaf.dtype.lstrip("u").startswith("int")}
        self._groups = self._group(first[0][0], padded, counts, looked_at) if padded else []
        labels = [name for name, role in self._roles.items() if role is Role.PADDED and name not in in_x]
        sequences = [name for name in in_x if self._roles[name] is Role.SEQUENCE]
        has_lengths = _LABEL_LENGTHS in counts and not options.labels_align and len(labels) == 1
        label_lengths = _LABEL_LENGTHS if has_lengths else None
        self._labels = PaddedLabels(labels, sequences, self._groups, options, label_lengths)
        if labels:
            begins = np.cumsum([0, *(_num_rows(leaves[labels[0]]) for leaves in looked_at)])
            spans = [self._spans(leaves, int(row)) for leaves, row in zip(looked_at, begins, strict=False)]
            self._labels.align(list(zip(looked_at, spans, strict=True)))
        x = _without(first[0][0], self._used_lengths(in_x) | ({_LABEL_LENGTHS} if has_lengths else set()))
        x, y, weights = (
            map_named(part, name, lambda leaf_name, _: new_column(leaf_name, self._roles[leaf_name] is not Role.VALUE))
            for name, part in zip(NAMES, (x, *first[0][1:]), strict=True)
        )
        self.columns: Triple = (x, y, weights)
        self._flat: list[GrowingColumn] = [
            column for top, part in _parts(self.columns) for _, column in named_leaves(part, top)
        ]

    def read(self, element: Triple) -> None:
        """Appends the rows of one batch to every column."""
        leaves = self._leaves(element, self._batches)
        spans = self._spans(leaves, self.num_rows)
        rows = _num_rows(leaves[self._flat[0].name])
        for column in self._flat:
            leaf, role = leaves[column.name], self._roles[column.name]
            if role is Role.PADDED:
                span = spans.get(column.name) or self._labels.span(column.name, leaves, spans, self.num_rows)
                if leaf.shape[1] != span.time:
                    raise ValueError(
                        f"`{column.name}` must be as long as its padded sequences. Expected {span.time} timesteps, "
                        f"received {leaf.shape[1]} in the batch at row {self.num_rows}."
                    )
                column.append_block(leaf[span.is_real], span.lengths, rows)
            elif role is Role.SEQUENCE:
                self._append_sequences(column, leaf, rows)
            else:
                column.append_block(_as_values(leaf, column.name), None, rows)
        self.num_rows += rows
        self._batches += 1

    def _append_sequences(self, column: GrowingColumn, leaf: Any, rows: int) -> None:
        if isinstance(leaf, tf.RaggedTensor):
            ragged = as_ragged(leaf, column.name)
            column.append_block(ragged.values, ragged.lengths, rows)
        elif isinstance(leaf, list):
            for index, row in enumerate(leaf):
                column.append(as_row(row, f"{column.name}[{self.num_rows + index}]"))
        else:
            _check_axis(leaf, column.name)
            values = leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])
            column.append_block(values, np.full(rows, leaf.shape[1]), rows)

    def _leaves(self, element: Triple, index: int) -> Leaves:
        """The batch's leaves by name, in the memory of the host."""
        leaves: Leaves = {}
        for (top, part), template, names in zip(_parts(element), self._template, self._names, strict=True):
            for name, leaf in zip(names, leaves_like(template, part, (top,), index), strict=True):
                leaves[name] = _on_host(leaf, name)
        rows = {name: _num_rows(leaf) for name, leaf in leaves.items()}
        for name, number in rows.items():
            if number != rows[first := next(iter(rows))]:
                raise ValueError(
                    f"All leaves of a batch must have the same number of rows. Expected {rows[first]} as in `{first}`, "
                    f"received {number} in `{name}` of element {index}. If an element is one row, pass "
                    "batched=False; several inputs belong in a tuple or a dict, not in a list."
                )
        return leaves

    def _spans(self, leaves: Leaves, first_row: int) -> dict[str, Span]:
        """What is real in each padded leaf of `x`."""
        spans: dict[str, Span] = {}
        for group in self._groups:
            times = {name: _check_axis(leaves[name], name).shape[1] for name in group.names}
            for padded_length in set(times.values()):  # leaves that were padded alike need not be so in every batch
                part = PaddedGroup(
                    [name for name in group.names if times[name] == padded_length], group.mask, group.lengths
                )
                chosen = group if len(part.names) == len(group.names) else part
                span = chosen.span(leaves, self._options, first_row)
                spans |= dict.fromkeys(part.names, span)
        return spans

    def _group(self, x: Any, padded: list[str], counts: set[str], looked_at: list[Leaves]) -> list[PaddedGroup]:
        batches = [{name: _check_axis(leaves[name], name) for name in padded} for leaves in looked_at]
        return group_padded_leaves(x, padded, counts, batches, self._options.mask_value)

    def _used_lengths(self, in_x: dict[str, LeafSpec]) -> set[str]:
        """The leaves that say how long others are; the lengths themselves are known from the sequences."""
        used = {group.lengths for group in self._groups if group.lengths is not None}
        return used | ({"x['lengths']"} & set(in_x) if used else set())


def _parts(triple: Triple) -> list[tuple[str, Any]]:
    return list(zip(NAMES, triple, strict=True))


def _without(x: Any, names: set[str]) -> Any:
    return {key: value for key, value in x.items() if f"x[{show(key)}]" not in names} if isinstance(x, dict) else x


def _on_host(leaf: Any, name: str) -> Any:
    if isinstance(leaf, tf.RaggedTensor):
        return leaf
    if is_list_of_rows(leaf):
        return list(leaf)
    array = as_regular_array(leaf, name, "Pass a list of rows, or pad them.")
    refuse_text(array.dtype.name, name)
    if array.dtype.kind == "O":
        values = array.reshape(-1).tolist()
        raise TypeError(
            f"`{name}` must hold numbers. Received {show_typed(values[first_non_number(values)])}. Drop rows without a "
            "value."
        )
    if not array.ndim:
        raise ValueError(
            f"`{name}` must have one entry for each row of a batch. Received a scalar. Pass batched=False if an "
            "element is one row."
        )
    return array


def _num_rows(leaf: Any) -> int:
    return int(leaf.nrows()) if isinstance(leaf, tf.RaggedTensor) else len(leaf)


def _check_axis(leaf: Any, name: str) -> Any:
    if isinstance(leaf, (list, tf.RaggedTensor)) or leaf.ndim < 2:
        raise ValueError(
            f"`{name}` must have a time axis in every batch. Received a batch without one. Pad all or none."
        )
    return leaf


def _as_values(leaf: Any, name: str) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    ragged = as_ragged(leaf, name)  # an axis of unknown size, which is the same in all rows, or else
    lengths = np.unique(ragged.lengths)
    if len(lengths) > 1:
        raise ValueError(
            f"All rows of `{name}` must share one shape. Received rows of {lengths[0]} and of {lengths[1]} entries. "
            "Give the first axis no fixed size if it is time."
        )
    return ragged.values.reshape(ragged.num_rows, lengths[0], *ragged.values.shape[1:])


# A line on standard error that tells how far a long reading has come.


_SILENT_SECONDS = 3.0  # whatever is faster needs no progress bar
_BAR_CELLS = 20


class Progress:
    """Says how much has been read, from the third second on.

    Args:
        what: What is being done, e.g. "Reading".
        unit: What is counted, in the plural.
        total: How many there will be, or None where nobody knows.
        stream: Where to write. Defaults to None: standard error.
        clock: Function that returns seconds.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._what, self._unit, self._total = what, unit, total
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._started = clock()
        self._due = self._started + _SILENT_SECONDS
        # A terminal's line is written over; in a log file every line stays.
        self._is_terminal = self._stream.isatty()
        self._seconds_between_lines = 0.2 if self._is_terminal else 30.0
        self._has_written = False

    def update(self, count: int) -> None:
        """Notes that `count` have been read so far."""
        now = self._clock()
        if now >= self._due:
            self._due = now + self._seconds_between_lines
            self._write(count, now, "\n" if not self._is_terminal else "")

    def finish(self, count: int) -> None:
        """Writes the last line, if there has been one before."""
        if self._has_written:
            self._write(count, self._clock(), "\n")

    def _write(self, count: int, now: float, end: str) -> None:
        seconds = now - self._started
        text = f"{self._what}: {count:,}"
        if self._total:
            done = min(count / self._total, 1.0)
            filled = int(done * _BAR_CELLS)
            bar = "#" * filled + "." * (_BAR_CELLS - filled)
            text = f"{self._what} [{bar}] {count:,} of {self._total:,}"
        begin = "\r" if self._is_terminal else ""
        self._stream.write(f"{begin}{text} {self._unit}, {seconds:,.0f} s{end}")
        self._stream.flush()
        self._has_written = True
