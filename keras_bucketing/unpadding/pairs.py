"""Two leaves of one padded length whose values tell where they stop: each for itself, or one for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_bucketing.checks import show
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path
from keras_bucketing.unpadding.entries import leaf_name
from keras_bucketing.unpadding.spans import SIDES, Extent, Side, show_mask_value


class Core(NamedTuple):
    """Where the first timestep of each row lies that is not `mask_value`, and where the last one ends.

    The end that is not padded is real where `padding` is known. All but `time` have the shape `(num_rows,)`, as arrays
    or as tensors.
    """

    first: Any
    stop: Any
    is_empty: Any
    has_gaps: Any
    time: Any

    @property
    def lengths(self) -> Lengths:
        """In timesteps; 0 where no timestep is real."""
        lengths: Lengths = self.stop - self.first
        return lengths


def core_of(data: Extent, padding: Side | None) -> Core:
    """The `Core` of rows, by which of their timesteps are not `mask_value`."""
    first = np.zeros_like(data.first) if padding == "post" else data.first
    stop = np.where(data.is_empty, 0, data.time) if padding == "pre" else data.stop
    return Core(first, stop, data.is_empty, data.count < stop - first, data.time)


def count_differences(one: Core, other: Core, count: Callable[[Any], Any]) -> list[Any]:
    """What the rows of two leaves of one padded length show, as `PairOfLeaves.add_counts` takes it.

    `count` says how many entries of a bool array, or tensor, are True.
    """
    found: list[Any] = []
    for mine, its in ((one, other), (other, one)):
        both = ~mine.is_empty & ~its.is_empty
        is_short = {"post": mine.stop < its.stop, "pre": mine.first > its.first}
        is_padded = {"post": mine.stop < mine.time, "pre": mine.first > 0}
        found.append(count((is_short["post"] | is_short["pre"]) & ~its.is_empty))
        found += [count(is_short[side] & both) for side in SIDES]
        found += [count(is_padded[side] & ~mine.is_empty) for side in SIDES]
        found += [count(mine.has_gaps), count(mine.is_empty & ~its.is_empty)]
    return found


NUM_COUNTS = 14  # of `count_differences`


class _Leaf:
    """In how many rows a leaf is short of the other one, at either end; is padded; holds `mask_value`; is empty."""

    def __init__(self, counts: list[int]):
        self.num_short = counts[0]
        self.short_at = dict(zip(SIDES, counts[1:3], strict=True))
        self.padded_at = dict(zip(SIDES, counts[3:5], strict=True))
        self.num_with_gaps, self.num_empty = counts[5:]


class PairOfLeaves:
    """What all rows show of two leaves, and whether one of them tells where both stop.

    Where each reaches beyond the other in some row, each shows its own padding, as a source and its translation. Where
    one never does, it may be padded on its own or like the other one, with `mask_value` among its data, as segment ids
    beside token ids. It is padded like the other if it holds `mask_value` inside of rows, and where whole rows of the
    other are real; on its own if it does neither. Anything in between is asked for.

    Attributes:
        one: The path of a leaf.
        other: That of the other.
    """

    def __init__(self, one: Path, other: Path):
        self.one, self.other = one, other
        self._counts = [0] * NUM_COUNTS
        self._unlike_times = False
        self._used: str | None = None  # "own" or "alike", where it made a difference
        self._example = ""

    def add(self, one: Core, other: Core, first_row: int) -> None:
        """Takes some rows, those from `first_row` on."""
        if one.time != other.time:
            self._unlike_times = True
            return
        self.add_counts([int(count) for count in count_differences(one, other, np.count_nonzero)])
        cores = {self.one: one, self.other: other}
        for path, rival in ((self.one, self.other), (self.other, self.one)):
            is_short = (cores[path].lengths < cores[rival].lengths) & ~cores[rival].is_empty
            if is_short.any() and not self._example:
                row = int(np.argmax(is_short))
                at = first_row + row
                self._example = (
                    f" Received {cores[path].lengths[row]} timesteps of data at {leaf_name(path)}[{at}], but "
                    f"{cores[rival].lengths[row]} at {leaf_name(rival)}[{at}]."
                )

    def add_counts(self, counts: list[int], unlike_times: bool = False) -> None:
        """Takes what `count_differences` says of some rows, and whether batches pad the leaves to unlike lengths."""
        self._counts = [sum(both) for both in zip(self._counts, counts, strict=True)]
        self._unlike_times |= unlike_times

    def decide(self, mask_value: Any) -> tuple[Path, Path] | None:
        """The leaf that tells for both, and the other one; None where each is padded on its own.

        Raises:
            ValueError: If both fit, or rows before were read otherwise.
        """
        leaves = {
            self.one: _Leaf(self._counts[: NUM_COUNTS // 2]),
            self.other: _Leaf(self._counts[NUM_COUNTS // 2 :]),
        }
        num_short = [leaf.num_short for leaf in leaves.values()]
        if not any(num_short) and not self._unlike_times:
            return None
        longer, shorter = (self.other, self.one) if num_short[0] else (self.one, self.other)
        is_certain = self._unlike_times or all(num_short)
        reading = "own" if is_certain else _reading(leaves[longer], leaves[shorter])
        if reading == "ask" or self._used not in (None, reading):
            keys = list(dict.fromkeys(path[1] for path in (longer, shorter) if len(path) > 1))
            raise ValueError(
                f"`lengths` must be given, since `mask_value` does not show those of `{leaf_name(shorter)}` or of "
                f"`{leaf_name(longer)}`, by mask_value={show_mask_value(mask_value)}.{self._example} Pass lengths or a "
                "mask, one for all entries or a dict of them; or add an entry "
                f"{show(str(shorter[-1]) + '_lengths')}, or a mask, to `x`; or name both, sequences={show(keys)}, if "
                "each ends where its own padding begins."
            )
        self._used = reading
        return (longer, shorter) if reading == "alike" else None


def _reading(longer: _Leaf, shorter: _Leaf) -> str:
    if not any(longer.padded_at.values()):
        return "ask"
    holds_mask_value = bool(shorter.num_with_gaps) or all(shorter.short_at.values())
    holds_mask_value |= any(shorter.short_at[side] and not longer.padded_at[side] for side in SIDES)
    if holds_mask_value != bool(shorter.num_empty):
        return "ask"
    return "alike" if holds_mask_value else "own"


def owners_of(paths: Sequence[Path], pairs: Sequence[PairOfLeaves], mask_value: Any) -> dict[Path, Path]:
    """For each leaf the one that tells where it stops: itself, or the longest of those that are padded alike."""
    alike = [found for pair in pairs if (found := pair.decide(mask_value)) is not None]
    longer_of = {shorter: longer for longer, shorter in alike}
    owners: dict[Path, Path] = {}
    for path in paths:
        owner = path
        while owner in longer_of:
            owner = longer_of[owner]
        owners[path] = owner
    return owners
