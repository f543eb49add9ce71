"""What an element of a stream is: its structure, and its leaves with their shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import list_some, show
from keras_bucketing.data.tree import (
    Path,
    Structure,
    StructureError,
    check_structure,
    leaves,
    leaves_like,
    map_leaves,
    with_dicts,
)
from keras_bucketing.unpadding.entries import leaf_name

NAMES = ("x", "y", "sample_weight")
Element = tuple[Structure, Structure, Structure]  # named as above; None for what an element does not have


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


# By the path in the element, which begins with "x", "y" or "sample_weight".
Specs = dict[Path, LeafSpec]


def split_element(element: Any, index: int = 0, list_is_tuple: bool = False) -> Element:
    """Takes an element apart into `x`, `y` and `sample_weight`, as `fit` does.

    Args:
        element: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
        index: Which element it is, for an error message.
        list_is_tuple: Whether a list means the same as a tuple, as in what a `PyDataset` returns.
    """
    if list_is_tuple and isinstance(element, list):
        if len(element) > 1 and all(isinstance(part, tuple) and len(part) > 1 for part in element):
            raise ValueError(
                "An element must be x, (x, y) or (x, y, sample_weight). Received a list of tuples, which may be the "
                f"rows of a batch, at element {index}. Yield single rows, as a DataLoader does with batch_size=None, "
                "or one tuple of batches: (x, y)."
            )
        element = tuple(element)
    element = with_dicts(element)
    if not isinstance(element, tuple):
        return element, None, None
    if not 1 <= len(element) <= 3:
        raise ValueError(
            f"An element must be x, (x, y) or (x, y, sample_weight). Received a tuple of {len(element)} at element "
            f"{index}. Several inputs belong in a tuple or a dict of their own: ((a, b, ...), y)."
        )
    x, y, weights = (*element, None, None)[:3]
    return x, y, weights


def check_element(element: Element, index: int) -> None:
    """Refuses an element whose dicts have other keys than strings, before their entries are put in order."""
    try:
        for name, structure in zip(NAMES, element, strict=True):
            check_structure(structure, name)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} It is in element {index}.") from None


def leaves_of(element: Element) -> dict[Path, Any]:
    """The leaves by their paths, in the order of `tree.leaves`."""
    return {_from_root(path): leaf for path, leaf in leaves(element)}


def map_element(function: Callable[[Path, Any], Any], element: Element) -> Element:
    """Replaces every leaf by `function(path, leaf)`; None stays."""
    x, y, weights = map_leaves(lambda path, leaf: function(_from_root(path), leaf), element)
    return x, y, weights


def template_of(element: Element) -> Element:
    """The structure of an element with the type of each leaf in its place, which keeps nothing of the element itself.

    Raises:
        TypeError: If a dict has keys that are not strings: no model has inputs or outputs of such names, and a folder
            cannot tell 1 from "1".
        ValueError: If a dict or tuple has no entries.
    """
    for name, part in zip(NAMES, element, strict=True):
        check_structure(part, name)
    return map_element(lambda _, leaf: type(leaf), element)


def leaves_in_order(element: Element, template: Element, index: int) -> list[Any]:
    """The leaves in the order of `leaves_of`; refuses an element that is built unlike `template_of` element 0."""
    try:
        return list(leaves_like(template, element))
    except StructureError as error:
        check_element(element, index)
        raise ValueError(
            f"All elements must have one structure. Expected {error.expected} for "
            f"`{leaf_name(_from_root(error.path))}` as in element 0, received {error.received} in element {index}."
        ) from None


def _from_root(path: Path) -> Path:
    """The path of a leaf in a tuple of `x`, `y` and `sample_weight`, with the name of that part for its index."""
    return NAMES[int(path[0])], *path[1:]


# The shapes of leaves, as a dataset declares them or as elements show them.


def spec_of_dataset(element_spec: Any) -> Element | None:
    """A `LeafSpec` for each leaf of a `tf.data.Dataset`'s elements; None if the shape of one is unknown.

    Raises:
        TypeError: If a leaf is not a tensor of numbers.
    """

    def convert(path: Path, spec: Any) -> LeafSpec | None:
        if _is_none(spec):
            return None
        ragged_rank = spec.ragged_rank if isinstance(spec, tf.RaggedTensorSpec) else 0
        return LeafSpec(tuple(spec.shape), tf.as_dtype(spec.dtype).name, ragged_rank)

    element = split_element(element_spec)
    check_element(element, 0)
    for path, spec in leaves_of(element).items():
        if _is_none(spec):
            continue
        if isinstance(spec, tf.SparseTensorSpec):
            raise TypeError(
                f"`{leaf_name(path)}` must be a dense or ragged tensor. Received SparseTensorSpec of shape "
                f"{spec.shape}. Make it dense, and hand the rest on: dataset.map({_dense_lambda(element_spec)})"
                + (", or tf.RaggedTensor.from_sparse for a batch of sequences." if spec.shape.rank != 1 else ".")
            )
        if not isinstance(spec, (tf.TensorSpec, tf.RaggedTensorSpec)):
            raise TypeError(
                f"`{leaf_name(path)}` must be a dense or ragged tensor. Received {type(spec).__name__}. Map it to one "
                "first: dataset.map(function), with a function that hands the other entries on."
            )
        refuse_text(tf.as_dtype(spec.dtype).name, path)
        if spec.shape.rank is None:
            return None
    return map_element(convert, element)


def _dense_lambda(element_spec: Any) -> str:
    """The function that makes the sparse tensors of an element dense and keeps the rest, as Python."""
    if not isinstance(element_spec, tuple):
        return f"lambda x: {_dense(element_spec, 'x')}"
    names = ["x", "y", "w"][: len(element_spec)]
    parts = [_dense(part, name) for part, name in zip(element_spec, names, strict=True)]
    return f"lambda {', '.join(names)}: ({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _dense(spec: Any, text: str) -> str:
    if isinstance(spec, tf.SparseTensorSpec):
        return f"tf.sparse.to_dense({text})"
    if isinstance(spec, dict):
        entries = [(f"{text}[{show(key)}]", key, part) for key, part in spec.items()]
        changed = [f"{show(key)}: {made}" for old, key, part in entries if (made := _dense(part, old)) != old]
        return f"{{**{text}, {', '.join(changed)}}}" if changed else text
    if isinstance(spec, tuple):
        parts = [f"{text}[{index}]" for index in range(len(spec))]
        dense = [_dense(part, old) for part, old in zip(spec, parts, strict=True)]
        return f"({', '.join(dense)}{',' if len(dense) == 1 else ''})" if dense != parts else text
    return text


def _is_none(spec: Any) -> bool:
    """Whether this is the spec of None; by name, since `tf.NoneTensorSpec` is younger than TensorFlow 2.18."""
    return type(spec).__name__ == "NoneTensorSpec"


def specs_of(element: Element) -> Specs:
    """The leaves of an element that has been read."""
    return {path: _spec_of(leaf) for path, leaf in leaves_of(element).items()}


def common_specs(specs: Sequence[Specs]) -> Specs:
    """The leaves of several elements: an axis whose size differs among them is None."""
    return {path: _common_spec([known[path] for known in specs if path in known]) for path in specs[0]}


def _common_spec(specs: list[LeafSpec]) -> LeafSpec:
    if any(spec.rank != specs[0].rank for spec in specs):
        return specs[0]  # reading refuses it, with the index of the row
    axes = zip(*(spec.shape for spec in specs), strict=True)
    shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in axes)
    return LeafSpec(shape, specs[0].dtype, specs[0].ragged_rank)


def _spec_of(leaf: Any) -> LeafSpec:
    if isinstance(leaf, tf.RaggedTensor):
        return LeafSpec(tuple(leaf.shape), leaf.dtype.name, leaf.ragged_rank)
    if is_list_of_rows(leaf):
        return LeafSpec((len(leaf), None), "list", 1)
    try:
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    except RuntimeError:  # a nested tensor of PyTorch
        shape = dtype = None
    if shape is None or dtype is None:
        try:
            array = np.asarray(leaf)
        except (ValueError, TypeError, RuntimeError):  # reading refuses it, with the index of the row
            return LeafSpec((None,), "list")
        shape, dtype = array.shape, array.dtype
    name = str(getattr(dtype, "name", dtype)).rpartition(".")[2]  # "torch.int64"
    return LeafSpec(tuple(None if size is None else int(size) for size in shape), name)


def is_list_of_rows(leaf: object) -> bool:
    """Whether this is a list, or an object array, whose entries have an axis of their own."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype == object and leaf.ndim == 1 and bool(leaf.size) and np.ndim(leaf[0]) > 0
    return isinstance(leaf, list) and bool(leaf) and (isinstance(leaf[0], (list, tuple)) or np.ndim(leaf[0]) > 0)


def refuse_text(dtype: str, path: Path, value: object = None) -> None:
    """Answers strings in a leaf, or in a row of one, with the way to make ids of them.

    Raises:
        TypeError: If the dtype is one of text.
    """
    if dtype != "string" and not dtype.startswith(("str", "bytes", "<U", ">U", "|S")):
        return
    shown = "" if value is None else f" ({show(value)})"
    fix = (
        "vectorize = keras.layers.TextVectorization(), vectorize.adapt(texts), and yield vectorize(text), or "
        "dataset.map(lambda text, label: (vectorize(text), label)); of a batch of texts the ids are padded, which "
        "from_dataset undoes"
        if path[0] == "x"
        else "keras.layers.StringLookup or a dict"
    )
    raise TypeError(f"`{leaf_name(path)}` must hold numbers. Received strings{shown}. Map them to ids first: {fix}.")


def as_json(spec: Structure) -> Any:
    """A structure of `LeafSpec` as lists and strings, equal for equal specs in every version of TensorFlow."""
    if isinstance(spec, dict):
        return {key: as_json(spec[key]) for key in sorted(spec)}
    if isinstance(spec, tuple):
        return [as_json(value) for value in spec]
    if isinstance(spec, LeafSpec):
        axes = ", ".join("?" if size is None else str(size) for size in spec.shape)
        return f"{spec.dtype}({axes})" + (f" ragged {spec.ragged_rank}" if spec.ragged_rank else "")
    return None


def describe_shapes(specs: Specs) -> str:
    """The shapes of all leaves, for an error message."""
    shapes = [
        f"{leaf_name(path)} of shape ({', '.join('None' if size is None else str(size) for size in spec.shape)})"
        for path, spec in specs.items()
    ]
    return list_some(shapes)


def inputs_of(specs: Specs) -> Specs:
    """Those of the leaves of `x`."""
    return {path: spec for path, spec in specs.items() if path[0] == "x"}


def kind_of_dtype(dtype: str) -> str:
    """The kind of a dtype, as NumPy has it, by its name: one of "b", "i", "u" and "f", which is all else."""
    return {"b": "b", "i": "i", "u": "u"}.get(dtype[:1], "f")


def scalar_in_batch(path: Path) -> ValueError:
    """The error where a leaf of a batch is a scalar."""
    hint = " A batch of rows of different lengths is a list, not a tuple." if isinstance(path[-1], int) else ""
    return ValueError(
        f"`{leaf_name(path)}` must have one entry for each row of a batch. Received a scalar. Pass batched=False if an "
        f"element is one row.{hint}"
    )
