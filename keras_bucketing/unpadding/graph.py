"""The lengths of the rows of a padded batch, read off the batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import can_hold, show, show_typed

_PADDING_MASK = "padding_mask"  # what KerasHub's preprocessors call it


def sequence_paths(x: Any, sequences: Any = None) -> list[Any]:
    """Chooses the entries of a model's input that have a time axis.

    Args:
        x: The input's specs or arrays: a single one, or a dict, tuple or list of them.
        sequences: Optional str or int, the entry of `x` that holds the sequences, or a list of several.

    Returns:
        List of keys into `x`, or `[None]` where `x` itself is the batch.

    Raises:
        ValueError: If no entry can be a batch of sequences, or one cannot tell which.
    """
    entries = _entries(x)
    if sequences is not None:
        wanted = sequences if isinstance(sequences, list) and sequences else [sequences]
        for key in wanted:
            if not isinstance(key, (str, int)) or key not in entries:
                raise ValueError(
                    f"`sequences` names no entry of the batches' x. Expected one of {list(entries)}, or several "
                    f"in a list, received {show(key)}."
                )
        entries = {key: entries[key] for key in wanted}
    padded = {key: tuple(leaf.shape) for key, leaf in entries.items() if _rank(leaf) >= 2}
    if not padded or (sequences is not None and len(padded) < len(entries)):
        problem = "An entry of `sequences` has no" if padded else "No entry of the batches' x has a"
        raise ValueError(
            f"{problem} time axis. Expected the shape (batch, time, ...), received "
            f"{ {key: tuple(leaf.shape) if _rank(leaf) >= 0 else 'unknown shape' for key, leaf in entries.items()} }. "
            "Batch and pad the dataset before monitor_padding()."
        )
    if sequences is not None:
        return list(padded)
    masks = {mask for key in padded if (mask := _padding_mask_of(key, padded)) is not None}
    padded = {key: shape for key, shape in padded.items() if key not in masks} or padded
    # An axis of varying size is time; one of a fixed size may be features.
    varying = [key for key, shape in padded.items() if shape[1] is None]
    if not varying and len({shape[1] for shape in padded.values()}) > 1:
        raise ValueError(
            f"Which entry of the batches' x holds the sequences is not clear. Received the shapes {padded}. Say so: "
            f"monitor_padding(dataset, sequences={next(iter(padded))!r}), or a list of several entries."
        )
    return varying or list(padded)


def entry_name(path: Any) -> str:
    """What statistics call an entry of the model's input: `x`, `x['source']` or `x[0]`."""
    return "x" if path is None else f"x[{path!r}]"


def check_padding_of(x: Any, paths: list[Any], mask_value: Any) -> None:
    """Refuses a `mask_value` that the sequences' dtype cannot hold, as far as the dtype is known.

    Raises:
        TypeError: If it is not a number, or not a string where the sequences are strings.
        ValueError: If it is a number that the dtype cannot hold.
    """
    entries = _entries(x)
    for path in paths:
        dtype = tf.as_dtype(entries[path].dtype)
        is_number = isinstance(mask_value, (bool, int, float, np.number))
        if dtype == tf.string:
            if not isinstance(mask_value, (str, bytes)) and mask_value != 0:
                raise TypeError(
                    f"`mask_value` must be a string where the sequences are strings. Received {show(mask_value)}."
                )
        elif not is_number:
            raise TypeError(
                f"`mask_value` must be a number where the sequences have dtype {dtype.name}. Received "
                f"{show_typed(mask_value)}. Pass what the padding holds, for example 0."
            )
        elif not dtype.is_floating and not can_hold(np.dtype(dtype.as_numpy_dtype), mask_value):
            raise ValueError(
                f"`mask_value` must be a value that padding can hold. Expected one of dtype {dtype.name}, received "
                f"{show(mask_value)}."
            )


def row_lengths(x: Any, paths: list[Any], mask_value: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Measures a batch; in graph or eagerly.

    Lengths are those that the batch itself tells, within 1 and the padded length, if it has one of these entries:
    `"<name>_lengths"`; "lengths", for the entries that are padded as far as any (this package's is the longest's);
    a KerasHub mask, `"padding_mask"` or `"<beginning of the name>_padding_mask"`. Otherwise a length is what remains
    without the trailing `mask_value` timesteps, or without the leading ones if more rows of the batch begin than end
    with them. A row of nothing but `mask_value` counts as one timestep, as in `SequenceMasking`.

    Args:
        x: The model's input, as `sequence_paths` saw it.
        paths: What `sequence_paths` returned.
        mask_value: What padding holds.

    Returns:
        The rows' lengths in each entry, int32 of shape `(num_paths, batch)`, and the padded lengths, int32 of shape
        `(num_paths,)`, both in timesteps.
    """
    entries = _entries(x)
    padded_lengths = tf.stack([tf.shape(entries[path])[1] for path in paths])
    of_all = _given_lengths(entries, "lengths")
    lengths = []
    for index, path in enumerate(paths):
        padded_length = tf.maximum(padded_lengths[index], 1)
        given = _given_lengths(entries, f"{path}_lengths")
        if given is None and (of_all is None or len(paths) > 1):
            mask = _padding_mask_of(path, entries)
            leaf, padding = (entries[path], mask_value) if mask is None else (entries[mask], 0)
            measured = _unpadded_lengths(tf.convert_to_tensor(leaf), padding)
            is_longest = tf.equal(padded_lengths[index], tf.reduce_max(padded_lengths))
            given = measured if of_all is None else tf.where(is_longest, of_all, measured)
        lengths.append(tf.clip_by_value(of_all if given is None else given, 1, padded_length))
    return tf.stack(lengths), padded_lengths


def leaves_at(x: Any, paths: list[Any]) -> list[Any]:
    """The entries of a model's input that `sequence_paths` chose."""
    entries = _entries(x)
    return [entries[path] for path in paths]


def _given_lengths(entries: dict[Any, Any], key: str) -> tf.Tensor | None:
    """An entry of one integer a row, or None if there is none."""
    given = entries.get(key)
    if given is None or _rank(given) != 1 or not tf.as_dtype(given.dtype).is_integer:
        return None
    return tf.cast(given, tf.int32)


def _padding_mask_of(path: Any, entries: dict[Any, Any]) -> str | None:
    """The entry that is True on the real timesteps of another one, by KerasHub's names; None if there is none."""
    if not isinstance(path, str) or path.endswith(_PADDING_MASK):
        return None
    masks = [key for key in entries if isinstance(key, str) and key.endswith(_PADDING_MASK)]
    of_path = [mask for mask in masks if path.startswith(mask.removesuffix(_PADDING_MASK))]
    return max(of_path, key=len, default=None)


def _unpadded_lengths(leaf: tf.Tensor, mask_value: Any) -> tf.Tensor:
    if leaf.dtype == tf.string and mask_value == 0:
        mask_value = ""
    if isinstance(mask_value, (float, np.floating)) and math.isnan(mask_value):
        is_padding = tf.math.is_nan(leaf)
    else:
        is_padding = tf.equal(leaf, _as_stored(mask_value, leaf.dtype))
    is_real = tf.logical_not(tf.reduce_all(is_padding, axis=tf.range(2, tf.rank(leaf))))
    time = tf.shape(leaf)[1]
    steps = tf.range(1, time + 1)
    until_last = tf.reduce_max(tf.where(is_real, steps, 0), axis=1)
    from_first = tf.reduce_max(tf.where(is_real, time + 1 - steps, 0), axis=1)
    end_padded = tf.math.count_nonzero(until_last < time)
    begin_padded = tf.math.count_nonzero(from_first < time)
    return tf.maximum(tf.where(begin_padded > end_padded, from_first, until_last), 1)


def _as_stored(mask_value: Any, dtype: tf.DType) -> tf.Tensor:
    """The value as padding holds it: half precision by way of float32, as the data came."""
    if dtype in (tf.bool, tf.string) or dtype.is_integer:
        return tf.constant(np.asarray(mask_value).astype(dtype.as_numpy_dtype))
    if dtype in (tf.float32, tf.float64):  # tf.cast would round to float32 first
        return tf.constant(mask_value, dtype)
    return tf.cast(tf.constant(mask_value, tf.float32), dtype)


def _entries(x: Any) -> dict[Any, Any]:
    if isinstance(x, dict):
        return {key: x[key] for key in sorted(x, key=str)}
    if isinstance(x, (tuple, list)):
        return dict(enumerate(x))
    return {None: x}


def _rank(leaf: Any) -> int:
    """The number of axes; -1 where nobody knows, or for what is not a dense tensor."""
    shape = getattr(leaf, "shape", None)
    if shape is None or isinstance(leaf, (tf.RaggedTensorSpec, tf.SparseTensorSpec)):
        return -1
    rank = getattr(shape, "rank", None) if isinstance(shape, tf.TensorShape) else len(shape)
    return -1 if rank is None else int(rank)
