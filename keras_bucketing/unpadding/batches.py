"""Padded batches, one after the other, back to the timesteps that are real; a whole array is one batch.

What tells the lengths is trusted in this order: the argument `lengths`, a mask, lengths, values. Where only values do,
and where lengths leave the padded end open, what all batches show is added up: what is read under a guess that a later
batch contradicts raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path
from keras_bucketing.unpadding.entries import (
    EntryTable,
    GivenLengths,
    check_shared_masks,
    leaf_name,
    read_lengths,
    unclear_longest,
    unclear_rivals,
)
from keras_bucketing.unpadding.pairs import PairOfLeaves, core_of, owners_of
from keras_bucketing.unpadding.sides import SideOfLengths, SideOfMask, SideOfRuns
from keras_bucketing.unpadding.spans import (
    Extent,
    MaskValue,
    OneTimestep,
    Side,
    Span,
    are_equal_masks,
    check_holds,
    extent_of_data,
    is_binary,
    lengths_of_mask,
    padding_of,
    show_mask_value,
    span_of_lengths,
)
from keras_bucketing.unpadding.unnoticed import RowSample, UnderMask

HostLeaf = Any  # an array, a list of rows or a `tf.RaggedTensor`
Batch = dict[Path, HostLeaf]  # by the path in an element, which begins with "x", "y" or "sample_weight"
Spans = dict[Path, Span]  # of the padded leaves of `x`


@dataclass(frozen=True)
class BatchOptions:
    """The caller's options about the elements; None if they are to be found.

    Attributes:
        batched: Whether an element is a batch.
        mask_value: The value of padding: a number, or an array of the shape of a timestep.
        padding: "post" or "pre", the end that is padded.
        timestep_labels: Whether labels with an axis of their own hold one label per timestep.
        labels_align: Whether labels per timestep are as long as the sequences.
        label_mask_value: The padding value of labels of their own length, as `mask_value`.
        sequences: The keys of the entries of `x` that are sequences.
    """

    batched: bool | None = None
    mask_value: MaskValue = 0
    padding: Side | None = None
    timestep_labels: bool | None = None
    labels_align: bool = True
    label_mask_value: MaskValue = 0
    sequences: tuple[str | int, ...] | None = None


@dataclass(frozen=True)
class _Told:
    """The lengths of some rows of a leaf from an entry or an argument; `side` is None if that is open."""

    label: str
    lengths: Lengths
    is_mask: bool
    side: Side | None = None


def fitting_table(table: EntryTable, batches: Sequence[Batch]) -> EntryTable:
    """The table without masks whose padded length differs from their leaf's, or that hold other values than 0 and 1."""
    wrong = [
        path
        for path, mask in table.masks.items()
        if any(np.shape(batch[path])[:2] != np.shape(batch[mask]) or not is_binary(batch[mask]) for batch in batches)
    ]
    return table.without_masks_of(wrong)


class Unpadder:
    """Finds the real timesteps of padded leaves of `x`.

    Args:
        paths: The padded leaves.
        table: The entries with their lengths.
        mask_value: The value of padding, for leaves without such entries.
        padding: The end that is padded, or None.
        maxlen: The length to which rows were cut, if the caller says so.
        given: The argument `lengths`, by leaf.
        is_named: Whether the caller has named the sequences, so that each shows its own padding.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        table: EntryTable,
        mask_value: MaskValue,
        padding: Side | None,
        *,
        maxlen: int | None = None,
        given: Mapping[Path, GivenLengths] | None = None,
        is_named: bool = False,
    ):
        self.paths, self.table = list(paths), table
        self._mask_value, self._padding, self._maxlen = mask_value, padding, maxlen
        self._given = {path: entry for path, entry in (given or {}).items() if entry.lengths is not None}
        told = {path for path in self.paths if path in self._given or table.tells(path)}
        self.by_values = [path for path in self.paths if path not in told]
        self.cut: set[Path] = set()  # leaves with rows whose lengths are beyond the padded length
        self._is_named = is_named
        self._pairs = [] if is_named else [PairOfLeaves(*pair) for pair in combinations(self.by_values, 2)]
        self._rests: dict[Path, OneTimestep] = {}  # what lies beyond masks that are those of several leaves
        self._mask_sides: dict[str, SideOfMask] = {}
        self._length_sides: dict[str, SideOfLengths] = {}
        self._run_sides: dict[Path, SideOfRuns] = {}
        self._under_masks: dict[Path, UnderMask] = {}
        self._samples: dict[Path, RowSample] = {}
        self._checked: set[tuple[Path, Any]] = set()

    def look(self, batch: Batch, first_row: int) -> None:
        """Notes the evidence of a batch, before any is read."""
        for path in self.paths:
            told = self._told(path, batch, first_row)
            if told is not None and told.side is None and not told.is_mask:
                array = batch[path]
                lengths = np.minimum(told.lengths, array.shape[1])
                self._side_of_lengths(told.label).add(leaf_name(path), array, lengths)
        if self._pairs:
            cores = {path: core_of(self._data_in(path, batch), self._padding) for path in self.by_values}
            for pair in self._pairs:
                pair.add(cores[pair.one], cores[pair.other], first_row)

    def spans(self, batch: Batch, first_row: int = 0) -> Spans:
        """Finds the real timesteps of a batch, whose leaves have the shape `(num_rows, time, ...)`.

        Raises:
            ValueError: If it is not certain where rows stop, or another batch contradicts it.
        """
        self.look(batch, first_row)
        self._check_rivals(batch)
        spans: Spans = {}
        by_values: list[Path] = []
        for path in self.paths:
            told = self._told(path, batch, first_row)
            if told is None:
                by_values.append(path)
            else:
                spans[path] = self._span_of_told(path, batch[path], told, first_row)
        owners = owners_of(by_values, self._pairs, self._mask_value)
        for owner in dict.fromkeys(owners.values()):
            span = self._span_by_values(owner, batch, first_row)
            spans |= dict.fromkeys((path for path in by_values if owners[path] == owner), span)
        for path in (*by_values, *self.cut):
            self._samples.setdefault(path, RowSample()).add(batch[path], spans[path].lengths)
        return spans

    def finish(self) -> list[str]:
        """Checks what only all batches together show, and returns warnings about unnoticed padding.

        Raises:
            ValueError: If a mask is True on padding, or does not belong to a leaf.
        """
        for under in self._under_masks.values():
            under.check()
        check_shared_masks(self._rests, self.table.masks)
        return [
            message
            for path, sample in self._samples.items()
            if (message := sample.message(leaf_name(path), self._mask_value)) is not None
        ]

    def _told(self, path: Path, batch: Batch, first_row: int) -> _Told | None:
        """The entry with the lengths of a leaf in this batch; None if only its values tell them."""
        if path in self._given:
            entry = self._given[path]
            lengths, side, is_mask = read_lengths(entry.lengths, batch[path].shape, entry.name, leaf_name(path))
            return _Told(entry.name, lengths, is_mask, side)
        if path in self.table.masks:
            return self._told_by_mask(path, batch, first_row)
        if path in self.table.lengths:
            return self._told_by_lengths(self.table.lengths[path], batch, first_row)
        if path in self.table.longest:
            at = self.table.longest[path]
            beside = [other for other in self.paths if self.table.tells(other)]
            if batch[path].shape[1] == max(batch[other].shape[1] for other in beside):
                told = self._told_by_lengths(at, batch, first_row)
                self._check_longest(path, beside, batch, told.lengths, first_row)
                return told
        return None

    def _told_by_mask(self, path: Path, batch: Batch, first_row: int) -> _Told:
        at = self.table.masks[path]
        mask, label = batch[at], leaf_name(at)
        if mask.shape != batch[path].shape[:2] or not is_binary(mask):
            raise ValueError(
                f"`{label}` must be a mask of `{leaf_name(path)}`, 0 or 1 at each timestep. Expected shape "
                f"{batch[path].shape[:2]} as before, received {mask.shape} in the batch at row {first_row}, or other "
                "values. Rename the entry if it is data."
            )
        lengths, side = lengths_of_mask(mask, label, first_row)
        own = self.table.lengths.get(path)
        if own is not None and not np.array_equal(batch[own], lengths):
            row = int(np.argmax(np.asarray(batch[own]) != lengths))
            raise ValueError(
                f"`{label}` and `{leaf_name(own)}` must tell the same lengths. Received {lengths[row]} and "
                f"{batch[own][row]} timesteps in row {first_row + row}. Leave one of the two out."
            )
        return _Told(label, lengths, True, side)

    def _told_by_lengths(self, at: Path, batch: Batch, first_row: int) -> _Told:
        lengths = np.asarray(batch[at]).astype(np.int64)
        if (lengths < 0).any():
            row = int(np.argmax(lengths < 0))
            raise ValueError(
                f"`{leaf_name(at)}` must be at least 0. Received {lengths[row]} at {leaf_name(at)}[{first_row + row}]. "
                "Correct it, or rename the entry if it is not a length."
            )
        return _Told(leaf_name(at), lengths, False)

    def _check_longest(self, path: Path, beside: list[Path], batch: Batch, lengths: Lengths, first_row: int) -> None:
        """Asks about a leaf whose values end earlier than each row's longest, if another leaf may be the longest."""
        others = [other for other in beside if other != path and not self.table.is_mask(other)]
        if not others or self._is_named:
            return
        mine = core_of(self._data_in(path, batch), self._padding)
        is_shorter = (mine.lengths > 0) & (mine.lengths < lengths) & ~mine.has_gaps.any()
        if not is_shorter.any():
            return
        reached = np.logical_or.reduce([self._lengths_beside(other, batch, first_row) == lengths for other in others])
        if (is_shorter & reached).any():
            row = int(np.argmax(is_shorter & reached))
            received = f"{lengths[row]} and {mine.lengths[row]} timesteps in row {first_row + row}"
            raise unclear_longest(path, self.table.longest[path], received)

    def _lengths_beside(self, path: Path, batch: Batch, first_row: int) -> Lengths:
        """The lengths of another leaf, which may be each row's longest."""
        if path in self.table.longest:
            return core_of(self._data_in(path, batch), self._padding).lengths
        told = self._told(path, batch, first_row)
        return np.zeros(len(batch[path]), np.int64) if told is None else told.lengths

    def _span_of_told(self, path: Path, array: np.ndarray, told: _Told, first_row: int) -> Span:
        time, name = array.shape[1], leaf_name(path)
        if told.is_mask:
            mask_side = self._mask_sides.setdefault(told.label, SideOfMask(told.label, self._padding))
            span = span_of_lengths(told.lengths, time, mask_side.add(told.side, first_row))
            if path in self.table.shared and path not in self._given and not self.table.is_mask(path):
                self._rests.setdefault(path, OneTimestep()).add_parts(padding_of(array, span))
                check_shared_masks(self._rests, self.table.masks)
            if array.dtype != bool and not self.table.is_mask(path):
                under = self._under_masks.setdefault(path, UnderMask(told.label, name))
                under.add(array, span)
            return span
        lengths = np.minimum(told.lengths, time)
        side = self._side_of_lengths(told.label).decide(name, array, lengths)
        if (told.lengths > time).any():
            self._check_cut(path, array, told, side, first_row)
            self.cut.add(path)
        return span_of_lengths(lengths, time, side)

    def _check_cut(self, path: Path, array: np.ndarray, told: _Told, side: Side, first_row: int) -> None:
        """Checks that rows whose lengths say that they were cut have no padding."""
        time, name = array.shape[1], leaf_name(path)
        if self._maxlen is not None and self._maxlen <= time:
            return
        run = np.where(told.lengths > time, self._data_in(path, {path: array}).runs[side], 0)
        if run.any():
            at = int(np.argmax(run > 0))
            row = first_row + at
            raise ValueError(
                f"`{told.label}` must not exceed the padded length where a row has padding. Expected at most {time}, "
                f"received {told.lengths[at]} at {told.label}[{row}], but {name}[{row}] "
                f"{'ends' if side == 'post' else 'begins'} in {run[at]} timesteps of "
                f"mask_value={show_mask_value(self._mask_value)}. Correct the lengths, or pass maxlen={time} if rows "
                "were cut to it."
            )

    def _side_of_lengths(self, label: str) -> SideOfLengths:
        return self._length_sides.setdefault(label, SideOfLengths(self._padding, self._mask_value))

    def _data_in(self, path: Path, batch: Batch) -> Extent:
        """Which timesteps hold something else than `mask_value`, which the leaf must be able to hold."""
        array: np.ndarray = batch[path]
        kind = (path, array.dtype)
        if kind not in self._checked:
            check_holds(self._mask_value, array.dtype, array.shape[2:], leaf_name(path))
            self._checked.add(kind)
        return extent_of_data(array, self._mask_value)

    def _span_by_values(self, path: Path, batch: Batch, first_row: int) -> Span:
        data = self._data_in(path, batch)
        time, runs = data.time, data.runs
        if path not in self._run_sides:
            self._run_sides[path] = SideOfRuns(leaf_name(path), self._mask_value, self._padding)
        evidence = self._run_sides[path]
        evidence.add(runs, time, first_row)
        side = evidence.decide()
        return span_of_lengths(time - runs[side], time, side)

    def _check_rivals(self, batch: Batch) -> None:
        """Asks which of several masks belongs to a leaf, unless they are equal."""
        for path in self.paths:
            rivals = [
                rival
                for rival in self.table.rivals.get(path, [])
                if batch[rival].shape == batch[path].shape[:2] and is_binary(batch[rival])
            ]
            if path in rivals or path in self._given or self._is_named or len(rivals) < 2:
                continue
            if not all(are_equal_masks(batch[rival], batch[rivals[0]]) for rival in rivals):
                raise unclear_rivals(path, rivals)
