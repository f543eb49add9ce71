"""The lengths of the rows of each batch, measured on the host or in graph, and the figures made from them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import as_numbers
from keras_bucketing.data.row_splits import row_splits_of
from keras_bucketing.data.tree import Path, name_of
from keras_bucketing.monitoring.pass_log import KEPT_PASSES, LogEntry, PassLog
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from keras_bucketing.unpadding.evidence import Evidence
from keras_bucketing.unpadding.graph import (
    check_padding_of,
    dtype_of,
    entry_name,
    evidence_of,
    leaves_at,
    measure_rows,
    sequence_paths,
)
from keras_bucketing.unpadding.spans import Side
from keras_bucketing.unpadding.unnoticed import UnnoticedPaddingCheck

MaskValue = Any  # a number, a string, or an array of the shape of a timestep
EntryKeys = str | int | list[str | int] | None  # which entries of x are sequences
Batch = Any  # x, (x, y) or (x, y, sample_weight), x being a tensor or a dict, tuple or list of tensors


def x_of(batch: Batch) -> Batch:
    """The model's input in a batch, as `fit` takes it apart."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def entry_of_batch(lengths: tf.Tensor, padded_lengths: tf.Tensor) -> tf.Tensor:
    """Int32 `(num_leaves, 1 + rows)`: the padded length of each leaf and the lengths of its rows."""
    return tf.concat([padded_lengths[:, tf.newaxis], lengths], axis=1)


def stats_of_entries(
    entries: list[LogEntry],
    names: list[str],
    bucket_boundaries: list[int] | None,
    owners: list[int] | None = None,
) -> PaddingStats:
    """The padding of batches, from the results of `entry_of_batch`.

    `owners` names for each leaf the leaf whose lengths it has.
    """
    if not entries:
        return PaddingStats()
    if owners:
        entries = [np.concatenate([entry[:, :1], entry[owners, 1:]], axis=1) for entry in entries]
    padded_lengths = np.stack([entry[:, 0] for entry in entries], axis=1)
    # No batch is padded beyond its bucket, so its padded length tells the bucket even where shorter rows spilled.
    buckets = None
    if bucket_boundaries is not None:
        buckets = np.searchsorted(bucket_boundaries, padded_lengths.max(axis=0), side="right")
    return PaddingStats.from_leaves(
        dict(zip(names, np.concatenate([entry[:, 1:] for entry in entries], axis=1), strict=True)),
        row_splits_of(np.array([entry.shape[1] - 1 for entry in entries])),
        dict(zip(names, padded_lengths, strict=True)),
        buckets=buckets,
    )


class BatchMeasure:
    """Measures batches of arrays or tensors on the host, all by the entries of the first one.

    Args:
        mask_value: The value of padding.
        sequences: Which entries of `x` hold sequences; None to find them.
        bucket_boundaries: Optional list of ints, to find the bucket of a batch from its padded length.
        padding: The end that is padded, or None.
    """

    def __init__(
        self,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
        padding: Side | None = None,
    ):
        self._mask_value, self._padding = mask_value, padding
        self._newest_pass = 0
        self._sequences = sequences
        self._bucket_boundaries = bucket_boundaries
        self._padding_check = UnnoticedPaddingCheck(mask_value, padding)
        self._owners: list[int] | None = None  # of each leaf, the one whose lengths are its own
        self._lock = threading.Lock()  # of what follows
        self._paths: list[Path] | None = None
        self._evidence: Evidence | None = None
        self._names: list[str] = []
        self._dtypes: list[tf.DType] = []

    def measure(self, x: Batch, pass_number: int, index: int) -> LogEntry:
        """The lengths of a batch, the one of this index in its pass.

        Raises:
            TypeError: If `mask_value` is of another kind than the sequences.
            ValueError: If no entry, or more than one, can be a batch of sequences, or an entry that was taken for one
                has another padded length than the others in this batch.
        """
        flat, names = flatten(x, as_host_array)
        with tf.device("CPU:0"):
            paths = self._find_paths(flat, names)
            leaves = [
                _in_dtype_of_first(tf.convert_to_tensor(leaf), dtype, name)
                for leaf, dtype, name in zip(leaves_at(flat, paths), self._dtypes, self._names, strict=True)
            ]
            measured = measure_rows(flat, self._evidence_of(flat, paths), self._mask_value, self._padding)
            self._padding_check.sample(pass_number, index, leaves, measured)
            self._newest_pass = pass_number
            entry: LogEntry = entry_of_batch(measured.lengths, measured.padded_lengths).numpy()
        return entry

    def stats(self, entries: list[LogEntry]) -> PaddingStats:
        """The figures of batches that `measure` has seen."""
        with contextlib.suppress(ValueError):  # `warn_once` says so, where the figures are asked for
            self._judge()
        return stats_of_entries(entries, self._names, self._bucket_boundaries, self._owners)

    def warn_once(self) -> None:
        """Warns if padding was taken for data in the first batches, and refuses what is not certain."""
        self._judge()
        self._padding_check.warn_once(self._names, self._dtypes)

    def _judge(self) -> None:
        found = self._padding_check.refuse_uncertain(self._newest_pass, self._evidence, self._names, self._dtypes)
        self._owners = found

    def _evidence_of(self, x: Batch, paths: list[Path]) -> Evidence:
        with self._lock:
            if self._evidence is None:
                self._evidence = evidence_of(x, paths, is_named=self._sequences is not None)
            return self._evidence

    def _find_paths(self, x: Batch, names: dict[Path, str]) -> list[Path]:
        with self._lock:
            if self._paths is None:
                paths = sequence_paths(x, flat_keys(self._sequences, names))
                check_padding_of(x, paths, self._mask_value)
                self._names = [names[path] for path in paths]
                self._dtypes = [dtype_of(leaf) for leaf in leaves_at(x, paths)]
                self._paths = paths
            elif self._sequences is None and sequence_paths(x) != self._paths:
                raise ValueError(
                    "It is not clear which entries of the batches' x hold the sequences. Expected those of the first "
                    f"batch, {', '.join(self._names)}, received others that may be. Pass sequences=, a key of x or a "
                    "list of several."
                )
            return self._paths


def _in_dtype_of_first(leaf: tf.Tensor, dtype: tf.DType, name: str) -> tf.Tensor:
    """A leaf, for the sample of the first batches, in the dtype that it had in the first of all."""
    if (leaf.dtype == tf.string) != (dtype == tf.string):
        raise ValueError(
            f"`{name}` must hold strings in all batches, or numbers in all. Expected {dtype.name} as in the first one, "
            f"received {leaf.dtype.name}."
        )
    return leaf if leaf.dtype == dtype else tf.cast(leaf, dtype)


def flatten(x: Batch, convert: Callable[[Any], Any]) -> tuple[Batch, dict[Path, str]]:
    """Converted leaves in a structure of one level, as in `unpadding.graph`, and the names of its paths.

    The keys of a nested structure are joined, such as "encoder/token_ids", so that masks and lengths share the
    beginning of the name of their entry.
    """
    x = tree.with_dicts(x)
    paths = _leaf_paths(x, ())
    if all(len(path) <= 1 for path, _ in paths):
        names = {path: entry_name(path) for path, _ in paths}
        if not isinstance(x, (dict, tuple, list)):
            return convert(x), names
        if isinstance(x, dict):
            return {path[0]: convert(leaf) for path, leaf in paths}, names
        return tuple(convert(leaf) for _, leaf in paths), names
    joined = {"/".join(map(str, path)): (path, leaf) for path, leaf in paths}
    names = {(key,): name_of("x", path) for key, (path, _) in joined.items()}
    return {key: convert(leaf) for key, (_, leaf) in joined.items()}, names


def _leaf_paths(x: Batch, path: Path) -> list[tuple[Path, Any]]:
    if isinstance(x, dict):
        return [found for key, value in x.items() for found in _leaf_paths(value, (*path, key))]
    if isinstance(x, (tuple, list)):
        return [found for key, value in enumerate(x) for found in _leaf_paths(value, (*path, key))]
    return [] if x is None else [(path, x)]


def flat_keys(sequences: EntryKeys, names: dict[Path, str]) -> Any:
    """`sequences` as keys of the flat structure: an entry that is itself a structure stands for all of it."""
    keys = [path[0] for path in names if path]
    flat: list[Any] = []
    for key in sequences if isinstance(sequences, list) else [sequences]:
        below = [other for other in keys if isinstance(other, str) and other.startswith(f"{key}/")]
        flat += [key] if key in keys or not below else below
    return flat if isinstance(sequences, list) else flat[0] if len(flat) == 1 else flat


def as_host_array(leaf: Any) -> Any:
    """A leaf of a batch as something with a shape and a dtype in host memory; ragged and sparse tensors stay."""
    if isinstance(leaf, np.ndarray) and leaf.dtype == object and leaf.ndim:
        return as_numbers(leaf, "x")
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor, tf.Tensor, np.ndarray)):
        return leaf
    if hasattr(leaf, "detach"):  # a torch.Tensor, which may need gradients or lie on a GPU
        leaf = leaf.detach().cpu()
    array = np.asarray(leaf)
    if array.dtype == object:
        raise ValueError(
            f"A batch's x must be padded. Expected an array of one shape, received {show(leaf)}. Pad its rows, or pass "
            "sequences that are not padded to BucketedSequence."
        )
    return array


class HostLog(PassLog):
    """The entries of batches that Python code reads, and the figures of the last finished pass.

    Args:
        measure: Makes figures from entries.
    """

    def __init__(self, measure: BatchMeasure):
        super().__init__()
        self._measure = measure
        self._newest = 0
        self._entries: dict[int, dict[int, LogEntry]] = {}
        self._finished = PaddingStats()

    def begin(self, prefix: list[LogEntry] | None = None) -> int:
        """Begins a pass, with the entries of batches that it has in common with another one; returns its number."""
        with self._lock:
            self._newest += 1
            self._entries[self._newest] = dict(enumerate(prefix or []))
            self._entries.pop(self._newest - KEPT_PASSES, None)
            return self._newest

    def note(self, number: int, index: int, entry: LogEntry) -> None:
        """Notes the entry of a batch."""
        with self._lock:
            if number in self._entries:  # unless so many passes are read at once that this one is forgotten
                self._entries[number][index] = entry
                self.add_up(number, index + 1)

    def num_noted(self, number: int) -> int:
        """How many batches of a pass have been noted."""
        with self._lock:
            return self._sum_of(number)[0] + len(self._entries.get(number, {}))

    def finish(self, number: int) -> None:
        """Notes that a pass is finished."""
        with self._lock:
            if number in self._entries:
                self._finished = self._sum_of(number)[1] + self._stats(self.entries(number))

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""
        with self._lock:
            return PassPosition(self._newest, self._newest - 1, 0)

    def entries(self, number: int) -> list[LogEntry]:
        """The entries of a pass, as far as they have not been added up."""
        with self._lock:
            return self._read(number, 0, max(self._entries.get(number, {}), default=-1) + 1)

    def finished_stats(self) -> PaddingStats:
        """The figures of the pass that was finished last; those of no batch before the first."""
        with self._lock:
            return self._finished

    def _stats(self, entries: list[LogEntry]) -> PaddingStats:
        return self._measure.stats(entries)

    def _read(self, number: int, start: int, stop: int) -> list[LogEntry]:
        entries = self._entries.get(number, {})
        return [entries[index] for index in sorted(entries) if start <= index < stop]

    def _take(self, number: int, start: int, stop: int) -> list[LogEntry]:
        entries = self._entries[number]
        return [entries.pop(index) for index in sorted(entries) if index < stop]

    def _num_remembered(self, number: int) -> int:
        return len(self._entries.get(number, {}))
