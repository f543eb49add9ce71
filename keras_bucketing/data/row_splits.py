"""Row splits: row i of flat values is `values[row_splits[i]:row_splits[i + 1]]`, as in `tf.RaggedTensor`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.signedinteger[Any]]  # in timesteps, `(num_rows,)`: int32 or int64
Offsets = NDArray[np.int64]  # where rows start, stop or are split, in timesteps
RowIndices = NDArray[np.int64]  # `(num_rows,)`, which rows


def row_splits_of(lengths: Lengths) -> Offsets:
    """Lengths `(num_rows,)` to int64 row splits `(num_rows + 1,)`.

    Example:
        >>> row_splits_of(np.array([3, 0, 2])).tolist()
        [0, 3, 3, 5]
    """
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def ranges_of(starts: Offsets, sizes: Lengths) -> Offsets:
    """The indices of several ranges, one after the other.

    Example:
        >>> ranges_of(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    splits = row_splits_of(sizes)
    indices = np.arange(splits[-1])
    indices += np.repeat(starts - splits[:-1], sizes)
    return indices


def row_ranges_of(row_splits: np.ndarray, num_values: int, name: str) -> tuple[Offsets, Offsets]:
    """The starts and sizes of rows by their splits `(num_rows + 1,)`, or by starts and stops `(num_rows, 2)`; checked.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they are not such splits, or lie outside the values, which the error calls `name`.

    Example:
        >>> row_ranges_of(np.array([0, 3, 3, 5]), 5, "values")
        (array([0, 3, 3]), array([3, 0, 2]))
        >>> row_ranges_of(np.array([[2, 5], [0, 1]]), 5, "values")
        (array([2, 0]), array([3, 1]))
    """
    if row_splits.dtype.kind not in "iu":
        raise TypeError(
            f"`row_splits` must be integers. Received dtype {row_splits.dtype}. Convert them, row_splits.astype(int)."
        )
    is_pairs = row_splits.ndim == 2 and row_splits.shape[1] == 2 and row_splits.size > 0
    if not is_pairs and (row_splits.ndim != 1 or row_splits.size < 2):
        raise ValueError(
            "`row_splits` must have one dimension and one entry more than there are sequences, at least two; or the "
            f"shape (num_sequences, 2), a start and a stop for each. Received shape {row_splits.shape}."
            f"{_lengths_hint(row_splits, num_values)}"
        )
    splits = row_splits.astype(np.int64, copy=False)
    if is_pairs:
        _check_pairs(splits, num_values, name)
        return np.ascontiguousarray(splits[:, 0]), splits[:, 1] - splits[:, 0]
    sizes = np.diff(splits)
    _check_splits(splits, sizes, num_values, name)
    return splits[:-1], sizes


def _check_splits(splits: Offsets, sizes: Offsets, num_values: int, name: str) -> None:
    if splits[0] != 0:
        raise ValueError(
            f"`row_splits` must start at 0. Received row_splits[0] = {splits[0]}."
            + (
                _lengths_hint(splits, num_values)
                or " Subtract it from every entry and pass the values that remain, or pass a start and a stop for each "
                "sequence, np.stack([row_splits[:-1], row_splits[1:]], axis=1)."
            )
        )
    if (sizes < 0).any():
        at = int(np.argmax(sizes < 0)) + 1
        raise ValueError(
            f"`row_splits` must not decrease. Received row_splits[{at}] = {splits[at]} after {splits[at - 1]}."
            f"{_lengths_hint(splits, num_values) or ' Pass cumulative offsets, np.cumsum([0, *lengths]).'}"
        )
    if splits[-1] != num_values:
        at = int(np.argmax(splits > num_values)) if splits[-1] > num_values else len(splits) - 1
        raise ValueError(
            f"`row_splits` must end at the number of timesteps. Expected {num_values} as in `{name}`, received "
            f"row_splits[{at}] = {splits[at]}."
            + (
                _lengths_hint(splits, num_values)
                or " For some of the sequences pass a start and a stop for each, np.stack([row_splits[:-1], "
                "row_splits[1:]], axis=1)."
            )
        )


def _lengths_hint(splits: np.ndarray, num_values: int) -> str:
    """The hint for wrong splits that are lengths, the starts alone, or the row of every timestep."""
    if splits.ndim != 1 or not splits.size or (splits < 0).any():
        return ""
    if int(splits.sum()) == num_values:
        return " These are lengths, which add up to it: pass np.cumsum([0, *lengths])."
    if (np.diff(splits) < 0).any() or int(splits[-1]) > num_values:
        return ""
    if len(splits) == num_values:
        return " If they say the row of every timestep, pass np.cumsum([0, *np.bincount(rows)])."
    if splits[0] == 0:
        return f" If they are only where sequences start, pass np.append(starts, {num_values})."
    return ""


def _check_pairs(pairs: Offsets, num_values: int, name: str) -> None:
    is_wrong = (pairs[:, 0] < 0) | (pairs[:, 1] < pairs[:, 0]) | (pairs[:, 1] > num_values)
    if is_wrong.any():
        at = int(np.argmax(is_wrong))
        raise ValueError(
            f"`row_splits` must hold starts and stops within the values. Expected 0 <= start <= stop <= {num_values} "
            f"as in `{name}`, received {pairs[at].tolist()} at row_splits[{at}]. Pass starts and stops, not starts and "
            "lengths: np.stack([starts, starts + lengths], axis=1)."
        )


def common_width(widths: np.ndarray, name: str) -> int:
    """The number of features of every timestep, if timesteps are lists; 0 without timesteps.

    Raises:
        ValueError: If the widths differ.
    """
    distinct = np.unique(widths)
    if len(distinct) > 1:
        raise ValueError(
            f"All sequences must share one feature shape. Received timesteps of {distinct[0]} and of {distinct[1]} "
            f"features in `{name}`. Reshape or drop those sequences. If a timestep is a list itself, as a sentence of "
            "a document, pad this inner axis: x.with_values(x.values.to_tensor()) of a tf.RaggedTensor, or "
            "keras.utils.pad_sequences(row) for each row."
        )
    return int(distinct[0]) if len(distinct) else 0
