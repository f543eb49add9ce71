"""A folder of sequences: plain `.npy` files, a small description, and never half of it.

    description.json     structure, dtypes and version, written last
    values_0.npy         the timesteps of all sequences of the first leaf, concatenated; or one value a row
    row_splits_0.npy     int64: row i is `values[row_splits[i]:row_splits[i + 1]]`; only where rows are sequences
    values_1.npy ...     the next leaf

`FolderWriter` writes it under another name next to its place, `<name>.unfinished`, and moves it there as a whole;
`map_folder` checks one and maps its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np

from keras_bucketing.checks import INT64_MAX, shorten, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import standard_dtype
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.row_splits import row_splits_of
from keras_bucketing.data.rows import Rows, StoredSequences
from keras_bucketing.streams.columns import FileStore, map_npy, npy_header
from keras_bucketing.streams.elements import NAMES, Element, map_element
from keras_bucketing.unpadding.entries import leaf_name

try:
    import fcntl
except ImportError:  # Windows: two processes must not write to one folder there
    fcntl = None  # type: ignore[assignment]

_FORMAT, _VERSION = "keras-bucketing sequences", 1
_DESCRIPTION = "description.json"
_LOCK = "writing.lock"
_OWN_FILES = re.compile(rf"(values|row_splits)_\d+\.(npy|before)|{re.escape(_DESCRIPTION)}|{re.escape(_LOCK)}")

Source = dict[str, object]  # what was read and how, as JSON: two of them can be compared


class FolderWriter:
    """Writes one folder; used in a `with` statement, after which there is all of it or nothing.

    Args:
        path: The folder.
        argument: What the caller calls it, for an error message.
        overwrite: Whether a folder of sequences that is there is replaced.
    """

    def __init__(self, path: Path, argument: str, overwrite: bool):
        self.path, self._argument, self._overwrite = path, argument, overwrite
        self._work = path.with_name(f"{path.name}.unfinished")
        self._lock: IO[bytes] | None = None
        self._numbers: dict[tree.Path, int] = {}  # of the leaves: in the order in which their files were begun

    def __enter__(self) -> FolderWriter:
        self._check_target()
        with with_argument_name(self._argument, self._work, "written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
        try:
            self._check_target()  # another process may have finished while this one waited
            self._check_own(self._work)
            with with_argument_name(self._argument, self._work, "written"):
                self._remove_files(self._work, keep={_LOCK})
        except BaseException:
            with contextlib.suppress(OSError):  # what others have put there stays
                (self._work / _LOCK).unlink()
                self._work.rmdir()
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._lock is not None:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    self._remove(self._work)
        finally:
            self._release()

    def new_store(self, path: tree.Path) -> LeafFile:
        """Begins the file for the values of a leaf."""
        number = self._numbers[path] = len(self._numbers)
        return LeafFile(self._work / f"values_{number}.npy", self._argument)

    def finish(self, element: Element, source: Source | None) -> None:
        """Writes what remains, and moves the folder to its place.

        Args:
            element: The structures of `x`, `y` and `sample_weight`, with a leaf for each file that was begun.
            source: What was read and how, or None.
        """
        leaves: list[Source] = [{} for _ in self._numbers]
        num_rows = 0

        def describe(path: tree.Path, leaf: Leaf) -> int:
            nonlocal num_rows
            num_rows = len(leaf)
            number = self._numbers[path]
            values, splits = (leaf.values, row_splits_of(leaf.sizes)) if isinstance(leaf, Rows) else (leaf, None)
            leaves[number] = {
                "name": leaf_name(path),
                "dtype": np.lib.format.dtype_to_descr(values.dtype),
                "shape": list(values.shape),
                "ragged": splits is not None,
            }
            if splits is not None:
                with (self._work / f"row_splits_{number}.npy").open("wb") as file:
                    file.write(npy_header(splits.shape, splits.dtype))
                    file.write(splits.data)
                    file.flush()
                    os.fsync(file.fileno())
            return number

        with with_argument_name(self._argument, self.path, "written"):
            numbers = map_element(describe, element)
            structures = {name: _encode(part) for name, part in zip(NAMES, numbers, strict=True)}
            description = {
                "format": _FORMAT,
                "version": _VERSION,
                "num_rows": num_rows,
                **structures,
                "leaves": leaves,
                "source": source,
            }
            with (self._work / _DESCRIPTION).open("w", encoding="utf-8") as file:
                json.dump(description, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            self._check_target()
            self._move_into_place()

    def _check_target(self) -> None:
        """Refuses a place that is taken."""
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir() or not (self.path / _DESCRIPTION).is_file():
            if self.path.is_dir() and not any(self.path.iterdir()):
                return
            raise FileExistsError(
                f"`{self._argument}` must be a new folder. Received {_show(self.path)}, which holds something else. "
                "Pass another path."
            )
        if not self._overwrite:
            raise FileExistsError(
                f"`{self._argument}` must be a new folder. Received {_show(self.path)}, which holds saved sequences. "
                "Pass overwrite=True to replace them, or another path."
            )
        self._check_own(self.path)

    def _check_own(self, folder: Path) -> None:
        """Refuses to remove what was not written here."""
        foreign = next((name for name in sorted(os.listdir(folder)) if not _OWN_FILES.fullmatch(name)), None)
        if foreign is not None:
            raise FileExistsError(
                f"`{self._argument}` must be a folder of nothing but saved sequences to be replaced. Received "
                f"{_show(folder)}, which also holds {show(foreign)}. Move that file away, or pass another path."
            )

    def _acquire(self) -> None:
        """Makes the folder to write in, and waits where another process has it."""
        while True:
            with contextlib.suppress(FileExistsError):
                self._work.mkdir()
            lock = (self._work / _LOCK).open("ab")
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    sys.stderr.write(f"Waiting for another process that writes {self.path.name}.\n")
                    fcntl.flock(lock, fcntl.LOCK_EX)
                except OSError:  # a file system without locks
                    pass
            with contextlib.suppress(FileNotFoundError):
                # The other process may have moved or removed the folder in the meantime.
                if os.path.samestat(os.fstat(lock.fileno()), os.stat(self._work / _LOCK)):
                    self._lock = lock
                    return
            lock.close()

    def _move_into_place(self) -> None:
        replaced = self.path.with_name(f"{self.path.name}.replaced")
        if (self.path / _DESCRIPTION).is_file():
            if replaced.is_dir():
                self._check_own(replaced)
                self._remove(replaced)
            os.rename(self.path, replaced)
        elif self.path.is_dir():
            self.path.rmdir()
        os.rename(self._work, self.path)
        (self.path / _LOCK).unlink()
        if replaced.is_dir():
            self._remove(replaced)  # what is mapped of it stays until it is let go of

    def _remove(self, folder: Path) -> None:
        self._remove_files(folder, keep=set())
        folder.rmdir()

    @staticmethod
    def _remove_files(folder: Path, keep: set[str]) -> None:
        for name in os.listdir(folder):
            if name not in keep and _OWN_FILES.fullmatch(name):
                (folder / name).unlink()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class LeafFile:
    """A `FileStore` in the folder, whose errors name the argument."""

    def __init__(self, path: Path, argument: str):
        self._named_errors = partial(with_argument_name, argument, path.parent, "written")
        with self._named_errors():
            self._store = FileStore(path)

    def write(self, block: np.ndarray) -> None:
        """Appends an array in C order."""
        with self._named_errors():
            self._store.write(block)

    def convert(self, old: np.dtype, new: np.dtype) -> None:
        """Converts what has been written from one dtype to another."""
        with self._named_errors():
            self._store.convert(old, new)

    def finish(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Everything that was written, as one array, mapped and read-only."""
        with self._named_errors():
            return self._store.finish(shape, dtype)

    def abandon(self) -> None:
        """Closes the file."""
        self._store.abandon()


@contextlib.contextmanager
def with_argument_name(argument: str, path: Path, done: Literal["written", "read"]) -> Iterator[None]:
    """Lets errors of the operating system name the argument, the folder and what to look at."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError) and error.errno is None:  # one of ours
            raise
        raise _named(error, argument, path, done) from error


def _named(error: OSError, argument: str, path: Path, done: Literal["written", "read"]) -> OSError:
    fix = (
        "Free some space or choose another folder; nothing unfinished is left behind"
        if done == "written"
        else "Check its path and permissions"
    )
    reason = error.strerror or str(error)
    # OSError turns into its subclass for that number, e.g. PermissionError.
    return OSError(error.errno or 0, f"`{argument}` cannot be {done}: {reason}. Received {_show(path)}. {fix}")


def _show(path: Path) -> str:
    return show(str(path))


def _encode(structure: tree.Structure) -> tree.Structure:
    """A structure of leaf numbers, with tuples told from lists."""
    if isinstance(structure, dict):
        return {"dict": {key: _encode(value) for key, value in structure.items()}}
    if isinstance(structure, tuple):
        return {"tuple": [_encode(value) for value in structure]}
    return structure


def is_finished(path: Path) -> bool:
    """Whether a folder of sequences is there, written to its end."""
    return (path / _DESCRIPTION).is_file()


def map_folder(path: Path, argument: str) -> tuple[Element, Source | None]:
    """Maps all files of a folder; nothing but the row splits is read.

    Args:
        path: The folder.
        argument: What the caller calls it, for an error message.

    Returns:
        The structures of `x`, `y` and `sample_weight`, with a `StoredSequences` or a mapped array for each leaf; and
        what was read and how, or None.

    Raises:
        FileNotFoundError: If there is no such folder, or its writing was not finished.
        ValueError: If a file is damaged, does not fit the others, or comes from another version.
    """
    if not path.is_dir():
        unfinished = path.with_name(f"{path.name}.unfinished").is_dir()
        raise FileNotFoundError(
            f"`{argument}` must be a folder that save_sequences wrote. Received {_show(path)}, which "
            + ("has not been finished. Write it again." if unfinished else "is none.")
        )
    with with_argument_name(argument, path, "read"):
        description = _read_description(path, argument)
        try:
            num_rows = _as_size(description["num_rows"])
            leaves = [_map_leaf(path, number, leaf, num_rows) for number, leaf in enumerate(description["leaves"])]
            x, y, weights = (_decode(description[name], leaves) for name in NAMES)
            source = description["source"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and error.errno is not None:
                raise
            known = isinstance(error, (ValueError, FileNotFoundError))
            reason = str(error) if known else "its description is damaged."
            raise ValueError(
                f"`{argument}` cannot be used: {reason} Received {_show(path)}. Remove the folder and write it again."
            ) from error
    return (x, y, weights), source


def _read_description(path: Path, argument: str) -> dict[str, Any]:
    try:
        description = json.loads((path / _DESCRIPTION).read_text(encoding="utf-8"))
        is_ours = isinstance(description, dict) and description.get("format") == _FORMAT
    except FileNotFoundError:
        is_ours = False
    except (ValueError, RecursionError):  # neither JSON nor text
        is_ours = False
    if not is_ours:
        raise ValueError(
            f"`{argument}` must be a folder that save_sequences wrote. Received {_show(path)}, whose "
            f"{_DESCRIPTION} is missing or something else. Pass another path."
        )
    if description.get("version") != _VERSION:
        raise ValueError(
            f"`{argument}` was written by another version of keras-bucketing. Expected version {_VERSION} of the "
            f"format, received {show(description.get('version'))}. Write it again with this version."
        )
    return dict(description)


def _map_leaf(path: Path, number: int, leaf: dict[str, Any], num_rows: int) -> StoredSequences | np.ndarray:
    dtype, shape = _as_dtype(leaf["dtype"]), tuple(map(_as_size, leaf["shape"]))
    values = map_npy(path / f"values_{number}.npy", shape, dtype)
    if not leaf["ragged"]:
        if len(values) != num_rows:
            raise ValueError(f"values_{number}.npy must have {num_rows} rows, received {len(values)}.")
        return values
    file = f"row_splits_{number}.npy"
    splits = np.array(map_npy(path / file, (num_rows + 1,), np.dtype(np.int64)))
    if splits[0] != 0 or splits[-1] != len(values) or (splits[1:] < splits[:-1]).any():
        raise ValueError(f"{file} must rise from 0 to the {len(values)} timesteps of values_{number}.npy.")
    return StoredSequences(values, splits, shorten(str(leaf["name"])))


def _as_dtype(text: object) -> np.dtype:
    """One of the dtypes that are stored, and no other; nothing is made of what a stranger wrote."""
    if not isinstance(text, str) or not re.fullmatch(r"[<>|][biuf][1248]", text):
        raise ValueError(f"it holds something else than numbers, dtype {show(text)}.")
    dtype = np.dtype(text)
    if not dtype.isnative:
        raise ValueError(f"it has the byte order of another kind of machine, dtype {text}.")
    return standard_dtype(dtype, "values")


def _as_size(number: object) -> int:
    if type(number) is not int or not 0 <= number <= INT64_MAX:
        raise ValueError(f"its description is damaged: the size {show(number)}.")
    return number


def _decode(structure: tree.Structure, leaves: list[StoredSequences | np.ndarray]) -> tree.Structure:
    if structure is None or isinstance(structure, int):
        return None if structure is None else leaves[structure]
    if "dict" in structure:
        return {str(key): _decode(value, leaves) for key, value in structure["dict"].items()}
    return tuple(_decode(value, leaves) for value in structure["tuple"])
