"""Reads a stream once, from beginning to end, into a column for each leaf.

`read_stream` decides what the elements are and lets a `RowReader` or a `BatchReader` take them apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TextIO

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import UnclearError, ask_all, show, show_typed, write_text
from keras_bucketing.data.arrays import as_regular_array, first_non_number, standard_dtype
from keras_bucketing.data.convert import Leaf, as_rows
from keras_bucketing.data.lists import as_row
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path, without_entries
from keras_bucketing.streams.columns import ColumnBuilder, MemoryStore, Store
from keras_bucketing.streams.elements import (
    Element,
    LeafSpec,
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
    scalar_in_batch,
    specs_of,
    template_of,
    unclear_elements,
    unclear_labels,
    without_part,
)
from keras_bucketing.streams.lookahead import Lookahead
from keras_bucketing.streams.sources import Stream
from keras_bucketing.unpadding.batch_labels import PaddedLabels
from keras_bucketing.unpadding.batches import Batch, BatchOptions, HostLeaf, Spans, Unpadder, fitting_table
from keras_bucketing.unpadding.entries import EntryKind, EntryTable, leaf_name, read_table
from keras_bucketing.unpadding.sides import SideOfRuns
from keras_bucketing.unpadding.spans import Span, blocks_of, real_timesteps, runs_at_both_ends
from keras_bucketing.unpadding.unnoticed import warn_of

_LOOKAHEAD = 8  # elements that are looked at before it is decided what their axes mean
_SILENT_SECONDS = 3.0  # whatever is faster needs no progress bar
_BAR_WIDTH = 20
_LONG_SECONDS, _LONG_COUNT = 60.0, 1_000_000  # after which a source of unknown size may be one without end

NewColumn = Callable[[Path, bool], ColumnBuilder]  # from a leaf's path, and whether it holds sequences


class Progress:
    """A line on standard error that says how much has been read, from the third second on.

    Args:
        what: What is being done, e.g. "Reading".
        unit: What is counted, in the plural.
        total: Their final number, or None if it is unknown.
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
    table = read_table({path: EntryKind(spec.rank, _kind_of_dtype(spec.dtype)) for path, spec in in_x.items()})
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


class RowReader:
    """Reads elements that are one row each: a scalar is one value per row, everything with an axis is a sequence.

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
        self.values_of_rows: set[Path] = set()  # leaves of `x` that turned out to be values of one shape: none
        self._specs: list[Specs] = []  # of the first elements
        self.begin_columns()

    def begin_columns(self) -> None:
        """Lets the rows that follow go into columns of their own."""
        self.columns: Element = map_element(self._new_column, self._are_ragged)
        self._by_path: dict[Path, ColumnBuilder] = leaves_of(self.columns)

    def finish(self) -> list[str]:
        """Checks what only all rows show, and returns no warnings: rows are not padded.

        Raises:
            ValueError: If there are few elements, all of which look like batches.
        """
        if self.num_rows < _LOOKAHEAD:
            self._check_rows(is_whole=True)
        return []

    def label_padding(self) -> float | None:
        """Labels are not padded."""
        return None

    def mask_names(self) -> tuple[str, ...]:
        """Nothing tells masks from other sequences."""
        return ()

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

    def _append(self, leaves: list[Any]) -> None:
        for (path, column), leaf in zip(self._by_path.items(), leaves, strict=True):
            where = f"{column.name}[{self.num_rows}]"
            convert = _as_sequence if column.is_ragged else _as_value
            column.append(convert(leaf, (*path, self.num_rows), where))

    def _check_rows(self, is_whole: bool = False) -> None:
        if not self._refuse_batches or not self._specs:
            return
        specs = without_part(self._specs) if is_whole else self._specs
        if looks_like_batches(common_specs(specs), len(specs)):
            seen = describe_shapes(common_specs(self._specs))
            raise unclear_elements(f"{seen} in all of the first {len(self._specs)} elements")


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
        self._padded = [path for path, role in roles.items() if role is Role.PADDED and path[0] == "x"]
        for batch in batches:
            for path in self._padded:
                _check_time_axis(batch[path], leaf_name(path))
        table = _table_of(specs, roles, self._padded, options)
        self._table = table = fitting_table(table, batches)
        self._unpadder = Unpadder(
            self._padded, table, options.mask_value, options.padding, is_named=options.sequences is not None
        )
        first_rows = np.cumsum([0, *(_num_rows(batch[self._paths[0]]) for batch in batches)]).tolist()
        for batch, row in zip(batches, first_rows, strict=False):
            self._unpadder.look(batch, row)
        self._unsure = {path: _Unsure() for path in _of_one_size(specs, self._padded, options) if not table.tells(path)}
        self._labels = self._find_labels(batches, first_rows)

        # Leaves that say lengths get no column: what include_lengths=True adds is made again from the sequences.
        x, y, weights = template
        x = without_entries(x, ("x",), table.all_lengths)
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
                if path in self._unsure:
                    self._unsure[path].add(span)
                column.append_parts(_parts_of(batch[path], real_timesteps(batch[path], span)), span.lengths)
            elif role is Role.SEQUENCE:
                self._append_sequences(column, batch[path])
            else:
                column.append_block(_as_values(batch[path], column.name))
        self.num_rows += _num_rows(batch[self._paths[0]])
        self._num_batches += 1

    @property
    def values_of_rows(self) -> set[Path]:
        """The leaves of `x` that turned out to be values of one shape."""
        return {path for path, unsure in self._unsure.items() if unsure.is_of_one_shape and not unsure.lost_timesteps}

    def finish(self) -> list[str]:
        """Checks what only all batches show, and returns warnings of padding that was not noticed.

        Raises:
            ValueError: If a mask is True where the padding is, if labels were sliced after padding, or if an entry may
                hold sequences or values of one shape.
        """
        for path, unsure in self._unsure.items():
            if unsure.is_of_one_shape and unsure.lost_timesteps:
                sequences = [padded[1] for padded in self._padded if len(padded) > 1]
                raise UnclearError(
                    f"`{leaf_name(path)}` may hold sequences, or values of one shape, since all batches have a second "
                    f"axis of {unsure.time} beside another entry of varying length. Pass the entries that are "
                    f"sequences: sequences={show(sequences)}, or without this one.",
                    "sequences",
                    f"sequences={show(sequences)}, or without `{leaf_name(path)}`",
                )
        return self._unpadder.finish() + self._labels.finish()

    def label_padding(self) -> Any:
        """What labels of each timestep were padded with; None where there is none."""
        return self._labels.padding.value()

    def mask_names(self) -> tuple[str, ...]:
        """What messages call the masks of `x`."""
        return tuple(leaf_name(path) for path in self._padded if self._table.is_mask(path))

    def _append_sequences(self, column: ColumnBuilder, leaf: HostLeaf) -> None:
        if isinstance(leaf, tf.RaggedTensor):
            rows = as_rows(leaf, column.name)
            column.append_block(rows.values, rows.lengths)
        elif isinstance(leaf, list):
            for index, row in enumerate(leaf):
                column.append(as_row(row, f"{column.name}[{self.num_rows + index}]"))
        else:
            array = _check_time_axis(leaf, column.name)
            lengths = np.full(len(array), array.shape[1])
            column.append_parts(
                _parts_of(array, (array[block].reshape(-1, *array.shape[2:]) for block in blocks_of(array))), lengths
            )

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

    def _find_labels(self, batches: list[Batch], first_rows: list[int]) -> PaddedLabels:
        padded = [path for path, role in self._roles.items() if role is Role.PADDED and path[0] != "x"]
        candidates = [path for path, role in self._roles.items() if role is Role.SEQUENCE and path[0] == "x"]
        candidates += [path for path in self._padded if not self._table.is_mask(path)] or self._padded
        is_weighted = any(path[0] == "sample_weight" and self._roles[path] is not Role.VALUE for path in self._roles)
        labels = PaddedLabels(padded, candidates, self._options, self._table.label_lengths, is_weighted)
        if padded:
            spans = [self._spans(batch, row) for batch, row in zip(batches, first_rows, strict=False)]
            labels.align(list(zip(batches, spans, strict=True)))
        return labels

    def _spans(self, batch: Batch, first_row: int) -> Spans:
        """What is real in each padded leaf of `x`."""
        for path in self._padded:
            _check_time_axis(batch[path], leaf_name(path))
        return self._unpadder.spans(batch, first_row)


def _parts_of(batch: np.ndarray, parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The timesteps of a batch, some at a time; of one without any, none of its features and dtype."""
    return parts if batch.shape[0] * batch.shape[1] else iter([np.empty((0, *batch.shape[2:]), batch.dtype)])


class _Unsure:
    """A leaf beside one of varying length whose second axis has one size: sequences, or values of one shape."""

    def __init__(self) -> None:
        self.time: int | None = None
        self.is_of_one_shape = True
        self.lost_timesteps = False

    def add(self, span: Span) -> None:
        self.time = span.time if self.time is None else self.time
        self.is_of_one_shape &= span.time == self.time
        self.lost_timesteps |= bool((span.lengths < span.time).any())


def _of_one_size(specs: Specs, padded: list[Path], options: BatchOptions) -> list[Path]:
    """The padded leaves that have one size, as they were declared or seen, beside one of varying length."""
    in_x = inputs_of(specs)
    varies = any(spec.ragged_rank or (spec.rank > 1 and spec.shape[1] is None) for spec in in_x.values())
    if not varies or options.sequences is not None:
        return []
    return [path for path in padded if specs[path].shape[1] is not None]


def _table_of(specs: Specs, roles: Roles, padded: list[Path], options: BatchOptions) -> EntryTable:
    """What tells the lengths of the padded leaves; "lengths" are not those of leaves that may be no sequences."""
    kinds = {
        path: EntryKind(spec.rank, _kind_of_dtype(spec.dtype))
        for path, spec in inputs_of(specs).items()
        if not spec.ragged_rank and (spec.rank < 2 or roles[path] is Role.PADDED)
    }
    labels = [path for path, role in roles.items() if role is not Role.VALUE and path[0] == "y"]
    return read_table(kinds, [] if options.labels_align else labels, _of_one_size(specs, padded, options))


def _kind_of_dtype(dtype: str) -> str:
    return {"b": "b", "i": "i", "u": "u"}.get(dtype[:1], "f")


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
    if array.dtype.kind not in "biuf":
        standard_dtype(array.dtype, name)  # says what is wrong with it
    if not array.ndim:
        raise scalar_in_batch(path)
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
