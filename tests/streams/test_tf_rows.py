"""Rows of a tf.data.Dataset, some at a time: those that `ragged_batch` gives, and never more than memory allows."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.streams import tf_rows
from keras_bucketing.streams.elements import leaves_of, split_element
from keras_bucketing.streams.saved_sequences import read_dataset
from keras_bucketing.streams.tf_rows import MAX_BYTES, MAX_ROWS, batches_of_rows
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.default_layer import examples

STRUCTURES = {
    "x": lambda row, length: row,
    "labels": lambda row, length: (row, length),
    "leaves": lambda row, length: (
        {"b": tf.cast(row, tf.float32)[:, tf.newaxis], "a": tf.fill([2], length)},
        (row < 3, tf.cast(length, tf.uint8)),
        None,
    ),
}


def rows_of(leaf):
    return [np.asarray(row) for row in leaf]


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(0, 5), max_size=3 * MAX_ROWS), st.sampled_from(sorted(STRUCTURES)))
def test_they_are_those_of_ragged_batch(lengths, structure):
    dataset = tf.data.Dataset.from_tensor_slices(np.array(lengths, np.int64))
    dataset = dataset.map(lambda length: STRUCTURES[structure](tf.range(length), length))
    found = [leaves_of(batch) for batch in batches_of_rows(dataset)]
    expected = [leaves_of(split_element(batch)) for batch in dataset.ragged_batch(MAX_ROWS)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for path, leaf in one.items():
            assert leaf.dtype == other[path].dtype
            assert isinstance(leaf, tf.RaggedTensor) == isinstance(other[path], tf.RaggedTensor)
            for row, row_of_other in zip(rows_of(leaf), rows_of(other[path]), strict=True):
                np.testing.assert_array_equal(row, row_of_other)


def test_large_rows_are_read_few_at_once():
    sizes = [1000] * (MAX_ROWS + 1) + [MAX_BYTES // 2 + 1] * 3 + [2 * MAX_BYTES, 1000, 2 * MAX_BYTES, 1000]
    asked = []

    def rows():
        for size in sizes:
            asked.append(size)
            yield np.zeros(size, np.uint8), size

    signature = (tf.TensorSpec([None], tf.uint8), tf.TensorSpec([], tf.int64))
    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    read = 0
    for x, y, _ in batches_of_rows(dataset):
        assert asked == sizes[: read + len(y)]  # none is asked for ahead of time
        assert sum(sizes[read : read + len(y) - 1]) < MAX_BYTES
        assert x.row_lengths().numpy().tolist() == y.tolist() == sizes[read : read + len(y)]
        read += len(y)
    assert read == len(sizes)


@pytest.mark.parametrize("features", [[2, 2, 2], [2, 3, 2]])
def test_features_of_unknown_size_are_compared(features):
    rows = [np.ones((2, width)) for width in features]
    dataset = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=tf.TensorSpec([None, None]))
    if len(set(features)) > 1:
        with pytest.raises(ValueError, match=r"Expected \(2,\) as in x\[0\], received \(3,\) at x\[1\]"):
            read_dataset(dataset, None, BatchOptions(batched=False))
    else:
        x, _, _ = read_dataset(dataset, None, BatchOptions(batched=False))
        assert x.values.shape == (6, 2)


def test_a_batch_is_not_read_before_it_is_asked_for():
    asked = []

    def batches():
        for number in range(4):
            asked.append(number)
            yield np.ones((2, 3 + number))

    dataset = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([None, None]))
    for number, _ in enumerate(tf_rows.without_prefetch(dataset)):
        assert asked == list(range(number + 1))
