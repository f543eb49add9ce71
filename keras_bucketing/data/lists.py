"""A list of sequences, each an array or a list: recognized as slices of one array, or concatenated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_bucketing.checks import show
from keras_bucketing.data.arrays import (
    aligned_empty,
    as_regular_array,
    comes_from,
    common_dtype,
    first_non_number,
    is_mapped,
    refuse_missing,
    standard_dtype,
)
from keras_bucketing.data.other_kinds import as_dense, is_sparse, refuse_frame, refuse_sparse
from keras_bucketing.data.rows import Rows, rows_from_lengths, rows_from_memory

Sequences = list[Any]  # arrays, tensors or lists, one for each row

_MAX_INPUTS = 8  # of a model; a longer list is one of sequences

# What to do about timesteps that are lists of their own lengths.
INNER_AXIS = (
    "Give every timestep the same features. If a timestep is a list itself, as a sentence of a document, pad this "
    "inner axis: [keras.utils.pad_sequences(row, maxlen=width, padding='post') for row in x]."
)


def rows_of_list(sequences: Sequences, name: str, copy: bool) -> Rows:
    """The rows of a list of at least one array, tensor or list `(length, *features)`.

    Slices of one array are used without a copy; with `copy` only those of a mapped file.
    """
    rows = rows_of_views(sequences, only_mapped=copy)
    return concatenate(sequences, name) if rows is None else rows


def rows_of_views(sequences: Sequences, only_mapped: bool) -> Rows | None:
    """Undoes `np.split` and slicing without a copy; with `only_mapped`, only for mapped files.

    None if these are not contiguous slices of one array, of one dtype and one feature shape.

    Example:
        >>> flat = np.arange(9)
        >>> rows = rows_of_views([flat[5:7], flat[2:3]], only_mapped=False)
        >>> rows.values.tolist(), rows.starts.tolist(), rows.sizes.tolist()
        ([2, 3, 4, 5, 6], [3, 0], [2, 1])
    """
    first = sequences[0]
    if not _is_view(first) or first.dtype.kind not in "biuf" or (only_mapped and not is_mapped(first)):
        return None
    base, dtype, feature_shape = first.base, first.dtype, first.shape[1:]
    if not base.flags.c_contiguous:
        return None
    for row in sequences:
        if not _is_view(row) or row.base is not base or row.dtype != dtype or row.shape[1:] != feature_shape:
            return None
    sizes = np.fromiter(map(len, sequences), np.int64, len(sequences))
    addresses = np.fromiter((row.__array_interface__["data"][0] for row in sequences), np.int64, len(sequences))
    memory = np.asarray(base).reshape(-1).view(np.uint8)
    return rows_from_memory(memory, addresses, sizes, dtype, feature_shape, np.ones_like(sizes), sizes)


def _is_view(row: Any) -> bool:
    is_array = type(row) in (np.ndarray, np.memmap) and row.ndim > 0 and row.flags.c_contiguous
    return is_array and isinstance(row.base, np.ndarray)


def concatenate(sequences: Sequences, name: str) -> Rows:
    """A copy of all timesteps, one sequence after the other, in memory that TensorFlow can use without a copy.

    Raises:
        TypeError: If one of them is not a sequence of numbers.
        ValueError: If they do not share one feature shape.
    """
    _refuse_list_of_inputs(sequences, name)
    arrays = [
        row if type(row) is np.ndarray and row.ndim and row.dtype != object else as_row(row, f"{name}[{index}]")
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
    values = aligned_empty((int(lengths.sum()), *features), standard_dtype(common_dtype(dtypes, name), name))
    if filled:
        np.concatenate(filled, out=values, casting="unsafe")
    return rows_from_lengths(values, lengths, name, owned=True)


def list_of_inputs_hint(rows: Sequences, name: str) -> str:
    """The hint for a few entries with the same number of rows, which may be meant as Keras' list of inputs, or ""."""
    if not 2 <= len(rows) <= _MAX_INPUTS or len(set(map(_num_rows, rows))) != 1:
        return ""
    return (
        f" If `{name}` is meant as the list of a model's inputs: a list holds sequences here, so pass the inputs as a "
        f"tuple, ({name}[0], {name}[1]{', ...' if len(rows) > 2 else ''}), or as a dict with their names."
    )


def _refuse_list_of_inputs(sequences: Sequences, name: str) -> None:
    """Refuses a list of a few collections of rows that each have several lengths, since these cannot be timesteps."""
    if not 2 <= len(sequences) <= _MAX_INPUTS:
        return
    are_ragged = all(hasattr(entry, "row_splits") for entry in sequences)
    are_lists = all(isinstance(entry, list) for entry in sequences)
    if are_ragged or (are_lists and any(map(_has_rows_of_several_lengths, sequences))):
        hint = list_of_inputs_hint([entry.row_splits if are_ragged else entry for entry in sequences], name)
        if hint:
            raise ValueError(
                f"`{name}` must be a list of sequences. Received a list of {len(sequences)} collections of sequences."
                f"{hint}"
            )


def _has_rows_of_several_lengths(rows: Sequences) -> bool:
    return len({_num_rows(row) for row in rows} - {None}) > 1


def _num_rows(rows: Any) -> int | None:
    """The number of rows; None if this is not a collection."""
    is_collection = isinstance(rows, (list, tuple)) or (hasattr(rows, "ndim") and rows.ndim > 0)
    return len(rows) if is_collection else None


def _feature_shape(arrays: list[np.ndarray], lengths: np.ndarray, name: str) -> tuple[int, ...]:
    """The shape of one timestep, which must be the same in all rows with a timestep."""
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
                f"{_inner_axis_hint(expected, array.shape[1:])}{list_of_inputs_hint(arrays, name)}"
            )
    for index, array in enumerate(arrays):
        if len(array) == 0:
            arrays[index] = np.empty((0, *expected), arrays[first].dtype)
    return expected


def _inner_axis_hint(expected: tuple[int, ...], received: tuple[int, ...]) -> str:
    """The hint for timesteps that have an inner axis in all rows, but of another size."""
    return f" {INNER_AXIS.partition('. ')[2]}" if len(expected) == len(received) > 0 else ""


def as_list(rows: Any, name: str) -> Sequences:
    """The rows of a list, an object array or a pandas Series, as a list."""
    if isinstance(rows, list):
        return rows
    refuse_frame(rows, name)
    refuse_sparse(rows, name)
    refuse_missing(rows, name)
    if isinstance(rows, np.ndarray) and rows.dtype == object and rows.ndim == 1:
        return list(rows.tolist())
    if comes_from("pandas", rows) and hasattr(rows, "tolist"):
        return list(rows.tolist())
    if comes_from("polars", rows) and str(getattr(rows, "dtype", "")) == "Object":
        return list(rows.to_list())
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
            f"really are equal, there is nothing to bucket: pass it to fit() directly, or pass list({name})."
        )
    if isinstance(rows, Sequence) and not isinstance(rows, (tuple, str, bytes, range)):
        return list(rows)
    raise TypeError(
        f"`{name}` is not a collection of sequences. Expected a list of arrays, an object array, a tf.RaggedTensor, a "
        f"pyarrow list array, a pandas or polars Series of lists or an awkward array, received {type(rows).__name__}."
        + (f" If it yields sequences, use BucketedSequence.from_dataset({name})." if _may_yield(rows) else "")
    )


def _may_yield(rows: object) -> bool:
    """Whether this is a generator, a function that returns one, a pipeline or any other iterable."""
    return not isinstance(rows, (str, bytes, tuple, type)) and (callable(rows) or hasattr(rows, "__iter__"))


def as_row(row: Any, name: str) -> np.ndarray:
    """One sequence as an array `(length, *feature_shape)`."""
    if isinstance(row, (str, bytes)):
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received the string {show(row)}. Map strings to ids first, e.g. "
            "with keras.layers.StringLookup or keras.layers.TextVectorization."
        )
    if row is None or isinstance(row, (dict, set)):
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received {type(row).__name__}. Drop that row or give it an array."
        )
    if isinstance(row, Iterable) and not hasattr(row, "__len__") and not hasattr(row, "__array__"):
        row = list(row)
    refuse_frame(row, name)
    array = as_regular_array(as_dense(row) if is_sparse(row) else row, name, INNER_AXIS)
    if array.ndim == 0 and array.dtype == object:
        hint = " If an element is a batch of rows, pass batched=True." if hasattr(row, "nested_row_splits") else ""
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received {type(row).__name__}. Make a list or an array of it; "
            f"several sequences belong in a dict or a tuple.{hint}"
        )
    if array.ndim == 0:
        raise TypeError(
            f"`{name}` must be a sequence. Received the scalar {show(row)}. Wrap each sequence in a list or an array."
        )
    if array.dtype.kind not in "biufSUO":
        standard_dtype(array.dtype, name)  # says what is wrong with it
    if array.dtype.kind not in "biuf":
        # Name the first entry that is not a number, not only its row.
        at = first_non_number(row)
        received = show(array.flat[at]) if array.ndim == 1 else array.dtype
        raise TypeError(
            f"`{name}` must be a sequence of numbers. Received {received} at {name}[{at}]. Map strings to ids "
            "first, e.g. with keras.layers.StringLookup, and drop missing values."
        )
    return array
