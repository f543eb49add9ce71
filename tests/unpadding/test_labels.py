"""Labels and weights that are padded like the sequences: ragged, unless they may be something else."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.unpadding.array_labels import labels_from_padded
from tests.support.rows import flat, sequences_from_padded


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_labels_that_are_padded_alike_become_ragged(padding):
    padded = sequences_from_padded(np.ones((2, 3)), [1, 3], 0, padding)[1]
    labels = {"tag": np.array([[5, 0, 0], [6, 7, 8]]), "class": np.array([1, 2]), "pair": (np.ones((2, 3, 4)), [1, 2])}
    if padding == "pre":
        labels["tag"] = np.array([[0, 0, 5], [6, 7, 8]])
    ragged = labels_from_padded(labels, padded, None, "y")
    assert flat(ragged["tag"]).tolist() == [5, 6, 7, 8]
    assert ragged["class"] is labels["class"]
    assert flat(ragged["pair"][0]).shape == (4, 4)
    assert ragged["pair"][1] == [1, 2]


def test_labels_that_may_be_one_hot_need_a_word_of_the_caller():
    padded = keras.utils.pad_sequences([[1, 2, 3], [4], [5, 6]], padding="post")
    classes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"`y` may hold one label per timestep, or 3 values per row.*=False"):
        BucketedSequence.from_padded(padded, classes)
    with pytest.raises(ValueError, match=r"`y\['class'\]` may hold"):
        BucketedSequence.from_padded(padded, {"class": classes})
    with pytest.raises(ValueError, match="with no constant in the padding"):
        BucketedSequence.from_padded(np.ones((3, 3)), classes)  # nothing is padded

    _, of_rows = next(iter(BucketedSequence.from_padded(padded, classes, timestep_labels=False, shuffle=False)))
    assert of_rows.numpy().tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    options = {"timestep_labels": True, "shuffle": False}
    with pytest.raises(ValueError, match="`y` holds labels where `x` is padded"):
        BucketedSequence.from_padded(padded, classes, **options)
    of_padding = np.where(padded == 0, 0, classes)
    _, of_timesteps, weights = next(iter(BucketedSequence.from_padded(padded, of_padding, **options)))
    assert of_timesteps.numpy().tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert weights.numpy().sum(axis=1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("padding", ["post", "pre"])
def test_batches_of_padded_labels_are_those_of_the_labels(padding):
    x = [[1, 2, 3], [4], [5, 6]]
    padded = keras.utils.pad_sequences(x, padding=padding)
    dataset = BucketedSequence.from_padded(padded, padded * 10, shuffle=False, batch_size=2)
    sequences, labels, weights = next(iter(dataset))
    assert sequences.numpy().tolist() == [[4, 0], [5, 6]]
    assert labels.numpy().tolist() == [[40, 0], [50, 60]]
    assert weights.numpy().tolist() == [[1, 0], [1, 1]]


# Two entries of `x` with one shape, but lengths of their own: as encoder and decoder have them.
SOURCE = np.array([[1, 2, 3, 0], [4, 5, 0, 0], [6, 0, 0, 0]])
TARGET = np.array([[1, 2, 0, 0], [4, 0, 0, 0], [6, 7, 8, 0]])


@pytest.mark.parametrize(
    ("x", "labels", "lengths"),
    [
        ((SOURCE, TARGET), TARGET * 10, [2, 1, 3]),
        ((SOURCE, TARGET), SOURCE * 10 - 1, [3, 2, 1]),
        # Where both fit, because one is always the longer: the one that ends in data.
        ((SOURCE, np.minimum(SOURCE, 1) * [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]), SOURCE[:, ::-1] * 0 + 5, None),
        ((SOURCE, SOURCE * 2), SOURCE, [3, 2, 1]),
        ((SOURCE, np.where([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], SOURCE, 0)), SOURCE, [3, 2, 1]),
    ],
)
def test_labels_of_one_of_several_entries(x, labels, lengths):
    padded = sequences_from_padded(x)[1]
    if lengths is None:
        with pytest.raises(ValueError, match=r"`y` may hold one label per timestep of `x\[0\]` or of `x\[1\]`"):
            labels_from_padded(labels, padded, None, "y")
    else:
        assert labels_from_padded(labels, padded, None, "y").lengths.tolist() == lengths


@pytest.mark.parametrize("timestep_labels", [True, None])
def test_labels_of_an_entry_without_padding_or_of_one_with(timestep_labels):
    x = {"source": np.full((1, 3), 7), "target": np.array([[6, 3, 0]]), "target_mask": np.array([[True, True, False]])}
    labels = np.array([[4, 4, 5]])  # of every timestep of the source, or of the target, padded with 5
    found = r"`y` may hold one label per timestep of `x\['source'\]` or of `x\['target'\]`"
    with pytest.raises(ValueError, match=found):
        BucketedSequence.from_padded(x, labels, timestep_labels=timestep_labels)


def test_labels_without_padding_pass_through():
    labels = tf.ragged.constant([[1, 2], [1], [1, 2, 3]])
    assert labels_from_padded(labels, sequences_from_padded((SOURCE, TARGET))[1], None, "y") is labels
