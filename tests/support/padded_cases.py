"""Rows of several leaves, with labels and weights, and the ways in which they are padded; the oracle knows the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from keras_bucketing.data import tree
from tests.support.strategies import seeds

WIDTH = 19  # of vectors that are no time axis: longer than any sequence
DTYPES = ["int32", "int32", "uint8", "int64", "float32", "float32", "float16", "float64", "bool"]
MASK_NAMES = ["padding_mask", "attention_mask", "mask", "input_mask"]


@dataclass
class PaddedLeaf:
    """Sequences and how they are padded: `told` is "values", "mask", "lengths", "own_lengths" or "argument"."""

    rows: list[np.ndarray]
    value: Any
    side: str
    told: str = "values"

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.rows], np.int32)

    def padded(self, part: slice, time: int) -> np.ndarray:
        """Some of the rows, padded to so many timesteps."""
        rows = self.rows[part]
        array = np.empty((len(rows), time, *self.rows[0].shape[1:]), self.rows[0].dtype)
        array[:] = np.asarray(self.value).astype(array.dtype)
        for into, row in zip(array, rows, strict=True):
            into[slice(len(row)) if self.side == "post" else slice(time - len(row), time)] = row
        return array


@dataclass
class PaddedCase:
    """Structures of `x`, `y` and `sample_weight`, whose leaves are `PaddedLeaf` or arrays with one value per row.

    Attributes:
        x: A leaf, dict or tuple.
        y: The same, or None.
        sample_weight: The same, or None.
        entries: Further entries of a dict `x`: masks, which stay, and lengths, which do not.
        lengths: The argument `lengths` of `from_padded`, where that tells.
        mask_value: What the leaves are padded with that nothing tells the lengths of.
        padding: The argument, or None.
        own_labels: Whether labels have lengths of their own.
        beyond: By how many timesteps all is padded beyond its longest row.
        size: The rows of a batch.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    entries: dict[tuple[str, ...], Any] = field(default_factory=dict)
    lengths: Any = None
    mask_value: Any = 0
    padding: str | None = None
    timestep_labels: bool | None = None
    own_labels: bool = False
    label_value: float = 0
    beyond: int = 0
    size: int = 3
    groups: dict[tuple[Any, ...], str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        leaf = tree.leaves(self.x)[0][1]
        return len(leaf.rows if isinstance(leaf, PaddedLeaf) else leaf)

    def parts(self, part: slice, is_whole: bool = False) -> tuple[Any, Any, Any]:
        """The arrays of some of the rows, padded together."""
        rows = range(self.num_rows)[part]
        times = self._times(rows)

        def convert(root: str) -> Any:
            def of_leaf(path: tree.Path, leaf: Any) -> Any:
                if isinstance(leaf, PaddedLeaf):
                    return leaf.padded(part, times[self.groups[(root, *path)]])
                return leaf[part]

            return of_leaf

        x = tree.map_leaves(convert("x"), self.x)
        for path, entry in self.entries.items():
            into = x
            for key in path[:-1]:
                into = into[key]
            into[path[-1]] = entry.padded(part, times[self.groups[("x", *path)]]) if is_mask(entry) else entry[part]
        return x, tree.map_leaves(convert("y"), self.y), tree.map_leaves(convert("sample_weight"), self.sample_weight)

    def _times(self, rows: range) -> dict[str, int]:
        """The padded length of each group of leaves that are padded together."""
        times: dict[str, int] = {}
        for root, structure in (("x", self.x), ("y", self.y), ("sample_weight", self.sample_weight)):
            for path, leaf in tree.leaves(structure):
                if isinstance(leaf, PaddedLeaf):
                    group = self.groups[(root, *path)]
                    longest = max((len(leaf.rows[row]) for row in rows), default=0)
                    times[group] = max(times.get(group, 1), longest)
        return {group: time + self.beyond for group, time in times.items()}

    def batches(self) -> list[Any]:
        """Elements as `fit` takes them."""
        found = []
        for begin in range(0, self.num_rows, self.size):
            x, y, weights = self.parts(slice(begin, begin + self.size))
            element = (x, y, weights) if weights is not None else (x, y)
            found.append(element if y is not None else (x,) if isinstance(x, tuple) else x)
        return found

    def rows_of(self, root: str) -> dict[tree.Path, Any]:
        """What must come back: a list of rows, or an array, by path; lengths do not, masks do."""
        structure = {"x": self.x, "y": self.y, "sample_weight": self.sample_weight}[root]
        found = {path: leaf.rows if isinstance(leaf, PaddedLeaf) else leaf for path, leaf in tree.leaves(structure)}
        if root == "x":
            found |= {path: entry.rows for path, entry in self.entries.items() if is_mask(entry)}
        return found


def is_mask(entry: object) -> bool:
    return isinstance(entry, PaddedLeaf)


@st.composite
def padded_cases(draw: Any, allow_argument: bool = False) -> PaddedCase:  # noqa: C901  one choice after the other
    """Cases of one to four sequences in `x`, as an array, a dict, a nested dict or a tuple."""
    generator = np.random.default_rng(draw(seeds()))
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=14))
    order = draw(st.sampled_from(["any", "any", "rising", "falling"]))
    if order != "any":
        lengths = sorted(lengths, reverse=order == "falling")
    count = len(lengths)
    kind = draw(st.sampled_from(["array", "dict", "dict", "dict", "nested", "tuple"]))
    side = draw(st.sampled_from(["post", "pre"]))
    told = draw(st.sampled_from(["values", "values", "mask", "lengths", "own_lengths", *["argument"] * allow_argument]))
    if kind in ("array", "tuple") and told != "argument":
        told = "values"
    if kind == "nested" and told in ("lengths", "own_lengths"):
        told = "mask"
    mask_value = draw(st.sampled_from([0, 0, 1, 9]))
    features = draw(st.sampled_from([(), (), (3,)]))
    case = PaddedCase(
        None,
        mask_value=mask_value,
        padding=side if draw(st.booleans()) else None,
        beyond=draw(st.sampled_from([0, 0, 1, 2])),
        size=draw(st.integers(1, 6)),
    )
    if features and kind == "array" and draw(st.booleans()):
        case.mask_value = np.array([0, 0, 1])

    def sequences(those: list[int], told: str, features: tuple[int, ...] = (), dtypes: Any = DTYPES) -> PaddedLeaf:
        dtype = draw(st.sampled_from(dtypes))
        value = case.mask_value
        if told != "values":
            value = draw(st.sampled_from([0, 1, 9, *([float("nan"), -1.5] if dtype.startswith("float") else [])]))
        if dtype == "bool":
            value = value if np.ndim(value) == 0 and value in (0, 1) else 0
            rows = [generator.integers(0, 2, (length, *features)).astype(bool) for length in those]
            if told == "values":
                if np.ndim(case.mask_value) or case.mask_value not in (0, 1):
                    dtype, value = "int32", case.mask_value
                else:
                    rows = [np.full_like(row, not value) for row in rows]
        if dtype != "bool":
            rows = [_values(generator, (length, *features), dtype) for length in those]
            if told != "mask":  # values tell, or, beside lengths, the end that is padded
                holds = told == "values" and not plain and draw(st.booleans())  # mask_value inside of rows
                rows = [_without(row, case.mask_value, holds) for row in rows]
        return PaddedLeaf(rows, value, side, told)

    others = [int(length) for length in generator.integers(1, 8, count)]
    name_of_mask = draw(st.sampled_from(MASK_NAMES))
    has_other = kind in ("dict", "nested") and draw(st.booleans())
    # "lengths" are those of the longest leaf: of several, values must show each.
    plain = told == "lengths" and has_other
    main = sequences(lengths, "values" if told == "lengths" and has_other else told, features)
    statics = {
        "age": generator.random(count).astype("float32"),
        "vector": generator.random((count, WIDTH)).astype("float32"),
        "number": generator.integers(0, 5, count),
    }
    if kind == "array":
        case.x, case.groups = main, {("x",): "main"}
        case.lengths = main.lengths if told == "argument" else None
    elif kind == "tuple":
        leaves = [main]
        groups = ["main"]
        if draw(st.booleans()):
            leaves.append(sequences(lengths, told))
            groups.append("main")
        if draw(st.booleans()):
            leaves.append(sequences(others, told))
            groups.append(draw(st.sampled_from(["main", "other"])))
        if told == "argument":
            case.lengths = tuple(leaf.lengths for leaf in leaves)
        case.x = tuple(leaves)
        if draw(st.booleans()):
            case.x += (statics["age"],)
            case.lengths = None if case.lengths is None else (*case.lengths, None)
        case.groups = {("x", index): group for index, group in enumerate(groups)}
    else:
        outer: dict[str, Any] = {"tokens": main}
        names = ["tokens"]
        if draw(st.booleans()):
            outer["segments"] = sequences(lengths, main.told)
            names.append("segments")
        case.groups = {("x", name): "main" for name in names}
        if told == "argument":
            case.lengths = {name: outer[name].lengths for name in names}
        if has_other:
            # A mask that names no entry is that of all which have nothing else.
            told_other = draw(st.sampled_from([*([] if told == "mask" else ["values"]), "mask", "own_lengths"]))
            told_other = "argument" if told == "argument" else told_other
            outer["target"] = sequences(others, told_other)
            case.groups["x", "target"] = draw(st.sampled_from(["main", "other"]))
            if told_other == "argument":
                case.lengths["target"] = outer["target"].lengths
            if told_other == "mask":
                case.entries["target_mask",] = _mask(outer["target"], draw)
                case.groups["x", "target_mask"] = case.groups["x", "target"]
            if told_other == "own_lengths":
                case.entries["target_lengths",] = outer["target"].lengths
        if told == "mask":
            if draw(st.booleans()):
                case.entries[name_of_mask,] = _mask(main, draw)
                case.groups["x", name_of_mask] = "main"
            else:
                for name in names:
                    case.entries[f"{name}_mask",] = _mask(main, draw)
                    case.groups["x", f"{name}_mask"] = "main"
        if told == "own_lengths":
            case.entries |= {(f"{name}_lengths",): main.lengths for name in names}
        if told == "lengths":
            longest = main.lengths
            if has_other:
                longest = np.maximum(longest, outer["target"].lengths)
            case.entries["lengths",] = longest
        for name in draw(st.sets(st.sampled_from(sorted(statics)))):
            outer[name] = statics[name]
        case.x = outer
        if kind == "nested":
            _nest(case)
    _draw_labels(draw, case, generator, lengths, side)
    return case


def _nest(case: PaddedCase) -> None:
    """Sequences with their masks and lengths one level below, statics beside them."""
    inside = {key: leaf for key, leaf in case.x.items() if isinstance(leaf, PaddedLeaf)}
    lengths = {path: entry for path, entry in case.entries.items() if not is_mask(entry)}
    if lengths:  # lengths are told at the top only
        return
    case.x = {"in": inside, **{key: leaf for key, leaf in case.x.items() if key not in inside}}
    case.entries = {("in", *path): entry for path, entry in case.entries.items()}
    case.groups = {("x", "in", *path[1:]): group for path, group in case.groups.items()}
    if isinstance(case.lengths, dict):
        case.lengths = {"in": case.lengths}


def _mask(leaf: PaddedLeaf, draw: Any) -> PaddedLeaf:
    dtype = draw(st.sampled_from(["bool", "int32", "float32"]))
    return PaddedLeaf([np.ones(length, dtype) for length in leaf.lengths], 0, leaf.side, "mask")


def _values(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return generator.integers(0, 9, shape).astype(dtype)


def _without(row: np.ndarray, value: Any, holds: bool) -> np.ndarray:
    """A row that neither begins nor ends with a timestep of `value`; with `holds`, it may have one inside."""
    is_value = (row == np.asarray(value).astype(row.dtype)).all(axis=tuple(range(1, row.ndim)))
    if holds:
        is_value[1:-1] = False
    return np.where(is_value.reshape(-1, *[1] * (row.ndim - 1)), np.asarray(5).astype(row.dtype), row)


def _draw_labels(  # noqa: C901  one kind after the other
    draw: Any, case: PaddedCase, generator: np.random.Generator, lengths: list[int], side: str
) -> None:
    count = len(lengths)
    kinds = ["none", "rows", "vectors", "timesteps", "timesteps", "timestep_vectors", "own", "several"]
    kind = draw(st.sampled_from(kinds))
    value = draw(st.sampled_from([0, -100, 7]))
    case.label_value = value

    def of_timesteps(features: tuple[int, ...] = (), value: float = value) -> PaddedLeaf:
        rows = [generator.integers(1, 6, (length, *features)) for length in lengths]
        return PaddedLeaf(rows, value, side)

    def weights() -> PaddedLeaf:
        return PaddedLeaf([generator.random(length).astype("float32") for length in lengths], 0, side)

    if kind == "rows":
        case.y = generator.integers(0, 5, count)
    elif kind == "vectors":
        case.y = generator.random((count, WIDTH)).astype("float32")
        case.timestep_labels = draw(st.sampled_from([None, False]))
    elif kind in ("timesteps", "timestep_vectors"):
        case.y = of_timesteps((4,) if kind == "timestep_vectors" else ())
        case.groups["y",] = "main"
    elif kind == "several":
        case.y = {"a": of_timesteps(), "b": generator.integers(0, 5, count)}
        case.groups["y", "a"] = "main"
    elif kind == "own":
        own = [int(length) for length in generator.integers(0, 6, count)]
        own[0] = max(own[0], 1)
        label_side = side if case.padding is not None else draw(st.sampled_from(["post", "pre"]))
        rows = [generator.integers(1, 6, length) for length in own]
        case.y = PaddedLeaf([row + 0 if value == 0 else row for row in rows], value, label_side, "lengths")
        case.own_labels, case.groups["y",] = True, "labels"
        if isinstance(case.x, dict) and draw(st.booleans()):
            case.entries["label_lengths",] = np.array(own, np.int32)
    if kind in ("timesteps", "timestep_vectors", "own", "several"):
        case.timestep_labels = True
    if kind in ("timesteps", "timestep_vectors") and draw(st.booleans()):
        case.sample_weight = weights()
        case.groups["sample_weight",] = "main"
    elif kind in ("rows", "vectors", "timesteps") and draw(st.booleans()):
        case.sample_weight = generator.random(count).astype("float32")
    elif kind == "several" and draw(st.booleans()):
        case.sample_weight = {"a": weights(), "b": generator.random(count).astype("float32")}
        case.groups["sample_weight", "a"] = "main"


class Batches(keras.utils.PyDataset):
    """The batches of a list."""

    def __init__(self, batches: list[Any]):
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def dataset_of(batches: list[Any]) -> tf.data.Dataset:
    """A `tf.data.Dataset` of the batches of a list, whose rows and timesteps have no fixed number."""

    def spec(array: np.ndarray) -> tf.TensorSpec:
        is_fixed = array.ndim > 1 and array.shape[1] == WIDTH
        shape = [None, *([WIDTH if is_fixed else None] if array.ndim > 1 else []), *array.shape[2:]]
        return tf.TensorSpec(shape, array.dtype)

    signature = keras.tree.map_structure(spec, batches[0])
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
