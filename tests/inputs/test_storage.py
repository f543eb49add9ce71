"""Arrays in host memory: every bit kept."""

import keras
import numpy as np
import pytest

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.inputs.storage import aligned_empty, host_tensor, standard_dtype
from tests.support.strategies import DTYPES, random_bits


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3)])
def test_host_tensors_hold_the_array_in_host_memory(dtype, shape):
    array = random_bits(shape, dtype, np.random.default_rng(0))
    tensor = host_tensor(array)
    assert tensor.dtype.name == dtype
    assert "CPU" in tensor.device
    assert tensor.numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("array", [np.arange(64.0)[::2], np.arange(12).reshape(3, 4).T, np.arange(9)[1:]])
def test_views_become_host_tensors_too(array):
    assert np.array_equal(host_tensor(array), array)


def test_host_tensors_do_not_follow_the_callers_array():
    array = np.arange(1000)
    tensor = host_tensor(array)
    array[:] = -1
    assert np.array_equal(tensor, np.arange(1000))


def test_float64_becomes_floatx():
    assert standard_dtype(np.dtype("float64"), "x") == np.float32
    keras.config.set_floatx("float16")
    try:
        assert standard_dtype(np.dtype("float64"), "x") == np.float16
        assert standard_dtype(np.dtype("float32"), "x") == np.float32
    finally:
        keras.config.set_floatx("float32")


def test_bfloat16_as_floatx_is_stored_as_float32():
    keras.config.set_floatx("bfloat16")
    try:
        dataset = BucketedSequence([[0.5], [1.5, 2.5]], [0.5, 1.5], [1, 1], shuffle=False)
        assert [tensor.dtype.name for tensor in next(iter(dataset))] == ["float32"] * 3
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("shape", [(0,), (3,), (5, 7)])
@pytest.mark.parametrize("dtype", ["bool", "int16", "float32"])
def test_aligned_arrays_lie_where_tensorflow_can_use_them(shape, dtype):
    array = aligned_empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % 64 == 0 or array.size == 0
