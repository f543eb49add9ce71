"""Arrays that are already padded, back to sequences of their own length: the rules of `from_padded`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_bucketing.checks import can_hold, check_choice, check_integer, check_number, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import as_regular_array, standard_dtype
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.other_kinds import as_dense
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import Rows, rows_from_padded
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.entries import choose_sequences, is_mask, lengths_by_leaf, mask_of, read_lengths
from keras_bucketing.unpadding.spans import (
    SIDES,
    Side,
    Span,
    is_constant,
    lengths_of_mask,
    runs_at_both_ends,
    side_of_lengths,
    side_of_runs,
    span_of_lengths,
)


@dataclass(frozen=True)
class PaddedSequences:
    """A padded array and what of it is real.

    Attributes:
        name: What messages call it, e.g. `x['tokens']`.
        array: Array `(num_rows, time, *features)`.
        span: Its real timesteps.
        side: The end that is padded.
        found: Whether the lengths were read off the values.
        is_cut: Whether lengths that were given were cut to the padded length.
        is_mask: Whether the array is a mask of others.
    """

    name: str
    array: np.ndarray
    span: Span
    side: Side
    found: bool
    is_cut: bool = False
    is_mask: bool = False

    @property
    def lengths(self) -> Lengths:
        """In timesteps, `(num_rows,)`."""
        return self.span.lengths

    @property
    def time(self) -> int:
        """The padded length."""
        return self.span.time

    def rows(self) -> Rows:
        """The real timesteps."""
        return rows_from_padded(self.array, self.span.start, self.lengths)


@dataclass(frozen=True)
class PaddingArguments:
    """What the caller of `from_padded` says about the padding; None where that is to be found out."""

    mask_value: float
    side: Side | None
    maxlen: int | None


def sequences_from_padded(
    x: Structure,
    lengths: object = None,
    mask_value: object = 0,
    padding: str | None = None,
    sequences: object = None,
    maxlen: int | None = None,
) -> tuple[Structure, list[PaddedSequences]]:
    """Takes the real timesteps out of padded arrays; arguments as in `BucketedSequence.from_padded`.

    Returns:
        The same structure with ragged leaves, and what was found in each of these.
    """
    arguments = PaddingArguments(
        check_number("mask_value", mask_value),
        None if padding is None else check_choice("padding", padding, SIDES),
        None if maxlen is None else check_integer("maxlen", maxlen),
    )
    tree.check_structure(x, "x")
    x = tree.map_leaves(lambda path, leaf: _as_array(leaf, name_of("x", path)), x, none_is_leaf=True)
    arrays = dict(tree.leaves(x))
    given = {} if lengths is None else lengths_by_leaf(x, lengths)
    is_by_leaf = isinstance(lengths, dict) or len({entry.path for entry in given.values()}) > 1
    chosen = choose_sequences(x, arrays, given if is_by_leaf else {}, sequences)
    masks = {path: arrays[path] for path in chosen if len(chosen) > 1 and is_mask(path, arrays[path])}

    padded: dict[Path, PaddedSequences] = {}
    for path in chosen:
        name, array = name_of("x", path), arrays[path]
        entry = given.get(path)
        if path not in masks:
            _check_mask_value(arguments.mask_value, array, name)
        if entry is not None and entry.lengths is not None:
            padded[path] = _use_lengths(name, array, entry.lengths, entry.name, arguments, is_mask=path in masks)
            continue
        mask_path = mask_of(path, array, masks)
        if mask_path is None:
            padded[path] = _find_lengths(name, array, arguments)
        else:
            mask_name = name_of("x", mask_path)
            padded[path] = _use_mask(name, array, masks[mask_path], mask_name, arguments, is_mask=mask_path == path)
    _check_alike(list(padded.values()))

    def without_padding(path: Path, array: np.ndarray) -> Leaf:
        return padded[path].rows() if path in padded else array

    return tree.map_leaves(without_padding, x), list(padded.values())


def _as_array(leaf: object, name: str) -> np.ndarray:
    array = as_regular_array(as_dense(leaf), name, "Pass sequences that are not padded to BucketedSequence itself.")
    if array.dtype.kind not in "biuf":
        standard_dtype(array.dtype, name)
    if array.ndim and not len(array):
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return array


def _check_mask_value(mask_value: float, array: np.ndarray, name: str) -> None:
    if array.dtype.kind != "f" and not can_hold(array.dtype, mask_value):
        raise ValueError(
            f"`mask_value` must be a value that padding can hold. Expected one of dtype {array.dtype} as in `{name}`, "
            f"received {show(mask_value)}."
        )


def _find_lengths(name: str, array: np.ndarray, arguments: PaddingArguments) -> PaddedSequences:
    """By the runs of `mask_value` at the padded end."""
    runs, time = runs_at_both_ends(array, arguments.mask_value), array.shape[1]
    side = arguments.side or side_of_runs(runs, time, arguments.mask_value, name)
    return PaddedSequences(name, array, span_of_lengths(time - runs[side], time, side), side, found=True)


def _use_mask(
    name: str, array: np.ndarray, mask: np.ndarray, mask_name: str, arguments: PaddingArguments, is_mask: bool
) -> PaddedSequences:
    """By the mask among the entries of `x`."""
    lengths, side = lengths_of_mask(mask.astype(bool), mask_name)
    side = _resolve_side(side, arguments.side, mask_name) or "post"
    span = span_of_lengths(lengths, array.shape[1], side)
    _refuse_inverted(array, span, mask_name, name)
    return PaddedSequences(name, array, span, side, found=False, is_mask=is_mask)


def _use_lengths(
    name: str, array: np.ndarray, given: object, label: str, arguments: PaddingArguments, is_mask: bool
) -> PaddedSequences:
    """By given lengths; those of sequences that were cut when they were padded count as whole rows."""
    mask_value, time = arguments.mask_value, array.shape[1]
    lengths, side = read_lengths(given, array.shape, label, name)
    clipped = np.minimum(lengths, time)
    if side is not None:
        _refuse_inverted(array, span_of_lengths(lengths, time, side), label, name)
    side = _resolve_side(side, arguments.side, label) or side_of_lengths(array, clipped, mask_value, name)
    was_cut = lengths > time
    if was_cut.any() and not (arguments.maxlen is not None and arguments.maxlen <= time):
        run = np.where(was_cut, runs_at_both_ends(array, mask_value)[side], 0)
        if run.any():
            at = int(np.argmax(run > 0))
            raise ValueError(
                f"`{label}` must not exceed the padded length where a row has padding. Expected at most {time}, "
                f"received {lengths[at]} at {label}[{at}], but {name}[{at}] "
                f"{'ends' if side == 'post' else 'begins'} in {run[at]} timesteps of "
                f"mask_value={show(mask_value)}. Correct the lengths, or pass maxlen={time} if rows were cut to it."
            )
    span = span_of_lengths(clipped, time, side)
    return PaddedSequences(name, array, span, side, found=False, is_cut=bool(was_cut.any()), is_mask=is_mask)


def _refuse_inverted(array: np.ndarray, span: Span, label: str, name: str) -> None:
    """Refuses a mask that is True where the padding is, as PyTorch's key_padding_mask."""
    is_real = span.is_real
    real, rest = array[is_real], array[~is_real]
    if array.dtype != bool and len(real) and len(rest) and is_constant(real) and not is_constant(rest):
        raise ValueError(
            f"`{label}` must be True where `{name}` is real. Received a mask under which all data is "
            f"{show(real[0].tolist())} and only the padding differs, as if it were True where the padding is. Pass its "
            "opposite, ~mask."
        )


def _resolve_side(side: Side | None, padding: Side | None, label: str) -> Side | None:
    """The side that the mask has, or the argument `padding`, which must not contradict one another."""
    if side is not None and padding is not None and side != padding:
        raise ValueError(
            f"`padding` must be the end that is padded. Expected {show(side)}, as the mask `{label}` has it, received "
            f"{show(padding)}. Leave it out."
        )
    return side or padding


def _check_alike(padded: list[PaddedSequences]) -> None:
    """Entries of one shape whose lengths were all read off the values must all show them."""
    for entry in padded:
        for other in padded:
            if entry is other or not (entry.found and other.found) or entry.array.shape[:2] != other.array.shape[:2]:
                continue
            no_padding = (entry.lengths == entry.time).all() and (other.lengths < other.time).any()
            empty = (entry.lengths == 0) & (other.lengths > 0)
            if no_padding or empty.any():
                at = int(np.argmax(empty if empty.any() else other.lengths < other.time))
                raise ValueError(
                    f"`lengths` must be given, since `mask_value` does not show those of `{entry.name}`. Received "
                    f"{entry.lengths[at]} timesteps of data at {entry.name}[{at}], but {other.lengths[at]} at "
                    f"{other.name}[{at}]. Pass lengths or a mask, one for all entries or a dict of them."
                )


def check_masks_padding(padded: list[PaddedSequences], padding_value: object) -> None:
    """Refuses to pad masks among the entries of `x` with anything but 0, which would call padding real."""
    masks = [entry.name for entry in padded if entry.is_mask]
    if masks and padding_value != 0:
        raise ValueError(
            f"`padding_value` must be 0 where `x` has a mask. Received {show(padding_value)}, mask_value unless it is "
            f"given, which would mark the padding of `{masks[0]}` as real. Pass padding_value=0, or leave the mask "
            "out of `x`, pass lengths=mask, and take include_lengths=True instead."
        )
