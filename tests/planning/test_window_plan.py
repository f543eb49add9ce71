"""Windows of a stream: whole batches, whose rows fit, and rows that wait no longer than one window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.buckets import BatchSizing
from keras_bucketing.planning.window_plan import WindowKey, WindowPlanner
from tests.support.default_layer import examples

MAX_LENGTH = 40
KEY = WindowKey(seed=7, epoch=0, window=0)


def planner_of(most_rows, budget=None, multiple=1, quadratic_length=None, **options):
    rules = {
        "min_length": 1,
        "max_length": None,
        "pad_to_bucket_boundary": False,
        "drop_remainder": False,
        "shuffle": True,
    }
    sizing = BatchSizing(None, None, budget, multiple, quadratic_length)
    return WindowPlanner(sizing, list(most_rows), **{**rules, **options})


def plan(planner, lengths, boundaries, num_waited=0, key=KEY, is_last=False, label_lengths=None):
    lengths = np.array(lengths, np.int64)
    labels = np.zeros_like(lengths) if label_lengths is None else np.array(label_lengths, np.int64)
    return planner.plan(lengths, labels, num_waited, boundaries, key, is_last)


@st.composite
def windows(draw, multiple=1):
    lengths = draw(st.lists(st.integers(1, MAX_LENGTH), max_size=60))
    boundaries = sorted(draw(st.sets(st.integers(2, MAX_LENGTH), max_size=5)))
    sizes = draw(st.lists(st.integers(1, 12), min_size=len(boundaries) + 1, max_size=len(boundaries) + 1))
    num_waited = draw(st.integers(0, len(lengths)))
    key = WindowKey(draw(st.integers(0, 2**63 - 1)), draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40)))
    return lengths, boundaries, [size * multiple for size in sorted(sizes, reverse=True)], num_waited, key


def batches_of(plan):
    return [plan.order[start : start + size] for start, size in zip(plan.starts, plan.sizes, strict=True)]


def check_cover(plan, lengths, boundaries, num_waited):
    """Every row is in one batch or waits, no batch has a row of a longer bucket, and who has waited goes first."""
    assert sorted(plan.order) == list(range(len(lengths)))
    row_buckets = np.searchsorted(boundaries, lengths, side="right")
    batched = [row for batch in batches_of(plan) for row in batch]
    assert sorted(batched) == sorted(plan.order[plan.num_waiting :])
    for batch, bucket in zip(batches_of(plan), plan.buckets, strict=True):
        assert row_buckets[batch].max() <= bucket
    waiting = plan.order[: plan.num_waiting]
    if len(lengths) - num_waited >= plan.num_waiting:
        assert (waiting >= num_waited).all()
    return waiting


@settings(max_examples=examples(200))
@given(windows())
def test_a_window_is_cut_into_whole_batches(window):
    lengths, boundaries, rows, num_waited, key = window
    planned = plan(planner_of(rows), lengths, boundaries, num_waited, key)
    waiting = check_cover(planned, lengths, boundaries, num_waited)
    assert np.array_equal(planned.sizes, np.array(rows)[planned.buckets])
    assert len(waiting) < max(rows)
    assert plan(planner_of(rows), lengths, boundaries, num_waited, key).order.tolist() == planned.order.tolist()


@settings(max_examples=examples(60))
@given(windows())
def test_an_unshuffled_window_is_sorted_by_length(window):
    lengths, boundaries, rows, num_waited, key = window
    planned = plan(planner_of(rows, shuffle=False), lengths, boundaries, num_waited, key)
    check_cover(planned, lengths, boundaries, num_waited)
    batched = planned.order[planned.num_waiting :]
    assert (np.diff(np.array(lengths)[batched]) >= 0).all()
    assert (np.diff(planned.starts) > 0).all()


@settings(max_examples=examples(200))
@given(windows(multiple=2), st.sampled_from([None, 10, 1]), st.booleans(), st.booleans(), st.randoms())
def test_no_batch_exceeds_the_budget(window, quadratic_length, pads, is_last, random):
    """Whatever it counts: squares, labels of their own length, the end of the bucket; that of the last batch too."""
    lengths, boundaries, rows, num_waited, key = window
    labels = np.array([random.randint(0, MAX_LENGTH) for _ in lengths], np.int64)

    def cost(length):
        return length if quadratic_length is None else length + length**2 / quadratic_length

    budget = int(2 * cost(MAX_LENGTH))
    options = {"pad_to_bucket_boundary": pads, "max_length": MAX_LENGTH}
    planner = planner_of([max(rows)], budget, 2, quadratic_length, **options)
    planned = plan(planner, lengths, boundaries, num_waited, key, label_lengths=labels)
    check_cover(planned, lengths, boundaries, num_waited)
    if is_last:  # the rows that wait are all that comes
        waiting = planned.order[: planned.num_waiting]
        lengths, labels = np.array(lengths)[waiting], labels[waiting]
        planned = plan(planner, lengths, boundaries, len(lengths), key, is_last=True, label_lengths=labels)
        assert planned.sizes.sum() == len(lengths) // 2 * 2
    for batch, padded in zip(batches_of(planned), planned.padded_lengths, strict=True):
        assert 0 < len(batch) <= max(rows)
        assert len(batch) % 2 == 0
        longest = max(np.array(lengths)[batch].max(), labels[batch].max(), padded)
        assert len(batch) * cost(longest) <= budget


@settings(max_examples=examples(60))
@given(windows())
def test_batches_are_padded_to_the_end_of_their_bucket(window):
    lengths, boundaries, rows, num_waited, key = window
    options = {"pad_to_bucket_boundary": True, "max_length": MAX_LENGTH, "min_length": 5}
    planned = plan(planner_of(rows, **options), lengths, boundaries, num_waited, key, is_last=True)
    ends = [max(end, 5) for end in (*(boundary - 1 for boundary in boundaries), MAX_LENGTH)]
    for batch, bucket, padded in zip(batches_of(planned), planned.buckets, planned.padded_lengths, strict=True):
        assert padded == ends[bucket] >= np.array(lengths)[batch].max()


@settings(max_examples=examples(60))
@given(windows(multiple=3), st.booleans())
def test_the_last_window_has_one_partial_batch_at_most(window, drops):
    lengths, boundaries, rows, num_waited, key = window
    planner = planner_of(rows, multiple=3, drop_remainder=drops)
    planned = plan(planner, lengths, boundaries, num_waited, key, is_last=True)
    full = plan(planner, lengths, boundaries, num_waited, key)
    rest = full.num_waiting // 3 * 3 if not drops else 0
    assert planned.sizes.tolist() == [*full.sizes.tolist(), *([rest] if rest else [])]
    batched = np.concatenate([np.zeros(0, int), *batches_of(planned)])
    assert len(set(batched)) == len(batched)
    assert drops or len(lengths) - len(batched) < 3


def test_what_no_batch_can_hold_is_refused():
    with pytest.raises(ValueError, match=r"`max_timesteps_per_batch` must hold .* at least 18 for 9 timesteps"):
        plan(planner_of([4], budget=17, multiple=2), [1, 9], [])
    with pytest.raises(ValueError, match="at least 12 for 12 timesteps"):
        plan(planner_of([4], budget=11), [1, 9], [], label_lengths=[12, 1])
    with pytest.raises(ValueError, match="at least 8 for 3 timesteps"):
        plan(planner_of([4], budget=7, quadratic_length=2), [1, 3], [])
    with pytest.raises(ValueError, match="Expected lengths below 9, received 9"):
        plan(planner_of([4], pad_to_bucket_boundary=True), [1, 9], [4, 9])


def test_a_rare_length_leaves_in_its_window():
    """Of 33 rows in batches of 4, one waits: one of the shortest, not the rare one."""
    planned = plan(planner_of([4, 4, 4]), [2] * 16 + [3] * 16 + [1000], [3, 4])
    assert planned.num_waiting == 1
    assert planned.order[0] < 16


def test_random_numbers_are_those_of_the_window():
    keys = [KEY, KEY, *(KEY._replace(**{part: 1}) for part in KEY._fields)]
    orders = [tuple(plan(planner_of([4]), [3] * 40, [], key=key).order.tolist()) for key in keys]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 4


def test_random_numbers_stay_those_of_earlier_versions():
    assert WindowKey(1, 2, 3).permutation(12, 0).tolist() == [5, 0, 1, 2, 7, 8, 6, 4, 11, 3, 9, 10]
    planned = plan(planner_of([2]), [3, 9, 3, 9, 3, 9, 3, 9, 3, 9, 3, 9], [5], key=WindowKey(1, 2, 3))
    assert planned.order.tolist() == [2, 0, 6, 4, 10, 8, 1, 3, 9, 7, 5, 11]
    assert planned.starts.tolist() == [0, 6, 4, 2, 8, 10]


def test_rows_that_fill_up_a_batch_bring_their_labels_into_the_budget():
    """One row of 4 timesteps is filled up with rows of 1 timestep, whose labels have 10."""
    planned = plan(planner_of([8], budget=20), [4, 1, 1, 1, 1], [2], label_lengths=[1, 10, 10, 10, 10])
    assert planned.sizes.max() == 2


def test_next_to_a_budget_the_most_rows_count():
    assert plan(planner_of([4], budget=100), [1] * 12, []).sizes.tolist() == [4, 4, 4]


def test_a_budget_counts_the_least_padded_length():
    planned = plan(planner_of([8], budget=20, min_length=10), [1] * 8, [])
    assert planned.sizes.tolist() == [2] * 4
    assert planned.padded_lengths.tolist() == [10] * 4
