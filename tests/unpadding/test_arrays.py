"""Padded arrays back to sequences: what comes out of from_padded is what BucketedSequence makes of the sequences."""

import traceback
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.data.rows import Rows
from keras_bucketing.data.tree import leaves, map_leaves
from keras_bucketing.unpadding.arrays import unpad_arrays
from tests.support.default_layer import examples
from tests.support.rows import flat, sequences_from_padded
from tests.support.strategies import lengths_lists, numbered, random_bits, seeds, structures

paddings = st.sampled_from(["post", "pre"])
FREE_OF_MASK_VALUE = {"int8": -1, "uint8": 0, "int32": -7, "uint16": 65535, "int64": 0, "float16": -1.5, "float32": 0.1}
FREE_OF_MASK_VALUE |= {"float64": float("nan"), "uint64": 2**64 - 1}


def ragged_from_padded(x, lengths=None, mask_value=0, padding=None, **options):
    return sequences_from_padded(x, lengths, mask_value, padding, **options)[0]


def pad(sequences, time, padding, value):
    """An independent padding: a loop."""
    array = np.full((len(sequences), time, *sequences[0].shape[1:]), value, sequences[0].dtype)
    for row, sequence in zip(array, sequences, strict=True):
        if padding == "post":
            row[: len(sequence)] = sequence
        else:
            row[time - len(sequence) :] = sequence
    return array


def mask_of(sequences, time, padding):
    return pad([np.ones(len(sequence), bool) for sequence in sequences], time, padding, False)


def assert_same_batches(dataset, expected):
    assert dataset.element_spec == expected.element_spec
    for ours, theirs in zip(dataset, expected, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


@st.composite
def padded_sequences(draw, num_rows, time_beyond=0):
    """A list of sequences, and everything about the array that it is padded to."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=num_rows, max_size=num_rows))
    dtype = draw(st.sampled_from(sorted(FREE_OF_MASK_VALUE)))
    features = draw(st.sampled_from([(), (2,), (2, 3)]))
    generator = np.random.default_rng(draw(seeds()))
    sequences = [generator.integers(1, 100, (length, *features)).astype(dtype) for length in lengths]
    mask_value, padding = FREE_OF_MASK_VALUE[dtype], draw(paddings)
    time = max(lengths) + draw(st.integers(0, 3))
    return sequences, mask_value, padding, time


HOW = st.sampled_from(["values", "side", "lengths", "mask", "longer lengths"])


def lengths_for(how, sequences, time, padding):
    """The arguments that tell the lengths in one way or another."""
    lengths = [len(sequence) for sequence in sequences]
    if how == "longer lengths":  # of what a row was cut from
        lengths = [length + 5 if length == time else length for length in lengths]
    if how == "mask":
        return {"lengths": mask_of(sequences, time, padding)}
    return {} if how in ("values", "side") else {"lengths": lengths}


def assert_same_leaves(x, expected):
    """Compares what the batches are made of: much faster than the batches."""
    expected = collect_inputs(expected, None, None).x
    for ours, theirs in zip(tf.nest.flatten(x), tf.nest.flatten(expected), strict=True):
        if isinstance(theirs, Rows):
            np.testing.assert_array_equal(ours.sizes, theirs.sizes)
            ours, theirs = flat(ours), flat(theirs)
            assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@st.composite
def padded_arrays(draw):
    """A padded array, in a dict or not; the arguments that tell its lengths; and what it was padded from."""
    sequences, mask_value, padding, time = draw(st.integers(1, 12).flatmap(padded_sequences))
    how = draw(HOW)
    arguments = lengths_for(how, sequences, time, padding) | ({"padding": padding} if how == "side" else {})
    array, labels = pad(sequences, time, padding, mask_value), np.arange(len(sequences))
    if draw(st.booleans()):
        return {"a": array, "b": labels}, {"mask_value": mask_value, **arguments}, {"a": sequences, "b": labels}
    return array, {"mask_value": mask_value, **arguments}, sequences


def test_lengths_that_were_cut_are_believed_where_another_entry_has_padding():
    x = {"a": np.array([[1, 0], [1, 2]]), "b": np.array([[1, 2], [3, 4]])}
    ragged = ragged_from_padded(x, lengths={"a": [1, 3], "b": [2, 3]})
    assert {name: leaf.sizes.tolist() for name, leaf in ragged.items()} == {"a": [1, 2], "b": [2, 2]}


def test_a_mask_next_to_padding_with_nan_is_believed():
    padded = np.array([[85.0, np.nan, np.nan], [85.0, 85.0, np.nan]])
    dataset = BucketedSequence.from_padded(padded, lengths=~np.isnan(padded), mask_value=np.nan, shuffle=False)
    assert dataset.lengths.tolist() == [1, 2]


@settings(max_examples=examples(200))
@given(padded_arrays())
def test_a_padded_array_gives_its_sequences(drawn):
    x, arguments, expected = drawn
    assert_same_leaves(ragged_from_padded(x, **arguments), expected)


@settings(max_examples=examples(200))
@given(structures(st.none()).map(numbered), st.sampled_from(["values", "lengths", "masks", "sequences"]))
def test_every_leaf_comes_back_as_its_own_whatever_its_keys_are(numbers, how):
    sequences = {number: [[number + 1] * (1 + number % 3), [number + 1] * 3] for _, number in leaves(numbers)}
    x = map_leaves(lambda path, number: pad([*map(np.array, sequences[number])], 4, "post", 0), numbers)
    lengths = map_leaves(lambda path, number: [1 + number % 3, 3], numbers)
    arguments = {"lengths": {"lengths": lengths}, "masks": {"lengths": map_leaves(lambda path, leaf: leaf > 0, x)}}
    if how == "sequences" and isinstance(x, (dict, tuple)):
        arguments[how] = {"sequences": sorted(x) if isinstance(x, dict) else list(range(len(x)))}
    stripped = ragged_from_padded(x, **arguments.get(how, {}))
    assert [path for path, _ in leaves(stripped)] == [path for path, _ in leaves(numbers)]
    for (_, rows), (_, number) in zip(leaves(stripped), leaves(numbers), strict=True):
        assert [row.tolist() for row in rows] == sequences[number]


def test_keys_that_messages_shorten_alike_are_told_apart():
    a, b = ("k" * 100 + middle + "k" * 100 for middle in "ab")
    x = {a: np.array([[1, 2, 0], [3, 0, 0]]), b: np.array([[4, 0, 0], [5, 6, 0]])}
    stripped = ragged_from_padded(x)
    assert [row.tolist() for row in stripped[a]] == [[1, 2], [3]]
    assert [row.tolist() for row in stripped[b]] == [[4], [5, 6]]


@settings(max_examples=8)
@given(padded_arrays())
def test_a_padded_array_gives_the_batches_of_its_sequences(drawn):
    x, arguments, expected = drawn
    sequences = expected["a"] if isinstance(expected, dict) else expected
    labels, options = np.arange(len(sequences)), {"batch_size": 3, "seed": 1}
    dataset = BucketedSequence.from_padded(x, labels, **arguments, **options)
    expected = BucketedSequence(expected, labels, padding_value=arguments["mask_value"], **options)
    assert_same_batches(dataset, expected)
    assert dataset.lengths.tolist() == [len(sequence) for sequence in sequences]


@st.composite
def structures(draw):
    """A dict or tuple of padded arrays with sides of their own, with one second dimension or several."""
    num_rows = draw(st.integers(1, 8))
    entries = draw(st.lists(padded_sequences(num_rows), min_size=2, max_size=3))
    return (
        entries,
        draw(st.booleans()),
        random_bits((num_rows, 4), "float32", np.random.default_rng(draw(seeds()))),
    )


@settings(max_examples=examples(150))
@given(structures(), HOW, st.booleans())
def test_structures_of_padded_arrays_give_their_sequences(drawn, how, nested):
    entries, as_tuple, static = drawn
    entries = [(sequences, 0, padding, time) for sequences, _, padding, time in entries]
    arrays = [pad(*(entry[0], entry[3], entry[2], entry[1])) for entry in entries]
    ragged = [entry[0] for entry in entries]
    lengths = [lengths_for(how, sequences, time, padding).get("lengths") for sequences, _, padding, time in entries]
    if as_tuple:
        x, expected_x, given_lengths = (*arrays, static), (*ragged, static), (*lengths, None)
        keys = list(range(len(arrays)))
    else:
        names = [f"n{i}" for i in range(len(arrays))]
        x, expected_x = (dict(zip(names, part, strict=True)) | {"static": static} for part in (arrays, ragged))
        given_lengths, keys = {**dict(zip(names, lengths, strict=True)), "static": None}, names
    if nested:
        x, expected_x, given_lengths = {"all": x}, {"all": expected_x}, {"all": given_lengths}
    if how in ("values", "side"):
        if nested:
            return  # `sequences` names entries of `x` itself
        given_lengths = None
        same = [time for _, _, _, time in entries]
        full = [all(len(sequence) == time for sequence in sequences) for sequences, _, _, time in entries]
        if any(full) and len(set(same)) < len(same):
            return  # an entry without padding next to one with: refused, see below
    arguments = {"lengths": given_lengths} if given_lengths is not None else {"sequences": keys}
    assert_same_leaves(ragged_from_padded(x, **arguments), expected_x)


@settings(max_examples=examples(60))
@given(lengths_lists(), paddings, st.integers(0, 3), seeds())
def test_a_mask_among_the_inputs_tells_the_lengths(lengths, padding, beyond, seed):
    generator = np.random.default_rng(seed)
    tokens = [random_bits((length,), "int32", generator) for length in lengths]
    segments = [np.zeros(length, np.int32) for length in lengths]
    time = max(lengths) + beyond
    x = {"token_ids": pad(tokens, time, padding, 0), "segment_ids": pad(segments, time, padding, 0)}
    x["padding_mask"] = mask_of(tokens, time, padding)
    expected = {"token_ids": tokens, "segment_ids": segments, "padding_mask": [np.ones(n, bool) for n in lengths]}
    assert_same_leaves(ragged_from_padded(x), expected)
    x["padding_mask"] = x["padding_mask"].astype(np.int32)  # as Hugging Face has it
    x["attention_mask"] = x.pop("padding_mask")
    expected["attention_mask"] = [row.astype(np.int32) for row in expected.pop("padding_mask")]
    assert_same_leaves(ragged_from_padded(x), expected)


@settings(max_examples=examples(60))
@given(lengths_lists(), paddings, st.sampled_from([(), (2,)]), st.sampled_from([0, -1, 7.5]), seeds())
def test_with_lengths_the_values_do_not_matter(lengths, padding, features, mask_value, seed):
    generator = np.random.default_rng(seed)
    sequences = [generator.integers(-2, 2, (length, *features)) for length in lengths]
    padded = keras.utils.pad_sequences(sequences, dtype="float32", padding=padding, value=mask_value)
    ragged = ragged_from_padded(padded, lengths, mask_value, padding)
    assert ragged.lengths.tolist() == lengths
    assert np.array_equal(flat(ragged), np.concatenate(sequences))


def test_the_default_of_pad_sequences():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 100, length) for length in rng.integers(2, 50, 64)]
    dataset = BucketedSequence.from_padded(keras.utils.pad_sequences(sequences), batch_size=8, seed=0)
    expected = BucketedSequence(sequences, batch_size=8, seed=0)
    assert dataset.padding_stats().padding_efficiency == expected.padding_stats().padding_efficiency
    assert 0.7 < dataset.padding_stats().padding_efficiency < 1


def test_a_model_with_masking_masks_the_padding_of_the_batches():
    padded = keras.utils.pad_sequences([[[1.0], [2.0], [3.0]], [[4.0]], [[5.0], [6.0]]], dtype="float32", value=-1.0)
    batch = next(iter(BucketedSequence.from_padded(padded, mask_value=-1.0, shuffle=False)))
    assert keras.layers.Masking(-1.0).compute_mask(batch).numpy().sum(axis=1).tolist() == [1, 2, 3]
    other = next(iter(BucketedSequence.from_padded(padded, mask_value=-1.0, padding_value=9, shuffle=False)))
    assert other.numpy()[0, :, 0].tolist() == [4, 9, 9]


@pytest.mark.parametrize(
    ("padding", "padded", "lengths"),
    [
        ("post", [[1, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]], [3, 0, 4]),
        ("pre", [[0, 1, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0]], [3, 0, 4]),
        ("post", [[[0, 1], [0, 0]], [[1, 0], [0, 1]]], [1, 2]),
        (None, [[[0, 1], [0, 0]], [[1, 0], [0, 1]]], [1, 2]),
        # No row has a run, or only rows that are nothing but padding: either side will do.
        (None, [[1, 2], [3, 4]], [2, 2]),
        (None, [[0, 0], [3, 4]], [0, 2]),
        (None, np.zeros((2, 0), int), [0, 0]),
    ],
)
def test_only_the_run_at_the_padded_end_is_padding(padding, padded, lengths):
    assert ragged_from_padded(np.array(padded), padding=padding).lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("padded", "lengths", "values"),
    [
        ([[1, 2, 0], [3, 0, 0]], [2, 1], [1, 2, 3]),
        ([[0, 1, 2], [0, 0, 3]], [2, 1], [1, 2, 3]),
        ([[9, 1, 2], [9, 9, 3]], [2, 1], [1, 2, 3]),  # another constant than mask_value
        ([[0, 2, 0], [3, 4, 5]], [2, 3], None),  # either end
        ([[0, 0, 0], [3, 4, 5]], [1, 3], [0, 3, 4, 5]),  # no difference
        ([[7, 2, 8], [3, 9, 5]], [1, 2], None),  # no padding at all
        ([[1, 2, 0], [3, 4, 5]], [2, 9], [1, 2, 3, 4, 5]),  # cut to the padded length
        ([[1, 2, 0], [3, 4, 0]], [2, 9], None),
    ],
)
def test_lengths_tell_the_side(padded, lengths, values):
    if values is None:
        with pytest.raises(ValueError, match=r"`padding` must be given|`lengths` must not exceed"):
            ragged_from_padded(np.array(padded), lengths)
    else:
        assert flat(ragged_from_padded(np.array(padded), lengths)).tolist() == values


def test_lengths_beyond_maxlen_are_clipped():
    lengths, sequences = [9, 2, 5], [np.arange(1, 10), np.array([1, 0]), np.array([1, 2, 3, 0, 0])]
    sequences = [sequence.astype(np.int32) for sequence in sequences]
    padded = keras.utils.pad_sequences(sequences, maxlen=4, truncating="post", padding="post")
    with pytest.raises(ValueError, match=r"received 5 at lengths\[2\], but x\[2\] ends in 1 timesteps.*pass maxlen=4"):
        BucketedSequence.from_padded(padded, lengths=lengths)
    dataset = BucketedSequence.from_padded(padded, lengths=lengths, maxlen=4, seed=0)
    assert_same_batches(dataset, BucketedSequence(sequences, maxlen=4, seed=0, padding_value=0))
    assert dataset.lengths.tolist() == [4, 2, 4]
    # Sequences padded to 4 and to be cut to 3 are cut at the end that `truncating` says.
    dataset = BucketedSequence.from_padded(padded, lengths=lengths, maxlen=3, truncating="pre", padding="post", seed=0)
    cut = [sequence[:4] for sequence in sequences]
    assert_same_batches(dataset, BucketedSequence(cut, maxlen=3, truncating="pre", seed=0))


def test_padding_may_be_nan():
    padded = np.array([[1, np.nan, np.nan], [np.nan, 2, np.nan]])
    assert ragged_from_padded(padded, None, float("nan"), "post").lengths.tolist() == [1, 2]


SAME = np.array([[1, 2, 0], [3, 0, 0]])
FULL = np.array([[1, 2, 3], [4, 5, 6]])
STATIC = np.ones((2, 5))
MASK = SAME > 0


@pytest.mark.parametrize(
    ("x", "options", "error", "texts"),
    [
        ([[1, 2], [3]], {}, ValueError, ["`x` must be one regular array. Received a nested list of uneven shape."]),
        ([1, 2], {}, ValueError, ["Expected an array of shape (num_sequences, time, ...), received shape (2,)."]),
        (3, {}, ValueError, ["Expected an array of shape (num_sequences, time, ...), received shape ()."]),
        (np.zeros((0, 4)), {}, ValueError, ["`x` has no sequences."]),
        ([["a"]], {}, TypeError, ["`x` must hold numbers."]),
        ({"a": [["a"]]}, {}, TypeError, ["`x['a']` must hold numbers."]),
        ({}, {}, ValueError, ["`x` is an empty dict."]),
        ({"a": [1, 2]}, {}, ValueError, ["`x['a']` must be padded."]),
        (SAME, {"padding": "left"}, ValueError, ["`padding` is unknown. Expected one of ['post', 'pre']"]),
        (SAME, {"mask_value": "0"}, TypeError, ["`mask_value` must be a number."]),
        (SAME, {"mask_value": 0.5}, ValueError, ["`mask_value` must be a value that padding can hold.", "int64"]),
        (np.ones((2, 3), np.uint8), {"mask_value": -1}, ValueError, ["Expected one of dtype uint8 as in `x`"]),
        # Sides that are not certain.
        ([[0, 1], [2, 0]], {}, ValueError, ["`padding` must be given", "1 rows that end", 'padding="pre"']),
        ([[1, 2, 0, 0], [0, 3, 0, 0], [4, 0, 5, 6]], {}, ValueError, ["2 rows that end", "row 0", "1 that begin"]),
        (
            [[0, 1, 2, 3], [0, 2, 3, 4], [4, 0, 0, 0]],
            {},
            ValueError,
            ["(3 timesteps, first in row 2) and 2 that begin with it (2 timesteps"],
        ),
        # Lengths.
        (SAME, {"lengths": [3, 4]}, ValueError, ["Expected at most 3, received 4 at lengths[1]", "pass maxlen=3"]),
        (SAME, {"lengths": [1, 1, 1]}, ValueError, ["Expected shape (2,) as in `x`, received (3,)."]),
        (SAME, {"lengths": [-1, 1]}, ValueError, ["`lengths` must be at least 0. Received -1 at lengths[0]."]),
        (SAME, {"lengths": [float("nan"), 1]}, ValueError, ["Received nan at lengths[0]."]),
        (SAME, {"lengths": [True, False]}, TypeError, ["`lengths` must be integers. Received dtype bool"]),
        (SAME, {"lengths": [[3], [2]]}, ValueError, ["`lengths` must have one dimension."]),
        (SAME, {"lengths": {"a": [1, 2]}}, ValueError, ["`lengths` must be one array, as `x` is."]),
        (SAME, {"lengths": MASK[:, :2]}, ValueError, ["Expected shape (2, 3) as in `x`, received (2, 2)."]),
        (SAME, {"lengths": [[1, 1, 0], [1, 0, 1]]}, ValueError, ["with gaps", "at lengths[1]: [1, 0, 1]"]),
        (SAME, {"lengths": [[1, 1, 0], [0, 1, 0]]}, ValueError, ["padding at both ends, at lengths[1]"]),
        (SAME, {"lengths": [[1, 1, 0], [0, 1, 1]]}, ValueError, ["at the end of row 0 and at the beginning of row 1"]),
        (SAME, {"lengths": MASK, "padding": "pre"}, ValueError, ["`padding` must be the end", "received 'pre'"]),
        (
            (np.array([1, 2]), np.array([[1, 2, 0], [3, 0, 0]])),
            {"lengths": ([2, 1], None)},
            ValueError,
            ["`lengths[0]` must be None", "received shape (2,) at `x[0]`"],
        ),
        (SAME, {"lengths": ~MASK}, ValueError, ["as if it were True where the padding is. Pass its opposite, ~mask."]),
        # Which entries are sequences.
        ({"a": SAME, "b": STATIC}, {}, ValueError, ["It is not clear", "x['b']\": (2, 5)", "sequences=['a', 'b']"]),
        ((SAME, STATIC), {"lengths": [2, 1]}, ValueError, ["It is not clear", "sequences=[0, 1]"]),
        ({"a": SAME}, {"sequences": "b"}, ValueError, ["`sequences` names no entry of `x`. Expected one of ['a']"]),
        ({"a": SAME}, {"sequences": None, "lengths": {"b": [1]}}, ValueError, ["`lengths` must have keys of `x`."]),
        ({"a": SAME}, {"sequences": [["a"]]}, TypeError, ["`sequences` must be a key of `x`, or a list of keys."]),
        ({"a": SAME}, {"sequences": []}, ValueError, ["`sequences` is empty."]),
        (SAME, {"sequences": "a"}, ValueError, ["`x` is one array. Leave it out."]),
        ({"a": SAME, "b": [1, 2]}, {"sequences": "b"}, ValueError, ["received shape (2,) at `x['b']`"]),
        ({"a": SAME, "b": SAME}, {"lengths": {"a": [2, 1]}}, ValueError, ["an entry for `x['b']` too", "or None if"]),
        ({"a": SAME}, {"lengths": {"a": None}}, ValueError, ["`lengths` has no lengths for any entry of `x`."]),
        ((SAME, SAME), {"lengths": ([2, 1],)}, ValueError, ["an entry for each of `x`. Expected 2, received 1."]),
        # Lengths that the values do not show.
        (
            {"a": SAME, "b": FULL},
            {},
            ValueError,
            ["`lengths` must be given", "2 timesteps of data at x['a'][0], but 3 at x['b'][0]"],
        ),
        ({"a": SAME, "b": SAME * [[1], [0]]}, {}, ValueError, ["0 timesteps of data at x['b'][1], but 1 at x['a'][1]"]),
        (
            {"a": SAME, "b_mask": MASK, "c_mask": np.array([[1, 0, 0], [1, 1, 1]])},
            {},
            ValueError,
            ["several masks have the shape of `x['a']`: x['b_mask'], x['c_mask']. Pass a dict or tuple"],
        ),
        ({"a": SAME, "mask": [[1, 0, 1], [1, 1, 1]]}, {}, ValueError, ["`x['mask']` must be True in one run"]),
        # However long the input is.
        ({f"k{i}": np.zeros((2, i + 1)) for i in range(2000)}, {}, ValueError, ["It is not clear"]),
        (np.ones((2, 5000)), {"lengths": np.tile([0, 1, 0, 1], (2, 1250))}, ValueError, ["with gaps"]),
        ({"a": SAME}, {"sequences": "b" * 10_000}, ValueError, ["`sequences` names no entry of `x`."]),
    ],
)
def test_wrong_padded_arrays_are_refused(x, options, error, texts):
    with pytest.raises(error) as raised:
        BucketedSequence.from_padded(x, **options)
    assert all(text in str(raised.value) for text in texts), str(raised.value)
    assert len(str(raised.value)) < 1000


ARRAYS = [SAME, FULL, STATIC, MASK, SAME[:, ::-1], [1, 2], [[1], [2, 3]], np.zeros((2, 0)), np.zeros((0, 3))]
ARRAYS += [
    "text",
    None,
    np.full((2, 3), np.nan),
    SAME.astype("float16"),
    np.ones((3, 3)),
    np.ones((2, 3, 2)),
    5,
    [["a"]],
]
ARRAYS += [tf.ragged.constant([[1], [2, 3]]), tf.constant([[1, 0], [2, 3]]), np.array([[1], None], object)]
LENGTHS = [
    None,
    [2, 1],
    [9, 9],
    [0, 3],
    MASK,
    ~MASK,
    MASK.astype("float32"),
    [[2, 1]],
    "ab",
    3,
    [None, 1],
    [],
    [1.5, 2],
]
LEAVES = st.sampled_from(ARRAYS)
GIVEN = st.sampled_from(LENGTHS)
STRUCTURES = LEAVES | st.fixed_dictionaries({"a": LEAVES}, optional={"mask": LEAVES, "b": LEAVES | st.tuples(LEAVES)})
STRUCTURES |= st.tuples(LEAVES, LEAVES)
GIVENS = GIVEN | st.fixed_dictionaries({}, optional={"a": GIVEN, "b": GIVEN, "c": GIVEN}) | st.tuples(GIVEN, GIVEN)
ARGUMENTS = {
    "mask_value": st.sampled_from([0, -1, 1.5, float("nan"), None, 10**30, True]),
    "padding": st.sampled_from([None, "post", "pre", "left", 1]),
    "sequences": st.sampled_from([None, "a", ["a", "b"], 0, [0, 1], [], 1.5, [[]], "c", True]),
    "maxlen": st.sampled_from([None, 2, 3, 0, "3"]),
}


def check_error(error):
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    assert "keras_bucketing" in Path(raised_in).parts, f"raised in {raised_in}: {error}"
    assert "`" in str(error)
    assert len(str(error)) < 1000


@settings(max_examples=examples(400))
@given(STRUCTURES, GIVENS, st.fixed_dictionaries({}, optional=ARGUMENTS))
def test_any_arguments_give_sequences_or_an_error_of_ours(x, lengths, arguments):
    try:
        stripped, padded = sequences_from_padded(x, lengths, **arguments)
    except (ValueError, TypeError) as error:
        check_error(error)
        return
    ragged = [leaf for leaf in tf.nest.flatten(stripped) if isinstance(leaf, Rows)]
    assert len(ragged) == len(padded) > 0
    for leaf, entry in zip(ragged, sorted(padded, key=lambda entry: entry.name), strict=True):
        assert leaf.lengths.tolist() == entry.lengths.tolist()
        assert entry.lengths.max() <= entry.time


def test_padding_that_would_call_padding_real_is_refused():
    x = {"token_ids": np.where(SAME, SAME, 9), "padding_mask": MASK}
    with pytest.raises(ValueError, match=r"`padding_value` must be 0 where `x` has a mask.*x\['padding_mask'\]"):
        BucketedSequence.from_padded(x, mask_value=9)
    batch = next(iter(BucketedSequence.from_padded(x, mask_value=9, padding_value=0, shuffle=False)))
    assert batch["padding_mask"].numpy().tolist() == [[True, False], [True, True]]


def test_masks_tell_which_arrays_of_several_sizes_are_sequences():
    x = {"source": SAME, "source_mask": MASK, "target": SAME[:, :2], "target_mask": MASK[:, :2]}
    x["target"], x["target_mask"] = np.array([[1, 0], [3, 3]]), np.array([[True, False], [True, True]])
    batch = next(iter(BucketedSequence.from_padded(x, shuffle=False, batch_size=1, bucket_boundaries=[2])))
    assert {name: leaf.shape[1] for name, leaf in batch.items()} in (
        {"source": 1, "source_mask": 1, "target": 2, "target_mask": 2},
        {"source": 2, "source_mask": 2, "target": 1, "target_mask": 1},
    )


@pytest.mark.parametrize(
    ("source", "source_mask", "target", "target_mask"),
    [
        ("encoder_token_ids", "encoder_padding_mask", "decoder_token_ids", "decoder_padding_mask"),
        ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"),
        ("tokens", "mask", "decoder_tokens", "decoder_mask"),
    ],
)
def test_masks_of_one_shape_belong_to_the_entries_that_begin_as_they_do(source, source_mask, target, target_mask):
    other = MASK[::-1]
    x = {source: np.ones((2, 3)), source_mask: MASK, target: np.ones((2, 3)), target_mask: other}
    lengths = {name: leaf.lengths.tolist() for name, leaf in ragged_from_padded(x).items()}
    assert lengths == {source: [2, 1], source_mask: [2, 1], target: [1, 2], target_mask: [1, 2]}


def test_a_tuple_of_numbers_is_one_array_of_lengths():
    assert ragged_from_padded((SAME, SAME), (2, 1))[1].lengths.tolist() == [2, 1]
    assert ragged_from_padded({"a": (SAME, SAME)}, {"a": (2, 1)})["a"][1].lengths.tolist() == [2, 1]


# Padding that was taken for data: a warning, at the caller's line.


def recordings(seed=0, features=(3,), count=60):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, *features)).astype("float32") for length in rng.integers(2, 50, count)]


def normalized(array, axes=(0, 1)):
    return (array - array.mean(axes)) / array.std(axes)


POST = pad(recordings(), 50, "post", 0)
PRE = pad(recordings(), 50, "pre", 0)
TOKENS = np.random.default_rng(0).integers(5, 100, (60, 20))
PADDED_WITH_ONE = np.where(np.arange(20) < np.arange(60)[:, np.newaxis] % 18 + 1, TOKENS, 1)


@pytest.mark.parametrize(
    ("x", "options", "texts"),
    [
        (POST, {"mask_value": -1.0}, ["58 of 60 rows end in 2 to", "of [0.0, 0.0, 0.0]", "Pass mask_value=0.0."]),
        (PRE, {"mask_value": -1.0}, ["rows begin in 2 to", "Pass mask_value=0.0."]),
        (PRE, {"padding": "post"}, ["rows begin in 2 to", 'Pass padding="pre", or leave `padding` out.']),
        (POST, {"padding": "pre"}, ["rows end in 2 to", 'Pass padding="post", or leave']),
        (normalized(POST), {}, ["by mask_value=0", "since its features differ: was it normalized?", "lengths=..."]),
        (normalized(POST[..., 0], (0, 1)), {}, ["Pass mask_value="]),
        (PADDED_WITH_ONE, {}, ["rows end in 2 to 19 timesteps of [1]", "Pass mask_value=1."]),
        ({"a": PADDED_WITH_ONE}, {}, ["All rows of `x['a']` have 20 real timesteps"]),
        # A start token that is mask_value is stripped; all lengths are still equal.
        (np.insert(PADDED_WITH_ONE, 0, 0, axis=1), {}, ["have 20 real timesteps by mask_value=0", "mask_value=1."]),
        (np.where(POST == 0, np.nan, POST), {}, ["of [nan, nan, nan]", 'Pass mask_value=float("nan").']),
    ],
)
def test_unnoticed_padding_is_pointed_out(x, options, texts):
    with pytest.warns(UserWarning, match="looks like padding") as caught:
        BucketedSequence.from_padded(x, **options)
    message = str(caught[0].message)
    assert all(text in message for text in texts), message
    assert len(message) < 1000
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("value", [0.1, -2.0])
def test_the_cure_cures(value):
    padded = pad(recordings(features=()), 50, "pre", value)
    with pytest.warns(UserWarning, match="looks like padding") as caught:
        BucketedSequence.from_padded(padded)
    cure = str(caught[0].message).split("mask_value=")[2].split(" ")[0].rstrip(".")
    dataset = BucketedSequence.from_padded(padded, mask_value=float(cure), seed=0)
    assert_same_batches(dataset, BucketedSequence(recordings(features=()), padding_value=value, seed=0))


@settings(max_examples=examples(40))
@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from(["float", "tokens", "binary", "once"]), paddings, seeds()
)
def test_data_without_padding_raise_no_alarm(num_rows, time, kind, padding, seed):
    rng = np.random.default_rng(seed)
    x = {
        "float": lambda: rng.normal(size=(num_rows, time, 2)),
        "tokens": lambda: rng.integers(1, 1000, (num_rows, time)),
        "binary": lambda: rng.integers(1, 3, (num_rows * 10, time)),
        # A last timestep that all rows share, as an end-of-sequence token.
        "once": lambda: np.insert(rng.integers(5, 1000, (num_rows, time)), 0 if padding == "pre" else time, 3, axis=1),
    }[kind]()
    assert unpad_arrays(x, mask_value=-1).warnings == []


def test_lengths_that_are_given_raise_no_alarm():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BucketedSequence.from_padded(PADDED_WITH_ONE, lengths=[20] * 60)
        BucketedSequence.from_padded(PADDED_WITH_ONE, lengths=np.ones((60, 20), bool))
