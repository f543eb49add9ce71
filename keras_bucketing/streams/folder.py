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
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from keras_bucketing.checks import INT64_MAX, shorten, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import standard_dtype
from keras_bucketing.data.rows import EqualSequences, StoredSequences
from keras_bucketing.streams.columns import map_npy
from keras_bucketing.streams.elements import NAMES, Element

FORMAT, VERSION = "keras-bucketing sequences", 1
DESCRIPTION = "description.json"
LOCK = "writing.lock"
_OWN_FILES = re.compile(
    rf"(values|row_splits)_(?P<number>\d+)\.(npy|before)|{re.escape(DESCRIPTION)}|{re.escape(LOCK)}"
)

_MAX_READS = 100  # of a folder that is replaced while it is read

Source = dict[str, object]  # what was read and how, as JSON: two of them can be compared


def unfinished_path(path: Path) -> Path:
    """Where a folder is written."""
    return path.with_name(f"{path.name}.unfinished") if path.name else path / ".unfinished"


def replaced_path(path: Path) -> Path:
    """Where a folder is moved that is replaced."""
    return path.with_name(f"{path.name}.replaced") if path.name else path / ".replaced"


def is_own_file(entry: os.DirEntry[str], num_leaves: int | None) -> bool:
    """Whether an entry of a folder is one of its files; with `num_leaves`, a file of one of so many leaves."""
    match = _OWN_FILES.fullmatch(entry.name)
    if match is None or not entry.is_file(follow_symlinks=False):
        return False
    return num_leaves is None or match["number"] is None or int(match["number"]) < num_leaves


def is_marked(folder: Path, name: str) -> bool:
    """Whether a writer of the folder `name` has left this one behind; earlier versions wrote no name."""
    try:
        mark = (folder / LOCK).read_bytes()
    except OSError:
        return False
    return mark in (b"", name.encode("utf-8", "surrogateescape"))


def own_description(folder: Path) -> dict[str, Any] | None:
    """The description of a folder of sequences; None if there is none."""
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):  # neither JSON nor text
        return None
    is_ours = isinstance(description, dict) and description.get("format") == FORMAT
    return description if is_ours else None


def waits_for_its_place(path: Path) -> bool:
    """Whether a writer was killed, or is about to go on, between moving the old folder away and the new one in."""
    work = unfinished_path(path)
    return (
        not os.path.lexists(path)
        and is_finished(replaced_path(path))
        and is_marked(work, path.name)
        and own_description(work) is not None
    )


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
    return OSError(error.errno or 0, f"`{argument}` cannot be {done}: {reason}. Received {shown(path)}. {fix}")


def shown(path: Path) -> str:
    """A path, as a message writes it."""
    return show(str(path))


def is_finished(path: Path) -> bool:
    """Whether a folder of sequences is there, written to its end."""
    return (path / DESCRIPTION).is_file()


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
        f"`{argument}` cannot be read: it was replaced {_MAX_READS} times in the meantime. Received {shown(path)}. "
        "Wait until it has been written, or save to another folder."
    )


def _find_folder(path: Path, argument: str) -> Path:
    """Where a folder is: in its place, or beside it, while it is moved there or after a writer was killed doing so."""
    for _ in range(3):  # it may be moved between two looks
        if path.is_dir():
            return path
        if waits_for_its_place(path):
            return unfinished_path(path)
        if not unfinished_path(path).is_dir() and not path.is_dir():
            break
        time.sleep(0.001)
    unfinished = unfinished_path(path).is_dir()
    raise FileNotFoundError(
        f"`{argument}` must be a folder that save_sequences wrote. Received {shown(path)}, which "
        + ("has not been finished. Write it again." if unfinished else "is none.")
    )


def _version_of(folder: Path) -> str | None:
    """What tells one writing of a folder from the next: the id in its description; before 0.3.0, which file that is."""
    description = own_description(folder)
    if description is None:
        return None
    if isinstance(description.get("id"), str):
        return str(description["id"])
    try:
        status = os.stat(folder / DESCRIPTION)
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
            f"`{argument}` cannot be used: {reason} Received {shown(path)}. Remove the folder and write it again."
        ) from error


def _read_description(path: Path, argument: str) -> dict[str, Any]:
    description = own_description(path)
    if description is None:
        raise ValueError(
            f"`{argument}` must be a folder that save_sequences wrote. Received {shown(path)}, whose "
            f"{DESCRIPTION} is missing or something else. Pass another path."
        )
    if description.get("version") != VERSION:
        raise ValueError(
            f"`{argument}` was written by another version of keras-bucketing. Expected version {VERSION} of the "
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
