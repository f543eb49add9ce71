"""Conversions in graph, against NumPy's."""

import weakref

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_bucketing.pipeline.host_values import HostValues, convert
from tests.support.default_layer import examples
from tests.support.strategies import DTYPES, random_bits, seeds

EDGES = [0.0, -0.0, 1e-40, -3e-42, 1.1754943e-38, 7.006e-46, 7.1e-46, -1e-320, 1e300, -1e300, np.inf, -np.inf, np.nan]
EDGES += [1 + 2**-11, 1 + 2**-11 + 2**-40, 65519.99, 65520, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 2.0**-25 + 2.0**-60]


def converted(values, dtype):
    """In a thread of tf.data, which flushes subnormal numbers to zero."""
    dataset = tf.data.Dataset.from_tensors(values).map(lambda values: convert(values, np.dtype(dtype)))
    return next(iter(dataset)).numpy()


def assert_as_numpy(values, dtype):
    with np.errstate(all="ignore"):
        expected = values.astype(dtype)
    result = converted(values, dtype)
    assert result.dtype == dtype
    if dtype == "float16":  # NaN has many bit patterns
        assert np.array_equal(np.isnan(result), np.isnan(expected))
        result, expected = np.nan_to_num(result), np.nan_to_num(expected)
    assert result.tobytes() == expected.tobytes()


@settings(max_examples=examples(60), deadline=None)
@given(
    arrays(np.float64, st.integers(1, 50), elements=st.floats(width=64) | st.sampled_from(EDGES)),
    st.sampled_from(["float32", "float16"]),
)
def test_floats_are_rounded_once_and_small_ones_stay(values, dtype):
    assert_as_numpy(values, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_many_floats_of_all_magnitudes(dtype):
    generator = np.random.default_rng(0)
    assert_as_numpy(np.array(EDGES), dtype)
    assert_as_numpy(generator.standard_normal(200_000) * 10.0 ** generator.integers(-60, 60, 200_000), dtype)
    assert_as_numpy(
        1 + generator.integers(0, 2**12, 200_000) / 2**12 + generator.standard_normal(200_000) / 2**30, dtype
    )


@settings(max_examples=examples(40), deadline=None)
@given(arrays(np.int64, 20), st.sampled_from(["float32", "float16", "int64"]))
def test_integers(values, dtype):
    assert_as_numpy(values, dtype)


# Arrays that TensorFlow gathers from where they lie: any address, dtype, byte order and shape, and no copy.


STORED = [*DTYPES, "float64", ">i2", ">u4", ">i8", ">f2", ">f4", ">f8"]


def at_offset(array, offset):
    """The same array, read-only, that many bytes behind a multiple of 64."""
    buffer = np.zeros(array.nbytes + 256, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    buffer[start : start + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    moved = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved.flags.writeable = False
    return moved


@settings(max_examples=examples(300), deadline=None)
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


def test_the_memory_lives_as_long_as_the_tensor_and_no_longer(collect_garbage):
    array = np.full(5000, 7)
    released = weakref.ref(array)
    values = HostValues(array, array.dtype)
    del array
    collect_garbage()
    assert released() is not None
    assert (values.take(tf.range(values.begin, 5000)).numpy() == 7).all()
    del values
    collect_garbage()
    assert released() is None
