"""One label a sequence, as numbers whose sums say what a batch holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Labels:
    """Classes, or values.

    Attributes:
        values: Int array `(num_sequences,)`, the class of each sequence from 0 on; or float array `(num_sequences,
            num_columns)`, values.
        num_classes: Int; 0 for values.
    """

    values: np.ndarray
    num_classes: int

    def in_order(self, rows: np.ndarray) -> Labels:
        """The labels of these rows."""
        return Labels(self.values[rows], self.num_classes)

    def moments(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The means and variances of consecutive groups of sequences; of classes, one column each is 0 or 1.

        Args:
            counts: Int array `(num_groups,)`, the sequences of each group, together all of them.

        Returns:
            Float arrays: means `(num_groups, num_columns)`, and the variances of all columns together `(num_groups,)`.
            Both are 0 for an empty group.

        Example:
            >>> check_labels(["a", "b", "a"], 3).moments(np.array([1, 2]))
            (array([[1. , 0. ],
                   [0.5, 0.5]]), array([0. , 0.5]))
        """
        some = np.maximum(counts, 1)[:, np.newaxis]
        groups = np.repeat(np.arange(len(counts)), counts)
        if self.num_classes:
            cells = np.bincount(groups * self.num_classes + self.values, minlength=len(counts) * self.num_classes)
            shares = cells.reshape(len(counts), self.num_classes) / some
            return shares, (shares * (1 - shares)).sum(axis=1)
        sums, squares = np.zeros((2, len(counts), self.values.shape[1]))
        np.add.at(sums, groups, self.values)
        means = sums / some
        np.add.at(squares, groups, (self.values - means[groups]) ** 2)
        return means, (squares / some).sum(axis=1)


def check_labels(y: Any, num_sequences: int) -> Labels:
    """Takes labels as the user has them.

    Args:
        y: Array `(num_sequences,)`: integers, booleans and strings are classes, floats are values. Or numbers
            `(num_sequences, num_columns)`, such as one-hot classes.
        num_sequences: Int, how many there must be.

    Raises:
        TypeError: If `y` is neither numbers nor strings.
        ValueError: If it has another shape, or holds NaN.
    """
    try:
        array = np.asarray(y)
    except ValueError:  # of uneven shape
        array = np.array(None)
    if array.dtype.kind not in "biufUS":
        raise TypeError(
            "`y` must be one number or string a sequence. Received a list of uneven shape or other objects "
            f"({type(y).__name__}). Labels of each timestep do not say how uneven batches are: leave them out."
        )
    if array.ndim not in (1, 2) or len(array) != num_sequences or (array.ndim == 2 and array.dtype.kind in "US"):
        raise ValueError(
            f"`y` must have one label for each length. Expected shape ({num_sequences},), or ({num_sequences}, "
            f"num_columns) of numbers, received {array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array).reshape(num_sequences, -1).all(axis=1)))
        raise ValueError(f"`y` must be finite. Received {array[at]} at y[{at}]. Leave that sequence out.")
    if array.ndim == 1 and array.dtype.kind != "f":
        classes, of_rows = np.unique(array, return_inverse=True)
        return Labels(of_rows, len(classes))
    return Labels(array.reshape(num_sequences, -1).astype(float), 0)
