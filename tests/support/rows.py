"""What a `Rows` holds, row by row."""

import numpy as np


def rows_of(ragged):
    """The rows as arrays, in the dtype of the batches."""
    parts = zip(ragged.starts, ragged.sizes, strict=True)
    return [ragged.values[start : start + size].astype(ragged.dtype) for start, size in parts]


def flat(ragged):
    """The timesteps of all rows, concatenated."""
    return np.concatenate(rows_of(ragged))
