"""What a `Rows` holds, row by row."""

import numpy as np

from keras_bucketing.unpadding.arrays import unpad_arrays


def rows_of(ragged):
    """The rows as arrays, in the dtype of the batches."""
    parts = zip(ragged.starts, ragged.sizes, strict=True)
    return [ragged.values[start : start + size].astype(ragged.dtype) for start, size in parts]


def flat(ragged):
    """The timesteps of all rows, concatenated."""
    return np.concatenate(rows_of(ragged))


def assert_same_rows(received, expected):
    """Both are lists of arrays, or of what becomes arrays, of the same shapes and values."""
    assert isinstance(received, list)
    assert len(received) == len(expected)
    for row, (one, other) in enumerate(zip(received, expected, strict=True)):
        assert isinstance(one, np.ndarray)
        np.testing.assert_array_equal(one, np.asarray(other), err_msg=f"row {row}")
        assert one.shape == np.shape(other)


def sequences_from_padded(*arguments, **options):
    """The structure with ragged leaves, and what was found in each of these; arguments as in `unpad_arrays`."""
    unpadded = unpad_arrays(*arguments, **options)
    return unpadded.x, unpadded.padded
