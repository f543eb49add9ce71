"""Which entries of `x` are padded sequences, which are masks or lengths of others, and what they are called.

Three front ends, `arrays.py`, `batches.py` and `graph.py`, have rules of their own. What they share is here: the names,
and that the mask of an entry is the one whose name has the longest prefix in common with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import check_lengths, shorten, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import NUMBERS
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.spans import Side, lengths_of_mask

PADDING_MASK = "padding_mask"  # what KerasHub's preprocessors and packers call it
MASK_NAMES = (PADDING_MASK, "attention_mask")  # and Hugging Face's tokenizers
_MASK_SUFFIX = re.compile(r"_?((padding|attention|token|input)_)?masks?$")

Arrays = dict[Path, np.ndarray]  # the leaves of `x`


def longest_prefix(key: str, prefixes: Iterable[str]) -> str | None:
    """The longest of the prefixes that a key has; None if it has none.

    KerasHub has "encoder_padding_mask" for "encoder_token_ids", Hugging Face "attention_mask" for "input_ids" and
    "decoder_attention_mask" for "decoder_input_ids".
    """
    return max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)


class GivenLengths(NamedTuple):
    """The entry of the argument `lengths` for a leaf: ints or a mask; None where the leaf is said to have none."""

    path: Path
    lengths: object

    @property
    def name(self) -> str:
        """What a message calls them."""
        return name_of("lengths", self.path)


def choose_sequences(x: Structure, arrays: Arrays, given: dict[Path, GivenLengths], sequences: object) -> list[Path]:
    """Chooses the entries to strip. A wrong choice would cut values off, so what is not certain is refused.

    Without `sequences`, a key of `x` or several, and without lengths for single entries these are the arrays of rank 2
    and more, if they all have one second dimension, or a mask of their own each.

    Raises:
        TypeError: If `sequences` is neither a key nor several.
        ValueError: If no entry is a sequence, or one cannot tell which.
    """
    possible = [path for path, array in arrays.items() if array.ndim >= 2]
    for path, entry in given.items():
        if entry.lengths is not None and path not in possible:
            name = name_of("x", path)
            raise ValueError(
                f"`{entry.name}` must be None where `x` holds one value a row, or `{name}` must be padded. Expected "
                f"shape (num_sequences, time, ...), received shape {arrays[path].shape} at `{name}`."
            )
    with_lengths = [path for path, entry in given.items() if entry.lengths is not None]
    if sequences is not None:
        chosen = _leaves_at(x, arrays, sequences)
        return chosen + [path for path in with_lengths if path not in chosen]
    if not possible:
        path, array = next(iter(arrays.items()))
        raise ValueError(
            f"`{name_of('x', path)}` must be padded. Expected an array of shape (num_sequences, time, ...), received "
            f"shape {array.shape}. Pass sequences that are not padded to BucketedSequence itself."
        )
    if given:
        _check_lengths_of_all(arrays, [path for path in possible if path not in given], with_lengths)
        return with_lengths
    _check_second_axis(x, {path: arrays[path] for path in possible})
    return possible


def is_mask(path: Path, array: np.ndarray) -> bool:
    """Whether a leaf says which timesteps of others are real: a run of True a row, or 0 and 1 by a mask's name."""
    mask = _as_mask(array)
    if mask is None or "mask" in _last_key(path).lower():
        return mask is not None
    if array.dtype != bool:
        return False
    try:
        lengths_of_mask(mask, name_of("x", path))
    except ValueError:
        return False
    return True


def mask_of(path: Path, array: np.ndarray, masks: Arrays) -> Path | None:
    """The mask that belongs to an entry: one of its shape; of several, the one that shares its prefix."""
    if path in masks:
        return path
    fitting = {at: mask for at, mask in masks.items() if mask.shape == array.shape[:2]}
    if not fitting:
        return None
    first = next(iter(fitting))
    if all((mask == fitting[first]).all() for mask in fitting.values()):
        return first
    prefixes = {at: _MASK_SUFFIX.sub("", _last_key(at)) for at in fitting}
    longest = longest_prefix(_last_key(path), prefixes.values())
    alike = [at for at, prefix in prefixes.items() if prefix == longest]
    if len(alike) != 1:
        raise ValueError(
            f"`lengths` must be given, since several masks have the shape of `{name_of('x', path)}`: "
            f"{shorten(', '.join(name_of('x', at) for at in fitting))}. Pass a dict or tuple with the mask of each "
            "entry of `x`."
        )
    return alike[0]


def _last_key(path: Path) -> str:
    return str(path[-1]) if path else ""


def _leaves_at(x: Structure, arrays: Arrays, sequences: object) -> list[Path]:
    """The leaves of the entries that are named, all of them padded."""
    if not isinstance(x, (dict, tuple)):
        raise ValueError("`sequences` names entries of a dict or tuple, but `x` is one array. Leave it out.")
    keys = _keys(x)
    several = list(sequences) if isinstance(sequences, (list, tuple, set)) else [sequences]
    for key in several:
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise TypeError(f"`sequences` must be a key of `x`, or a list of keys. Received {show(key)}.")
        if key not in keys:
            raise ValueError(
                f"`sequences` names no entry of `x`. Expected one of {shorten(str(keys))}, received {show(key)}."
            )
    if not several:
        raise ValueError("`sequences` is empty. Expected at least one key of `x`.")
    chosen = [path for key in several for path in arrays if path[0] == key]
    flat = [path for path in chosen if arrays[path].ndim < 2]
    if flat:
        raise ValueError(
            f"`sequences` must name padded arrays. Expected shape (num_sequences, time, ...), received shape "
            f"{arrays[flat[0]].shape} at `{name_of('x', flat[0])}`."
        )
    return chosen


def _check_lengths_of_all(arrays: Arrays, others: list[Path], with_lengths: list[Path]) -> None:
    """Refuses lengths for some entries where others, without, look like sequences as well."""
    shapes = {arrays[path].shape[:2]: path for path in with_lengths}
    for path in others:
        if arrays[path].shape[:2] in shapes:
            alike = shapes[arrays[path].shape[:2]]
            raise ValueError(
                f"`lengths` must have an entry for `{name_of('x', path)}` too, which may be a sequence: received shape "
                f"{arrays[path].shape}, next to {arrays[alike].shape} of `{name_of('x', alike)}`. Give it lengths, or "
                "None if it holds one value a row."
            )
    if not with_lengths:
        raise ValueError("`lengths` has no lengths for any entry of `x`. Expected at least one entry that is not None.")


def _check_second_axis(x: Structure, arrays: Arrays) -> None:
    """Refuses entries without one second axis in common, unless each has a mask of its shape."""
    if len({array.shape[1] for array in arrays.values()}) == 1:
        return
    masked = {array.shape[:2] for path, array in arrays.items() if is_mask(path, array)}
    if all(array.shape[:2] in masked for array in arrays.values()):
        return
    shapes = {name_of("x", path): array.shape for path, array in arrays.items()}
    raise ValueError(
        "Which entries of `x` are padded sequences is not clear, since those of rank 2 and more do not share their "
        f"second dimension. Received {shorten(str(shapes))}. Say which: sequences={shorten(str(_keys(x)))}, without "
        "those that hold one value a row."
    )


def _keys(x: Structure) -> list[str | int]:
    return list(x) if isinstance(x, dict) else list(range(len(x)))


def lengths_by_leaf(x: Structure, lengths: Any, path: Path = ()) -> dict[Path, GivenLengths]:
    """What was given for each leaf of `x` that `lengths` speaks of, both of which stand at `path` in the arguments.

    Raises:
        ValueError: If `lengths` is no array and has another structure than `x`; entries may be missing from a dict.
    """
    name, label = name_of("x", path), name_of("lengths", path)
    if isinstance(x, dict) and isinstance(lengths, dict):
        unknown = [key for key in lengths if key not in x]
        if unknown:
            raise ValueError(
                f"`{label}` must have keys of `{name}`. Expected some of {shorten(str(list(x)))}, received "
                f"{show(unknown[0])}."
            )
        keys = list(lengths)
    elif isinstance(x, tuple) and isinstance(lengths, tuple) and not _is_flat(lengths):
        if len(x) != len(lengths):
            raise ValueError(
                f"`{label}` must have an entry for each of `{name}`. Expected {len(x)}, received {len(lengths)}. Put "
                "None for an entry that holds one value a row."
            )
        keys = _keys(x)
    elif isinstance(lengths, dict) and not isinstance(x, (dict, tuple)):
        raise ValueError(
            f"`{label}` must be one array, as `{name}` is. Expected shape (num_sequences,) or (num_sequences, time), "
            "received a dict."
        )
    else:  # one and the same for all that is below
        return {(*path, *below): GivenLengths(path, lengths) for below, _ in tree.leaves(x)}
    found: dict[Path, GivenLengths] = {}
    for key in keys:
        found |= lengths_by_leaf(x[key], lengths[key], (*path, key))
    return found


def read_lengths(given: object, shape: tuple[int, ...], label: str, name: str) -> tuple[Lengths, Side | None]:
    """Given lengths, or a mask of booleans or of 0 and 1, as integers; and the padded end where a mask shows it.

    Raises:
        TypeError: If they are no integers.
        ValueError: If they are negative, or not one for each row; if a mask has a gap, or rows padded at both ends.
    """
    mask = _as_mask(given)
    if mask is None:
        lengths = check_lengths(given, label, minimum=0)
        expected, received = shape[:1], lengths.shape
    else:
        expected, received = shape[:2], mask.shape
    if expected != received:
        raise ValueError(
            f"`{label}` must have one entry for each sequence, or, as a mask, for each timestep. Expected shape "
            f"{expected} as in `{name}`, received {received}."
        )
    return (lengths, None) if mask is None else lengths_of_mask(mask, label)


def _as_mask(given: object) -> NDArray[np.bool_] | None:
    """A bool array `(num_rows, time)`, if it is a mask of booleans, or of 0 and 1; else None."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError):
        return None
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
        return None
    return array.astype(bool)


def _is_flat(values: tuple[object, ...]) -> bool:
    """Whether a tuple holds numbers, so that it is one array of lengths."""
    return bool(values) and all(isinstance(value, NUMBERS) for value in values)
