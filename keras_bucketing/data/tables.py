"""Tables of pandas, polars and every table that Arrow reads, with one interface: columns, and what grouping needs.

A library is imported only if the table comes from it.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from keras_bucketing.data.row_splits import RowIndices

Label = Hashable  # of a column: a string, but for pandas


class Column(Protocol):
    """A column of a table."""

    def has_nulls(self) -> bool:
        """Whether entries may be missing, other than floats that are NaN."""

    def is_float(self) -> bool:
        """Whether the values are floats."""

    def is_missing(self) -> np.ndarray:
        """Which entries are missing, `(num_rows,)`."""

    def codes(self) -> np.ndarray:
        """Numbers `(num_rows,)` that are equal for equal entries; undefined for missing ones."""

    def sortable(self) -> np.ndarray:
        """Values `(num_rows,)` that NumPy sorts in the same order as the library sorts the entries."""

    def values(self) -> np.ndarray:
        """The entries, `(num_rows,)`: numbers, times, or objects."""

    def take(self, rows: RowIndices) -> np.ndarray:
        """The entries of some rows, as objects of the library."""


class Table(Protocol):
    """A table of any library."""

    num_rows: int
    names: list[Label]

    def columns(self, name: Label) -> list[Column]:
        """The columns of this name: one, unless it is ambiguous or missing."""


def table_of(frame: Any) -> Table:
    """A table of pandas, polars or Arrow, with one interface.

    Raises:
        TypeError: If it is not a table.
        ImportError: If it needs pyarrow, which is missing.
    """
    if _is_instance(frame, "pandas", "DataFrame"):
        return _PandasTable(frame)
    if _is_instance(frame, "polars", "LazyFrame"):
        frame = frame.collect()
    if _is_instance(frame, "polars", "DataFrame"):
        return _PolarsTable(frame)
    is_column = any(_is_instance(frame, *kind) for kind in (("pandas", "Series"), ("polars", "Series")))
    if hasattr(frame, "__arrow_c_stream__") and not is_column:
        return _ArrowTable(_arrow_table(frame))
    raise _no_table(frame)


def _is_instance(frame: object, library: str, name: str) -> bool:
    return library in sys.modules and isinstance(frame, getattr(sys.modules[library], name, ()))


def _no_table(frame: object) -> TypeError:
    groups = " Pass the table itself: `by` names its groups." if "GroupBy" in type(frame).__name__ else ""
    return TypeError(
        "`frame` must be a table with a row for each timestep. Expected a pandas or polars DataFrame, or one that "
        f"Arrow can read (__arrow_c_stream__), received {type(frame).__module__.partition('.')[0]}."
        f"{type(frame).__name__}.{groups}"
    )


def _arrow_table(frame: Any) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            f"A table of {type(frame).__module__.partition('.')[0]} is read through pyarrow, which is not installed: "
            'pip install pyarrow, or install the extra "arrow": pip install "keras-bucketing[arrow]".'
        ) from error
    try:
        return pyarrow.table(frame)
    except (TypeError, ValueError, pyarrow.ArrowException):  # a single column
        raise _no_table(frame) from None


# The columns of each library.


@dataclass(frozen=True)
class _PandasColumn:
    series: Any

    def has_nulls(self) -> bool:
        return not (isinstance(self.series.dtype, np.dtype) and self.series.dtype.kind in "biuf")

    def is_float(self) -> bool:
        stored = getattr(self.series.dtype, "numpy_dtype", self.series.dtype)
        return isinstance(stored, np.dtype) and stored.kind == "f"

    def is_missing(self) -> np.ndarray:
        return np.asarray(self.series.isna())

    def codes(self) -> np.ndarray:
        import pandas

        if isinstance(self.series.dtype, np.dtype) and self.series.dtype.kind in "biufmM":
            return _as_numbers(self.series.to_numpy())
        return np.asarray(pandas.factorize(self.series)[0])

    def sortable(self) -> np.ndarray:
        import pandas

        dtype = self.series.dtype
        if isinstance(dtype, np.dtype) and dtype.kind in "biufmM":
            return np.asarray(self.series.to_numpy())
        if isinstance(dtype, pandas.DatetimeTZDtype):
            return np.asarray(pandas.DatetimeIndex(self.series).tz_convert(None))
        if isinstance(dtype, pandas.CategoricalDtype):
            return np.asarray(self.series.cat.codes)
        return np.asarray(pandas.factorize(self.series, sort=True)[0])

    def values(self) -> np.ndarray:
        stored = getattr(self.series.dtype, "numpy_dtype", None)  # of nullable and of Arrow's types
        if isinstance(stored, np.dtype) and stored.kind in "biuf":
            return np.asarray(self.series.to_numpy(dtype=stored))
        return np.asarray(self.series)

    def take(self, rows: RowIndices) -> np.ndarray:
        return np.asarray(self.series.iloc[rows].to_numpy())


class _PandasTable:
    def __init__(self, frame: Any):
        self._frame = frame
        self.num_rows = len(frame)
        self.names = [*frame.columns, *(name for name in frame.index.names if name is not None)]

    def columns(self, name: Label) -> list[Column]:
        """Includes levels of the index, which pandas' `groupby` takes as well."""
        import pandas

        if name in self._frame.columns:
            found = self._frame[name]
            count = found.shape[1] if found.ndim == 2 else 1
            return [_PandasColumn(found.iloc[:, at] if found.ndim == 2 else found) for at in range(count)]
        levels = [level for level, known in enumerate(self._frame.index.names) if known == name]
        return [_PandasColumn(pandas.Series(self._frame.index.get_level_values(level))) for level in levels]


@dataclass(frozen=True)
class _PolarsColumn:
    series: Any

    def has_nulls(self) -> bool:
        return bool(self.series.null_count())

    def is_float(self) -> bool:
        return bool(self.series.dtype.is_float())

    def is_missing(self) -> np.ndarray:
        return np.asarray(self.series.is_null().to_numpy())

    def codes(self) -> np.ndarray:
        import polars

        series = self.series.cast(polars.Categorical) if self.series.dtype == polars.String else self.series
        if series.dtype in (polars.Categorical, polars.Enum):
            return np.asarray(series.to_physical().to_numpy())
        return _as_numbers(self.sortable())

    def sortable(self) -> np.ndarray:
        import polars

        dtype = self.series.dtype
        if dtype == polars.Categorical:
            return np.asarray(self.series.cast(polars.String).rank("dense").to_numpy())
        if dtype.is_integer() or dtype.is_float() or dtype == polars.Boolean:
            return np.asarray(self.series.to_numpy())
        if dtype.is_temporal() or dtype == polars.Enum:
            return np.asarray(self.series.to_physical().to_numpy())
        return np.asarray(self.series.rank("dense").to_numpy())

    def values(self) -> np.ndarray:
        return np.asarray(self.series.to_numpy())

    def take(self, rows: RowIndices) -> np.ndarray:
        return np.asarray(self.series[rows].to_numpy())


class _PolarsTable:
    def __init__(self, frame: Any):
        self._frame = frame
        self.num_rows, self.names = len(frame), frame.columns

    def columns(self, name: Label) -> list[Column]:
        return [_PolarsColumn(self._frame[name])] if name in self.names else []


@dataclass(frozen=True)
class _ArrowColumn:
    column: Any
    order: np.ndarray | None = None  # of ordered categories: the number of each row's category

    def has_nulls(self) -> bool:
        return bool(self.column.null_count)

    def is_float(self) -> bool:
        import pyarrow

        return bool(pyarrow.types.is_floating(self.column.type))

    def is_missing(self) -> np.ndarray:
        return np.asarray(self.column.is_null().to_numpy())

    def codes(self) -> np.ndarray:
        import pyarrow

        kind = self.column.type
        if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind):
            return np.asarray(self.column.to_numpy())
        encoded = self.column.dictionary_encode()
        return np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])

    def sortable(self) -> np.ndarray:
        if self.order is not None:
            return self.order
        array = self.values()
        return array if array.dtype.kind in "biufmM" else np.unique(array, return_inverse=True)[1]

    def values(self) -> np.ndarray:
        return np.asarray(self.column.to_numpy())

    def take(self, rows: RowIndices) -> np.ndarray:
        return np.asarray(self.column.take(rows).to_numpy())


class _ArrowTable:
    def __init__(self, table: Any):
        self._table = table
        self.num_rows, self.names = table.num_rows, table.column_names

    def columns(self, name: Label) -> list[Column]:
        found = [self._table.column(at) for at, known in enumerate(self.names) if known == name]
        return [_ArrowColumn(_decoded(column), _order_of_categories(column)) for column in found]


def _decoded(column: Any) -> Any:
    """A column of categories as a column of their values: each of its chunks may have different categories."""
    import pyarrow

    return column.cast(column.type.value_type) if pyarrow.types.is_dictionary(column.type) else column


def _order_of_categories(column: Any) -> np.ndarray | None:
    """The numbers of ordered categories, `(num_rows,)`, -1 for a missing one.

    None for any other column, and if the chunks have different categories, since then no order holds for all.
    """
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type) or not column.type.ordered or not column.num_chunks:
        return None
    chunks = column.chunks
    if any(not chunk.dictionary.equals(chunks[0].dictionary) for chunk in chunks[1:]):
        return None
    return np.concatenate([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks])


def _as_numbers(array: np.ndarray) -> np.ndarray:
    return array.view(np.int64) if array.dtype.kind in "mM" else array
