"""Where each row of a padded array stops: by its length, by a mask, or by its values.

NumPy only; `graph.py` says the same of tensors. An array may be as large as memory allows twice: it is looked at, and
copied, block by block, in rows and in timesteps, so that nothing of its size is ever made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import can_hold, check_number, show, show_typed
from keras_bucketing.data.row_splits import Lengths

Side = str  # the end that is padded, one of SIDES
SIDES = ("post", "pre")
Mask = NDArray[np.bool_]  # `(num_rows, time)`, True on real timesteps
Runs = dict[Side, Lengths]  # by the end that is padded, the timesteps of padding in each row
MaskValue = float | NDArray[Any]  # what each feature of padding holds, or an array of the shape of a timestep


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
        return self.is_real_in(slice(None), slice(0, self.time))

    def is_real_in(self, rows: slice, steps: slice) -> Mask:
        """Whether each timestep of a part is real, `(num_rows, num_steps)`."""
        numbers = np.arange(steps.start, min(steps.stop, self.time))
        is_real: Mask = numbers >= self.start[rows, np.newaxis]
        is_real &= numbers < self.stop[rows, np.newaxis]
        return is_real

    def is_like(self, other: Span) -> bool:
        """Whether the same timesteps are real."""
        is_same = (self.start == other.start) | (self.lengths == 0)
        return self.time == other.time and np.array_equal(self.lengths, other.lengths) and bool(is_same.all())

    def leaves_a_constant(self, array: np.ndarray) -> bool:
        """Whether a padded array holds nothing but one value where this span says that padding is."""
        padding = OneTimestep()
        padding.add_parts(padding_of(array, self))
        return padding.is_constant


BLOCK_BYTES = 1 << 22  # of an array that are looked at, or copied, at once


def blocks_of(array: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Rows and timesteps of an array `(num_rows, time, *features)`, in its order: whole rows, or parts of a single one.

    Example:
        >>> list(blocks_of(np.zeros((2, 3))))
        [(slice(0, 2, None), slice(0, 3, None))]
    """
    num_rows, time = array.shape[:2]
    if not num_rows or not time:
        return
    width = max(array[:1, :1].nbytes, 1)
    rows_at_once = min(max(BLOCK_BYTES // (width * time), 1), num_rows)
    steps_at_once = min(max(BLOCK_BYTES // width, 1), time)
    for row in range(0, num_rows, rows_at_once):
        for step in range(0, time, steps_at_once):
            yield slice(row, row + rows_at_once), slice(step, step + steps_at_once)


def real_timesteps(array: np.ndarray, span: Span) -> Iterator[np.ndarray]:
    """The real timesteps of rows `(num_rows, time, *features)`, some at a time: `(num_timesteps, *features)`."""
    for rows, steps in blocks_of(array):
        yield array[rows, steps][span.is_real_in(rows, steps)]


def padding_of(array: np.ndarray, span: Span) -> Iterator[np.ndarray]:
    """The other timesteps of these rows, some at a time."""
    for rows, steps in blocks_of(array):
        yield array[rows, steps][~span.is_real_in(rows, steps)]


@dataclass(frozen=True)
class Extent:
    """Which timesteps of each row fulfill a condition: the first one, one after the last, and how many.

    All have the shape `(num_rows,)`, and are 0 where no timestep does; `time` is the padded length.
    """

    first: Lengths
    stop: Lengths
    count: Lengths
    time: int

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """Whether no timestep of a row does."""
        is_empty: NDArray[np.bool_] = self.count == 0
        return is_empty

    @property
    def has_gaps(self) -> NDArray[np.bool_]:
        """Whether some timesteps between the first and the last do not."""
        has_gaps: NDArray[np.bool_] = self.count < self.stop - self.first
        return has_gaps

    @property
    def runs(self) -> Runs:
        """How many timesteps come behind the last one of each row, and before the first; all, if there is none."""
        behind, before = self.time - self.stop, self.first
        return {"post": behind, "pre": np.where(self.is_empty, self.time, before)}


def extent_of(array: np.ndarray, holds: Callable[[np.ndarray], Mask]) -> Extent:
    """Which timesteps of rows `(num_rows, time, *features)` fulfill a condition, which is asked of blocks of them.

    Example:
        >>> extent = extent_of(np.array([[0, 1, 0, 2, 0]]), lambda block: block > 0)
        >>> extent.first.tolist(), extent.stop.tolist(), extent.count.tolist()
        ([1], [4], [2])
    """
    first, stop, count = (np.zeros(len(array), np.int64) for _ in range(3))
    for rows, steps in blocks_of(array):
        found = holds(array[rows, steps])
        number = np.count_nonzero(found, axis=1)
        begin = steps.start + np.argmax(found, axis=1)
        end = steps.start + found.shape[1] - np.argmax(found[:, ::-1], axis=1)
        first[rows] = np.where((number > 0) & (count[rows] == 0), begin, first[rows])
        stop[rows] = np.where(number > 0, end, stop[rows])
        count[rows] += number
    return Extent(first, stop, count, array.shape[1])


def is_binary(array: np.ndarray) -> bool:
    """Whether an array of two axes holds nothing but 0 and 1."""
    return all(bool(((array[block] == 0) | (array[block] == 1)).all()) for block in blocks_of(array))


def are_equal_masks(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks of one shape are True, or not 0, at the same timesteps."""
    return all(np.array_equal(one[block] != 0, other[block] != 0) for block in blocks_of(one))


def span_of_lengths(lengths: Lengths, time: int, side: Side) -> Span:
    """Rows of known lengths that are padded at one end.

    Example:
        >>> span_of_lengths(np.array([1, 2]), 3, "pre").is_real.tolist()
        [[False, False, True], [False, True, True]]
    """
    none = np.zeros_like(lengths)
    return Span(none, lengths, time) if side == "post" else Span(time - lengths, none + time, time)


def lengths_of_mask(mask: np.ndarray, label: str, first_row: int = 0) -> tuple[Lengths, Side | None]:
    """The lengths in a mask of one run of True, or 1, at the same end of every row; the other end, which is padded.

    Example:
        >>> lengths_of_mask(np.array([[True, False], [True, True]]), "lengths")
        (array([1, 2]), 'post')
    """
    extent = extent_of(mask, lambda block: block != 0)
    fits = {
        side: ~extent.has_gaps & (extent.is_empty | (extent.runs[end] == 0))
        for side, end in zip(SIDES, SIDES[::-1], strict=True)
    }
    wrong = ~(fits["post"] | fits["pre"])
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"`{label}` must be True in one run at the beginning or at the end of each row. Received a mask with gaps, "
            f"or with padding at both ends, at {label}[{first_row + at}]: {show(mask[at].astype(int).tolist())}. Take "
            "out the timesteps that are not real, and pass the sequences as a list to BucketedSequence itself; rename "
            "an entry that is data."
        )
    only = {"post": fits["post"] & ~fits["pre"], "pre": fits["pre"] & ~fits["post"]}
    if only["post"].any() and only["pre"].any():
        raise masks_of_both_sides(label, *(first_row + int(np.argmax(only[side])) for side in SIDES))
    return extent.count, next((side for side, rows in only.items() if rows.any()), None)


def masks_of_both_sides(label: str, ends: int, begins: int) -> ValueError:
    """The error where a mask has the padding of some rows at their end and that of others at their beginning."""
    return ValueError(
        f"`{label}` must have the padding of all rows at the same end. Received padding at the end of row {ends} and "
        f"at the beginning of row {begins}. Take the padding out yourself, and pass the sequences as a list to "
        "BucketedSequence itself."
    )


def runs_at_both_ends(array: np.ndarray, mask_value: MaskValue) -> Runs:
    """How many timesteps hold nothing but `mask_value` at the end and at the beginning of each row `(time, *features)`.

    Example:
        >>> runs_at_both_ends(np.array([[0, 1, 0, 0], [0, 0, 0, 0]]), 0)
        {'post': array([2, 4]), 'pre': array([1, 4])}
    """
    return extent_of_data(array, mask_value).runs


def extent_of_data(array: np.ndarray, mask_value: MaskValue) -> Extent:
    """Which timesteps of rows `(num_rows, time, *features)` hold something else than `mask_value`."""
    return extent_of(array, lambda block: ~is_padding(block, mask_value))


def check_mask_value(value: object) -> MaskValue:
    """Returns what padding holds: a number, or an array of numbers of the shape of a timestep."""
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value.item()
    if not isinstance(value, (list, tuple, np.ndarray)):
        return check_number("mask_value", value)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.zeros(0, object)
    if array.dtype.kind not in "biuf" or not array.size:
        raise TypeError(
            "`mask_value` must be a number, or numbers of the shape of a timestep. Expected e.g. 0 or [0, 0, 1], "
            f"received {show_typed(value)}."
        )
    return array


def check_holds(mask_value: Any, dtype: np.dtype[Any], features: tuple[int | None, ...], name: str = "") -> None:
    """Refuses a `mask_value` that no timestep of a leaf can equal, for its dtype or for its features.

    Raises:
        ValueError: If the padding of the leaf cannot hold it.
    """
    where = f" as in `{name}`" if name else ""
    if isinstance(mask_value, np.ndarray):
        fits = len(features) == mask_value.ndim and all(
            size in (None, expected) for size, expected in zip(features, mask_value.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"`mask_value` must be a number, or have the shape of a timestep. Expected {features}{where}, "
                f"received {mask_value.shape}. Pass a number, or lengths."
            )
    # Any NaN and any size of a float is taken: half precision holds what it holds of it.
    numbers = np.ravel(mask_value).tolist() if isinstance(mask_value, np.ndarray) else [mask_value]
    if dtype.kind != "f" and not all(can_hold(dtype, number) for number in numbers):
        raise ValueError(
            f"`mask_value` must be a value that padding can hold. Expected one of dtype {dtype}{where}, "
            f"received {show_mask_value(mask_value)}."
        )


def show_mask_value(mask_value: Any) -> str:
    """What padding holds, as a message writes it."""
    return show(mask_value.tolist() if isinstance(mask_value, np.ndarray) else mask_value)


def is_padding(array: np.ndarray, mask_value: MaskValue) -> Mask:
    """Whether every feature of a timestep equals `mask_value`, where NaN equals NaN, `(num_rows, time)`."""
    equal: Any
    if isinstance(mask_value, np.ndarray):
        equal = equals(array, mask_value.astype(array.dtype) if array.dtype.kind == "f" else mask_value)
    else:
        equal = np.isnan(array) if mask_value != mask_value else array == mask_value
    padding: Mask = equal.all(axis=tuple(range(2, array.ndim)))
    return padding


def equals(left: np.ndarray, right: np.ndarray) -> NDArray[np.bool_]:
    """Where two arrays are equal, NaN being equal to NaN."""
    equal: Any = left == right
    if left.dtype.kind == "f":
        np.logical_or(equal, (left != left) & (right != right), out=equal)
    return np.asarray(equal)


def is_constant(timesteps: np.ndarray) -> bool:
    """Whether all timesteps `(num_timesteps, *features)`, at least one, are the same; NaN is NaN."""
    return bool(equals(timesteps, timesteps[0]).all())


class OneTimestep:
    """Whether all timesteps that were seen are one and the same.

    Attributes:
        value: Array `features`, the first timestep; None before there was one.
        is_constant: Whether all others equal it, NaN being equal to NaN.
    """

    def __init__(self) -> None:
        self.value: np.ndarray | None = None
        self.is_constant = True

    def add(self, timesteps: np.ndarray) -> None:
        """Takes timesteps `(num_timesteps, *features)`."""
        if not len(timesteps):
            return
        if self.value is None:
            self.value = timesteps[0].copy()
        if self.is_constant:
            self.is_constant = bool(equals(timesteps, self.value).all())

    def add_parts(self, parts: Iterable[np.ndarray]) -> None:
        """Takes timesteps, some at a time, until one differs."""
        for timesteps in parts:
            if not self.is_constant:
                return
            self.add(timesteps)
