"""Which entries of `x` are padded sequences, and which of them is the mask of others."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from keras_bucketing.checks import check_lengths, shorten, show
from keras_bucketing.data.arrays import NUMBERS
from keras_bucketing.data.tree import map_structure
from keras_bucketing.unpadding.spans import real_timesteps

_SUFFIX = re.compile(r"_?((padding|attention|token|input)_)?masks?$")  # of a mask's name


def choose_sequences(
    x: Any, arrays: dict[str, np.ndarray], given: dict[str, tuple[str, Any]], sequences: Any
) -> list[str]:
    """Chooses the entries to strip. A wrong choice would cut values off, so what is not certain is refused.

    Args:
        x: A padded array, or a dict or tuple of them.
        arrays: The leaves of `x` by their names.
        given: The lengths by the names of leaves, where `lengths` has the structure of `x`; else empty.
        sequences: Which entries of `x` are sequences, a key or several; None to find out.

    Returns:
        The names of leaves. Without `sequences` and without lengths for single entries these are the arrays of rank 2
        and more, if they all have one second dimension, or a mask of their own each.

    Raises:
        TypeError: If `sequences` is neither a key nor several.
        ValueError: If no entry is a sequence, or one cannot tell which.
    """
    possible = [name for name, array in arrays.items() if array.ndim >= 2]
    for name, (label, lengths) in given.items():
        if lengths is not None and name not in possible:
            raise ValueError(
                f"`{label}` must be None where `x` holds one value a row, or `{name}` must be padded. Expected shape "
                f"(num_sequences, time, ...), received shape {arrays[name].shape} at `{name}`."
            )
    if sequences is not None:
        chosen = _named(x, sequences)
        flat = [name for name in chosen if name not in possible]
        if flat:
            raise ValueError(
                f"`sequences` must name padded arrays. Expected shape (num_sequences, time, ...), received shape "
                f"{arrays[flat[0]].shape} at `{flat[0]}`."
            )
        return chosen + [name for name, (_, lengths) in given.items() if lengths is not None and name not in chosen]
    if not possible:
        name, array = next(iter(arrays.items()))
        raise ValueError(
            f"`{name}` must be padded. Expected an array of shape (num_sequences, time, ...), received shape "
            f"{array.shape}. Pass sequences that are not padded to BucketedSequence itself."
        )
    if given:
        return _with_lengths(arrays, possible, given)
    if len({arrays[name].shape[1] for name in possible}) > 1:
        masked = {arrays[name].shape[:2] for name in possible if is_mask(name, arrays[name])}
        if not all(arrays[name].shape[:2] in masked for name in possible):
            raise ValueError(_unclear(x, {name: arrays[name].shape for name in possible}))
    return possible


def is_mask(name: str, array: np.ndarray) -> bool:
    """Whether a leaf says which timesteps of others are real: a run of True a row, or 0 and 1 by a mask's name."""
    mask = as_mask(array)
    if mask is None or "mask" in _last_key(name).lower():
        return mask is not None
    if array.dtype != bool:
        return False
    try:
        lengths_of_mask(mask, name)
    except ValueError:
        return False
    return True


def mask_of(name: str, array: np.ndarray, masks: dict[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
    """The mask that belongs to an entry, with its name: one of its shape; of several, the one that shares its prefix.

    KerasHub has "encoder_padding_mask" for "encoder_token_ids", Hugging Face "attention_mask" for "input_ids" and
    "decoder_attention_mask" for "decoder_input_ids".
    """
    if name in masks:
        return name, masks[name]
    fitting = {key: mask for key, mask in masks.items() if mask.shape == array.shape[:2]}
    if not fitting:
        return None
    first = next(iter(fitting))
    if any((mask != fitting[first]).any() for mask in fitting.values()):
        prefixes = {key: _SUFFIX.sub("", _last_key(key)) for key in fitting}
        longest = max((p for p in prefixes.values() if _last_key(name).startswith(p)), key=len, default=None)
        alike = [key for key, prefix in prefixes.items() if prefix == longest]
        if len(alike) != 1:
            raise ValueError(
                f"`lengths` must be given, since several masks have the shape of `{name}`: "
                f"{shorten(', '.join(fitting))}. Pass a dict or tuple with the mask of each entry of `x`."
            )
        first = alike[0]
    return first, fitting[first]


def _last_key(name: str) -> str:
    return name.rpartition("[")[2].strip("]'\"")


def _named(x: Any, sequences: Any) -> list[str]:
    if not isinstance(x, (dict, tuple)):
        raise ValueError("`sequences` names entries of a dict or tuple, but `x` is one array. Leave it out.")
    keys = list(x) if isinstance(x, dict) else list(range(len(x)))
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
    return [name for key in several for name in leaf_names(x[key], f"x[{show(key)}]")]


def _with_lengths(arrays: dict[str, np.ndarray], possible: list[str], given: dict[str, tuple[str, Any]]) -> list[str]:
    """Those that have lengths; the others hold one value a row, unless they look like sequences as well."""
    chosen = [name for name, (_, lengths) in given.items() if lengths is not None]
    shapes = {arrays[name].shape[:2]: name for name in chosen}
    for name in possible:
        if name not in given and arrays[name].shape[:2] in shapes:
            alike = shapes[arrays[name].shape[:2]]
            raise ValueError(
                f"`lengths` must have an entry for `{name}` too, which may be a sequence: received shape "
                f"{arrays[name].shape}, next to {arrays[alike].shape} of `{alike}`. Give it lengths, or None if it "
                "holds one value a row."
            )
    if not chosen:
        raise ValueError("`lengths` has no lengths for any entry of `x`. Expected at least one entry that is not None.")
    return chosen


def _unclear(x: Any, shapes: dict[str, Any]) -> str:
    keys = list(x) if isinstance(x, dict) else list(range(len(x)))
    return (
        "Which entries of `x` are padded sequences is not clear, since those of rank 2 and more do not share their "
        f"second dimension. Received {shorten(str(shapes))}. Say which: sequences={shorten(str(keys))}, without those "
        "that hold one value a row."
    )


# The `lengths` of padded arrays: integers, or masks that are True where a timestep is real.


def lengths_by_leaf(x: Any, lengths: Any, name: str = "x", label: str = "lengths") -> dict[str, tuple[str, Any]]:
    """Which lengths were given for which leaf of `x`.

    Args:
        x: A padded array, or a dict or tuple of them.
        lengths: None, one array for all of `x`, or a dict or tuple like `x`; entries may be missing from a dict.
        name: The name of `x`.
        label: The name of `lengths`.

    Returns:
        For each leaf that `lengths` speaks of, by its name, what its lengths are called and the lengths; None for those
        that are said to have none.

    Raises:
        ValueError: If `lengths` has another structure than `x`.
    """
    if isinstance(x, dict) and isinstance(lengths, dict):
        unknown = [key for key in lengths if key not in x]
        if unknown:
            raise ValueError(
                f"`{label}` must have keys of `{name}`. Expected some of {shorten(str(list(x)))}, received "
                f"{show(unknown[0])}."
            )
        entries = [(key, x[key], lengths[key]) for key in lengths]
    elif isinstance(x, tuple) and isinstance(lengths, tuple) and not _is_flat(lengths):
        if len(x) != len(lengths):
            raise ValueError(
                f"`{label}` must have an entry for each of `{name}`. Expected {len(x)}, received {len(lengths)}. Put "
                "None for an entry that holds one value a row."
            )
        entries = list(zip(range(len(x)), x, lengths, strict=True))
    elif isinstance(x, (dict, tuple)):  # one and the same for all that is below
        return dict.fromkeys(leaf_names(x, name), (label, lengths))
    elif isinstance(lengths, dict):
        raise ValueError(
            f"`{label}` must be one array, as `{name}` is. Expected shape (num_sequences,) or (num_sequences, time), "
            "received a dict."
        )
    else:
        return {name: (label, lengths)}
    found: dict[str, tuple[str, Any]] = {}
    for key, value, given in entries:
        found |= lengths_by_leaf(value, given, f"{name}[{show(key)}]", f"{label}[{show(key)}]")
    return found


def read_lengths(given: Any, shape: tuple[int, ...], label: str, name: str) -> tuple[np.ndarray, str | None]:
    """The lengths as integers, and the padded end where a mask shows it.

    Args:
        given: Ints `(num_rows,)`, or a mask `(num_rows, time)` of booleans, or of 0 and 1.
        shape: The shape of the padded array, `(num_rows, time, *features)`.
        label: What to call the lengths in an error message.
        name: What to call the array.

    Returns:
        Int64 array `(num_rows,)`, and "post", "pre" or None.

    Raises:
        TypeError: If they are no integers.
        ValueError: If they are negative, or not one for each row; if a mask has a gap, or rows padded at both ends.
    """
    mask = as_mask(given)
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


def as_mask(given: Any) -> np.ndarray | None:
    """A bool array `(num_rows, time)`, if it is a mask of booleans, or of 0 and 1; else None."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError):
        return None
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
        return None
    return array.astype(bool)


def lengths_of_mask(mask: np.ndarray, label: str) -> tuple[np.ndarray, str | None]:
    """The lengths in a mask of one run of True at the same end of every row, and the other end, which is padded.

    Example:
        >>> lengths_of_mask(np.array([[True, False], [True, True]]), "lengths")
        (array([1, 2]), 'post')
    """
    lengths = mask.sum(axis=1, dtype=np.int64)
    fits = {side: (mask == real_timesteps(lengths, mask.shape[1], side)).all(axis=1) for side in ("post", "pre")}
    wrong = ~(fits["post"] | fits["pre"])
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"`{label}` must be True in one run at the beginning or at the end of each row. Received a mask with gaps, "
            f"or with padding at both ends, at {label}[{at}]: {show(mask[at].astype(int).tolist())}. Take out the "
            "timesteps that are not real, and pass the sequences as a list to BucketedSequence itself."
        )
    only = {"post": fits["post"] & ~fits["pre"], "pre": fits["pre"] & ~fits["post"]}
    if only["post"].any() and only["pre"].any():
        raise ValueError(
            f"`{label}` must have the padding of all rows at the same end. Received padding at the end of row "
            f"{int(np.argmax(only['post']))} and at the beginning of row {int(np.argmax(only['pre']))}. Take the "
            "padding out yourself, and pass the sequences as a list to BucketedSequence itself."
        )
    return lengths, next((side for side, rows in only.items() if rows.any()), None)


def leaf_names(x: Any, name: str) -> list[str]:
    """The names of all leaves."""
    names: list[str] = []
    map_structure(lambda _, leaf: names.append(leaf), x, name)
    return names


def _is_flat(values: tuple[Any, ...]) -> bool:
    """Whether a tuple holds numbers, so that it is one array of lengths."""
    return bool(values) and all(isinstance(value, NUMBERS) for value in values)
