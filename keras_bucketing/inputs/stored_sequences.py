"""Sequences that lie in one flat array, handed out as views of it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, overload

import numpy as np


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
