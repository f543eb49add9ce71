"""How arrays are stored: their dtype, where their memory is, and a copy in a tensor in host memory."""

from __future__ import annotations

import mmap
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# TensorFlow's kernels insist on it (EIGEN_MAX_ALIGN_BYTES); NumPy aligns to 16 bytes only.
ALIGNMENT = 64
_LONGEST_RANDOM_READ = 1 << 18  # bytes; between the sizes that gain from reading ahead and those that lose


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


def is_mapped(array: np.ndarray) -> bool:
    """Whether the memory of an array is a file that is mapped into it.

    Example:
        >>> is_mapped(np.zeros(3))
        False
    """
    return _mapping_of(array) is not None


def expect_random_reads(array: np.ndarray, row_bytes: float) -> None:
    """Tells the operating system that short rows of a mapped file will be read in no order, so that it reads no more.

    Measured with a cold cache on a virtual disk, rows a second with and without: 1,830 and 246 for rows of 4 kB, 460
    and 242 for 64 kB, 27 and 37 for 1 MB, which reading ahead helps. More gathers at once gained nothing for certain.

    Args:
        array: Any array; nothing happens unless it is mapped.
        row_bytes: The mean size of a row.
    """
    mapping = _mapping_of(array)
    if mapping is not None and row_bytes <= _LONGEST_RANDOM_READ and hasattr(mmap, "MADV_RANDOM"):
        mapping.madvise(mmap.MADV_RANDOM)


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    owner: Any = array  # not isinstance(array, np.memmap): copies and results of arithmetic may be of that class
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner


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
