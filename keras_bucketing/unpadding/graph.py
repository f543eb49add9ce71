"""The lengths of the rows of a padded batch, read off the batch in graph, as counted by `monitor_padding`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import list_some, show, show_typed
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.entries import EntryKind, EntryTable, read_table
from keras_bucketing.unpadding.evidence import COUNTS, Evidence
from keras_bucketing.unpadding.pairs import Core, count_differences
from keras_bucketing.unpadding.spans import Side, check_holds

TensorOrSpec = Any  # or an array
Entries = dict[Path, TensorOrSpec]


def sequence_paths(x: Structure, sequences: object = None) -> list[Path]:
    """Chooses the entries of a model's input that have a time axis.

    Args:
        x: The input's specs or arrays: a single one, or a dict, tuple or list of them.
        sequences: Optional str or int, the entry of `x` that holds the sequences, or a list of several.

    Returns:
        The paths of entries, or `[()]` if `x` itself is the batch.

    Raises:
        ValueError: If no entry can be a batch of sequences, or it is not clear which is.
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
    return _with_varying_axis(padded, entries, table_of(x)) if sequences is None else list(padded)


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


def table_of(x: Structure, is_named: bool = False) -> EntryTable:
    """The entries with the lengths of a model's input; their paths begin with "x".

    `is_named` says that the caller has named the sequences, so that a column is data whatever its name is.
    """
    kinds = {
        ("x", *path): EntryKind(
            _rank(leaf), _kind_of_dtype(leaf), None if is_named or _rank(leaf) < 2 else leaf.shape[1]
        )
        for path, leaf in _entries(x).items()
        if _rank(leaf) >= 0
    }
    return read_table(kinds)


def dtype_of(leaf: TensorOrSpec) -> tf.DType:
    """The dtype of an entry; refuses what neither counts nor spells."""
    try:
        dtype = tf.as_dtype(leaf.dtype)
    except TypeError:
        dtype = None
    if dtype is None or not (dtype.is_integer or dtype.is_floating or dtype in (tf.bool, tf.string)):
        raise TypeError(
            "A batch's x must hold numbers or strings. Received the dtype "
            f"{leaf.dtype if dtype is None else dtype.name}. Convert it to numbers first."
        )
    return dtype


def _kind_of_dtype(leaf: TensorOrSpec) -> str:
    dtype = dtype_of(leaf)
    if dtype.is_integer:
        return "i"
    return "b" if dtype == tf.bool else "f"


def _with_varying_axis(padded: dict[Path, tuple[int | None, ...]], entries: Entries, table: EntryTable) -> list[Path]:
    """The entries without masks whose second axis is time: one of varying size is; one of a fixed size may not be."""
    padded = {path: shape for path, shape in padded.items() if not table.is_mask(("x", *path))} or padded
    varying = [path for path, shape in padded.items() if shape[1] is None]
    if not varying and len({shape[1] for shape in padded.values()}) > 1 and not _all_are_told(padded, entries, table):
        shapes = list_some([f"{name_of('x', path)} of shape {shape}" for path, shape in padded.items()])
        raise ValueError(
            f"It is not clear which entry of the batches' x holds the sequences. Received {shapes}. Pass it, "
            f"monitor_padding(dataset, sequences={show(next(iter(padded))[-1])}), or a list of several entries."
        )
    return varying or list(padded)


def _all_are_told(padded: dict[Path, tuple[int | None, ...]], entries: Entries, table: EntryTable) -> bool:
    """Whether each entry has a mask of its padded length, or lengths of its own."""
    masks = {path: table.masks.get(("x", *path)) for path in padded}
    return all(
        ("x", *path) in table.lengths or ((mask := masks[path]) is not None and not _is_unlike(leaf, entries[mask[1:]]))
        for path, leaf in ((path, entries[path]) for path in padded)
    )


def entry_name(path: Path) -> str:
    """The name of an entry of the model's input in statistics: `x`, `x['source']` or `x[0]`, with long keys in full."""
    return "x" + "".join(f"[{key!r}]" for key in path)


def check_padding_of(x: Structure, paths: list[Path], mask_value: Any) -> None:
    """Refuses a `mask_value` that the sequences' dtype cannot hold, as far as the dtype is known.

    Raises:
        TypeError: If it is not a number, or not a string although the sequences are strings.
        ValueError: If it is a number that the dtype cannot hold.
    """
    entries = _entries(x)
    for path in paths:
        dtype = dtype_of(entries[path])
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
    """The measurements of the rows of a batch.

    Attributes:
        lengths: The rows' lengths in each entry, int32 `(num_paths, batch)`, at least 1.
        padded_lengths: The padded lengths, int32 `(num_paths,)`.
        counts: The evidence for and against these lengths, int64 `(evidence.num_counted, COUNTS)`.
        is_under_mask: Which timesteps a mask calls real, for each entry that has one.
    """

    lengths: tf.Tensor
    padded_lengths: tf.Tensor
    counts: tf.Tensor
    is_under_mask: dict[int, tf.Tensor]


def measure_rows(x: Structure, evidence: Evidence, mask_value: Any, padding: Side | None = None) -> MeasuredRows:
    """Measures a batch; in graph or eagerly.

    Lengths are those that the batch itself tells, within 1 and the padded length, by the names of `entries.py`: a
    mask, `"<name>_lengths"`, or "lengths", for the entries that are padded as far as any (this package's is the
    longest's). Otherwise a length is what remains without the run of `mask_value` timesteps at the padded end, the only
    one where rows have runs. A row of nothing but `mask_value` counts as one timestep, as in `SequenceMasking`.

    Args:
        x: The model's input.
        evidence: What was found out of its entries.
        mask_value: What padding holds.
        padding: The end that is padded; None for the only one that shows runs.
    """
    entries, table, paths = _entries(x), evidence.table, evidence.paths
    leaves = [tf.convert_to_tensor(entries[path]) for path in paths]
    padded_lengths = tf.stack([tf.shape(leaf)[1] for leaf in leaves])
    cores = {
        index: _core(leaf, mask_value) for index, leaf in enumerate(leaves) if index in evidence.measured_by_values
    }
    lengths, runs, under = [], [], {}
    is_longest = _is_longest(evidence, padded_lengths)
    for index, path in enumerate(paths):
        mask = table.masks.get(("x", *path))
        if mask is not None and mask[1:] != path:
            under[index] = tf.not_equal(entries[mask[1:]], tf.zeros([], entries[mask[1:]].dtype))
        own, counts = _told_lengths(("x", *path), entries, table), tf.zeros([4], tf.int64)
        if own is None:
            own, counts = _lengths_of_core(cores[index], padding)
            longest = table.longest.get(("x", *path))
            if longest is not None:
                own = tf.where(is_longest[index], _as_lengths(entries[longest[1:]]), own)
                counts = tf.where(is_longest[index], tf.zeros_like(counts), counts)
        lengths.append(tf.clip_by_value(own, 1, tf.maximum(padded_lengths[index], 1)))
        runs.append(counts)
    sided = {index: _at_one_side(core, padding) for index, core in cores.items()}
    counted = [*runs, *_count_evidence(entries, evidence, sided, is_longest, mask_value)]
    rows = [tf.pad(row, [[0, COUNTS - row.shape[0]]]) for row in counted]
    return MeasuredRows(tf.stack(lengths), padded_lengths, tf.stack(rows), under)


def row_lengths(x: Structure, paths: list[Path], mask_value: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The lengths and the padded lengths of `measure_rows`."""
    measured = measure_rows(x, evidence_of(x, paths), mask_value)
    return measured.lengths, measured.padded_lengths


def evidence_of(x: Structure, paths: list[Path], is_named: bool = False) -> Evidence:
    """The possible evidence about the entries of an input, or of its specs; arrays also show what is not a mask."""
    entries = _entries(x)
    table = table_of(x, is_named)
    wrong = [
        path
        for path, mask in table.masks.items()
        if _is_unlike(entries[path[1:]], entries[mask[1:]]) or not _may_be_mask(entries[mask[1:]])
    ]
    return Evidence(paths, table.without_masks_of(wrong), is_named)


def _is_unlike(leaf: TensorOrSpec, mask: TensorOrSpec) -> bool:
    """Whether a mask is known to have another padded length than a leaf."""
    one, other = leaf.shape[1], mask.shape[1]
    return one is not None and other is not None and int(one) != int(other)


def _may_be_mask(mask: TensorOrSpec) -> bool:
    if isinstance(mask, np.ndarray) or (isinstance(mask, tf.Tensor) and hasattr(mask, "numpy")):
        array = np.asarray(mask)
        return bool(((array == 0) | (array == 1)).all())
    return True


def _is_longest(evidence: Evidence, padded_lengths: tf.Tensor) -> dict[int, tf.Tensor]:
    """Whether each entry to which "lengths" may apply is padded as far as any other in this batch."""
    beside = [index for index, path in enumerate(evidence.paths) if evidence.table.tells(("x", *path))]
    longest = tf.reduce_max(tf.gather(padded_lengths, beside)) if beside else None
    return {
        index: tf.equal(padded_lengths[index], longest)
        for index, path in enumerate(evidence.paths)
        if ("x", *path) in evidence.table.longest
    }


def _count_evidence(
    entries: Entries, evidence: Evidence, cores: dict[int, Core], is_longest: dict[int, tf.Tensor], mask_value: Any
) -> list[tf.Tensor]:
    """The counts of pairs, masks, rivals and lengths, in the order of `Evidence`."""

    def count(rows: tf.Tensor) -> tf.Tensor:
        return tf.math.count_nonzero(rows)

    counted: list[tf.Tensor] = []
    for one, other in evidence.pairs:
        are_alike = tf.equal(cores[one].time, cores[other].time)
        counts = tf.stack(count_differences(cores[one], cores[other], count))
        counts = tf.where(are_alike, counts, tf.zeros_like(counts))
        counted.append(tf.concat([counts, [count([tf.logical_not(are_alike)])]], 0))
    for index, mask in evidence.masked:
        counted.append(_count_mask(entries, evidence, index, mask))
    for index, rivals in evidence.rivals:
        shape = tf.shape(entries[evidence.paths[index]])[:2]
        counted.append(tf.stack([_count_unlike_rivals(shape, [entries[rival[1:]] for rival in rivals])]))
    for index, at in evidence.lengths:
        given = _as_lengths(entries[at[1:]])
        unclear, beyond = tf.zeros([], tf.int64), _count_beyond(entries[evidence.paths[index]], given, mask_value)
        if index in is_longest:
            is_told = tf.cast(is_longest[index], tf.int64)
            unclear = count(_is_unclear(index, given, entries, evidence, cores)) * is_told
            beyond *= is_told
        counted.append(tf.concat([[count(given < 0), unclear], beyond], 0))
    return counted


def _count_beyond(leaf: TensorOrSpec, lengths: tf.Tensor, mask_value: Any) -> tf.Tensor:
    """Of a batch with lengths beyond its padded length, the rows that speak for either end, and that contradict it.

    Shorter rows show the end that is padded; at that end, a row that was cut has no padding.
    """

    def count() -> tf.Tensor:
        core = _core(tf.convert_to_tensor(leaf), mask_value)
        is_cut, is_short = (lengths > core.time) & ~core.is_empty, (lengths > 0) & (lengths < core.time)
        ends_at, begins_at = core.stop <= lengths, core.time - core.first <= lengths
        rows = [is_short & ends_at, is_short & begins_at, is_cut & (core.stop < core.time), is_cut & (core.first > 0)]
        return tf.stack([tf.math.count_nonzero(each) for each in rows])

    time = tf.shape(leaf)[1]
    return tf.cond(tf.reduce_any(lengths > time), count, lambda: tf.zeros([4], tf.int64))


def _count_mask(entries: Entries, evidence: Evidence, index: int, mask: Path) -> tf.Tensor:
    """How many rows of a mask have gaps, are padded at either end, and do not fit its leaf."""
    path = evidence.paths[index]
    leaf, entry = entries[path], entries[mask[1:]]
    core = _core(tf.cast(tf.not_equal(entry, tf.zeros([], entry.dtype)), tf.int32), 0)
    is_mixed = tf.logical_not(core.is_empty)
    ends, begins = core.stop < core.time, core.first > 0
    gaps = core.has_gaps | (ends & begins & is_mixed)
    is_number = tf.logical_or(tf.equal(entry, tf.zeros([], entry.dtype)), tf.equal(entry, tf.ones([], entry.dtype)))
    is_unlike = tf.not_equal(tf.shape(leaf)[1], tf.shape(entry)[1])
    own = evidence.table.lengths.get(("x", *path))
    lengths = core.stop - core.first
    differs = tf.constant([False]) if own is None else tf.not_equal(_as_lengths(entries[own[1:]]), lengths)
    counts = [gaps, ends & ~gaps & is_mixed, begins & ~gaps & is_mixed, ~is_number, [is_unlike], differs]
    return tf.stack([tf.math.count_nonzero(each) for each in counts])


def _count_unlike_rivals(shape: tf.Tensor, masks: list[TensorOrSpec]) -> tf.Tensor:
    """The number of timesteps in which masks of the shape of a leaf differ."""
    counts = [tf.zeros([], tf.int64)]
    for mask in masks[1:]:
        fit = tf.logical_and(
            tf.reduce_all(tf.equal(tf.shape(mask), shape)), tf.reduce_all(tf.equal(tf.shape(masks[0]), shape))
        )

        def differ(mask: TensorOrSpec = mask) -> tf.Tensor:
            is_real = [tf.not_equal(each, tf.zeros([], each.dtype)) for each in (masks[0], mask)]
            return tf.math.count_nonzero(tf.not_equal(*is_real))

        counts.append(tf.cond(fit, differ, lambda: tf.zeros([], tf.int64)))
    return tf.add_n(counts)


def _is_unclear(
    index: int, lengths: tf.Tensor, entries: Entries, evidence: Evidence, cores: dict[int, Core]
) -> tf.Tensor:
    """The rows in which a leaf ends earlier than "lengths" says, which belong to another one; as in `batches`."""
    mine = cores[index]
    others = evidence.beside(index)
    if not others:
        return tf.zeros_like(lengths, tf.bool)
    reached = [
        tf.equal(
            lengths,
            told
            if (told := _told_lengths(("x", *evidence.paths[other]), entries, evidence.table)) is not None
            else cores[other].lengths,
        )
        for other in others
    ]
    own = tf.cast(mine.lengths, tf.int32)
    is_shorter = (own > 0) & (own < lengths) & ~tf.reduce_any(mine.has_gaps)
    return is_shorter & tf.reduce_any(tf.stack(reached), axis=0)


def _told_lengths(path: Path, entries: Entries, table: EntryTable) -> tf.Tensor | None:
    """The lengths of an entry by its mask or its own lengths; None if only its values or the longest tell them."""
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


def _core(leaf: tf.Tensor, mask_value: Any) -> Core:
    """The positions of the first and the last timestep other than `mask_value`, as `spans.is_padding` for arrays."""
    if leaf.dtype == tf.string and isinstance(mask_value, int) and mask_value == 0:
        mask_value = ""
    value = _in_stored_dtype(mask_value, leaf.dtype)
    is_padding = tf.equal(leaf, value)
    if leaf.dtype.is_floating:
        is_padding = tf.logical_or(is_padding, tf.logical_and(tf.math.is_nan(leaf), tf.math.is_nan(value)))
    is_real = tf.logical_not(tf.reduce_all(is_padding, axis=tf.range(2, tf.rank(leaf))))
    time = tf.shape(leaf)[1]
    steps = tf.range(1, time + 1)
    stop = tf.reduce_max(tf.where(is_real, steps, 0), axis=1)
    from_first = tf.reduce_max(tf.where(is_real, time + 1 - steps, 0), axis=1)
    first = tf.where(stop > 0, time - from_first, 0)
    num_real = tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32)
    return Core(first, stop, tf.equal(stop, 0), num_real < stop - first, time)


def _at_one_side(core: Core, padding: Side | None) -> Core:
    """Treats the end that is not padded as real, if `padding` is known."""
    if padding == "post":
        first = tf.zeros_like(core.first)
        return core._replace(first=first)
    return core if padding is None else core._replace(stop=tf.where(core.is_empty, 0, core.time))


def _lengths_of_core(core: Core, padding: Side | None) -> tf.Tensor:
    """The lengths, and the runs at either end: what `spans.SideOfRuns` says of arrays."""
    until_last, from_first = core.stop, tf.where(core.is_empty, 0, core.time - core.first)
    counts = []
    for length in (until_last, from_first):
        has_run = tf.logical_and(length > 0, length < core.time)
        counts += [
            tf.math.count_nonzero(has_run),
            tf.reduce_sum(tf.cast(tf.where(has_run, core.time - length, 0), tf.int64)),
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


_NOT_DENSE = (tf.RaggedTensorSpec, tf.SparseTensorSpec, tf.RaggedTensor, tf.SparseTensor)


def _rank(leaf: TensorOrSpec) -> int:
    """The number of axes; -1 if it is unknown, or if this is not a dense tensor."""
    shape = getattr(leaf, "shape", None)
    if shape is None or isinstance(leaf, _NOT_DENSE):
        return -1
    rank = getattr(shape, "rank", None) if isinstance(shape, tf.TensorShape) else len(shape)
    return -1 if rank is None else int(rank)
