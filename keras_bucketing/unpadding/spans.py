"""The end at which an array is padded, and how much of each row is padding. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np


def real_timesteps(lengths: np.ndarray, time: int, side: str) -> np.ndarray:
    """Bool array `(num_rows, time)`: whether a timestep is real.

    Args:
        lengths: Int array `(num_rows,)`, in timesteps.
        time: Int, the padded length.
        side: "post" or "pre", the end that is padded.

    Example:
        >>> real_timesteps(np.array([1, 2]), 3, "pre").tolist()
        [[False, False, True], [False, True, True]]
    """
    from_real_end = np.arange(time) if side == "post" else np.arange(time)[::-1]
    is_real: np.ndarray = from_real_end < lengths[:, np.newaxis]
    return is_real


def runs_at_both_ends(array: np.ndarray, mask_value: Any) -> dict[str, np.ndarray]:
    """How many timesteps in a row hold nothing but `mask_value`, at the end and at the beginning of each row.

    Args:
        array: Array `(num_rows, time, *features)`.
        mask_value: Number, NaN too.

    Returns:
        Int64 arrays `(num_rows,)` by the side that they would pad, "post" and "pre".

    Example:
        >>> runs_at_both_ends(np.array([[0, 1, 0, 0], [0, 0, 0, 0]]), 0)
        {'post': array([2, 4]), 'pre': array([1, 4])}
    """
    return runs_outside_of(~is_padding(array, mask_value))


def runs_outside_of(is_real: np.ndarray) -> dict[str, np.ndarray]:
    """How many timesteps come behind the last real one of each row, and before the first; all, if none is real.

    Args:
        is_real: Bool array `(num_rows, time)`.

    Returns:
        Int64 arrays `(num_rows,)` by the side that is padded, "post" and "pre".

    Example:
        >>> runs_outside_of(np.array([[False, True, False, False]]))
        {'post': array([2]), 'pre': array([1])}
    """
    num_rows, time = is_real.shape
    if not time:
        return {"post": np.zeros(num_rows, np.int64), "pre": np.zeros(num_rows, np.int64)}
    is_empty = ~is_real.any(axis=1)
    runs = {"post": np.argmax(is_real[:, ::-1], axis=1), "pre": np.argmax(is_real, axis=1)}
    return {side: np.where(is_empty, time, run).astype(np.int64) for side, run in runs.items()}


def is_padding(array: np.ndarray, mask_value: Any) -> np.ndarray:
    """Bool array `(num_rows, time)`: whether every feature of a timestep equals `mask_value`."""
    equal = np.isnan(array) if mask_value != mask_value else array == mask_value
    padding: np.ndarray = equal.all(axis=tuple(range(2, array.ndim)))
    return padding


def is_constant(timesteps: np.ndarray) -> bool:
    """Whether all timesteps `(num_timesteps, *features)`, at least one, are the same; NaN is NaN."""
    first = timesteps[0]
    return bool(((timesteps == first) | ((timesteps != timesteps) & (first != first))).all())


def side_of_runs(runs: dict[str, np.ndarray], time: int, mask_value: Any, name: str) -> str:
    """The padded end: where more rows, and no fewer timesteps in all, hold `mask_value`.

    Rows of nothing but `mask_value` say nothing. Where no row has a run, nothing is padded and either side will do.

    Args:
        runs: What `runs_at_both_ends` returned.
        time: Int, the padded length.
        mask_value: Number, for the error message.
        name: What to call the array in an error message.

    Raises:
        ValueError: If both ends look padded and it is not certain which one is.
    """
    partial = {side: run[(run > 0) & (run < time)] for side, run in runs.items()}
    rows = {side: len(run) for side, run in partial.items()}
    steps = {side: int(run.sum()) for side, run in partial.items()}
    for side, other in (("post", "pre"), ("pre", "post")):
        if rows[side] > rows[other] and steps[side] >= steps[other]:
            return side
    if not any(rows.values()):
        return "post"
    raise ValueError(
        f"`padding` must be given, since `{name}` may be padded at either end. Received {rows['post']} rows that end "
        f"in mask_value={mask_value!r} ({steps['post']} timesteps) and {rows['pre']} that begin with it "
        f'({steps["pre"]} timesteps). Pass padding="post" if the ends are padding, padding="pre" if the '
        "beginnings are, or `lengths`."
    )


def side_of_lengths(array: np.ndarray, lengths: np.ndarray, mask_value: Any, name: str) -> str:
    """The padded end of an array whose lengths are known: where all that they leave over is padding.

    Padding is `mask_value`, or, where neither end has nothing else, one and the same timestep in all rows.

    Raises:
        ValueError: If both ends fit, or none, and it makes a difference.
    """
    real = {side: real_timesteps(lengths, array.shape[1], side) for side in ("post", "pre")}
    if real["post"].all() or not real["post"].any():
        return "post"
    rest = {side: array[~is_real] for side, is_real in real.items()}
    for fits in (
        [side for side, values in rest.items() if is_padding(values[np.newaxis], mask_value).all()],
        [side for side, values in rest.items() if (values == values[0]).all()],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            break
    if np.array_equal(array[real["post"]], array[real["pre"]], equal_nan=array.dtype.kind == "f"):
        return "post"
    raise ValueError(
        f"`padding` must be given: the lengths leave it open at which end `{name}` is padded. Received "
        f"{'padding at both ends' if fits else f'something other than mask_value={mask_value!r} at both ends'}. Pass "
        'padding="post" if the ends are padding, or padding="pre" if the beginnings are.'
    )
