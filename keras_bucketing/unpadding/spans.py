"""Where each row of a padded array stops: by its length, by a mask, or by its values; and which end is padded.

NumPy only; `graph.py` says the same of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import show
from keras_bucketing.data.row_splits import Lengths

Side = str  # the end that is padded, one of SIDES
SIDES = ("post", "pre")
Mask = NDArray[np.bool_]  # `(num_rows, time)`, True on real timesteps
Runs = dict[Side, Lengths]  # by the end that is padded, the timesteps of padding in each row


@dataclass(frozen=True)
class Span:
    """Which timesteps of a padded array are real: `start <= timestep < stop` in each row.

    Both have the shape `(num_rows,)`; `time` is the padded length.
    """

    start: Lengths
    stop: Lengths
    time: int

    @property
    def lengths(self) -> Lengths:
        """The real timesteps of each row, `(num_rows,)`."""
        return self.stop - self.start

    @property
    def is_real(self) -> Mask:
        """Whether each timestep is real, `(num_rows, time)`."""
        steps = np.arange(self.time)
        is_real: Mask = (steps >= self.start[:, np.newaxis]) & (steps < self.stop[:, np.newaxis])
        return is_real

    def leaves_a_constant(self, array: np.ndarray) -> bool:
        """Whether a padded array holds nothing but one value where this span says that padding is."""
        padding = array[~self.is_real]
        return not len(padding) or is_constant(padding)


def span_of_lengths(lengths: Lengths, time: int, side: Side) -> Span:
    """Rows of known lengths that are padded at one end.

    Example:
        >>> span_of_lengths(np.array([1, 2]), 3, "pre").is_real.tolist()
        [[False, False, True], [False, True, True]]
    """
    none = np.zeros_like(lengths)
    return Span(none, lengths, time) if side == "post" else Span(time - lengths, none + time, time)


def lengths_of_mask(mask: Mask, label: str) -> tuple[Lengths, Side | None]:
    """The lengths in a mask of one run of True at the same end of every row, and the other end, which is padded.

    Example:
        >>> lengths_of_mask(np.array([[True, False], [True, True]]), "lengths")
        (array([1, 2]), 'post')
    """
    lengths = mask.sum(axis=1, dtype=np.int64)
    fits = {side: (mask == span_of_lengths(lengths, mask.shape[1], side).is_real).all(axis=1) for side in SIDES}
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


def runs_at_both_ends(array: np.ndarray, mask_value: float) -> Runs:
    """How many timesteps hold nothing but `mask_value` at the end and at the beginning of each row `(time, *features)`.

    Example:
        >>> runs_at_both_ends(np.array([[0, 1, 0, 0], [0, 0, 0, 0]]), 0)
        {'post': array([2, 4]), 'pre': array([1, 4])}
    """
    return runs_outside_of(~is_padding(array, mask_value))


def runs_outside_of(is_real: Mask) -> Runs:
    """How many timesteps come behind the last real one of each row, and before the first; all, if none is real.

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


def is_padding(array: np.ndarray, mask_value: float) -> Mask:
    """Whether every feature of a timestep equals `mask_value`, which may be NaN, `(num_rows, time)`."""
    equal = np.isnan(array) if mask_value != mask_value else array == mask_value
    padding: Mask = equal.all(axis=tuple(range(2, array.ndim)))
    return padding


def is_constant(timesteps: np.ndarray) -> bool:
    """Whether all timesteps `(num_timesteps, *features)`, at least one, are the same; NaN is NaN."""
    first = timesteps[0]
    return bool(((timesteps == first) | ((timesteps != timesteps) & (first != first))).all())


def side_of_runs(runs: Runs, time: int, mask_value: float, name: str) -> Side:
    """The padded end: where more rows, and no fewer timesteps in all, hold `mask_value`.

    Rows of nothing but `mask_value` say nothing. Where no row has a run, nothing is padded and either side will do.

    Raises:
        ValueError: If both ends look padded and it is not certain which one is.
    """
    partial = {side: run[(run > 0) & (run < time)] for side, run in runs.items()}
    rows = {side: len(run) for side, run in partial.items()}
    steps = {side: int(run.sum()) for side, run in partial.items()}
    for side, other in (SIDES, SIDES[::-1]):
        if rows[side] > rows[other] and steps[side] >= steps[other]:
            return side
    if not any(rows.values()):
        return "post"
    raise ValueError(
        f"`padding` must be given, since `{name}` may be padded at either end. Received {rows['post']} rows that end "
        f"in mask_value={show(mask_value)} ({steps['post']} timesteps) and {rows['pre']} that begin with it "
        f'({steps["pre"]} timesteps). Pass padding="post" if the ends are padding, padding="pre" if the '
        "beginnings are, or `lengths`."
    )


def side_of_lengths(array: np.ndarray, lengths: Lengths, mask_value: float, name: str) -> Side:
    """The padded end of an array whose lengths are known: where all that they leave over is padding.

    Padding is `mask_value`, or, where neither end has nothing else, one and the same timestep in all rows.

    Raises:
        ValueError: If both ends fit, or none, and it makes a difference.
    """
    real = {side: span_of_lengths(lengths, array.shape[1], side).is_real for side in SIDES}
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
        f"{'padding' if fits else f'something other than mask_value={show(mask_value)}'} at both ends. Pass "
        'padding="post" if the ends are padding, or padding="pre" if the beginnings are.'
    )
