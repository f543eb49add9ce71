"""A list of slices of one array, back to that array and where they lie in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.inputs.mapped_arrays import is_mapped


def ranges_of_views(rows: list[Any], only_mapped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What `np.split` and slicing did, undone without a copy.

    Args:
        rows: At least one of anything.
        only_mapped: Whether only slices of a file that is mapped into memory are meant.

    Returns:
        The values from the first slice in memory to the last, and the starts and sizes of the rows; None if these are
        not contiguous slices of one array, of one dtype and one feature shape.

    Example:
        >>> flat = np.arange(9)
        >>> values, starts, sizes = ranges_of_views([flat[5:7], flat[2:3]], only_mapped=False)
        >>> values.tolist(), starts.tolist(), sizes.tolist()
        ([2, 3, 4, 5, 6], [3, 0], [2, 1])
    """
    first = rows[0]
    if not _is_view(first) or first.dtype.kind not in "biuf" or (only_mapped and not is_mapped(first)):
        return None
    base, dtype, feature_shape = first.base, first.dtype, first.shape[1:]
    row_bytes = dtype.itemsize * int(np.prod(feature_shape, dtype=np.int64))
    if not base.flags.c_contiguous or not row_bytes:
        return None
    for row in rows:
        if not _is_view(row) or row.base is not base or row.dtype != dtype or row.shape[1:] != feature_shape:
            return None
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    addresses = np.fromiter((row.__array_interface__["data"][0] for row in rows), np.int64, len(rows))
    filled = sizes > 0
    if not filled.any():
        return None
    begin = int(addresses[filled].min())
    end = int((addresses + sizes * row_bytes)[filled].max())
    offsets = np.where(filled, addresses - begin, 0)
    if (offsets % row_bytes).any():
        return None
    first_byte = begin - base.ctypes.data
    memory = np.asarray(base).reshape(-1).view(np.uint8)[first_byte : first_byte + end - begin]
    return memory.view(dtype).reshape(-1, *feature_shape), offsets // row_bytes, sizes


def _is_view(row: Any) -> bool:
    is_array = type(row) in (np.ndarray, np.memmap) and row.ndim > 0 and row.flags.c_contiguous
    return is_array and isinstance(row.base, np.ndarray)
