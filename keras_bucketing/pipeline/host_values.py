"""An array in host memory from which TensorFlow gathers without a copy, converting batch by batch."""

from __future__ import annotations

import mmap

import numpy as np
import tensorflow as tf

from keras_bucketing.data.arrays import ALIGNMENT


class HostValues:
    """Rows of an array, gathered in graph without a copy of the array.

    TensorFlow takes memory only from a multiple of 64 bytes on. If the array begins elsewhere, the tensor begins before
    it, by whole rows if that fits (`begin`); otherwise the rows are gathered in pieces of 2 to 32 bytes, which is
    slower. The bytes before it are never read, and are part of the same page of memory or of the same buffer.

    Args:
        array: C-contiguous array `(num_rows, *feature_shape)` in any byte order, may be read-only.
        dtype: The dtype to gather, e.g. float32 from float64.

    Attributes:
        begin: Int, the index of the array's first row in `take`.
        tensor: The tensor to gather from.
    """

    def __init__(self, array: np.ndarray, dtype: np.dtype):
        self._stored, self._dtype = array.dtype, np.dtype(dtype)
        self._feature_shape = array.shape[1:]
        self._pieces: int | None = None
        self._first_piece = self.begin = 0
        if not array.size:
            with tf.device("CPU:0"):
                self.tensor = tf.constant(array.astype(_known_to_dlpack(array.dtype)))
            return
        row_bytes, address = array[:1].nbytes, array.ctypes.data
        self.begin = _rows_below(address, row_bytes, address - _begin_of_memory(array))
        if self.begin >= 0:
            shape = (self.begin + len(array), *self._feature_shape)
            self.tensor = _shared_tensor(address - self.begin * row_bytes, shape, _known_to_dlpack(array.dtype), array)
            return
        below, self.begin = address % ALIGNMENT, 0
        piece = int(np.gcd.reduce([below, row_bytes, ALIGNMENT]))
        self._pieces, self._first_piece = row_bytes // piece, below // piece
        shape = ((below + array.nbytes) // piece, piece)
        self.tensor = _shared_tensor(address - below, shape, np.dtype(np.uint8), array)

    def take(self, rows: tf.Tensor) -> tf.Tensor:
        """Gathers the rows `(n,)`, counted from `begin`, to a tensor `(n, *feature_shape)`."""
        if self._pieces is None:
            return self._convert(tf.gather(self.tensor, rows))
        pieces = tf.cast(rows, tf.int64)[:, tf.newaxis] * self._pieces + self._first_piece
        taken = tf.gather(self.tensor, pieces + tf.range(self._pieces, dtype=tf.int64))
        return self._convert(self._from_bytes(taken))

    def _from_bytes(self, taken: tf.Tensor) -> tf.Tensor:
        known = _known_to_dlpack(self._stored)
        shape = [-1, *self._feature_shape]
        return tf.bitcast(tf.reshape(taken, [*shape, known.itemsize] if known.itemsize > 1 else shape), known)

    def _convert(self, taken: tf.Tensor) -> tf.Tensor:
        if not self._stored.isnative:
            taken = tf.bitcast(tf.reverse(tf.bitcast(taken, tf.uint8), [-1]), taken.dtype)
        return convert(taken, self._dtype)


class _Memory:
    """Memory that NumPy sees as a writable array, as DLPack's first protocol demands; it is never written to."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype, owner: np.ndarray):
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}
        self.owner = owner  # lives as long as the tensor: tensor -> DLPack's capsule -> array -> this


def _shared_tensor(address: int, shape: tuple[int, ...], dtype: np.dtype, owner: np.ndarray) -> tf.Tensor:
    return tf.experimental.dlpack.from_dlpack(np.asarray(_Memory(address, shape, dtype, owner)).__dlpack__())


def _known_to_dlpack(dtype: np.dtype) -> np.dtype:
    """The dtype under which TensorFlow takes the memory: DLPack in 2.18 has no bool, and no foreign byte order."""
    return np.dtype(np.uint8) if dtype == np.bool_ else dtype.newbyteorder("=")


def _rows_below(address: int, row_bytes: int, memory_below: int) -> int:
    """How many rows below an address are aligned, and reachable without leaving its page or its buffer; -1 if none."""
    reachable = max(address % mmap.PAGESIZE, memory_below)
    for rows in range(min(ALIGNMENT, reachable // row_bytes + 1)):
        if (address - rows * row_bytes) % ALIGNMENT == 0:
            return rows
    return -1


def _begin_of_memory(array: np.ndarray) -> int:
    """The address of the array of which this one is a part."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return int(array.ctypes.data)


# Conversions of dtype in graph, to the very bits that NumPy gives.


_MIN_NORMAL_FLOAT32 = 2.0**-126
_SUBNORMAL_STEPS = 2.0**149  # of float32 in 1


def convert(values: tf.Tensor, dtype: np.dtype) -> tf.Tensor:
    """As `ndarray.astype`, except that NaN may have other bits in float16."""
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
    is_subnormal = (tf.abs(values) < _MIN_NORMAL_FLOAT32) & (values != 0)

    def repaired() -> tf.Tensor:
        steps = tf.cast(tf.round(tf.where(is_subnormal, values, 0) * _SUBNORMAL_STEPS), tf.int32)
        bits = tf.bitcast(nearest, tf.int32)
        sign = tf.bitwise.bitwise_and(bits, tf.int32.min)
        return tf.bitcast(tf.where(is_subnormal, tf.bitwise.bitwise_or(sign, tf.abs(steps)), bits), tf.float32)

    return tf.cond(tf.reduce_any(is_subnormal), repaired, lambda: nearest)


def _rounded_to_odd(values: tf.Tensor) -> tf.Tensor:
    """Float64 to float32 such that rounding to float16 afterwards gives the same as rounding once.

    `tf.cast` goes from float64 to float16 through float32, NumPy does not. Boldo and Melquiond, "Emulation of a FMA and
    correctly rounded sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57 (2008).
    """
    nearest = tf.cast(values, tf.float32)
    back = tf.cast(nearest, tf.float64)
    toward_zero = tf.bitcast(nearest, tf.int32) - tf.cast(tf.abs(back) > tf.abs(values), tf.int32)
    is_inexact = tf.cast(tf.math.is_finite(values) & (back != values), tf.int32)
    return tf.bitcast(tf.bitwise.bitwise_or(toward_zero, is_inexact), tf.float32)
