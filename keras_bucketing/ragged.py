"""One leaf of variable-length rows: flat values plus row splits, made from whatever form the rows came in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing import foreign_arrays

# TensorFlow's kernels insist on it (EIGEN_MAX_ALIGN_BYTES); NumPy aligns to 16 bytes only.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, stored as one array, as a `tf.RaggedTensor` does.

    Attributes:
        values: Array `(num_values, *feature_shape)`, the timesteps of all rows behind one another.
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


def row_splits_of(lengths: np.ndarray) -> np.ndarray:
    """Lengths `(num_rows,)` to int64 row splits `(num_rows + 1,)`."""
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def host_tensor(array: np.ndarray, owned: bool = False) -> tf.Tensor:
    """Puts an array into a tensor in host memory with one copy, or none if it is `owned` and aligned.

    `tf.constant` makes two copies, the second because NumPy's memory is not aligned as TensorFlow's kernels need it.
    """
    if array.dtype == np.bool_ or array.size == 0:  # DLPack in TensorFlow 2.18 knows neither
        with tf.device("CPU:0"):
            return tf.constant(array)
    if not (owned and array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable):
        copy = aligned_empty(array.shape, array.dtype)
        np.copyto(copy, array)
        array = copy
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array whose memory TensorFlow can use as it is."""
    dtype = np.dtype(dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % _ALIGNMENT
    aligned: np.ndarray = buffer[offset : offset + num_bytes].view(dtype).reshape(shape)
    return aligned


def standard_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """The dtype a leaf is stored in: float64 becomes Keras' floatx, as in `fit`; else only the byte order changes."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise TypeError(
            f"`{name}` must hold numbers. Expected a bool, int or float dtype, received {dtype}. Map strings to ids "
            "first, e.g. with keras.layers.StringLookup or keras.layers.TextVectorization."
        )
    native = dtype.newbyteorder("=")  # TensorFlow takes no other
    return np.dtype(keras.config.floatx()) if native == np.float64 else native


def as_regular_array(values: Any, name: str, fix: str) -> np.ndarray:
    """The values as an array, refusing nested lists of uneven shape."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be one regular array. Received a nested list of uneven shape. {fix}"
        ) from error


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
        values, name, "Pass the timesteps of all sequences behind one another, or the list to BucketedSequence itself."
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
        if rows.ragged_rank != 1:
            raise ValueError(
                f"`{name}` must be ragged in time alone. Expected a RaggedTensor of ragged_rank 1, received "
                f"{rows.ragged_rank}. Make its inner axes uniform first."
            )
        parts: tuple[Any, Any] | None = (rows.values.numpy(), rows.row_splits.numpy())
    else:
        parts = foreign_arrays.values_and_row_splits(rows, name)
    if parts is not None:
        values, splits = parts
        ragged = ragged_from_row_splits(values, splits, name) if len(splits) > 1 else None
    else:
        ragged = _from_sequences(foreign_arrays.as_list(rows, name), name)
    if ragged is None or not ragged.num_rows:
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return ragged


def _from_sequences(rows: Sequence[Any], name: str) -> Ragged | None:
    if not len(rows):
        return None
    arrays = [
        row if isinstance(row, np.ndarray) and row.ndim else _as_row(row, f"{name}[{index}]")
        for index, row in enumerate(rows)
    ]
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    features = _feature_shape(arrays, lengths, name)
    filled = [array for array in arrays if len(array)] if not lengths.all() else arrays
    dtypes = {array.dtype for array in filled} or {arrays[0].dtype}
    for dtype in dtypes:
        if dtype.kind not in "biuf":
            at = next(index for index, array in enumerate(arrays) if array.dtype == dtype)
            standard_dtype(dtype, f"{name}[{at}]")
    values = aligned_empty((int(lengths.sum()), *features), standard_dtype(np.result_type(*dtypes), name))
    if filled:
        np.concatenate(filled, out=values, casting="unsafe")
    return Ragged(values, row_splits_of(lengths), owned=True)


def _feature_shape(arrays: list[np.ndarray], lengths: np.ndarray, name: str) -> tuple[int, ...]:
    """The shape of one timestep, which all rows that have a timestep must share."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) == 1:
        return shapes.pop()
    first = int(np.argmax(lengths > 0))
    expected = arrays[first].shape[1:]
    for index, array in enumerate(arrays):
        # An empty list has no feature axis to go by: NumPy gives it the shape (0,).
        if array.shape[1:] != expected and not (len(array) == 0 and array.ndim == 1):
            raise ValueError(
                f"All sequences must share one feature shape. Expected {expected} as in {name}[{first}], received "
                f"{array.shape[1:]} at {name}[{index}]. Reshape or drop that sequence."
            )
    for index, array in enumerate(arrays):
        if len(array) == 0:
            arrays[index] = np.empty((0, *expected), arrays[first].dtype)
    return expected


def first_non_number(values: Iterable[Any]) -> int:
    """Where the first entry stands that is no number, or 0."""
    numbers = (bool, int, float, np.bool_, np.number)
    return next((at for at, value in enumerate(values) if not isinstance(value, numbers)), 0)


def _as_row(row: Any, name: str) -> np.ndarray:
    """One sequence as an array `(length, *feature_shape)`."""
    if isinstance(row, (str, bytes)):
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received the string {row!r}. Map strings to ids first, e.g. "
            "with keras.layers.StringLookup or keras.layers.TextVectorization."
        )
    if row is None or isinstance(row, (dict, set)):
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received {type(row).__name__}. Drop that row or give it an array."
        )
    if isinstance(row, Iterable) and not hasattr(row, "__len__") and not hasattr(row, "__array__"):
        row = list(row)
    try:
        array = np.asarray(row)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` must be a regular array. Received timesteps of different shapes. Give every timestep the same "
            "features."
        ) from error
    if array.ndim == 0:
        raise TypeError(
            f"`{name}` must be a sequence. Received the scalar {row!r}. Wrap each sequence in a list or an array."
        )
    if array.dtype.kind not in "biuf":
        # Name the first entry that is no number, not only its row.
        at = first_non_number(row)
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received {array.flat[at] if array.ndim == 1 else array.dtype!r} "
            f"at {name}[{at}]. Map strings to ids first, e.g. with keras.layers.StringLookup, and drop missing values."
        )
    return array
