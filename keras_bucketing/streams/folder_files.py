"""The few operations on files that a saved folder is made of."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import BinaryIO


class FolderFiles:
    """Files of a local folder, which are flushed to the disk.

    Everything that a saved folder's writer makes, writes, renames or removes goes through this class, so that tests can
    stop it at any step and let other processes act in between. Errors are `OSError`s.
    """

    def make_folder(self, path: Path) -> None:
        """Makes a folder whose parent is there."""
        path.mkdir()

    def make_parents(self, path: Path) -> None:
        """Makes the folders above a path, where they are missing."""
        path.parent.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> BinaryIO:
        """Opens a file to write; one that is there is written over."""
        return path.open("wb")

    def open_lock(self, path: Path) -> BinaryIO:
        """Opens a file that other processes may have open, and makes it if it is missing."""
        return path.open("ab")

    def write(self, path: Path, content: bytes) -> None:
        """Writes a small file, and flushes it."""
        with self.create(path) as file:
            file.write(content)
            self.flush(file)

    def flush(self, file: BinaryIO) -> None:
        """Flushes what has been written into an open file to the disk."""
        file.flush()
        os.fsync(file.fileno())

    def flush_folder(self, path: Path) -> None:
        """Flushes to the disk which files a folder has, and under which names."""
        if os.name == "nt":  # cannot open folders, and flushes their entries by itself
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
                raise
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Renames a file or a folder, in one atomic step; an empty folder makes way."""
        if os.name == "nt":  # nothing makes way there
            with contextlib.suppress(FileNotFoundError):
                new.rmdir()
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        """Removes a file."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Removes an empty folder."""
        path.rmdir()
