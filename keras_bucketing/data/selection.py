"""Selections of rows: index arrays and masks, and the rows that a split holds out. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import INT64_MAX, check_integer, show, show_typed
from keras_bucketing.data.row_splits import Lengths, RowIndices


def row_indices_of(rows: Any, num_rows: int, name: str) -> RowIndices:
    """Checks indices, which may be repeated or negative, or a boolean mask; returns indices from 0 on.

    Raises:
        TypeError: If they are neither integers nor booleans.
        ValueError: If they are not one-dimensional, a mask does not have one entry per row, or none is selected.
        IndexError: If an index is out of range.

    Example:
        >>> row_indices_of([2, 0, -1, 0], 3, "rows").tolist(), row_indices_of([True, False, True], 3, "rows").tolist()
        ([2, 0, 2, 0], [0, 2])
    """
    array = np.asarray(rows)
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` must have one dimension. Expected indices or a mask ({num_rows},), received "
            f"{show_typed(rows) if array.ndim == 0 else f'shape {array.shape}'}."
        )
    if array.size and array.dtype.kind not in "iub":
        raise TypeError(
            f"`{name}` must be indices or a boolean mask. Received dtype {array.dtype} (first entry "
            f"{show(array.tolist()[0])}). Pass integers, e.g. np.flatnonzero(mask)."
        )
    if array.dtype.kind == "b":
        if len(array) != num_rows:
            raise ValueError(
                f"`{name}` is a mask, so it must have one entry for each row. Expected {num_rows}, received "
                f"{len(array)}."
            )
        array = np.flatnonzero(array)
    if not array.size:
        raise ValueError(f"`{name}` has no rows. Expected at least one of the {num_rows}.")
    if array.dtype.kind == "u":
        array = np.minimum(array, INT64_MAX)
    indices: RowIndices = array.astype(np.int64)
    wrong = (indices < -num_rows) | (indices >= num_rows)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise IndexError(
            f"`{name}` is out of range. Expected indices below {num_rows}, the number of rows, received {indices[at]} "
            f"at {name}[{at}]."
        )
    return np.where(indices < 0, indices + num_rows, indices)


def check_options_of_subset(given: Mapping[str, Any], options: Mapping[str, Any], is_cut: bool) -> None:
    """Refuses options of a subset that need data that the dataset does not hold, or no longer holds.

    Args:
        given: The options of the dataset.
        options: The options to change.
        is_cut: Whether the dataset has cut sequences.
    """
    data = next((name for name in options if name not in given), None)
    if data is not None:
        raise TypeError(
            f"`{data}` is not an option of subset(). Received `rows` and `{data}`. The data are those of the rows."
        )
    if "align_labels" in options and options["align_labels"] != given["align_labels"]:
        raise ValueError(
            f"`align_labels` says what the labels are, so a subset cannot change it. Expected {given['align_labels']}, "
            f"received {show(options['align_labels'])}. Make the dataset again."
        )
    if not is_cut:
        return
    maxlen = options.get("maxlen", given["maxlen"])
    if maxlen is None or (isinstance(maxlen, (int, np.integer)) and maxlen > given["maxlen"]):
        raise ValueError(
            f"`maxlen` must be at most {given['maxlen']}, to which the dataset has cut its sequences. Received "
            f"{show(maxlen)}. Make the dataset again."
        )
    truncating = options.get("truncating", given["truncating"])
    if truncating != given["truncating"]:
        raise ValueError(
            f"`truncating` must be {show(given['truncating'])}, by which the dataset has cut its sequences. Received "
            f"{show(truncating)}. Make the dataset again."
        )


def rows_to_hold_out(
    rows: RowIndices, fraction: object, stratify: object, groups: object, shuffle: bool, seed: object, num_given: int
) -> tuple[RowIndices, RowIndices]:
    """Splits rows in two: the remaining and the held-out ones, both in the order of the input.

    Args:
        rows: The rows to split, increasing, `(num_rows,)`.
        fraction: The share to hold out, between 0 and 1.
        stratify: One class for each row of the input, `(num_given,)`, or None.
        groups: One group for each row of the input, `(num_given,)`, or None.
        shuffle: Whether to draw them at random, or to take the last ones.
        seed: The seed of the draw, an int.
        num_given: The number of rows of the input.
    """
    share = _check_fraction(fraction)
    seed = check_integer("seed", seed, minimum=0, maximum=INT64_MAX)
    if stratify is not None and groups is not None:
        raise ValueError(
            "`stratify` and `groups` cannot be combined. Received both. Use scikit-learn's StratifiedGroupKFold, and "
            "pass its rows to subset()."
        )
    num_held = _num_held(len(rows), share)
    if not 0 < num_held < len(rows):
        raise ValueError(
            f"`fraction` leaves one of the two datasets without rows. Received {share} of {len(rows)} rows."
        )
    # The last of these positions are held out. The raw output of a bit generator is the same in every version of NumPy,
    # which its permutations need not be.
    order = np.arange(len(rows))
    if shuffle:
        order = np.argsort(np.random.PCG64(seed).random_raw(len(rows)), kind="stable")
    if groups is not None:
        is_held = _hold_out_groups(_codes_of(groups, num_given, "groups")[rows], order, num_held)
    elif stratify is not None:
        is_held = _hold_out_of_each(_codes_of(stratify, num_given, "stratify")[rows], order, num_held)
    else:
        is_held = np.zeros(len(rows), bool)
        is_held[order[len(rows) - num_held :]] = True
    return rows[~is_held], rows[is_held]


def _check_fraction(fraction: Any) -> float:
    if isinstance(fraction, (bool, np.bool_)) or not isinstance(fraction, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"`fraction` must be a number. Expected a float between 0 and 1, received {show_typed(fraction)}."
        )
    if not 0 < fraction < 1:
        raise ValueError(
            f"`fraction` must be between 0 and 1, the share of the rows to hold out. Received {show(fraction)}."
        )
    return float(fraction)


def _num_held(num_rows: int, share: float) -> int:
    """As `validation_split` (keras/src/trainers/data_adapters/array_slicing.py), without its rounding errors."""
    return num_rows - int(num_rows * (1 - share) + 1e-9)


def _codes_of(values: Any, num_rows: int, name: str) -> Lengths:
    """An int from 0 on for each value, the same for equal ones, in the order of first appearance."""
    array = np.asarray(values)
    if array.ndim != 1 and isinstance(values, (list, tuple)):  # e.g. of tuples
        array = np.empty(len(values), object)
        array[:] = values
    if array.ndim != 1 or len(array) != num_rows:
        raise ValueError(
            f"`{name}` must have one value for each row. Expected shape ({num_rows},), received {array.shape}."
        )
    missing = _is_missing(array)
    if missing.any():
        raise ValueError(
            f"`{name}` must not hold missing entries. Received none at {name}[{int(np.argmax(missing))}]. Fill it, or "
            "leave that row out with subset()."
        )
    try:
        _, first, codes = np.unique(array, return_index=True, return_inverse=True)
    except TypeError:  # values of several types have no order
        known: dict[object, int] = {}
        return np.array([known.setdefault(value, len(known)) for value in array.tolist()])
    ranks: Lengths = np.argsort(np.argsort(first))[codes]
    return ranks


def _is_missing(values: np.ndarray) -> NDArray[np.bool_]:
    if values.dtype.kind in "fmM":
        is_missing: NDArray[np.bool_] = values != values
        return is_missing
    if values.dtype.kind != "O":
        return np.zeros(len(values), bool)
    return np.array([value is None or value != value for value in values.tolist()], bool)


def _hold_out_of_each(classes: Lengths, order: RowIndices, num_held: int) -> NDArray[np.bool_]:
    """The last rows, by `order`, of each class: its share of each, rounded so that all are `num_held`."""
    counts = np.bincount(classes)
    shares = counts * (num_held / len(classes))
    seats = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(seats - shares, kind="stable")
    seats[by_remainder[: num_held - int(seats.sum())]] += 1
    # The rows class by class, in each of them by `order`; how many of the same class come behind each.
    sorted_rows = order[np.argsort(classes[order], kind="stable")]
    behind = np.cumsum(counts)[classes[sorted_rows]] - np.arange(len(classes))
    is_held = np.zeros(len(classes), bool)
    is_held[sorted_rows[behind <= seats[classes[sorted_rows]]]] = True
    return is_held


def _hold_out_groups(groups: Lengths, order: RowIndices, num_held: int) -> NDArray[np.bool_]:
    """Whole groups, the last ones by `order`, with about `num_held` rows: adds each that comes closer to it."""
    counts = np.bincount(groups)
    if len(counts[counts > 0]) < 2:
        raise ValueError("`groups` must name at least two groups, to hold one of them out. Received one.")
    _, last = np.unique(groups[order][::-1], return_index=True)
    held, num_rows = [], 0
    candidates = groups[order][::-1][np.sort(last)].tolist()
    for group in candidates:
        size = int(counts[group])
        is_closer = abs(num_rows + size - num_held) < abs(num_rows - num_held)
        if is_closer and num_rows + size < len(groups):
            held.append(group)
            num_rows += size
    if not held:
        held = [min(candidates, key=lambda group: counts[group])]
    return np.isin(groups, held)
