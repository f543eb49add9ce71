"""Columns of Arrow, pandas, polars and awkward: a library is imported only if the data come from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from keras_bucketing.checks import shorten
from keras_bucketing.data.arrays import comes_from, is_arrow, refuse_missing
from keras_bucketing.data.row_splits import common_width
from keras_bucketing.data.rows import Rows, rows_from_lengths, rows_from_memory

ArrowColumn = Any  # an array or a chunked column of pyarrow, which is not imported: its objects are only asked
ArrowBuffer = Any


def rows_of_column(rows: Any, name: str) -> Rows | None:
    """Takes the flat values and the positions of the rows out of a columnar array, without reading its rows.

    Args:
        rows: Anything. Recognized are pyarrow's `ListArray`, `LargeListArray`, `FixedSizeListArray` and chunked columns
            of them, a pandas Series of an Arrow list type, a polars Series of lists, and an awkward array with one
            variable axis.
        name: Its name in an error message.

    Returns:
        The rows, `shared` if the values are read-only, such as those that Arrow reads or maps into memory; None if this
        is not such a column.

    Raises:
        ImportError: If pyarrow is missing, which polars needs to export its lists.
        TypeError: If the values are not numbers.
        ValueError: If a row or a value is missing, or the features are ragged too.
    """
    if comes_from("pandas", rows) and hasattr(getattr(rows, "array", None), "__arrow_array__"):
        import pyarrow

        rows = pyarrow.array(rows.array)
    if _is_polars_list(rows):
        rows = rows.to_arrow()
    if is_arrow(rows):
        return _from_arrow(rows, name)
    if comes_from("awkward", rows):
        return _from_awkward(rows, name)
    return None


def is_ragged_column(rows: Any) -> bool:
    """Whether this is an Arrow, pandas, polars or awkward column whose rows are lists of different lengths."""
    if comes_from("pandas", rows):
        return hasattr(rows, "dtype") and ("list<" in str(rows.dtype) or rows.dtype == object)
    if is_arrow(rows):
        return _is_arrow_list(rows.type) and not str(rows.type).startswith("fixed_size_list<")
    if comes_from("awkward", rows):
        return getattr(rows, "ndim", 1) > 1 and " * var * " in f" * {rows.type}"
    return _is_polars_list(rows)


def as_plain_array(column: Any, name: str) -> Any:
    """An Arrow column of lists of one length as an array `(num_rows, length)`; anything else unchanged."""
    if not (is_arrow(column) and _is_arrow_list(column.type)):
        return column
    return _from_arrow(column, name).as_array()


def _is_polars_list(rows: object) -> bool:
    return comes_from("polars", rows) and str(getattr(rows, "dtype", "")).startswith("List")


def _from_arrow(column: ArrowColumn, name: str) -> Rows:
    if hasattr(column, "combine_chunks"):
        if column.num_chunks > 1:
            rows = _rows_of_one_buffer(column)
            if rows is not None:
                return rows
            column = column.combine_chunks()
        if hasattr(column, "chunks"):  # one piece; pyarrow before 15 gives that for several too
            column = column.chunk(0) if column.num_chunks else column.combine_chunks()
    refuse_missing(column, name)
    if not _is_arrow_list(column.type):
        raise TypeError(
            f"`{name}` must be a column of lists. Received the Arrow type {shorten(str(column.type))}: "
            f"`{name}[0]` is a scalar where a sequence belongs."
        )
    sizes = column.value_lengths().to_numpy(zero_copy_only=False)
    values, features = column.flatten(), []
    while _is_arrow_list(values.type):
        refuse_missing(values, name, "timestep")
        features.append(common_width(values.value_lengths().to_numpy(zero_copy_only=False), name))
        values = values.flatten()
    refuse_missing(values, name, "value")
    if not hasattr(values, "to_numpy") or str(values.type).startswith(("struct<", "map<", "union")):
        raise TypeError(f"`{name}` must hold numbers. Received values of the Arrow type {shorten(str(values.type))}.")
    flat = values.to_numpy(zero_copy_only=False).reshape(sizes.sum(dtype=np.int64), *features)
    return rows_from_lengths(flat, sizes, name, shared=_lies_in_immutable_buffer(flat, values))


def _from_awkward(array: Any, name: str) -> Rows:
    import awkward

    if array.ndim < 2:
        raise TypeError(
            f"`{name}` must be an array of lists. Received the awkward type {shorten(str(array.type))}: "
            f"`{name}[0]` is a scalar where a sequence belongs."
        )
    try:
        lengths = awkward.to_numpy(awkward.num(array, axis=1), allow_missing=False)
        values = awkward.to_numpy(awkward.flatten(array, axis=1), allow_missing=False)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` must hold numbers, with one variable axis and no missing entries. Received the awkward type "
            f"{shorten(str(array.type))}. Make its inner axes regular with awkward.to_regular, and fill or drop "
            "missing entries."
        ) from error
    return rows_from_lengths(values, lengths, name)


def _is_arrow_list(kind: object) -> bool:
    """Whether an Arrow type is one of its types of lists."""
    # By name: the list views are younger than the oldest pyarrow that is supported.
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def _lies_in_immutable_buffer(array: np.ndarray, values: ArrowColumn) -> bool:
    """Whether an array, which `values.to_numpy` returned, is a view of read-only Arrow values."""
    buffer = _whole_buffer(values)
    return buffer is not None and not buffer.is_mutable and _lies_within(array, buffer)


def _rows_of_one_buffer(column: ArrowColumn) -> Rows | None:
    """The rows of a chunked column whose pieces are in one immutable buffer, such as those of a mapped Arrow file.

    Returns:
        Rows whose values reach from the first piece to the last, with everything between them; None if the pieces are
        in several buffers, have missing entries, or are not whole timesteps apart.
    """
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    pieces = [piece for piece in map(_values_of, chunks) if piece is not None]
    buffer = _common_buffer(pieces) if len(pieces) == len(chunks) else None
    arrays = [array for array, _ in pieces if len(array)]
    if buffer is None or not arrays or len({array.shape[1:] for array in arrays}) > 1:
        return None
    rows = rows_from_memory(
        np.frombuffer(buffer, np.uint8),
        np.array([array.ctypes.data for array, _ in pieces]),
        np.array([len(array) for array, _ in pieces]),
        arrays[0].dtype,
        arrays[0].shape[1:],
        np.array([len(chunk) for chunk in chunks]),
        np.concatenate([chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in chunks]),
    )
    return None if rows is None else replace(rows, shared=True)


def _common_buffer(pieces: list[tuple[np.ndarray, ArrowColumn]]) -> ArrowBuffer | None:
    """The immutable buffer that holds the values of all pieces, or None."""
    if not all(_lies_in_immutable_buffer(*piece) for piece in pieces):
        return None
    buffers = {buffer.address: buffer for _, values in pieces if (buffer := _whole_buffer(values)) is not None}
    return buffers.popitem()[1] if len(buffers) == 1 else None


def _values_of(chunk: ArrowColumn) -> tuple[np.ndarray, ArrowColumn] | None:
    """The values of one piece as an array and as Arrow values; None if something is missing or not a number."""
    values, features = chunk, []
    while _is_arrow_list(values.type):
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


def _is_number(kind: object) -> bool:
    return str(kind) in {
        "float",
        "halffloat",
        "double",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }


def _whole_buffer(values: ArrowColumn) -> ArrowBuffer | None:
    """The buffer of which the values' buffer is a part."""
    buffers = values.buffers()
    buffer = buffers[1] if len(buffers) == 2 else None
    while buffer is not None and buffer.parent is not None:
        buffer = buffer.parent
    return buffer


def _lies_within(array: np.ndarray, buffer: ArrowBuffer) -> bool:
    address = array.ctypes.data
    return bool(buffer.address <= address and address + array.nbytes <= buffer.address + buffer.size)
