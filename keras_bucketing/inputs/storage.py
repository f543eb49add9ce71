"""How arrays are stored: their dtype, and a copy in a tensor in host memory."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# TensorFlow's kernels insist on it (EIGEN_MAX_ALIGN_BYTES); NumPy aligns to 16 bytes only.
ALIGNMENT = 64


def standard_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """The dtype a leaf is stored in: float64 becomes Keras' floatx, as in `fit`; else only the byte order changes."""
    if dtype.kind in "SUOM":
        raise TypeError(
            f"`{name}` must hold numbers. Expected a bool, int or float dtype, received {dtype}. Map strings to ids "
            "first, e.g. with keras.layers.StringLookup or keras.layers.TextVectorization."
        )
    if dtype.kind not in "biuf" or dtype.itemsize > 8:  # bfloat16, complex, longdouble, structures
        raise TypeError(
            f"`{name}` must hold numbers. Expected a bool, int or float dtype of NumPy's and TensorFlow's, received "
            f"{dtype}. Convert it first, e.g. to float32."
        )
    native = dtype.newbyteorder("=")  # TensorFlow takes no other
    return stored_floatx() if native == np.float64 else native


def stored_floatx() -> np.dtype:
    """Keras' floatx; float32 where that is bfloat16, which NumPy does not have: the model's layers cast it."""
    floatx = keras.config.floatx()
    return np.dtype(np.float32 if floatx == "bfloat16" else floatx)


def host_tensor(array: np.ndarray) -> tf.Tensor:
    """Copies an array into a tensor in host memory, once.

    `tf.constant` makes two copies, the second because NumPy's memory is not aligned as TensorFlow's kernels need it.
    """
    if array.dtype == np.bool_ or array.size == 0:  # DLPack in TensorFlow 2.18 knows neither
        with tf.device("CPU:0"):
            return tf.constant(array)
    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return tf.experimental.dlpack.from_dlpack(copy.__dlpack__())


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialized array whose memory TensorFlow can use as it is."""
    dtype = np.dtype(dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(num_bytes + ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % ALIGNMENT
    aligned: np.ndarray = buffer[offset : offset + num_bytes].view(dtype).reshape(shape)
    return aligned
