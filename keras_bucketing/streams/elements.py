"""What one element of a stream is made of: the structure of its leaves, with their shapes and dtypes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show
from keras_bucketing.data.tree import named_leaves as named_leaves_of_data

Triple = tuple[Any, Any, Any]  # the structures of x, y and sample_weight; None for what an element does not have
NAMES = ("x", "y", "sample_weight")


@dataclass(frozen=True)
class LeafSpec:
    """One leaf of an element.

    Attributes:
        shape: Its axes, None for one whose size varies.
        dtype: The name of its dtype.
        ragged_rank: How many of its inner axes a `tf.RaggedTensor` splits; 0 for a dense array.
    """

    shape: tuple[int | None, ...]
    dtype: str
    ragged_rank: int = 0

    @property
    def rank(self) -> int:
        """How many axes there are."""
        return len(self.shape)


def named_leaves(structure: Any, name: str) -> list[tuple[str, Any]]:
    """The leaves with their names, whatever they are, in the order of `structures.named_leaves`."""
    return list(named_leaves_of_data(structure, name))


def split_element(element: Any, index: int = 0, list_is_tuple: bool = False) -> Triple:
    """Takes an element apart into `x`, `y` and `sample_weight`, as `fit` does.

    Args:
        element: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
        index: Which element it is, for an error message.
        list_is_tuple: Whether a list means the same as a tuple, as in what a `PyDataset` returns.
    """
    if list_is_tuple and isinstance(element, list):
        element = tuple(element)
    if not isinstance(element, tuple):
        return element, None, None
    if not 1 <= len(element) <= 3:
        raise ValueError(
            f"An element must be x, (x, y) or (x, y, sample_weight). Received a tuple of {len(element)} at element "
            f"{index}. Several inputs belong in a tuple or a dict of their own: ((a, b, ...), y)."
        )
    x, y, weights = (*element, None, None)[:3]
    return x, y, weights


def spec_of_dataset(element_spec: Any) -> Triple | None:
    """The leaves of a `tf.data.Dataset`'s elements; None if the shape of one is unknown.

    Raises:
        TypeError: If a leaf is not a tensor of numbers.
    """
    parts = []
    for name, part in zip(NAMES, split_element(element_spec), strict=True):
        leaves: dict[str, LeafSpec] = {}
        for leaf_name, spec in named_leaves(part, name):
            # Of None; by name, since `tf.NoneTensorSpec` is younger than TensorFlow 2.18.
            if type(spec).__name__ == "NoneTensorSpec":
                continue
            if not isinstance(spec, (tf.TensorSpec, tf.RaggedTensorSpec)):
                raise TypeError(
                    f"`{leaf_name}` must be a dense or ragged tensor. Received {type(spec).__name__}. Map it to one "
                    "first, e.g. dataset.map(tf.sparse.to_dense)."
                )
            refuse_text(tf.as_dtype(spec.dtype).name, leaf_name)
            if spec.shape.rank is None:
                return None
            ragged_rank = spec.ragged_rank if isinstance(spec, tf.RaggedTensorSpec) else 0
            leaves[leaf_name] = LeafSpec(tuple(spec.shape), tf.as_dtype(spec.dtype).name, ragged_rank)
        parts.append(map_named(part, name, lambda leaf_name, _, known=leaves: known.get(leaf_name)))
    return parts[0], parts[1], parts[2]


def spec_of_elements(elements: Sequence[Triple]) -> Triple:
    """The leaves of elements that have been read: an axis whose size differs among them is None."""
    parts = []
    for position, name in enumerate(NAMES):
        leaves = [dict(named_leaves(element[position], name)) for element in elements]

        def merge(leaf_name: str, _: Any, leaves: list[dict[str, Any]] = leaves) -> LeafSpec:
            specs = [_spec_of(known[leaf_name]) for known in leaves if leaf_name in known]
            if any(spec.rank != specs[0].rank for spec in specs):
                return specs[0]  # whoever reads the rows says so, with the index of the row
            axes = zip(*(spec.shape for spec in specs), strict=True)
            shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in axes)
            return LeafSpec(shape, specs[0].dtype, specs[0].ragged_rank)

        parts.append(map_named(elements[0][position], name, merge))
    return parts[0], parts[1], parts[2]


def map_named(structure: Any, name: str, function: Any) -> Any:
    """Maps every leaf but None with `function(name, leaf)`, whatever the leaves are."""
    if isinstance(structure, dict):
        return {key: map_named(value, f"{name}[{show(key)}]", function) for key, value in structure.items()}
    if isinstance(structure, tuple):
        return tuple(map_named(value, f"{name}[{index}]", function) for index, value in enumerate(structure))
    return None if structure is None else function(name, structure)


def leaves_like(template: Any, structure: Any, path: tuple[Any, ...], index: int) -> Iterator[Any]:
    """The leaves of a structure in the order of `named_leaves`, refusing one that is built unlike the template.

    Args:
        template: The structure of the first element.
        structure: That of another element.
        path: The name of the structure, and the keys that lead to this part of it, for an error message.
        index: Which element it is.
    """
    if isinstance(template, dict):
        if not isinstance(structure, dict) or structure.keys() != template.keys():
            raise _other_structure(path, template, structure, index)
        for key in sorted(template):
            yield from leaves_like(template[key], structure[key], (*path, key), index)
    elif isinstance(template, tuple):
        if not isinstance(structure, tuple) or len(structure) != len(template):
            raise _other_structure(path, template, structure, index)
        for position, value in enumerate(template):
            yield from leaves_like(value, structure[position], (*path, position), index)
    elif isinstance(structure, dict) or (template is None) != (structure is None):
        raise _other_structure(path, template, structure, index)
    elif template is not None:
        yield structure


def _other_structure(path: tuple[Any, ...], template: Any, structure: Any, index: int) -> ValueError:
    def describe(part: Any) -> str:
        if isinstance(part, dict):
            return f"a dict with the keys {show(sorted(map(str, part)))}"
        if isinstance(part, tuple):
            return f"a tuple of {len(part)}"
        return "none" if part is None else type(part).__name__

    name = str(path[0]) + "".join(f"[{show(key)}]" for key in path[1:])
    return ValueError(
        f"All elements must have one structure. Expected {describe(template)} for `{name}` as in element 0, received "
        f"{describe(structure)} in element {index}."
    )


def refuse_text(dtype: str, name: str, value: Any = None) -> None:
    """Answers strings with the way to make ids of them.

    Raises:
        TypeError: If the dtype is one of text.
    """
    if dtype != "string" and not dtype.startswith(("str", "bytes", "<U", ">U", "|S")):
        return
    shown = "" if value is None else f" ({show(value)})"
    fix = (
        "vectorize = keras.layers.TextVectorization(ragged=True), vectorize.adapt(texts), and yield vectorize(text), "
        "or dataset.map(lambda text, label: (vectorize(text), label)); with output_sequence_length=... the ids are "
        "padded instead, which from_dataset undoes"
        if name.startswith("x")
        else "keras.layers.StringLookup or a dict"
    )
    raise TypeError(f"`{name}` must hold numbers. Received strings{shown}. Map them to ids first: {fix}.")


def as_json(spec: Any) -> Any:
    """A structure of `LeafSpec` as lists and strings, equal for equal specs in every version of TensorFlow."""
    if isinstance(spec, dict):
        return {key: as_json(spec[key]) for key in sorted(spec)}
    if isinstance(spec, tuple):
        return [as_json(value) for value in spec]
    if isinstance(spec, LeafSpec):
        axes = ", ".join("?" if size is None else str(size) for size in spec.shape)
        return f"{spec.dtype}({axes})" + (f" ragged {spec.ragged_rank}" if spec.ragged_rank else "")
    return None


def is_list_of_rows(leaf: Any) -> bool:
    """Whether this is a list, or an object array, whose entries have an axis of their own."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype == object and leaf.ndim == 1 and bool(leaf.size) and np.ndim(leaf[0]) > 0
    return isinstance(leaf, list) and bool(leaf) and (isinstance(leaf[0], (list, tuple)) or np.ndim(leaf[0]) > 0)


def _spec_of(leaf: Any) -> LeafSpec:
    if isinstance(leaf, tf.RaggedTensor):
        return LeafSpec(tuple(leaf.shape), leaf.dtype.name, leaf.ragged_rank)
    if is_list_of_rows(leaf):
        return LeafSpec((len(leaf), None), "list", 1)
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        try:
            array = np.asarray(leaf)
        except (ValueError, TypeError, RuntimeError):  # whoever reads the rows says so, with the index of the row
            return LeafSpec((None,), "list")
        shape, dtype = array.shape, array.dtype
    return LeafSpec(tuple(None if size is None else int(size) for size in shape), getattr(dtype, "name", str(dtype)))


# Whether the elements of a stream are single rows or batches of them, and what each leaf of a batch holds.


class Role(Enum):
    """What a leaf holds for each row."""

    VALUE = "one value a row"
    SEQUENCE = "one sequence a row, as long as it is"
    PADDED = "one sequence a row, padded to that of the longest in the batch"


def is_batched(spec: Triple) -> bool:
    """Finds out from the elements' shapes whether they are batches.

    A scalar leaf means single rows: a batch has one entry for each of its rows in every leaf. So does a lonely axis in
    every leaf of `x`, as a batch of sequences has two. A ragged leaf, or one whose second axis has no fixed size, means
    batches: models cannot be built for a varying number of features.

    Raises:
        ValueError: If neither is certain.
    """
    leaves = [leaf for name, part in zip(NAMES, spec, strict=True) for _, leaf in named_leaves(part, name) if leaf]
    in_x = [leaf for _, leaf in named_leaves(spec[0], "x")]
    sizes = {leaf.shape[0] for leaf in leaves if leaf.rank} - {None}
    if any(leaf.rank == 0 for leaf in leaves) or all(leaf.rank == 1 for leaf in in_x) or len(sizes) > 1:
        return False
    if any(leaf.ragged_rank or (leaf.rank > 1 and leaf.shape[1] is None) for leaf in in_x):
        return True
    raise unclear_elements(describe_shapes(spec))


def unclear_elements(received: str) -> ValueError:
    """The error where an element may be a row or a batch of rows."""
    return ValueError(
        "It is not clear whether an element of the dataset is one sequence or a batch of sequences. Received "
        f"{received}. Say which: batched=False if it is one sequence (time, features), batched=True if it is a "
        "batch (rows, time)."
    )


def describe_shapes(spec: Triple) -> str:
    """The shapes of all leaves, for an error message."""
    leaves = [
        f"{name} of shape ({', '.join('None' if size is None else str(size) for size in leaf.shape)})"
        for top, part in zip(NAMES, spec, strict=True)
        for name, leaf in named_leaves(part, top)
        if leaf
    ]
    return ", ".join(leaves[:8]) + (", ..." if len(leaves) > 8 else "")


def roles_in_rows(spec: Triple, timestep_labels: bool | None) -> Triple:
    """What each leaf of a single row holds: an axis of varying size is time, one of fixed size is one value a row."""
    x, y, weights = spec
    in_x = [leaf for _, leaf in named_leaves(x, "x")]
    has_time = any(leaf.rank and leaf.shape[0] is None for leaf in in_x)

    def of_input(_: str, leaf: LeafSpec) -> Role:
        is_sequence = leaf.rank > 0 and (leaf.shape[0] is None or not has_time)
        return Role.SEQUENCE if is_sequence else Role.VALUE

    def of_label(_: str, leaf: LeafSpec) -> Role:
        is_sequence = leaf.rank > 0 and (leaf.shape[0] is None or bool(timestep_labels))
        return Role.SEQUENCE if is_sequence else Role.VALUE

    return map_named(x, "x", of_input), map_named(y, "y", of_label), map_named(weights, "sample_weight", of_label)


def roles_in_batches(spec: Triple, timestep_labels: bool | None) -> Triple:
    """What each leaf of a batch holds for its rows.

    Raises:
        ValueError: If an axis may be time or something else.
    """
    x, y, weights = spec
    in_x = dict(named_leaves(x, "x"))
    _refuse_scalars(spec)
    times = {name: leaf.shape[1] for name, leaf in in_x.items() if leaf.rank > 1 and not leaf.ragged_rank}
    has_time = any(leaf.ragged_rank for leaf in in_x.values()) or None in times.values()
    if not has_time and len(set(times.values())) > 1:
        raise ValueError(
            "It is not clear which entries of `x` hold the sequences: none of them has a second axis of varying size. "
            f"Received {describe_shapes((x, None, None))}. Yield single sequences instead of batches, e.g. with "
            "dataset.unbatch(), or only the entries that are sequences, beside those of one axis."
        )

    def of_input(_: str, leaf: LeafSpec) -> Role:
        if leaf.ragged_rank:
            return Role.SEQUENCE
        return Role.PADDED if leaf.rank > 1 and (leaf.shape[1] is None or not has_time) else Role.VALUE

    padded = {times[name] for name, leaf in in_x.items() if of_input(name, leaf) is Role.PADDED}

    def of_label(name: str, leaf: LeafSpec) -> Role:
        if leaf.ragged_rank:
            return Role.SEQUENCE
        if leaf.rank < 2 or timestep_labels is False:
            return Role.VALUE
        if timestep_labels or leaf.shape[1] is None:
            return Role.PADDED
        if leaf.shape[1] in padded:
            raise ValueError(
                f"`{name}` may hold one label a timestep, or {leaf.shape[1]} values a row, as one-hot labels do. "
                f"Received {describe_shapes(spec)}. Say which it is: timestep_labels=True or timestep_labels=False."
            )
        return Role.VALUE

    return map_named(x, "x", of_input), map_named(y, "y", of_label), map_named(weights, "sample_weight", of_label)


def _refuse_scalars(spec: Triple) -> None:
    for top, part in zip(NAMES, spec, strict=True):
        for name, leaf in named_leaves(part, top):
            if leaf and not leaf.rank:
                raise ValueError(
                    f"`{name}` must have one entry for each row of a batch. Received a scalar. Pass batched=False if "
                    "an element is one row."
                )


def looks_like_batches(spec: Triple, num_elements: int) -> bool:
    """Whether elements that are to be single rows share one first axis in all leaves of all of them, as batches do."""
    leaves: list[Any] = [
        leaf for name, part in zip(NAMES, spec, strict=True) for _, leaf in named_leaves(part, name) if leaf
    ]
    in_x = [leaf for _, leaf in named_leaves(spec[0], "x")]
    sizes = {leaf.shape[0] if leaf.rank else None for leaf in leaves}
    return num_elements > 1 and None not in sizes and len(sizes) == 1 and any(leaf.rank > 1 for leaf in in_x)


def looks_like_rows(spec: Triple, seen: Triple, num_elements: int) -> bool:
    """Whether elements that are to be batches look like single sequences of vectors.

    They are to be batches for the unknown size of their second axis; if that is one and the same in all of them while
    the first one varies, they are probably not.

    Args:
        spec: The shapes that were declared.
        seen: Those of the elements that were read, without the last one, which may be a partial batch.
        num_elements: How many there are in `seen`.
    """
    leaves = zip(named_leaves(spec[0], "x"), named_leaves(seen[0], "x"), strict=True)
    unknown = [leaf for (_, known), (_, leaf) in leaves if known.rank > 1 and known.shape[1] is None]
    return num_elements > 1 and bool(unknown) and all(leaf.shape[0] is None and leaf.shape[1] for leaf in unknown)
