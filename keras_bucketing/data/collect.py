"""The user's `x`, `y` and `sample_weight`, checked together and brought into one form."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import INT32_MAX, can_hold, check_choice, check_number, shorten, show, show_typed
from keras_bucketing.data import lists, tree
from keras_bucketing.data.arrays import aligned_empty
from keras_bucketing.data.convert import Leaf, as_leaf, as_rows, as_weights
from keras_bucketing.data.loader import Loaded
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.data.rows import LeafLengths, PickedValues, RowLengths, Rows
from keras_bucketing.data.tree import Path, Structure, name_of

_ALL_EMPTY = 'All sequences are empty, so on_empty="drop" leaves none. Expected at least one timestep.'


@dataclass(frozen=True)
class Unread:
    """An `x` that is read, with its labels and weights, once all other arguments have been checked.

    Attributes:
        read: Function that returns the structures of `x`, `y` and `sample_weight`, and what else there is.
        takes_label_padding: Whether labels are padded with the value that padded them in the source.
    """

    read: Callable[[], Any]
    takes_label_padding: bool = True


@dataclass(frozen=True)
class Inputs:
    """The data of a dataset, checked.

    Attributes:
        x: Structure of leaves. A leaf is `Rows` (one sequence per row), an array `(num_rows, ...)` (one value per row)
            or, for some rows of another dataset, `PickedValues`.
        y: Structure of leaves, or None. A leaf of `Rows` holds one label per timestep, or labels of their own length.
        sample_weight: None, one leaf, or a structure like `y`.
        num_given: The number of rows of the input.
        kept: The index of each row in the input, `(num_rows,)`; None if none was dropped.
        is_cut: Whether some sequence was longer.
        levels: For rows of another dataset, the names of the leaves of its nested buckets; else empty.
        align_labels: Whether ragged leaves of `y` hold one label per timestep, with the lengths of a leaf of `x`.
        label_owners: For each leaf of `y` that does, that leaf of `x`.
    """

    x: Structure
    y: Structure
    sample_weight: Structure
    num_given: int
    kept: RowIndices | None = None
    align_labels: bool = True
    label_owners: dict[Path, Path] = field(default_factory=dict)
    is_cut: bool = False
    levels: tuple[str, ...] = ()

    @cached_property
    def lengths(self) -> RowLengths:
        """The lengths of the leaves that are padded separately: the ragged ones of `x`, and labels of their own length.

        Leaves of the same lengths share the array.
        """
        found: list[LeafLengths] = []
        for root, path in self._columns:
            lengths = self._leaf(root, path).lengths.astype(np.int32, copy=False)
            equal = (known.lengths for known in found if np.array_equal(known.lengths, lengths))
            name = name_of(root, path)
            if any(known.name == name for known in found):  # long keys are shortened in their middle
                name = f"{name} {len(found)}"
            found.append(LeafLengths(name, next(equal, lengths), is_label=root == "y"))
        return RowLengths(tuple(found))

    def column_of(self, root: str, path: Path) -> int:
        """The index in `lengths.leaves` of the leaf that a ragged leaf of "x" or "y" is padded like."""
        if root == "y" and path in self.label_owners:
            root, path = "x", self.label_owners[path]
        return self._columns[root, path]

    def in_given_rows(self, lengths: Lengths) -> Lengths:
        """Lengths `(num_rows,)` in the order of the input's rows, `(num_given,)`, with 0 for dropped ones."""
        if self.kept is None:
            return lengths
        given = np.zeros(self.num_given, lengths.dtype)
        given[self.kept] = lengths
        return given

    def truncate(self, maxlen: int, truncating: str) -> Inputs:
        """Cuts every sequence, and its per-timestep labels and weights alike, to `maxlen` timesteps.

        Labels of their own length stay the same.
        """

        def cut(_: Path, leaf: Leaf) -> Leaf:
            return leaf.truncate(maxlen, truncating) if isinstance(leaf, Rows) else leaf

        is_cut = self.is_cut or any(leaf.sizes.max(initial=0) > maxlen for _, leaf in _sequences(self.x))
        if self.align_labels:
            return replace(self._mapped(cut), is_cut=is_cut)
        return replace(self, x=tree.map_leaves(cut, self.x), is_cut=is_cut)

    def take(self, rows: RowIndices) -> Inputs:
        """The rows at some indices of the input, without a copy; those that were dropped as empty stay dropped."""
        positions, kept = rows, None
        if self.kept is not None:
            found = np.minimum(np.searchsorted(self.kept, rows), len(self.kept) - 1)
            is_kept = self.kept[found] == rows
            if not is_kept.any():
                raise ValueError(_ALL_EMPTY)
            positions, kept = found[is_kept], None if is_kept.all() else np.flatnonzero(is_kept)
        return replace(self._mapped(partial(_select, keep=positions)), num_given=len(rows), kept=kept)

    def without_empty(self, on_empty: str) -> Inputs:
        """Refuses, drops or fills rows without timesteps.

        A batch must not hold a fully masked row: cuDNN aborts on it.
        """
        if self.kept is not None and on_empty != "drop":
            raise ValueError(
                "`on_empty` must be 'drop' where empty sequences have been dropped. Received "
                f"{show(on_empty)}. Leave them out of `rows`, or make the dataset again."
            )
        empty = np.zeros(self.num_given if self.kept is None else len(self.kept), bool)
        for name, leaf in _sequences(self.x):
            has_none = leaf.lengths == 0
            empty |= has_none
            if on_empty == "raise" and has_none.any():
                at = int(np.argmax(has_none))
                raise ValueError(
                    f"Sequences must not be empty. Received length 0 at {name}[{at}] ({int(has_none.sum())} in "
                    'all). Pass on_empty="drop" to leave such rows out, or on_empty="keep" to give them one timestep '
                    "of padding."
                )
        if not empty.any():
            return self
        if on_empty == "keep":
            return replace(self, x=tree.map_leaves(_fill_empty, self.x))
        if empty.all():
            raise ValueError(_ALL_EMPTY)
        kept = np.flatnonzero(~empty)
        selected = self._mapped(partial(_compress, keep=~empty))
        return replace(selected, kept=kept if self.kept is None else self.kept[kept])

    @cached_property
    def _columns(self) -> dict[tuple[str, Path], int]:
        """The positions in `lengths.leaves`, in their order."""
        labels = None if self.align_labels else self.y
        own = [
            (root, path)
            for root, structure in (("x", self.x), ("y", labels))
            for path, leaf in tree.leaves(structure)
            if isinstance(leaf, Rows)
        ]
        return {leaf: column for column, leaf in enumerate(own)}

    def _leaf(self, root: str, path: Path) -> Rows:
        leaf: Rows = reduce(operator.getitem, path, self.x if root == "x" else self.y)
        return leaf

    def _mapped(self, function: Callable[[Path, Any], Any]) -> Inputs:
        x, y, weights = (tree.map_leaves(function, part) for part in (self.x, self.y, self.sample_weight))
        return replace(self, x=x, y=y, sample_weight=weights)


def collect_inputs(x: object, y: object, sample_weight: object, align_labels: bool = True, copy: bool = True) -> Inputs:
    """Checks and converts the data of the user; arguments as in `BucketedSequence`.

    Raises:
        TypeError: If something is of the wrong kind: text, a scalar in place of a sequence, not a collection.
        ValueError: If there are no sequences, or leaves do not fit together.
    """
    if isinstance(x, Inputs):  # rows of another dataset
        return x
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        _refuse_batch_size(name, value)
    x, y, sample_weight = tree.with_dicts(x), tree.with_dicts(y), tree.with_dicts(sample_weight)
    is_structure = isinstance(x, (dict, tuple))
    inputs_x = _convert(x, "x", as_leaf if is_structure else as_rows, copy)
    sequences = list(_sequences(inputs_x))
    if not sequences:
        raise TypeError(_no_sequences(x, inputs_x))
    inputs_y = None if y is None else _convert(y, "y", as_leaf, copy)
    weights = None if sample_weight is None else _convert(sample_weight, "sample_weight", as_weights, copy)
    _check_num_rows(x, sequences[0], (("x", inputs_x), ("y", inputs_y), ("sample_weight", weights)))
    owners: dict[Path, Path] = {}
    if align_labels:
        inputs_y, owners = _align(inputs_y, inputs_x)
    _check_weights(inputs_y, weights)
    for name, leaf in [*sequences, *([] if align_labels else _sequences(inputs_y, "y"))]:
        if leaf.lengths.max() > INT32_MAX:
            at = int(np.argmax(leaf.lengths))
            raise ValueError(
                f"Sequences must have less than 2**31 timesteps. Received {leaf.lengths[at]} at {name}[{at}]. Cut it "
                "into pieces."
            )
    return Inputs(inputs_x, inputs_y, weights, len(sequences[0][1]), None, align_labels, owners)


def _refuse_batch_size(name: str, value: object) -> None:
    """Refuses a whole number in place of an array: `BucketedSequence(x, y, 32)`."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise TypeError(
            f"`{name}` must have one row for each sequence. Received the scalar {show(value)}. Pass a list or an "
            f"array. If it is meant as the rows of a batch, pass it by name, batch_size={show(value)}."
        )


def check_on_empty(on_empty: object) -> None:
    """Refuses an unknown treatment of rows without timesteps."""
    check_choice("on_empty", on_empty, ("raise", "drop", "keep"))


def check_padding_value(name: str, value: object, structure: Structure) -> None:
    """Refuses a padding value that the dtype of some ragged leaf cannot hold."""
    if isinstance(value, np.ndarray) and value.ndim:
        _check_timestep_of_padding(name, value, structure)
        numbers = value.reshape(-1).tolist()
    else:
        numbers = [check_number(name, value)]
    for _, leaf in _sequences(structure):
        if not all(can_hold(leaf.dtype, number) for number in numbers):
            raise ValueError(
                f"`{name}` must be a value of the data's dtype. Expected one that {leaf.dtype} can hold, received "
                f"{show(value)}. Convert the data first, or choose another value."
            )


def _check_timestep_of_padding(name: str, value: np.ndarray, structure: Structure) -> None:
    for leaf_name, leaf in _sequences(structure):
        if leaf.feature_shape != value.shape or isinstance(leaf, Loaded):
            raise ValueError(
                f"`{name}` must be a number, or have the shape of a timestep. Expected {leaf.feature_shape} as in "
                f"`{leaf_name}`, received {value.shape}. Pass a number."
            )


def _sequences(structure: Structure, root: str = "x") -> Iterator[tuple[str, Rows]]:
    """The ragged leaves with their names."""
    return ((name_of(root, path), leaf) for path, leaf in tree.leaves(structure) if isinstance(leaf, Rows))


def _convert(structure: Structure, root: str, convert: Callable[[object, str, bool], Leaf], copy: bool) -> Structure:
    tree.check_structure(structure, root)
    missing = [path for path, leaf in tree.leaves(structure, none_is_leaf=True) if leaf is None]
    if missing and root == "sample_weight":
        raise ValueError(
            f"`{name_of(root, missing[0])}` is None. Every output needs weights: give it ones, np.ones(len(x)), or the "
            "lengths of its labels, [np.ones(len(row)) for row in y...]."
        )
    return tree.map_leaves(lambda path, leaf: convert(leaf, name_of(root, path), copy), structure, none_is_leaf=True)


def _check_num_rows(x: object, first: tuple[str, Rows], parts: tuple[tuple[str, Structure], ...]) -> None:
    """Refuses leaves whose number of rows differs from that of the first sequences."""
    first_name, expected = first[0], len(first[1])
    for root, structure in parts:
        for path, leaf in tree.leaves(structure):
            if len(leaf) != expected:
                raise ValueError(
                    f"{_tuple_hint(x)}`{name_of(root, path)}` must have one row for each sequence. Expected {expected} "
                    f"as in `{first_name}`, received {len(leaf)}.{_list_hint(x, len(leaf))}"
                )


def _fill_empty(_: Path, leaf: Leaf) -> Leaf:
    return leaf.fill_empty() if isinstance(leaf, Rows) else leaf


def _select(_: Path, leaf: Leaf | PickedValues, keep: RowIndices) -> Leaf | PickedValues:
    return PickedValues(leaf, keep) if isinstance(leaf, np.ndarray) else leaf.select(keep)


def _compress(_: Path, leaf: Leaf | PickedValues, keep: NDArray[np.bool_]) -> Leaf | PickedValues:
    if not isinstance(leaf, np.ndarray):
        return leaf.select(keep)
    selected = aligned_empty((int(np.count_nonzero(keep)), *leaf.shape[1:]), leaf.dtype)
    np.compress(keep, leaf, axis=0, out=selected)
    return selected


def _no_sequences(x: object, converted: Structure) -> str:
    return (
        f"{_tuple_hint(x)}`x` has no sequences. Expected at least one ragged leaf, e.g. a list of arrays, received "
        f"{_describe(converted)}. A NumPy array inside a dict or tuple is one value per row; pass sequences as a list."
    )


def _tuple_hint(x: object) -> str:
    """The most likely mistake with a tuple: `zip(*pairs)` makes one in place of a list of sequences."""
    if not isinstance(x, tuple):
        return ""
    return f"If the {len(x)} entries of the tuple `x` are sequences, pass list(x): a tuple is one of a model's inputs. "


def _list_hint(x: object, rows: int) -> str:
    if not isinstance(x, list) or not all(hasattr(entry, "__len__") and len(entry) == rows for entry in x):
        return ""
    return lists.list_of_inputs_hint(x, "x")


def _describe(structure: Structure) -> str:
    """The structure in words, for an error message."""
    return shorten(_in_words(structure))


def _in_words(structure: Structure) -> str:
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{show(key)}: {_in_words(value)}" for key, value in structure.items()) + "}"
    if isinstance(structure, tuple):
        return "(" + ", ".join(map(_in_words, structure)) + ")"
    return "sequences" if isinstance(structure, Rows) else f"an array of shape {structure.shape}"


def _align(y: Structure, x: Structure) -> tuple[Structure, dict[Path, Path]]:
    """Finds the leaf of `x` whose lengths each ragged leaf of `y` has, so that it holds one label per timestep.

    A list of lists is also ragged if it holds one label per class, as multi-hot labels do: the same number in each row,
    unlike the sequences.

    Returns:
        The labels, with arrays for the latter; and for each of the former the path of its leaf of `x`.

    Raises:
        ValueError: If labels have lengths of their own.
    """
    sequences = [(path, leaf) for path, leaf in tree.leaves(x) if isinstance(leaf, Rows)]
    owners: dict[Path, Path] = {}

    def align(path: Path, leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Rows):
            return leaf
        name = name_of("y", path)
        for x_path, sequence in sequences:
            if np.array_equal(leaf.lengths, sequence.lengths):
                if isinstance(sequence, Loaded):
                    sequence.refuse_estimates(name)
                owners[path] = x_path
                return leaf
        if leaf.lengths[0] and (leaf.lengths == leaf.lengths[0]).all():
            return leaf.as_array()
        x_path, sequence = sequences[0]
        at = int(np.argmax(leaf.lengths != sequence.lengths))
        raise ValueError(
            f"`{name}` is ragged, so it must hold one label per timestep. Expected {int(sequence.lengths[at])} as in "
            f"{name_of('x', x_path)}[{at}], received {int(leaf.lengths[at])} at {name}[{at}]. Pass align_labels=False "
            "for labels of their own length, such as transcripts and translations."
        )

    return tree.map_leaves(align, y), owners


def _check_weights(y: Structure, weights: Structure) -> None:
    """Checks that weights are one per row, or one per timestep if the labels are; for all outputs, or for each."""
    if weights is None:
        return
    if y is None:
        raise ValueError("`sample_weight` needs labels. Received sample_weight without y. Pass y as well.")
    labels = dict(tree.leaves(y))
    weight_leaves = dict(tree.leaves(weights))
    is_one_array = isinstance(weights, np.ndarray)
    if not is_one_array and weight_leaves.keys() != labels.keys():
        raise ValueError(
            f"`sample_weight` must be one array or have the structure of `y`. Expected {_describe(y)}, received "
            f"{_describe(weights)}.{_ones_hint(labels.keys() - weight_leaves.keys(), labels)}"
        )
    for path, weight in weight_leaves.items():
        name = name_of("sample_weight", path)
        if isinstance(weight, Rows):
            _check_timestep_weights(name, weight, name_of("y", path), labels[path])
        elif weight.ndim != 1:
            raise ValueError(
                f"`{name}` must have one weight per row. Expected shape ({len(weight)},), received {weight.shape}."
            )


def _ones_hint(missing: Set[Path], labels: dict[Path, Leaf]) -> str:
    """The hint for outputs without weights."""
    if not missing or missing == labels.keys():
        return ""
    first = min(missing, key=str)
    ones = "[np.ones(len(row)) for row in y...]" if isinstance(labels[first], Rows) else "np.ones(len(x))"
    return f" Every output needs weights: give {name_of('sample_weight', first)} ones, {ones}."


def _check_timestep_weights(name: str, weight: Rows, y_name: str, label: Leaf) -> None:
    if not isinstance(label, Rows):
        raise ValueError(
            f"`{name}` has one weight per timestep, but `{y_name}` has one label per row. Pass one weight per row."
        )
    different = np.flatnonzero(weight.lengths != label.lengths)
    if different.size:
        at = int(different[0])
        raise ValueError(
            f"`{name}` must have one weight per timestep. Expected {int(label.lengths[at])} as in {y_name}[{at}], "
            f"received {int(weight.lengths[at])} at {name}[{at}]."
        )


def check_include_lengths(include_lengths: object) -> bool | list[str]:
    """Returns a `bool` or a list of names; the possible names depend on the data, see `length_entries`."""
    if isinstance(include_lengths, (list, tuple)) and all(isinstance(name, str) for name in include_lengths):
        return list(include_lengths) or False
    if isinstance(include_lengths, (bool, np.bool_)):
        return bool(include_lengths)
    fix = f" Pass [{show(include_lengths)}]." if isinstance(include_lengths, str) else ""
    raise TypeError(
        "`include_lengths` must be a boolean or a list of names. Expected True, False or e.g. ['lengths'], received "
        f"{show_typed(include_lengths)}.{fix}"
    )


def length_entries(inputs: Inputs, include_lengths: bool | list[str]) -> dict[str, Rows | None]:
    """The entries that `include_lengths` adds to `x`, each with the leaf of its lengths; None for each row's longest.

    These are "lengths"; `"<name>_lengths"` for each ragged leaf of a dict that has several; "label_lengths" for labels
    of their own length, or `"<name>_lengths"` if there are several, with the name "label_0" for the first entry of a
    tuple. A list of names selects some of these.

    Raises:
        ValueError: If the list names another, if `x` has such an entry already, or two of them would have one name.
    """
    if not include_lengths:
        return {}
    x = inputs.x
    sequences = [(key, leaf) for key, leaf in x.items() if isinstance(leaf, Rows)] if isinstance(x, dict) else []
    labels = [] if inputs.align_labels else _named_labels(inputs.y)
    possible: list[tuple[str, Rows | None]] = [("lengths", None)]
    possible += [(f"{name}_lengths", leaf) for name, leaf in [*(sequences if len(sequences) > 1 else []), *labels]]
    wanted = [name for name, _ in possible] if include_lengths is True else include_lengths
    unknown = [name for name in wanted if name not in dict(possible)]
    if unknown:
        expected = show([name for name, _ in possible])
        raise ValueError(
            f"`include_lengths` names no entry that it can add. Expected some of {expected}, received "
            f"{show(unknown[0])}."
        )
    entries: dict[str, Rows | None] = {}
    for entry, leaf in possible:
        if entry not in wanted:
            continue
        if entry in entries:
            raise ValueError(
                f"`y` leads to the entry {show(entry)} of `x`, which include_lengths=True adds already. Rename a key "
                "of `x` or of `y`."
            )
        if isinstance(x, dict) and entry in x:
            raise ValueError(
                f"`x` already has the key {show(entry)}, which include_lengths=True adds. Rename one of the two."
            )
        entries[entry] = leaf
    return entries


def _named_labels(y: Structure) -> list[tuple[str, Rows]]:
    """The ragged leaves by the keys that lead to them; "label" for a single one and before the index in a tuple."""
    labels = [(path, leaf) for path, leaf in tree.leaves(y) if isinstance(leaf, Rows)]
    if len(labels) == 1:
        return [("label", labels[0][1])]
    top = ("label",) if isinstance(y, tuple) else ()
    return [("_".join(map(str, (*top, *path))), leaf) for path, leaf in labels]
