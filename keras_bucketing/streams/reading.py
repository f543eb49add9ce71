"""Reads a stream once, from beginning to end, into a column for each leaf.

`read_stream` decides what the elements are and lets a `RowReader` or a `BatchReader` take them apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import UnclearError, show_typed, write_text
from keras_bucketing.data.arrays import as_regular_array, first_non_number
from keras_bucketing.data.convert import Leaf, as_rows
from keras_bucketing.data.lists import as_row
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path
from keras_bucketing.streams.columns import ColumnBuilder, MemoryStore, Store
from keras_bucketing.streams.elements import (
    Element,
    Role,
    Roles,
    Specs,
    common_specs,
    describe_shapes,
    inputs_of,
    is_batched,
    is_list_of_rows,
    leaves_in_order,
    leaves_of,
    looks_like_batches,
    looks_like_rows,
    map_element,
    refuse_text,
    roles_in_batches,
    specs_of,
    template_of,
    unclear_elements,
)
from keras_bucketing.streams.lookahead import Lookahead
from keras_bucketing.streams.sources import Stream
from keras_bucketing.unpadding.batches import (
    LENGTHS,
    Batch,
    BatchOptions,
    HostLeaf,
    PaddedGroup,
    Spans,
    group_padded_leaves,
    leaf_name,
)
from keras_bucketing.unpadding.labels import PaddedLabels
from keras_bucketing.unpadding.spans import Span

_LOOKAHEAD = 8  # elements that are looked at before it is decided what their axes mean
_BLOCK_BYTES = 1 << 22  # of a padded batch that are copied at once
_LABEL_LENGTHS: Path = ("x", "label_lengths")  # what include_lengths=True adds for labels of their own length
_SILENT_SECONDS = 3.0  # whatever is faster needs no progress bar
_BAR_WIDTH = 20
_LONG_SECONDS, _LONG_COUNT = 60.0, 1_000_000  # after which a source of unknown size may be one without end

NewColumn = Callable[[Path, bool], ColumnBuilder]  # from a leaf's path, and whether it holds sequences


class Progress:
    """A line on standard error that says how much has been read, from the third second on.

    Args:
        what: What is being done, e.g. "Reading".
        unit: What is counted, in the plural.
        total: How many there will be, or None where nobody knows.
        stream: Where to write. Defaults to None: standard error.
        clock: Function that returns seconds.
        hint: What to say, once, where `total` is None and it takes long.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        hint: str | None = None,
    ):
        self._what, self._unit, self._total = what, unit, total
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._started = clock()
        self._due = self._started + _SILENT_SECONDS
        # A terminal's line is written over; in a log file every line stays.
        self._is_terminal = _is_terminal(self._stream)
        self._seconds_between_lines = 0.2 if self._is_terminal else 30.0
        self._has_written = False
        self._hint = None if total else hint

    def update(self, count: int) -> None:
        """Notes that `count` have been read so far."""
        now = self._clock()
        if now >= self._due:
            self._due = now + self._seconds_between_lines
            is_long = count >= _LONG_COUNT or now - self._started >= _LONG_SECONDS
            hint, self._hint = (self._hint, None) if is_long else (None, self._hint)
            self._write(count, now, "\n" if hint or not self._is_terminal else "")
            if hint:
                self._stream.write(f"{hint}\n")
                self._stream.flush()

    def finish(self, count: int) -> None:
        """Writes the last line, if there has been one before."""
        if self._has_written:
            self._write(count, self._clock(), "\n")

    def _write(self, count: int, now: float, end: str) -> None:
        seconds = now - self._started
        text = f"{self._what}: {count:,}"
        if self._total:
            done = min(count / self._total, 1.0)
            filled = int(done * _BAR_WIDTH)
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            text = f"{self._what} [{bar}] {count:,} of {self._total:,}"
        begin = "\r" if self._is_terminal else ""
        write_text(self._stream, f"{begin}{text} {self._unit}, {seconds:,.0f} s{end}")
        self._has_written = True


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError, AttributeError):  # closed, or an object that can only be written to
        return False


def read_stream(stream: Stream, options: BatchOptions, new_store: Callable[[Path], Store], name: str) -> Element:
    """Reads everything.

    Args:
        stream: What to read.
        options: What the caller said about its elements.
        new_store: Function that makes the place where the values of a leaf go, from the path of the leaf.
        name: What to call the source in an error message.

    Returns:
        The structures of `x`, `y` and `sample_weight`, with `Rows` or an array for each leaf.

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
        try:
            reader = make_reader(stream, options, ahead, new_column)
        except UnclearError as error:
            raise _all_questions(error, stream, options, ahead) from None
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
        return finish_columns(reader.finish(), options)
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


def _all_questions(error: UnclearError, stream: Stream, options: BatchOptions, ahead: Lookahead) -> UnclearError:
    """The error with what else the first elements leave open, so that one call of the user's answers all of it."""
    asked = {error.argument: error.question}
    latest = error
    while latest.argument in _ASSUMED:
        options = replace(options, **{latest.argument: _ASSUMED[latest.argument]})
        if options.batched:
            stream = replace(stream, batched=True, roles=None, unclear=None)
        try:
            reader = make_reader(stream, options, ahead, _throwaway_column)
            for element in ahead.held:
                reader.read(element)
        except UnclearError as another:
            if another.argument in asked:
                break
            asked[another.argument], latest = another.question, another
        except (TypeError, ValueError):  # not what is assumed
            break
        else:
            break
    others = [question for argument, question in asked.items() if argument != error.argument]
    if not others:
        return error
    when = "If it is a batch, say as well" if error.argument == "batched" else "Say as well"
    return UnclearError(f"{error} {when}: {'; '.join(others)}.", error.argument, error.question)


def _throwaway_column(path: Path, is_ragged: bool) -> ColumnBuilder:
    return ColumnBuilder(leaf_name(path), MemoryStore(), is_ragged)


def look_ahead(stream: Stream, elements: Iterator[Element]) -> Lookahead:
    """As many of the elements of a stream as it takes to decide what they are."""
    is_known = stream.roles is not None or _are_rows(stream)
    return Lookahead(elements, 1 if is_known else _LOOKAHEAD)


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
        return BatchReader(held, template, seen, roles_in_batches(seen, options.timestep_labels), options, new_column)
    num_whole = len(ahead.specs) - 1  # the last batch may be a partial one
    if options.batched is None and num_whole:
        seen = common_specs(ahead.specs[:-1])
        if looks_like_rows(declared, seen, num_whole):
            raise unclear_elements(describe_shapes(seen) + f" in the first {num_whole} elements")
    roles = roles_in_batches(declared, options.timestep_labels)
    return BatchReader(held, template, declared, roles, options, new_column)


def finish_columns(columns: Element, options: BatchOptions) -> Element:
    """Ends all columns; labels turn out to be one a timestep, or values of one shape."""
    x_lengths = [column.lengths for path, column in leaves_of(columns).items() if path[0] == "x" and column.is_ragged]

    def finish(path: Path, column: ColumnBuilder) -> Leaf:
        return column.finish(path[0] != "x" and column.is_ragged and _are_values(column, x_lengths, options))

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


class RowReader:
    """Reads elements that are one row each: a scalar is one value a row, everything with an axis is a sequence.

    Args:
        first: The first element. It is looked at, not read.
        template: Its `template_of`, which that of all others must be.
        new_column: Makes the column of a leaf.
        refuse_batches: Whether elements are refused that look like batches.
    """

    def __init__(self, first: Element, template: Element, new_column: NewColumn, refuse_batches: bool = False):
        def is_ragged(path: Path, leaf: Any) -> bool:
            return path == ("x",) or isinstance(leaf, (list, tuple)) or np.ndim(leaf) > 0

        self.num_rows = 0
        self._are_ragged: Element = map_element(is_ragged, first)
        self._template, self._new_column = template, new_column
        self._refuse_batches = refuse_batches
        self._specs: list[Specs] = []  # of the first elements
        self.begin_columns()

    def begin_columns(self) -> None:
        """Lets the rows that follow go into columns of their own."""
        self.columns: Element = map_element(self._new_column, self._are_ragged)
        self._by_path: dict[Path, ColumnBuilder] = leaves_of(self.columns)

    def read(self, element: Element) -> None:
        """Appends one row to every column."""
        leaves = leaves_in_order(element, self._template, self.num_rows)
        if self._refuse_batches and self.num_rows < _LOOKAHEAD:
            self._specs.append(specs_of(element))
            if len(self._specs) == _LOOKAHEAD:
                self._check_rows()
        try:
            self._append(leaves)
        except ValueError:
            if len(self._specs) == self.num_rows + 1:
                self._check_rows()
            raise
        self.num_rows += 1

    def finish(self) -> Element:
        """The columns, with everything in them."""
        if self.num_rows < _LOOKAHEAD:
            self._check_rows()
        return self.columns

    def _append(self, leaves: list[Any]) -> None:
        for (path, column), leaf in zip(self._by_path.items(), leaves, strict=True):
            where = f"{column.name}[{self.num_rows}]"
            convert = _as_sequence if column.is_ragged else _as_value
            column.append(convert(leaf, (*path, self.num_rows), where))

    def _check_rows(self) -> None:
        if not self._refuse_batches:
            return
        seen, number = common_specs(self._specs), len(self._specs)
        if looks_like_batches(seen, number):
            raise unclear_elements(describe_shapes(seen) + f" in all of the first {number} elements")


def _as_sequence(leaf: object, path: Path, name: str) -> np.ndarray:
    if type(leaf) is np.ndarray and leaf.ndim and leaf.dtype.kind in "biuf":
        return leaf
    _refuse_strings(leaf, path)
    return as_row(leaf, name)


def _as_value(leaf: object, path: Path, name: str) -> np.ndarray:
    if not isinstance(leaf, (bool, int, float, np.ndarray, np.generic)):
        _refuse_strings(leaf, path)
    array = as_regular_array(leaf, name, "Give every row the same shape.")
    if array.dtype.kind == "O":
        raise TypeError(f"`{name}` must be a number. Received {type(leaf).__name__}. Drop that row or give it a value.")
    refuse_text(str(array.dtype), path, leaf)
    return array


def _refuse_strings(leaf: object, path: Path) -> None:
    """Looks for text in a string, in the first entries of a list, and in an array's dtype."""
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, (str, bytes)):
        refuse_text("string", path, leaf)
    dtype = getattr(leaf, "dtype", None)
    refuse_text(str(getattr(dtype, "name", dtype)), path)


class BatchReader:
    """Reads elements that are batches, ragged or padded.

    Args:
        first: The first batches. They are looked at, not read.
        template: The `template_of` the first one, which that of all others must be.
        specs: The leaves as they were declared or seen.
        roles: What the leaves hold.
        options: What the caller said.
        new_column: Makes the column of a leaf.
    """

    def __init__(
        self,
        first: list[Element],
        template: Element,
        specs: Specs,
        roles: Roles,
        options: BatchOptions,
        new_column: NewColumn,
    ):
        self.num_rows = 0
        self._num_batches = 0
        self._template, self._roles, self._options = template, roles, options
        self._paths = list(leaves_of(template))
        batches = [self._leaves(element, index) for index, element in enumerate(first)]
        counts = _integers_of_rows(inputs_of(specs))
        self._groups = self._find_groups(counts, batches)
        labels = [path for path, role in roles.items() if role is Role.PADDED and path[0] != "x"]
        has_label_lengths = _LABEL_LENGTHS in counts and not options.labels_align and len(labels) == 1
        label_lengths = _LABEL_LENGTHS if has_label_lengths else None
        self._labels = self._find_labels(labels, label_lengths, batches)

        # Leaves that say lengths get no column: what include_lengths=True adds is made anew from the sequences.
        lengths = {group.lengths for group in self._groups} - {None}
        no_columns = lengths | {label_lengths} | ({LENGTHS} if lengths else set())
        x, y, weights = template
        if isinstance(x, dict):
            x = {key: value for key, value in x.items() if ("x", key) not in no_columns}
        self._columns_of = map_element(lambda *_: True, (x, y, weights))
        self._new_column = new_column
        self.begin_columns()

    def begin_columns(self) -> None:
        """Lets the rows that follow go into columns of their own."""
        self.columns: Element = map_element(
            lambda path, _: self._new_column(path, self._roles[path] is not Role.VALUE), self._columns_of
        )
        self._by_path: dict[Path, ColumnBuilder] = leaves_of(self.columns)

    def read(self, element: Element) -> None:
        """Appends the rows of one batch to every column."""
        batch = self._leaves(element, self._num_batches)
        spans = self._spans(batch, self.num_rows)
        for path, column in self._by_path.items():
            role = self._roles[path]
            if role is Role.PADDED:
                span = spans.get(path) or self._labels.span(path, batch, spans, self.num_rows)
                if batch[path].shape[1] != span.time:
                    raise ValueError(
                        f"`{column.name}` must be as long as its padded sequences. Expected {span.time} timesteps, "
                        f"received {batch[path].shape[1]} in the batch at row {self.num_rows}."
                    )
                _append_real(column, batch[path], span)
            elif role is Role.SEQUENCE:
                self._append_sequences(column, batch[path])
            else:
                column.append_block(_as_values(batch[path], column.name))
        self.num_rows += _num_rows(batch[self._paths[0]])
        self._num_batches += 1

    def finish(self) -> Element:
        """The columns, with everything in them."""
        return self.columns

    def _append_sequences(self, column: ColumnBuilder, leaf: HostLeaf) -> None:
        if isinstance(leaf, tf.RaggedTensor):
            rows = as_rows(leaf, column.name)
            column.append_block(rows.values, rows.lengths)
        elif isinstance(leaf, list):
            for index, row in enumerate(leaf):
                column.append(as_row(row, f"{column.name}[{self.num_rows + index}]"))
        else:
            _check_time_axis(leaf, column.name)
            values = leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])
            column.append_block(values, np.full(len(leaf), leaf.shape[1]))

    def _leaves(self, element: Element, index: int) -> Batch:
        """The batch's leaves, in the memory of the host."""
        leaves = leaves_in_order(element, self._template, index)
        batch = {path: _on_host(leaf, path) for path, leaf in zip(self._paths, leaves, strict=True)}
        expected = _num_rows(batch[self._paths[0]])
        for path, leaf in batch.items():
            if _num_rows(leaf) != expected:
                raise ValueError(
                    f"All leaves of a batch must have the same number of rows. Expected {expected} as in "
                    f"`{leaf_name(self._paths[0])}`, received {_num_rows(leaf)} in `{leaf_name(path)}` of element "
                    f"{index}. If an element is one row, pass batched=False; several inputs belong in a tuple or a "
                    "dict, not in a list."
                )
        return batch

    def _find_groups(self, counts: set[Path], batches: list[Batch]) -> list[PaddedGroup]:
        padded = [path for path, role in self._roles.items() if role is Role.PADDED and path[0] == "x"]
        arrays = [{path: _check_time_axis(batch[path], leaf_name(path)) for path in padded} for batch in batches]
        return group_padded_leaves(padded, counts, arrays, self._options.mask_value)

    def _find_labels(self, padded: list[Path], lengths: Path | None, batches: list[Batch]) -> PaddedLabels:
        sequences = [path for path, role in self._roles.items() if role is Role.SEQUENCE and path[0] == "x"]
        labels = PaddedLabels(padded, sequences, self._groups, self._options, lengths)
        if padded:
            first_rows = np.cumsum([0, *(_num_rows(batch[padded[0]]) for batch in batches)])
            spans = [self._spans(batch, int(row)) for batch, row in zip(batches, first_rows, strict=False)]
            labels.align(list(zip(batches, spans, strict=True)))
        return labels

    def _spans(self, batch: Batch, first_row: int) -> Spans:
        """What is real in each padded leaf of `x`."""
        spans: Spans = {}
        for group in self._groups:
            times = {path: _check_time_axis(batch[path], leaf_name(path)).shape[1] for path in group.paths}
            for padded_length in set(times.values()):  # leaves that were padded alike need not be so in every batch
                paths = [path for path in group.paths if times[path] == padded_length]
                part = group if len(paths) == len(group.paths) else PaddedGroup(paths, group.mask, group.lengths)
                spans |= dict.fromkeys(paths, part.span(batch, self._options, first_row))
        return spans


def _append_real(column: ColumnBuilder, padded: np.ndarray, span: Span) -> None:
    """Appends the real timesteps of a batch, some rows at a time: no second batch is ever in memory."""
    step = max(_BLOCK_BYTES // max(padded[:1].nbytes, 1), 1)
    for start in range(0, max(len(padded), 1), step):
        rows = slice(start, start + step)
        part = Span(span.start[rows], span.stop[rows], span.time)
        column.append_block(padded[rows][part.is_real], part.lengths)


def _integers_of_rows(specs: Specs) -> set[Path]:
    """The leaves that hold one integer a row, as lengths do."""
    return {path for path, spec in specs.items() if spec.rank == 1 and spec.dtype.lstrip("u").startswith("int")}


def _on_host(leaf: Any, path: Path) -> HostLeaf:
    if isinstance(leaf, tf.RaggedTensor):
        return leaf
    if is_list_of_rows(leaf):
        return list(leaf)
    name = leaf_name(path)
    array = as_regular_array(leaf, name, "Pass a list of rows, or pad them.")
    refuse_text(array.dtype.name, path)
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


def _num_rows(leaf: HostLeaf) -> int:
    return int(leaf.nrows()) if isinstance(leaf, tf.RaggedTensor) else len(leaf)


def _check_time_axis(leaf: HostLeaf, name: str) -> np.ndarray:
    if isinstance(leaf, (list, tf.RaggedTensor)) or leaf.ndim < 2:
        raise ValueError(
            f"`{name}` must have a time axis in every batch. Received a batch without one. Pad all or none."
        )
    array: np.ndarray = leaf
    return array


def _as_values(leaf: HostLeaf, name: str) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    rows = as_rows(leaf, name)  # an axis of unknown size, which must be the same in all rows
    lengths = np.unique(rows.lengths)
    if len(lengths) > 1:
        raise ValueError(
            f"All rows of `{name}` must share one shape. Received rows of {lengths[0]} and of {lengths[1]} entries. "
            "Give the first axis no fixed size if it is time."
        )
    return rows.as_array()
