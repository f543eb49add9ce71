"""Rows that are not in memory: their lengths go the way of those in memory."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.data.convert import as_rows
from keras_bucketing.data.loader import Loader, LoadError, loaded_leaves_of, loaded_sequences
from tests.support.strategies import DTYPES, lengths_lists

SPEC = tf.TensorSpec((None,), tf.int32)


@given(lengths_lists(min_length=0), st.integers(1, 9), st.sampled_from(["post", "pre"]), st.data())
def test_lengths_change_as_those_in_memory(lengths, maxlen, truncating, data):
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    keep[0] = True
    in_memory = as_rows([np.zeros(length, np.int32) for length in lengths], "x")
    loaded = loaded_sequences(lambda row: None, lengths, SPEC, 0, None)
    for change in (
        lambda leaf: leaf,
        lambda leaf: leaf.truncate(maxlen, truncating),
        lambda leaf: leaf.truncate(maxlen, truncating).select(keep),
        lambda leaf: leaf.select(keep).truncate(maxlen, truncating),
        lambda leaf: leaf.truncate(maxlen, truncating).fill_empty(),
    ):
        assert change(loaded).lengths.tolist() == change(in_memory).lengths.tolist()
        assert len(change(loaded)) == len(change(in_memory))
    assert loaded.select(keep).rows.tolist() == np.flatnonzero(keep).tolist()
    assert loaded.truncate(maxlen, truncating).announced.tolist() == lengths


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        (
            {"load": [1, 2]},
            TypeError,
            "`load` must be a function from a row index to a sequence. Received [1,",
        ),
        ({"lengths": []}, ValueError, "`lengths` is empty"),
        ({"lengths": [3, -1]}, ValueError, "Received -1 at lengths[1]"),
        ({"lengths": [2**31]}, ValueError, "`lengths` must be below 2**31"),
        ({"lengths": [1.5]}, ValueError, "`lengths` must be whole numbers of timesteps"),
        ({"lengths": "abc"}, ValueError, "`lengths` must have one dimension"),
        ({"length_tolerance": -1}, ValueError, "`length_tolerance` is too small"),
        ({"length_tolerance": "5"}, TypeError, "`length_tolerance` must be an integer"),
        ({"length_tolerance": True}, TypeError, "`length_tolerance` must be an integer"),
        ({"length_tolerance": 1.0}, ValueError, "Received 1.0 (float). Pass an int for timesteps."),
        ({"length_tolerance": -0.1}, ValueError, "`length_tolerance` must be a fraction below 1"),
        ({"length_tolerance": np.nan}, ValueError, "`length_tolerance` must be a fraction below 1"),
        ({"load": lambda: None}, TypeError, "`load` must take a row index, as in load(row)"),
        ({"load": lambda row, epoch, more: None}, TypeError, "Received a function of (row, epoch, more). Give"),
        ({"load": lambda row, *, rng: None}, TypeError, "Received a function of (row, *, rng)"),
        ({"load": lambda row, epoch, *, rng: None}, TypeError, "Received a function of (row, epoch, *, rng)"),
        ({"num_parallel_loads": 0}, ValueError, "`num_parallel_loads` is too small"),
        ({"output_signature": {"a": SPEC}}, ValueError, "Expected a dict with lengths for each of ['a'], received [3]"),
        ({"output_signature": (SPEC,)}, ValueError, "Expected a tuple with lengths for each of"),
        (
            {"output_signature": {"a": SPEC}, "lengths": {"b": [3]}},
            ValueError,
            "`lengths` must have the structure of `output_signature`",
        ),
        (
            {"output_signature": {"a": SPEC}, "lengths": {"a": [-3]}},
            ValueError,
            "`lengths['a']` must be at least 0. Received -3 at lengths['a'][0]",
        ),
    ],
)
def test_arguments_are_checked_before_anything_is_loaded(changes, error, text):
    def load(row):
        raise AssertionError

    arguments = {
        "load": load,
        "lengths": [3],
        "output_signature": SPEC,
        "length_tolerance": 0,
        "num_parallel_loads": None,
        **changes,
    }
    with pytest.raises(error) as raised:
        loaded_sequences(**arguments)
    assert text in str(raised.value)
    assert len(str(raised.value)) < 1000


# What a function of the user's may return for a row, and what an `output_signature` may say.


FLOATS = tf.TensorSpec((None, 2), tf.float32)
IDS = tf.TensorSpec((None,), tf.int32)


def loader(returned, signature=FLOATS, tolerance=0):
    return Loader(lambda row: returned, False, tuple(loaded_leaves_of(signature)), tolerance, 1)


def read(returned, signature=FLOATS):
    return loader(returned, signature).read(3, 0)


@pytest.mark.parametrize(
    ("returned", "signature", "expected"),
    [
        (np.ones((2, 2), np.float32), FLOATS, np.ones((2, 2), np.float32)),
        ([[1, 2], [3, 4]], FLOATS, np.array([[1, 2], [3, 4]], np.float32)),
        (np.full((1, 2), 0.1), FLOATS, np.full((1, 2), 0.1, np.float32)),
        (tf.ones((2, 2)), FLOATS, np.ones((2, 2), np.float32)),
        ([1, 2, 3], IDS, np.array([1, 2, 3], np.int32)),
        (np.array([1, 2], ">i2"), IDS, np.array([1, 2], np.int32)),
        (np.array([True, False]), IDS, np.array([1, 0], np.int32)),
        ([], IDS, np.zeros(0, np.int32)),
        (np.array([0, 255]), tf.TensorSpec((None,), tf.uint8), np.array([0, 255], np.uint8)),
        ([1e6], tf.TensorSpec((None,), tf.float16), np.array([np.inf], np.float16)),
    ],
)
def test_what_fits_is_brought_into_the_dtype_of_the_signature(returned, signature, expected):
    (sequence,) = read(returned, signature)
    assert sequence.dtype == expected.dtype
    assert sequence.tolist() == expected.tolist()


@given(st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.lists(st.integers(-(2**70), 2**70), min_size=1))
def test_integers_arrive_as_they_are_or_not_at_all(from_dtype, to_dtype, values):
    limits = np.iinfo(from_dtype) if np.dtype(from_dtype).kind in "iu" else None
    values = [min(max(value, limits.min), limits.max) if limits else value % 2 for value in values]
    array = np.array(values, from_dtype)
    try:
        (sequence,) = read(array, tf.TensorSpec((None,), to_dtype))
    except LoadError as error:
        assert len(str(error)) < 1000  # noqa: PT017
        assert "load(3)" in str(error)  # noqa: PT017
        to = np.dtype(to_dtype)
        fits = to.kind in "iu" and all(np.iinfo(to).min <= value <= np.iinfo(to).max for value in values)
        assert array.dtype.kind == "f" or not fits
    else:
        assert sequence.dtype == to_dtype
        if sequence.dtype.kind in "iub":
            assert sequence.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("returned", "signature", "texts"),
    [
        (np.ones((2, 3)), FLOATS, ["Expected shape (length, 2), received (2, 3) in load(3)"]),
        (np.ones(2), FLOATS, ["Expected shape (length, 2), received (2,) in load(3)"]),
        (np.ones((2, 2)), IDS, ["Expected shape (length), received (2, 2) in load(3)"]),
        (None, FLOATS, ["Expected shape (length, 2), received None (NoneType) in load(3)"]),
        (1.5, IDS, ["Expected shape (length), received 1.5 (float) in load(3)"]),
        ("recording.wav", IDS, ["received 'recording.wav' (str) in load(3)"]),
        ([[1], [2, 3]], FLOATS, ["`load(3)` must be one regular array. Received a nested list of uneven shape."]),
        (np.array([1.0, 2.0]), IDS, ["Expected dtype int32, received float64 in load(3)"]),
        (np.array(["a", "b"]), IDS, ["Expected dtype int32, received <U1 in load(3)"]),
        (np.array([1j]), tf.TensorSpec((None,), tf.float32), ["Expected dtype float32, received complex128"]),
        (np.array([1]), tf.TensorSpec((None,), tf.bool), ["Expected dtype bool, received int64"]),
        ([2**31], IDS, ["Expected values that int32 can hold, received 2147483648 to 2147483648 in load(3)"]),
        ([-1], tf.TensorSpec((None,), tf.uint8), ["Expected values that uint8 can hold, received -1 to -1"]),
        (np.ma.array([1, 2], mask=[False, True]), IDS, ["`load(3)` must not hold missing entries"]),
        ((np.ones((1, 2)),), {"a": FLOATS}, ["Expected a dict with the keys ['a'], received (array(", "(tuple) from"]),
        ({"b": [1]}, {"a": FLOATS}, ["Expected a dict with the keys ['a'], received the keys ['b'] from load(3)"]),
        ({"a": [[1, 2]], "b": [1]}, {"a": FLOATS}, ["received the keys ['a', 'b'] from load(3)"]),
        (([1], [2], [3]), (IDS, IDS), ["Expected a tuple of 2 sequences, received ([1], [2], [3]) (tuple)"]),
        ({"a": [1.5]}, {"a": IDS}, ["Expected dtype int32, received float64 in load(3)['a']"]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(returned, signature, texts):
    with pytest.raises(LoadError) as raised:
        read(returned, signature)
    message = str(raised.value)
    assert len(message) < 1000
    for text in texts:
        assert text in message


def test_an_error_of_the_function_is_chained_and_its_text_bounded():
    def load(row):
        raise RuntimeError("endless\n" * 10_000)

    with pytest.raises(LoadError, match="`load` failed at row 3 with RuntimeError: endless endless") as raised:
        Loader(load, False, tuple(loaded_leaves_of(IDS)), 0, 1).read(3, 0)
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("tolerance", "received", "announced", "text"),
    [
        (0, 5, 4, "Expected 4 as in lengths[7], received 5 in load(7). Correct `lengths`, or pass length_tolerance=1 "),
        (2, 1, 4, "Expected 4 to within 2 as in lengths[7], received 1 in load(7)."),
        (2, 0, 1, "must return at least one timestep. Expected 1 as in lengths[7], received none in load(7)"),
        (0.1, 48, 40, "Expected 40 to within 4 as in lengths[7], received 48 in load(7). Correct `lengths`, or pass "),
        (0.1, 48, 40, "length_tolerance=0.2 where lengths are estimates"),
        (0.1, 100, 40, "length_tolerance=60 where lengths are estimates"),
    ],
)
def test_a_length_that_is_not_as_announced_is_refused(tolerance, received, announced, text):
    it = loader(None, tolerance=tolerance)
    with pytest.raises(LoadError) as raised:
        it.check_length(it.leaves[0], 7, received, announced)
    assert text in str(raised.value)
    it.check_length(it.leaves[0], 7, announced, announced)
    allowed = tolerance if isinstance(tolerance, int) else int(tolerance * announced)
    it.check_length(it.leaves[0], 7, announced + allowed, announced)


@given(st.integers(0, 999), st.integers(1, 10**6), st.sampled_from([float, np.float64, np.float32]))
def test_a_fraction_counts_as_it_is_written_and_is_rounded_up(thousandths, announced, number):
    leaf = loaded_sequences(lambda row: None, [announced], SPEC, number(thousandths / 1000), None)
    allowed = -(-thousandths * announced // 1000)
    longest = announced + allowed
    leaf.loader.check_length(leaf.leaf, 0, longest, announced)
    with pytest.raises(LoadError, match="as many timesteps as announced"):
        leaf.loader.check_length(leaf.leaf, 0, longest + 1, announced)
    if announced - allowed > 1:
        leaf.loader.check_length(leaf.leaf, 0, announced - allowed, announced)
        with pytest.raises(LoadError, match="as many timesteps as announced"):
            leaf.loader.check_length(leaf.leaf, 0, announced - allowed - 1, announced)


class Loads:
    def method(self, row, epoch):
        return [row, epoch]

    @staticmethod
    def static(row, epoch):
        return [row, epoch]

    def __call__(self, row, epoch):
        return [row, epoch]


def of_row(row, epoch=-1, *more, scale=1):
    return [row, epoch, *more]


def of_both(row, epoch, /, scale=1, *, offset=0):
    return [row, epoch]


def of_three(folder, row, epoch):
    return [row, epoch]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (of_both, [3, 5]),
        (lambda row, epoch: [row, epoch], [3, 5]),
        (Loads().method, [3, 5]),
        (Loads.static, [3, 5]),
        (Loads(), [3, 5]),
        (functools.partial(of_three, "folder"), [3, 5]),
        (functools.partial(of_both, scale=2), [3, 5]),
        (functools.lru_cache(of_both), [3, 5]),
        (of_row, [3, -1]),
        (lambda *args: list(args), [3]),
        (lambda row, *args: [row, *args], [3]),
        (lambda row, **options: [row], [3]),
        (functools.partial(lambda row, epoch: [row, epoch], epoch=7), [3, 7]),
        (functools.partial(lambda epoch, row: [row, epoch], 7), [3, 7]),
        ([[0], [1], [2], [3]].__getitem__, [3]),
        (np.array([[0], [1], [2], [3]]).__getitem__, [3]),
    ],
)
def test_a_function_that_requires_two_positional_arguments_gets_the_epoch(load, expected):
    leaf = loaded_sequences(load, [1], SPEC, 0, None)
    assert leaf.loader.read(3, 5)[0].tolist() == expected


@pytest.mark.parametrize(
    ("signature", "error", "text"),
    [
        (None, TypeError, "`output_signature` must be a tf.TensorSpec"),
        (tf.float32, TypeError, "`output_signature` must be a tf.TensorSpec"),
        ({}, TypeError, "`output_signature` must be a tf.TensorSpec"),
        ({"a": FLOATS, "b": None}, TypeError, "`output_signature['b']` must be a tf.TensorSpec"),
        ({"a": {"b": FLOATS}}, TypeError, "a dict or tuple of several sequences is flat"),
        (tf.RaggedTensorSpec((None, None), tf.int32), TypeError, "`output_signature` must be a tf.TensorSpec"),
        (tf.TensorSpec((), tf.int32), ValueError, "must have the shape (None, *features)"),
        (tf.TensorSpec((5, 2), tf.int32), ValueError, "Received (5, 2)"),
        (tf.TensorSpec((None, None), tf.int32), ValueError, "Received (None, None)"),
        (tf.TensorSpec(None, tf.int32), ValueError, "Received <unknown>"),
        (tf.TensorSpec((None,), tf.string), TypeError, "`output_signature` must hold numbers"),
        ((FLOATS, tf.TensorSpec((None,), tf.bfloat16)), TypeError, "`output_signature[1]` must hold numbers"),
    ],
)
def test_a_signature_that_says_too_little_or_too_much_is_refused(signature, error, text):
    with pytest.raises(error) as raised:
        loaded_leaves_of(signature)
    assert text in str(raised.value)
    assert len(str(raised.value)) < 1000
