"""How often rows are drawn: the draws of each bucket, the share of each row, and what is read once for all that."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.draws import (
    RowDraws,
    Sampling,
    check_sampling,
    count_weights,
    expected_draws,
    round_draws,
    typical_lengths,
    typical_rows,
)
from tests.support.default_layer import examples
from tests.support.strategies import length_arrays, seeds

WEIGHTS = st.floats(0, 1e3, allow_subnormal=False) | st.sampled_from([0.0, 1e-30, 1e30, 1.0, 1.0])


@st.composite
def weight_arrays(draw, *, max_size=12):
    """At least one of them above 0."""
    weights = draw(st.lists(WEIGHTS, max_size=max_size))
    weights.insert(draw(st.integers(0, len(weights))), draw(st.floats(1e-3, 1e3)))
    return np.array(weights)


@settings(max_examples=examples(200))
@given(weight_arrays(), st.integers(0, 200))
def test_draws_are_rounded_by_the_largest_remainder_and_no_bucket_is_without(weights, more):
    filled = weights > 0
    num_draws = int(filled.sum()) + more
    draws = round_draws(weights, num_draws)
    assert draws.sum() == num_draws
    assert (draws[filled] >= 1).all()
    assert not draws[~filled].any()
    expected = weights / weights.sum() * num_draws
    at_least = np.where(filled, np.maximum(np.floor(expected), 1), 0)
    if at_least.sum() <= num_draws:  # otherwise those that are lifted to one take more than the others have to give
        assert (np.abs(draws - expected) < 1 + 1e-9).all()
        remainders = expected - at_least
        lifted = draws > at_least
        if lifted.any():
            assert remainders[lifted].min() >= remainders[filled & ~lifted].max(initial=-1) - 1e-9


def bucket_arrays(num_rows, seed):
    """Buckets of rows in any order, of which the second may be empty."""
    return np.random.default_rng(seed).choice([0, 2, 3], num_rows).astype(np.int32)


@settings(max_examples=examples(60))
@given(st.lists(WEIGHTS.filter(bool), min_size=1, max_size=20), seeds(), st.integers(0, 50))
def test_the_units_of_a_bucket_are_its_draws_and_each_row_has_its_share(weights, seed, more):
    weights, buckets = np.array(weights), bucket_arrays(len(weights), seed)
    rows = np.arange(len(weights)) * 3
    sums = np.bincount(buckets, weights, minlength=4)
    draws = round_draws(sums, len(np.unique(buckets)) + more)
    made = RowDraws.of(Sampling(rows, weights, 1, False), buckets, draws)
    assert made.num_draws == draws.sum()
    assert (made.units >= 0).all()
    for bucket in range(4):
        assert int(made.units[buckets == bucket].sum()) == int(draws[bucket]) * made.unit
    expected = expected_draws(weights, buckets, draws)
    np.testing.assert_allclose(made.units / made.unit, expected, atol=1e-9 * draws.sum())


@settings(max_examples=examples(15))
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), seeds(), st.integers(0, 40))
def test_rows_are_drawn_one_step_apart_whatever_their_order(weights, seed, more):
    """Against a plain loop over the steps."""
    weights, buckets = np.array(weights, float), bucket_arrays(len(weights), seed)
    draws = round_draws(np.bincount(buckets, weights, minlength=4), len(np.unique(buckets)) + more)
    made = RowDraws.of(Sampling(np.arange(len(weights)), weights, 1, False), buckets, draws)
    order = np.random.default_rng(seed).permutation(len(weights))
    order = order[np.argsort(buckets[order], kind="stable")]
    drawn = draw_in_graph(made, order, seed)
    assert np.bincount(buckets[drawn], minlength=4).tolist() == draws.tolist()
    assert (np.diff(buckets[drawn]) >= 0).all()
    # The one start that explains them, if there is any: rows side by side, each as long as its units.
    ends = np.cumsum([int(units) for units in made.units[order]])
    places = {
        row: (int(end) - int(units), int(end)) for row, units, end in zip(order, made.units[order], ends, strict=True)
    }
    lowest = max(places[row][0] - step * made.unit for step, row in enumerate(drawn))
    highest = min(places[row][1] - step * made.unit for step, row in enumerate(drawn))
    assert max(lowest, 0) < min(highest, made.unit)


def draw_in_graph(draws, order, seed):
    from keras_bucketing.planning.epoch_plan import DrawTensors

    tensors = DrawTensors(
        *(tf.constant(part, dtype) for part, dtype in ((draws.rows, tf.int32), (draws.units, tf.int64))),
        tf.constant(draws.unit, tf.int64),
        tf.constant(draws.num_draws),
    )
    key, stream = tf.constant([seed], tf.uint64), tf.constant(0, tf.uint64)
    assert tensors.draw(tf.constant([], tf.int32), key, stream, 0).numpy().size == 0
    return tensors.draw(tf.constant(order, tf.int32), key, stream, 1).numpy()


@settings(max_examples=examples(60))
@given(length_arrays(max_size=20), st.data())
def test_typical_rows_are_each_row_as_often_as_expected(lengths, data):
    repeats = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(lengths), max_size=len(lengths))), float)
    repeats[0] += 1
    expected = np.sort(np.repeat(lengths, repeats.astype(int)))
    assert typical_lengths(lengths, repeats).tolist() == expected.tolist()
    rows = typical_rows(lengths, repeats)
    assert np.bincount(rows, minlength=len(lengths)).tolist() == repeats.tolist()
    assert lengths[rows].tolist() == expected.tolist()


def test_typical_lengths_are_spread_evenly_where_rows_are_many_and_draws_few():
    lengths = np.random.default_rng(0).integers(1, 1000, 5000)
    typical = typical_lengths(lengths, np.full(5000, 100 / 5000))
    assert len(typical) == 100
    np.testing.assert_allclose(typical, np.quantile(lengths, (np.arange(100) + 0.5) / 100), atol=2)


@settings(max_examples=examples(60))
@given(length_arrays(max_size=20, max_length=2**31 - 1), seeds())
def test_counts_of_weights_keep_the_proportions_of_whole_numbers(lengths, seed):
    repeats = np.random.default_rng(seed).integers(1, 5, len(lengths))
    distinct, counts = count_weights(lengths, repeats.astype(float))
    expected = [repeats[lengths == length].sum() for length in distinct]
    assert distinct.tolist() == np.unique(lengths).tolist()
    ratios = {count / number for count, number in zip(counts.tolist(), expected, strict=True)}
    assert len(ratios) == 1 or counts.sum() < 2**30
    assert int(distinct[-1]) * int(counts.sum()) < 2**61


def test_a_huge_weight_does_not_take_the_rows_of_tiny_ones_away():
    distinct, counts = count_weights(np.array([1, 2, 3]), np.array([1e-200, 1e200, 1.0]))
    assert distinct.tolist() == [1, 2, 3]
    assert (counts > 0).all()
    made = check_sampling(np.array([1e308, 1e308, 1e-5]), None, "spill", True).of_rows(3, None)
    assert math.isfinite(made.weights.sum())
    assert made.rows.tolist() == [0, 1, 2]


REFUSED = [
    ({"sampling_weights": [1, np.nan]}, ValueError, "Received nan at sampling_weights[1]."),
    ({"sampling_weights": [1, np.inf]}, ValueError, "Received inf at sampling_weights[1]."),
    ({"sampling_weights": [1, 2, -1]}, ValueError, "Received -1 at sampling_weights[2]."),
    (
        {"sampling_weights": [0, 0.0]},
        ValueError,
        "`sampling_weights` must not all be 0. Received 2 of them, none above",
    ),
    ({"sampling_weights": []}, ValueError, "`sampling_weights` must not all be 0. Received 0 of them"),
    (
        {"sampling_weights": [True, False]},
        TypeError,
        "Received booleans. To read only some of the rows, use dataset.sub",
    ),
    ({"sampling_weights": ["a", "b"]}, TypeError, "`sampling_weights` must be numbers. Received ['a', 'b'] (list)."),
    ({"sampling_weights": {0: 1.0}}, TypeError, "`sampling_weights` must be numbers. Received {0: 1.0} (dict)."),
    ({"sampling_weights": [[1], [2, 3]]}, TypeError, "`sampling_weights` must be numbers."),
    ({"sampling_weights": [None, 1]}, TypeError, "`sampling_weights` must be numbers."),
    ({"sampling_weights": np.array([1j])}, TypeError, "`sampling_weights` must be numbers."),
    ({"sampling_weights": np.ones((3, 1))}, ValueError, "Expected shape (num_sequences,), received (3, 1)."),
    ({"sampling_weights": 2.0}, ValueError, "Expected shape (num_sequences,), received ()."),
    (
        {"sampling_weights": [1], "remainder": "drop"},
        ValueError,
        'Expected remainder="spill" or "keep", received "drop".',
    ),
    (
        {"rows_per_epoch": 5, "remainder": "drop"},
        ValueError,
        "`rows_per_epoch` draws as many rows as batches have room",
    ),
    ({"sampling_weights": [1], "shuffle": False}, ValueError, "Expected shuffle=True, received False."),
    ({"rows_per_epoch": 0}, ValueError, "`rows_per_epoch` is too small. Expected an int >= 1, received 0."),
    ({"rows_per_epoch": 1.5}, TypeError, "`rows_per_epoch` must be an integer."),
    ({"rows_per_epoch": True}, TypeError, "`rows_per_epoch` must be an integer."),
    ({"rows_per_epoch": 2**31}, ValueError, "`rows_per_epoch` is too large."),
]


@pytest.mark.parametrize(("arguments", "error", "text"), REFUSED)
def test_wrong_arguments_are_refused(arguments, error, text):
    defaults = {"sampling_weights": None, "rows_per_epoch": None, "remainder": "spill", "shuffle": True}
    with pytest.raises(error, match=re.escape(text)):
        check_sampling(**{**defaults, **arguments})


@pytest.mark.parametrize(
    "weights", [[1, 2], (1, 2), np.array([1, 2], np.uint8), np.array([1, 2], np.float16), tf.constant([1.0, 2.0])]
)
def test_numbers_of_every_kind_are_taken(weights):
    assert check_sampling(weights, None, "spill", True).weights.tolist() == [1, 2]


def test_without_arguments_nothing_is_drawn():
    assert check_sampling(None, None, "drop", False) is None
