"""Conversions in graph, against NumPy's."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_bucketing.pipeline.conversion import convert

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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, 20), st.sampled_from(["float32", "float16", "int64"]))
def test_integers(values, dtype):
    assert_as_numpy(values, dtype)
