"""A folder of sequences: plain `.npy` files, a small description, and never half of it.

    description.json     structure, dtypes and version, written last
    values_0.npy         the timesteps of all sequences of the first leaf, concatenated; or one value per row
    row_splits_0.npy     int64: row i is `values[row_splits[i]:row_splits[i + 1]]`; only where rows are sequences
    values_1.npy ...     the next leaf

`FolderWriter` writes it under another name next to its place, `<name>.unfinished`, and moves it there as a whole;
`map_folder` checks one and maps its files. These are the steps, and what a process that is killed leaves behind:

    <name>.unfinished/writing.lock is locked     the folder, as it was
    <name>.unfinished/* is written
    <name>/writing.lock is made                  only where a folder is replaced, as the next step
    <name> becomes <name>.replaced               the new one, as <name>.unfinished, which the next writer moves
    <name>.unfinished becomes <name>             the new one, and what is replaced, which the next writer removes
    <name>.replaced is removed

A `writing.lock` holds the name of the folder that its own folder is to become, or was. A complete folder beside it
without such a file belongs to the user, whatever its name is, and only regular files of the names above are ever
removed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from keras_bucketing.checks import INT64_MAX, shorten, show, write_text
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import standard_dtype
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.row_splits import row_splits_of
from keras_bucketing.data.rows import EqualSequences, Rows, StoredSequences
from keras_bucketing.streams.columns import FileStore, map_npy, npy_header
from keras_bucketing.streams.elements import NAMES, Element, map_element
from keras_bucketing.streams.folder_files import FolderFiles
from keras_bucketing.unpadding.entries import leaf_name

try:
    import fcntl
except ImportError:  # Windows: two processes must not write to one folder there
    fcntl = None  # type: ignore[assignment]

_FORMAT, _VERSION = "keras-bucketing sequences", 1
_DESCRIPTION = "description.json"
_LOCK = "writing.lock"
_OWN_FILES = re.compile(
    rf"(values|row_splits)_(?P<number>\d+)\.(npy|before)|{re.escape(_DESCRIPTION)}|{re.escape(_LOCK)}"
)

_MAX_READS = 100  # of a folder that is replaced while it is read

Source = dict[str, object]  # what was read and how, as JSON: two of them can be compared


class FolderWriter:
    """Writes one folder; used in a `with` statement, after which there is all of it or nothing.

    Args:
        path: The folder.
        argument: What the caller calls it, for an error message.
        overwrite: Whether a folder of sequences that is there is replaced.
        files: The operations on files.
    """

    def __init__(self, path: Path, argument: str, overwrite: bool, files: FolderFiles | None = None):
        self.path, self._argument, self._overwrite = path, argument, overwrite
        self._files = files or FolderFiles()
        self._work, self._replaced = _unfinished(path), _replaced(path)
        self._lock: IO[bytes] | None = None
        self._numbers: dict[tree.Path, int] = {}  # of the leaves: in the order in which their files were begun

    def __enter__(self) -> FolderWriter:
        with with_argument_name(self._argument, self.path, "written"):
            self._check_target()
            self._files.make_parents(self.path)
        with with_argument_name(self._argument, self._work, "written"):
            try:
                self._acquire()
                self._check_owned(self._work)
                while self._finish_interrupted():
                    self._acquire()
                self._check_target()  # another process may have finished while this one waited
                self._check_owned(self._replaced)
                if os.path.lexists(self._replaced):
                    self._remove(self._replaced)
                self._remove_files(self._work, keep={_LOCK})
            except BaseException:
                self._give_up()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # Where the old folder has been moved away, the new one is whole, and the next writer moves it.
            if kind is not None and self._lock is not None and not _waits_for_its_place(self.path):
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    self._remove(self._work)
        finally:
            self._release()

    def new_store(self, path: tree.Path) -> LeafFile:
        """Begins the file for the values of a leaf."""
        number = self._numbers[path] = len(self._numbers)
        return LeafFile(self._work / f"values_{number}.npy", self._argument, self._files)

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
                **({"equal_sequences": True} if isinstance(leaf, EqualSequences) else {}),
            }
            if splits is not None:
                with self._files.create(self._work / f"row_splits_{number}.npy") as file:
                    file.write(npy_header(splits.shape, splits.dtype))
                    file.write(splits.data)
                    self._files.flush(file)
            return number

        with with_argument_name(self._argument, self.path, "written"):
            numbers = map_element(describe, element)
            structures = {name: _encode(part) for name, part in zip(NAMES, numbers, strict=True)}
            description = {
                "format": _FORMAT,
                "version": _VERSION,
                "id": uuid.uuid4().hex,
                "num_rows": num_rows,
                **structures,
                "leaves": leaves,
                "source": source,
            }
            text = io.StringIO()
            json.dump(description, text, indent=1)
            self._files.write(self._work / _DESCRIPTION, text.getvalue().encode())
            self._files.flush_folder(self._work)
            self._check_target()
            self._check_owned(self._replaced)
            self._move_into_place()

    def _check_target(self) -> None:
        """Refuses a place that is taken."""
        if self.path == self.path.parent or os.path.ismount(self.path):
            raise FileExistsError(
                f"`{self._argument}` must be a new folder. Received {_show(self.path)}, which is the root of a file "
                "system, so that nothing can be moved to its place. Pass the path of a folder in it."
            )
        if not os.path.lexists(self.path):
            return
        description = _own_description(self.path)
        if description is None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone in the meantime, or a file
                if not os.path.islink(self.path) and not os.listdir(self.path):
                    return
            if not os.path.lexists(self.path):
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
        self._check_files(self.path, description)

    def _check_owned(self, folder: Path) -> None:
        """Refuses to remove a neighbor that an interrupted writing of this folder did not leave behind."""
        if not os.path.lexists(folder):
            return
        if os.path.islink(folder) or not folder.is_dir():
            raise FileExistsError(
                f"`{self._argument}` must have nothing else at {_show(folder)}, where sequences are kept while they "
                "are written or replaced. Received a link or a file there. Move it away, or pass another path."
            )
        self._check_files(folder, None)
        if is_finished(folder) and not _is_marked(folder, self.path.name):
            raise FileExistsError(
                f"`{self._argument}` must have nothing else at {_show(folder)}, where sequences are kept while they "
                "are written or replaced. Received a folder of saved sequences there. Rename it, or pass another path."
            )

    def _check_files(self, folder: Path, description: dict[str, Any] | None) -> None:
        """Refuses a folder with anything in it that was not written here; what its description says, if given."""
        leaves = None if description is None else description.get("leaves")
        num_leaves = len(leaves) if isinstance(leaves, list) else None
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not _is_own(entry, num_leaves))
        if names:
            raise FileExistsError(
                f"`{self._argument}` must be a folder of nothing but saved sequences to be replaced. Received "
                f"{_show(folder)}, which also holds {show(names[0])}. Move that file away, or pass another path."
            )

    def _acquire(self) -> None:
        """Makes the folder to write in, and waits where another process has it."""
        while True:
            with contextlib.suppress(FileExistsError):
                self._files.make_folder(self._work)
            try:
                self._refuse_strangers()
                lock = self._files.open_lock(self._work / _LOCK)
            except FileNotFoundError:  # another process has moved or removed the folder
                continue
            try:
                self._wait_for(lock)
                with contextlib.suppress(FileNotFoundError):
                    # The other process may have moved or removed the folder in the meantime.
                    if os.path.samestat(os.fstat(lock.fileno()), os.stat(self._work / _LOCK)):
                        self._lock = lock
                        lock.truncate(0)
                        lock.write(self.path.name.encode("utf-8", "surrogateescape"))
                        lock.flush()
                        return
            finally:
                if self._lock is not lock:
                    lock.close()

    def _wait_for(self, lock: IO[bytes]) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            write_text(sys.stderr, f"Waiting for another process that writes {self.path.name}.\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass

    def _refuse_strangers(self) -> None:
        """Refuses a folder of other files before anything in it is touched."""
        for _ in range(3):  # its files may come and go while they are listed
            try:
                self._check_owned(self._work)
                return
            except FileExistsError as error:  # noqa: PERF203
                refused = error
        raise refused

    def _finish_interrupted(self) -> bool:
        """Moves a new folder to its place, where a writer was killed after it had moved the old one away."""
        if not _waits_for_its_place(self.path):
            return False
        self._files.rename(self._work, self.path)
        self._files.remove(self.path / _LOCK)
        self._release()
        return True

    def _move_into_place(self) -> None:
        replaces = is_finished(self.path)
        if replaces:
            if os.path.lexists(self._replaced):
                self._remove(self._replaced)
            self._files.write(self.path / _LOCK, self.path.name.encode("utf-8", "surrogateescape"))
            try:
                self._files.rename(self.path, self._replaced)
            except OSError:
                with contextlib.suppress(OSError):
                    self._files.remove(self.path / _LOCK)
                raise
        try:
            self._files.rename(self._work, self.path)
        except OSError:
            if replaces:
                with contextlib.suppress(OSError):  # the first error is the one to tell; the new folder waits then
                    self._files.rename(self._replaced, self.path)
                    self._files.remove(self.path / _LOCK)
            raise
        self._files.remove(self.path / _LOCK)
        self._files.flush_folder(self.path.parent)
        if replaces:
            self._remove(self._replaced)  # what is mapped of it stays until it is let go of

    def _remove(self, folder: Path) -> None:
        self._remove_files(folder, keep=set())
        self._files.remove_folder(folder)

    def _remove_files(self, folder: Path, keep: set[str]) -> None:
        """Removes own files: the description first, so that no part is taken for a whole; the lock when all is done."""
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if _is_own(entry, None)} - keep
        for name in sorted(names, key=lambda name: (name != _DESCRIPTION, name == _LOCK, name)):
            self._files.remove(folder / name)

    def _give_up(self) -> None:
        """Leaves the folder to write in to the next writer; a whole one, which may wait for its place, stays marked."""
        try:
            if self._lock is not None and not is_finished(self._work):
                with contextlib.suppress(OSError):  # what others have put there stays
                    self._files.remove(self._work / _LOCK)
                    self._files.remove_folder(self._work)
        finally:
            self._release()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished") if path.name else path / ".unfinished"


def _replaced(path: Path) -> Path:
    return path.with_name(f"{path.name}.replaced") if path.name else path / ".replaced"


def _is_own(entry: os.DirEntry[str], num_leaves: int | None) -> bool:
    """Whether an entry of a folder is one of its files; with `num_leaves`, a file of one of so many leaves."""
    match = _OWN_FILES.fullmatch(entry.name)
    if match is None or not entry.is_file(follow_symlinks=False):
        return False
    return num_leaves is None or match["number"] is None or int(match["number"]) < num_leaves


def _is_marked(folder: Path, name: str) -> bool:
    """Whether a writer of the folder `name` has left this one behind; earlier versions wrote no name."""
    try:
        mark = (folder / _LOCK).read_bytes()
    except OSError:
        return False
    return mark in (b"", name.encode("utf-8", "surrogateescape"))


def _own_description(folder: Path) -> dict[str, Any] | None:
    """The description of a folder of sequences; None if there is none."""
    try:
        description = json.loads((folder / _DESCRIPTION).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # neither JSON nor text
        return None
    is_ours = isinstance(description, dict) and description.get("format") == _FORMAT
    return description if is_ours else None


def _waits_for_its_place(path: Path) -> bool:
    """Whether a writer was killed, or is about to go on, between moving the old folder away and the new one in."""
    work = _unfinished(path)
    return (
        not os.path.lexists(path)
        and is_finished(_replaced(path))
        and _is_marked(work, path.name)
        and _own_description(work) is not None
    )


class LeafFile:
    """A `FileStore` in the folder, whose errors name the argument."""

    def __init__(self, path: Path, argument: str, files: FolderFiles):
        self._named_errors = partial(with_argument_name, argument, path.parent, "written")
        with self._named_errors():
            self._store = FileStore(path, files)

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
        if error.errno is None:  # one of ours
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


class FolderContents(NamedTuple):
    """What `map_folder` finds.

    Attributes:
        element: The structures of `x`, `y` and `sample_weight`, with a `StoredSequences` or a mapped array a leaf.
        source: What was read and how, or None.
        version: What tells it from any other folder that was written.
    """

    element: Element
    source: Source | None
    version: str


def map_folder(path: Path, argument: str) -> FolderContents:
    """Maps all files of a folder, all of them of one writing; nothing but the row splits is read.

    Args:
        path: The folder.
        argument: What the caller calls it, for an error message.

    Raises:
        FileNotFoundError: If there is no such folder, or its writing was not finished.
        ValueError: If a file is damaged, does not fit the others, or comes from another version.
    """
    with with_argument_name(argument, path, "read"):
        for _ in range(_MAX_READS):
            folder = _find_folder(path, argument)
            version = _version_of(folder)
            try:
                contents = _map_contents(folder, path, argument)
            except (OSError, ValueError):
                if _is_still(version, folder):
                    raise
            else:
                if _is_still(version, folder) or version == _version_of(path):
                    return FolderContents(*contents, version or "")
            time.sleep(0.001)
    raise OSError(
        f"`{argument}` cannot be read: it was replaced {_MAX_READS} times in the meantime. Received {_show(path)}. "
        "Wait until it has been written, or save to another folder."
    )


def _find_folder(path: Path, argument: str) -> Path:
    """Where a folder is: in its place, or beside it, while it is moved there or after a writer was killed doing so."""
    for _ in range(3):  # it may be moved between two looks
        if path.is_dir():
            return path
        if _waits_for_its_place(path):
            return _unfinished(path)
        if not _unfinished(path).is_dir() and not path.is_dir():
            break
        time.sleep(0.001)
    unfinished = _unfinished(path).is_dir()
    raise FileNotFoundError(
        f"`{argument}` must be a folder that save_sequences wrote. Received {_show(path)}, which "
        + ("has not been finished. Write it again." if unfinished else "is none.")
    )


def _version_of(folder: Path) -> str | None:
    """What tells one writing of a folder from the next: the id in its description; before 0.3.0, which file that is."""
    description = _own_description(folder)
    if description is None:
        return None
    if isinstance(description.get("id"), str):
        return str(description["id"])
    try:
        status = os.stat(folder / _DESCRIPTION)
    except OSError:
        return None
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"


def _is_still(version: str | None, folder: Path) -> bool:
    """Whether a folder is there, and has not been replaced in the meantime."""
    return folder.is_dir() and _version_of(folder) == version


def _map_contents(folder: Path, path: Path, argument: str) -> tuple[Element, Source | None]:
    description = _read_description(folder, argument)
    try:
        num_rows = _as_size(description["num_rows"])
        leaves = [_map_leaf(folder, number, leaf, num_rows) for number, leaf in enumerate(description["leaves"])]
        x, y, weights = (_decode(description[name], leaves) for name in NAMES)
        return (x, y, weights), description["source"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.errno is not None:
            raise
        known = isinstance(error, (ValueError, FileNotFoundError))
        reason = str(error) if known else "its description is damaged."
        raise ValueError(
            f"`{argument}` cannot be used: {reason} Received {_show(path)}. Remove the folder and write it again."
        ) from error


def _read_description(path: Path, argument: str) -> dict[str, Any]:
    description = _own_description(path)
    if description is None:
        raise ValueError(
            f"`{argument}` must be a folder that save_sequences wrote. Received {_show(path)}, whose "
            f"{_DESCRIPTION} is missing or something else. Pass another path."
        )
    if description.get("version") != _VERSION:
        raise ValueError(
            f"`{argument}` was written by another version of keras-bucketing. Expected version {_VERSION} of the "
            f"format, received {show(description.get('version'))}. Write it again with this version."
        )
    return description


def _map_leaf(path: Path, number: int, leaf: dict[str, Any], num_rows: int) -> StoredSequences | np.ndarray:
    dtype, shape = _as_dtype(leaf["dtype"]), tuple(map(_as_size, leaf["shape"]))
    values = map_npy(path / f"values_{number}.npy", shape, dtype)
    if not leaf["ragged"]:
        if len(values) != num_rows:
            raise ValueError(f"values_{number}.npy must have {num_rows} rows, received {len(values)}.")
        return values.view(EqualSequences) if leaf.get("equal_sequences") and values.ndim > 1 else values
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
    standard_dtype(dtype, "values")
    return dtype  # as it was stored: Keras' floatx may be another one now


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
