"""Conversions of dtype in graph, to the very bits that NumPy gives."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_LEAST_NORMAL_FLOAT32 = 2.0**-126
_SUBNORMAL_STEPS = 2.0**149  # of float32 in 1


def convert(values: tf.Tensor, dtype: np.dtype) -> tf.Tensor:
    """What `ndarray.astype` does; only NaN may come with other bits where float16 is made.

    Args:
        values: Tensor.
        dtype: The dtype of the result.
    """
    if values.dtype == dtype:
        return values
    if values.dtype == tf.float64 and dtype == np.float32:
        return _with_subnormals(values)
    if values.dtype == tf.float64 and dtype == np.float16:
        return tf.cast(_rounded_to_odd(values), tf.float16)
    return tf.cast(values, dtype)


def _with_subnormals(values: tf.Tensor) -> tf.Tensor:
    """Float64 to float32. TensorFlow's threads flush numbers below 2**-126 to zero (ScopedFlushDenormal)."""
    nearest = tf.cast(values, tf.float32)
    is_subnormal = (tf.abs(values) < _LEAST_NORMAL_FLOAT32) & (values != 0)

    def repaired() -> tf.Tensor:
        steps = tf.cast(tf.round(tf.where(is_subnormal, values, 0) * _SUBNORMAL_STEPS), tf.int32)
        bits = tf.bitcast(nearest, tf.int32)
        sign = tf.bitwise.bitwise_and(bits, tf.int32.min)
        return tf.bitcast(tf.where(is_subnormal, tf.bitwise.bitwise_or(sign, tf.abs(steps)), bits), tf.float32)

    return tf.cond(tf.reduce_any(is_subnormal), repaired, lambda: nearest)


def _rounded_to_odd(values: tf.Tensor) -> tf.Tensor:
    """Float64 to float32 such that rounding to float16 afterwards gives what rounding once would.

    `tf.cast` goes from float64 to float16 by way of float32, NumPy does not. Boldo and Melquiond, "Emulation of a FMA
    and correctly rounded sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57 (2008).
    """
    nearest = tf.cast(values, tf.float32)
    back = tf.cast(nearest, tf.float64)
    toward_zero = tf.bitcast(nearest, tf.int32) - tf.cast(tf.abs(back) > tf.abs(values), tf.int32)
    is_inexact = tf.cast(tf.math.is_finite(values) & (back != values), tf.int32)
    return tf.bitcast(tf.bitwise.bitwise_or(toward_zero, is_inexact), tf.float32)
