"""Datasets that draw rows by weights: how often each row comes, and that all else is as exact as without."""

import json
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, PaddingStats
from tests.support.default_layer import examples
from tests.support.strategies import bucket_options, enough_rows, length_arrays, seeds

LENGTHS = np.random.default_rng(1).integers(1, 30, 200)
X = [np.full(length, row, np.int32) for row, length in enumerate(LENGTHS)]
CLASSES = (np.random.default_rng(2).random(200) < 0.1).astype(int)
BALANCED = 1 / np.bincount(CLASSES)[CLASSES]


def make(x=X, y=None, **options):
    y = np.arange(len(x)) if y is None else y
    return BucketedSequence(x, y, **{"batch_size": 8, "seed": 1, "sampling_weights": BALANCED, **options})


def rows_of(batches):
    return [rows.numpy().tolist() for _, rows in batches]


def plan_of(dataset, epoch):
    return [rows.tolist() for rows in dataset.epoch_plan(epoch)]


@st.composite
def sampled(draw):
    """Lengths, weights, of which some are 0, and options."""
    lengths = draw(length_arrays(min_size=4, max_size=40))
    numbers = st.integers(0, 4) | st.floats(0, 3)
    weights = np.array(draw(st.lists(numbers, min_size=len(lengths), max_size=len(lengths))), float)
    weights[draw(st.integers(0, len(lengths) - 1))] = draw(st.integers(1, 9))
    options = draw(bucket_options()) | {"remainder": draw(st.sampled_from(["spill", "keep"]))}
    options["pad_to_bucket_boundary"] = draw(st.booleans())
    options["rows_per_epoch"] = draw(st.none() | st.integers(30, 90))
    options["largest_first"] = draw(st.booleans())
    return lengths, weights, options


ONE_ROW = {"batch_size": 1, "batch_size_multiple": 1, "remainder": "spill", "rows_per_epoch": None}


@settings(max_examples=examples(30))
@given(data=sampled(), seed=seeds(), epoch=st.integers(0, 2**20))
@example(
    # The smallest number that there is, alone in its bucket: one over it is infinite.
    data=(np.array([2, 1]), np.array([1, 5e-324]), {**ONE_ROW, "num_buckets": 2}),
    seed=0,
    epoch=1,
)
def test_each_bucket_has_its_draws_and_each_row_its_share_in_every_epoch(data, seed, epoch):
    lengths, weights, options = data
    with enough_rows():
        dataset = BucketedSequence(
            [np.zeros(length, np.int8) for length in lengths], seed=seed, sampling_weights=weights, **options
        )
    multiple = options["batch_size_multiple"]
    buckets = np.searchsorted(dataset.bucket_boundaries, lengths, side="right")
    sums = np.bincount(buckets, weights, minlength=len(dataset.bucket_batch_sizes))
    total = dataset.num_sequences
    wanted = options["rows_per_epoch"] or np.count_nonzero(weights)
    assert total % multiple == 0
    assert total > wanted - multiple
    assert total <= wanted or total < np.count_nonzero(sums) + multiple
    epochs = [dataset.epoch_plan(number) for number in (0, epoch)]
    draws = [np.bincount(buckets[plan.rows], minlength=len(sums)) for plan in epochs]
    assert draws[0].tolist() == draws[1].tolist()
    assert draws[0].sum() == total
    assert (draws[0][sums > 0] >= 1).all()
    for plan in epochs:
        assert len(plan) == dataset.num_batches
        assert plan.left_out.size == 0
        times = np.bincount(plan.rows, minlength=len(lengths))
        expected = weights / np.where(sums > 0, sums, 1)[buckets] * draws[0][buckets]
        assert (np.abs(times - expected) < 1 + 1e-6).all()
        assert not times[weights == 0].any()
        for rows, bucket, padded in zip(plan, plan.buckets, plan.padded_lengths, strict=True):
            assert buckets[rows].max() <= bucket
            assert len(rows) <= dataset.bucket_batch_sizes[bucket]
            assert len(rows) % multiple == 0
            assert padded >= lengths[rows].max()
            if "max_timesteps_per_batch" in options:
                assert len(rows) * padded <= options["max_timesteps_per_batch"]
    assert sum(len(rows) % size != 0 for rows, size in sizes_of(dataset)) <= (
        len(sums) if options["remainder"] == "keep" or dataset._buckets.apart is not None else 1
    )


def sizes_of(dataset):
    plan = dataset.epoch_plan(0)
    return [(rows, dataset.bucket_batch_sizes[bucket]) for rows, bucket in zip(plan, plan.buckets, strict=True)]


def test_a_pass_yields_its_plan_and_the_next_epoch_draws_others():
    dataset = make(num_buckets=4)
    epochs = [rows_of(dataset) for _ in range(3)]
    assert epochs == [plan_of(dataset, epoch) for epoch in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(dataset)] * 3
    assert len({tuple(np.bincount(np.concatenate(rows), minlength=200)) for rows in epochs}) == 3
    assert epochs == [plan_of(make(num_buckets=4), epoch) for epoch in range(3)]
    assert epochs[0] != plan_of(make(num_buckets=4, seed=2), 0)


def test_rows_come_as_often_as_their_weights_say():
    dataset = make(num_buckets=5, rows_per_epoch=300)
    times = sum(np.bincount(dataset.epoch_plan(epoch).rows, minlength=200) for epoch in range(50))
    buckets = np.searchsorted(dataset.bucket_boundaries, LENGTHS, side="right")
    sums = np.bincount(buckets, BALANCED)
    draws = np.bincount(buckets, times) / 50
    assert draws.tolist() == np.round(draws).tolist()
    assert (np.abs(draws - sums / sums.sum() * 300) < 1).all()
    # Binomial: 50 x draws of the bucket, each of which is the row with its share of the bucket's weights.
    shares = BALANCED / sums[buckets]
    expected = 50 * draws[buckets] * shares
    errors = np.abs(times - expected) / np.sqrt(expected * (1 - shares))
    assert (errors > 3).mean() < 0.01
    assert errors.max() < 4.5
    for label in (0, 1):
        mine = label == CLASSES
        assert abs(times[mine].sum() - expected[mine].sum()) <= 3 * math.sqrt(expected[mine] @ (1 - shares[mine]))
    assert 0.49 < times[CLASSES == 1].sum() / times.sum() < 0.51


def test_pairs_of_neighbours_are_drawn_in_the_same_epoch():
    """In a fixed order, rows whose shares add up to one draw would never meet."""
    dataset = make([[0]] * 20, rows_per_epoch=10, sampling_weights=None)
    epochs = [set(dataset.epoch_plan(epoch).rows.tolist()) for epoch in range(40)]
    assert all(any({row, row + 1} <= epoch for epoch in epochs) for row in range(19))


def test_a_row_of_a_small_weight_is_as_rare_as_it_says():
    """Drawn from a start that is always the same, the row that happens to lie first would always be drawn."""
    dataset = make([[0]] * 20, rows_per_epoch=10, sampling_weights=[0.02] + [1] * 19)
    times = sum(int((dataset.epoch_plan(epoch).rows == 0).sum()) for epoch in range(120))
    assert times < 5  # 1.3 are expected, and 6 if it were drawn wherever it lies first


def test_rows_per_epoch_alone_draws_evenly():
    few, many = (make(sampling_weights=None, rows_per_epoch=number) for number in (64, 500))
    assert (few.num_sequences, many.num_sequences) == (64, 500)
    plans = [few.epoch_plan(epoch).rows for epoch in range(2)]
    assert [len(set(rows.tolist())) for rows in plans] == [64, 64]
    assert set(plans[0].tolist()) != set(plans[1].tolist())
    times = np.bincount(many.epoch_plan(0).rows, minlength=200)
    assert times.min() >= 2
    assert times.max() <= 3


@settings(max_examples=examples(20))
@given(length_arrays(min_size=3, max_size=40), st.data(), bucket_options(), st.booleans())
def test_buckets_are_those_of_a_dataset_that_holds_each_row_as_often(lengths, data, options, to_boundary):
    repeats = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(lengths), max_size=len(lengths))))
    repeats[0] += 1
    options |= {"pad_to_bucket_boundary": to_boundary, "seed": 1}
    total = int(repeats.sum()) // options["batch_size_multiple"] * options["batch_size_multiple"]
    if total != repeats.sum():
        options["batch_size_multiple"] = 1
    rows = [np.zeros(length, np.int8) for length in lengths]
    with enough_rows():
        repeated = BucketedSequence([rows[row] for row in np.repeat(np.arange(len(rows)), repeats)], **options)
    drawn = BucketedSequence(rows, sampling_weights=repeats, rows_per_epoch=int(repeats.sum()), **options)
    assert drawn.bucket_boundaries == repeated.bucket_boundaries
    assert drawn.bucket_batch_sizes == repeated.bucket_batch_sizes
    assert drawn.num_batches == repeated.num_batches
    assert drawn._buckets.apart == repeated._buckets.apart
    assert np.sort(np.diff(drawn.epoch_plan(0).batch_splits)).tolist() == (
        np.sort(np.diff(repeated.epoch_plan(0).batch_splits)).tolist()
    )
    typical = drawn.lengths[drawn._typical_rows()]
    assert typical.tolist() == np.sort(np.repeat(lengths, repeats)).tolist()


def test_statistics_are_those_of_the_rows_that_are_drawn():
    dataset = make(num_buckets=3)
    plan = dataset.epoch_plan(4)
    stats = PaddingStats.from_batches(LENGTHS[plan.rows], plan.batch_splits, plan.padded_lengths, plan.buckets)
    assert dataset.padding_stats(4) == stats
    assert stats.num_sequences == dataset.num_sequences == 200
    assert stats.padding_efficiency > 0.75
    printed = []
    dataset.summary(printed.append)
    assert f"{dataset._buckets.draws.sum()}" in printed[0]


def test_shards_share_the_draws():
    alone = make(batch_size_multiple=2)
    shards = [make(num_shards=2, shard_index=index) for index in (0, 1)]
    for epoch in range(2):
        plans = [shard.epoch_plan(epoch) for shard in shards]
        for batch, rows in enumerate(alone.epoch_plan(epoch)):
            assert rows.tolist() == np.stack([plan[batch] for plan in plans], axis=1).reshape(-1).tolist()
    shards[1].load_state_dict(alone.state_dict(3, 2))
    assert rows_of(shards[1]) == plan_of(shards[1], 3)[2:]


def test_a_state_goes_on_with_the_same_draws_and_belongs_to_its_weights():
    dataset = make(num_buckets=1)  # so that other weights leave the cuts as they are
    state = json.loads(json.dumps(dataset.state_dict(2, 3)))
    resumed = make(seed=None, num_buckets=1, sampling_weights=BALANCED * 2)  # in proportion, as before
    resumed.load_state_dict(state)
    assert rows_of(resumed) == plan_of(dataset, 2)[3:]
    for options in (
        {"sampling_weights": np.roll(BALANCED, 1)},
        {"sampling_weights": None},
        {"rows_per_epoch": 208},
        {"sampling_weights": None, "rows_per_epoch": 200},
    ):
        with pytest.raises(ValueError, match="`state` belongs to another dataset"):
            make(num_buckets=1, **options).load_state_dict(state)
    plain = make(sampling_weights=None)
    assert plain.state_dict()["fingerprint"] == BucketedSequence(X, np.arange(200), seed=3).state_dict()["fingerprint"]


def test_a_subset_takes_the_weights_of_its_rows():
    rows = np.r_[np.flatnonzero(CLASSES)[:5], np.flatnonzero(CLASSES == 0)[:50]]
    subset = make(sampling_weights=BALANCED.tolist()).subset(rows)
    assert plan_of(subset, 1) == plan_of(make([X[row] for row in rows], sampling_weights=BALANCED[rows]), 1)
    other = make().subset(rows, sampling_weights=np.arange(55))
    assert 0 not in np.concatenate(plan_of(other, 0))
    every = make(rows_per_epoch=300).subset(rows, shuffle=False, sampling_weights=None, rows_per_epoch=None)
    assert sorted(np.concatenate(plan_of(every, 0))) == list(range(55))
    with pytest.raises(ValueError, match="Expected shuffle=True, received False"):
        make().subset(rows, shuffle=False)
    with pytest.raises(ValueError, match="`sampling_weights` must not all be 0"):
        make(sampling_weights=CLASSES).subset(np.flatnonzero(CLASSES == 0))


def test_what_a_split_holds_out_is_read_once():
    rest, held_out = make(rows_per_epoch=80).split(0.25, stratify=CLASSES)
    assert (rest.num_sequences, held_out.num_sequences) == (80, 50)
    assert sorted(np.concatenate(plan_of(held_out, 0))) == list(range(50))


def test_rows_that_are_dropped_as_empty_are_not_drawn():
    x = [row if index % 3 else [] for index, row in enumerate(X)]
    dataset = make(x, on_empty="drop")
    plan = dataset.epoch_plan(0)
    assert (plan.rows % 3 > 0).all()
    assert rows_of(dataset) == plan_of(dataset, 0)
    with pytest.raises(ValueError, match="`sampling_weights` are 0 for all rows that are left"):
        make(x, on_empty="drop", sampling_weights=(np.arange(200) % 3 == 0).astype(int))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"sampling_weights": np.ones(199)}, ValueError, "Expected shape (200,), received (199,)."),
        ({"sampling_weights": [True] * 200}, TypeError, "`sampling_weights` must be numbers. Received booleans."),
        (
            {"rows_per_epoch": 3, "bucket_boundaries": [5, 9, 20]},
            ValueError,
            "Expected at least 4, one row of each bucket, received 3. Raise it, or pass fewer buckets",
        ),
        (
            {"rows_per_epoch": 7, "batch_size_multiple": 8},
            ValueError,
            "Expected at least 8, batch_size_multiple x num_shards, received 7.",
        ),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(options, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make(**options)


def test_few_rows_are_rounded_up_to_a_batch_where_no_number_is_said():
    dataset = make([[1], [2, 2], [3, 3, 3]], batch_size_multiple=8, sampling_weights=[1, 2, 1])
    assert dataset.num_sequences == 8
    assert np.bincount(dataset.epoch_plan(0).rows).tolist() == [2, 4, 2]


def test_a_row_without_weight_needs_no_room_in_a_budget():
    x = [[1], [2, 2], [3] * 50]
    dataset = make(x, batch_size=None, max_timesteps_per_batch=10, sampling_weights=[1, 1, 0])
    assert {row for rows in plan_of(dataset, 0) for row in rows} == {0, 1}
    with pytest.raises(ValueError, match=re.escape("for the 50 timesteps of x[2]")):
        make(x, batch_size=None, max_timesteps_per_batch=10, sampling_weights=[0, 1, 1])


def test_a_loader_loads_what_is_drawn():
    loaded = []

    def load(row):
        loaded.append(row)
        return np.full(LENGTHS[row], row)

    dataset = BucketedSequence.from_loader(
        load,
        LENGTHS,
        np.arange(200),
        output_signature=tf.TensorSpec((None,), tf.int32),
        **{"batch_size": 8, "seed": 1, "sampling_weights": BALANCED},
    )
    for x, rows in dataset:
        assert [set(values) - {0} for values in x.numpy().tolist()] == [{row} - {0} for row in rows.numpy().tolist()]
    assert set(loaded) == set(make().epoch_plan(0).rows.tolist())


def test_an_order_that_was_drawn_cannot_be_restored():
    with pytest.raises(ValueError, match=re.escape("dataset.predict(model) predicts every row once.")):
        make().restore_order(np.zeros(200))


@pytest.mark.fit
@pytest.mark.parametrize("options", [{}, {"max_timesteps_per_batch": 60, "batch_size": None, "num_buckets": 3}])
def test_predictions_are_those_of_every_row_once(options):
    dataset = make(sampling_weights=CLASSES, **options)  # most rows have no weight
    list(dataset.take(2))
    position = dataset.state_dict(0, 2)
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, keras.ops.max(inputs, axis=1))
    assert dataset.predict(model, verbose=0).tolist() == list(range(200))
    assert dataset.state_dict(0, 2) == position


def test_outliers_are_few_of_the_draws_not_of_the_rows():
    """One long row in five hundred is no outlier where it is drawn every other time."""
    x = [[1] * (3 + row % 5) for row in range(500)] + [[1] * 400]
    weights = np.r_[np.ones(500), 500]
    with pytest.warns(UserWarning, match=re.escape("x[500] (400 timesteps)")):
        make(x, sampling_weights=np.ones(501), num_buckets=1)
    make(x, sampling_weights=weights, num_buckets=1)
