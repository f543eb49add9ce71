"""A list of sequences, each an array or a list of its own, concatenated into one array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_bucketing.inputs.columns import comes_from, refuse_missing
from keras_bucketing.inputs.storage import aligned_empty, standard_dtype


def concatenate(sequences: list[Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Puts the timesteps of all sequences, concatenated.

    Args:
        sequences: At least one array, tensor or list `(length, *feature_shape)`.
        name: What to call the list in an error message.

    Returns:
        The values `(num_values, *feature_shape)`, a new array that TensorFlow can use as it is, and the int64 lengths
        `(num_sequences,)`.

    Raises:
        TypeError: If one of them is not a sequence of numbers.
        ValueError: If they do not share one feature shape.
    """
    arrays = [
        row if type(row) is np.ndarray and row.ndim else _as_row(row, f"{name}[{index}]")
        for index, row in enumerate(sequences)
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
    return values, lengths


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


def as_list(rows: Any, name: str) -> list[Any]:
    """The rows of a list, an object array or a pandas Series, as a list."""
    if isinstance(rows, list):
        return rows
    refuse_missing(rows, name)
    if isinstance(rows, np.ndarray) and rows.dtype == object and rows.ndim == 1:
        return list(rows.tolist())
    if comes_from("pandas", rows) and hasattr(rows, "tolist"):
        return list(rows.tolist())
    if isinstance(rows, (np.ndarray, np.generic)) or (hasattr(rows, "__array__") and hasattr(rows, "shape")):
        shape = tuple(np.shape(rows))
        if len(shape) < 2:
            raise TypeError(
                f"`{name}` must be a list of sequences. Received one array of shape {shape}: `{name}[0]` is a scalar "
                "where a sequence belongs. Pass a list with one array a sequence, or flat values to "
                "BucketedSequence.from_row_splits(values, row_splits)."
            )
        raise ValueError(
            f"`{name}` must be a list of sequences. Received one array of shape {shape}, in which every sequence has "
            f"the length {shape[1]}. If it is padded, use BucketedSequence.from_padded({name}, ...); if all lengths "
            f"really are equal, there is nothing to bucket: pass it to fit() as it is, or pass list({name})."
        )
    if isinstance(rows, Sequence) and not isinstance(rows, (tuple, str, bytes, range)):
        return list(rows)
    raise TypeError(
        f"`{name}` is not a collection of sequences. Expected a list of arrays, an object array, a tf.RaggedTensor, a "
        f"pyarrow list array, a pandas Series of lists or an awkward array, received {type(rows).__name__}."
    )


def first_non_number(values: Iterable[Any]) -> int:
    """Where the first entry stands that is not a number, or 0."""
    numbers = (bool, int, float, np.bool_, np.number)
    return next((at for at, value in enumerate(values) if not isinstance(value, numbers)), 0)


def not_an_array(value: Any, name: str, error: Exception) -> TypeError:
    """The error for an object that NumPy cannot read, e.g. a tensor of another library on another device."""
    return TypeError(
        f"`{name}` must be readable by NumPy. Received {type(value).__module__}.{type(value).__name__}, which says: "
        f"{' '.join(str(error).split())} Convert it first, e.g. a PyTorch tensor with "
        "tensor.detach().float().cpu().numpy()."
    )


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
    refuse_missing(row, name)
    try:
        array = np.asarray(row)
    except (ValueError, TypeError, RuntimeError) as error:
        if not isinstance(row, (list, tuple)):
            raise not_an_array(row, name, error) from error
        raise ValueError(
            f"`{name}` must be a regular array. Received timesteps of different shapes. Give every timestep the same "
            "features."
        ) from error
    if array.ndim == 0:
        raise TypeError(
            f"`{name}` must be a sequence. Received the scalar {row!r}. Wrap each sequence in a list or an array."
        )
    if array.dtype.kind not in "biufSUO":
        standard_dtype(array.dtype, name)  # says what is wrong with it
    if array.dtype.kind not in "biuf":
        # Name the first entry that is not a number, not only its row.
        at = first_non_number(row)
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received {array.flat[at] if array.ndim == 1 else array.dtype!r} "
            f"at {name}[{at}]. Map strings to ids first, e.g. with keras.layers.StringLookup, and drop missing values."
        )
    return array
