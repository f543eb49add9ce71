"""Whether a source still yields what its cache holds: its first element says so, where nothing is declared."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.data.arrays import standard_dtype
from keras_bucketing.data.rows import StoredSequences
from keras_bucketing.data.tree import Structure, leaves_like
from keras_bucketing.streams.elements import Element, is_list_of_rows, leaves_of, template_of
from keras_bucketing.streams.folder import FolderContents
from keras_bucketing.streams.sources import Stream
from keras_bucketing.unpadding.entries import leaf_name

# The versions of caches that this process has made from a function, which need not be called again.
_made_here: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def remember_source(source: object, version: str) -> None:
    """Notes that a cache of this version was made from a source."""
    if callable(source):
        with contextlib.suppress(TypeError):  # no weak references, or no hash
            _made_here[source] = version


def check_first_element(source: object, stream: Stream, contents: FolderContents) -> None:
    """Refuses a cache whose structure, shapes or dtypes are not those of the source's first element.

    That element is all that is read. A source that cannot be read any more cannot be compared.

    Raises:
        ValueError: If it is another one's.
    """
    if callable(source):
        with contextlib.suppress(TypeError):
            if _made_here.get(source) == contents.version:
                return
    try:
        element = next(stream.elements(), None)
    except Exception:  # its files may be gone, which is what a cache is for
        return
    if element is None:
        return
    choices = (True, False) if stream.batched is None and stream.kind == "tf.data.Dataset" else (bool(stream.batched),)
    differences = [_difference(element, contents.element, is_batch) for is_batch in choices]
    if all(differences):
        raise ValueError(
            f"`cache` belongs to another dataset. {differences[0]} in its first element. Remove the folder, or pass "
            "another one."
        )


def _difference(element: Element, cached: Element, is_batch: bool) -> str:
    """In which leaf an element differs from what is cached, in words; empty where it does not."""
    x, y, weights = element
    if is_batch:
        x = _without_lengths(x, cached[0])
    try:
        template_of(element)
        found = list(leaves_like(cached, (x, y, weights)))
    except (ValueError, TypeError) as error:
        structure, other = _describe(cached), _describe(element)
        return f"Expected the structure {structure}, received {error if other == structure else other}"
    for (path, stored), leaf in zip(leaves_of(cached).items(), found, strict=True):
        is_ragged = isinstance(stored, StoredSequences)
        values = stored.values if isinstance(stored, StoredSequences) else stored
        expected = values.shape[1:]
        received = _shape_of_row(leaf, is_batch, is_ragged)
        if received is not None and received != expected:
            what = "timesteps" if is_ragged else "rows"
            return f"Expected {what} of shape {expected} in `{leaf_name(path)}`, received {received}"
        dtype = _dtype_of(leaf)
        if dtype is not None and not _can_hold(values.dtype, dtype):
            return f"Expected {values.dtype} in `{leaf_name(path)}`, received {dtype}"
    return ""


def _without_lengths(x: Structure, cached: Structure) -> Structure:
    """The entries without those that say lengths, which are not kept."""
    if not isinstance(x, dict) or not isinstance(cached, dict):
        return x
    return {
        key: _without_lengths(value, cached.get(key))
        for key, value in x.items()
        if key in cached or not str(key).endswith("lengths")
    }


def _shape_of_row(leaf: Any, is_batch: bool, is_ragged: bool) -> tuple[int, ...] | None:
    """The shape of a timestep, or of a row that is none; None where it cannot be told."""
    if isinstance(leaf, tf.RaggedTensor):
        return None
    if is_batch and is_list_of_rows(leaf):
        leaf, is_batch = leaf[0], False
    try:
        shape = tuple(int(size) for size in np.shape(leaf))
    except (ValueError, TypeError):  # lists of uneven shape: reading would say so
        return None
    num_outer = int(is_batch) + int(is_ragged)
    if 0 in shape or (len(shape) < num_outer and not shape):
        return None if 0 in shape else ()
    return shape[num_outer:]


def _dtype_of(leaf: Any) -> np.dtype | None:
    try:
        array = np.asarray(leaf)
    except Exception:
        return None
    return array.dtype if array.size and array.dtype.kind in "biuf" and array.dtype.itemsize <= 8 else None


def _can_hold(stored: np.dtype, dtype: np.dtype) -> bool:
    """Whether rows of this dtype can be among those that are stored in another one."""
    return dtype == stored or standard_dtype(np.result_type(stored, dtype), "x") == stored


def _describe(structure: Structure) -> str:
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{show(key)}: {_describe(value)}" for key, value in structure.items()) + "}"
    if isinstance(structure, tuple):
        return "(" + ", ".join(map(_describe, structure)) + ")"
    return "None" if structure is None else "..."
