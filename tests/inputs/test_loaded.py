"""Rows that are not in memory: their lengths go the way of those in memory."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.inputs.loaded import loaded_sequences
from keras_bucketing.inputs.ragged import as_ragged
from tests.support.strategies import lengths_lists

SPEC = tf.TensorSpec((None,), tf.int32)


@given(lengths_lists(min_length=0), st.integers(1, 9), st.sampled_from(["post", "pre"]), st.data())
def test_lengths_change_as_those_in_memory(lengths, maxlen, truncating, data):
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    keep[0] = True
    in_memory = as_ragged([np.zeros(length, np.int32) for length in lengths], "x")
    loaded = loaded_sequences(lambda row: None, lengths, SPEC, 0, None)
    for change in (
        lambda leaf: leaf,
        lambda leaf: leaf.truncate(maxlen, truncating),
        lambda leaf: leaf.truncate(maxlen, truncating).select(keep),
        lambda leaf: leaf.select(keep).truncate(maxlen, truncating),
        lambda leaf: leaf.truncate(maxlen, truncating).fill_empty(),
    ):
        assert change(loaded).lengths.tolist() == change(in_memory).lengths.tolist()
        assert change(loaded).num_rows == change(in_memory).num_rows
    assert loaded.select(keep).rows.tolist() == np.flatnonzero(keep).tolist()
    assert loaded.truncate(maxlen, truncating).announced.tolist() == lengths


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        (
            {"load": [1, 2]},
            TypeError,
            "`load` must be a function from a row index to a sequence. Received [1,",
        ),
        ({"lengths": []}, ValueError, "`lengths` is empty"),
        ({"lengths": [3, -1]}, ValueError, "Received -1 at lengths[1]"),
        ({"lengths": [2**31]}, ValueError, "`lengths` must be below 2**31"),
        ({"lengths": [1.5]}, ValueError, "`lengths` must be whole numbers of timesteps"),
        ({"lengths": "abc"}, ValueError, "`lengths` must have one dimension"),
        ({"length_tolerance": -1}, ValueError, "`length_tolerance` is too small"),
        ({"length_tolerance": 0.5}, TypeError, "`length_tolerance` must be an integer"),
        ({"num_parallel_loads": 0}, ValueError, "`num_parallel_loads` is too small"),
        ({"output_signature": {"a": SPEC}}, ValueError, "Expected a dict with lengths for each of ['a'], received [3]"),
        ({"output_signature": (SPEC,)}, ValueError, "Expected a tuple with lengths for each of"),
        (
            {"output_signature": {"a": SPEC}, "lengths": {"b": [3]}},
            ValueError,
            "`lengths` must have the structure of `output_signature`",
        ),
        (
            {"output_signature": {"a": SPEC}, "lengths": {"a": [-3]}},
            ValueError,
            "`lengths['a']` must be at least 0. Received -3 at lengths['a'][0]",
        ),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(changes, error, text):
    def load(row):
        raise AssertionError

    arguments = {
        "load": load,
        "lengths": [3],
        "output_signature": SPEC,
        "length_tolerance": 0,
        "num_parallel_loads": None,
        **changes,
    }
    with pytest.raises(error) as raised:
        loaded_sequences(**arguments)
    assert text in str(raised.value)
    assert len(str(raised.value)) < 1000
