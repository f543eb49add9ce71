"""Columns of Arrow, pandas, polars and awkward: none of these libraries is imported unless the data come from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.checks import shorten
from keras_bucketing.inputs.libraries import comes_from, is_arrow
from keras_bucketing.inputs.missing import refuse_missing
from keras_bucketing.inputs.row_splits import common_width, row_splits_of


def values_and_row_splits(rows: Any, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Takes the flat values and the row splits out of a columnar array without touching its rows.

    Args:
        rows: Anything. Recognized are pyarrow's `ListArray`, `LargeListArray`, `FixedSizeListArray` and chunked columns
            of them, a pandas Series of an Arrow list type, a polars Series of lists, and an awkward array with one
            variable axis.
        name: What to call it in an error message.

    Returns:
        The values `(num_values, *feature_shape)` and the splits `(num_rows + 1,)`; None if `rows` is none of these.

    Raises:
        ImportError: If pyarrow is missing, which polars needs to hand out its lists.
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
    """An Arrow column of lists of one length as an array `(num_rows, length)`; anything else as it is."""
    if not (is_arrow(column) and _is_arrow_list(column.type)):
        return column
    values, splits = _from_arrow(column, name)
    return values.reshape(len(splits) - 1, -1, *values.shape[1:])


def _is_arrow_list(kind: Any) -> bool:
    # By name: the list views are younger than the oldest pyarrow that is supported.
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def _is_polars_list(rows: Any) -> bool:
    return comes_from("polars", rows) and str(getattr(rows, "dtype", "")).startswith("List")


def _from_arrow(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
        if hasattr(column, "chunks"):  # pyarrow before 15 gives a chunked array with one chunk
            column = column.chunk(0)
    refuse_missing(column, name)
    if not _is_arrow_list(column.type):
        raise TypeError(
            f"`{name}` must be a column of lists. Received the Arrow type {shorten(str(column.type))}: "
            f"`{name}[0]` is a scalar where a sequence belongs."
        )
    splits = row_splits_of(column.value_lengths().to_numpy(zero_copy_only=False))
    values, features = column.flatten(), []
    while _is_arrow_list(values.type):
        refuse_missing(values, name, "timestep")
        features.append(common_width(values.value_lengths().to_numpy(zero_copy_only=False), name))
        values = values.flatten()
    refuse_missing(values, name, "value")
    if not hasattr(values, "to_numpy") or str(values.type).startswith(("struct<", "map<", "union")):
        raise TypeError(f"`{name}` must hold numbers. Received values of the Arrow type {shorten(str(values.type))}.")
    return values.to_numpy(zero_copy_only=False).reshape(splits[-1], *features), splits


def _from_awkward(array: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
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
    return values, row_splits_of(lengths)
