"""The `lengths` of padded arrays: integers, or masks that are True where a timestep is real."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.checks import check_lengths, shorten, show
from keras_bucketing.inputs.missing import NUMBERS
from keras_bucketing.inputs.padded_side import real_timesteps
from keras_bucketing.inputs.structures import map_structure


def lengths_by_leaf(x: Any, lengths: Any, name: str = "x", label: str = "lengths") -> dict[str, tuple[str, Any]]:
    """Which lengths were given for which leaf of `x`.

    Args:
        x: A padded array, or a dict or tuple of them.
        lengths: None, one array for all of `x`, or a dict or tuple like `x`; entries may be missing from a dict.
        name: The name of `x`.
        label: The name of `lengths`.

    Returns:
        For each leaf that `lengths` speaks of, by its name, what its lengths are called and the lengths; None for those
        that are said to have none.

    Raises:
        ValueError: If `lengths` has another structure than `x`.
    """
    if isinstance(x, dict) and isinstance(lengths, dict):
        unknown = [key for key in lengths if key not in x]
        if unknown:
            raise ValueError(
                f"`{label}` must have keys of `{name}`. Expected some of {shorten(str(list(x)))}, received "
                f"{show(unknown[0])}."
            )
        entries = [(key, x[key], lengths[key]) for key in lengths]
    elif isinstance(x, tuple) and isinstance(lengths, tuple) and not _is_flat(lengths):
        if len(x) != len(lengths):
            raise ValueError(
                f"`{label}` must have an entry for each of `{name}`. Expected {len(x)}, received {len(lengths)}. Put "
                "None for an entry that holds one value a row."
            )
        entries = list(zip(range(len(x)), x, lengths, strict=True))
    elif isinstance(x, (dict, tuple)):  # one and the same for all that is below
        return dict.fromkeys(leaf_names(x, name), (label, lengths))
    elif isinstance(lengths, dict):
        raise ValueError(
            f"`{label}` must be one array, as `{name}` is. Expected shape (num_sequences,) or (num_sequences, time), "
            "received a dict."
        )
    else:
        return {name: (label, lengths)}
    found: dict[str, tuple[str, Any]] = {}
    for key, value, given in entries:
        found |= lengths_by_leaf(value, given, f"{name}[{show(key)}]", f"{label}[{show(key)}]")
    return found


def read_lengths(given: Any, shape: tuple[int, ...], label: str, name: str) -> tuple[np.ndarray, str | None]:
    """The lengths as integers, and the padded end where a mask shows it.

    Args:
        given: Ints `(num_rows,)`, or a mask `(num_rows, time)` of booleans, or of 0 and 1.
        shape: The shape of the padded array, `(num_rows, time, *features)`.
        label: What to call the lengths in an error message.
        name: What to call the array.

    Returns:
        Int64 array `(num_rows,)`, and "post", "pre" or None.

    Raises:
        TypeError: If they are no integers.
        ValueError: If they are negative, or not one for each row; if a mask has a gap, or rows padded at both ends.
    """
    mask = as_mask(given)
    if mask is None:
        lengths = check_lengths(given, label, minimum=0)
        expected, received = shape[:1], lengths.shape
    else:
        expected, received = shape[:2], mask.shape
    if expected != received:
        raise ValueError(
            f"`{label}` must have one entry for each sequence, or, as a mask, for each timestep. Expected shape "
            f"{expected} as in `{name}`, received {received}."
        )
    return (lengths, None) if mask is None else lengths_of_mask(mask, label)


def as_mask(given: Any) -> np.ndarray | None:
    """A bool array `(num_rows, time)`, if it is a mask of booleans, or of 0 and 1; else None."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError):
        return None
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
        return None
    return array.astype(bool)


def lengths_of_mask(mask: np.ndarray, label: str) -> tuple[np.ndarray, str | None]:
    """The lengths in a mask of one run of True at the same end of every row, and the other end, which is padded.

    Example:
        >>> lengths_of_mask(np.array([[True, False], [True, True]]), "lengths")
        (array([1, 2]), 'post')
    """
    lengths = mask.sum(axis=1, dtype=np.int64)
    fits = {side: (mask == real_timesteps(lengths, mask.shape[1], side)).all(axis=1) for side in ("post", "pre")}
    wrong = ~(fits["post"] | fits["pre"])
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"`{label}` must be True in one run at the beginning or at the end of each row. Received a mask with gaps, "
            f"or with padding at both ends, at {label}[{at}]: {show(mask[at].astype(int).tolist())}. Take out the "
            "timesteps that are not real, and pass the sequences as a list to BucketedSequence itself."
        )
    only = {"post": fits["post"] & ~fits["pre"], "pre": fits["pre"] & ~fits["post"]}
    if only["post"].any() and only["pre"].any():
        raise ValueError(
            f"`{label}` must have the padding of all rows at the same end. Received padding at the end of row "
            f"{int(np.argmax(only['post']))} and at the beginning of row {int(np.argmax(only['pre']))}. Take the "
            "padding out yourself, and pass the sequences as a list to BucketedSequence itself."
        )
    return lengths, next((side for side, rows in only.items() if rows.any()), None)


def leaf_names(x: Any, name: str) -> list[str]:
    """The names of all leaves."""
    names: list[str] = []
    map_structure(lambda _, leaf: names.append(leaf), x, name)
    return names


def _is_flat(values: tuple[Any, ...]) -> bool:
    """Whether a tuple holds numbers, so that it is one array of lengths."""
    return bool(values) and all(isinstance(value, NUMBERS) for value in values)
