"""The batches of an epoch: where rows are cut, and in which order they come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.epoch_plan import EpochPlan
from tests.support.planning import bucketings, cut_or_reject, make_planner, plan
from tests.support.strategies import length_arrays, seeds


@settings(max_examples=30)
@given(bucketings(), st.booleans(), seeds(), seeds())
def test_a_plan_holds_each_row_once_in_the_batches_that_were_cut(bucketing, shuffle, epoch, seed):
    lengths, buckets, multiple, remainder, options = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    epoch_plan = plan(make_planner(lengths, options, remainder, shuffle), epoch, seed)
    assert epoch_plan.epoch == epoch
    assert sorted([*epoch_plan.rows, *epoch_plan.left_out]) == list(range(len(lengths)))
    assert sorted(zip(np.diff(epoch_plan.batch_splits), epoch_plan.buckets, strict=True)) == sorted(
        zip(cuts.stops - cuts.starts, cuts.buckets, strict=True)
    )
    assert len(epoch_plan) == len(list(epoch_plan)) == len(cuts.starts)
    for rows, padded, bucket in zip(epoch_plan, epoch_plan.padded_lengths, epoch_plan.buckets, strict=True):
        assert buckets.row_buckets[rows].max() <= bucket
        longest = lengths[rows].max()
        assert padded == (buckets.upper_lengths[bucket] if options["pad_to_bucket_boundary"] else longest)
    if not shuffle:
        assert (np.diff(lengths[epoch_plan.rows]) >= 0).all()


@settings(max_examples=10)
@given(length_arrays(min_size=20, max_size=40, max_length=5), seeds())
def test_seed_and_epoch_decide_the_order(lengths, seed):
    planner, again = (make_planner(lengths, {"batch_size": 2, "num_buckets": 2}) for _ in range(2))
    first = plan(planner, 0, seed)
    assert np.array_equal(first.rows, plan(again, 0, seed).rows)
    assert not np.array_equal(first.rows, plan(planner, 1, seed).rows)
    assert not np.array_equal(first.rows, plan(planner, 0, seed + 1).rows)


def test_batches_of_different_epochs_hold_different_rows():
    planner = make_planner(np.repeat([3, 4, 9], 40), {"batch_size": 4, "num_buckets": 3})
    batches = [{tuple(sorted(rows)) for rows in plan(planner, epoch, seed=1)} for epoch in range(4)]
    # 30 batches of 4 out of 40: of C(40, 4) = 91390 choices, two epochs share one with probability 1 %.
    assert all(len(one & other) <= 1 for one in batches for other in batches if one is not other)


def test_the_order_of_a_seed_is_the_same_in_every_version():
    planner = make_planner(np.array([1, 1, 1, 1, 2, 2, 5, 5, 5, 9]), {"batch_size": 3, "num_buckets": 3})
    # Pinned: a state that an older version saved must resume with the same batches.
    assert [rows.tolist() for rows in plan(planner, epoch=2, seed=7)] == [[3, 0, 1], [5, 2, 4], [6, 7, 8], [9]]


def test_every_row_is_spare_in_its_turn():
    # 17 rows in batches of a multiple of 2: the 50 timesteps of row 15 are alone in the last bucket.
    planner = make_planner(
        np.array([1] * 15 + [50] + [2]), {"batch_size": 4, "num_buckets": 3, "batch_size_multiple": 2}
    )
    spare = np.bincount(np.concatenate([plan(planner, epoch, seed=3).left_out for epoch in range(600)]), minlength=17)
    assert spare.sum() == 600
    # Binomial with mean 35 and a standard deviation of 5.8: five of them.
    assert ((spare > 6) & (spare < 65)).all(), spare


def test_unshuffled_rows_of_equal_length_keep_their_order():
    epoch_plan = plan(make_planner(np.array([2, 1, 2, 1, 2]), {"batch_size": 2}, shuffle=False))
    assert [rows.tolist() for rows in epoch_plan] == [[1, 3], [0, 2], [4]]


@pytest.mark.parametrize(
    ("remainder", "batches"),
    [
        ("spill", [[0, 1, 2], [3, 4, 5], [6]]),
        ("keep", [[0, 1, 2], [3], [4, 5], [6]]),
        ("drop", [[0, 1, 2]]),
    ],
)
def test_remainders_by_hand(remainder, batches):
    lengths = np.array([1, 1, 1, 1, 5, 5, 9])
    planner = make_planner(lengths, {"batch_size": 3, "bucket_boundaries": [5, 9]}, remainder, shuffle=False)
    assert [rows.tolist() for rows in plan(planner)] == batches


# From tensorflow/python/data/kernel_tests/bucket_by_sequence_length_test.py.
@pytest.mark.parametrize(("remainder", "batches"), [("drop", [2, 0, 1, 2]), ("keep", [3, 1, 2, 3])])
def test_batches_of_tensorflows_own_test(remainder, batches):
    lengths = np.repeat([8, 13, 25, 35], [28, 7, 6, 5])
    options = {"bucket_boundaries": [10, 20, 30], "bucket_batch_sizes": [10, 8, 4, 2]}
    epoch_plan = plan(make_planner(lengths, options, remainder))
    assert np.bincount(epoch_plan.buckets, minlength=4).tolist() == batches


def test_padded_lengths_of_tensorflows_own_test():
    options = {"bucket_boundaries": [10, 20, 30], "batch_size": 2, "pad_to_bucket_boundary": True}
    planner = make_planner(np.repeat([8, 13, 25, 35], 2), options, shuffle=False)
    assert plan(planner).padded_lengths.tolist() == [9, 19, 29, 35]


# From gluon-nlp's tests/data/test_sampler.py: each id once, whatever the number of buckets.
@pytest.mark.parametrize("num_buckets", [1, 10, 100, 5000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_id_comes_once_for_any_number_of_buckets(num_buckets, shuffle):
    lengths = np.random.default_rng(0).integers(1, 1000, 1000)
    planner = make_planner(lengths, {"batch_size": 8, "num_buckets": num_buckets}, shuffle=shuffle)
    epoch_plan = planner.plan(0, 0)
    assert sorted(epoch_plan.rows) == list(range(1000))
    assert len(epoch_plan) == 125


def test_batches_of_a_plan_are_indexed_like_a_list():
    arrays = [np.array(values) for values in ([4, 2, 0], [0, 2, 3], [5, 6], [0, 1], [])]
    epoch_plan = EpochPlan(0, *arrays)
    assert epoch_plan[0].tolist() == [4, 2]
    assert epoch_plan[-1].tolist() == [0]
    with pytest.raises(IndexError, match=r"Batch 2 is out of range\. Expected an index below 2\."):
        epoch_plan[2]
