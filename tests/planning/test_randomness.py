"""How random the batches are, on real lengths, against what chance would give.

Seeds are fixed, so that a test gives the same figures every time; the bounds are five standard deviations of a fair
shuffle, which one seed in two million exceeds.
"""

import functools
import itertools

import numpy as np
import pytest

from benchmarks import randomness

NUM_EPOCHS = 40


@functools.cache
def functions():
    return randomness.standard_library_functions()


@functools.cache
def japanese_vowels():
    pytest.importorskip("sktime")
    return randomness.japanese_vowels()


@pytest.fixture(scope="module", params=[functions, japanese_vowels])
def data(request):
    return request.param()


@pytest.fixture(scope="module", params=[1, None, 16])
def planned(request, data):
    """The plans of some epochs, and the bucket of each row."""
    dataset = randomness.make_dataset(data.lengths, num_buckets=request.param, batch_size=16, seed=5)
    row_buckets = np.searchsorted(dataset.bucket_boundaries, data.lengths, side="right")
    return [dataset.epoch_plan(epoch) for epoch in range(NUM_EPOCHS)], row_buckets


def test_batches_of_similar_length_do_not_follow_one_another(planned):
    plans, _ = planned
    correlations = [randomness.neighbor_correlation(plan) for plan in plans]
    # In a random order of n numbers the correlation of neighbors is -1 / n on average, with variance below 1 / n.
    num_batches = len(plans[0])
    assert abs(np.mean(correlations) + 1 / num_batches) < 5 / np.sqrt(num_batches * NUM_EPOCHS)


def test_the_longest_batch_may_come_at_any_time(planned):
    plans, _ = planned
    places = [np.argmax(plan.padded_lengths) / (len(plan) - 1) for plan in plans]
    # Evenly spread over 0 to 1: variance 1 / 12.
    assert abs(np.mean(places) - 0.5) < 5 / np.sqrt(12 * NUM_EPOCHS)


def test_pairs_are_repeated_no_more_often_than_in_a_fair_shuffle_of_their_bucket(planned):
    plans, row_buckets = planned
    repeated = sum(randomness.count_repeated_pairs(*pair, len(row_buckets)) for pair in itertools.pairwise(plans))
    composition = randomness.batch_buckets(plans[0], row_buckets)
    expected = (NUM_EPOCHS - 1) * randomness.expected_repeated_pairs(composition, np.bincount(row_buckets))
    # A sum of rare events, each pair's: variance at most the mean. (For a bucket of m full batches it is (1 - 1 / m)^2
    # of the mean, from the variance of a contingency table with even margins.)
    assert abs(repeated - expected) < 5 * np.sqrt(expected)


def test_labels_are_as_balanced_as_a_fair_shuffle_of_their_bucket_allows(data, planned):
    plans, row_buckets = planned
    imbalances = [randomness.label_imbalance(plan, data.labels) for plan in plans]
    composition = randomness.batch_buckets(plans[0], row_buckets)
    expected = randomness.expected_label_imbalance(composition, row_buckets, data.labels)
    deviation = np.std(imbalances, ddof=1) / np.sqrt(NUM_EPOCHS)
    assert abs(np.mean(imbalances) - expected) < 5 * deviation + 1e-9


def test_automatic_buckets_keep_labels_within_twice_the_spread_of_random_batches(data):
    dataset = randomness.make_dataset(data.lengths, seed=5)
    imbalance = np.mean([randomness.label_imbalance(dataset.epoch_plan(epoch), data.labels) for epoch in range(10)])
    # Squared distances, 1 for a plain shuffle: 1.2 for the functions and 3.3 for the speakers, whose lengths tell much.
    assert 0.9 < imbalance < 4


def test_the_measures_find_what_is_not_random(data):
    sorted_dataset = randomness.make_dataset(data.lengths, shuffle=False, batch_size=16)
    plan = sorted_dataset.epoch_plan(0)
    assert randomness.neighbor_correlation(plan) > 0.5
    pairs = sum(size * (size - 1) // 2 for size in np.diff(plan.batch_splits))
    assert randomness.count_repeated_pairs(plan, sorted_dataset.epoch_plan(1), len(data.lengths)) == pairs
    by_label = np.sort(data.labels)  # each batch of the sorted rows has one label, or two
    labels = np.empty_like(by_label)
    labels[plan.rows] = by_label
    assert randomness.label_imbalance(plan, labels) > 5
