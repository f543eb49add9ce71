"""Ranges of rows in flat values: which timesteps any row holds, and a copy of only those."""

from __future__ import annotations

import numpy as np

from keras_bucketing.inputs.storage import aligned_empty

_BLOCK_BYTES = 1 << 25  # of values that are picked at once, so that no second copy of them all is made


def used_ranges(starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges of timesteps that rows hold, ascending; those that touch or overlap are one.

    Args:
        starts: Int64 array `(num_rows,)`, where each row begins, in any order.
        sizes: Int array `(num_rows,)`, how many timesteps it has.

    Returns:
        Int64 arrays: where each range begins, and where it ends.

    Example:
        >>> used_ranges(np.array([5, 0, 2, 9]), np.array([2, 2, 1, 0]))
        (array([0, 5]), array([3, 7]))
    """
    filled = sizes > 0
    if not filled.all():
        starts, sizes = starts[filled], sizes[filled]
    if not starts.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        starts, sizes = starts[order], sizes[order]
    reached = np.maximum.accumulate(starts + sizes)
    begins = np.flatnonzero(np.concatenate([[True], starts[1:] > reached[:-1]]))
    ends = np.concatenate([begins[1:], [len(starts)]]) - 1
    return starts[begins], reached[ends]


def copy_used(
    values: np.ndarray, starts: np.ndarray, sizes: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Copies the timesteps that some row holds.

    Args:
        values: Array `(num_values, *feature_shape)`.
        starts: As in `used_ranges`.
        sizes: As in `used_ranges`.
        dtype: What to convert the values to.

    Returns:
        The values, in memory that TensorFlow can use as it is, and the rows' new starts.
    """
    begins, ends = used_ranges(starts, sizes)
    widths = ends - begins
    copies = aligned_empty((int(widths.sum()), *values.shape[1:]), dtype)
    if len(begins) == 1:
        np.copyto(copies, values[begins[0] : ends[0]], casting="unsafe")
        return copies, starts - begins[0] if begins[0] else starts
    if not len(begins):
        return copies, np.zeros_like(starts)
    _pick(values, begins, ends, copies)
    of_row = np.maximum(np.searchsorted(begins, starts, side="right") - 1, 0)
    shifts = np.cumsum(widths) - widths - begins
    return copies, np.where(sizes > 0, starts + shifts[of_row], 0)


def _pick(values: np.ndarray, begins: np.ndarray, ends: np.ndarray, copies: np.ndarray) -> None:
    steps = np.zeros(len(values) + 1, np.int8)
    steps[begins] = 1
    steps[ends] = -1
    is_used = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    del steps
    block = max(_BLOCK_BYTES // max(values[:1].nbytes, 1), 1)
    copied = 0
    for start in range(0, len(values), block):
        picked = values[start : start + block][is_used[start : start + block]]
        np.copyto(copies[copied : copied + len(picked)], picked, casting="unsafe")
        copied += len(picked)
