"""What the property tests draw from. Contents come from a drawn seed: shrinking works on lengths and options."""

import contextlib
import itertools
import re
from collections.abc import Iterator

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

from keras_bucketing.data.tree import map_leaves

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
DTYPES += ["float16", "float32"]
SIZINGS = ("batch_size", "max_timesteps_per_batch", "bucket_batch_sizes", "default")


NO_BATCHES = re.compile("`x` has too few sequences for a single batch|No bucket of `x` has enough sequences for a full")


@contextlib.contextmanager
def enough_rows() -> Iterator[None]:
    """Rejects what was drawn where its rows fill no batch; any other error is one."""
    try:
        yield
    except ValueError as error:
        if not NO_BATCHES.match(str(error)):
            raise
        reject()


def lengths_lists(*, min_size=1, max_size=30, min_length=1, max_length=20):
    """Lists of sequence lengths in timesteps."""
    return st.lists(st.integers(min_length, max_length), min_size=min_size, max_size=max_size)


def length_arrays(**bounds):
    return lengths_lists(**bounds).map(lambda lengths: np.array(lengths, np.int64))


@st.composite
def sequence_lists(draw, *, lengths=None, dtypes=DTYPES, feature_shapes=((), (2,), (2, 3))):
    """Lists of arrays `(length, *features)` of one dtype, with every bit pattern, NaN among them."""
    lengths = draw(lengths_lists() if lengths is None else lengths)
    return random_sequences(
        lengths, draw(st.sampled_from(dtypes)), draw(st.sampled_from(feature_shapes)), draw(seeds())
    )


def random_sequences(lengths, dtype="int64", feature_shape=(), seed=0):
    """Arrays of the given lengths, filled with random bits."""
    generator = np.random.default_rng(seed)
    return [random_bits((length, *feature_shape), dtype, generator) for length in lengths]


def random_bits(shape, dtype, generator):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(generator.bytes(size), dtype).reshape(shape).copy()


def seeds():
    return st.integers(0, 2**31 - 1)


def boundary_lists(*, max_size=6, max_boundary=25):
    """Increasing lists of bucket boundaries; some buckets stay empty."""
    return st.lists(st.integers(1, max_boundary), max_size=max_size, unique=True).map(sorted)


def remainders():
    return st.sampled_from(["spill", "keep", "drop"])


@st.composite
def bucket_options(draw, *, longest=20, multiples=(1, 2, 3), num_shards=1, sizings=SIZINGS):
    """Keyword arguments that say how rows become batches; every way of giving sizes and boundaries."""
    multiple = draw(st.sampled_from(multiples))
    whole = multiple * num_shards
    boundaries = draw(st.none() | boundary_lists())
    options = {"batch_size_multiple": multiple}
    if boundaries is None:
        options["num_buckets"] = draw(st.none() | st.integers(1, 6))
    else:
        options["bucket_boundaries"] = boundaries
    way = draw(st.sampled_from(sizings))
    if way == "batch_size":
        options[way] = draw(st.integers(1, 8)) * whole
    elif way == "max_timesteps_per_batch":
        # Padding to the boundary of a bucket may go beyond the longest sequence.
        options[way] = draw(st.integers(0, 80)) + whole * max([longest, *(boundaries or [])])
    elif way == "bucket_batch_sizes" and boundaries is not None:
        size = len(boundaries) + 1
        options[way] = [whole * n for n in draw(st.lists(st.integers(1, 6), min_size=size, max_size=size))]
    return options


_MIDDLES = st.sampled_from(["", "a", "b", "'", '"', "[0]", "']['"])


def adversarial_keys():
    """Strings that are hard to tell apart once they are names: long ones that differ in their middle, quotes, numbers.

    A message shows 120 characters of a key, the first and the last of it.
    """
    long = _MIDDLES.map(lambda middle: "k" * 100 + middle + "k" * 100)
    return st.sampled_from(["a", "b", "0", "1", "-1", "a'", 'a"', "['a']", "x['a']", "lengths", ""]) | long


def numbered(structure):
    """The same structure with leaves 0, 1, 2, ..."""
    numbers = itertools.count()
    return map_leaves(lambda path, leaf: next(numbers), structure, none_is_leaf=True)


def structures(leaves, *, keys=None, max_leaves=6):
    """Leaves, and dicts and tuples of structures, none of them empty."""
    keys = adversarial_keys() if keys is None else keys
    return st.recursive(
        leaves,
        lambda children: (
            st.dictionaries(keys, children, min_size=1, max_size=3)
            | st.lists(children, min_size=1, max_size=3).map(tuple)
        ),
        max_leaves=max_leaves,
    )
