"""Whatever NumPy can read, as an array; what it would read wrongly is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_bucketing.checks import shorten
from keras_bucketing.inputs.missing import NUMBERS, refuse_missing


def as_regular_array(values: Any, name: str, fix: str) -> np.ndarray:
    """The values as an array.

    Args:
        values: An array, a tensor of any library, a column, or nested lists of numbers.
        name: What to call them in an error message.
        fix: The sentence that says what to do about nested lists of uneven shape.

    Raises:
        TypeError: If NumPy cannot read them.
        ValueError: If an entry is missing, nested lists are of uneven shape, or integers do not share an integer type.
    """
    refuse_missing(values, name)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(values, (list, tuple)):
            raise ValueError(
                f"`{name}` must be one regular array. Received a nested list of uneven shape. {fix}"
            ) from error
        raise TypeError(
            f"`{name}` must be readable by NumPy. Received {type(values).__module__}.{type(values).__name__}, which "
            f"says: {shorten(' '.join(str(error).split()))} Convert it first, e.g. a PyTorch tensor with "
            "tensor.detach().float().cpu().numpy()."
        ) from error
    if array.dtype == np.float64 and isinstance(values, (list, tuple)):
        return _unrounded_integers(values, array, name)
    return array


def common_dtype(dtypes: set[np.dtype], name: str) -> np.dtype:
    """The dtype that holds the values of all of these.

    Raises:
        ValueError: If they are integers that only a float could hold, which would round large ids.
    """
    common = np.result_type(*dtypes)
    if common.kind == "f" and all(dtype.kind in "iu" for dtype in dtypes):
        received = " and ".join(sorted(str(dtype) for dtype in dtypes))
        raise ValueError(
            f"The sequences of `{name}` must share one integer dtype. Received {received}, which have none in common: "
            "floats would round large ids. Convert them all to one, e.g. with sequence.astype(np.int64)."
        )
    return common


def first_non_number(values: Iterable[Any]) -> int:
    """Where the first entry stands that is not a number, or 0."""
    return next((at for at, value in enumerate(values) if not isinstance(value, NUMBERS)), 0)


def _unrounded_integers(values: Any, array: np.ndarray, name: str) -> np.ndarray:
    """What NumPy has read as float64 although it is integers, from 2**63 on next to smaller ones."""
    huge = np.abs(array) >= 2.0**63
    if not huge.any() or not all(isinstance(value, (int, np.integer)) for value in np.asarray(values, object).flat):
        return array
    # NumPy 1.26 lets negative ones wrap around, so they are refused here and not by it.
    if (array >= 0).all() and all(value < 2**64 for value in np.asarray(values, object).flat):
        return np.asarray(values, np.uint64)
    at = ", ".join(map(str, np.argwhere(huge)[0]))
    raise ValueError(
        f"`{name}` must hold integers that one dtype of at most 64 bits can hold. Received an integer beyond 2**63 at "
        f"{name}[{at}] that fits neither int64 nor, next to the others, uint64. Map large ids to smaller ones."
    )
