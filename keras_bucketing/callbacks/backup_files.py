"""The operations on files that backups need: for local paths, and for all file systems of `tf.io.gfile`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

_CHUNK_BYTES = 1 << 20


class Digest(NamedTuple):
    """Size and checksum, which identify an undamaged copy of a file."""

    size: int
    sha256: str


class BackupFiles:
    """Files of a local directory, which are flushed to the disk, or of a remote one ("gs://bucket/run").

    Everything that a backup writes or removes goes through this class, so that tests can make any of it fail. Errors
    are `OSError`s, also those of TensorFlow's file systems.
    """

    def exists(self, path: str) -> bool:
        """Whether there is a file or a directory."""
        with _os_errors(path):
            return bool(tf.io.gfile.exists(path))

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory."""
        with _os_errors(path):
            return bool(tf.io.gfile.isdir(path))

    def names(self, directory: str) -> list[str]:
        """The names in a directory; empty if there is none."""
        if not self.is_directory(directory):
            return []
        with _os_errors(directory):
            return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(directory))

    def read(self, path: str) -> bytes:
        """The content of a small file."""
        with _os_errors(path), tf.io.gfile.GFile(path, "rb") as file:
            content: bytes = file.read()
            return content

    def digest(self, path: str) -> Digest:
        """Size and checksum of a file of any size."""
        sha256, size = hashlib.sha256(), 0
        with _os_errors(path), tf.io.gfile.GFile(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                sha256.update(chunk)
                size += len(chunk)
        return Digest(size, sha256.hexdigest())

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        """A local path with the content of that file, for libraries that open only local files."""
        if is_local(path):
            yield path
            return
        with tempfile.TemporaryDirectory() as directory:
            copy = os.path.join(directory, path.rpartition("/")[2])
            with _os_errors(path):
                tf.io.gfile.copy(path, copy)
            yield copy

    def make_directory(self, path: str) -> None:
        """Makes a directory and its parents, and flushes their names to the disk."""
        missing = [path]
        while is_local(path) and not os.path.exists(parent := os.path.dirname(os.path.abspath(missing[-1]))):
            missing.append(parent)
        with _os_errors(path):
            tf.io.gfile.makedirs(path)
        for made in missing:
            self.flush_directory(os.path.dirname(os.path.abspath(made)) if is_local(path) else path)

    def write(self, path: str, content: bytes) -> None:
        """Writes a file and flushes it to the disk."""
        with _os_errors(path), tf.io.gfile.GFile(path, "wb") as file:
            file.write(content)
        self.flush(path)

    def flush(self, path: str) -> None:
        """Flushes a written file to the disk."""
        if is_local(path):
            _flush(path)

    def flush_directory(self, path: str) -> None:
        """Flushes the entries of a directory to the disk."""
        # Windows cannot open directories, and flushes their entries by itself.
        if is_local(path) and os.name != "nt":
            try:
                _flush(path)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
                    raise

    def rename(self, old: str, new: str) -> None:
        """Renames a file; in a local directory that is one atomic step."""
        with _os_errors(old):
            tf.io.gfile.rename(old, new, overwrite=True)

    def remove(self, path: str) -> None:
        """Removes a file."""
        with _os_errors(path):
            tf.io.gfile.remove(path)

    def remove_empty_directory(self, path: str) -> None:
        """Removes a directory if nothing is in it."""
        if self.names(path) or not self.is_directory(path):
            return
        with _os_errors(path):
            if is_local(path):
                os.rmdir(path)
            else:
                tf.io.gfile.rmtree(path)


def is_local(path: str) -> bool:
    """Whether a path belongs to the operating system, and not to a file system with a scheme."""
    return "://" not in path


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{path}: {error.message or type(error).__name__}") from error
