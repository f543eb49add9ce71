"""Row splits: row i of flat values is `values[row_splits[i]:row_splits[i + 1]]`, as in `tf.RaggedTensor`."""

from __future__ import annotations

import numpy as np


def row_splits_of(lengths: np.ndarray) -> np.ndarray:
    """Lengths `(num_rows,)` to int64 row splits `(num_rows + 1,)`.

    Example:
    >>> row_splits_of(np.array([3, 0, 2])).tolist()
    [0, 3, 3, 5]
    """
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def common_width(widths: np.ndarray, name: str) -> int:
    """The number of features that every timestep has, where timesteps are lists; 0 where there is no timestep.

    Args:
        widths: Int array `(num_timesteps,)`.
        name: What to call the sequences in an error message.

    Raises:
        ValueError: If the widths differ.
    """
    distinct = np.unique(widths)
    if len(distinct) > 1:
        raise ValueError(
            f"All sequences must share one feature shape. Received timesteps of {distinct[0]} and of {distinct[1]} "
            f"features in `{name}`. Reshape or drop those sequences."
        )
    return int(distinct[0]) if len(distinct) else 0
