"""Structures of leaves: dicts with strings as keys, tuples, and leaves, which is everything else.

A list is a leaf here, a list of sequences, but a structure for `keras.tree`: hence the three walks in this module. If
all leaves are known to be arrays, tensors or objects of this package, use `keras.tree` itself.

A leaf is identified by its path. Its name is the text in error messages and statistics: long keys are shortened in it,
so it is never compared and never parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from keras_bucketing.checks import show

AnyLeaf = Any
Structure = Any  # a leaf, or a dict or tuple of structures; None where there is nothing
Path = tuple[str | int, ...]  # the keys and indices that lead to a leaf; () where the structure is the leaf


class StructureError(ValueError):
    """Two structures differ.

    Attributes:
        path: Where they differ.
        expected: The part of the first one there, in words.
        received: The part of the second one there.
    """

    def __init__(self, path: Path, expected: str, received: str):
        super().__init__(f"Expected {expected} at {path}, received {received}.")
        self.path, self.expected, self.received = path, expected, received


def name_of(root: str, path: Path) -> str:
    """The name of a leaf in messages.

    Example:
        >>> name_of("x", ("a", 0))
        "x['a'][0]"
    """
    return root + "".join(f"[{show(key)}]" for key in path)


def check_structure(structure: Structure, root: str) -> None:
    """Refuses keys that are not strings, and dicts and tuples without entries; errors call the structure `root`."""
    if not isinstance(structure, (dict, tuple)):
        return
    if not structure:
        raise ValueError(f"`{root}` is an empty {_kind(structure)}. Expected at least one entry.")
    for key, value in _entries(structure):
        if isinstance(structure, dict) and not isinstance(key, str):
            raise TypeError(f"`{root}` must have strings as keys. Received {show(key)}. Rename that entry.")
        check_structure(value, name_of(root, (key,)))


def with_dicts(structure: Structure) -> Structure:
    """The structure with a dict in the place of any other mapping, such as what a tokenizer of Hugging Face returns.

    Example:
        >>> import types
        >>> with_dicts((types.MappingProxyType({"a": 1}), 2))
        ({'a': 1}, 2)
    """
    if isinstance(structure, Mapping):
        return {key: with_dicts(value) for key, value in structure.items()}
    return tuple(map(with_dicts, structure)) if isinstance(structure, tuple) else structure


def leaves(structure: Structure, none_is_leaf: bool = False) -> list[tuple[Path, AnyLeaf]]:
    """The leaves with their paths, dict entries in the order of their keys, as in `keras.tree.flatten_with_path`.

    Example:
        >>> leaves({"b": ([1, 2], None), "a": 3})
        [(('a',), 3), (('b', 0), [1, 2])]
    """
    return list(_leaves(structure, (), none_is_leaf))


def map_leaves(
    function: Callable[[Path, AnyLeaf], AnyLeaf], structure: Structure, none_is_leaf: bool = False
) -> Structure:
    """Replaces every leaf by `function(path, leaf)`; None counts as a leaf. Dict entries keep their order.

    Example:
        >>> map_leaves(lambda path, leaf: f"{path[-1]} {leaf}", {"b": 1, "a": None})
        {'b': 'b 1', 'a': None}
    """

    def convert(value: Structure, path: Path) -> Structure:
        if isinstance(value, dict):
            return {key: convert(entry, (*path, key)) for key, entry in value.items()}
        if isinstance(value, tuple):
            return tuple(convert(entry, (*path, index)) for index, entry in enumerate(value))
        return None if value is None and not none_is_leaf else function(path, value)

    return convert(structure, ())


def without_entries(structure: Structure, path: Path, entries: Collection[Path]) -> Structure:
    """The structure at a path, without the entries of its dicts at some paths.

    Example:
        >>> without_entries(({"a": 1, "b": 2}, 3), ("x",), {("x", 0, "b")})
        ({'a': 1}, 3)
    """
    if isinstance(structure, dict):
        return {
            key: without_entries(value, (*path, key), entries)
            for key, value in structure.items()
            if (*path, key) not in entries
        }
    if isinstance(structure, tuple):
        return tuple(without_entries(value, (*path, at), entries) for at, value in enumerate(structure))
    return structure


def leaves_like(template: Structure, structure: Structure, path: Path = ()) -> Iterator[AnyLeaf]:
    """The leaves of a structure in the order of `leaves`, if it is built like another one.

    A tuple is a leaf if the template has a leaf there, as a list is. The leaves of the template may be types, in place
    of their objects.

    Raises:
        StructureError: At the first difference; earlier leaves have been yielded by then.
    """
    if isinstance(template, dict):
        if not isinstance(structure, dict) or structure.keys() != template.keys():
            raise StructureError(path, _describe_node(template), _describe_node(structure))
        for key in sorted(template):
            yield from leaves_like(template[key], structure[key], (*path, key))
    elif isinstance(template, tuple):
        if not isinstance(structure, tuple) or len(structure) != len(template):
            raise StructureError(path, _describe_node(template), _describe_node(structure))
        for index, value in enumerate(template):
            yield from leaves_like(value, structure[index], (*path, index))
    elif isinstance(structure, dict) or (template is None) != (structure is None):
        raise StructureError(path, _describe_node(template), _describe_node(structure))
    elif template is not None:
        yield structure


def _entries(structure: Structure) -> list[tuple[Any, Structure]]:
    return list(structure.items() if isinstance(structure, dict) else enumerate(structure))


def _leaves(structure: Structure, path: Path, none_is_leaf: bool) -> Iterator[tuple[Path, AnyLeaf]]:
    if isinstance(structure, dict):
        for key in sorted(structure):
            yield from _leaves(structure[key], (*path, key), none_is_leaf)
    elif isinstance(structure, tuple):
        for index, value in enumerate(structure):
            yield from _leaves(value, (*path, index), none_is_leaf)
    elif structure is not None or none_is_leaf:
        yield path, structure


def _kind(structure: Structure) -> str:
    return "dict" if isinstance(structure, dict) else "tuple"


def _describe_node(part: Structure) -> str:
    if isinstance(part, dict):
        return f"a dict with the keys {show(sorted(map(str, part)))}"
    if isinstance(part, tuple):
        return f"a tuple of {len(part)}"
    if part is None:
        return "none"
    return part.__name__ if isinstance(part, type) else type(part).__name__
