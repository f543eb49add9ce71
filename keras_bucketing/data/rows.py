"""Rows of different lengths as ranges of flat values: the only place that knows where a row is in them.

    values    a a a b . c c          row i is values[starts[i] : starts[i] + sizes[i]] starts    0     3   5 sizes     3
    1   2

Rows may be in any order, overlap, and leave timesteps between them that belong to no row. Every form of input
(`convert.py`) is brought into this one, so that cutting, leaving out and selecting rows change only starts and sizes,
and values in a file need not be read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.checks import INT32_MAX
from keras_bucketing.data.arrays import aligned_empty, as_regular_array, is_mapped, standard_dtype
from keras_bucketing.data.row_splits import Lengths, Offsets, RowIndices, ranges_of, row_ranges_of, row_splits_of
from keras_bucketing.data.selection import row_indices_of

Selection = NDArray[np.bool_] | RowIndices
Self = TypeVar("Self", bound="Rows")

_BLOCK_BYTES = 1 << 25  # of values that are picked at once, so that no second copy of them all is made


@dataclass(frozen=True, eq=False)
class Rows:
    """One leaf with one sequence per row: row i is `values[starts[i] : starts[i] + sizes[i]]`.

    Attributes:
        values: Array `(num_values, *feature_shape)`, the timesteps of all rows, in memory order.
        starts: Where each row begins, `(num_rows,)`.
        sizes: The number of timesteps of each row, `(num_rows,)`; int32, or int64 if one of them needs it.
        dtype: The dtype of batches, e.g. float32 if `values` are float64.
        owned: Whether no one else can write to `values`, so that a copy is unnecessary.
        shared: Whether `values` are used without a copy, even if others can write to them.
        min_length: 1 if an empty row counts as one timestep of padding, else 0.
    """

    values: np.ndarray
    starts: Offsets
    sizes: Lengths
    dtype: np.dtype
    owned: bool = False
    shared: bool = False
    min_length: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The rows, as views of the values in their dtype."""
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            yield self.values[start : start + size]

    def row(self, index: int) -> np.ndarray:
        """One row, as `__iter__` yields them."""
        start = self.starts[index]
        return self.values[start : start + self.sizes[index]]

    @property
    def lengths(self) -> Lengths:
        """The timesteps of each row in a batch, `(num_rows,)`."""
        return np.maximum(self.sizes, self.min_length) if self.min_length else self.sizes

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one timestep."""
        return self.values.shape[1:]

    def truncate(self: Self, maxlen: int, truncating: str) -> Self:
        """Cuts every row to `maxlen` timesteps, at its end ("post") or at its beginning ("pre")."""
        sizes = _compact(np.minimum(self.sizes, maxlen))
        starts = self.starts if truncating == "post" else self.starts + (self.sizes - sizes)
        return replace(self, starts=starts, sizes=sizes)

    def select(self: Self, keep: Selection) -> Self:
        """The rows where the boolean array `keep` is True, or those at its indices."""
        return replace(self, starts=self.starts[keep], sizes=self.sizes[keep])

    def fill_empty(self: Self) -> Self:
        """Makes every empty row count as one timestep of padding."""
        return replace(self, min_length=1)

    def materialize(self) -> Rows:
        """The same rows with values that can be kept: a copy unless they are `shared` or `owned`.

        A copy, and `owned` values, leave out the timesteps that belong to no row.
        """
        if self.shared and self.values.flags.c_contiguous:
            return self
        has_gaps = int(self.sizes.sum(dtype=np.int64)) != len(self.values)
        if self.owned and not has_gaps and self.values.dtype == self.dtype:
            return self
        values, starts = _copy_used(self.values, self.starts, self.sizes, self.dtype)
        return replace(self, values=values, starts=starts, owned=True, shared=False)

    def concatenated(self) -> tuple[np.ndarray, Offsets]:
        """The values in the order of the rows, and the row splits; a copy only if the rows are in another order."""
        splits = row_splits_of(self.sizes)
        if np.array_equal(self.starts, splits[:-1] + self.starts[0]):
            first = int(self.starts[0])
            return self.values[first : first + int(splits[-1])], splits
        return self.values[ranges_of(self.starts, self.sizes)], splits

    def as_array(self) -> np.ndarray:
        """Rows of one length as an array `(num_rows, length, *feature_shape)`."""
        if not len(self):
            return self.values.reshape(0, 0, *self.feature_shape)
        return self.concatenated()[0].reshape(len(self), int(self.sizes[0]), *self.feature_shape)

    def as_tensors(self, as_tensor: Callable[[np.ndarray], tf.Tensor]) -> RowTensors:
        """The positions of the rows, for use in a graph; `as_tensor` puts an array into host memory."""
        return RowTensors(as_tensor(self.starts), as_tensor(self.sizes.astype(np.int32, copy=False)), self.min_length)


@dataclass(frozen=True, eq=False)
class PickedValues:
    """One leaf with one value per row, which is a row of an array that need not be copied: row i is `values[rows[i]]`.

    Attributes:
        values: Array `(num_values, ...)`.
        rows: The index of each row's value, `(num_rows,)`.
    """

    values: np.ndarray
    rows: RowIndices

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array of these rows."""
        return (len(self.rows), *self.values.shape[1:])

    def select(self, keep: Selection) -> PickedValues:
        """The rows where the boolean array `keep` is True, or those at its indices."""
        return replace(self, rows=self.rows[keep])


class RowTensors(NamedTuple):
    """The starts, int64, and sizes, int32, of `Rows` as tensors, and their `min_length`."""

    starts: tf.Tensor
    sizes: tf.Tensor
    min_length: int

    def lengths(self, rows: tf.Tensor) -> tf.Tensor:
        """The timesteps of some rows in a batch, int32 `(batch,)`; in graph."""
        lengths = tf.gather(self.sizes, rows)
        return tf.maximum(lengths, self.min_length) if self.min_length else lengths

    def timesteps(self, rows: tf.Tensor, first: int = 0, limit: int | None = None) -> tf.RaggedTensor:
        """The positions of the timesteps of some rows in the values, int64 `(batch, (time))`; in graph.

        Args:
            rows: Int32 `(batch,)`, row indices.
            first: The index of the first of the values.
            limit: The maximum number of timesteps of a row; None for all.
        """
        # Not tf.gather of a RaggedTensor: its kernel checks the row splits of all the data at every call
        # (tensorflow/core/kernels/ragged_gather_op.cc, ValidateSplits).
        starts, sizes = tf.gather(self.starts, rows), tf.cast(tf.gather(self.sizes, rows), tf.int64)
        if first:
            starts += first
        return tf.ragged.range(starts, starts + (sizes if limit is None else tf.minimum(sizes, limit)))


def rows_from_ranges(
    values: np.ndarray, starts: Offsets, sizes: Lengths, name: str = "values", owned: bool = False, shared: bool = False
) -> Rows:
    """Rows anywhere in values, without a copy if these are `shared`, or a mapped file.

    Raises:
        TypeError: If the values are not numbers; the error calls them `name`.
    """
    dtype = standard_dtype(values.dtype, name)
    shared = shared or is_mapped(values)
    return Rows(values, starts, _compact(sizes), dtype, owned and not shared, shared)


def rows_from_lengths(
    values: np.ndarray, lengths: Lengths, name: str = "values", owned: bool = False, shared: bool = False
) -> Rows:
    """Consecutive rows in values, with lengths whose sum is the number of timesteps."""
    return rows_from_ranges(values, row_splits_of(lengths)[:-1], lengths, name, owned, shared)


def rows_from_row_splits(values: Any, row_splits: Any, name: str = "values") -> Rows:
    """Checks flat values and row splits, and makes rows of them.

    Args:
        values: Array or tensor `(num_values, *features)`.
        row_splits: Integers `(num_rows + 1,)`, from 0 to `num_values`, never decreasing; or `(num_rows, 2)`, the start
            and the stop of each row.
        name: The name of the values in an error message.

    Raises:
        TypeError: If the values are not numbers or the splits not integers.
        ValueError: If the splits do not start at 0, decrease, or do not end at `num_values`; if a row stops before it
            starts, or lies outside the values.
    """
    values = as_regular_array(
        values, name, "Pass the timesteps of all sequences, concatenated, or the list to BucketedSequence itself."
    )
    splits = as_regular_array(row_splits, "row_splits", "Pass a flat list of integers.")
    if values.ndim == 0:
        raise ValueError(f"`{name}` must be an array of timesteps. Received the scalar {values!s}.")
    standard_dtype(values.dtype, name)  # says what is wrong with it
    return rows_from_ranges(values, *row_ranges_of(splits, len(values), name))


def rows_from_padded(array: np.ndarray, begins: Lengths, sizes: Lengths) -> Rows:
    """Rows of a padded array `(num_rows, time, *features)`: row i is `array[i, begins[i] : begins[i] + sizes[i]]`."""
    num_rows, time = array.shape[:2]
    values = array.reshape(num_rows * time, *array.shape[2:])
    return rows_from_ranges(values, np.arange(num_rows, dtype=np.int64) * time + begins, sizes)


def rows_from_memory(
    memory: NDArray[np.uint8],
    pieces: Offsets,
    timesteps: Lengths,
    dtype: np.dtype,
    feature_shape: tuple[int, ...],
    rows_of_pieces: Lengths,
    sizes: Lengths,
) -> Rows | None:
    """Rows in pieces of one block of memory, such as slices of one array, without a copy.

    Args:
        memory: Array with all of the memory.
        pieces: The address of each piece, `(num_pieces,)`.
        timesteps: The number of timesteps of each piece, `(num_pieces,)`.
        dtype: The dtype of all pieces.
        feature_shape: The shape of one timestep in all pieces.
        rows_of_pieces: The number of consecutive rows in each piece, `(num_pieces,)`; at least one.
        sizes: The number of timesteps of each row, `(num_rows,)`.

    Returns:
        Rows whose values reach from the first piece in memory to the last; None if no piece has a timestep, or if they
        are not a whole number of timesteps apart.
    """
    row_bytes = dtype.itemsize * int(np.prod(feature_shape, dtype=np.int64))
    filled = timesteps > 0
    if not row_bytes or not filled.any():
        return None
    begin, end = int(pieces[filled].min()), int((pieces + timesteps * row_bytes)[filled].max())
    offsets = np.where(filled, pieces - begin, 0)
    if (offsets % row_bytes).any():
        return None
    first_byte = begin - memory.ctypes.data
    values = memory[first_byte : first_byte + end - begin].view(dtype).reshape(-1, *feature_shape)
    # Where the rows would start if the pieces followed one another, moved to where the pieces are.
    starts = row_splits_of(sizes)[:-1]
    first_rows = row_splits_of(rows_of_pieces)[:-1]
    return rows_from_ranges(
        values, starts + np.repeat(offsets // row_bytes - starts[first_rows], rows_of_pieces), sizes
    )


def _compact(sizes: Lengths) -> Lengths:
    """The array with half the memory, unless its values need more."""
    return sizes.astype(np.int32, copy=False) if sizes.size == 0 or sizes.max() <= INT32_MAX else sizes


@dataclass(frozen=True)
class LeafLengths:
    """The lengths of a leaf that every batch pads separately.

    Attributes:
        name: The name in statistics, e.g. `x` or `x['audio']`; no two leaves have the same.
        lengths: Int32 array `(num_rows,)`, in timesteps.
        is_label: Whether the leaf holds labels of their own length: these choose no bucket, and options that shorten or
            lengthen sequences do not apply to them.
    """

    name: str
    lengths: Lengths
    is_label: bool = False


@dataclass(frozen=True)
class RowLengths:
    """The lengths of every leaf that batches pad separately, at least one of them of `x`.

    Example:
        >>> leaves = LeafLengths("a", np.array([1, 5])), LeafLengths("b", np.array([2, 4]))
        >>> RowLengths((*leaves, LeafLengths("y", np.array([9, 9]), is_label=True))).longest.tolist()
        [2, 5]
    """

    leaves: tuple[LeafLengths, ...]

    @cached_property
    def longest(self) -> Lengths:
        """The timesteps of each row's longest sequence in `x`, `(num_rows,)`."""
        lengths = [leaf.lengths for leaf in self.leaves if not leaf.is_label]
        longest: Lengths = np.maximum.reduce(lengths) if len(lengths) > 1 else lengths[0]
        return longest

    def of_rows(self, rows: RowIndices) -> RowLengths:
        """The lengths of some rows."""
        return RowLengths(tuple(replace(leaf, lengths=leaf.lengths[rows]) for leaf in self.leaves))


def _used_ranges(starts: Offsets, sizes: Lengths) -> tuple[Offsets, Offsets]:
    """The ranges of timesteps that belong to rows, ascending: begins and ends. Touching or overlapping ones are merged.

    Example:
        >>> _used_ranges(np.array([5, 0, 2, 9]), np.array([2, 2, 1, 0]))
        (array([0, 5]), array([3, 7]))
    """
    filled = sizes > 0
    if not filled.all():
        starts, sizes = starts[filled], sizes[filled]
    if not starts.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if (starts[1:] < starts[:-1]).any():
        order = np.argsort(starts, kind="stable")
        starts, sizes = starts[order], sizes[order]
    reached = np.maximum.accumulate(starts + sizes)
    begins = np.flatnonzero(np.concatenate([[True], starts[1:] > reached[:-1]]))
    ends = np.concatenate([begins[1:], [len(starts)]]) - 1
    return starts[begins], reached[ends]


def _copy_used(values: np.ndarray, starts: Offsets, sizes: Lengths, dtype: np.dtype) -> tuple[np.ndarray, Offsets]:
    """Copies the timesteps that belong to some row into memory that TensorFlow can use; returns the new starts, too."""
    begins, ends = _used_ranges(starts, sizes)
    widths = ends - begins
    copies = aligned_empty((int(widths.sum()), *values.shape[1:]), dtype)
    if len(begins) == 1:
        np.copyto(copies, values[begins[0] : ends[0]], casting="unsafe")
        return copies, starts - begins[0] if begins[0] else starts
    if not len(begins):
        return copies, np.zeros_like(starts)
    _copy_ranges(values, begins, ends, copies)
    row_ranges = np.maximum(np.searchsorted(begins, starts, side="right") - 1, 0)
    shifts = np.cumsum(widths) - widths - begins
    return copies, np.where(sizes > 0, starts + shifts[row_ranges], 0)


def _copy_ranges(values: np.ndarray, begins: Offsets, ends: Offsets, copies: np.ndarray) -> None:
    """Copies many ranges one after the other; a loop over them would take longer than marking all timesteps."""
    steps = np.zeros(len(values) + 1, np.int8)
    steps[begins] = 1
    steps[ends] = -1
    is_used = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    del steps
    block = max(_BLOCK_BYTES // max(values[:1].nbytes, 1), 1)
    copied = 0
    for start in range(0, len(values), block):
        picked = values[start : start + block][is_used[start : start + block]]
        np.copyto(copies[copied : copied + len(picked)], picked, casting="unsafe")
        copied += len(picked)


class StoredSequences:
    """Sequences whose values stay in their file until they are used, as returned by `load_sequences`.

    Use them as a leaf of `x`, `y` or `sample_weight` of `BucketedSequence`, or as a list of read-only arrays.
    `stored[rows]`, with an array of indices or of booleans, selects sequences, which stay in the file as well.

    Args:
        values: Array `(num_values, *features)`, the timesteps of all sequences, concatenated; usually mapped.
        row_splits: Int64 array `(num_sequences + 1,)`: sequence i is `values[row_splits[i]:row_splits[i + 1]]`; or
            `(num_sequences, 2)`, the start and the stop of each sequence.
        name: The name with which it was saved.

    Attributes:
        values: As above.
        row_splits: As above; a start and a stop for each if the sequences were selected by their indices.
        lengths: Int64 array `(num_sequences,)`, in timesteps.
        rows: The same as `Rows`.

    Example:
        >>> stored = StoredSequences(np.arange(6), np.array([0, 3, 4, 6]))
        >>> len(stored), stored[0].tolist(), stored.lengths.tolist()
        (3, [0, 1, 2], [3, 1, 2])
        >>> [sequence.tolist() for sequence in stored[np.array([2, 0])]]
        [[4, 5], [0, 1, 2]]
    """

    def __init__(self, values: np.ndarray, row_splits: np.ndarray, name: str = "x"):
        self.values = values
        self.row_splits = row_splits
        self._name = name
        # A plain view, since slices of an np.memmap cost twice as much; one view, so that slices have one base.
        starts, stops = row_splits.T if row_splits.ndim == 2 else (row_splits[:-1], row_splits[1:])
        self.rows = rows_from_ranges(values.view(np.ndarray), starts, stops - starts, name)

    @property
    def lengths(self) -> np.ndarray:
        """Int64 array `(num_sequences,)`: the timesteps of each sequence."""
        return self.rows.sizes.astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    @overload
    def __getitem__(self, index: Sequence[int] | np.ndarray) -> StoredSequences: ...
    def __getitem__(self, index: Any) -> Any:
        """Sequence `index` as an array `(length, *features)`; a list of them for a slice.

        For an array or a list of indices or of booleans, these sequences as `StoredSequences`.
        """
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if np.ndim(index):
            picked = self.rows.select(row_indices_of(index, len(self), "index"))
            ranges = np.stack([picked.starts, picked.starts + picked.sizes], axis=1)
            return StoredSequences(self.values, ranges, self._name)
        at = operator.index(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"Sequence {at} is out of range. Expected -{len(self)} to {len(self) - 1}.")
        at %= len(self)
        return self.rows.row(at)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return (
            f"<{len(self)} sequences `{self._name}`, {self.rows.sizes.sum(dtype=np.int64)} timesteps of "
            f"{self.values.dtype.name}{list(self.values.shape[1:]) or ''}>"
        )


class EqualSequences(np.ndarray):
    """Labels of one length for every row, which may be one value per row or sequences: an array `(num_rows, length)`.

    Everything treats it as an array, except `as_leaf`, which can get the rows back as a list of sequences.

    Example:
        >>> labels = np.array([[1, 0], [0, 1]]).view(EqualSequences)
        >>> labels.shape, labels.as_rows().lengths.tolist()
        ((2, 2), [2, 2])
    """

    def as_rows(self) -> Rows:
        """The sequences, without a copy."""
        lengths = np.full(self.shape[0], self.shape[1], np.int64)
        return rows_from_padded(self.view(np.ndarray), np.zeros_like(lengths), lengths)
