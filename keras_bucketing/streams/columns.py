"""One leaf that arrives block by block: put together in memory or in a `.npy` file, never with a second copy of it."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import pathlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.data.arrays import aligned_empty, common_dtype, standard_dtype
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import EqualSequences, rows_from_lengths
from keras_bucketing.streams.folder_files import FolderFiles

_PENDING_BYTES = 1 << 20  # small rows are put together before they are copied on; a multiple of every itemsize


class ColumnBuilder:
    """Puts a leaf together, to which rows are appended one by one or many at a time.

    What is appended has been copied when the call returns, and nothing refers to it then: it may be a buffer that is
    filled again for the next row, or a view of something large.

    A row's dtype may be wider than that of the rows before it, as `[0, 1]` followed by `[0.5]` in a text file: then
    what has been stored is converted, as a list of all rows would have been.

    Args:
        name: What to call the leaf in an error message.
        store: Where its values go.
        is_ragged: Whether a row is a sequence `(length, *features)`, or one value `features`.
        hint: What else a message may suggest about rows of other shapes, behind a fix.

    Attributes:
        first_row: Int, what messages call the first row; 0 unless rows of the leaf have gone into another column.
        row_of_dtype: Int, the row since which the dtype is what it is.
        row_of_features: Int, the first row that says which shape a timestep, or a value, has.
    """

    def __init__(self, name: str, store: Store, is_ragged: bool, hint: str = ""):
        self.name = name
        self.first_row = self.row_of_dtype = self.row_of_features = 0
        self._hint = hint
        self.is_ragged = is_ragged
        self.num_rows = 0
        self._store = store
        self._lengths = array("q")
        self._num_values = 0
        self._features: tuple[int, ...] | None = None
        self._dtype: np.dtype | None = None  # common to the rows with timesteps, before standard_dtype
        self._first_dtype: np.dtype = np.dtype(np.float64)  # counts where no row has a timestep
        self._stored: np.dtype = self._first_dtype  # standard_dtype of _dtype
        self._pending = np.empty(0, self._stored)  # numbers that are not in the store yet, and room for more
        self._num_pending = 0

    @property
    def lengths(self) -> Lengths:
        """The timesteps of each row, `(num_rows,)`; `(0,)` where rows are no sequences."""
        return np.array(self._lengths, np.int64)

    def append(self, row: np.ndarray) -> None:
        """Appends one row: an array `(length, *features)` or, where rows are no sequences, `features`."""
        self._append(row if self.is_ragged else row[np.newaxis])
        self._count_rows(1, [len(row)] if self.is_ragged else [])

    def append_block(self, values: np.ndarray, lengths: Lengths | None = None) -> None:
        """Appends many rows: their values `(num_values, *features)`, and the lengths `(num_rows,)` of sequences."""
        self._append(values)
        if lengths is None:
            self._count_rows(len(values), [])
        else:
            self._count_rows(len(lengths), lengths.tolist())

    def append_parts(self, parts: Iterable[np.ndarray], lengths: Lengths) -> None:
        """Appends many sequences, some of their timesteps `(num_timesteps, *features)` at a time."""
        for values in parts:
            self._append(values)
        self._count_rows(len(lengths), lengths.tolist())

    def finish(self, as_values: bool = False) -> Leaf:
        """The leaf; with `as_values`, sequences, all of one length, are an array `(num_rows, length, *features)`."""
        self._flush()
        dtype = standard_dtype(self._first_dtype if self._dtype is None else self._dtype, self.name)
        features = self._features or ()
        if self.is_ragged and not as_values:
            values = self._store.finish((self._num_values, *features), dtype)
            return rows_from_lengths(values, self.lengths, owned=True)
        if not as_values:
            return self._store.finish((self.num_rows, *features), dtype)
        length = self._num_values // max(self.num_rows, 1)
        return self._store.finish((self.num_rows, length, *features), dtype).view(EqualSequences)

    def abandon(self) -> None:
        """Lets go of everything."""
        self._pending, self._num_pending = self._pending[:0].copy(), 0
        self._store.abandon()

    def _append(self, block: np.ndarray) -> None:
        if not len(block):
            if not self.num_rows:
                self._first_dtype = block.dtype
            if block.ndim > 1:  # an empty list has no features
                self._check_block(block)
            return
        # NumPy takes None for float64 where dtypes are compared.
        if self._dtype is None or block.dtype != self._dtype or block.shape[1:] != self._features:
            self._check_block(block)
        self._num_values += len(block)
        if self._num_pending + block.size > len(self._pending):
            self._flush()
            if block.size > len(self._pending):
                self._write_through(block)
                return
        end = self._num_pending + block.size
        self._pending[self._num_pending : end] = block.reshape(-1)
        self._num_pending = end

    def _count_rows(self, num_rows: int, lengths: list[int]) -> None:
        self._lengths.extend(lengths)
        self.num_rows += num_rows

    def _check_block(self, block: np.ndarray) -> None:
        """Takes over the features and the dtype of a block that differs from those before it, or refuses them."""
        features, row = block.shape[1:], self.first_row + self.num_rows
        if self._features is None:
            self._features, self.row_of_features = features, row
        elif features != self._features:
            raise ValueError(
                f"All rows of `{self.name}` must share one {'feature ' if self.is_ragged else ''}shape. Expected "
                f"{self._features} as in {self.name}[{self.row_of_features}], received {features} at "
                f"{self.name}[{row}]. Reshape or drop that row{self._hint}."
            )
        if not len(block):
            return
        standard_dtype(block.dtype, f"{self.name}[{row}]")  # says what is wrong with it
        if self._dtype is None:
            self._set_dtype(block.dtype)
            self.row_of_dtype = row
            return
        wider = common_dtype({self._dtype, block.dtype}, self.name)
        to_store = standard_dtype(wider, self.name)
        if self._stored != to_store:
            self._flush()
            self._store.convert(self._stored, to_store)
        if wider != self._dtype:
            self.row_of_dtype = row
        self._set_dtype(wider)

    def _set_dtype(self, dtype: np.dtype) -> None:
        """Takes over the dtype that is common to the rows so far; all that is pending has been flushed."""
        self._dtype, self._stored = dtype, standard_dtype(dtype, self.name)
        if self._pending.dtype != self._stored or not len(self._pending):
            self._pending = np.empty(_PENDING_BYTES // self._stored.itemsize, self._stored)

    def _write_through(self, block: np.ndarray) -> None:
        """Writes a block that is larger than what may be pending, converted piece by piece."""
        flags: Any = [["readonly", "contig"]]  # NumPy's own types do not know the flag "contig"
        pieces = np.nditer(
            [block],
            ["external_loop", "buffered"],
            flags,
            [self._stored],
            order="C",
            casting="unsafe",
            buffersize=max(len(self._pending), 1),
        )
        with pieces:
            for piece in pieces:
                self._store.write(np.asarray(piece).reshape(-1))

    def _flush(self) -> None:
        if self._num_pending:
            self._store.write(self._pending[: self._num_pending])
            self._num_pending = 0


class Store(Protocol):
    """Where the values of a column go."""

    def write(self, block: np.ndarray) -> None:
        """Appends an array in C order."""

    def convert(self, old: np.dtype, new: np.dtype) -> None:
        """Converts what has been written from one dtype to another."""

    def finish(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Everything that was written, as one array."""

    def abandon(self) -> None:
        """Lets go of what has been written."""


_FIRST_CHUNK, _LAST_CHUNK = 1 << 16, 1 << 24  # bytes, powers of 2


class MemoryStore:
    """Keeps the bytes in chunks of memory, which are put together, and let go of, one by one at the end.

    So hardly more than the result is ever in memory. Chunks are mapped, since what `malloc` gets back it may keep.
    """

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.uint8]] = []
        self._free = 0  # bytes at the end of the last chunk
        self._size = 0

    def write(self, block: np.ndarray) -> None:
        """Appends an array in C order."""
        data = block.reshape(-1).view(np.uint8)
        while len(data):
            if not self._free:
                self._free = min(max(_FIRST_CHUNK, self._size), _LAST_CHUNK)
                self._chunks.append(_new_chunk(self._free))
            chunk, start = self._chunks[-1], len(self._chunks[-1]) - self._free
            part = data[: self._free]
            chunk[start : start + len(part)] = part
            self._free -= len(part)
            self._size += len(part)
            data = data[len(part) :]

    def convert(self, old: np.dtype, new: np.dtype) -> None:
        """Converts what has been written from one dtype to another."""
        converted = MemoryStore()
        for chunk in self._pop_chunks():
            for start in range(0, len(chunk), _PENDING_BYTES):  # powers of 2: no number lies in two pieces
                converted.write(chunk[start : start + _PENDING_BYTES].view(old).astype(new))
        self._chunks, self._free, self._size = converted._chunks, converted._free, converted._size

    def finish(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Everything that was written, as one array."""
        values = aligned_empty((self._size,), np.uint8)
        end = 0
        for chunk in self._pop_chunks():
            values[end : end + len(chunk)] = chunk
            end += len(chunk)
        return values.view(dtype).reshape(shape)

    def abandon(self) -> None:
        """Lets go of what has been written."""
        self._chunks = []

    def _pop_chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Hands out the written part of each chunk and forgets it."""
        self._chunks.reverse()
        while self._chunks:
            chunk = self._chunks.pop()
            yield chunk if self._chunks else chunk[: len(chunk) - self._free]


def _new_chunk(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that goes back to the operating system with the array."""
    if os.name == "nt":
        return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
    # Private: the memory of a process, and not some that it shares with the processes it forks.
    return np.frombuffer(mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


class FileStore:
    """Writes the bytes into a `.npy` file, whose header is filled in when the shape is known.

    Args:
        path: The file; one that is there is written over.
        files: The operations on files.
    """

    def __init__(self, path: pathlib.Path, files: FolderFiles | None = None):
        self._path, self._files = path, files or FolderFiles()
        self._file = self._files.create(path)
        self._file.write(bytes(HEADER_BYTES))

    def write(self, block: np.ndarray) -> None:
        """Appends an array in C order."""
        self._file.write(block.reshape(-1).view(np.uint8).data)

    def convert(self, old: np.dtype, new: np.dtype) -> None:
        """Converts what has been written from one dtype to another."""
        self._file.close()
        before = self._path.with_suffix(".before")
        self._files.rename(self._path, before)
        self._file = self._files.create(self._path)
        self._file.write(bytes(HEADER_BYTES))
        with before.open("rb") as file:
            file.seek(HEADER_BYTES)
            while data := file.read(_PENDING_BYTES):
                self.write(np.frombuffer(data, old).astype(new))
        self._files.remove(before)

    def finish(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Everything that was written, as one array, mapped and read-only."""
        self._file.seek(0)
        self._file.write(npy_header(shape, dtype))
        self._files.flush(self._file)
        self._file.close()
        return map_npy(self._path, shape, dtype)

    def abandon(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # a full disk: buffered data are lost, and not needed any more
            self._file.close()


HEADER_BYTES = 256  # a multiple of 64, so that the data behind it are aligned as TensorFlow's kernels need them


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of a `.npy` file, as `numpy.lib.format` describes version 1.0.

    `numpy.lib.format.write_array_header_1_0` makes headers of 128 bytes and more, as the shape needs; this one is
    filled in in front of data that have been written already. Folders are also compared with this very text, byte by
    byte, and by earlier versions of this package too: so it must not change.

    Example:
        >>> header = npy_header((2, 3), np.dtype(np.float32))
        >>> len(header), header[10:30]
        (256, b"{'descr': '<f4', 'fo")
    """
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(description).encode("latin1")
    magic = np.lib.format.magic(1, 0)
    room = HEADER_BYTES - len(magic) - 2
    if len(text) >= room:
        raise ValueError(f"An array must have fewer axes to be saved. Received shape {shape}. Reshape it.")
    return magic + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"


def map_npy(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Maps a file that was written with `npy_header`, read-only.

    `np.load` would read the header as Python, and take any array. It is known which one it must be, so the header is
    compared instead, before the file is used.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is another file than expected, or was cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing.")
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != npy_header(shape, dtype):
            raise ValueError(
                f"{path.name} is not a file of dtype {dtype.str} and shape {shape}, as {path.name} should be here."
            )
    num_bytes = HEADER_BYTES + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != num_bytes:
        raise ValueError(f"{path.name} is cut off or too long: it has {path.stat().st_size} bytes, not {num_bytes}.")
    return np.memmap(path, dtype, "r", HEADER_BYTES, shape)
