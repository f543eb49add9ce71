"""What labels are padded with, where those of their own length stop, and labels that were sliced after padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import UnclearError, check_number, show
from keras_bucketing.data.tree import Path
from keras_bucketing.unpadding.entries import leaf_name
from keras_bucketing.unpadding.sides import SideOfLengths, SideOfRuns
from keras_bucketing.unpadding.spans import (
    MaskValue,
    OneTimestep,
    Side,
    Span,
    blocks_of,
    equals,
    padding_of,
    real_timesteps,
    runs_at_both_ends,
    span_of_lengths,
)
from keras_bucketing.unpadding.unnoticed import RowSample

_MIN_SLICED_ROWS = 2  # a single label that equals its padding is a coincidence


class LabelPadding:
    """What labels are padded with, and whether their own padding begins before that of their sequences.

    Labels that were sliced after padding, as `padded[:, 1:]` beside `padded[:, :-1]`, end one timestep earlier: the
    last label of every padded row is padding, which would weigh as much as a real one.

    Args:
        is_weighted: Whether there is a sample weight of each timestep, which says what counts.
    """

    def __init__(self, is_weighted: bool = False):
        self._is_weighted = is_weighted
        self._paddings: dict[Path, OneTimestep] = {}
        self._sliced: dict[Path, _SlicedLabels] = {}

    def add(self, path: Path, labels: np.ndarray, span: Span, x: np.ndarray | None) -> None:
        """Takes labels `(num_rows, time, ...)`, what of them is real, and the padded sequences that they belong to."""
        padding = self._paddings.setdefault(path, OneTimestep())
        padding.add_parts(padding_of(labels, span))
        if not self._is_weighted and path[0] == "y" and padding.is_constant and padding.value is not None:
            self._sliced.setdefault(path, _SlicedLabels()).add(labels, span, padding.value, x)

    def check(self) -> None:
        """Refuses labels whose own padding begins before that of their sequences.

        Raises:
            ValueError: If the last label of every padded row is what labels are padded with.
        """
        for path, sliced in self._sliced.items():
            value = self._paddings[path].value
            if not self._paddings[path].is_constant or not sliced.is_certain or value is None:
                continue
            name = leaf_name(path)
            raise ValueError(
                f"`{name}` holds its padding, {show(value.tolist())}, at the last timestep of all {sliced.num_rows} "
                "padded rows, where it would weigh as much as a real label. This happens if labels are sliced after "
                f"padding: x = padded[:, :-1], {name} = padded[:, 1:]. Slice sequences before they are padded, pass a "
                "sample_weight per timestep that is 0 where the label is padding, or lengths that end with the labels."
            )

    def value(self) -> Any:
        """What the labels `y` are padded with: a number, or an array of the shape of a label; None where there is none.

        Raises:
            ValueError: If they are padded with several.
        """
        found: dict[Path, Any] = {}
        for path, padding in self._paddings.items():
            if path[0] != "y" or padding.value is None or not padding.is_constant or not padding.value.size:
                continue
            values = padding.value.reshape(-1)
            found[path] = values[0].item() if equals(values, values[:1]).all() else padding.value
        distinct = {str(np.asarray(value, float).tolist()): path for path, value in found.items()}
        if len(distinct) > 1:
            one, other = list(distinct.values())[:2]
            raise UnclearError(
                f"`label_padding_value` must be given, since labels are padded with several values. Received "
                f"{_shown(found[one])} in `{leaf_name(one)}` and {_shown(found[other])} in `{leaf_name(other)}`. Pass "
                "the one for the batches.",
                "label_padding_value",
                "label_padding_value=..., what batches of labels are padded with",
            )
        return next(iter(found.values()), None)


def _shown(value: Any) -> str:
    return show(value.tolist() if isinstance(value, np.ndarray) else value)


class _SlicedLabels:
    """The labels next to the padding, in all rows that are padded."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._all_are_padding = True
        self._is_elsewhere = False
        self._is_shifted = True

    def add(self, labels: np.ndarray, span: Span, padding: np.ndarray, x: np.ndarray | None) -> None:
        rows = np.flatnonzero((span.lengths > 0) & (span.lengths < span.time))
        last = np.where(span.start[rows] > 0, span.start[rows], span.stop[rows] - 1)
        is_padding = are_all(labels[rows, last], padding)
        self.num_rows += len(rows)
        self._all_are_padding &= bool(is_padding.all())
        if not self._is_elsewhere:
            found = sum(np.count_nonzero(are_all(part, padding)) for part in real_timesteps(labels, span))
            self._is_elsewhere = bool(found > np.count_nonzero(is_padding))
        self._is_shifted = self._is_shifted and x is not None and x.shape == labels.shape and _is_shifted(labels, x)

    @property
    def is_certain(self) -> bool:
        """Whether nothing but the slicing explains what all rows show."""
        if not self.num_rows or not self._all_are_padding:
            return False
        return self._is_shifted or (self.num_rows >= _MIN_SLICED_ROWS and not self._is_elsewhere)


def are_all(timesteps: np.ndarray, value: np.ndarray) -> NDArray[np.bool_]:
    """Which timesteps `(num_timesteps, *features)` equal a value."""
    equal = equals(timesteps, value)
    return np.asarray(equal.all(axis=tuple(range(1, equal.ndim))))


def _is_shifted(labels: np.ndarray, x: np.ndarray) -> bool:
    """Whether each label is the next timestep of `x`."""
    before, after = labels[:, :-1], x[:, 1:]
    return all(bool(equals(before[block], after[block]).all()) for block in blocks_of(before))


def check_label_padding(value: Any) -> Any:
    """Returns what labels are padded with: a number, or an array of the shape of a label."""
    return value if isinstance(value, np.ndarray) and value.ndim else check_number("label_padding_value", value)


def span_of_weights(path: Path, weights: np.ndarray, of_labels: Mapping[Path, Span]) -> Span | None:
    """What is real of the weights of labels that have lengths of their own; None where they are no such weights."""
    at = ("y", *path[1:])
    found = of_labels.get(at) or (next(iter(of_labels.values())) if len(of_labels) == 1 and len(path) == 1 else None)
    if found is None or weights.shape[:2] != (len(found.start), found.time):
        return None
    return found


class OwnLengths:
    """Where labels of their own length stop: by their lengths, or by what their padding holds.

    Args:
        path: Where the labels are.
        mask_value: What their padding holds.
        padding: The end that is padded, or None.
    """

    def __init__(self, path: Path, mask_value: MaskValue, padding: Side | None):
        self._name, self._mask_value = leaf_name(path), mask_value
        self._of_runs = SideOfRuns(self._name, mask_value, padding)
        self._of_lengths = SideOfLengths(padding, mask_value)
        self._sample = RowSample()

    def span(self, labels: np.ndarray, lengths: np.ndarray | None, first_row: int) -> Span:
        """What is real of some rows `(num_rows, time, ...)`.

        Raises:
            ValueError: If it is not certain which end is padded, or a length is out of range.
        """
        time = labels.shape[1]
        if lengths is None:
            runs = runs_at_both_ends(labels, self._mask_value)
            self._of_runs.add(runs, time, first_row)
            side = self._of_runs.decide()
            self._sample.add(labels, time - runs[side])
            return span_of_lengths(time - runs[side], time, side)
        lengths = np.asarray(lengths).astype(np.int64)
        wrong = (lengths < 0) | (lengths > time)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"The lengths of `{self._name}` must not exceed the padded length. Expected at most {time}, received "
                f"{lengths[at]} in row {first_row + at}. Correct them, or rename the entry if it is not a length."
            )
        self._of_lengths.add(self._name, labels, lengths)
        return span_of_lengths(lengths, time, self._of_lengths.decide(self._name, labels, lengths))

    def message(self) -> str | None:
        """A warning of padding that was not noticed."""
        message = self._sample.message(self._name, self._mask_value)
        return None if message is None else message.replace("mask_value", "label_padding_value")


def labels_beyond(name: str, owner: str, where: str) -> ValueError:
    """The error where labels hold something behind the end of their sequences."""
    return ValueError(
        f"`{name}` holds labels where `{owner}` is padded{where}. Received more than one value there. If timesteps of "
        "x that look like padding are real, say what padding holds, mask_value=..., or add an entry 'lengths' to x; "
        "if these are values of a row, pass timestep_labels=False."
    )
