"""Padded batches, one after the other, back to the timesteps that are real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_bucketing.checks import show
from keras_bucketing.unpadding.spans import is_constant, is_padding, runs_outside_of

_MASK_NAMES = ("padding_mask", "attention_mask")  # KerasHub's packers, Hugging Face's tokenizers


@dataclass(frozen=True)
class BatchOptions:
    """What the caller says about the elements; None where it is to be found out.

    Attributes:
        batched: Whether an element is a batch.
        mask_value: Number that padding holds.
        padding: "post" or "pre", the end that is padded.
        timestep_labels: Whether labels with an axis of their own hold one label a timestep.
        labels_align: Whether per-timestep labels are as long as the sequences.
        label_mask_value: Number that the padding of labels holds whose lengths are their own.
    """

    batched: bool | None = None
    mask_value: float = 0
    padding: str | None = None
    timestep_labels: bool | None = None
    labels_align: bool = True
    label_mask_value: float = 0


@dataclass(frozen=True)
class Span:
    """Which timesteps of a padded batch are real: `start <= timestep < stop` in each row.

    Attributes:
        start: Int array `(num_rows,)`.
        stop: Int array `(num_rows,)`.
        time: The padded length.
    """

    start: np.ndarray
    stop: np.ndarray
    time: int

    @property
    def lengths(self) -> np.ndarray:
        """Int array `(num_rows,)`."""
        lengths: np.ndarray = self.stop - self.start
        return lengths

    @property
    def is_real(self) -> np.ndarray:
        """Bool array `(num_rows, time)`."""
        steps = np.arange(self.time)
        is_real: np.ndarray = (steps >= self.start[:, np.newaxis]) & (steps < self.stop[:, np.newaxis])
        return is_real

    def leaves_a_constant(self, array: np.ndarray) -> bool:
        """Whether a padded array holds nothing but one value where this span says that padding is."""
        padding = array[~self.is_real]
        return not len(padding) or is_constant(padding)


@dataclass
class PaddedGroup:
    """Leaves of `x` that are padded alike: a timestep is padding where all of them say so.

    Attributes:
        names: What to call the leaves.
        mask: The leaf that is True, or 1, on real timesteps, or None.
        lengths: The leaf that holds the lengths, or None.
    """

    names: list[str]
    mask: str | None = None
    lengths: str | None = None
    # The first row that ends, and the first that begins, with what padding holds.
    _ends: int | None = field(default=None, repr=False)
    _begins: int | None = field(default=None, repr=False)

    def span(self, batch: dict[str, np.ndarray], options: BatchOptions, first_row: int) -> Span:
        """Finds the real timesteps of a batch.

        Args:
            batch: The leaves by name, those of this group of shape `(num_rows, time, ...)`.
            options: What the caller said.
            first_row: The number of the batch's first row, for an error message.

        Raises:
            ValueError: If it is not certain which end is padded, or the mask has holes, or a length is out of range.
        """
        if self.mask is not None:
            return _span_of_mask(batch[self.mask], self.mask, first_row)
        leaves = [batch[name] for name in self.names]
        if self.lengths is not None:
            return self._span_of_lengths(leaves, batch[self.lengths], options, first_row)
        is_real = np.logical_or.reduce([~is_padding(leaf, options.mask_value) for leaf in leaves])
        return self._span_of_runs(is_real, options.padding, first_row)

    def _span_of_lengths(
        self, leaves: list[np.ndarray], lengths: np.ndarray, options: BatchOptions, first_row: int
    ) -> Span:
        time = leaves[0].shape[1]
        wrong = (lengths < 0) | (lengths > time)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"`{self.lengths}` must not exceed the padded length. Expected at most {time}, received {lengths[at]} "
                f"in row {first_row + at}."
            )
        lengths = lengths.astype(np.int64)
        begin = np.zeros_like(lengths)
        post, pre = Span(begin, lengths, time), Span(time - lengths, begin + time, time)
        if options.padding is not None:
            return post if options.padding == "post" else pre
        for span in (post, pre):
            if all(span.leaves_a_constant(leaf) for leaf in leaves):
                return span
        raise ValueError(
            f"`{self.names[0]}` is padded at neither end: in the batch at row {first_row} both hold more than one "
            f"value beyond `{self.lengths}`. Say which end is padded: padding='post' or padding='pre'."
        )

    def _span_of_runs(self, is_real: np.ndarray, padding: str | None, first_row: int) -> Span:
        """The run of padding at one end of each row is no part of it; which end, all rows must agree on."""
        num_rows, time = is_real.shape
        runs = runs_outside_of(is_real)
        if padding is None:
            for side, attribute in (("post", "_ends"), ("pre", "_begins")):
                rows = (runs[side] > 0) & (runs[side] < time)
                if rows.any() and getattr(self, attribute) is None:
                    setattr(self, attribute, first_row + int(np.argmax(rows)))
            if self._ends is not None and self._begins is not None:
                raise ValueError(
                    f"Which end of `{self.names[0]}` is padded is not certain: row {self._ends} ends with the value "
                    f"that padding holds, and row {self._begins} begins with it. Say which end: padding='post' or "
                    "padding='pre'; or what padding holds: mask_value=...; or add an entry 'lengths' to x."
                )
            padding = "pre" if self._begins is not None else "post"
        if padding == "post":
            return Span(np.zeros(num_rows, np.int64), time - runs["post"], time)
        return Span(runs["pre"], np.full(num_rows, time), time)


def group_padded_leaves(
    x: Any, padded: list[str], counts: set[str], batches: Sequence[dict[str, np.ndarray]], mask_value: float
) -> list[PaddedGroup]:
    """Puts those leaves together that are padded alike.

    Those are the leaves that one mask is for, and those of one padded length of which one never ends before another, as
    token ids and segment ids do: a segment id of 0 is no padding. A source and its translation are not among them.

    Args:
        x: The structure of the input, with anything as leaves. Masks and lengths are found in a dict.
        padded: The names of its padded leaves.
        counts: The names of the leaves that hold one integer a row, as lengths do.
        batches: The leaves of some batches by name.
        mask_value: What padding holds.
    """
    keys = {f"x[{show(key)}]": key for key in x} if isinstance(x, dict) else {}
    masks = {
        keys[name][: -len(ending)]: name
        for name in padded
        for ending in _MASK_NAMES
        if name in keys and keys[name].endswith(ending) and batches[0][name].ndim == 2
    }
    alike: dict[Any, PaddedGroup] = {}
    for name in padded:
        times = tuple(batch[name].shape[1] for batch in batches)
        prefixes = [prefix for prefix in masks if keys.get(name, "").startswith(prefix)]
        mask = masks[max(prefixes, key=len)] if prefixes else None
        if mask is not None and times != tuple(batch[mask].shape[1] for batch in batches):
            mask = None
        own = f"x[{show(keys[name] + '_lengths')}]" if name in keys else ""
        lengths = own if own in counts else None
        alike.setdefault((mask, lengths, times), PaddedGroup([], mask, lengths)).names.append(name)
    groups = [
        part
        for group in alike.values()
        for part in ([group] if group.mask or group.lengths else _split_by_ends(group.names, batches, mask_value))
    ]
    if len(groups) == 1 and "x['lengths']" in counts and groups[0].lengths is None:
        groups[0].lengths = "x['lengths']"
    return groups


def _split_by_ends(names: list[str], batches: Sequence[dict[str, np.ndarray]], mask_value: float) -> list[PaddedGroup]:
    """Groups in which the first leaf reaches as far as all others, in every row."""
    ends = {name: np.concatenate([_ends(~is_padding(batch[name], mask_value)) for batch in batches]) for name in names}
    groups: list[PaddedGroup] = []
    for name in sorted(names, key=lambda name: int(ends[name].sum()), reverse=True):
        within = (group for group in groups if (ends[name] <= ends[group.names[0]]).all())
        group = next(within, None)
        if group is None:
            groups.append(PaddedGroup([name]))
        else:
            group.names.append(name)
    return groups


def _ends(is_real: np.ndarray) -> np.ndarray:
    """Int array `(num_rows, 2)`: how far from either end the other end's run of padding begins; 0 if all is padding."""
    runs = runs_outside_of(is_real)
    ends: np.ndarray = is_real.shape[1] - np.stack([runs["post"], runs["pre"]], axis=1)
    return ends


def _span_of_mask(mask: np.ndarray, name: str, first_row: int) -> Span:
    is_real = mask != 0
    time = mask.shape[1]
    runs = runs_outside_of(is_real)
    stop = time - runs["post"]
    start = np.minimum(runs["pre"], stop)
    holes = is_real.sum(axis=1) != stop - start
    if holes.any():
        raise ValueError(
            f"`{name}` must be true on one run of timesteps in each row, from the first real one to the last. Received "
            f"a hole in row {first_row + int(np.argmax(holes))}. Rename the entry if it is data, not padding."
        )
    return Span(start, stop, time)
