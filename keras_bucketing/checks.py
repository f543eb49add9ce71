"""Checks of plain arguments, with one style of message: argument, expected, received, fix."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

_INT32_MAX = int(np.iinfo(np.int32).max)
INT64_MAX = int(np.iinfo(np.int64).max)


def check_integer(name: str, value: Any, minimum: int = 1, maximum: int = _INT32_MAX, fix: str = "") -> int:
    """Returns `value` as an `int`, refusing booleans, fractions and what is out of range."""
    hint = f" {fix}" if fix else ""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` must be an integer. Expected an int >= {minimum}, received {value!r} "
            f"({type(value).__name__}).{hint}"
        ) from None
    if number < minimum:
        raise ValueError(f"`{name}` is too small. Expected an int >= {minimum}, received {number}.{hint}")
    if number > maximum:
        raise ValueError(f"`{name}` is too large. Expected an int <= {maximum}, received {number}.{hint}")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Returns `value` if it is one of `choices`."""
    if not isinstance(value, str):
        raise TypeError(
            f"`{name}` must be a string. Expected one of {list(choices)}, received {value!r} ({type(value).__name__})."
        )
    if value not in choices:
        raise ValueError(f"`{name}` is unknown. Expected one of {list(choices)}, received {value!r}.")
    return value


def check_flag(name: str, value: Any) -> bool:
    """Returns `value` as a `bool`, refusing what is merely truthy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"`{name}` must be a boolean. Expected True or False, received {value!r} ({type(value).__name__})."
        )
    return bool(value)


def check_number(name: str, value: Any) -> bool | int | float:
    """Returns `value` as a Python number; NumPy scalars are taken."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise TypeError(
            f"`{name}` must be a number. Expected a bool, int or float, received {value!r} ({type(value).__name__})."
        )
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError(f"`{name}` must be a number of at most 64 bits. Received an int of {value.bit_length()} bits.")
    return value


def check_flat_list(name: str, values: Any) -> list[Any]:
    """Returns the entries of a list, tuple or flat array of integers; the entries are not checked."""
    is_flat = isinstance(values, Sequence) or (isinstance(values, np.ndarray) and values.ndim == 1)
    if isinstance(values, (str, bytes)) or not is_flat:
        raise TypeError(f"`{name}` must be a flat list of integers. Received {values!r} ({type(values).__name__}).")
    return list(values)


def check_lengths(lengths: Any, name: str = "lengths", minimum: int = 1) -> np.ndarray:
    """Returns sequence lengths as an int64 array of shape `(num_sequences,)`.

    Floats are taken where every one of them is a whole number, as they come out of text files.
    """
    try:
        array = np.asarray(lengths)
    except ValueError as error:
        raise TypeError(
            f"`{name}` must be a flat list of integers. Received a nested list of uneven shape. Pass one number a "
            "sequence, e.g. [len(sequence) for sequence in x]."
        ) from error
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` must have one dimension. Expected shape (num_sequences,), received shape {array.shape}. Pass "
            "one number a sequence, e.g. [len(sequence) for sequence in x]."
        )
    if array.size == 0:
        raise ValueError(f"`{name}` is empty. Expected at least one length.")
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"`{name}` must be integers. Received dtype {array.dtype} (first entry {array.tolist()[0]!r}). Pass one "
            "number a sequence, e.g. [len(sequence) for sequence in x]."
        )
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            at = int(np.argmin(whole))
            raise ValueError(
                f"`{name}` must be whole numbers of timesteps. Received {array[at]!s} at {name}[{at}]. Correct or "
                "drop that sequence."
            )
    small = array < minimum
    if small.any():
        at = int(np.argmax(small))
        raise ValueError(
            f"`{name}` must be at least {minimum}. Received {array[at]!s} at {name}[{at}]. Correct or drop that "
            "sequence."
        )
    large = array > _INT32_MAX
    if large.any():
        at = int(np.argmax(large))
        raise ValueError(f"`{name}` must be below 2**31. Received {array[at]!s} at {name}[{at}].")
    return array.astype(np.int64)
