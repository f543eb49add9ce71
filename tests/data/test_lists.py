"""Lists of sequences as one array of values, and the dtype that holds them all."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given

from keras_bucketing.data.lists import concatenate, first_non_number
from tests.support.strategies import lengths_lists, sequence_lists


@given(sequence_lists(lengths=lengths_lists(min_length=0)))
def test_timesteps_lie_behind_one_another(sequences):
    rows = concatenate(sequences, "x")
    assert rows.lengths.tolist() == [len(sequence) for sequence in sequences]
    assert rows.values.tobytes() == b"".join(sequence.tobytes() for sequence in sequences)


@pytest.mark.parametrize(
    ("sequences", "dtype"),
    [
        ([[1, 2], [3]], np.int64),
        ([[True], [False]], np.bool_),
        ([[1], [2.5]], np.float32),
        ([[True], [2]], np.int64),
        ([np.array([1], np.int8), np.array([300], np.int16)], np.int16),
        ([[1.0, 2.0], [3]], np.float32),
        ([[], [1]], np.int64),  # an empty list has no dtype of its own
        ([[[1, 2]], []], np.int64),
        ([(1, 2), range(3)], np.int64),
        ([tf.constant([1]), np.array([2], np.int32)], np.int32),
    ],
)
def test_mixed_rows_share_the_dtype_that_holds_all(sequences, dtype):
    assert concatenate(sequences, "x").values.dtype == dtype


def test_the_first_entry_that_is_no_number_is_found():
    assert first_non_number([1, 2.5, True, np.int8(3), None, "a"]) == 4
    assert first_non_number([1, 2]) == 0
