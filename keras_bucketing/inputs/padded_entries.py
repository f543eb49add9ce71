"""Which entries of `x` are padded sequences, and which of them is the mask of others."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from keras_bucketing.checks import shorten, show
from keras_bucketing.inputs.given_lengths import as_mask, leaf_names, lengths_of_mask

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
