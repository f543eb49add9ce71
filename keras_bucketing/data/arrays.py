"""Arrays: reading the user's data, their dtype, their memory, and whether it is a mapped file.

Data that NumPy would read wrongly are refused: missing and masked entries, which it turns into NaN or into the values
under the mask, and integers that only a float can hold.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import DTypeLike

from keras_bucketing.checks import shorten, show

NUMBERS = (bool, int, float, np.bool_, np.number)  # what a list of numbers holds
# TensorFlow's kernels insist on it (EIGEN_MAX_ALIGN_BYTES); NumPy aligns to 16 bytes only.
ALIGNMENT = 64

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # docs.kernel.org/admin-guide/cgroup-v2.html
_MAX_RANDOM_READ = 1 << 18  # bytes; between the sizes that gain from reading ahead and those that lose


def as_regular_array(values: Any, name: str, fix: str) -> np.ndarray:
    """An array, a tensor of any library, a column or nested lists of numbers as an array.

    `fix` is the sentence with the fix for nested lists of uneven shape.

    Raises:
        TypeError: If NumPy cannot read them.
        ValueError: If an entry is missing, nested lists are of uneven shape, or integers do not share an integer type.
    """
    refuse_missing(values, name)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(values, (list, tuple)):
            raise ValueError(
                f"`{name}` must be one regular array. Received a nested list of uneven shape. {fix}"
            ) from error
        raise TypeError(
            f"`{name}` must be readable by NumPy. Received {type(values).__module__}.{type(values).__name__}, which "
            f"says: {shorten(' '.join(str(error).split()))} Convert it first, e.g. a PyTorch tensor with "
            "tensor.detach().float().cpu().numpy()."
        ) from error
    if array.dtype == np.float64 and isinstance(values, (list, tuple)):
        return _unrounded_integers(values, array, name)
    return as_numbers(array, name) if array.dtype == object and array.ndim else array


def as_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """An array of objects, all of which are numbers, as an array of numbers; any other as it is."""
    values = array.reshape(-1).tolist()
    if not values or not isinstance(values[0], NUMBERS) or not all(isinstance(value, NUMBERS) for value in values):
        return array
    numbers = np.asarray(values)
    if numbers.dtype == object:
        beyond = (at for at, value in enumerate(values) if not -(2**63) <= value < 2**64)
        at = next(beyond, 0)
        raise ValueError(
            f"`{name}` must hold integers of at most 64 bits. Received {show(values[at])} at "
            f"{name}[{', '.join(map(str, np.unravel_index(at, array.shape)))}]. Map large ids to smaller ones."
        )
    if numbers.dtype == np.float64:
        numbers = _unrounded_integers(values, numbers, name)
    return numbers.reshape(array.shape)


def common_dtype(dtypes: set[np.dtype], name: str) -> np.dtype:
    """The dtype that holds the values of all of these.

    Raises:
        ValueError: If they are integers that only a float could hold, which would round large ids.
    """
    common = np.result_type(*dtypes)
    if common.kind == "f" and all(dtype.kind in "iu" for dtype in dtypes):
        received = " and ".join(sorted(str(dtype) for dtype in dtypes))
        raise ValueError(
            f"The sequences of `{name}` must share one integer dtype. Received {received}, which have none in common: "
            "floats would round large ids. Convert them all to one, e.g. with sequence.astype(np.int64)."
        )
    return common


def first_non_number(values: Iterable[object]) -> int:
    """The index of the first entry that is not a number, or 0."""
    return next((at for at, value in enumerate(values) if not isinstance(value, NUMBERS)), 0)


def _unrounded_integers(values: object, array: np.ndarray, name: str) -> np.ndarray:
    """The integers that NumPy has read as float64, from 2**63 on next to smaller ones."""
    huge = np.abs(array) >= 2.0**63
    if not huge.any() or not all(isinstance(value, (int, np.integer)) for value in np.asarray(values, object).flat):
        return array
    # NumPy 1.26 lets negative ones wrap around, so they are refused here and not by it.
    if (array >= 0).all() and all(value < 2**64 for value in np.asarray(values, object).flat):
        return np.asarray(values, np.uint64)
    at = ", ".join(map(str, np.argwhere(huge)[0]))
    raise ValueError(
        f"`{name}` must hold integers that one dtype of at most 64 bits can hold. Received an integer beyond 2**63 at "
        f"{name}[{at}] that fits neither int64 nor, next to the others, uint64. Map large ids to smaller ones."
    )


def refuse_missing(values: object, name: str, unit: str = "") -> None:
    """Refuses masked arrays, columns with nulls and lists of them; a NaN in plain floats is accepted.

    If the entries are not the rows of `name`, `unit` is their name, e.g. "timestep": their index then counts through
    the flat column.
    """
    if isinstance(values, (list, tuple)):
        _refuse_missing_in_list(values, name)
        return
    is_missing = _is_missing(values)
    if is_missing is None or not np.any(is_missing):
        return
    if not np.ndim(is_missing):  # np.ma.masked itself
        raise _missing(name, "value", name)
    at = int(np.argwhere(is_missing)[0][0])
    where = f"flat position {at} of `{name}`" if unit else f"{name}[{at}]"
    raise _missing(name, unit or "value", where)


def _is_missing(values: Any) -> Any:
    """A boolean array or scalar, or None if nothing can be missing."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.getmaskarray(values)
    if is_arrow(values):
        return values.is_null().to_pylist() if values.null_count else None
    if comes_from("polars", values) and hasattr(values, "null_count"):
        return values.is_null().to_numpy() if values.null_count() else None
    if comes_from("pandas", values) and not isinstance(getattr(values, "dtype", None), np.dtype):
        return np.asarray(values.isna())
    return None


def _refuse_missing_in_list(values: Sequence[object], name: str) -> None:
    if values and isinstance(values[0], NUMBERS):  # numbers all along: no need to ask each of them
        at = next((index for index, value in enumerate(values) if value is np.ma.masked), None)
        if at is not None:
            raise _missing(name, "value", f"{name}[{at}]")
        return
    for index, value in enumerate(values):
        refuse_missing(value, f"{name}[{index}]")


def _missing(name: str, what: str, where: str) -> ValueError:
    return ValueError(f"`{name}` must not hold missing entries. Received no {what} at {where}. Fill or drop it.")


def comes_from(library: str, values: object) -> bool:
    """Whether the class of an object belongs to a library."""
    return library in sys.modules and type(values).__module__.split(".")[0] == library


def is_arrow(values: Any) -> bool:
    """Whether this is a pyarrow array or chunked column."""
    return comes_from("pyarrow", values) and hasattr(values, "type") and hasattr(values, "null_count")


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
    """Keras' floatx; float32 if that is bfloat16, which NumPy does not have: the model's layers cast it."""
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


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An uninitialized array whose memory TensorFlow can use without a copy."""
    dtype = np.dtype(dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(num_bytes + ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % ALIGNMENT
    aligned: np.ndarray = buffer[offset : offset + num_bytes].view(dtype).reshape(shape)
    return aligned


def is_mapped(array: np.ndarray) -> bool:
    """Whether the memory of an array is a file that NumPy has mapped from a path, even through views.

    Other mapped memory does not count: other processes write to that of `multiprocessing.shared_memory` and of an
    anonymous `mmap`, and it no longer exists once it is closed.

    Example:
        >>> is_mapped(np.zeros(3))
        False
    """
    return _mapping_of(array) is not None


def advise_random_access(array: np.ndarray, row_bytes: float) -> None:
    """Tells the system to read only what a batch needs, if data that are read ahead would be evicted before use.

    A file of up to half the memory stays in the page cache once it is read. Reading ahead then fills the cache in a few
    hundred batches: measured with a cold cache on a virtual disk, 480 MB in rows of 5 kB, an epoch read 165,000 rows
    per second, and 14,000 without. For a file larger than memory, with and without this advice: 1,830 and 246 rows per
    second for rows of 4 kB, 460 and 242 for 64 kB, 27 and 37 for 1 MB. More gathers at once gained nothing for certain.

    Args:
        array: Any array; nothing happens unless it is mapped.
        row_bytes: The mean size of a row.
    """
    mapping = _mapping_of(array)
    if mapping is None or not hasattr(mmap, "MADV_RANDOM"):
        return
    if row_bytes <= _MAX_RANDOM_READ and len(mapping) > memory_bytes() // 2:
        mapping.madvise(mmap.MADV_RANDOM)


def memory_bytes() -> int:
    """The memory of the machine, or of the container (Linux's control group) of the process."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def _mapping_of(array: np.ndarray) -> mmap.mmap | None:
    owner: Any = array
    has_path = False
    while owner is not None and not isinstance(owner, mmap.mmap):
        # Copies and results of arithmetic may be an np.memmap too, but have no filename.
        has_path = has_path or (isinstance(owner, np.memmap) and owner.filename is not None)
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner if has_path else None
