"""The user's `x`, `y` and `sample_weight`, checked against one another and brought into one form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import INT32_MAX, can_hold, check_choice, check_number, show
from keras_bucketing.data import columns, lists
from keras_bucketing.data.arrays import (
    aligned_empty,
    as_regular_array,
    first_non_number,
    is_mapped,
    standard_dtype,
    stored_floatx,
)
from keras_bucketing.data.loader import Loaded
from keras_bucketing.data.rows import LeafLengths, Ragged, StoredSequences, as_ragged
from keras_bucketing.data.tree import Leaf, Structure, describe, map_structure, named_leaves, num_rows


@dataclass(frozen=True)
class Inputs:
    """What one row of the dataset is made of.

    Attributes:
        x: Structure of leaves. A leaf is a `Ragged` (one sequence a row) or an array `(num_rows, ...)` (one value a
            row).
        y: Structure of leaves, or None. A `Ragged` leaf holds one label a timestep, or labels of their own length.
        sample_weight: None, one leaf, or a structure like `y`.
        lengths: Int64 array `(num_rows,)`: the timesteps of each row, those of its longest sequence.
        kept: Int64 array `(num_rows,)`: where each row stood in the input, or None where none was dropped.
        num_given: How many rows the input had.
        align_labels: Whether ragged leaves of `y` hold one label a timestep, and so have the lengths of a leaf of `x`.
    """

    x: Structure
    y: Structure
    sample_weight: Structure
    lengths: np.ndarray
    kept: np.ndarray | None
    num_given: int
    align_labels: bool = True

    @property
    def leaf_lengths(self) -> list[LeafLengths]:
        """The lengths of the leaves that are padded on their own: the ragged ones of `x`, labels of their own length.

        Leaves of the same lengths share the array.
        """
        labels = [] if self.align_labels else named_leaves(self.y, "y")
        named = [(named_leaf, False) for named_leaf in named_leaves(self.x, "x")] + [(label, True) for label in labels]
        found: list[LeafLengths] = []
        for (name, leaf), is_label in named:
            if isinstance(leaf, Ragged):
                lengths = leaf.lengths.astype(np.int32)
                equal = (known.lengths for known in found if np.array_equal(known.lengths, lengths))
                is_taken = any(known.name == name for known in found)  # long keys are shortened in their middle
                found.append(LeafLengths(f"{name} {len(found)}" if is_taken else name, next(equal, lengths), is_label))
        return found

    def in_given_rows(self, lengths: np.ndarray) -> np.ndarray:
        """Lengths `(num_rows,)` to those of the input's rows `(num_given,)`, 0 for those that were dropped."""
        if self.kept is None:
            return lengths
        given = np.zeros(self.num_given, lengths.dtype)
        given[self.kept] = lengths
        return given

    @property
    def leaves(self) -> list[Leaf]:
        """All leaves of `x`, `y` and `sample_weight`."""
        return [leaf for leaf in tf.nest.flatten((self.x, self.y, self.sample_weight)) if leaf is not None]


def collect_inputs(x: Any, y: Any, sample_weight: Any, align_labels: bool = True, copy: bool = True) -> Inputs:
    """Checks and converts what the user passed.

    Args:
        x: As in `BucketedSequence`.
        y: As in `BucketedSequence`.
        sample_weight: As in `BucketedSequence`.
        align_labels: Whether ragged labels must have the lengths of a leaf of `x`, or may have lengths of their own.
        copy: Whether what the caller could still change is to be copied.

    Raises:
        TypeError: If something is of the wrong kind: text, a scalar where a sequence belongs, no collection at all.
        ValueError: If there are no sequences, or leaves do not fit together.
    """
    is_structure = isinstance(x, (dict, tuple))
    convert = partial(_convert_leaf, copy=copy)
    inputs_x = map_structure(convert if is_structure else partial(as_ragged, copy=copy), x, "x")
    sequences = [(name, leaf) for name, leaf in named_leaves(inputs_x, "x") if isinstance(leaf, Ragged)]
    if not sequences:
        raise TypeError(_no_sequences(x, inputs_x))
    first_name, first = sequences[0]
    inputs_y = None if y is None else map_structure(convert, y, "y")
    weights = None
    if sample_weight is not None:
        weights = map_structure(partial(_convert_weight, copy=copy), sample_weight, "sample_weight")
    for name, leaf in [
        *named_leaves(inputs_x, "x"),
        *named_leaves(inputs_y, "y"),
        *named_leaves(weights, "sample_weight"),
    ]:
        rows = num_rows(leaf)
        if rows != first.num_rows:
            raise ValueError(
                f"{_tuple_hint(x)}`{name}` must have one row for each sequence. Expected {first.num_rows} as in "
                f"`{first_name}`, received {rows}.{_list_hint(x, rows)}"
            )
    if align_labels and inputs_y is not None:
        inputs_y = map_structure(lambda leaf, name: align(leaf, name, sequences), inputs_y, "y")
    check_weights(inputs_y, weights)
    lengths = _longest([leaf for _, leaf in sequences])
    labels = [] if align_labels else [(name, leaf) for name, leaf in named_leaves(inputs_y, "y")]
    for name, leaf in [*sequences, *labels]:
        if isinstance(leaf, Ragged) and leaf.lengths.max() > INT32_MAX:
            at = int(np.argmax(leaf.lengths))
            raise ValueError(
                f"Sequences must have less than 2**31 timesteps. Received {leaf.lengths[at]} at {name}[{at}]. Cut it "
                "into pieces."
            )
    return Inputs(inputs_x, inputs_y, weights, lengths, None, first.num_rows, align_labels)


def _no_sequences(x: Any, converted: Structure) -> str:
    return (
        f"{_tuple_hint(x)}`x` has no sequences. Expected at least one ragged leaf, e.g. a list of arrays, received "
        f"{describe(converted)}. A NumPy array inside a dict or tuple is one value a row; pass sequences as a list."
    )


def _tuple_hint(x: Any) -> str:
    """What is most likely wrong with a tuple: `zip(*pairs)` makes one where a list of sequences is meant."""
    if not isinstance(x, tuple):
        return ""
    return f"If the {len(x)} entries of the tuple `x` are sequences, pass list(x): a tuple is one of a model's inputs. "


def _list_hint(x: Any, rows: int) -> str:
    is_list_of_inputs = isinstance(x, list) and all(hasattr(entry, "__len__") and len(entry) == rows for entry in x)
    return lists.list_of_inputs_hint(x, "x") if is_list_of_inputs else ""


def truncate(inputs: Inputs, maxlen: int, truncating: str) -> Inputs:
    """Cuts every sequence, and its per-timestep labels and weights alike, to `maxlen` timesteps.

    Labels of their own length stay as they are.
    """

    def cut(leaf: Leaf) -> Leaf:
        return leaf.truncate(maxlen, truncating) if isinstance(leaf, Ragged) else leaf

    if inputs.align_labels:
        return _replace_leaves(inputs, cut)
    whole = replace(inputs, y=None, sample_weight=None)
    return replace(_replace_leaves(whole, cut), y=inputs.y, sample_weight=inputs.sample_weight)


def handle_empty(inputs: Inputs, on_empty: str) -> Inputs:
    """Refuses, drops or fills rows without timesteps.

    A batch must not hold a fully masked row: cuDNN aborts on it.
    """
    check_choice("on_empty", on_empty, ("raise", "drop", "keep"))
    empty = np.zeros(len(inputs.lengths), bool)
    for name, leaf in named_leaves(inputs.x, "x"):
        if isinstance(leaf, Ragged):
            no_timesteps = leaf.lengths == 0
            empty |= no_timesteps
            if on_empty == "raise" and no_timesteps.any():
                at = int(np.argmax(no_timesteps))
                raise ValueError(
                    f"Sequences must not be empty. Received length 0 at {name}[{at}] ({int(no_timesteps.sum())} in "
                    'all). Pass on_empty="drop" to leave such rows out, or on_empty="keep" to give them one timestep '
                    "of padding."
                )
    if not empty.any():
        return inputs
    if on_empty == "keep":
        filled = tf.nest.map_structure(lambda leaf: leaf.fill_empty() if isinstance(leaf, Ragged) else leaf, inputs.x)
        return replace(inputs, x=filled, lengths=np.maximum(inputs.lengths, 1))
    if empty.all():
        raise ValueError('All sequences are empty, so on_empty="drop" leaves none. Expected at least one timestep.')
    keep = ~empty
    kept = _replace_leaves(inputs, lambda leaf: leaf.select(keep) if isinstance(leaf, Ragged) else _select(leaf, keep))
    return replace(kept, kept=np.flatnonzero(keep))


def check_padding_value(name: str, value: Any, structure: Structure) -> None:
    """Refuses a padding value that the dtype of some ragged leaf cannot hold."""
    number = check_number(name, value)
    for leaf in tf.nest.flatten(structure):
        if not isinstance(leaf, Ragged):
            continue
        dtype = leaf.dtype
        if not can_hold(dtype, number):
            raise ValueError(
                f"`{name}` must be a value of the data's dtype. Expected one that {dtype} can hold, received "
                f"{show(value)}. Convert the data first, or choose another value."
            )


def _replace_leaves(inputs: Inputs, function: Callable[[Leaf], Leaf]) -> Inputs:
    x, y, weights = tf.nest.map_structure(
        lambda leaf: None if leaf is None else function(leaf), (inputs.x, inputs.y, inputs.sample_weight)
    )
    lengths = _longest([leaf for leaf in tf.nest.flatten(x) if isinstance(leaf, Ragged)])
    return replace(inputs, x=x, y=y, sample_weight=weights, lengths=lengths)


def _longest(leaves: list[Ragged]) -> np.ndarray:
    longest: np.ndarray = np.maximum.reduce([leaf.lengths for leaf in leaves])
    return longest.astype(np.int64)


def _select(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    selected = aligned_empty((int(np.count_nonzero(keep)), *array.shape[1:]), array.dtype)
    np.compress(keep, array, axis=0, out=selected)
    return selected


def _convert_leaf(leaf: Any, name: str, copy: bool) -> Leaf:
    """A list of sequences, or a ragged or object array, is ragged; numbers and arrays are plain."""
    if str(getattr(leaf, "dtype", None)) == "object" and getattr(leaf, "ndim", 0) == 1:  # an array or a pandas Series
        leaf = leaf.tolist()
    if isinstance(leaf, Sequence) and not isinstance(leaf, (list, tuple, str, bytes, range)):  # e.g. a datasets.Column
        leaf = list(leaf)
    is_list_of_sequences = isinstance(leaf, list) and any(_is_sequence(row) for row in leaf)
    if is_list_of_sequences or isinstance(leaf, (Ragged, StoredSequences, tf.RaggedTensor)):
        return as_ragged(leaf, name, copy)
    if columns.is_ragged_column(leaf):
        return as_ragged(leaf, name, copy)
    array = as_regular_array(columns.as_plain_array(leaf, name), name, "Give every row the same shape.")
    if array.ndim == 0 and array.dtype.kind in "biufc":
        raise TypeError(
            f"`{name}` must have one row for each sequence. Received the scalar {show(leaf)}. Pass a list or an array."
        )
    if array.ndim == 0:
        raise TypeError(f"`{name}` must be a list, an array or a tensor. Received {type(leaf).__name__}.")
    if array.dtype.kind in "OSU":
        at = first_non_number(array.tolist())
        raise TypeError(
            f"`{name}` must hold numbers. Received {array[at]!s} ({type(array[at]).__name__}) at {name}[{at}]. Map "
            "strings to ids first, e.g. with keras.layers.StringLookup, and drop rows without a value."
        )
    dtype = standard_dtype(array.dtype, name)
    if not copy or is_mapped(array):
        return array
    stored = aligned_empty(array.shape, dtype)
    np.copyto(stored, array, casting="unsafe")
    return stored


def _is_sequence(row: Any) -> bool:
    if isinstance(row, (int, float)):  # by far the most frequent, and np.ndim is slow
        return False
    return isinstance(row, (list, tuple, str, bytes)) or bool(np.ndim(row))


def _convert_weight(leaf: Any, name: str, copy: bool) -> Leaf:
    converted = _convert_leaf(leaf, name, copy)
    floatx = stored_floatx()
    if isinstance(converted, Ragged):
        if converted.values.ndim != 1:
            raise ValueError(
                f"`{name}` must have one weight a timestep. Received feature shape {converted.values.shape[1:]}."
            )
        return replace(converted, dtype=floatx)
    return converted.astype(floatx)


# Labels and weights against the sequences they belong to.


def align(leaf: Leaf, name: str, sequences: list[tuple[str, Ragged]]) -> Leaf:
    """Per-timestep labels, as long as the sequences of one leaf of `x`; or one array of as many values for each row.

    Args:
        leaf: The labels. A list of lists is `Ragged`, whether these hold one label a timestep or, as multi-hot labels
            do, one for each class.
        name: What to call them in an error message.
        sequences: The ragged leaves of `x` with their names, at least one.

    Raises:
        ValueError: If the labels have lengths of their own.
    """
    if not isinstance(leaf, Ragged):
        return leaf
    for _, sequence in sequences:
        if np.array_equal(leaf.lengths, sequence.lengths):
            if isinstance(sequence, Loaded):
                sequence.refuse_estimates(name)
            return leaf
    width = int(leaf.lengths[0])
    if width and (leaf.lengths == width).all():
        return leaf.values.reshape(leaf.num_rows, width, *leaf.values.shape[1:])
    x_name, sequence = sequences[0]
    at = int(np.argmax(leaf.lengths != sequence.lengths))
    raise ValueError(
        f"`{name}` is ragged, so it must hold one label a timestep. Expected {int(sequence.lengths[at])} as in "
        f"{x_name}[{at}], received {int(leaf.lengths[at])} at {name}[{at}]. Pass align_labels=False for labels of "
        "their own length, such as transcripts and translations."
    )


def labeled_leaf(label: Ragged, leaves: list[LeafLengths]) -> int:
    """The index of the leaf of `x` that per-timestep labels belong to, and are padded like.

    An empty row of that leaf may have got one timestep of padding, its label has not.
    """
    lengths = np.maximum(label.lengths, 1)
    return next(
        index
        for index, leaf in enumerate(leaves)
        if not leaf.is_label and np.array_equal(np.maximum(leaf.lengths, 1), lengths)
    )


def check_weights(y: Structure, weights: Structure) -> None:
    """Weights come one a row, or one a timestep where the labels do; once for all outputs, or for each."""
    if weights is None:
        return
    if y is None:
        raise ValueError("`sample_weight` needs labels. Received sample_weight without y. Pass y as well.")
    is_structure = isinstance(weights, (dict, tuple))
    try:
        if is_structure or isinstance(weights, Ragged):
            tf.nest.assert_same_structure(y, weights)
    except (ValueError, TypeError):
        raise ValueError(
            f"`sample_weight` must be one array or have the structure of `y`. Expected {describe(y)}, received "
            f"{describe(weights)}."
        ) from None
    labels = named_leaves(y, "y")
    for (name, weight), (y_name, label) in zip(named_leaves(weights, "sample_weight"), labels, strict=is_structure):
        if isinstance(weight, Ragged):
            _check_timestep_weights(name, weight, y_name, label)
        elif weight.ndim != 1:
            raise ValueError(
                f"`{name}` must have one weight a row. Expected shape ({len(weight)},), received {weight.shape}."
            )


def _check_timestep_weights(name: str, weight: Ragged, y_name: str, label: Leaf) -> None:
    if not isinstance(label, Ragged):
        raise ValueError(
            f"`{name}` has one weight a timestep, but `{y_name}` has one label a row. Pass one weight a row."
        )
    different = np.flatnonzero(weight.lengths != label.lengths)
    if different.size:
        at = int(different[0])
        raise ValueError(
            f"`{name}` must have one weight a timestep. Expected {int(label.lengths[at])} as in {y_name}[{at}], "
            f"received {int(weight.lengths[at])} at {name}[{at}]."
        )


# The entries that `include_lengths=True` adds to `x`.


def length_entries(x: Structure, y: Structure, align_labels: bool) -> dict[str, Ragged]:
    """Names the entries that stand next to "lengths", and says whose lengths they hold.

    `"<name>_lengths"` for each ragged leaf of a dict that has several; "label_lengths" for labels of their own length,
    or `"<name>_lengths"` where there are several, with the name "label_0" for the first entry of a tuple.

    Args:
        x: Structure of leaves.
        y: Structure of leaves, or None.
        align_labels: Whether ragged labels have the lengths of a leaf of `x`.

    Raises:
        ValueError: If `x` has such an entry already, or two of them would have one name.
    """
    of_x = [(key, leaf) for key, leaf in x.items() if isinstance(leaf, Ragged)] if isinstance(x, dict) else []
    of_y = [] if align_labels else _ragged_leaves(y, "label" if isinstance(y, tuple) else "")
    if len(of_y) == 1:
        of_y = [("label", of_y[0][1])]
    entries: dict[str, Ragged] = {}
    for name, leaf in [*(of_x if len(of_x) > 1 else []), *of_y]:
        entry = f"{name}_lengths"
        if entry in entries or entry == "lengths":
            raise ValueError(
                f"`y` leads to the entry {show(entry)} of `x`, which include_lengths=True adds already. Rename a key "
                "of `x` or of `y`."
            )
        entries[entry] = leaf
    for entry in ["lengths", *entries]:
        if isinstance(x, dict) and entry in x:
            raise ValueError(
                f"`x` already has the key {show(entry)}, which include_lengths=True adds. Rename one of the two."
            )
    return entries


def _ragged_leaves(structure: Structure, name: str) -> list[tuple[str, Ragged]]:
    """The ragged leaves, each by the keys that lead to it."""
    if isinstance(structure, Ragged):
        return [(name, structure)]
    if isinstance(structure, dict):
        children = [(key, structure[key]) for key in sorted(structure)]
    elif isinstance(structure, tuple):
        children = [(str(index), value) for index, value in enumerate(structure)]
    else:
        return []
    return [leaf for key, value in children for leaf in _ragged_leaves(value, f"{name}_{key}" if name else key)]
