"""Missing and masked entries, which NumPy would turn into NaN or into what lies behind the mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.inputs.libraries import comes_from, is_arrow

# What a list of numbers holds.
NUMBERS = (bool, int, float, np.bool_, np.number)


def refuse_missing(values: Any, name: str, unit: str = "") -> None:
    """Refuses masked arrays, columns with nulls and lists of them; a NaN in plain floats is the user's own.

    Args:
        values: Anything.
        name: What to call it in an error message.
        unit: What the entries are where they are not the rows of `name`, e.g. "timestep": their index then counts
            through the flat column.

    Raises:
        ValueError: If an entry is missing.
    """
    if isinstance(values, (list, tuple)):
        _refuse_missing_in_list(values, name)
        return
    is_missing = _is_missing(values)
    if is_missing is None or not np.any(is_missing):
        return
    if not np.ndim(is_missing):  # np.ma.masked itself
        raise _missing(name, "value", name)
    at = int(np.argwhere(is_missing)[0][0])
    where = f"flat position {at} of `{name}`" if unit else f"{name}[{at}]"
    raise _missing(name, unit or "value", where)


def _is_missing(values: Any) -> Any:
    """A boolean array or scalar, or None where nothing can be missing."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.getmaskarray(values)
    if is_arrow(values):
        return values.is_null().to_pylist() if values.null_count else None
    if comes_from("polars", values) and hasattr(values, "null_count"):
        return values.is_null().to_numpy() if values.null_count() else None
    if comes_from("pandas", values) and not isinstance(getattr(values, "dtype", None), np.dtype):
        return np.asarray(values.isna())
    return None


def _refuse_missing_in_list(values: list[Any] | tuple[Any, ...], name: str) -> None:
    if values and isinstance(values[0], NUMBERS):  # numbers all along: no need to ask each of them
        at = next((index for index, value in enumerate(values) if value is np.ma.masked), None)
        if at is not None:
            raise _missing(name, "value", f"{name}[{at}]")
        return
    for index, value in enumerate(values):
        refuse_missing(value, f"{name}[{index}]")


def _missing(name: str, what: str, where: str) -> ValueError:
    return ValueError(f"`{name}` must not hold missing entries. Received no {what} at {where}. Fill or drop it.")
