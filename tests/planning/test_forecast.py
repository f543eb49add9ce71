"""Exact expectations over shuffles against plans that were really drawn, and against every shuffle there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks import randomness
from keras_bucketing.padding.report import check_labels
from keras_bucketing.planning.cuts import BatchRules, cut_batches
from keras_bucketing.planning.forecast import ShuffledBatches
from tests.support.default_layer import examples
from tests.support.planning import bucketings, cut_or_reject, make_buckets, make_planner, plan
from tests.support.strategies import bucket_options, length_arrays


def batches_of(lengths, options):
    buckets, _ = make_buckets(lengths, options)
    cuts = cut_batches(buckets, "spill", 1)
    return ShuffledBatches.from_buckets(np.sort(lengths), buckets, BatchRules()), buckets, cuts


@settings(max_examples=examples(200))
@given(length_arrays(max_size=60), bucket_options(multiples=(1,)))
def test_the_batches_of_all_kinds_take_every_row_once(lengths, options):
    batches, buckets, cuts = batches_of(lengths, options)
    kinds = batches.kinds
    assert kinds.numbers.sum() == batches.num_batches == len(cuts.buckets)
    assert np.array_equal(kinds.numbers @ kinds.rows, buckets.counts)
    order = np.sort(buckets.row_buckets)
    by_hand = [
        tuple(np.bincount(order[start:stop], minlength=len(buckets.counts)))
        for start, stop in zip(cuts.starts, cuts.stops, strict=True)
    ]
    numbers = {tuple(rows): number for rows, number in zip(kinds.rows, kinds.numbers, strict=True)}
    assert numbers == {rows: by_hand.count(rows) for rows in by_hand}


@settings(max_examples=examples(200))
@given(bucketings())
def test_number_largest_and_padded_timesteps_are_those_of_the_cuts(bucketing):
    lengths, buckets, multiple, remainder, options = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    rules = BatchRules(remainder, multiple, options["pad_to_bucket_boundary"])
    batches = ShuffledBatches.from_buckets(np.sort(lengths), buckets, rules)
    rows = cuts.stops - cuts.starts
    longest = buckets.upper_lengths if rules.pad_to_bucket_boundary else buckets.longest(lengths)
    assert batches.num_batches == len(rows)
    assert batches.largest_batch == (rows * longest[cuts.buckets]).max()
    padded = (rows * longest[cuts.buckets]).sum()
    if rules.pad_to_bucket_boundary:
        assert batches.padded_timesteps == padded
    else:
        assert batches.padded_timesteps <= padded * (1 + 1e-12)
    assert batches.expected_cost(np.multiply) == pytest.approx(batches.padded_timesteps)


LENGTHS = np.array([1, 2, 2, 5, 6, 9, 10])
SMALL = [
    {"batch_size": 3, "num_buckets": 1},
    {"batch_size": 3, "bucket_boundaries": [5]},
    {"batch_size": 4, "bucket_boundaries": [3, 6, 10]},
    {"bucket_batch_sizes": [3, 2], "bucket_boundaries": [9]},
]


def every_epoch(lengths, options):
    """All shuffles inside the buckets: lists of batches of row indices."""
    buckets, _ = make_buckets(lengths, options)
    cuts = cut_batches(buckets, "spill", 1)
    rows = [np.flatnonzero(buckets.row_buckets == bucket) for bucket in range(len(buckets.counts))]
    for shuffled in itertools.product(*(itertools.permutations(of_bucket) for of_bucket in rows)):
        order = np.concatenate(shuffled).astype(int)
        yield [order[start:stop] for start, stop in zip(cuts.starts, cuts.stops, strict=True)]


@pytest.mark.parametrize("options", SMALL)
def test_expected_timesteps_are_the_average_over_every_shuffle(options):
    batches, _, _ = batches_of(LENGTHS, options)
    totals = [sum(len(b) * LENGTHS[b].max() for b in epoch) for epoch in every_epoch(LENGTHS, options)]
    assert batches.padded_timesteps == pytest.approx(np.mean(totals), rel=1e-9)


@pytest.mark.parametrize("options", SMALL)
def test_expected_label_imbalance_is_the_average_over_every_shuffle(options):
    labels = np.array([0, 0, 1, 0, 2, 2, 1])
    one_hot = np.eye(3)[labels]
    batches, _, cuts = batches_of(LENGTHS, options)

    def distance(epoch):
        return sum(((one_hot[b].sum(axis=0) - len(b) * one_hot.mean(axis=0)) ** 2).sum() for b in epoch)

    sizes = cuts.stops - cuts.starts
    of_random = (sizes * (7 - sizes)).sum() / 6 * one_hot.var(axis=0).sum()
    expected = np.mean([distance(epoch) for epoch in every_epoch(LENGTHS, options)]) / of_random
    for y in (labels, one_hot, labels.astype(str)):
        assert batches.label_imbalance(check_labels(y, 7)) == pytest.approx(expected, rel=1e-9)
    values = labels.astype(float)
    by_values = np.mean(
        [sum((values[b].sum() - len(b) * values.mean()) ** 2 for b in epoch) for epoch in every_epoch(LENGTHS, options)]
    )
    of_random = (sizes * (7 - sizes)).sum() / 6 * values.var()
    assert batches.label_imbalance(check_labels(values, 7)) == pytest.approx(by_values / of_random, rel=1e-9)


def test_labels_that_are_all_one_are_even():
    batches, _, _ = batches_of(LENGTHS, SMALL[1])
    assert batches.label_imbalance(check_labels(np.ones(7, int), 7)) == 1


@pytest.mark.parametrize("options", [{"batch_size": 16}, {"batch_size": 16, "num_buckets": 5}])
def test_batchmates_and_imbalance_are_those_of_real_epochs(options):
    lengths = np.sort(np.random.default_rng(1).geometric(1 / 40, 600))
    labels = (lengths > 40).astype(int) + np.random.default_rng(2).integers(0, 2, 600)
    batches, _, _ = batches_of(lengths, options)
    planner = make_planner(lengths, options)
    batchmates, imbalances = [], []
    for seed in range(20):
        met = np.zeros((600, 600), bool)
        for epoch in range(4):
            of_epoch = plan(planner, epoch, seed)
            batch = randomness.batch_of_each_row(of_epoch, 600)
            met |= batch[:, np.newaxis] == batch
            imbalances.append(randomness.label_imbalance(of_epoch, labels))
        batchmates.append(met.sum(axis=1).mean() - 1)
    for expected, measured in (
        (batches.distinct_batchmates(4), batchmates),
        (batches.label_imbalance(check_labels(labels, 600)), imbalances),
    ):
        assert abs(np.mean(measured) - expected) < 5 * np.std(measured, ddof=1) / np.sqrt(len(measured)) + 1e-9


def test_one_batch_of_everything_meets_everything():
    batches, _, _ = batches_of(LENGTHS, {"batch_size": 7, "num_buckets": 1})
    assert batches.distinct_batchmates(1) == batches.distinct_batchmates(10) == 6
