"""A directory of backups: written separately, published in one atomic step, and verified before use.

    backup_dir/
      backup-00000006/
        sequence_backup.weights.h5            the variables of the model and its optimizer sequence_backup.record
        the state, size and checksum of the weights, a checksum of itself
      backup-00000007/
        sequence_backup.weights.h5 sequence_backup.record.unfinished     made first, filled last, renamed to publish the
        backup

A killed process leaves a directory with an unfinished record: readers ignore it, and the next backup removes it. A
directory with neither record is damaged. Only files of these names, in directories of these names, are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_bucketing.callbacks.backup_files import BackupFiles, Digest
from keras_bucketing.checks import shorten, show

WEIGHTS_FILE = "sequence_backup.weights.h5"
RECORD_FILE = "sequence_backup.record"
UNFINISHED_FILE = f"{RECORD_FILE}.unfinished"
_OWN_FILES = {WEIGHTS_FILE, RECORD_FILE, UNFINISHED_FILE}
_VERSION = 1
_KEPT = 2
_DIRECTORY_NAME = re.compile(r"backup-(\d{8})")

State = dict[str, Any]  # what JSON can hold


class Backup(NamedTuple):
    """A verified backup: the path of the weights, and the state."""

    weights: str
    state: State


class _DamagedFileError(Exception):
    """The damage of a file."""


class BackupStore:
    """The backups of one training run, of which the two newest are kept.

    Args:
        directory: Path of the directory, local or remote.
        files: The operations on files.
    """

    def __init__(self, directory: str, files: BackupFiles | None = None):
        self._directory = directory
        self._files = files or BackupFiles()
        self._whole: list[int] = []  # the backups that this process has written or verified

    def check(self) -> None:
        """Refuses a path that cannot be a directory.

        Raises:
            ValueError: If it is a file, or TensorFlow does not know its file system.
        """
        try:
            is_file = self._files.exists(self._directory) and not self._files.is_directory(self._directory)
        except OSError as error:
            raise ValueError(
                f"`backup_dir` cannot be reached. Received {show(self._directory)}: {shorten(str(error))}. Pass a "
                "local path, or that of a file system that tf.io.gfile knows."
            ) from error
        if is_file:
            raise ValueError(
                f"`backup_dir` must be a directory. Received {show(self._directory)}, which is a file. Pass another "
                "path."
            )

    def prepare(self) -> None:
        """Makes the directory, so that an unusable path fails before training.

        Raises:
            ValueError: If the directory cannot be made or written to.
        """
        self.check()
        try:
            probe = self._path(self._next_number())
            self._files.make_directory(probe)
            self._files.remove_empty_directory(probe)
        except OSError as error:
            raise ValueError(
                f"`backup_dir` cannot be written to. Received {show(self._directory)}: {shorten(str(error))}. Pass "
                "another path, or ask for permission."
            ) from error

    def newest(self) -> Backup | None:
        """The newest complete backup.

        Returns:
            The backup, or None if none was ever finished. A warning reports damaged newer ones.

        Raises:
            ValueError: If there are backups, but none of them is complete.
        """
        damages: list[str] = []
        self._whole = []
        for number in reversed(self._numbers()):
            try:
                backup = self._verify(number)
            except (_DamagedFileError, OSError) as error:
                damages.append(shorten(str(error)))
                continue
            if backup is not None:
                self._whole = [number]
                if damages:
                    warnings.warn(
                        f"The newest backup in `backup_dir` ({show(self._directory)}) is damaged: {damages[0]}. "
                        f"Training continues from the one before it, {_name(number)}.",
                        stacklevel=2,
                    )
                return backup
        if damages:
            raise ValueError(
                f"The backup in `backup_dir` ({show(self._directory)}) is damaged, and there is no other: {damages[0]}."
                " Put an intact copy of the file in its place, or delete the directory to start over."
            )
        return None

    def write(self, save_weights: Callable[[str], None], state: State) -> None:
        """Writes a backup, and removes those that are no longer needed once it is safe on the disk.

        `save_weights` writes the weights to the path that it gets, `state` is everything else.
        """
        number = self._next_number()
        backup = self._path(number)
        unfinished, weights = f"{backup}/{UNFINISHED_FILE}", f"{backup}/{WEIGHTS_FILE}"
        try:
            self._files.make_directory(backup)
            self._files.write(unfinished, b"")
            self._files.flush_directory(backup)
            save_weights(weights)
            self._files.flush(weights)
            self._files.write(unfinished, _encode({"weights": self._files.digest(weights)._asdict(), "state": state}))
            self._files.flush_directory(backup)
            self._files.rename(unfinished, f"{backup}/{RECORD_FILE}")
        except BaseException:
            with contextlib.suppress(OSError):  # e.g. of a full disk: what was written so far only takes room
                self._discard(number)
            raise
        self._files.flush_directory(backup)
        self._files.flush_directory(self._directory)
        self._whole = [*self._whole, number][-_KEPT:]
        for other in self._numbers():
            if other not in self._whole:
                self._discard(other)

    def delete(self) -> None:
        """Removes all backups, the newest last, and the directory if nothing else is in it."""
        for number in self._numbers():
            self._discard(number)
        with contextlib.suppress(OSError):  # e.g. the root of a mounted disk
            self._files.remove_empty_directory(self._directory)

    def _verify(self, number: int) -> Backup | None:
        """A complete backup, or None if it was never finished."""
        backup = self._path(number)
        names = self._files.names(backup)
        record_name, weights_name = (f"{_name(number)}/{file}" for file in (RECORD_FILE, WEIGHTS_FILE))
        try:
            if RECORD_FILE not in names:
                raise _DamagedFileError(f"{record_name} is missing")
            record = _decode(record_name, self._files.read(f"{backup}/{RECORD_FILE}"))
            if WEIGHTS_FILE not in names:
                raise _DamagedFileError(f"{weights_name} is missing")
            expected, received = Digest(**record["weights"]), self._files.digest(f"{backup}/{WEIGHTS_FILE}")
            if received.size != expected.size:
                raise _DamagedFileError(f"{weights_name} has {received.size} bytes, expected {expected.size}")
            if received != expected:
                raise _DamagedFileError(f"{weights_name} has other content than was written (its SHA-256 differs)")
        except _DamagedFileError:
            # An object store renames by a copy and a removal, so that a kill may leave both records.
            is_foreign = not _OWN_FILES & set(names)
            if UNFINISHED_FILE in names or is_foreign:
                return None
            raise
        return Backup(f"{backup}/{WEIGHTS_FILE}", record["state"])

    def _discard(self, number: int) -> None:
        """Removes the files of one backup; at no time does it look like a damaged one."""
        backup = self._path(number)
        names = self._files.names(backup)
        if RECORD_FILE in names:
            self._files.rename(f"{backup}/{RECORD_FILE}", f"{backup}/{UNFINISHED_FILE}")
            self._files.flush_directory(backup)
        elif UNFINISHED_FILE not in names and WEIGHTS_FILE in names:
            self._files.write(f"{backup}/{UNFINISHED_FILE}", b"")
        names = self._files.names(backup)
        for name in (WEIGHTS_FILE, UNFINISHED_FILE):
            if name in names:
                self._files.remove(f"{backup}/{name}")
        self._files.remove_empty_directory(backup)

    def _numbers(self) -> list[int]:
        matches = (_DIRECTORY_NAME.fullmatch(name) for name in self._files.names(self._directory))
        return [int(match[1]) for match in matches if match]

    def _next_number(self) -> int:
        return max(self._numbers(), default=-1) + 1

    def _path(self, number: int) -> str:
        return f"{self._directory}/{_name(number)}"


def _name(number: int) -> str:
    return f"backup-{number:08d}"


def _encode(content: State) -> bytes:
    """One line of JSON and one with its checksum."""
    line = json.dumps({"version": _VERSION, **content}, sort_keys=True).encode()
    return line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"


def _decode(name: str, raw: bytes) -> State:
    line, _, checksum = raw.partition(b"\n")
    if checksum != hashlib.sha256(line).hexdigest().encode() + b"\n":
        raise _DamagedFileError(f"{name} has other content than was written (its checksum differs)")
    record: State = json.loads(line)
    if record["version"] != _VERSION:
        raise _DamagedFileError(f"{name} is of version {record['version']}, expected {_VERSION}")
    return record
