"""The lengths of the rows of a padded batch, read off the batch in graph: what `monitor_padding` counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import list_some, show, show_typed
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.entries import EntryKind, EntryTable, read_table
from keras_bucketing.unpadding.spans import Side, check_holds

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
    return _with_varying_axis(padded, table_of(x)) if sequences is None else list(padded)


def _entries_named(x: Structure, sequences: object) -> Entries:
    entries = _entries(x)
    paths: list[Path] = []
    for key in sequences if isinstance(sequences, list) and sequences else [sequences]:
        if not isinstance(key, (str, int)) or (key,) not in entries:
            keys = [path[-1] for path in entries if path]
            raise ValueError(
                f"`sequences` names no entry of the batches' x. Expected one of {keys}, or several in a list, received "
                f"{show(key)}."
            )
        paths.append((key,))
    return {path: entries[path] for path in paths}


def table_of(x: Structure) -> EntryTable:
    """What tells the lengths of the entries of a model's input; its paths begin with "x"."""
    kinds = {
        ("x", *path): EntryKind(_rank(leaf), _kind_of_dtype(leaf))
        for path, leaf in _entries(x).items()
        if _rank(leaf) >= 0
    }
    return read_table(kinds)


def _kind_of_dtype(leaf: TensorOrSpec) -> str:
    dtype = tf.as_dtype(leaf.dtype)
    if dtype.is_integer:
        return "i"
    return "b" if dtype == tf.bool else "f"


def _with_varying_axis(padded: dict[Path, tuple[int | None, ...]], table: EntryTable) -> list[Path]:
    """Those entries but the masks whose second axis is time: one of varying size is; one of a fixed size may not be."""
    padded = {path: shape for path, shape in padded.items() if not table.is_mask(("x", *path))} or padded
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
        is_number = isinstance(mask_value, (bool, int, float, np.number, np.ndarray))
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
        else:
            stored = np.dtype(np.float32 if dtype.is_floating else dtype.as_numpy_dtype)
            check_holds(mask_value, stored, tuple(entries[path].shape[2:]))


class MeasuredRows(NamedTuple):
    """What a batch says of its rows.

    Attributes:
        lengths: The rows' lengths in each entry, int32 `(num_paths, batch)`, at least 1.
        padded_lengths: The padded lengths, int32 `(num_paths,)`.
        runs: How many rows end and how many begin in a run of `mask_value`, and how long these runs are together, int64
            `(num_paths, 4)`; zeros for entries whose lengths are told.
        is_under_mask: Which timesteps a mask calls real, for each entry that has one.
    """

    lengths: tf.Tensor
    padded_lengths: tf.Tensor
    runs: tf.Tensor
    is_under_mask: dict[int, tf.Tensor]


def measure_rows(x: Structure, paths: list[Path], mask_value: Any, padding: Side | None = None) -> MeasuredRows:
    """Measures a batch; in graph or eagerly.

    Lengths are those that the batch itself tells, within 1 and the padded length, by the names of `entries.py`: a
    mask, `"<name>_lengths"`, or "lengths", for the entries that are padded as far as any (this package's is the
    longest's). Otherwise a length is what remains without the run of `mask_value` timesteps at the padded end, the only
    one where rows have runs. A row of nothing but `mask_value` counts as one timestep, as in `SequenceMasking`.

    Args:
        x: The model's input, as `sequence_paths` saw it.
        paths: What `sequence_paths` returned.
        mask_value: What padding holds.
        padding: The end that is padded; None for the only one that shows runs.
    """
    entries, table = _entries(x), table_of(x)
    padded_lengths = tf.stack([tf.shape(entries[path])[1] for path in paths])
    lengths, runs, under = [], [], {}
    for index, path in enumerate(paths):
        leaf = tf.convert_to_tensor(entries[path])
        own, counts = _told_lengths(("x", *path), entries, table), tf.zeros([4], tf.int64)
        mask = table.masks.get(("x", *path))
        if mask is not None and mask[1:] != path:
            under[index] = tf.not_equal(entries[mask[1:]], tf.zeros([], entries[mask[1:]].dtype))
        longest = table.longest.get(("x", *path))
        if own is None:
            own, counts = _unpadded_lengths(leaf, mask_value, padding)
            if longest is not None:
                is_longest = tf.equal(padded_lengths[index], tf.reduce_max(padded_lengths))
                own = tf.where(is_longest, _as_lengths(entries[longest[1:]]), own)
                counts = tf.where(is_longest, tf.zeros_like(counts), counts)
        lengths.append(tf.clip_by_value(own, 1, tf.maximum(padded_lengths[index], 1)))
        runs.append(counts)
    return MeasuredRows(tf.stack(lengths), padded_lengths, tf.stack(runs), under)


def row_lengths(x: Structure, paths: list[Path], mask_value: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The lengths and the padded lengths of `measure_rows`."""
    measured = measure_rows(x, paths, mask_value)
    return measured.lengths, measured.padded_lengths


def _told_lengths(path: Path, entries: Entries, table: EntryTable) -> tf.Tensor | None:
    """What a mask, or lengths of its own, tell of an entry; None if only its values or the longest do."""
    if path in table.masks:
        mask = entries[table.masks[path][1:]]
        is_real = tf.not_equal(mask, tf.zeros([], mask.dtype))
        return tf.cast(tf.math.count_nonzero(is_real, axis=1), tf.int32)
    return _as_lengths(entries[table.lengths[path][1:]]) if path in table.lengths else None


def _as_lengths(entry: TensorOrSpec) -> tf.Tensor:
    return tf.cast(entry, tf.int32)


def leaves_at(x: Structure, paths: list[Path]) -> list[TensorOrSpec]:
    """The entries of a model's input that `sequence_paths` chose."""
    entries = _entries(x)
    return [entries[path] for path in paths]


def _unpadded_lengths(leaf: tf.Tensor, mask_value: Any, padding: Side | None) -> tuple[tf.Tensor, tf.Tensor]:
    """The lengths, and the runs at either end: what `spans.SideOfRuns` and `spans.is_padding` say of arrays."""
    if leaf.dtype == tf.string and isinstance(mask_value, int) and mask_value == 0:
        mask_value = ""
    value = _in_stored_dtype(mask_value, leaf.dtype)
    is_padding = tf.equal(leaf, value)
    if leaf.dtype.is_floating:
        is_padding = tf.logical_or(is_padding, tf.logical_and(tf.math.is_nan(leaf), tf.math.is_nan(value)))
    is_real = tf.logical_not(tf.reduce_all(is_padding, axis=tf.range(2, tf.rank(leaf))))
    time = tf.shape(leaf)[1]
    steps = tf.range(1, time + 1)
    until_last = tf.reduce_max(tf.where(is_real, steps, 0), axis=1)
    from_first = tf.reduce_max(tf.where(is_real, time + 1 - steps, 0), axis=1)
    counts = []
    for length in (until_last, from_first):
        has_run = tf.logical_and(length > 0, length < time)
        counts += [
            tf.math.count_nonzero(has_run),
            tf.reduce_sum(tf.cast(tf.where(has_run, time - length, 0), tf.int64)),
        ]
    if padding is None:
        lengths = tf.where(counts[2] > counts[0], from_first, until_last)
    else:
        lengths = until_last if padding == "post" else from_first
    return tf.maximum(lengths, 1), tf.stack([counts[0], counts[2], counts[1], counts[3]])


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
