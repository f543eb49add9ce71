"""Writes a folder of sequences: under another name first, and moved to its place as a whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import uuid
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from keras_bucketing.checks import show, write_text
from keras_bucketing.data import tree
from keras_bucketing.data.convert import Leaf
from keras_bucketing.data.row_splits import row_splits_of
from keras_bucketing.data.rows import EqualSequences, Rows
from keras_bucketing.streams.columns import FileStore, npy_header
from keras_bucketing.streams.elements import NAMES, Element, map_element
from keras_bucketing.streams.folder import (
    DESCRIPTION,
    FORMAT,
    LOCK,
    VERSION,
    Source,
    is_finished,
    is_marked,
    is_own_file,
    own_description,
    replaced_path,
    shown,
    unfinished_path,
    waits_for_its_place,
    with_argument_name,
)
from keras_bucketing.streams.folder_files import FolderFiles
from keras_bucketing.unpadding.entries import leaf_name

try:
    import fcntl
except ImportError:  # Windows: two processes must not write to one folder there
    fcntl = None  # type: ignore[assignment]


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
        self._work, self._replaced = unfinished_path(path), replaced_path(path)
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
                self._remove_files(self._work, keep={LOCK})
            except BaseException:
                self._give_up()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # Where the old folder has been moved away, the new one is whole, and the next writer moves it.
            if kind is not None and self._lock is not None and not waits_for_its_place(self.path):
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
                "format": FORMAT,
                "version": VERSION,
                "id": uuid.uuid4().hex,
                "num_rows": num_rows,
                **structures,
                "leaves": leaves,
                "source": source,
            }
            text = io.StringIO()
            json.dump(description, text, indent=1)
            self._files.write(self._work / DESCRIPTION, text.getvalue().encode())
            self._files.flush_folder(self._work)
            self._check_target()
            self._check_owned(self._replaced)
            self._move_into_place()

    def _check_target(self) -> None:
        """Refuses a place that is taken."""
        if self.path == self.path.parent or os.path.ismount(self.path):
            raise FileExistsError(
                f"`{self._argument}` must be a new folder. Received {shown(self.path)}, which is the root of a file "
                "system, so that nothing can be moved to its place. Pass the path of a folder in it."
            )
        if not os.path.lexists(self.path):
            return
        description = own_description(self.path)
        if description is None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone in the meantime, or a file
                if not os.path.islink(self.path) and not os.listdir(self.path):
                    return
            if not os.path.lexists(self.path):
                return
            raise FileExistsError(
                f"`{self._argument}` must be a new folder. Received {shown(self.path)}, which holds something else. "
                "Pass another path."
            )
        if not self._overwrite:
            raise FileExistsError(
                f"`{self._argument}` must be a new folder. Received {shown(self.path)}, which holds saved sequences. "
                "Pass overwrite=True to replace them, or another path."
            )
        self._check_files(self.path, description)

    def _check_owned(self, folder: Path) -> None:
        """Refuses to remove a neighbor that an interrupted writing of this folder did not leave behind."""
        if not os.path.lexists(folder):
            return
        if os.path.islink(folder) or not folder.is_dir():
            raise FileExistsError(
                f"`{self._argument}` must have nothing else at {shown(folder)}, where sequences are kept while they "
                "are written or replaced. Received a link or a file there. Move it away, or pass another path."
            )
        self._check_files(folder, None)
        if is_finished(folder) and not is_marked(folder, self.path.name):
            raise FileExistsError(
                f"`{self._argument}` must have nothing else at {shown(folder)}, where sequences are kept while they "
                "are written or replaced. Received a folder of saved sequences there. Rename it, or pass another path."
            )

    def _check_files(self, folder: Path, description: dict[str, Any] | None) -> None:
        """Refuses a folder with anything in it that was not written here; what its description says, if given."""
        leaves = None if description is None else description.get("leaves")
        num_leaves = len(leaves) if isinstance(leaves, list) else None
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not is_own_file(entry, num_leaves))
        if names:
            raise FileExistsError(
                f"`{self._argument}` must be a folder of nothing but saved sequences to be replaced. Received "
                f"{shown(folder)}, which also holds {show(names[0])}. Move that file away, or pass another path."
            )

    def _acquire(self) -> None:
        """Makes the folder to write in, and waits where another process has it."""
        while True:
            with contextlib.suppress(FileExistsError):
                self._files.make_folder(self._work)
            try:
                self._refuse_strangers()
                lock = self._files.open_lock(self._work / LOCK)
            except FileNotFoundError:  # another process has moved or removed the folder
                continue
            try:
                self._wait_for(lock)
                with contextlib.suppress(FileNotFoundError):
                    # The other process may have moved or removed the folder in the meantime.
                    if os.path.samestat(os.fstat(lock.fileno()), os.stat(self._work / LOCK)):
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
        if not waits_for_its_place(self.path):
            return False
        self._files.rename(self._work, self.path)
        self._files.remove(self.path / LOCK)
        self._release()
        return True

    def _move_into_place(self) -> None:
        replaces = is_finished(self.path)
        if replaces:
            if os.path.lexists(self._replaced):
                self._remove(self._replaced)
            self._files.write(self.path / LOCK, self.path.name.encode("utf-8", "surrogateescape"))
            try:
                self._files.rename(self.path, self._replaced)
            except OSError:
                with contextlib.suppress(OSError):
                    self._files.remove(self.path / LOCK)
                raise
        try:
            self._files.rename(self._work, self.path)
        except OSError:
            if replaces:
                with contextlib.suppress(OSError):  # the first error is the one to tell; the new folder waits then
                    self._files.rename(self._replaced, self.path)
                    self._files.remove(self.path / LOCK)
            raise
        self._files.remove(self.path / LOCK)
        self._files.flush_folder(self.path.parent)
        if replaces:
            self._remove(self._replaced)  # what is mapped of it stays until it is let go of

    def _remove(self, folder: Path) -> None:
        self._remove_files(folder, keep=set())
        self._files.remove_folder(folder)

    def _remove_files(self, folder: Path, keep: set[str]) -> None:
        """Removes own files: the description first, so that no part is taken for a whole; the lock when all is done."""
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if is_own_file(entry, None)} - keep
        for name in sorted(names, key=lambda name: (name != DESCRIPTION, name == LOCK, name)):
            self._files.remove(folder / name)

    def _give_up(self) -> None:
        """Leaves the folder to write in to the next writer; a whole one, which may wait for its place, stays marked."""
        try:
            if self._lock is not None and not is_finished(self._work):
                with contextlib.suppress(OSError):  # what others have put there stays
                    self._files.remove(self._work / LOCK)
                    self._files.remove_folder(self._work)
        finally:
            self._release()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


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


def _encode(structure: tree.Structure) -> tree.Structure:
    """A structure of leaf numbers, with tuples told from lists."""
    if isinstance(structure, dict):
        return {"dict": {key: _encode(value) for key, value in structure.items()}}
    if isinstance(structure, tuple):
        return {"tuple": [_encode(value) for value in structure]}
    return structure
