"""Arrays that TensorFlow gathers from where they lie: any address, dtype, byte order and shape, and no copy."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.pipeline.host_values import HostValues
from tests.support.strategies import DTYPES, random_bits, seeds

STORED = [*DTYPES, "float64", ">i2", ">u4", ">i8", ">f2", ">f4", ">f8"]


def at_offset(array, offset):
    """The same array, read-only, that many bytes behind a multiple of 64."""
    buffer = np.zeros(array.nbytes + 256, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    buffer[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    moved = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved.flags.writeable = False
    return moved


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(STORED),
    st.sampled_from([(), (1,), (3,), (16,), (2, 4), (80,)]),
    st.integers(0, 130),
    st.integers(1, 40),
    seeds(),
)
def test_any_array_at_any_address_is_gathered_bit_for_bit(dtype, feature_shape, offset, num_rows, seed):
    generator = np.random.default_rng(seed)
    array = at_offset(random_bits((num_rows, *feature_shape), dtype, generator), offset)
    values, rows = HostValues(array, array.dtype.newbyteorder("=")), generator.integers(0, num_rows, 9)
    taken = values.take(tf.constant(rows + values.begin)).numpy()
    expected = array[rows].astype(array.dtype.newbyteorder("="))
    assert (taken.dtype, taken.shape) == (expected.dtype, expected.shape)
    assert taken.tobytes() == expected.tobytes()


@pytest.mark.parametrize("offset", [0, 16, 64, 1])
@pytest.mark.parametrize("dtype", ["int32", "float64", "bool", ">f4"])
@pytest.mark.parametrize("features", [1, 12, 16])
def test_nothing_is_copied(offset, dtype, features):
    array = at_offset(np.zeros((50, features), dtype), offset)
    values = HostValues(array, array.dtype.newbyteorder("="))
    array.flags.writeable = True
    array[:] = 1
    assert (values.take(tf.constant([values.begin, values.begin + 49])).numpy() == 1).all()


def test_nothing_below_the_first_page_or_the_buffer_is_claimed():
    memory = np.zeros(2**16, np.uint8)
    page = memory[-memory.ctypes.data % 4096 :][:8192]
    for begin in range(0, 256, 4):
        array = page[begin : begin + 960].view(np.float32).reshape(-1, 12)
        array = np.lib.stride_tricks.as_strided(array, writeable=False)  # hides that there is more of the buffer
        values = HostValues(array, array.dtype)
        assert values.begin * 48 <= begin


def test_an_array_without_rows_is_taken_too():
    assert HostValues(np.zeros((0, 3), ">f8"), np.dtype(np.float32)).take(tf.zeros([0], tf.int64)).shape == (0, 3)


def test_the_memory_lives_as_long_as_the_tensor_and_no_longer():
    array = np.full(5000, 7)
    released = weakref.ref(array)
    values = HostValues(array, array.dtype)
    del array
    gc.collect()
    assert released() is not None
    assert (values.take(tf.range(values.begin, 5000)).numpy() == 7).all()
    del values
    gc.collect()
    assert released() is None
