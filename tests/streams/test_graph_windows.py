"""Windows of a `tf.data.Dataset` are its rows one after the other, whatever these hold."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.data.row_format import WindowLeaf
from keras_bucketing.streams.elements import leaves_of
from keras_bucketing.streams.windows import format_of_rows, open_row_source
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.default_layer import examples
from tests.support.streams import Sequences, count_rows, datasets, has_timestep_labels, map_leaves, single_rows


def windows_of(source, num_rows, drop_empty=False, **options):
    opened = open_row_source(source, BatchOptions(**options))
    row_format = format_of_rows(opened.inputs)
    return row_format.leaves, list(opened.windows(row_format, num_rows, drop_empty)(tf.constant(0, tf.int64)))


def rows_of_leaf(leaf):
    """The rows of a leaf of a window."""
    if not isinstance(leaf, WindowLeaf):
        return list(leaf.numpy())
    values = leaf.values.numpy()
    return [values[start : start + size] for start, size in zip(leaf.starts.numpy(), leaf.sizes.numpy(), strict=True)]


def like_padding(leaf):
    """A leaf half of whose timesteps are 0 or 1, which rows are padded with."""
    if not isinstance(leaf, Sequences):
        return leaf
    random = np.random.default_rng(len(leaf))
    rows = (np.where(random.random(row.shape) < 0.5, random.integers(0, 2, row.shape), row) for row in leaf)
    return Sequences(row.astype(leaf[0].dtype) for row in rows)


@settings(max_examples=examples(12))
@given(datasets(max_rows=40), st.integers(1, 45), st.booleans())
def test_windows_are_the_rows_whatever_they_hold(triple, num_rows, is_ragged):
    triple = map_leaves(like_padding, triple)
    source = single_rows(triple)
    source = source.ragged_batch(3) if is_ragged else source
    timestep_labels = has_timestep_labels(triple) if is_ragged else None
    formats, windows = windows_of(source, num_rows, batched=is_ragged, timestep_labels=timestep_labels)
    starts = range(0, count_rows(triple), num_rows)
    assert len(windows) == len(starts)
    expected = leaves_of(triple)
    for start, window in zip(starts, windows, strict=True):
        for leaf, value in zip(formats, window, strict=True):
            received = rows_of_leaf(value)
            rows = expected[leaf.path][start : start + num_rows]
            assert len(received) == len(rows)
            for row, other in zip(received, rows, strict=True):
                assert np.array_equal(row, other, equal_nan=np.asarray(other).dtype.kind == "f"), leaf


@pytest.mark.parametrize("others", [True, False])
def test_ragged_rows_beside_others(others):
    """A row of a `tf.RaggedTensor` keeps its kind where it has not been mapped."""
    ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3], [], [4]]))
    dense = tf.data.Dataset.range(4).map(lambda size: tf.fill([size], size))
    labels = tf.data.Dataset.range(4)
    source = tf.data.Dataset.zip(((ragged, dense) if others else (ragged,), labels))
    received = [[[row.tolist() for row in rows_of_leaf(leaf)] for leaf in each] for each in windows_of(source, 3)[1]]
    expected = [[[1], [2, 3], []], [[], [1], [2, 2]], [0, 1, 2]], [[[4]], [[3, 3, 3]], [3]]
    assert received == [part if others else [part[0], part[2]] for part in expected]


def test_rows_without_timesteps_are_left_out():
    source = tf.data.Dataset.from_tensor_slices([2, 0, 1, 0, 3]).map(lambda length: tf.fill([length], length))
    (leaf,), windows = windows_of(source, 2, drop_empty=True)
    assert [[row.tolist() for row in rows_of_leaf(value)] for (value,) in windows] == [[[2, 2], [1]], [[3, 3, 3]]]
    (leaf,), windows = windows_of(source, 5)
    assert windows[0][0].sizes.numpy().tolist() == [2, 0, 1, 0, 3]
    assert leaf.is_sequence


@pytest.mark.parametrize("feature_shape", [(0,), (2, 0)])
def test_features_that_are_none(feature_shape):
    source = tf.data.Dataset.from_tensor_slices([2, 1]).map(lambda length: tf.ones([length, *feature_shape]))
    _, windows = windows_of(source, 3, batched=False)
    assert windows[0][0].sizes.numpy().tolist() == [2, 1]


def undeclared(dataset):
    """The same elements, of unknown rank, as those of `tf.numpy_function` are."""
    return dataset.map(
        lambda *leaves: tuple(tf.raw_ops.PlaceholderWithDefault(input=leaf, shape=None) for leaf in leaves)
    )


def test_shapes_that_are_not_declared_are_those_of_the_first_rows_and_nothing_is_read_in_python(monkeypatch):
    rows = tf.data.Dataset.range(1, 22).map(lambda row: (tf.fill([row % 5, 2], row), tf.one_hot(row % 3, 3), row))
    expected = windows_of(rows, 8, batched=False)[1]
    monkeypatch.setattr(tf.data.Dataset, "from_generator", None)
    formats, windows = windows_of(undeclared(rows), 8, batched=False)
    assert [(leaf.is_sequence, leaf.shape) for leaf in formats] == [(True, (2,)), (False, (3,)), (False, ())]
    for window, other in zip(windows, expected, strict=True):
        for leaf, value in zip(window, other, strict=True):
            assert [row.tolist() for row in rows_of_leaf(leaf)] == [row.tolist() for row in rows_of_leaf(value)]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (lambda row: ([row, 2], [tf.where(row < 20, 3, 4)]), r"`y`.*\(3,\).*timestep_labels=True.*\[20\] \[4\]"),
        (lambda row: (tf.stack([row, 2])[: 1 + tf.cast(row < 20, tf.int32)], []), r"`x`.*\(None, 2\).*\[20\] \[20\]"),
        (lambda row: ([row, tf.where(row < 20, 2, 1)], []), r"`x`.*\[20\] \[20 1\]"),
    ],
)
def test_rows_of_another_shape_than_the_first_are_refused_with_their_number(shapes, message):
    rows = tf.data.Dataset.range(30, output_type=tf.int32).map(lambda row: tuple(map(tf.ones, shapes(row))))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        windows_of(undeclared(rows), 8, batched=False)


def test_batches_whose_shapes_are_not_declared_do_not_count_as_rows():
    batches = tf.data.Dataset.range(1, 6).map(lambda size: (tf.ones([4, size]), tf.ones([4])))
    opened = open_row_source(undeclared(batches), BatchOptions())
    assert opened.num_rows is None
