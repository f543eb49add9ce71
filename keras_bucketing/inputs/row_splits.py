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
