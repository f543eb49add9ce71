"""Tables in long format, with one row for each timestep, to sequences: pandas, polars, and all that Arrow reads.

    row  id  time  f1              order   values (f1)   row_keys 0    b   1     .5              0 2     .5 .7         b
    sequence 0 1    a   9     .6      ->      3 1     .8 .6         a         sequence 1 2    b   2     .7 3    a   4
    .8

The rows are sorted once; each column is then copied as a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from keras_bucketing.checks import show, show_typed
from keras_bucketing.data.arrays import NUMBERS, aligned_empty, common_dtype, standard_dtype
from keras_bucketing.data.row_splits import Lengths, Offsets, RowIndices, ranges_of, row_splits_of
from keras_bucketing.data.rows import Rows, rows_from_ranges
from keras_bucketing.data.tables import Column, Label, Table, table_of
from keras_bucketing.data.tree import Structure, name_of

_BLOCK_ROWS = 1 << 16  # that are copied of all columns in turn, so that they stay in the processor's cache


@dataclass(frozen=True)
class FrameRows:
    """The positions of the timesteps of sequences in a table.

    Attributes:
        keys: The id of each sequence, `(num_sequences,)`.
        positions: The positions of their timesteps in the table.
    """

    keys: np.ndarray
    positions: Rows

    def take(self, rows: RowIndices) -> FrameRows:
        """The positions of some sequences."""
        return FrameRows(self.keys[rows], self.positions.select(rows))

    def truncate(self, maxlen: int | None, truncating: str) -> FrameRows:
        """The positions of sequences that are cut to `maxlen` timesteps."""
        return self if maxlen is None else replace(self, positions=self.positions.truncate(maxlen, truncating))

    @cached_property
    def frame_rows(self) -> RowIndices:
        """The positions, one sequence after the other, `(num_timesteps,)`."""
        return self.positions.concatenated()[0].astype(np.int64)


@dataclass(frozen=True)
class FrameSequences:
    """The data of a table.

    Attributes:
        x: Structure of `Rows` and of arrays with one value per sequence.
        y: Structure of labels, or None.
        sample_weight: Structure of weights, or None.
        rows: The positions of their timesteps.
    """

    x: Structure
    y: Structure
    sample_weight: Structure
    rows: FrameRows


def sequences_of_frame(
    frame: object,
    by: object,
    x: object,
    y: object,
    sample_weight: object,
    static: object,
    sort_by: object,
    timestep_labels: bool,
) -> FrameSequences:
    """Takes sequences, labels and weights out of a table; arguments as in `BucketedSequence.from_dataframe`.

    Raises:
        TypeError: If `frame` is not a table, or a column does not hold numbers.
        ValueError: If there is no such column, an entry is missing, or a value of a sequence varies within it.
    """
    table = table_of(frame)
    if not table.num_rows:
        raise ValueError("`frame` has no rows. Expected at least one timestep.")
    groups = _Groups.of(table, by, sort_by)
    of_labels = groups.timesteps if timestep_labels else groups.one_value
    sequences = _map_columns(x, "x", table, groups.timesteps)
    labels = None if y is None else _map_columns(y, "y", table, of_labels)
    weights = None if sample_weight is None else _map_columns(sample_weight, "sample_weight", table, of_labels)
    if static is not None:
        sequences = _join(sequences, static, table, groups)
    return FrameSequences(sequences, labels, weights, FrameRows(groups.keys(), groups.positions()))


# Finding and checking columns.


def _columns(table: Table, name: Any) -> list[Column]:
    try:
        hash(name)  # a tuple may hold lists
    except TypeError:
        return []
    return table.columns(name)


def _find(table: Table, name: Any, argument: str) -> Column:
    columns = _columns(table, name)
    if len(columns) == 1:
        return columns[0]
    found = f"received {show(name)}" + (f", which {len(columns)} have" if columns else "")
    raise ValueError(f"`{argument}` must name a column of `frame`. Expected one of {show(table.names)}, {found}.")


def _map_columns(
    spec: Any, name: str, table: Table, function: Callable[[list[np.ndarray], str, Any], Any]
) -> Structure:
    """A dict or tuple of columns, or lists of them, with each replaced by `function(columns, name, spec)`."""
    if isinstance(spec, dict):
        return {key: _map_columns(value, name_of(name, (key,)), table, function) for key, value in spec.items()}
    if isinstance(spec, tuple) and not _columns(table, spec):
        return tuple(_map_columns(value, name_of(name, (at,)), table, function) for at, value in enumerate(spec))
    labels = spec if isinstance(spec, list) else [spec]
    if not labels:
        raise ValueError(f"`{name}` is an empty list. Expected the names of columns, of which each is a feature.")
    return function([_numbers(_find(table, label, name), label, name) for label in labels], name, spec)


def _numbers(column: Column, label: Label, name: str) -> np.ndarray:
    """A column of numbers without missing ones."""
    _refuse_missing(column, label, name)
    array = column.values()
    if array.dtype.kind in "mM" or hasattr(array[0], "isoformat"):  # those with a time zone are objects
        raise TypeError(
            f"`{name}` must hold numbers. Received times in column {show(label)}. Convert them, e.g. (times - "
            "times.min()).dt.total_seconds()."
        )
    if array.dtype.kind not in "biufc":
        entries = array.tolist()
        at = next((row for row, entry in enumerate(entries) if not isinstance(entry, NUMBERS)), None)
        if at is not None or array.ndim > 1:
            received = f"{show_typed(entries[at])} at row {at} of" if at is not None else f"shape {array.shape} in"
            raise TypeError(
                f"`{name}` must hold numbers. Received {received} column {show(label)}. Map text to ids first: ids, "
                f"names = pd.factorize(frame[{show(label)}])."
            )
        array = np.array(entries)
    if array.ndim > 1:
        raise TypeError(
            f"`{name}` must name columns of numbers. Received vectors of shape {array.shape[1:]} in column "
            f"{show(label)}. Pass one column for each feature."
        )
    standard_dtype(array.dtype, name)  # refuses what is left
    return array


def _refuse_missing(column: Column, label: Label, name: str) -> None:
    """Refuses nulls, NaN and NaT."""
    is_missing = column.is_missing() if column.has_nulls() else np.zeros(0, bool)
    if column.is_float() and not is_missing.any():
        values = column.values()
        with np.errstate(invalid="ignore"):
            if np.isnan(values.min()):  # which is NaN if any of them is
                is_missing = np.isnan(values)
    if is_missing.any():
        at = int(np.argmax(is_missing))
        raise ValueError(
            f"`{name}` must not hold missing entries. Received none at row {at} of column {show(label)} "
            f"({int(np.count_nonzero(is_missing))} in all). Fill them or drop their rows."
        )


# Sequences.


@dataclass(frozen=True)
class _Groups:
    """The rows of a table, sequence by sequence, in the order of the first row of each.

    Attributes:
        by: The columns of the ids.
        has_tuples: Whether an id is a tuple.
        order: The positions of the rows, sequence by sequence, `(num_rows,)`; None if they are in that order.
        starts: Where each sequence starts in that order, `(num_sequences,)`.
        sizes: Its timesteps.
        first_rows: The position of its first row in the table.
    """

    by: list[Column]
    has_tuples: bool
    order: RowIndices | None
    starts: Offsets
    sizes: Lengths
    first_rows: RowIndices

    @classmethod
    def of(cls, table: Table, by: Any, sort_by: Any) -> _Groups:
        """The groups by one or several columns, the rows of each in the order of `sort_by`."""
        labels = by if isinstance(by, list) else [by]
        if not labels:
            raise ValueError("`by` is an empty list. Expected the name of the column that tells sequences apart.")
        columns = [_find(table, label, "by") for label in labels]
        for column, label in zip(columns, labels, strict=True):
            _refuse_missing(column, label, "by")
        order, sizes = group_rows(_combine([column.codes() for column in columns]))
        starts = row_splits_of(sizes)[:-1]
        groups = cls(columns, isinstance(by, list), order, starts, sizes, starts if order is None else order[starts])
        return groups if sort_by is None else groups._sorted(table, sort_by)

    def keys(self) -> np.ndarray:
        """The ids `(num_sequences,)`, tuples if `by` is a list."""
        parts = [column.take(self.first_rows) for column in self.by]
        if not self.has_tuples:
            return parts[0]
        keys = np.empty(len(self.sizes), object)
        keys[:] = list(zip(*(part.tolist() if part.dtype.kind not in "mM" else part for part in parts), strict=True))
        return keys

    def positions(self) -> Rows:
        """The positions of the rows of each sequence."""
        num_rows = int(self.starts[-1] + self.sizes[-1])
        dtype = np.int32 if num_rows <= np.iinfo(np.int32).max else np.int64
        positions = np.arange(num_rows, dtype=dtype) if self.order is None else self.order.astype(dtype)
        return rows_from_ranges(positions, self.starts, self.sizes)

    def timesteps(self, columns: list[np.ndarray], name: str, spec: Any) -> Rows:
        """Sequences of the numbers in a column, or of vectors if `spec` is a list."""
        dtype = standard_dtype(common_dtype({column.dtype for column in columns}, name), name)
        num_rows = len(columns[0])
        values = aligned_empty((num_rows, len(columns)), dtype)
        for start in range(0, num_rows, _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            rows = block if self.order is None else self.order[block]
            for feature, column in enumerate(columns):
                values[block, feature] = column[rows]
        values = values if isinstance(spec, list) else values[:, 0]
        return rows_from_ranges(values, self.starts, self.sizes, name, owned=True)

    def one_value(self, columns: list[np.ndarray], name: str, spec: Any) -> np.ndarray:
        """The value that a column has in each sequence, or vectors if `spec` is a list."""
        labels = spec if isinstance(spec, list) else [spec]
        for column, label in zip(columns, labels, strict=True):
            self._refuse_varying(column, label, name)
        values = [column[self.first_rows] for column in columns]
        return np.stack(values, axis=1) if isinstance(spec, list) else values[0]

    def _refuse_varying(self, column: np.ndarray, label: Label, name: str) -> None:
        values = column if self.order is None else column[self.order]
        varies = self._inside(values[1:] != values[:-1])
        if not varies.any():
            return
        at = int(np.argmax(varies)) + 1
        before, here = (self._row(at - 1), self._row(at))
        is_static = name.startswith("static")
        fix = "Make it a column of `x`" if is_static else "Pass timestep_labels=True if there is one a timestep"
        raise ValueError(
            f"`{name}` must have one value per sequence. Received {values[at]!s} at row {here} of column "
            f"{show(label)}, but {values[at - 1]!s} at row {before}, both of the sequence {self._key(at)}. {fix}."
        )

    def _sorted(self, table: Table, sort_by: Any) -> _Groups:
        """The rows of each sequence by one or several columns; no two may be equal in all of them."""
        labels = sort_by if isinstance(sort_by, list) else [sort_by]
        columns = [_find(table, label, "sort_by") for label in labels]
        for column, label in zip(columns, labels, strict=True):
            _refuse_missing(column, label, "sort_by")
        given = [column.sortable() for column in columns]
        ranks = [values if self.order is None else values[self.order] for values in given]
        if len(ranks) == 1 and not self._inside(ranks[0][1:] <= ranks[0][:-1]).any():
            return self
        sequences = np.repeat(np.arange(len(self.sizes)), self.sizes)
        steps = np.lexsort([*reversed(ranks), sequences])
        groups = replace(self, order=steps if self.order is None else self.order[steps])
        is_equal = np.ones(len(steps) - 1, bool)
        for values in ranks:
            values = values[steps]
            is_equal &= values[1:] == values[:-1]
        is_equal = groups._inside(is_equal)
        if is_equal.any():
            at = int(np.argmax(is_equal)) + 1
            value = ", ".join(str(column.take(np.array([groups._row(at)]))[0]) for column in columns)
            raise ValueError(
                f"`sort_by` must tell the timesteps of a sequence apart. Received {value} in {show(sort_by)} at row "
                f"{groups._row(at)}, as at row {groups._row(at - 1)}, both of the sequence {groups._key(at)}. Drop one "
                "of the two, or sort by another column as well."
            )
        return groups

    def _inside(self, changes: np.ndarray) -> np.ndarray:
        """A condition between a row and the next one, `(num_rows - 1,)`, made False where a sequence ends; in place."""
        changes[self.starts[1:] - 1] = False
        return changes

    def _row(self, at: int) -> int:
        return at if self.order is None else int(self.order[at])

    def _key(self, at: int) -> str:
        sequence = int(np.searchsorted(self.starts, at, side="right")) - 1
        first = self.first_rows[sequence : sequence + 1]
        return ", ".join(show(column.take(first).tolist()[0]) for column in self.by)


def _join(sequences: Structure, static: Any, table: Table, groups: _Groups) -> Structure:
    """Adds columns with one value per sequence to `x`, each under its own name, or as a dict names them."""
    if isinstance(sequences, tuple):
        raise ValueError("`static` needs names in `x`. Received a tuple `x`. Pass a dict: {'name': column, ...}.")
    entries = sequences if isinstance(sequences, dict) else {"sequences": sequences}
    if isinstance(static, dict):
        added = list(static.items())
    else:
        labels = static if isinstance(static, (list, tuple)) and not _columns(table, static) else [static]
        for label in labels:
            _find(table, label, "static")
        added = [(label, label) for label in labels]
    for key, spec in added:
        if isinstance(key, str) and key in entries:
            raise ValueError(
                f"`static` would replace an entry of `x`. Received {show(key)} in both. Rename one of the two: "
                "static={'name': column}."
            )
        column = _map_columns(spec, name_of("static", (key,)), table, groups.one_value)
        entries = {**entries, key: column}
    return entries


def _combine(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Combines the codes of several columns into one code for each row."""
    combined = codes[0]
    for more in codes[1:]:
        second = _dense(more)
        combined = _dense(combined) * (int(second.max()) + 1) + second
    return combined


def _dense(codes: np.ndarray) -> np.ndarray:
    """Codes from 0 on, so small that a product of two fits into 64 bits; sorts them only if they are not."""
    if codes.dtype.kind in "biu":
        lowest, highest = int(codes.min()), int(codes.max())
        if highest - lowest < 1 << 31 and -(1 << 62) < lowest < 1 << 62:
            return codes.astype(np.int64) - lowest
    ranks: np.ndarray = np.unique(codes, return_inverse=True)[1]
    return ranks


def group_rows(codes: np.ndarray) -> tuple[RowIndices | None, Lengths]:
    """Groups rows of equal codes, in the order of first appearance, each group in the order of its rows.

    It sorts runs of equal consecutive codes, of which there are few if the rows are in groups already.

    Returns:
        The positions of the rows in that order, None if they are in it; and the number of rows of each group.

    Example:
        >>> order, sizes = group_rows(np.array([7, 3, 3, 7, 5]))
        >>> order.tolist(), sizes.tolist()
        ([0, 3, 1, 2, 4], [2, 2, 1])
        >>> group_rows(np.array([7, 7, 3, 5, 5]))
        (None, array([2, 1, 2]))
    """
    starts = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    sizes = np.diff(starts, append=len(codes))
    of_runs = codes[starts]
    if (of_runs[1:] > of_runs[:-1]).all():  # no code has a second run
        return None, sizes
    runs = _stable_argsort(of_runs)
    sorted_codes = of_runs[runs]
    first = np.concatenate([[0], np.flatnonzero(sorted_codes[1:] != sorted_codes[:-1]) + 1])
    if len(first) == len(runs):  # each group is one run
        return None, sizes
    num_runs = np.diff(first, append=len(runs))
    by_appearance = np.argsort(runs[first])
    num_runs = num_runs[by_appearance]
    runs = runs[ranges_of(first[by_appearance], num_runs)]
    run_sizes = sizes[runs]
    order = runs if len(runs) == len(codes) else ranges_of(starts[runs], run_sizes)
    return order, np.add.reduceat(run_sizes, row_splits_of(num_runs)[:-1])


def _stable_argsort(codes: np.ndarray) -> RowIndices:
    """`np.argsort(codes, kind="stable")`; faster, by a sort of integers that hold code and position."""
    if codes.dtype.kind in "biu":
        lowest, highest = int(codes.min()), int(codes.max())
        position_bits = (len(codes) - 1).bit_length()
        if (highest - lowest).bit_length() + position_bits <= 63:
            unsigned = codes.astype(np.uint64) - np.uint64(lowest % (1 << 64))  # modulo 2**64
            packed = unsigned.astype(np.int64) << position_bits
            packed |= np.arange(len(codes))
            packed.sort()
            packed &= (1 << position_bits) - 1
            return packed
    order: RowIndices = np.argsort(codes, kind="stable")
    return order
