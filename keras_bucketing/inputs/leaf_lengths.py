"""The lengths of one leaf, by the name that statistics and errors call it. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
