"""Padded arrays, back to sequences of their own length: the code behind `from_padded`, which reads one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_bucketing.checks import check_choice, check_integer, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import as_regular_array, standard_dtype
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.other_kinds import as_dense
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import Rows, rows_from_padded
from keras_bucketing.data.tree import Path, Structure
from keras_bucketing.unpadding.batches import Batch, Unpadder, fitting_table
from keras_bucketing.unpadding.entries import (
    EntryKind,
    EntryTable,
    choose_sequences,
    leaf_name,
    lengths_by_leaf,
    read_table,
)
from keras_bucketing.unpadding.spans import SIDES, Side, Span, check_mask_value


@dataclass(frozen=True)
class PaddedSequences:
    """A padded array and its real timesteps.

    Attributes:
        path: Its path, from "x" on.
        array: Array `(num_rows, time, *features)`.
        span: Its real timesteps.
        is_mask: Whether the array is a mask of others.
    """

    path: Path
    array: np.ndarray
    span: Span
    is_mask: bool = False

    @property
    def name(self) -> str:
        """Its name in messages, e.g. `x['tokens']`."""
        return leaf_name(self.path)

    @property
    def lengths(self) -> Lengths:
        """In timesteps, `(num_rows,)`."""
        return self.span.lengths

    @property
    def time(self) -> int:
        """The padded length."""
        return self.span.time

    @property
    def side(self) -> Side:
        """The end that is padded."""
        return "pre" if self.span.start.any() else "post"

    def rows(self) -> Rows:
        """The real timesteps."""
        return rows_from_padded(self.array, self.span.start, self.lengths)


@dataclass(frozen=True)
class UnpaddedInputs:
    """The result of removing the padding of `x`.

    Attributes:
        x: The same structure with ragged leaves, without lengths; None stays.
        padded: The padded leaves, with their real timesteps.
        label_lengths: The lengths of labels in `x`, by the path of the labels.
        warnings: Warnings about unnoticed padding.
    """

    x: Structure
    padded: list[PaddedSequences]
    label_lengths: dict[Path, np.ndarray]
    warnings: list[str]


def unpad_arrays(
    x: Structure,
    lengths: object = None,
    mask_value: object = 0,
    padding: str | None = None,
    sequences: object = None,
    maxlen: int | None = None,
    own_length_labels: Structure = None,
) -> UnpaddedInputs:
    """Takes the real timesteps out of padded arrays; arguments as in `BucketedSequence.from_padded`.

    `own_length_labels` are labels that are not as long as the sequences.
    """
    checked_value = check_mask_value(mask_value)
    side = None if padding is None else check_choice("padding", padding, SIDES)
    maxlen = None if maxlen is None else check_integer("maxlen", maxlen)
    x = tree.with_dicts(x)
    tree.check_structure(x, "x")
    x = tree.map_leaves(lambda path, leaf: _as_array(leaf, leaf_name(("x", *path))), x, none_is_leaf=True)
    arrays = {("x", *path): array for path, array in tree.leaves(x)}
    kinds = {
        path: EntryKind(array.ndim, array.dtype.kind, array.shape[1] if array.ndim > 1 and sequences is None else None)
        for path, array in arrays.items()
    }
    table = fitting_table(
        read_table(kinds, [("y", *path) for path, leaf in tree.leaves(own_length_labels) if _has_several(leaf)]),
        [arrays],
    )
    given = {} if lengths is None else lengths_by_leaf(x, lengths)
    is_by_leaf = isinstance(lengths, dict) or len({entry.path for entry in given.values()}) > 1
    chosen = choose_sequences(x, arrays, table, given if is_by_leaf else {}, sequences)
    unpadder = Unpadder(chosen, table, checked_value, side, maxlen=maxlen, given=given, is_named=sequences is not None)
    _check_masks_are_beside(table, chosen, arrays)
    spans = unpadder.spans(arrays)
    padded = {path: PaddedSequences(path, arrays[path], spans[path], table.is_mask(path)) for path in chosen}
    label_lengths = {labels: arrays[at] for labels, at in table.label_lengths.items()}

    def without_padding(path: Path, array: np.ndarray) -> Leaf:
        at = ("x", *path)
        return padded[at].rows() if at in padded else array

    stripped = tree.without_entries(tree.map_leaves(without_padding, x), ("x",), table.all_lengths)
    return UnpaddedInputs(stripped, list(padded.values()), label_lengths, unpadder.finish())


def _has_several(labels: Any) -> bool:
    """Whether labels have an axis besides the axis of rows."""
    try:
        return len(np.shape(labels)) > 1
    except ValueError:  # of uneven length
        return True


def _as_array(leaf: object, name: str) -> np.ndarray:
    array = as_regular_array(as_dense(leaf), name, "Pass sequences that are not padded to BucketedSequence itself.")
    if array.dtype == object and not array.ndim:
        raise TypeError(
            f"`{name}` must be padded. Expected an array of shape (num_sequences, time, ...), received "
            f"{type(leaf).__name__}. Pass sequences that are not padded to BucketedSequence itself."
        )
    if array.dtype.kind not in "biuf":
        standard_dtype(array.dtype, name)
    if array.ndim and not len(array):
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return array


def _check_masks_are_beside(table: EntryTable, chosen: list[Path], arrays: Batch) -> None:
    """Refuses lengths and masks with another number of rows."""
    rows = {path: len(arrays[path]) for path in (*chosen, *table.all_lengths)}
    for path, count in rows.items():
        if count != rows[chosen[0]]:
            raise ValueError(
                f"`{leaf_name(path)}` must have one row for each sequence. Expected {rows[chosen[0]]} as in "
                f"`{leaf_name(chosen[0])}`, received {count}."
            )


def refuse_padding_of_masks(masks: list[str], padding_value: object) -> None:
    """Refuses to pad masks, with these names in messages, with any value but 0."""
    if masks and not (isinstance(padding_value, (bool, int, float, np.number)) and padding_value == 0):
        raise ValueError(
            f"`padding_value` must be 0 where `x` has a mask. Received {show(padding_value)}, mask_value unless it is "
            f"given, which would mark the padding of `{masks[0]}` as real. Pass padding_value=0, or leave the mask "
            "out of `x`, pass lengths=mask, and take include_lengths=True instead."
        )
