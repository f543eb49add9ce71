"""Padded arrays back to sequences: the inverse of `keras.utils.pad_sequences`."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.inputs.padded import labels_from_padded, ragged_from_padded
from tests.support.strategies import lengths_lists, seeds

paddings = st.sampled_from(["post", "pre"])


def positive_sequences(lengths, feature_shape, seed):
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 100, (length, *feature_shape)) for length in lengths]


@settings(max_examples=150)
@given(lengths_lists(), paddings, st.sampled_from([(), (2,), (2, 3)]), st.sampled_from([0, -1, 7.5]), seeds())
def test_padding_with_pad_sequences_is_undone(lengths, padding, feature_shape, mask_value, seed):
    sequences = positive_sequences(lengths, feature_shape, seed)
    padded = keras.utils.pad_sequences(sequences, dtype="float32", padding=padding, value=mask_value)
    ragged = ragged_from_padded(padded, None, mask_value, padding)
    # A timestep that holds the mask value itself looks like padding at the padded end; lengths settle it.
    exact = ragged_from_padded(padded, lengths, mask_value, padding)
    assert exact.lengths.tolist() == lengths
    assert np.array_equal(exact.values, np.concatenate(sequences))
    if mask_value != 7.5:
        assert np.array_equal(ragged.values, exact.values)
        assert np.array_equal(ragged.row_splits, exact.row_splits)


@pytest.mark.parametrize(
    ("padding", "padded", "lengths"),
    [
        ("post", [[1, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]], [3, 0, 4]),
        ("pre", [[0, 1, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0]], [3, 0, 4]),
        ("post", [[[0, 1], [0, 0]], [[1, 0], [0, 1]]], [1, 2]),
    ],
)
def test_only_the_run_at_the_padded_end_is_padding(padding, padded, lengths):
    assert ragged_from_padded(np.array(padded), None, 0, padding).lengths.tolist() == lengths


def test_padding_may_be_nan():
    ragged = ragged_from_padded(np.array([[1, np.nan, np.nan], [np.nan, 2, np.nan]]), None, float("nan"), "post")
    assert ragged.lengths.tolist() == [1, 2]


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_labels_that_are_padded_alike_become_ragged(padding):
    lengths = np.array([1, 3])
    labels = {"tag": np.array([[5, 0, 0], [6, 7, 8]]), "class": np.array([1, 2]), "pair": (np.ones((2, 3, 4)), [1, 2])}
    if padding == "pre":
        labels["tag"] = np.array([[0, 0, 5], [6, 7, 8]])
    ragged = labels_from_padded(labels, lengths, 3, padding, None, "y")
    assert ragged["tag"].values.tolist() == [5, 6, 7, 8]
    assert ragged["class"] is labels["class"]
    assert ragged["pair"][0].values.shape == (4, 4)
    assert ragged["pair"][1] == [1, 2]


def test_labels_that_may_be_one_hot_need_a_word_of_the_caller():
    padded = keras.utils.pad_sequences([[1, 2, 3], [4], [5, 6]], padding="post")
    classes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"`y` may hold one label a timestep, or 3 values a row.*=False"):
        BucketedSequence.from_padded(padded, classes)
    with pytest.raises(ValueError, match=r"`y\['class'\]` may hold"):
        BucketedSequence.from_padded(padded, {"class": classes})
    with pytest.raises(ValueError, match="with no constant in the padding"):
        BucketedSequence.from_padded(np.ones((3, 3)), classes)  # nothing is padded

    _, of_rows = next(iter(BucketedSequence.from_padded(padded, classes, timestep_labels=False, shuffle=False)))
    assert of_rows.numpy().tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    options = {"timestep_labels": True, "shuffle": False}
    _, of_timesteps, weights = next(iter(BucketedSequence.from_padded(padded, classes, **options)))
    assert of_timesteps.numpy().tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert weights.numpy().sum(axis=1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_batches_of_padded_arrays_are_those_of_the_sequences(padding):
    x = [[1, 2, 3], [4], [5, 6]]
    padded = keras.utils.pad_sequences(x, padding=padding)
    dataset = BucketedSequence.from_padded(padded, padded * 10, padding=padding, shuffle=False, batch_size=2)
    sequences, labels, weights = next(iter(dataset))
    assert sequences.numpy().tolist() == [[4, 0], [5, 6]]
    assert labels.numpy().tolist() == [[40, 0], [50, 60]]
    assert weights.numpy().tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("x", "options", "error", "text"),
    [
        ([[1, 2], [3]], {}, ValueError, "`x` must be one regular array. Received a nested list of uneven shape."),
        ([1, 2], {}, ValueError, "Expected an array of shape (num_sequences, time, ...), received shape (2,)."),
        (np.zeros((0, 4)), {}, ValueError, "`x` has no sequences."),
        ([["a"]], {}, TypeError, "`x` must hold numbers."),
        ({"a": [[1]]}, {}, TypeError, "`x` must be one padded array. Received a dict."),
        (
            [[1, 0]],
            {"padding": "left"},
            ValueError,
            "`padding` is unknown. Expected one of ['post', 'pre'], received 'left'.",
        ),
        ([[1, 0]], {"mask_value": "0"}, TypeError, "`mask_value` must be a number."),
        ([[1, 0]], {"lengths": [3]}, ValueError, "Expected at most 2, received 3 at lengths[0]."),
        ([[1, 0]], {"lengths": [1, 1]}, ValueError, "Expected 1 as in `x`, received 2."),
        ([[1, 0]], {"lengths": [-1]}, ValueError, "`lengths` must be at least 0. Received -1 at lengths[0]."),
        ([[1, 0]], {"lengths": [float("nan")]}, ValueError, "Received nan at lengths[0]."),
    ],
)
def test_wrong_padded_arrays_are_refused(x, options, error, text):
    arguments = {"lengths": None, "mask_value": 0, "padding": "post", **options}
    with pytest.raises(error) as raised:
        ragged_from_padded(x, **arguments)
    assert text in str(raised.value)
