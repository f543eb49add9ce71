"""One leaf of variable-length rows: ranges of flat values, made from whatever form the rows came in."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, overload

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import INT32_MAX
from keras_bucketing.data import columns, lists
from keras_bucketing.data.arrays import aligned_empty, as_regular_array, is_mapped, standard_dtype
from keras_bucketing.data.row_splits import common_width, row_ranges_of, row_splits_of


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[starts[i]:starts[i] + sizes[i]]`.

    Cutting and leaving out rows changes only the starts and the sizes, so that values in a file need not be read.

    Attributes:
        values: Array `(num_values, *feature_shape)`, the timesteps of all rows, as they lie in memory.
        starts: Int64 array `(num_rows,)`.
        sizes: Int32 array `(num_rows,)`, int64 if one of them needs it.
        dtype: What batches hold, e.g. float32 where `values` are float64.
        owned: Whether nobody else can write to `values`, so that no copy protects anyone.
        shared: Whether `values` stay where they are, whoever else can write to them.
        least_length: 1 if an empty row counts as one timestep of padding, else 0.
    """

    values: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    dtype: np.dtype
    owned: bool = False
    shared: bool = False
    least_length: int = 0

    @property
    def lengths(self) -> np.ndarray:
        """Int array `(num_rows,)`: the timesteps of each row."""
        return np.maximum(self.sizes, self.least_length) if self.least_length else self.sizes

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.starts)

    def truncate(self, maxlen: int, truncating: str) -> Ragged:
        """Cuts every row to `maxlen` timesteps, at its end ("post") or at its beginning ("pre")."""
        sizes = _compact(np.minimum(self.sizes, maxlen))
        starts = self.starts if truncating == "post" else self.starts + (self.sizes - sizes)
        return replace(self, starts=starts, sizes=sizes)

    def select(self, keep: np.ndarray) -> Ragged:
        """The rows where the boolean array `keep` is True."""
        return replace(self, starts=self.starts[keep], sizes=self.sizes[keep])

    def fill_empty(self) -> Ragged:
        """Lets every empty row count as one timestep of padding."""
        return replace(self, least_length=1)

    def settle(self) -> Ragged:
        """The same rows with values that may stay where they are: a copy unless they are `shared` or `owned`.

        Timesteps that no row holds are left out of a copy, and of what is `owned`.
        """
        if self.shared and self.values.flags.c_contiguous:
            return self
        has_gaps = int(self.sizes.sum(dtype=np.int64)) != len(self.values)
        if self.owned and not has_gaps and self.values.dtype == self.dtype:
            return self
        values, starts = copy_used(self.values, self.starts, self.sizes, self.dtype)
        return replace(self, values=values, starts=starts, owned=True, shared=False)

    def one_after_the_other(self) -> tuple[np.ndarray, np.ndarray]:
        """The values in the order of the rows, and the row splits; a copy only where the rows lie otherwise."""
        splits = row_splits_of(self.sizes)
        if np.array_equal(self.starts, splits[:-1] + self.starts[0]):
            first = int(self.starts[0])
            return self.values[first : first + int(splits[-1])].astype(self.dtype, copy=False), splits
        rows = [self.values[start : start + size] for start, size in zip(self.starts, self.sizes, strict=True)]
        return np.concatenate(rows).astype(self.dtype, copy=False), splits


def ragged_from_lengths(values: np.ndarray, lengths: np.ndarray, owned: bool = False) -> Ragged:
    """Rows that follow one another in checked values.

    Args:
        values: Array `(num_values, *feature_shape)` of numbers.
        lengths: Int array `(num_rows,)` with the sum `num_values`.
        owned: As in `Ragged`.
    """
    return ragged_from_ranges(values, row_splits_of(lengths)[:-1], lengths, owned)


def ragged_from_ranges(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray, owned: bool = False) -> Ragged:
    """Rows anywhere in checked values; used where they lie if these are a file that is mapped into memory."""
    dtype = standard_dtype(values.dtype, "values")
    shared = is_mapped(values)
    return Ragged(values, starts, _compact(sizes), dtype, owned and not shared, shared)


def ragged_from_row_splits(values: Any, row_splits: Any, name: str = "values") -> Ragged:
    """Checks flat values and row splits, and takes them as they are.

    Args:
        values: Array or tensor `(num_values, *feature_shape)`.
        row_splits: Integers `(num_rows + 1,)`, from 0 to `num_values`, never decreasing; or `(num_rows, 2)`, where each
            row starts and stops.
        name: What to call the values in an error message.

    Raises:
        TypeError: If the values are not numbers or the splits not integers.
        ValueError: If the splits do not start at 0, decrease, or do not end at `num_values`; if a row stops before it
            starts, or lies outside of the values.
    """
    values = as_regular_array(
        values, name, "Pass the timesteps of all sequences, concatenated, or the list to BucketedSequence itself."
    )
    splits = as_regular_array(row_splits, "row_splits", "Pass a flat list of integers.")
    if values.ndim == 0:
        raise ValueError(f"`{name}` must be an array of timesteps. Received the scalar {values!s}.")
    standard_dtype(values.dtype, name)  # says what is wrong with it
    starts, sizes = row_ranges_of(splits, len(values), name)
    return ragged_from_ranges(values, starts, sizes)


def as_ragged(rows: Any, name: str, copy: bool = True) -> Ragged:
    """Turns rows of any accepted kind into one `Ragged`.

    Args:
        rows: A list, object array or pandas Series of sequences (arrays, tensors or lists), a `tf.RaggedTensor`, a
            pyarrow list array or chunked column, or an awkward array.
        name: What to call it in an error message, e.g. `x['query']`.
        copy: Whether the values are to be copied where the caller could still change them.

    Raises:
        TypeError: If it, or one of the rows, is of another kind.
        ValueError: If the rows do not share one feature shape, or there are none.
    """
    ragged = rows if isinstance(rows, Ragged) else _convert(rows, name, copy)
    if ragged is None:
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    return ragged if copy or ragged.owned else replace(ragged, shared=True)


def _convert(rows: Any, name: str, copy: bool) -> Ragged | None:
    """The rows, or None where there are none."""
    if isinstance(rows, tf.RaggedTensor):
        values, splits = _parts_of_ragged_tensor(rows, name)
        return ragged_from_row_splits(values, splits, name) if len(splits) > 1 else None
    if isinstance(rows, StoredSequences):
        return ragged_from_row_splits(rows.values, rows.row_splits, name) if len(rows) else None
    column = columns.ranges_of_column(rows, name)
    if column is not None:
        if not len(column.starts):
            return None
        standard_dtype(column.values.dtype, name)  # says what is wrong with it
        ragged = ragged_from_ranges(column.values, column.starts, column.sizes)
        return replace(ragged, shared=ragged.shared or column.is_immutable)
    sequences = lists.as_list(rows, name)
    if not sequences:
        return None
    ranges = ranges_of_views(sequences, only_mapped=copy)
    return (
        ragged_from_ranges(*ranges) if ranges else ragged_from_lengths(*lists.concatenate(sequences, name), owned=True)
    )


def _parts_of_ragged_tensor(rows: tf.RaggedTensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and row splits; inner axes may be ragged by name, as `tf.ragged.stack` leaves them, but not in fact."""
    values, features = rows.values, []
    while isinstance(values, tf.RaggedTensor):
        features.append(common_width(values.row_lengths().numpy(), name))
        values = values.values
    flat, splits = np.asarray(values), rows.row_splits.numpy()  # not values.numpy(), which copies
    return flat.reshape(splits[-1], *features, *flat.shape[1:]), splits


def _compact(sizes: np.ndarray) -> np.ndarray:
    """Half the memory, unless it takes more."""
    return sizes.astype(np.int32, copy=False) if sizes.size == 0 or sizes.max() <= INT32_MAX else sizes


# Ranges of rows in flat values: which timesteps any row holds, and a copy of only those.


_BLOCK_BYTES = 1 << 25  # of values that are picked at once, so that no second copy of them all is made


def used_ranges(starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges of timesteps that rows hold, ascending; those that touch or overlap are one.

    Args:
        starts: Int64 array `(num_rows,)`, where each row begins, in any order.
        sizes: Int array `(num_rows,)`, how many timesteps it has.

    Returns:
        Int64 arrays: where each range begins, and where it ends.

    Example:
        >>> used_ranges(np.array([5, 0, 2, 9]), np.array([2, 2, 1, 0]))
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


def copy_used(
    values: np.ndarray, starts: np.ndarray, sizes: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Copies the timesteps that some row holds.

    Args:
        values: Array `(num_values, *feature_shape)`.
        starts: As in `used_ranges`.
        sizes: As in `used_ranges`.
        dtype: What to convert the values to.

    Returns:
        The values, in memory that TensorFlow can use as it is, and the rows' new starts.
    """
    begins, ends = used_ranges(starts, sizes)
    widths = ends - begins
    copies = aligned_empty((int(widths.sum()), *values.shape[1:]), dtype)
    if len(begins) == 1:
        np.copyto(copies, values[begins[0] : ends[0]], casting="unsafe")
        return copies, starts - begins[0] if begins[0] else starts
    if not len(begins):
        return copies, np.zeros_like(starts)
    _pick(values, begins, ends, copies)
    of_row = np.maximum(np.searchsorted(begins, starts, side="right") - 1, 0)
    shifts = np.cumsum(widths) - widths - begins
    return copies, np.where(sizes > 0, starts + shifts[of_row], 0)


def _pick(values: np.ndarray, begins: np.ndarray, ends: np.ndarray, copies: np.ndarray) -> None:
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


# A list of slices of one array, back to that array and where they lie in it.


def ranges_of_views(rows: list[Any], only_mapped: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What `np.split` and slicing did, undone without a copy.

    Args:
        rows: At least one of anything.
        only_mapped: Whether only slices of a file that is mapped into memory are meant.

    Returns:
        The values from the first slice in memory to the last, and the starts and sizes of the rows; None if these are
        not contiguous slices of one array, of one dtype and one feature shape.

    Example:
        >>> flat = np.arange(9)
        >>> values, starts, sizes = ranges_of_views([flat[5:7], flat[2:3]], only_mapped=False)
        >>> values.tolist(), starts.tolist(), sizes.tolist()
        ([2, 3, 4, 5, 6], [3, 0], [2, 1])
    """
    first = rows[0]
    if not _is_view(first) or first.dtype.kind not in "biuf" or (only_mapped and not is_mapped(first)):
        return None
    base, dtype, feature_shape = first.base, first.dtype, first.shape[1:]
    row_bytes = dtype.itemsize * int(np.prod(feature_shape, dtype=np.int64))
    if not base.flags.c_contiguous or not row_bytes:
        return None
    for row in rows:
        if not _is_view(row) or row.base is not base or row.dtype != dtype or row.shape[1:] != feature_shape:
            return None
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    addresses = np.fromiter((row.__array_interface__["data"][0] for row in rows), np.int64, len(rows))
    filled = sizes > 0
    if not filled.any():
        return None
    begin = int(addresses[filled].min())
    end = int((addresses + sizes * row_bytes)[filled].max())
    offsets = np.where(filled, addresses - begin, 0)
    if (offsets % row_bytes).any():
        return None
    first_byte = begin - base.ctypes.data
    memory = np.asarray(base).reshape(-1).view(np.uint8)[first_byte : first_byte + end - begin]
    return memory.view(dtype).reshape(-1, *feature_shape), offsets // row_bytes, sizes


def _is_view(row: Any) -> bool:
    is_array = type(row) in (np.ndarray, np.memmap) and row.ndim > 0 and row.flags.c_contiguous
    return is_array and isinstance(row.base, np.ndarray)


# Sequences that lie in one flat array, handed out as views of it.


class StoredSequences:
    """What `load_sequences` returns: sequences whose values stay in their file until they are used.

    It is a leaf of `x`, `y` or `sample_weight` of `BucketedSequence`, and a list of read-only arrays to everyone else.

    Args:
        values: Array `(num_values, *features)`, the timesteps of all sequences, concatenated; mapped, as a rule.
        row_splits: Int64 array `(num_sequences + 1,)`: sequence i is `values[row_splits[i]:row_splits[i + 1]]`.
        name: What it was called where it was saved.

    Attributes:
        values: As above.
        row_splits: As above.
        lengths: Int64 array `(num_sequences,)`, in timesteps.
    """

    def __init__(self, values: np.ndarray, row_splits: np.ndarray, name: str = "x"):
        self.values = values
        self.row_splits = row_splits
        self._name = name
        self._plain = values.view(np.ndarray)  # a view of an np.memmap costs twice as much to slice

    @property
    def lengths(self) -> np.ndarray:
        """Int64 array `(num_sequences,)`: the timesteps of each sequence."""
        return np.diff(self.row_splits)

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: Any) -> Any:
        """Sequence `index` as an array `(length, *features)`; a list of them for a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = operator.index(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"Sequence {at} is out of range. Expected -{len(self)} to {len(self) - 1}.")
        at %= len(self)
        return self._plain[self.row_splits[at] : self.row_splits[at + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._plain[start:stop] for start, stop in pairwise(self.row_splits.tolist()))

    def __repr__(self) -> str:
        return (
            f"<{len(self)} sequences `{self._name}`, {len(self.values)} timesteps of {self.values.dtype.name}"
            f"{list(self.values.shape[1:]) or ''}>"
        )


# The lengths of one leaf, by the name that statistics and errors call it. NumPy only.


@dataclass(frozen=True)
class LeafLengths:
    """The lengths of a ragged leaf that every batch pads to a length of its own.

    Attributes:
        name: Str, e.g. `x` or `x['audio']`.
        lengths: Int32 array `(num_rows,)`, in timesteps.
        is_label: Whether the leaf holds labels of their own length: these choose no bucket, and no option that shortens
            or lengthens sequences concerns them.
    """

    name: str
    lengths: np.ndarray
    is_label: bool = False


def lengths_of_rows(leaves: Sequence[LeafLengths]) -> np.ndarray:
    """Int array `(num_rows,)`: the timesteps of each row, those of its longest sequence.

    Example:
        >>> leaves = [LeafLengths("a", np.array([1, 5])), LeafLengths("b", np.array([2, 4]))]
        >>> lengths_of_rows([*leaves, LeafLengths("y", np.array([9, 9]), is_label=True)]).tolist()
        [2, 5]
    """
    longest = None
    for leaf in leaves:
        if not leaf.is_label:
            longest = leaf.lengths if longest is None else np.maximum(longest, leaf.lengths)
    if longest is None:
        raise ValueError("`leaves` has no leaf of `x`. Expected at least one.")
    return longest
