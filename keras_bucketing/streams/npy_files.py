"""NumPy's own file format, with a header of fixed size, so that it can be filled in after the data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

HEADER_BYTES = 256  # a multiple of 64, so that the data behind it are aligned as TensorFlow's kernels need them
_MAGIC = b"\x93NUMPY\x01\x00"


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of a `.npy` file, as `numpy.lib.format` describes version 1.0.

    Example:
        >>> header = npy_header((2, 3), np.dtype(np.float32))
        >>> len(header), header[10:30]
        (256, b"{'descr': '<f4', 'fo")
    """
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(description).encode("latin1")
    room = HEADER_BYTES - len(_MAGIC) - 2
    if len(text) >= room:
        raise ValueError(f"An array must have fewer axes to be saved. Received shape {shape}. Reshape it.")
    return _MAGIC + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def map_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Maps a file that was written with `npy_header`, read-only.

    The header is compared, not read: it is known what it must be, and NumPy reads headers as Python.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is another file than expected, or was cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing.")
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != npy_header(shape, dtype):
            raise ValueError(
                f"{path.name} is no file of dtype {dtype.str} and shape {shape}, as {path.name} should be here."
            )
    num_bytes = HEADER_BYTES + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != num_bytes:
        raise ValueError(f"{path.name} is cut off or too long: it has {path.stat().st_size} bytes, not {num_bytes}.")
    return np.memmap(path, dtype, "r", HEADER_BYTES, shape)
