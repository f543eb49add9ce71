"""Predictions back in the order of the input."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.pipeline.restore_order import restore_order
from keras_bucketing.planning.epoch_plan import EpochPlan
from tests.support.default_layer import examples


def plan_of(rows):
    rows, empty = np.array(rows, np.int64), np.array([], np.int64)
    return EpochPlan(0, rows, np.array([0, len(rows)]), np.array([9]), np.array([0]), empty)


@settings(max_examples=examples(200))
@given(st.integers(1, 30).flatmap(lambda n: st.permutations(range(n))))
def test_restoring_undoes_the_order_of_the_plan(order):
    given = np.random.default_rng(0).random((len(order), 2))
    lengths = np.ones(len(order), np.int32)
    assert np.array_equal(restore_order(given[order], plan_of(order), lengths), given)


@settings(max_examples=examples(30))
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(0, 3))
def test_ragged_predictions_are_cut_to_the_real_timesteps(lengths, random, padding):
    order = random.sample(range(len(lengths)), len(lengths))
    sequences = [[[float(row), float(step)] for step in range(length)] for row, length in enumerate(lengths)]
    padded = [sequences[row] + [[-1.0, -1.0]] * padding for row in order]
    outputs = tf.RaggedTensor.from_row_lengths(np.concatenate(padded), [len(row) for row in padded])
    assert restore_order(outputs, plan_of(order), np.array(lengths)).to_list() == sequences


def test_structures_of_outputs_keep_their_form():
    outputs = {"a": np.array([10, 20]), "b": [np.array([[1], [2]]), tf.constant([3, 4])]}
    restored = restore_order(outputs, plan_of([1, 0]), np.array([1, 1]))
    assert restored["a"].tolist() == [20, 10]
    assert restored["b"][0].tolist() == [[2], [1]]
    assert restored["b"][1].tolist() == [4, 3]


@pytest.mark.parametrize(
    ("outputs", "rows", "error", "text"),
    [
        (
            np.zeros(2),
            [0, 2],
            ValueError,
            "1 of 3 rows were not yielded, the first of them x[1]. For predictions use remainder=",
        ),
        (np.zeros(2), [0, 1, 2], ValueError, "`outputs` must have one row for each sequence. Expected 3, received 2."),
        (np.float32(1), [0, 1, 2], ValueError, "Expected 3, received 0."),
        ([1, 2, 3], [0, 1, 2], TypeError, "`outputs` must be an array, or a dict or list of arrays. Received int."),
        ({"a": None}, [0, 1, 2], TypeError, "Received NoneType. Pass what model.predict(dataset) returned."),
    ],
)
def test_outputs_of_another_pass_are_refused(outputs, rows, error, text):
    with pytest.raises(error) as raised:
        restore_order(outputs, plan_of(rows), np.ones(3, int))
    assert text in str(raised.value)
