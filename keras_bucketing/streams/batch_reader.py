"""Batches of rows, ragged or padded, appended to columns row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show, show_typed
from keras_bucketing.inputs.arrays import as_regular_array, first_non_number
from keras_bucketing.inputs.lists import as_row
from keras_bucketing.inputs.ragged import as_ragged
from keras_bucketing.streams.batch_labels import PaddedLabels
from keras_bucketing.streams.batch_layout import BatchOptions, Role, roles_in_batches
from keras_bucketing.streams.element_specs import (
    NAMES,
    LeafSpec,
    Triple,
    is_list_of_rows,
    leaves_like,
    map_named,
    named_leaves,
    refuse_text,
)
from keras_bucketing.streams.growing import GrowingColumn
from keras_bucketing.streams.unpadding import PaddedGroup, Span, group_padded_leaves

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
            for time in set(times.values()):  # leaves that were padded alike need not be so in every batch
                part = PaddedGroup([name for name in group.names if times[name] == time], group.mask, group.lengths)
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
