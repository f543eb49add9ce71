"""A folder of saved sequences, checked and mapped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_bucketing.checks import INT64_MAX, show
from keras_bucketing.inputs.storage import standard_dtype
from keras_bucketing.inputs.stored_sequences import StoredSequences
from keras_bucketing.streams.element_specs import Triple
from keras_bucketing.streams.npy_files import map_npy
from keras_bucketing.streams.sequence_folder import DESCRIPTION, FORMAT, VERSION, own_errors


def is_finished(path: Path) -> bool:
    """Whether a folder of sequences is there, written to its end."""
    return (path / DESCRIPTION).is_file()


def map_folder(path: Path, argument: str) -> tuple[Triple, dict[str, Any] | None]:
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
            f"`{argument}` must be a folder that save_sequences wrote. Received {show(str(path))}, which "
            + ("has not been finished. Write it again." if unfinished else "is none.")
        )
    with own_errors(argument, path, "read"):
        description = _read_description(path, argument)
        try:
            num_rows = _as_size(description["num_rows"])
            leaves = [_map_leaf(path, number, leaf, num_rows) for number, leaf in enumerate(description["leaves"])]
            x, y, weights = (_decode(description[name], leaves) for name in ("x", "y", "sample_weight"))
            source = description["source"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and error.errno is not None:
                raise
            known = isinstance(error, (ValueError, FileNotFoundError))
            reason = str(error) if known else "its description is damaged."
            raise ValueError(
                f"`{argument}` cannot be used: {reason} Received {show(str(path))}. Remove the folder and write it "
                "again."
            ) from error
    return (x, y, weights), source


def _read_description(path: Path, argument: str) -> dict[str, Any]:
    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        is_ours = isinstance(description, dict) and description.get("format") == FORMAT
    except FileNotFoundError:
        is_ours = False
    except (ValueError, RecursionError):  # neither JSON nor text
        is_ours = False
    if not is_ours:
        raise ValueError(
            f"`{argument}` must be a folder that save_sequences wrote. Received {show(str(path))}, whose "
            f"{DESCRIPTION} is missing or something else. Pass another path."
        )
    if description.get("version") != VERSION:
        raise ValueError(
            f"`{argument}` was written by another version of keras-bucketing. Expected version {VERSION} of the "
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
    return StoredSequences(values, splits, show(leaf["name"]).strip("'\""))


def _as_dtype(text: Any) -> np.dtype:
    """One of the dtypes that are stored, and no other; nothing is made of what a stranger wrote."""
    if not isinstance(text, str) or not re.fullmatch(r"[<>|][biuf][1248]", text):
        raise ValueError(f"it holds something else than numbers, dtype {show(text)}.")
    dtype = np.dtype(text)
    if not dtype.isnative:
        raise ValueError(f"it has the byte order of another kind of machine, dtype {text}.")
    return standard_dtype(dtype, "values")


def _as_size(number: Any) -> int:
    if type(number) is not int or not 0 <= number <= INT64_MAX:
        raise ValueError(f"its description is damaged: the size {show(number)}.")
    return number


def _decode(structure: Any, leaves: list[Any]) -> Any:
    if structure is None or isinstance(structure, int):
        return None if structure is None else leaves[structure]
    if "dict" in structure:
        return {str(key): _decode(value, leaves) for key, value in structure["dict"].items()}
    return tuple(_decode(value, leaves) for value in structure["tuple"])
