"""Padded batches, one after the other, back to the timesteps that are real: the rules of `from_dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_bucketing.checks import UnclearError
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path, name_of
from keras_bucketing.unpadding.entries import MASK_NAMES, longest_prefix
from keras_bucketing.unpadding.spans import (
    SIDES,
    Mask,
    Side,
    Span,
    is_padding,
    runs_outside_of,
    span_of_lengths,
)

_WHICH_END = "padding='post' or padding='pre', the end that is padded"
LENGTHS: Path = ("x", "lengths")

HostLeaf = Any  # an array, a list of rows or a `tf.RaggedTensor`
Batch = dict[Path, HostLeaf]  # by the path in an element, which begins with "x", "y" or "sample_weight"


def leaf_name(path: Path) -> str:
    """What a message calls a leaf of an element.

    Example:
        >>> leaf_name(("x", "query", 0))
        "x['query'][0]"
    """
    return name_of(str(path[0]), path[1:])


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
    padding: Side | None = None
    timestep_labels: bool | None = None
    labels_align: bool = True
    label_mask_value: float = 0


Spans = dict[Path, Span]  # of the padded leaves of `x`


@dataclass
class PaddedGroup:
    """Leaves of `x` that are padded alike: a timestep is padding where all of them say so.

    Attributes:
        paths: Where the leaves are in an element.
        mask: Path of the leaf that is True, or 1, on real timesteps, or None.
        lengths: Path of the leaf that holds the lengths, or None.
    """

    paths: list[Path]
    mask: Path | None = None
    lengths: Path | None = None
    # The first row that ends, and the first that begins, with what padding holds.
    _ends: int | None = field(default=None, repr=False)
    _begins: int | None = field(default=None, repr=False)

    def span(self, batch: Batch, options: BatchOptions, first_row: int) -> Span:
        """Finds the real timesteps of a batch.

        Args:
            batch: The leaves, those of this group of shape `(num_rows, time, ...)`.
            options: What the caller said.
            first_row: The number of the batch's first row, for an error message.

        Raises:
            ValueError: If it is not certain which end is padded, or the mask has holes, or a length is out of range.
        """
        if self.mask is not None:
            return _span_of_mask(batch[self.mask], self.mask, first_row)
        if self.lengths is not None:
            return self._span_of_lengths(batch, self.lengths, options, first_row)
        is_real = np.logical_or.reduce([~is_padding(batch[path], options.mask_value) for path in self.paths])
        return self._span_of_runs(is_real, options.padding, first_row)

    def _span_of_lengths(self, batch: Batch, path: Path, options: BatchOptions, first_row: int) -> Span:
        lengths = batch[path]
        time = batch[self.paths[0]].shape[1]
        wrong = (lengths < 0) | (lengths > time)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"`{leaf_name(path)}` must not exceed the padded length. Expected at most {time}, received "
                f"{lengths[at]} in row {first_row + at}."
            )
        lengths = lengths.astype(np.int64)
        if options.padding is not None:
            return span_of_lengths(lengths, time, options.padding)
        for span in (span_of_lengths(lengths, time, side) for side in SIDES):
            if all(span.leaves_a_constant(batch[leaf]) for leaf in self.paths):
                return span
        raise UnclearError(
            f"`{leaf_name(self.paths[0])}` is padded at neither end: in the batch at row {first_row} both hold more "
            f"than one value beyond `{leaf_name(path)}`. Say which end is padded: padding='post' or padding='pre'.",
            "padding",
            _WHICH_END,
        )

    def _span_of_runs(self, is_real: Mask, padding: Side | None, first_row: int) -> Span:
        """The run of padding at one end of each row is no part of it; which end, all rows must agree on."""
        time = is_real.shape[1]
        runs = runs_outside_of(is_real)
        if padding is None:
            for side, attribute in (("post", "_ends"), ("pre", "_begins")):
                rows = (runs[side] > 0) & (runs[side] < time)
                if rows.any() and getattr(self, attribute) is None:
                    setattr(self, attribute, first_row + int(np.argmax(rows)))
            if self._ends is not None and self._begins is not None:
                raise UnclearError(
                    f"Which end of `{leaf_name(self.paths[0])}` is padded is not certain: row {self._ends} ends with "
                    f"the value that padding holds, and row {self._begins} begins with it. Say which end: "
                    "padding='post' or padding='pre'; or what padding holds: mask_value=...; or add an entry 'lengths' "
                    "to x.",
                    "padding",
                    _WHICH_END,
                )
            padding = "pre" if self._begins is not None else "post"
        return span_of_lengths(time - runs[padding], time, padding)


def group_padded_leaves(
    padded: list[Path], counts: set[Path], batches: Sequence[Batch], mask_value: float
) -> list[PaddedGroup]:
    """Puts those leaves together that are padded alike.

    Those are the leaves that one mask is for, and those of one padded length of which one never ends before another, as
    token ids and segment ids do: a segment id of 0 is no padding. A source and its translation are not among them.

    Args:
        padded: The padded leaves of `x`. Masks and lengths are found where it is a dict.
        counts: The leaves that hold one integer a row, as lengths do.
        batches: The leaves of some batches.
        mask_value: What padding holds.
    """
    prefixes = _masked_prefixes([path for path in padded if batches[0][path].ndim == 2])
    alike: dict[tuple[Path | None, Path | None, tuple[int, ...]], PaddedGroup] = {}
    for path in padded:
        times = tuple(batch[path].shape[1] for batch in batches)
        mask = _mask_of(path, prefixes)
        if mask is not None and times != tuple(batch[mask].shape[1] for batch in batches):
            mask = None
        key = _key(path)
        own = None if key is None else ("x", f"{key}_lengths")
        lengths = own if own in counts else None
        alike.setdefault((mask, lengths, times), PaddedGroup([], mask, lengths)).paths.append(path)
    groups = [
        part
        for group in alike.values()
        for part in ([group] if group.mask or group.lengths else _split_by_ends(group.paths, batches, mask_value))
    ]
    if len(groups) == 1 and groups[0].lengths is None and LENGTHS in counts:
        groups[0].lengths = LENGTHS
    return groups


def _key(path: Path) -> str | None:
    """The key of an entry of `x`, where that is a dict."""
    key = path[1] if len(path) == 2 else None
    return key if isinstance(key, str) else None


def _masked_prefixes(padded: list[Path]) -> dict[str, Path]:
    """The masks by what the keys of the leaves begin with that they are for."""
    keys = [(key, path) for path in padded if (key := _key(path)) is not None]
    return {key[: -len(end)]: path for key, path in keys for end in MASK_NAMES if key.endswith(end)}


def _mask_of(path: Path, prefixes: dict[str, Path]) -> Path | None:
    key = _key(path)
    prefix = None if key is None else longest_prefix(key, prefixes)
    return None if prefix is None else prefixes[prefix]


def _split_by_ends(paths: list[Path], batches: Sequence[Batch], mask_value: float) -> list[PaddedGroup]:
    """Groups in which the first leaf reaches as far as all others, in every row."""
    ends = {path: np.concatenate([_ends(~is_padding(batch[path], mask_value)) for batch in batches]) for path in paths}
    groups: list[PaddedGroup] = []
    for path in sorted(paths, key=lambda path: int(ends[path].sum()), reverse=True):
        within = (group for group in groups if (ends[path] <= ends[group.paths[0]]).all())
        group = next(within, None)
        if group is None:
            groups.append(PaddedGroup([path]))
        else:
            group.paths.append(path)
    return groups


def _ends(is_real: Mask) -> Lengths:
    """`(num_rows, 2)`: how far from either end the other end's run of padding begins; 0 if all is padding."""
    runs = runs_outside_of(is_real)
    ends: Lengths = is_real.shape[1] - np.stack([runs["post"], runs["pre"]], axis=1)
    return ends


def _span_of_mask(mask: np.ndarray, path: Path, first_row: int) -> Span:
    is_real = mask != 0
    time = mask.shape[1]
    runs = runs_outside_of(is_real)
    stop = time - runs["post"]
    start = np.minimum(runs["pre"], stop)
    holes = is_real.sum(axis=1) != stop - start
    if holes.any():
        raise ValueError(
            f"`{leaf_name(path)}` must be true on one run of timesteps in each row, from the first real one to the "
            f"last. Received a hole in row {first_row + int(np.argmax(holes))}. Rename the entry if it is data, not "
            "padding."
        )
    return Span(start, stop, time)
