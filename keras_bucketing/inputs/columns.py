"""Arrow, awkward and pandas data: none of these libraries is imported unless the data come from it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def values_and_row_splits(rows: Any, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Takes the flat values and the row splits out of a columnar array without touching its rows.

    Args:
        rows: Anything. Recognized are pyarrow's `ListArray`, `LargeListArray`, `FixedSizeListArray` and chunked columns
            of them, a pandas Series of an Arrow list type, and an awkward array with one variable axis.
        name: What to call it in an error message.

    Returns:
        The values `(num_values, *feature_shape)` and the splits `(num_rows + 1,)`; None if `rows` is none of these.

    Raises:
        ValueError: If a row or a value is missing, or the features are ragged too.
    """
    if comes_from("pandas", rows) and hasattr(getattr(rows, "array", None), "__arrow_array__"):
        import pyarrow

        rows = pyarrow.array(rows.array)
    if _is_arrow(rows):
        return _from_arrow(rows, name)
    if comes_from("awkward", rows):
        return _from_awkward(rows, name)
    return None


def is_ragged_column(rows: Any) -> bool:
    """Whether this is an Arrow, pandas or awkward column whose rows are lists of different lengths."""
    if comes_from("pandas", rows):
        return hasattr(rows, "dtype") and ("list<" in str(rows.dtype) or rows.dtype == object)
    if _is_arrow(rows):
        return _is_arrow_list(rows.type) and not _is_fixed_size(rows.type)
    return comes_from("awkward", rows) and getattr(rows, "ndim", 1) > 1 and " * var * " in f" * {rows.type}"


def as_plain_array(column: Any, name: str) -> Any:
    """An Arrow column of lists of one length as an array `(num_rows, length)`; anything else as it is."""
    refuse_missing(column, name)
    if _is_arrow(column) and _is_arrow_list(column.type):
        values, splits = _from_arrow(column, name)
        return values.reshape(len(splits) - 1, -1, *values.shape[1:])
    return column


def refuse_missing(values: Any, name: str) -> None:
    """Refuses masked and missing entries, which NumPy would turn into NaN or into what lies behind the mask."""
    is_missing: Any = False
    if isinstance(values, np.ma.MaskedArray):
        is_missing = np.ma.getmaskarray(values)
    elif _is_arrow(values):
        is_missing = values.is_null().to_pylist() if values.null_count else False
    elif comes_from("pandas", values) and not isinstance(getattr(values, "dtype", None), np.dtype):
        is_missing = np.asarray(values.isna())  # a NaN in a NumPy column is the user's own
    if np.any(is_missing):
        at = int(np.argwhere(is_missing)[0][0])
        raise ValueError(f"`{name}` must not hold missing entries. Received none at {name}[{at}]. Fill or drop it.")


def _is_arrow(values: Any) -> bool:
    return comes_from("pyarrow", values) and hasattr(values, "type") and hasattr(values, "null_count")


def _is_arrow_list(kind: Any) -> bool:
    # By name: the list views are younger than the oldest pyarrow that is supported.
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def _is_fixed_size(kind: Any) -> bool:
    return str(kind).startswith("fixed_size_list<")


def comes_from(library: str, rows: Any) -> bool:
    """Whether the object's class is of a library, without importing that library."""
    return library in sys.modules and type(rows).__module__.split(".")[0] == library


def _from_arrow(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
        if hasattr(column, "chunks"):  # pyarrow before 15 gives a chunked array with one chunk
            column = column.chunk(0)
    _refuse_nulls(column, name, "sequence")
    if not _is_arrow_list(column.type):
        raise TypeError(
            f"`{name}` must be a column of lists. Received the Arrow type {column.type}: `{name}[0]` is a scalar where "
            "a sequence belongs."
        )
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    splits = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values, features = column.flatten(), []
    while _is_arrow_list(values.type):
        _refuse_nulls(values, name, "timestep")
        widths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False))
        if len(widths) > 1:
            raise ValueError(
                f"All sequences must share one feature shape. Received timesteps of {widths[0]} and of {widths[1]} "
                f"features in `{name}`. Reshape or drop those sequences."
            )
        features.append(int(widths[0]) if len(widths) else 0)
        values = values.flatten()
    _refuse_nulls(values, name, "value")
    if not hasattr(values, "to_numpy") or str(values.type).startswith(("struct<", "map<", "union")):
        raise TypeError(f"`{name}` must hold numbers. Received values of the Arrow type {values.type}.")
    return values.to_numpy(zero_copy_only=False).reshape(-1, *features), splits


def _refuse_nulls(array: Any, name: str, what: str) -> None:
    if array.null_count:
        at = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        where = f"{name}[{at}]" if what == "sequence" else f"flat position {at} of `{name}`"
        raise ValueError(f"`{name}` must not hold missing entries. Received a null {what} at {where}. Fill or drop it.")


def _from_awkward(array: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    import awkward

    if array.ndim < 2:
        raise TypeError(
            f"`{name}` must be an array of lists. Received the awkward type {array.type}: `{name}[0]` is a scalar "
            "where a sequence belongs."
        )
    try:
        lengths = awkward.to_numpy(awkward.num(array, axis=1), allow_missing=False)
        values = awkward.to_numpy(awkward.flatten(array, axis=1), allow_missing=False)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` must hold numbers, with one variable axis and no missing entries. Received the awkward type "
            f"{array.type}. Make its inner axes regular with awkward.to_regular, and fill or drop missing entries."
        ) from error
    return values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
