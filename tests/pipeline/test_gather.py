"""Row indices to one padded batch, against plain loops in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.data.collect import collect_inputs, length_entries
from keras_bucketing.pipeline.gather import BatchGatherer
from keras_bucketing.planning.buckets import Shard
from keras_bucketing.planning.epoch_plan import Cut
from tests.support.default_layer import examples
from tests.support.strategies import lengths_lists, random_sequences, seeds, sequence_lists


def gatherer_of(inputs, padding=0, label_padding=0, include_lengths=False, timestep_weights=True, pads_further=False):
    gatherer = BatchGatherer(
        inputs,
        padding,
        label_padding,
        length_entries(inputs, include_lengths),
        timestep_weights,
        pads_further,
        Shard(1, 0),
    )
    return gatherer, len(inputs.lengths.leaves)


def gather(x, y=None, weights=None, rows=None, padded_to=None, align_labels=True, **options):
    """One batch; `padded_to` is the least padded length of all leaves, or a list of one for each."""
    inputs = collect_inputs(x, y, weights, align_labels)
    gatherer, num_leaves = gatherer_of(inputs, pads_further=padded_to is not None, **options)
    rows = tf.constant(range(2) if rows is None else rows, tf.int32)
    least = padded_to if isinstance(padded_to, list) else [padded_to or 1] * num_leaves
    batch = gatherer(rows, Cut(*map(tf.constant, ([0], [len(rows)], least))))
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), batch)


def pad(sequences, padding_value, padded_length=0):
    """One row after the other."""
    padded_length = max([padded_length, *map(len, sequences)])
    shape = (len(sequences), padded_length, *sequences[0].shape[1:])
    padded = np.full(shape, padding_value, sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


@settings(max_examples=examples(100))
@given(sequence_lists(), st.sampled_from([0, 1]), st.none() | st.integers(1, 30), st.data())
def test_a_batch_is_its_rows_padded_and_nothing_else(sequences, padding_value, padded_to, data):
    rows = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=8))
    batch = gather(sequences, rows=rows, padded_to=padded_to, padding=padding_value)
    expected = pad([sequences[row] for row in rows], padding_value, padded_to or 0)
    assert batch.dtype == expected.dtype
    assert batch.shape == expected.shape
    assert batch.tobytes() == expected.tobytes()


@pytest.mark.parametrize("floatx", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0.1, -1e-3, float("nan"), float("inf")])
def test_padding_holds_the_very_value_that_was_given(floatx, value):
    keras.config.set_floatx(floatx)
    try:
        batch = gather([[1.0, 2.0], [3.0]], padding=value)
    finally:
        keras.config.set_floatx("float32")
    assert batch.dtype == floatx
    assert batch[1, 1].tobytes() == np.array(value, floatx).tobytes()


def test_integer_padding_is_not_rounded():
    assert gather([np.array([1, 2], np.uint64), np.array([3], np.uint64)], padding=2**64 - 1)[1, 1] == 2**64 - 1
    assert gather([[1, 2], [3]], padding=2**53 + 1)[1, 1] == 2**53 + 1


@settings(max_examples=examples(40))
@given(lengths_lists(min_size=2, max_size=8), st.data(), st.none() | st.integers(1, 30), seeds())
def test_each_leaf_is_padded_to_its_own_longest(lengths, data, padded_to, seed):
    other = data.draw(lengths_lists(min_size=len(lengths), max_size=len(lengths)))
    a, b = random_sequences(lengths, "int32", seed=seed), random_sequences(other, "float32", (2,), seed)
    numbers = np.arange(len(lengths))
    rows = data.draw(st.permutations(range(len(lengths))))
    batch = gather({"a": a, "b": b, "n": numbers}, rows=rows, padded_to=padded_to, include_lengths=True)
    assert batch["a"].tobytes() == pad([a[row] for row in rows], 0, padded_to or 0).tobytes()
    assert batch["b"].tobytes() == pad([b[row] for row in rows], 0, padded_to or 0).tobytes()
    assert batch["n"].tolist() == rows
    assert batch["a_lengths"].tolist() == [lengths[row] for row in rows]
    assert batch["b_lengths"].tolist() == [other[row] for row in rows]
    assert batch["lengths"].tolist() == [max(lengths[row], other[row]) for row in rows]
    assert batch["lengths"].dtype == np.int32


@settings(max_examples=examples(40))
@given(lengths_lists(min_size=2, max_size=8), st.sampled_from(["none", "rows", "timesteps"]), seeds())
def test_timestep_labels_weigh_nothing_where_they_are_padding(lengths, kind, seed):
    x = random_sequences(lengths, seed=seed)
    y = [row % 5 for row in x]
    row_weights = np.arange(1, len(x) + 1) / 4
    step_weights = [np.arange(1, length + 1) / 8 for length in lengths]
    weights = {"none": None, "rows": row_weights, "timesteps": step_weights}[kind]
    rows = range(len(x))
    _, labels, sample_weight = gather(x, y, weights, rows=rows, label_padding=-1)
    assert np.array_equal(labels, pad(y, -1))
    expected = {
        "none": [np.ones(length) for length in lengths],
        "rows": [np.full(length, weight) for length, weight in zip(lengths, row_weights, strict=True)],
        "timesteps": step_weights,
    }[kind]
    assert sample_weight.dtype == np.float32
    assert np.array_equal(sample_weight, pad(expected, 0))


X = [[1, 2, 3], [4]]


def test_batches_come_in_the_forms_that_keras_unpacks():
    assert isinstance(gather(X), np.ndarray)
    assert [len(gather((X, [7, 8]))), len(gather((X, [7, 8]))[0])] == [1, 2]
    assert set(gather({"a": X})) == {"a"}
    assert set(gather(X, include_lengths=True)) == {"sequences", "lengths"}
    assert set(gather({"a": X, "n": [1, 2]}, include_lengths=True)) == {"a", "n", "lengths"}
    assert len(gather(X, [1, 0])) == 2
    assert len(gather(X, [1, 0], [0.5, 2])) == 3
    assert set(gather(X, {"u": [1, 0], "v": [1, 0]})[1]) == {"u", "v"}


def test_outputs_of_both_kinds_get_weights_of_both_kinds():
    _, labels, weights = gather(X, {"tag": [[1, 1, 1], [2]], "class": [5, 6]}, [2.0, 3.0])
    assert labels["class"].tolist() == [5, 6]
    assert weights["class"].tolist() == [2, 3]
    assert weights["tag"].tolist() == [[2, 2, 2], [3, 0, 0]]
    _, _, weights = gather(X, ([[1, 1, 1], [2]], [5, 6]), ([[1, 2, 3], [4]], [5, 6]))
    assert weights[0].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert weights[1].tolist() == [5, 6]


def test_shapes_are_known_but_for_rows_and_time():
    gatherer, _ = gatherer_of(collect_inputs([np.zeros((3, 12)), np.zeros((2, 12))], None, None))
    dataset = tf.data.Dataset.from_tensors((tf.constant([0, 1]), Cut([0], [2], [1]))).map(gatherer)
    assert dataset.element_spec.shape.as_list() == [None, None, 12]


# Labels of their own length.


@settings(max_examples=examples(40))
@given(lengths_lists(min_size=2, max_size=8), st.data(), st.none() | st.integers(1, 30), seeds())
def test_labels_of_their_own_length_are_padded_to_their_own_longest(lengths, data, padded_to, seed):
    label_lengths = data.draw(lengths_lists(min_size=len(lengths), max_size=len(lengths), min_length=0))
    x, y = random_sequences(lengths, seed=seed), random_sequences(label_lengths, "int16", (2,), seed)
    weights = [np.arange(1, length + 1) / 8 for length in label_lengths]
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, max_size=8))
    options = {"rows": rows, "align_labels": False, "label_padding": -1, "include_lengths": True}
    least = None if padded_to is None else [1, padded_to]
    inputs, labels = gather(x, y, padded_to=least, **options)
    assert inputs["sequences"].tobytes() == pad([x[row] for row in rows], 0).tobytes()
    assert labels.dtype == np.int16
    assert np.array_equal(labels, pad([y[row] for row in rows], -1, padded_to or 1))
    assert inputs["label_lengths"].tolist() == [label_lengths[row] for row in rows]
    assert inputs["label_lengths"].dtype == np.int32
    _, _, padded_weights = gather(x, y, weights, padded_to=least, **options)
    assert np.array_equal(padded_weights, pad([weights[row] for row in rows], 0, padded_to or 1))


def test_labels_of_their_own_length_bring_no_weights():
    y = {"text": [[7, 8, 9], []], "class": [5, 6]}
    assert len(gather(X, y, align_labels=False)) == 2
    _, labels, weights = gather(X, y, [2.0, 3.0], align_labels=False)
    assert labels["text"].tolist() == [[7, 8, 9], [0, 0, 0]]
    assert weights.tolist() == [2, 3]  # for all outputs, as Keras takes them
    _, _, weights = gather(X, y, {"text": [[1, 2, 3], []], "class": [2, 3]}, align_labels=False)
    assert weights["text"].tolist() == [[1, 2, 3], [0, 0, 0]]
    assert weights["class"].tolist() == [2, 3]


def test_a_batch_of_nothing_but_empty_labels_has_one_timestep_of_padding():
    _, labels = gather(X, [[], []], align_labels=False, label_padding=9)
    assert labels.tolist() == [[9], [9]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, None), ([2.0, 3.0], [2, 3]), ([[1, 2, 3], [4]], [[1, 2, 3], [4, 0, 0]])],
)
def test_timestep_weights_can_be_turned_off(weights, expected):
    batch = gather(X, [[5, 6, 7], [8]], weights, timestep_weights=False)
    assert batch[1].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert len(batch) == (2 if weights is None else 3)
    assert weights is None or batch[2].tolist() == expected


def test_labels_of_each_timestep_are_padded_like_their_own_leaf():
    x = {"a": [[1], [2, 3]], "b": X}
    _, labels, weights = gather(x, {"u": X, "v": [[1], [2, 3]]}, padded_to=[4, 6])
    assert labels["u"].shape == weights["u"].shape == (2, 6)
    assert labels["v"].shape == weights["v"].shape == (2, 4)
