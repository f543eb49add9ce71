"""Elements that are batches of rows, ragged or padded, into a column for each leaf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import UnclearError, show, show_typed
from keras_bucketing.data.arrays import as_regular_array, first_non_number, standard_dtype
from keras_bucketing.data.convert import as_rows
from keras_bucketing.data.lists import as_row
from keras_bucketing.data.tree import Path, without_entries
from keras_bucketing.streams.columns import ColumnBuilder
from keras_bucketing.streams.elements import (
    Element,
    Specs,
    inputs_of,
    is_list_of_rows,
    leaves_in_order,
    leaves_of,
    map_element,
    refuse_text,
    scalar_in_batch,
)
from keras_bucketing.streams.roles import Role, Roles, kinds_of
from keras_bucketing.streams.row_reader import NewColumn
from keras_bucketing.unpadding.batch_labels import PaddedLabels
from keras_bucketing.unpadding.batches import Batch, BatchOptions, HostLeaf, Spans, Unpadder, fitting_table
from keras_bucketing.unpadding.entries import EntryTable, leaf_name, read_table, refuse_columns_of_lengths
from keras_bucketing.unpadding.spans import Span, blocks_of, real_timesteps


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
    kinds = kinds_of(specs)
    labels = [path for path, role in roles.items() if role is not Role.VALUE and path[0] == "y"]
    own_length_labels = [] if options.labels_align else labels
    if options.sequences is None:
        refuse_columns_of_lengths(kinds, own_length_labels)
    named = {
        path: kind._replace(time=None)  # that has been looked at
        for path, kind in kinds.items()
        if kind.rank < 2 or roles[path] is Role.PADDED
    }
    return read_table(named, own_length_labels, _of_one_size(specs, padded, options))


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
