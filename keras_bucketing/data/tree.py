"""Structures of leaves: what a row of `x`, `y` and `sample_weight` is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_bucketing.checks import shorten, show
from keras_bucketing.data.rows import Ragged

Leaf = Ragged | np.ndarray  # one sequence a row, or an array `(num_rows, ...)` with one value a row
Structure = Any  # a leaf, or a dict or tuple of structures


def map_structure(convert: Callable[[Any, str], Any], structure: Any, name: str) -> Structure:
    """Converts every leaf with `convert(leaf, name)`, where the name is what an error message calls it."""
    if isinstance(structure, dict):
        if not structure:
            raise ValueError(f"`{name}` is an empty dict. Expected at least one entry.")
        for key in structure:
            if not isinstance(key, str):
                raise TypeError(f"`{name}` must have strings as keys. Received {show(key)}.")
        return {key: map_structure(convert, value, f"{name}[{show(key)}]") for key, value in structure.items()}
    if isinstance(structure, tuple):
        if not structure:
            raise ValueError(f"`{name}` is an empty tuple. Expected at least one entry.")
        return tuple(map_structure(convert, value, f"{name}[{i}]") for i, value in enumerate(structure))
    return convert(structure, name)


def named_leaves(structure: Structure, name: str) -> list[tuple[str, Leaf]]:
    """The leaves with their names, dict entries in the order of their keys, as `tf.nest` has them."""
    if structure is None:
        return []
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in named_leaves(structure[key], f"{name}[{show(key)}]")]
    if isinstance(structure, tuple):
        return [leaf for i, value in enumerate(structure) for leaf in named_leaves(value, f"{name}[{i}]")]
    return [(name, structure)]


def num_rows(leaf: Leaf) -> int:
    """How many rows a leaf has."""
    return leaf.num_rows if isinstance(leaf, Ragged) else len(leaf)


def describe(structure: Structure) -> str:
    """The structure in words, for an error message."""
    return shorten(_describe(structure))


def _describe(structure: Structure) -> str:
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{show(key)}: {_describe(value)}" for key, value in structure.items()) + "}"
    if isinstance(structure, tuple):
        return "(" + ", ".join(map(_describe, structure)) + ")"
    return "sequences" if isinstance(structure, Ragged) else f"an array of shape {structure.shape}"
