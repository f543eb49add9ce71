"""The lengths of the rows of a padded batch, read off the batch in graph: the rules of `monitor_padding`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import can_hold, list_some, show, show_typed
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.entries import PADDING_MASK, longest_prefix

TensorOrSpec = Any  # or an array
Entries = dict[Path, TensorOrSpec]


def sequence_paths(x: Structure, sequences: object = None) -> list[Path]:
    """Chooses the entries of a model's input that have a time axis.

    Args:
        x: The input's specs or arrays: a single one, or a dict, tuple or list of them.
        sequences: Optional str or int, the entry of `x` that holds the sequences, or a list of several.

    Returns:
        The paths of entries, or `[()]` where `x` itself is the batch.

    Raises:
        ValueError: If no entry can be a batch of sequences, or one cannot tell which.
    """
    entries = _entries(x) if sequences is None else _entries_named(x, sequences)
    padded = {path: tuple(leaf.shape) for path, leaf in entries.items() if _rank(leaf) >= 2}
    if not padded or (sequences is not None and len(padded) < len(entries)):
        problem = "An entry of `sequences` has no" if padded else "No entry of the batches' x has a"
        shapes = list_some(
            [
                f"{name_of('x', path)} of {f'shape {tuple(leaf.shape)}' if _rank(leaf) >= 0 else 'unknown shape'}"
                for path, leaf in entries.items()
            ]
        )
        raise ValueError(
            f"{problem} time axis. Expected the shape (batch, time, ...), received {shapes}. Batch and pad the dataset "
            "before monitor_padding()."
        )
    return _with_varying_axis(padded) if sequences is None else list(padded)


def _entries_named(x: Structure, sequences: object) -> Entries:
    entries = _entries(x)
    paths: list[Path] = []
    for key in sequences if isinstance(sequences, list) and sequences else [sequences]:
        if not isinstance(key, (str, int)) or (key,) not in entries:
            keys = [path[-1] for path in entries if path]
            raise ValueError(
                f"`sequences` names no entry of the batches' x. Expected one of {show(keys)}, or several in a list, "
                f"received {show(key)}."
            )
        paths.append((key,))
    return {path: entries[path] for path in paths}


def _with_varying_axis(padded: dict[Path, tuple[int | None, ...]]) -> list[Path]:
    """Those entries but the masks whose second axis is time: one of varying size is; one of a fixed size may not be."""
    masks = {mask for path in padded if (mask := _padding_mask_of(path, padded)) is not None}
    padded = {path: shape for path, shape in padded.items() if path not in masks} or padded
    varying = [path for path, shape in padded.items() if shape[1] is None]
    if not varying and len({shape[1] for shape in padded.values()}) > 1:
        shapes = list_some([f"{name_of('x', path)} of shape {shape}" for path, shape in padded.items()])
        raise ValueError(
            f"Which entry of the batches' x holds the sequences is not clear. Received {shapes}. Say so: "
            f"monitor_padding(dataset, sequences={show(next(iter(padded))[-1])}), or a list of several entries."
        )
    return varying or list(padded)


def entry_name(path: Path) -> str:
    """What statistics call an entry of the model's input: `x`, `x['source']` or `x[0]`; long keys too, in full."""
    return "x" + "".join(f"[{key!r}]" for key in path)


def check_padding_of(x: Structure, paths: list[Path], mask_value: Any) -> None:
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


def row_lengths(x: Structure, paths: list[Path], mask_value: Any) -> tuple[tf.Tensor, tf.Tensor]:
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
    longest = _given_lengths(entries, ("lengths",))
    lengths = []
    for index, path in enumerate(paths):
        padded_length = tf.maximum(padded_lengths[index], 1)
        own = _given_lengths(entries, tuple(f"{key}_lengths" for key in path))
        if own is None and (longest is None or len(paths) > 1):
            mask = _padding_mask_of(path, entries)
            leaf, padding = (entries[path], mask_value) if mask is None else (entries[mask], 0)
            own = _unpadded_lengths(tf.convert_to_tensor(leaf), padding)
            if longest is not None:
                is_longest = tf.equal(padded_lengths[index], tf.reduce_max(padded_lengths))
                own = tf.where(is_longest, longest, own)
        lengths.append(tf.clip_by_value(longest if own is None else own, 1, padded_length))
    return tf.stack(lengths), padded_lengths


def leaves_at(x: Structure, paths: list[Path]) -> list[TensorOrSpec]:
    """The entries of a model's input that `sequence_paths` chose."""
    entries = _entries(x)
    return [entries[path] for path in paths]


def _given_lengths(entries: Entries, path: Path) -> tf.Tensor | None:
    """An entry of one integer a row, or None if there is none."""
    given = entries.get(path) if path else None
    if given is None or _rank(given) != 1 or not tf.as_dtype(given.dtype).is_integer:
        return None
    return tf.cast(given, tf.int32)


def _padding_mask_of(path: Path, entries: Mapping[Path, TensorOrSpec]) -> Path | None:
    """The entry that is True on the real timesteps of another one, by KerasHub's names; None if there is none."""
    key = path[0] if path else None
    if not isinstance(key, str) or key.endswith(PADDING_MASK):
        return None
    masks = [other[0] for other in entries if isinstance(other[0], str) and other[0].endswith(PADDING_MASK)]
    prefix = longest_prefix(key, [mask.removesuffix(PADDING_MASK) for mask in masks])
    return None if prefix is None else (prefix + PADDING_MASK,)


def _unpadded_lengths(leaf: tf.Tensor, mask_value: Any) -> tf.Tensor:
    """What `spans.side_of_runs` and `spans.is_padding` say of arrays, with the majority of rows deciding the side."""
    if leaf.dtype == tf.string and mask_value == 0:
        mask_value = ""
    if isinstance(mask_value, (float, np.floating)) and math.isnan(mask_value):
        is_padding = tf.math.is_nan(leaf)
    else:
        is_padding = tf.equal(leaf, _in_stored_dtype(mask_value, leaf.dtype))
    is_real = tf.logical_not(tf.reduce_all(is_padding, axis=tf.range(2, tf.rank(leaf))))
    time = tf.shape(leaf)[1]
    steps = tf.range(1, time + 1)
    until_last = tf.reduce_max(tf.where(is_real, steps, 0), axis=1)
    from_first = tf.reduce_max(tf.where(is_real, time + 1 - steps, 0), axis=1)
    end_padded = tf.math.count_nonzero(until_last < time)
    begin_padded = tf.math.count_nonzero(from_first < time)
    return tf.maximum(tf.where(begin_padded > end_padded, from_first, until_last), 1)


def _in_stored_dtype(mask_value: Any, dtype: tf.DType) -> tf.Tensor:
    """The value as padding holds it: half precision by way of float32, as the data came."""
    if dtype in (tf.bool, tf.string) or dtype.is_integer:
        return tf.constant(np.asarray(mask_value).astype(dtype.as_numpy_dtype))
    if dtype in (tf.float32, tf.float64):  # tf.cast would round to float32 first
        return tf.constant(mask_value, dtype)
    return tf.cast(tf.constant(mask_value, tf.float32), dtype)


def _entries(x: Structure) -> Entries:
    """The entries by their paths; `x` itself under the empty one."""
    if isinstance(x, dict):
        return {(key,): x[key] for key in sorted(x, key=str)}
    if isinstance(x, (tuple, list)):
        return {(index,): leaf for index, leaf in enumerate(x)}
    return {(): x}


def _rank(leaf: TensorOrSpec) -> int:
    """The number of axes; -1 where nobody knows, or for what is not a dense tensor."""
    shape = getattr(leaf, "shape", None)
    if shape is None or isinstance(leaf, (tf.RaggedTensorSpec, tf.SparseTensorSpec)):
        return -1
    rank = getattr(shape, "rank", None) if isinstance(shape, tf.TensorShape) else len(shape)
    return -1 if rank is None else int(rank)
