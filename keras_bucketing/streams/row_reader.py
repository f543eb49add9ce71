"""Single rows, as Python's iterators yield them, appended to columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_bucketing.inputs.arrays import as_regular_array
from keras_bucketing.inputs.lists import as_row
from keras_bucketing.streams.element_specs import NAMES, Triple, leaves_like, map_named, named_leaves, refuse_text
from keras_bucketing.streams.growing import GrowingColumn


class RowReader:
    """Reads elements that are one row each: a scalar is one value a row, everything with an axis is a sequence.

    Args:
        template: The first element, whose structure all others share.
        new_column: Function of a leaf's name and of whether it holds sequences.
    """

    def __init__(self, template: Triple, new_column: Callable[[str, bool], GrowingColumn]):
        self.num_rows = 0
        self._template = template
        is_single = not isinstance(template[0], (dict, tuple))

        def make(name: str, leaf: Any) -> GrowingColumn:
            is_sequence = (is_single and name == "x") or isinstance(leaf, (list, tuple)) or np.ndim(leaf) > 0
            return new_column(name, is_sequence)

        x, y, weights = (map_named(part, name, make) for name, part in zip(NAMES, template, strict=True))
        self.columns: Triple = (x, y, weights)
        self._flat = [
            [column for _, column in named_leaves(part, name)] for name, part in zip(NAMES, self.columns, strict=True)
        ]

    def read(self, element: Triple) -> None:
        """Appends one row to every column."""
        row = self.num_rows
        for name, template, part, columns in zip(NAMES, self._template, element, self._flat, strict=True):
            leaves = leaves_like(template, part, (name,), row)
            for column, leaf in zip(columns, leaves, strict=True):
                column.append(
                    _as_sequence(leaf, column.name, row) if column.is_ragged else _as_value(leaf, column, row)
                )
        self.num_rows += 1


def _as_sequence(leaf: Any, name: str, row: int) -> np.ndarray:
    if type(leaf) is np.ndarray and leaf.ndim and leaf.dtype.kind in "biuf":
        return leaf
    _refuse_strings(leaf, f"{name}[{row}]")
    return as_row(leaf, f"{name}[{row}]")


def _as_value(leaf: Any, column: GrowingColumn, row: int) -> np.ndarray:
    where = f"{column.name}[{row}]"
    if not isinstance(leaf, (bool, int, float, np.ndarray, np.generic)):
        _refuse_strings(leaf, where)
    array = as_regular_array(leaf, where, "Give every row the same shape.")
    if array.dtype.kind == "O":
        raise TypeError(
            f"`{where}` must be a number. Received {type(leaf).__name__}. Drop that row or give it a value."
        )
    refuse_text(str(array.dtype), where, leaf)
    return array


def _refuse_strings(leaf: Any, where: str) -> None:
    """Looks for text in a string, in the first entries of a list, and in an array's dtype."""
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, (str, bytes)):
        refuse_text("string", where, leaf)
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and str(getattr(dtype, "name", dtype)) != "object":
        refuse_text(str(getattr(dtype, "name", dtype)), where)
