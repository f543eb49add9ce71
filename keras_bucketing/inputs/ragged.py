"""One leaf of variable-length rows: ranges of flat values, made from whatever form the rows came in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import INT32_MAX
from keras_bucketing.inputs import columns, lists
from keras_bucketing.inputs.arrays import as_regular_array
from keras_bucketing.inputs.mapped_arrays import is_mapped
from keras_bucketing.inputs.row_ranges import copy_used
from keras_bucketing.inputs.row_splits import common_width, row_ranges_of, row_splits_of
from keras_bucketing.inputs.storage import standard_dtype
from keras_bucketing.inputs.stored_sequences import StoredSequences
from keras_bucketing.inputs.views import ranges_of_views


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[starts[i]:starts[i] + sizes[i]]`.

    Cutting and leaving out rows changes only the starts and the sizes, so that values in a file need not be read.

    Attributes:
        values: Array `(num_values, *feature_shape)`, the timesteps of all rows, as they lie in memory.
        starts: Int64 array `(num_rows,)`.
        sizes: Int32 array `(num_rows,)`, int64 if one of them needs it.
        dtype: What batches hold, e.g. float32 where `values` are float64.
        owned: Whether nobody else can write to `values`, so that no copy protects anyone.
        shared: Whether `values` stay where they are, whoever else can write to them.
        least_length: 1 if an empty row counts as one timestep of padding, else 0.
    """

    values: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    dtype: np.dtype
    owned: bool = False
    shared: bool = False
    least_length: int = 0

    @property
    def lengths(self) -> np.ndarray:
        """Int array `(num_rows,)`: the timesteps of each row."""
        return np.maximum(self.sizes, self.least_length) if self.least_length else self.sizes

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.starts)

    def truncate(self, maxlen: int, truncating: str) -> Ragged:
        """Cuts every row to `maxlen` timesteps, at its end ("post") or at its beginning ("pre")."""
        sizes = _compact(np.minimum(self.sizes, maxlen))
        starts = self.starts if truncating == "post" else self.starts + (self.sizes - sizes)
        return replace(self, starts=starts, sizes=sizes)

    def select(self, keep: np.ndarray) -> Ragged:
        """The rows where the boolean array `keep` is True."""
        return replace(self, starts=self.starts[keep], sizes=self.sizes[keep])

    def fill_empty(self) -> Ragged:
        """Lets every empty row count as one timestep of padding."""
        return replace(self, least_length=1)

    def settle(self) -> Ragged:
        """The same rows with values that may stay where they are: a copy unless they are `shared` or `owned`.

        Timesteps that no row holds are left out of a copy, and of what is `owned`.
        """
        if self.shared and self.values.flags.c_contiguous:
            return self
        has_gaps = int(self.sizes.sum(dtype=np.int64)) != len(self.values)
        if self.owned and not has_gaps and self.values.dtype == self.dtype:
            return self
        values, starts = copy_used(self.values, self.starts, self.sizes, self.dtype)
        return replace(self, values=values, starts=starts, owned=True, shared=False)

    def one_after_the_other(self) -> tuple[np.ndarray, np.ndarray]:
        """The values in the order of the rows, and the row splits; a copy only where the rows lie otherwise."""
        splits = row_splits_of(self.sizes)
        if np.array_equal(self.starts, splits[:-1] + self.starts[0]):
            first = int(self.starts[0])
            return self.values[first : first + int(splits[-1])].astype(self.dtype, copy=False), splits
        rows = [self.values[start : start + size] for start, size in zip(self.starts, self.sizes, strict=True)]
        return np.concatenate(rows).astype(self.dtype, copy=False), splits


def ragged_from_lengths(values: np.ndarray, lengths: np.ndarray, owned: bool = False) -> Ragged:
    """Rows that follow one another in checked values.

    Args:
        values: Array `(num_values, *feature_shape)` of numbers.
        lengths: Int array `(num_rows,)` with the sum `num_values`.
        owned: As in `Ragged`.
    """
    return ragged_from_ranges(values, row_splits_of(lengths)[:-1], lengths, owned)


def ragged_from_ranges(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray, owned: bool = False) -> Ragged:
    """Rows anywhere in checked values; used where they lie if these are a file that is mapped into memory."""
    dtype = standard_dtype(values.dtype, "values")
    shared = is_mapped(values)
    return Ragged(values, starts, _compact(sizes), dtype, owned and not shared, shared)


def ragged_from_row_splits(values: Any, row_splits: Any, name: str = "values") -> Ragged:
    """Checks flat values and row splits, and takes them as they are.

    Args:
        values: Array or tensor `(num_values, *feature_shape)`.
        row_splits: Integers `(num_rows + 1,)`, from 0 to `num_values`, never decreasing; or `(num_rows, 2)`, where each
            row starts and stops.
        name: What to call the values in an error message.

    Raises:
        TypeError: If the values are not numbers or the splits not integers.
        ValueError: If the splits do not start at 0, decrease, or do not end at `num_values`; if a row stops before it
            starts, or lies outside of the values.
    """
    values = as_regular_array(
        values, name, "Pass the timesteps of all sequences, concatenated, or the list to BucketedSequence itself."
    )
    splits = as_regular_array(row_splits, "row_splits", "Pass a flat list of integers.")
    if values.ndim == 0:
        raise ValueError(f"`{name}` must be an array of timesteps. Received the scalar {values!s}.")
    standard_dtype(values.dtype, name)  # says what is wrong with it
    starts, sizes = row_ranges_of(splits, len(values), name)
    return ragged_from_ranges(values, starts, sizes)


def as_ragged(rows: Any, name: str, copy: bool = True) -> Ragged:
    """Turns rows of any accepted kind into one `Ragged`.

    Args:
        rows: A list, object array or pandas Series of sequences (arrays, tensors or lists), a `tf.RaggedTensor`, a
            pyarrow list array or chunked column, or an awkward array.
        name: What to call it in an error message, e.g. `x['query']`.
        copy: Whether the values are to be copied where the caller could still change them.

    Raises:
        TypeError: If it, or one of the rows, is of another kind.
        ValueError: If the rows do not share one feature shape, or there are none.
    """
    ragged = rows if isinstance(rows, Ragged) else _convert(rows, name, copy)
    if ragged is None:
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return ragged if copy or ragged.owned else replace(ragged, shared=True)


def _convert(rows: Any, name: str, copy: bool) -> Ragged | None:
    """The rows, or None where there are none."""
    if isinstance(rows, tf.RaggedTensor):
        values, splits = _parts_of_ragged_tensor(rows, name)
        return ragged_from_row_splits(values, splits, name) if len(splits) > 1 else None
    if isinstance(rows, StoredSequences):
        return ragged_from_row_splits(rows.values, rows.row_splits, name) if len(rows) else None
    column = columns.ranges_of_column(rows, name)
    if column is not None:
        if not len(column.starts):
            return None
        standard_dtype(column.values.dtype, name)  # says what is wrong with it
        ragged = ragged_from_ranges(column.values, column.starts, column.sizes)
        return replace(ragged, shared=ragged.shared or column.is_immutable)
    sequences = lists.as_list(rows, name)
    if not sequences:
        return None
    ranges = ranges_of_views(sequences, only_mapped=copy)
    return (
        ragged_from_ranges(*ranges) if ranges else ragged_from_lengths(*lists.concatenate(sequences, name), owned=True)
    )


def _parts_of_ragged_tensor(rows: tf.RaggedTensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and row splits; inner axes may be ragged by name, as `tf.ragged.stack` leaves them, but not in fact."""
    values, features = rows.values, []
    while isinstance(values, tf.RaggedTensor):
        features.append(common_width(values.row_lengths().numpy(), name))
        values = values.values
    flat, splits = np.asarray(values), rows.row_splits.numpy()  # not values.numpy(), which copies
    return flat.reshape(splits[-1], *features, *flat.shape[1:]), splits


def _compact(sizes: np.ndarray) -> np.ndarray:
    """Half the memory, unless it takes more."""
    return sizes.astype(np.int32, copy=False) if sizes.size == 0 or sizes.max() <= INT32_MAX else sizes
