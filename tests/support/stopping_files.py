"""Files of a saved folder whose writer can be stopped at any step, or watched by other processes in between."""

import errno
import os

from keras_bucketing.streams.folder_files import FolderFiles


class Killed(BaseException):
    """The process is gone: nothing that it still does reaches the disk."""


class StoppingFiles(FolderFiles):
    """Counts the steps of a writer, calls `between` before each of them, and stops it at one.

    Args:
        stop_at: The number of the step that is not done, from 0; None: all are.
        kind: "kill", "full disk", "interrupt", which is Ctrl-C before the step, or "interrupt after" it.
        between: Called with the number of each step, as another process would act.
    """

    def __init__(self, stop_at=None, kind="kill", between=lambda step: None):
        self.steps = 0
        self._stop_at, self._kind, self._between = stop_at, kind, between
        self._dead = False

    def step(self, function, *arguments):
        if self._dead:
            raise Killed
        self._between(self.steps)
        self.steps += 1
        is_stopped = self._stop_at is not None and self.steps - 1 == self._stop_at
        if is_stopped and self._kind == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if is_stopped and self._kind == "kill":
            self._dead = True
            raise Killed
        if is_stopped and self._kind == "interrupt":
            raise KeyboardInterrupt
        done = function(*arguments)
        if is_stopped:
            if done is not None:
                done.close()  # as the file does that nobody holds
            raise KeyboardInterrupt
        return done

    def make_folder(self, path):
        self.step(super().make_folder, path)

    def create(self, path):
        return self.step(super().create, path)

    def open_lock(self, path):
        return self.step(super().open_lock, path)

    def flush(self, file):
        self.step(super().flush, file)

    def rename(self, old, new):
        self.step(super().rename, old, new)

    def remove(self, path):
        self.step(super().remove, path)

    def remove_folder(self, path):
        self.step(super().remove_folder, path)
