"""Which end of padded rows is the padded one: by masks, by runs of `mask_value`, or by what lengths leave over.

Rows may come all at once or batch by batch: what they show is added up, and the answer is one for all that was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_bucketing.checks import UnclearError, show
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.unpadding.spans import (
    SIDES,
    MaskValue,
    OneTimestep,
    Runs,
    Side,
    blocks_of,
    equals,
    is_padding,
    masks_of_both_sides,
    padding_of,
    show_mask_value,
    span_of_lengths,
)

_WHICH_END = "padding='post' or padding='pre', the end that is padded"


class SideOfMask:
    """The end at which a mask has its padding, in all rows that were seen.

    Args:
        label: What messages call the mask.
        padding: The end that the caller has named, or None.
    """

    def __init__(self, label: str, padding: Side | None):
        self._label, self._padding = label, padding
        self._side: Side | None = None
        self._seen_at = 0

    def add(self, side: Side | None, first_row: int) -> Side:
        """Takes the side of some more rows, None where these are not padded, and returns that of all.

        Raises:
            ValueError: If it is not that of the rows before, or not the end that the caller has named.
        """
        if side is not None and self._padding not in (None, side):
            raise ValueError(
                f"`padding` must be the end that is padded. Expected {show(side)}, as the mask `{self._label}` has it, "
                f"received {show(self._padding)}. Leave it out."
            )
        if side is not None and self._side not in (None, side):
            rows = {self._side: self._seen_at, side: first_row}
            raise masks_of_both_sides(self._label, rows["post"], rows["pre"])
        if self._side is None and side is not None:
            self._side, self._seen_at = side, first_row
        return self._side or self._padding or "post"


class SideOfRuns:
    """The padded end of a leaf, by the rows that end or begin in a run of `mask_value`.

    A row that begins in it and one that ends in it fit padding at either end, with data that hold `mask_value`: so all
    rows must agree. Rows of nothing but `mask_value` say nothing.

    Args:
        name: What messages call the leaf.
        mask_value: What padding holds.
        padding: The end that the caller has named, or None.
    """

    def __init__(self, name: str, mask_value: Any, padding: Side | None):
        self._name, self._mask_value, self._padding = name, mask_value, padding
        self._rows = dict.fromkeys(SIDES, 0)
        self._timesteps = dict.fromkeys(SIDES, 0)
        self._first = dict.fromkeys(SIDES, 0)

    def add(self, runs: Runs, time: int, first_row: int = 0) -> None:
        """Takes the runs of some rows, those from `first_row` on."""
        for side, run in runs.items():
            has_run = (run > 0) & (run < time)
            count = int(np.count_nonzero(has_run))
            if count and not self._rows[side]:
                self._first[side] = first_row + int(np.argmax(has_run))
            self._rows[side] += count
            self._timesteps[side] += int(run[has_run].sum())

    def add_counts(self, rows: Mapping[Side, int], timesteps: Mapping[Side, int]) -> None:
        """Takes how many rows have a run at either end, and how long these are together."""
        for side in SIDES:
            self._rows[side] += rows[side]
            self._timesteps[side] += timesteps[side]

    @property
    def is_unclear(self) -> bool:
        """Whether both ends show runs, and the caller has named neither."""
        return self._padding is None and all(self._rows.values())

    def decide(self) -> Side:
        """The padded end; "post" where nothing is padded, and either will do.

        Raises:
            ValueError: If both ends look padded.
        """
        if self._padding is not None:
            return self._padding
        if not self.is_unclear:
            return "pre" if self._rows["pre"] else "post"
        rows, timesteps, first = self._rows, self._timesteps, self._first
        raise UnclearError(
            f"`padding` must be given, since `{self._name}` may be padded at either end. Received {rows['post']} rows "
            f"that end in mask_value={show_mask_value(self._mask_value)} ({timesteps['post']} timesteps, first in row "
            f"{first['post']}) and {rows['pre']} that begin with it ({timesteps['pre']} timesteps, first in row "
            f'{first["pre"]}). Pass padding="post" if the ends are padding, padding="pre" if the beginnings are, '
            "`mask_value` if padding holds another value, or the lengths.",
            "padding",
            _WHICH_END,
        )


class SideOfLengths:
    """The padded end of leaves whose lengths are known: the one where all that they leave over is padding.

    Padding is `mask_value`, or, where neither end has nothing else, one and the same timestep in all rows.

    Args:
        padding: The end that the caller has named, or None.
        mask_value: What padding holds.
    """

    def __init__(self, padding: Side | None, mask_value: MaskValue):
        self._padding, self._mask_value = padding, mask_value
        self._is_masked = dict.fromkeys(SIDES, True)
        self._rest: dict[tuple[Side, str], OneTimestep] = {}
        self._used: Side | None = None  # where it made a difference

    def add(self, name: str, array: np.ndarray, lengths: Lengths) -> None:
        """Takes some rows of a leaf `(num_rows, time, *features)`, and their lengths, at most `time`."""
        if self._padding is not None:
            return
        for side in SIDES:
            span = span_of_lengths(lengths, array.shape[1], side)
            self._rest.setdefault((side, name), OneTimestep()).add_parts(padding_of(array, span))
            if self._is_masked[side]:
                parts = padding_of(array, span)
                self._is_masked[side] = all(_holds(rest, self._mask_value) for rest in parts if len(rest))

    def decide(self, name: str, array: np.ndarray, lengths: Lengths) -> Side:
        """The padded end, of rows that were added before.

        Raises:
            ValueError: If both ends fit, or none, and it makes a difference; if it is another one than that of rows
                before.
        """
        if self._padding is not None:
            return self._padding
        if _holds_the_same(array, lengths):
            return "post"
        masked = [side for side in SIDES if self._is_masked[side]]
        fits = masked or [
            side for side in SIDES if all(self._rest[at].is_constant for at in self._rest if at[0] == side)
        ]
        if len(fits) == 1 and self._used in (None, fits[0]):
            self._used = fits[0]
            return fits[0]
        mask_value = show_mask_value(self._mask_value)
        if len(fits) == 1:
            received = f"rows that are padded at one end before rows that are padded at the other, by {mask_value=!s}"
        elif fits:
            received = "padding at both ends"
        else:
            received = f"something other than mask_value={mask_value} at both ends"
        raise UnclearError(
            f"`padding` must be given: the lengths leave it open at which end `{name}` is padded. Received {received}. "
            'Pass padding="post" if the ends are padding, or padding="pre" if the beginnings are.',
            "padding",
            _WHICH_END,
        )


def _holds_the_same(array: np.ndarray, lengths: Lengths) -> bool:
    """Whether each row begins with the timesteps that it ends with, as many as its length says."""
    one, other = (span_of_lengths(lengths, array.shape[1], side) for side in SIDES)
    for rows, steps in blocks_of(array):
        if steps.stop < array.shape[1] or steps.start:  # a part of a single row, of which the other end lies elsewhere
            (length,) = lengths[rows].tolist()
            begin, stop = min(steps.start, length), min(steps.stop, length)
            shift = array.shape[1] - length
            pair = array[rows, begin:stop], array[rows, begin + shift : stop + shift]
        else:
            pair = array[rows][one.is_real_in(rows, steps)], array[rows][other.is_real_in(rows, steps)]
        if not equals(*pair).all():
            return False
    return True


def _holds(timesteps: np.ndarray, mask_value: MaskValue) -> bool:
    """Whether all timesteps `(num_timesteps, *features)` are padding, as far as they can be."""
    if isinstance(mask_value, np.ndarray) and mask_value.shape != timesteps.shape[1:]:
        return False
    return bool(is_padding(timesteps[np.newaxis], mask_value).all())
