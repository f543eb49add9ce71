"""Elements that are one row each, into a column for each leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_bucketing.data.arrays import as_regular_array
from keras_bucketing.data.lists import as_row
from keras_bucketing.data.tree import Path
from keras_bucketing.streams.columns import ColumnBuilder
from keras_bucketing.streams.elements import (
    Element,
    Specs,
    common_specs,
    describe_shapes,
    leaves_in_order,
    leaves_of,
    map_element,
    refuse_text,
    specs_of,
)
from keras_bucketing.streams.lookahead import LOOKAHEAD
from keras_bucketing.streams.roles import looks_like_batches, unclear_elements, without_part

NewColumn = Callable[[Path, bool], ColumnBuilder]  # from a leaf's path, and whether it holds sequences


class RowReader:
    """Reads elements that are one row each: a scalar is one value per row, everything with an axis is a sequence.

    Args:
        first: The first element. It is looked at, not read.
        template: Its `template_of`, which that of all others must be.
        new_column: Makes the column of a leaf.
        refuse_batches: Whether elements are refused that look like batches.
    """

    def __init__(self, first: Element, template: Element, new_column: NewColumn, refuse_batches: bool = False):
        def is_ragged(path: Path, leaf: Any) -> bool:
            return path == ("x",) or isinstance(leaf, (list, tuple)) or np.ndim(leaf) > 0

        self.num_rows = 0
        self._are_ragged: Element = map_element(is_ragged, first)
        self._template, self._new_column = template, new_column
        self._refuse_batches = refuse_batches
        self.values_of_rows: set[Path] = set()  # leaves of `x` that turned out to be values of one shape: none
        self._specs: list[Specs] = []  # of the first elements
        self.begin_columns()

    def begin_columns(self) -> None:
        """Lets the rows that follow go into columns of their own."""
        self.columns: Element = map_element(self._new_column, self._are_ragged)
        self._by_path: dict[Path, ColumnBuilder] = leaves_of(self.columns)

    def finish(self) -> list[str]:
        """Checks what only all rows show, and returns no warnings: rows are not padded.

        Raises:
            ValueError: If there are few elements, all of which look like batches.
        """
        if self.num_rows < LOOKAHEAD:
            self._check_rows(is_whole=True)
        return []

    def label_padding(self) -> float | None:
        """Labels are not padded."""
        return None

    def mask_names(self) -> tuple[str, ...]:
        """Nothing tells masks from other sequences."""
        return ()

    def read(self, element: Element) -> None:
        """Appends one row to every column."""
        leaves = leaves_in_order(element, self._template, self.num_rows)
        if self._refuse_batches and self.num_rows < LOOKAHEAD:
            self._specs.append(specs_of(element))
            if len(self._specs) == LOOKAHEAD:
                self._check_rows()
        try:
            self._append(leaves)
        except ValueError:
            if len(self._specs) == self.num_rows + 1:
                self._check_rows()
            raise
        self.num_rows += 1

    def _append(self, leaves: list[Any]) -> None:
        for (path, column), leaf in zip(self._by_path.items(), leaves, strict=True):
            where = f"{column.name}[{self.num_rows}]"
            convert = _as_sequence if column.is_ragged else _as_value
            column.append(convert(leaf, (*path, self.num_rows), where))

    def _check_rows(self, is_whole: bool = False) -> None:
        if not self._refuse_batches or not self._specs:
            return
        specs = without_part(self._specs) if is_whole else self._specs
        if looks_like_batches(common_specs(specs), len(specs)):
            seen = describe_shapes(common_specs(self._specs))
            raise unclear_elements(f"{seen} in all of the first {len(self._specs)} elements")


def _as_sequence(leaf: object, path: Path, name: str) -> np.ndarray:
    if type(leaf) is np.ndarray and leaf.ndim and leaf.dtype.kind in "biuf":
        return leaf
    _refuse_strings(leaf, path)
    return as_row(leaf, name)


def _as_value(leaf: object, path: Path, name: str) -> np.ndarray:
    if not isinstance(leaf, (bool, int, float, np.ndarray, np.generic)):
        _refuse_strings(leaf, path)
    array = as_regular_array(leaf, name, "Give every row the same shape.")
    if array.dtype.kind == "O":
        raise TypeError(f"`{name}` must be a number. Received {type(leaf).__name__}. Drop that row or give it a value.")
    refuse_text(str(array.dtype), path, leaf)
    return array


def _refuse_strings(leaf: object, path: Path) -> None:
    """Looks for text in a string, in the first entries of a list, and in an array's dtype."""
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, (str, bytes)):
        refuse_text("string", path, leaf)
    dtype = getattr(leaf, "dtype", None)
    refuse_text(str(getattr(dtype, "name", dtype)), path)
