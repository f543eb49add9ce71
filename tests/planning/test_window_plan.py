"""Windows of a stream: whole batches, whose rows fit, and rows that wait no longer than one window."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.window_plan import BatchLimits, plan_window
from tests.support.default_layer import examples

MAX_LENGTH = 40


def traced(shuffle, max_timesteps=None, multiple=1):
    """One graph for all examples."""

    def plan(lengths, has_waited, boundaries, rows, stream):
        uppers = tf.zeros([tf.size(boundaries) + 1], tf.int32)
        key = tf.constant([7], tf.uint64)
        limits = BatchLimits(rows, max_timesteps, multiple)
        return plan_window(lengths, has_waited, boundaries, uppers, limits, key, stream, shuffle)

    vector = tf.TensorSpec([None], tf.int32)
    waited = tf.TensorSpec([None], tf.bool)
    return tf.function(plan, input_signature=[vector, waited, vector, vector, tf.TensorSpec([], tf.uint64)])


SHUFFLED, SORTED = traced(shuffle=True), traced(shuffle=False)
WITH_BUDGET = traced(shuffle=True, max_timesteps=2 * MAX_LENGTH, multiple=2)


@st.composite
def windows(draw, multiple=1):
    rows = draw(st.lists(st.tuples(st.integers(1, MAX_LENGTH), st.booleans()), max_size=60))
    boundaries = sorted(draw(st.sets(st.integers(2, MAX_LENGTH), max_size=5)))
    sizes = draw(st.lists(st.integers(1, 12), min_size=len(boundaries) + 1, max_size=len(boundaries) + 1))
    lengths = np.array([length for length, _ in rows], np.int32)
    has_waited = np.array([waited for _, waited in rows], bool)
    sizes = np.array(sorted(sizes, reverse=True), np.int32) * multiple
    return lengths, has_waited, np.array(boundaries, np.int32), sizes, draw(st.integers(0, 2**40))


def as_arrays(plan):
    return [part.numpy() for part in plan]


def check_cover(plan, lengths, has_waited, boundaries):
    """Every row is in one batch or waits, no batch has a row of a longer bucket, and who has waited goes first."""
    order, num_waiting, starts, sizes, buckets = as_arrays(plan)
    assert sorted(order) == list(range(len(lengths)))
    row_buckets = np.searchsorted(boundaries, lengths, side="right")
    batched = [row for start, size in zip(starts, sizes, strict=True) for row in order[start : start + size]]
    assert sorted(batched) == sorted(order[num_waiting:])
    for start, size, bucket in zip(starts, sizes, buckets, strict=True):
        assert row_buckets[order[start : start + size]].max() <= bucket
    waiting = order[:num_waiting]
    if (~has_waited).sum() >= num_waiting:
        assert not has_waited[waiting].any()
    return waiting


@settings(max_examples=examples(200))
@given(windows())
def test_a_window_is_cut_into_whole_batches(window):
    lengths, has_waited, boundaries, rows, _ = window
    plan = SHUFFLED(*window)
    waiting = check_cover(plan, lengths, has_waited, boundaries)
    assert np.array_equal(plan.sizes, rows[plan.buckets.numpy()])
    assert len(waiting) < rows.max()


@settings(max_examples=examples(60))
@given(windows())
def test_an_unshuffled_window_is_sorted_by_length(window):
    lengths, has_waited, boundaries, *_ = window
    plan = SORTED(*window)
    check_cover(plan, lengths, has_waited, boundaries)
    batched = plan.order.numpy()[int(plan.num_waiting) :]
    assert (np.diff(lengths[batched]) >= 0).all()
    assert (np.diff(plan.starts) > 0).all()


@settings(max_examples=examples(100))
@given(windows(multiple=2))
def test_no_batch_exceeds_the_budget(window):
    lengths, has_waited, boundaries, rows, _ = window
    plan = WITH_BUDGET(*window)
    check_cover(plan, lengths, has_waited, boundaries)
    order, _, starts, sizes, _ = as_arrays(plan)
    for start, size in zip(starts, sizes, strict=True):
        assert 0 < size <= rows.max()
        assert size % 2 == 0
        assert size * lengths[order[start : start + size]].max() <= 2 * MAX_LENGTH


def test_a_rare_length_leaves_in_its_window():
    """Of 33 rows in batches of 4, one waits: one of the shortest, not the rare one."""
    lengths = np.array([2] * 16 + [3] * 16 + [1000], np.int32)
    rows = np.array([4, 4, 4], np.int32)
    plan = SHUFFLED(lengths, np.zeros(33, bool), np.array([3, 4], np.int32), rows, 5)
    assert int(plan.num_waiting) == 1
    assert lengths[plan.order.numpy()[0]] == 2


def test_random_numbers_are_those_of_the_window():
    lengths, none = np.full(40, 3, np.int32), np.zeros(40, bool)
    plans = [SHUFFLED(lengths, none, np.zeros(0, np.int32), np.array([4], np.int32), stream) for stream in (0, 0, 2)]
    orders = [plan.order.numpy().tolist() for plan in plans]
    assert orders[0] == orders[1] != orders[2]
