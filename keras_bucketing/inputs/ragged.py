"""One leaf of variable-length rows: flat values plus row splits, made from whatever form the rows came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.inputs import columns, lists
from keras_bucketing.inputs.arrays import as_regular_array
from keras_bucketing.inputs.row_splits import common_width, row_splits_of
from keras_bucketing.inputs.storage import host_tensor, standard_dtype
from keras_bucketing.inputs.stored_sequences import StoredSequences


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, stored as one array, as a `tf.RaggedTensor` does.

    Attributes:
        values: Array `(num_values, *feature_shape)`, the timesteps of all rows, concatenated.
        row_splits: Int64 array `(num_rows + 1,)`; row i is `values[row_splits[i]:row_splits[i + 1]]`.
        owned: Whether nobody else can write to `values`, so that no copy protects anyone.
    """

    values: np.ndarray
    row_splits: np.ndarray
    owned: bool = False

    @property
    def lengths(self) -> np.ndarray:
        """Int64 array `(num_rows,)`: the timesteps of each row."""
        return np.diff(self.row_splits)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.row_splits) - 1

    def truncate(self, maxlen: int, truncating: str) -> Ragged:
        """Cuts every row to `maxlen` timesteps, at its end ("post") or at its beginning ("pre")."""
        excess = np.maximum(self.lengths - maxlen, 0)
        long = np.flatnonzero(excess)
        if not long.size:
            return self
        if truncating == "post":
            cut_from, cut_to = self.row_splits[long] + maxlen, self.row_splits[long + 1]
        else:
            cut_from, cut_to = self.row_splits[long], self.row_splits[long + 1] - maxlen
        steps = np.zeros(len(self.values) + 1, np.int8)
        steps[cut_from] += 1
        steps[cut_to] -= 1
        keep = np.cumsum(steps[:-1], dtype=np.int8) == 0
        return Ragged(self.values[keep], row_splits_of(self.lengths - excess))

    def select(self, keep: np.ndarray) -> Ragged:
        """The rows where the boolean array `keep` is True."""
        lengths = self.lengths
        if not lengths[~keep].any():  # rows without timesteps leave no gap in the values
            return Ragged(self.values, row_splits_of(lengths[keep]), self.owned)
        return Ragged(self.values[np.repeat(keep, lengths)], row_splits_of(lengths[keep]))

    def fill_empty(self, value: Any) -> Ragged:
        """Gives every empty row one timestep of `value`."""
        empty = self.lengths == 0
        values = np.insert(self.values, self.row_splits[:-1][empty], value, axis=0)
        return Ragged(values, row_splits_of(np.where(empty, 1, self.lengths)))

    def values_tensor(self) -> tf.Tensor:
        """The values as a tensor in host memory, with one copy at most."""
        return host_tensor(self.values, self.owned)


def ragged_from_row_splits(values: Any, row_splits: Any, name: str = "values") -> Ragged:
    """Checks flat values and row splits, and takes them as they are.

    Args:
        values: Array or tensor `(num_values, *feature_shape)`.
        row_splits: Integers `(num_rows + 1,)`, from 0 to `num_values`, never decreasing.
        name: What to call the values in an error message.

    Raises:
        TypeError: If the values are not numbers or the splits not integers.
        ValueError: If the splits do not start at 0, decrease, or do not end at `num_values`.
    """
    values = as_regular_array(
        values, name, "Pass the timesteps of all sequences, concatenated, or the list to BucketedSequence itself."
    )
    splits = as_regular_array(row_splits, "row_splits", "Pass a flat list of integers.")
    if values.ndim == 0:
        raise ValueError(f"`{name}` must be an array of timesteps. Received the scalar {values!s}.")
    if splits.dtype.kind not in "iu":
        raise TypeError(f"`row_splits` must be integers. Received dtype {splits.dtype}.")
    if splits.ndim != 1 or splits.size < 2:
        raise ValueError(
            "`row_splits` must have one dimension and one entry more than there are sequences, at least two. Received "
            f"shape {splits.shape}."
        )
    splits = splits.astype(np.int64)
    if splits[0] != 0:
        raise ValueError(
            f"`row_splits` must start at 0. Received row_splits[0] = {splits[0]}. Subtract it from every entry and "
            "pass the values that remain."
        )
    steps = np.diff(splits)
    if (steps < 0).any():
        at = int(np.argmax(steps < 0)) + 1
        raise ValueError(
            f"`row_splits` must not decrease. Received row_splits[{at}] = {splits[at]} after {splits[at - 1]}. Pass "
            "cumulative offsets, e.g. np.concatenate([[0], np.cumsum(lengths)])."
        )
    if splits[-1] != len(values):
        at = int(np.argmax(splits > len(values))) if splits[-1] > len(values) else len(splits) - 1
        raise ValueError(
            f"`row_splits` must end at the number of timesteps. Expected {len(values)} as in `{name}`, received "
            f"row_splits[{at}] = {splits[at]}."
        )
    dtype = standard_dtype(values.dtype, name)
    return Ragged(values.astype(dtype, copy=False), splits)


def as_ragged(rows: Any, name: str) -> Ragged:
    """Turns rows of any accepted kind into one `Ragged`.

    Args:
        rows: A list, object array or pandas Series of sequences (arrays, tensors or lists), a `tf.RaggedTensor`, a
            pyarrow list array or chunked column, or an awkward array.
        name: What to call it in an error message, e.g. `x['query']`.

    Raises:
        TypeError: If it, or one of the rows, is of another kind.
        ValueError: If the rows do not share one feature shape, or there are none.
    """
    if isinstance(rows, Ragged):
        return rows
    if isinstance(rows, tf.RaggedTensor):
        parts: tuple[Any, Any] | None = _parts_of_ragged_tensor(rows, name)
    elif isinstance(rows, StoredSequences):
        parts = rows.values, rows.row_splits
    else:
        parts = columns.values_and_row_splits(rows, name)
    if parts is not None:
        values, splits = parts
        ragged = ragged_from_row_splits(values, splits, name) if len(splits) > 1 else None
    else:
        sequences = lists.as_list(rows, name)
        ragged = _from_sequences(sequences, name) if sequences else None
    if ragged is None:
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return ragged


def _parts_of_ragged_tensor(rows: tf.RaggedTensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and row splits; inner axes may be ragged by name, as `tf.ragged.stack` leaves them, but not in fact."""
    values, features = rows.values, []
    while isinstance(values, tf.RaggedTensor):
        features.append(common_width(values.row_lengths().numpy(), name))
        values = values.values
    flat, splits = values.numpy(), rows.row_splits.numpy()
    return flat.reshape(splits[-1], *features, *flat.shape[1:]), splits


def _from_sequences(sequences: list[Any], name: str) -> Ragged:
    values, lengths = lists.concatenate(sequences, name)
    return Ragged(values, row_splits_of(lengths), owned=True)
