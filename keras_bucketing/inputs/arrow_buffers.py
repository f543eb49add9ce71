"""Where the values of an Arrow column lie in memory; pyarrow is not imported, its objects are only asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.inputs.row_splits import row_splits_of


def is_arrow_list(kind: Any) -> bool:
    """Whether an Arrow type is one of its types of lists."""
    # By name: the list views are younger than the oldest pyarrow that is supported.
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def lies_in_immutable_buffer(array: np.ndarray, values: Any) -> bool:
    """Whether an array is a view of Arrow values that nobody can write to.

    Args:
        array: What `values.to_numpy` returned.
        values: A flat Arrow array.
    """
    buffer = _whole_buffer(values)
    return buffer is not None and not buffer.is_mutable and _lies_within(array, buffer)


def pieces_of_one_buffer(column: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The rows of a column in several pieces that lie in one immutable buffer, as those of a mapped Arrow file do.

    Args:
        column: A chunked column of lists.

    Returns:
        The values, from the first piece to the last with whatever lies between them, and the starts and sizes of the
        rows; None where the pieces lie apart, have missing entries, or not whole timesteps between them.
    """
    buffer, pieces, all_sizes = None, [], []
    for chunk in filter(len, column.chunks):
        piece = _values_of(chunk)
        if piece is None:
            return None
        array, values = piece
        own = _whole_buffer(values)
        buffer = buffer or own
        if own is None or (own.address, own.is_mutable) != (buffer.address, False) or not _lies_within(array, buffer):
            return None
        pieces.append(array)
        all_sizes.append(chunk.value_lengths().to_numpy(zero_copy_only=False))
    pieces_with_values = [piece for piece in pieces if len(piece)]
    if buffer is None or not pieces_with_values or len({piece.shape[1:] for piece in pieces_with_values}) > 1:
        return None
    addresses = np.array([piece.ctypes.data for piece in pieces_with_values])
    begin, end = addresses.min(), max(piece.ctypes.data + piece.nbytes for piece in pieces_with_values)
    row_bytes = pieces_with_values[0][:1].nbytes
    if not row_bytes or ((addresses - begin) % row_bytes).any():
        return None
    memory = np.frombuffer(buffer, np.uint8)[begin - buffer.address : end - buffer.address]
    values = memory.view(pieces_with_values[0].dtype).reshape(-1, *pieces_with_values[0].shape[1:])
    starts = [
        row_splits_of(sizes)[:-1] + ((piece.ctypes.data - begin) // row_bytes if len(piece) else 0)
        for piece, sizes in zip(pieces, all_sizes, strict=True)
    ]
    return values, np.concatenate(starts), np.concatenate(all_sizes)


def _values_of(chunk: Any) -> tuple[np.ndarray, Any] | None:
    """The values of one piece as an array and as Arrow has them; None where something is missing or no number."""
    values, features = chunk, []
    while is_arrow_list(values.type):
        if values.null_count:
            return None
        if values is not chunk:
            widths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
            if len(widths) != 1:
                return None
            features.append(int(widths[0]))
        values = values.flatten()
    if values is chunk or values.null_count or not _is_number(values.type):
        return None
    array = values.to_numpy(zero_copy_only=False)
    return array.reshape(-1, *features) if array.size else array, values


def _is_number(kind: Any) -> bool:
    return str(kind) in {
        "float",
        "halffloat",
        "double",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }


def _whole_buffer(values: Any) -> Any:
    """The buffer that the values' own one is a part of."""
    buffers = values.buffers()
    buffer = buffers[1] if len(buffers) == 2 else None
    while buffer is not None and buffer.parent is not None:
        buffer = buffer.parent
    return buffer


def _lies_within(array: np.ndarray, buffer: Any) -> bool:
    address = array.ctypes.data
    return bool(buffer.address <= address and address + array.nbytes <= buffer.address + buffer.size)
