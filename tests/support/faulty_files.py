"""Files that fail at any operation and any byte: a killed process, a power loss, a full disk, no permission."""

import contextlib
import errno
import os
import random

from keras_bucketing.callbacks.backup_files import BackupFiles

REAL_FSYNC = os.fsync  # before conftest.py replaces it


class Killed(BaseException):
    """The process is gone: nothing that it still does reaches the disk."""


class FaultyFiles(BackupFiles):
    """Counts operations, and lets one of them fail.

    An operation is a directory made, a name flushed, a file renamed or removed, and every quarter of a file's bytes.

    Args:
        fail_at: The number of the operation that fails, from 0; None: none does.
        kind: "kill", "power loss" (what was not flushed is gone, in part or whole) or "full disk".
        seed: Decides how much of what was not flushed survives a power loss.
    """

    def __init__(self, fail_at=None, kind="kill", seed=0):
        self.operations = 0
        self.failed = False
        self.touched = set()
        self._fail_at, self._kind, self._random = fail_at, kind, random.Random(seed)
        self._dead = False
        self._unflushed_files = set()
        self._unflushed_names = []  # (directory, what undoes the change)

    def make_directory(self, path):
        self._operate(path)
        if not os.path.isdir(path):
            super().make_directory(path)

    def write(self, path, content):
        is_new = not os.path.exists(path)
        self._unflushed_files.add(path)
        for done in range(0, len(content) + 1, max(1, len(content) // 4)):
            self._operate(path)
            with open(path, "wb") as file:
                file.write(content[:done])
            if is_new:
                self._changed_name(path, lambda: os.path.exists(path) and os.remove(path))
                is_new = False
        with open(path, "wb") as file:
            file.write(content)
        self.flush(path)

    def flush(self, path):
        # Somebody may have written it without these files, byte by byte.
        size = os.path.getsize(path)
        self._unflushed_files.add(path)
        for part in range(4):
            with self._cut_on_failure(path, size * part // 4):
                self._operate(path)
        self._unflushed_files.discard(path)

    def flush_directory(self, path):
        self._operate(path)
        self._unflushed_names = [change for change in self._unflushed_names if change[0] != path]

    def rename(self, old, new):
        self._operate(old)
        super().rename(old, new)
        self._changed_name(new, lambda: os.path.exists(new) and os.replace(new, old))

    def remove(self, path):
        self._operate(path)
        super().remove(path)

    def remove_empty_directory(self, path):
        self._operate(path)
        super().remove_empty_directory(path)

    @contextlib.contextmanager
    def _cut_on_failure(self, path, size):
        try:
            yield
        except BaseException:
            if os.path.exists(path):
                os.truncate(path, min(size, os.path.getsize(path)))
            raise

    def _changed_name(self, path, undo):
        self._unflushed_names.append((os.path.dirname(path), undo))

    def _operate(self, path):
        if self._dead:
            raise Killed
        self.touched.add(path)
        self.operations += 1
        if self._fail_at is None or self.operations - 1 != self._fail_at:
            return
        self.failed = True
        if self._kind == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        self._dead = True
        if self._kind == "power loss":
            self._lose_power()
        raise Killed

    def _lose_power(self):
        for path in self._unflushed_files:
            if os.path.exists(path):
                os.truncate(path, self._random.randint(0, os.path.getsize(path)))
        kept = self._random.randint(0, len(self._unflushed_names))
        for _, undo in reversed(self._unflushed_names[kept:]):
            undo()
