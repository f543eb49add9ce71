"""Arrays that are already padded, back to sequences of their own length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_bucketing.checks import can_hold, check_choice, check_integer, check_number, show
from keras_bucketing.data.arrays import as_regular_array, standard_dtype
from keras_bucketing.data.rows import Ragged, ragged_from_ranges
from keras_bucketing.data.tree import Structure, map_structure
from keras_bucketing.unpadding.entries import (
    choose_sequences,
    is_mask,
    lengths_by_leaf,
    lengths_of_mask,
    mask_of,
    read_lengths,
)
from keras_bucketing.unpadding.spans import (
    is_constant,
    real_timesteps,
    runs_at_both_ends,
    side_of_lengths,
    side_of_runs,
)


@dataclass(frozen=True)
class PaddedSequences:
    """A padded array and what of it is real.

    Attributes:
        name: What the user calls it, e.g. `x['tokens']`.
        array: Array `(num_rows, time, *features)`.
        lengths: Int64 array `(num_rows,)`, in timesteps.
        side: "post" or "pre", the end that is padded.
        found: Whether the lengths were read off the values.
        is_cut: Whether lengths that were given were cut to the padded length.
        is_mask: Whether the array is a mask of others.
    """

    name: str
    array: np.ndarray
    lengths: np.ndarray
    side: str
    found: bool
    is_cut: bool = False
    is_mask: bool = False

    @property
    def time(self) -> int:
        """The padded length."""
        return int(self.array.shape[1])

    @property
    def is_real(self) -> np.ndarray:
        """Bool array `(num_rows, time)`."""
        return real_timesteps(self.lengths, self.time, self.side)

    def ragged(self) -> Ragged:
        """The real timesteps."""
        starts = np.arange(len(self.array), dtype=np.int64) * self.time
        if self.side == "pre":
            starts += self.time - self.lengths
        return ragged_from_ranges(self.array.reshape(-1, *self.array.shape[2:]), starts, self.lengths)


def sequences_from_padded(
    x: Any,
    lengths: Any = None,
    mask_value: Any = 0,
    padding: str | None = None,
    sequences: Any = None,
    maxlen: int | None = None,
) -> tuple[Structure, list[PaddedSequences]]:
    """Takes the real timesteps out of padded arrays.

    Args:
        x: Array `(num_rows, time, *features)`, or a dict or tuple of them and of arrays with one value a row.
        lengths: Ints `(num_rows,)`, a mask `(num_rows, time)`, a dict or tuple of them like `x`, or None: all but the
            run of `mask_value` timesteps at the padded end.
        mask_value: Number that the padding holds; a timestep is padding if all of its features equal it.
        padding: "post" or "pre", the end that is padded; None to find it.
        sequences: Which entries of `x` are padded sequences, a key or several; None to find out.
        maxlen: Int, what the sequences were cut to, if they were.

    Returns:
        The same structure with ragged leaves, and what was found in each of these.
    """
    if padding is not None:
        check_choice("padding", padding, ("post", "pre"))
    mask_value = check_number("mask_value", mask_value)
    maxlen = None if maxlen is None else check_integer("maxlen", maxlen)
    arrays: dict[str, np.ndarray] = {}
    map_structure(lambda leaf, name: arrays.update({name: _as_array(leaf, name)}), x, "x")
    given = {} if lengths is None else lengths_by_leaf(x, lengths)
    is_by_leaf = isinstance(lengths, dict) or len({label for label, _ in given.values()}) > 1
    chosen = choose_sequences(x, arrays, given if is_by_leaf else {}, sequences)
    masks = {name: arrays[name] for name in chosen if len(chosen) > 1 and is_mask(name, arrays[name])}

    padded = {}
    for name in chosen:
        array, (label, of_leaf) = arrays[name], given.get(name, ("lengths", None))
        if name not in masks:
            _check_mask_value(mask_value, array, name)
        if of_leaf is None:
            padded[name] = _find_lengths(array, mask_of(name, array, masks), mask_value, padding, name)
        else:
            padded[name] = _use_lengths(array, of_leaf, mask_value, padding, maxlen, label, name)
            padded[name] = replace(padded[name], is_mask=name in masks)
    _check_alike(list(padded.values()))
    stripped = map_structure(lambda _, name: padded[name].ragged() if name in padded else arrays[name], x, "x")
    return stripped, list(padded.values())


def _as_array(leaf: Any, name: str) -> np.ndarray:
    array = as_regular_array(leaf, name, "Pass sequences that are not padded to BucketedSequence itself.")
    if array.dtype.kind not in "biuf":
        standard_dtype(array.dtype, name)
    if array.ndim and not len(array):
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return array


def _check_mask_value(mask_value: Any, array: np.ndarray, name: str) -> None:
    if array.dtype.kind != "f" and not can_hold(array.dtype, mask_value):
        raise ValueError(
            f"`mask_value` must be a value that padding can hold. Expected one of dtype {array.dtype} as in `{name}`, "
            f"received {show(mask_value)}."
        )


def _find_lengths(
    array: np.ndarray, mask: tuple[str, np.ndarray] | None, mask_value: Any, padding: str | None, name: str
) -> PaddedSequences:
    """Lengths that are not given: by the mask among the entries of `x`, else by `mask_value`."""
    if mask is not None:
        lengths, side = lengths_of_mask(mask[1].astype(bool), mask[0])
        side = _agreed(side, padding, mask[0]) or "post"
        _refuse_inverted(array, lengths, side, mask[0], name)
        return PaddedSequences(name, array, lengths, side, found=False, is_mask=mask[0] == name)
    runs = runs_at_both_ends(array, mask_value)
    side = padding or side_of_runs(runs, array.shape[1], mask_value, name)
    return PaddedSequences(name, array, array.shape[1] - runs[side], side, found=True)


def _use_lengths(
    array: np.ndarray, given: Any, mask_value: Any, padding: str | None, maxlen: int | None, label: str, name: str
) -> PaddedSequences:
    """Lengths that are given; those of sequences that were cut when they were padded count as whole rows."""
    lengths, side = read_lengths(given, array.shape, label, name)
    time = array.shape[1]
    clipped = np.minimum(lengths, time)
    if side is not None:
        _refuse_inverted(array, lengths, side, label, name)
    side = _agreed(side, padding, label) or side_of_lengths(array, clipped, mask_value, name)
    was_cut = lengths > time
    if was_cut.any() and not (maxlen is not None and maxlen <= time):
        run = np.where(was_cut, runs_at_both_ends(array, mask_value)[side], 0)
        if run.any():
            at = int(np.argmax(run > 0))
            raise ValueError(
                f"`{label}` must not exceed the padded length where a row has padding. Expected at most {time}, "
                f"received {lengths[at]} at {label}[{at}], but {name}[{at}] "
                f"{'ends' if side == 'post' else 'begins'} in {run[at]} timesteps of "
                f"mask_value={mask_value!r}. Correct the lengths, or pass maxlen={time} if rows were cut to it."
            )
    return PaddedSequences(name, array, clipped, side, found=False, is_cut=bool(was_cut.any()))


def _refuse_inverted(array: np.ndarray, lengths: np.ndarray, side: str, label: str, name: str) -> None:
    """Refuses a mask that is True where the padding is, as PyTorch's key_padding_mask."""
    is_real = real_timesteps(lengths, array.shape[1], side)
    real, rest = array[is_real], array[~is_real]
    if array.dtype != bool and len(real) and len(rest) and is_constant(real) and not is_constant(rest):
        raise ValueError(
            f"`{label}` must be True where `{name}` is real. Received a mask under which all data is "
            f"{show(real[0].tolist())} and only the padding differs, as if it were True where the padding is. Pass its "
            "opposite, ~mask."
        )


def _agreed(side: str | None, padding: str | None, label: str) -> str | None:
    if side is not None and padding is not None and side != padding:
        raise ValueError(
            f"`padding` must be the end that is padded. Expected {side!r}, as the mask `{label}` has it, received "
            f"{padding!r}. Leave it out."
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


def check_masks_padding(padded: list[PaddedSequences], padding_value: Any) -> None:
    """Refuses to pad masks among the entries of `x` with anything but 0, which would call padding real."""
    masks = [entry.name for entry in padded if entry.is_mask]
    if masks and padding_value != 0:
        raise ValueError(
            f"`padding_value` must be 0 where `x` has a mask. Received {show(padding_value)}, mask_value unless it is "
            f"given, which would mark the padding of `{masks[0]}` as real. Pass padding_value=0, or leave the mask "
            "out of `x`, pass lengths=mask, and take include_lengths=True instead."
        )
