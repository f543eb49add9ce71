"""Random rows, and every kind of stream that yields them."""

import itertools
from collections import UserDict

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests.support.strategies import lengths_lists, random_bits, seeds

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "float16", "float32", "float64"]
VECTOR = 23  # longer than the longest sequence, so that nobody takes a vector for labels of timesteps
NAMES = ("x", "y", "sample_weight")


class ForeignTensor:
    """A tensor of another library, such as PyTorch: NumPy reads it, and its dtype is none of NumPy's."""

    def __init__(self, array):
        self._array, self.shape = np.asarray(array), np.shape(array)
        self.dtype = type("dtype", (), {"__repr__": lambda _: f"torch.{self._array.dtype}"})()

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype)

    def __len__(self):
        return len(self._array)

    def __getitem__(self, index):
        return ForeignTensor(self._array[index])


def as_foreign(structure):
    """The structure with such tensors, and with mappings that are no dicts."""
    if isinstance(structure, dict):
        return UserDict({key: as_foreign(value) for key, value in structure.items()})
    if isinstance(structure, tuple):
        return tuple(map(as_foreign, structure))
    return None if structure is None else ForeignTensor(structure)


class Sequences(list):
    """A leaf with one sequence per row; an array is a leaf with one value per row."""


def _without_zeros(array):
    """No timestep looks like padding with 0."""
    return np.where(array == 0, np.ones_like(array), array)


def _random(shape, dtype, generator):
    """Random bits; of float64 those that float32, in which they are stored, can hold."""
    return generator.normal(size=shape) if dtype == "float64" else random_bits(shape, dtype, generator)


def random_sequences(lengths, dtype, features, generator):
    return Sequences(_without_zeros(_random((length, *features), dtype, generator)) for length in lengths)


@st.composite
def datasets(draw, *, several_sequences=True, vectors_in_x=True, min_length=0, max_rows=12):
    """Triples `(x, y, sample_weight)`: structures of `Sequences` and arrays, as `BucketedSequence` takes them."""
    generator = np.random.default_rng(draw(seeds()))
    lengths = draw(lengths_lists(min_length=min_length, max_length=9, max_size=max_rows).filter(any))
    dtypes, features = st.sampled_from(DTYPES), st.sampled_from([(), (2,), (2, 3), (1,)])

    def sequences(those=None):
        other = [int(generator.integers(min_length, 10)) for _ in lengths] if those is None else those
        return random_sequences(other, draw(dtypes), draw(features), generator)

    def values(shapes):
        return _random((len(lengths), *draw(st.sampled_from(shapes))), draw(dtypes), generator)

    first = sequences(lengths)
    shapes = [(), (VECTOR,), (VECTOR, 2)] if vectors_in_x else [()]
    kind = draw(st.sampled_from(["one", "dict", "tuple", "nested"]))
    more = sequences if several_sequences and draw(st.booleans()) else lambda: values(shapes)
    x = {
        "one": lambda: first,
        "dict": lambda: {"b": first, "a": more(), "n": values(shapes)},
        "tuple": lambda: (values(shapes), first, more()),
        "nested": lambda: {"z": (more(), first), "a": {"k": values(shapes)}},
    }[kind]()
    labels = draw(st.sampled_from(["none", "values", "vectors", "timesteps", "both"]))
    y = {
        "none": lambda: None,
        "values": lambda: values([()]),
        "vectors": lambda: {"p": values([(VECTOR,)]), "q": values([(), (VECTOR,)])},
        "timesteps": lambda: random_sequences(lengths, draw(dtypes), draw(features), generator),
        "both": lambda: (values([()]), random_sequences(lengths, draw(dtypes), (), generator)),
    }[labels]()
    weights = None
    if labels != "none" and draw(st.booleans()):
        weights = generator.random(len(lengths)).astype("float32")
        if labels == "timesteps" and draw(st.booleans()):
            weights = random_sequences(lengths, "float32", (), generator)
    return x, y, weights


def map_leaves(function, structure):
    """Maps the leaves of a structure; None stays."""
    if isinstance(structure, dict):
        return {key: map_leaves(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple):
        return tuple(map_leaves(function, value) for value in structure)
    return None if structure is None else function(structure)


def leaves_of(structure):
    collected = []
    map_leaves(collected.append, structure)
    return collected


def has_timestep_labels(triple):
    return any(isinstance(leaf, Sequences) for leaf in leaves_of(triple[1:]))


def pick(triple, rows):
    """The element `x`, `(x, y)` or `(x, y, sample_weight)` of one row, or of a slice of rows."""
    x, y, weights = map_leaves(lambda leaf: leaf[rows], triple)
    if weights is not None:
        return x, y, weights
    if y is not None:
        return x, y
    return (x,) if isinstance(x, tuple) else x


def count_rows(triple):
    return len(leaves_of(triple)[0])


def rows_of(triple):
    """One element a row."""
    return [pick(triple, row) for row in range(count_rows(triple))]


def single_rows(triple):
    """A `tf.data.Dataset` of single rows: the first axis of a sequence has no fixed size, that of a value has."""

    def spec(leaf):
        if isinstance(leaf, Sequences):
            return tf.TensorSpec((None, *leaf[0].shape[1:]), leaf[0].dtype)
        return tf.TensorSpec(leaf.shape[1:], leaf.dtype)

    signature = pick(map_leaves(lambda leaf: [spec(leaf)], triple), 0)
    return tf.data.Dataset.from_generator(lambda: iter(rows_of(triple)), output_signature=signature)


def _element(triple):
    x, y, weights = triple
    if weights is not None:
        return x, y, weights
    if y is not None:
        return x, y
    return (x,) if isinstance(x, (tuple, list)) else x  # Keras reads a list as a tuple


def pad(rows, padding="post", value=0, length=None):
    """A list of arrays as one padded array."""
    length = max(map(len, rows)) if length is None else length
    padded = np.full((len(rows), length, *rows[0].shape[1:]), value, rows[0].dtype)
    for into, row in zip(padded, rows, strict=True):
        into[slice(len(row)) if padding == "post" else slice(length - len(row), length)] = row
    return padded


class Batches(keras.utils.PyDataset):
    """A `PyDataset` of batches of the rows.

    `convert` makes a batch's leaf of its list of rows.
    """

    def __init__(self, triple, batch_size, convert=list):
        super().__init__()
        self.triple, self.batch_size, self.convert = triple, batch_size, convert

    def __len__(self):
        return -(-count_rows(self.triple) // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        batch = map_leaves(
            lambda leaf: self.convert(list(leaf[rows])) if isinstance(leaf, Sequences) else leaf[rows], self.triple
        )
        return _element(batch)


def batched_generator(triple, batch_size, convert):
    dataset = Batches(triple, batch_size, convert)
    return (dataset[index] for index in itertools.islice(itertools.count(), len(dataset)))


def with_lengths(triple, keys):
    """Adds to a dict `x` the lengths of its sequences, as `include_lengths=True` does."""
    x, y, weights = triple
    lengths = {f"{key}_lengths": np.array([len(row) for row in x[key]], np.int32) for key in keys}
    return {**x, **lengths}, y, weights
