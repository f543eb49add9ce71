"""One leaf of any accepted kind: `Rows` of sequences, or an array with one value per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import shorten, show
from keras_bucketing.data import columns, lists
from keras_bucketing.data.arrays import (
    aligned_empty,
    as_regular_array,
    comes_from,
    first_non_number,
    is_mapped,
    standard_dtype,
    stored_floatx,
)
from keras_bucketing.data.other_kinds import as_dense, is_frame, refuse_frame
from keras_bucketing.data.row_splits import common_width
from keras_bucketing.data.rows import EqualSequences, Rows, StoredSequences, rows_from_row_splits

Leaf = Rows | np.ndarray  # one sequence per row, or an array `(num_rows, ...)` with one value per row


def as_rows(rows: Any, name: str, copy: bool = True) -> Rows:
    """Converts rows of any accepted kind to `Rows`, whose values are not `shared` if `copy` and others can change them.

    Accepted are a list, object array or pandas Series of sequences (arrays, tensors or lists), a `tf.RaggedTensor`, a
    pyarrow list array or chunked column, and an awkward array.

    Raises:
        TypeError: If it, or one of the rows, is of another kind.
        ValueError: If the rows do not share one feature shape, or there are none.
    """
    if not isinstance(rows, Rows):
        rows = _convert(rows, name, copy)
        if rows is None or not len(rows):
            raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    converted: Rows = rows
    return converted if copy or converted.owned else replace(converted, shared=True)


def as_leaf(leaf: Any, name: str, copy: bool = True) -> Leaf:
    """A list of sequences, or a ragged or object array, as `Rows`; numbers and other arrays as an array."""
    if str(getattr(leaf, "dtype", None)) == "object" and getattr(leaf, "ndim", 0) == 1:  # an array or a pandas Series
        leaf = leaf.tolist()
    if isinstance(leaf, Sequence) and not isinstance(leaf, (list, tuple, str, bytes, range)):  # e.g. a datasets.Column
        leaf = list(leaf)
    if isinstance(leaf, EqualSequences) and leaf.ndim > 1 and len(leaf):
        leaf = leaf.as_rows()
    is_list_of_sequences = isinstance(leaf, list) and any(map(_is_sequence, leaf))
    if is_list_of_sequences or isinstance(leaf, (Rows, StoredSequences, tf.RaggedTensor)):
        return as_rows(leaf, name, copy)
    if columns.is_ragged_column(leaf):
        return as_rows(leaf, name, copy)
    array = as_regular_array(_as_plain(leaf, name), name, "Give every row the same shape.")
    _check_values(array, leaf, name)
    dtype = standard_dtype(array.dtype, name)
    if not copy or is_mapped(array):
        return array
    stored = aligned_empty(array.shape, dtype)
    np.copyto(stored, array, casting="unsafe")
    return stored


def _as_plain(leaf: Any, name: str) -> Any:
    """A column of lists of one length, a sparse matrix, or a table with a row for each sequence, as an array."""
    if is_frame(leaf):
        if not hasattr(leaf, "to_numpy"):  # groups of rows, or a table that has not been computed yet
            refuse_frame(leaf, name)
        return leaf if comes_from("pandas", leaf) else leaf.to_numpy()
    return as_dense(columns.as_plain_array(leaf, name))


def as_weights(leaf: Any, name: str, copy: bool = True) -> Leaf:
    """The same for sample weights, which are Keras' floatx: one per row, or one per timestep."""
    weights = as_leaf(leaf, name, copy)
    floatx = stored_floatx()
    if not isinstance(weights, Rows):
        return weights.astype(floatx)
    if weights.feature_shape:
        raise ValueError(f"`{name}` must have one weight per timestep. Received feature shape {weights.feature_shape}.")
    return replace(weights, dtype=floatx)


def _convert(rows: Any, name: str, copy: bool) -> Rows | None:
    """The rows, or None if there are none."""
    if isinstance(rows, tf.RaggedTensor):
        values, splits = _parts_of_ragged_tensor(rows, name)
        return rows_from_row_splits(values, splits, name) if len(splits) > 1 else None
    if isinstance(rows, StoredSequences):
        return rows.rows
    column = columns.rows_of_column(rows, name)
    if column is not None:
        return column
    sequences = lists.as_list(rows, name)
    return lists.rows_of_list(sequences, name, copy) if sequences else None


def _parts_of_ragged_tensor(rows: tf.RaggedTensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and row splits; inner axes may be of a ragged type, as from `tf.ragged.stack`, but must be uniform."""
    values, features = rows.values, []
    while isinstance(values, tf.RaggedTensor):
        features.append(common_width(values.row_lengths().numpy(), name))
        values = values.values
    flat, splits = np.asarray(values), rows.row_splits.numpy()  # not values.numpy(), which copies
    return flat.reshape(splits[-1], *features, *flat.shape[1:]), splits


def _is_sequence(row: Any) -> bool:
    if isinstance(row, (int, float)):  # by far the most frequent, and np.ndim is slow
        return False
    return isinstance(row, (list, tuple, str, bytes)) or bool(np.ndim(row))


def _check_values(array: np.ndarray, leaf: object, name: str) -> None:
    """Refuses scalars and text as one value per row."""
    if array.ndim == 0 and array.dtype.kind in "biufc":
        raise TypeError(
            f"`{name}` must have one row for each sequence. Received the scalar {show(leaf)}. Pass a list or an array."
        )
    if array.ndim == 0:
        raise TypeError(f"`{name}` must be a list, an array or a tensor. Received {type(leaf).__name__}.")
    if array.dtype.kind in "OSU":
        at = first_non_number(array.tolist())
        received = f"{shorten(str(array[at]))} ({type(array[at]).__name__})"
        raise TypeError(
            f"`{name}` must hold numbers. Received {received} at {name}[{at}]. Map "
            "strings to ids first, e.g. with keras.layers.StringLookup, and drop rows without a value."
        )
