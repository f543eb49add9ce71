"""Minimum-padding boundaries against a search through all choices."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.boundaries import (
    best_partitions,
    boundaries_after,
    count_lengths,
    optimal_bucket_boundaries,
)
from tests.support.default_layer import examples
from tests.support.strategies import length_arrays


def split_by(boundaries, lengths):
    """The lengths in each bucket, by the definition of `bucket_by_sequence_length`."""
    edges = [-np.inf, *boundaries, np.inf]
    return [lengths[(lengths >= low) & (lengths < high)] for low, high in itertools.pairwise(edges)]


def padded_timesteps(boundaries, lengths):
    return sum(len(bucket) * bucket.max() for bucket in split_by(boundaries, lengths) if len(bucket))


def every_choice(lengths, num_buckets):
    """All ways to cut the distinct lengths into this many buckets."""
    distinct = np.unique(lengths).tolist()
    return [list(cuts) for cuts in itertools.combinations(distinct[1:], num_buckets - 1)]


@settings(max_examples=examples(300))
@given(length_arrays(max_size=14, max_length=10), st.integers(1, 12))
def test_no_other_boundaries_leave_less_padding(lengths, num_buckets):
    boundaries = optimal_bucket_boundaries(lengths, num_buckets)
    possible = min(num_buckets, len(np.unique(lengths)))
    assert len(boundaries) == possible - 1
    assert boundaries == sorted(set(boundaries))
    assert all(len(bucket) for bucket in split_by(boundaries, lengths))
    assert padded_timesteps(boundaries, lengths) == min(
        padded_timesteps(choice, lengths) for choice in every_choice(lengths, possible)
    )


def has_room(boundaries, lengths, min_rows):
    """Whether each bucket has the rows that a bucket with its longest length needs."""
    buckets = split_by(boundaries, lengths)
    return all(len(bucket) >= min(min_rows[bucket.max() - 1], len(lengths)) for bucket in buckets)


@settings(max_examples=examples(300))
@given(
    length_arrays(max_size=16, max_length=9),
    st.lists(st.integers(1, 8), min_size=9, max_size=9).map(lambda rows: sorted(rows, reverse=True)),
)
def test_no_other_buckets_of_so_many_rows_leave_less_padding(lengths, min_rows):
    distinct, counts = count_lengths(lengths)
    of_distinct = np.minimum(np.array(min_rows)[distinct - 1], len(lengths))
    found = list(best_partitions(distinct, counts, of_distinct, len(distinct)))
    possible = 0
    for num_buckets, (ends, padded) in enumerate(found, start=1):
        boundaries = boundaries_after(distinct, ends)
        choices = [choice for choice in every_choice(lengths, num_buckets) if has_room(choice, lengths, min_rows)]
        assert padded == padded_timesteps(boundaries, lengths) == min(padded_timesteps(c, lengths) for c in choices)
        assert len(boundaries) == num_buckets - 1
        assert has_room(boundaries, lengths, min_rows)
        possible = num_buckets
    assert not any(has_room(choice, lengths, min_rows) for choice in every_choice(lengths, possible + 1))


class CountedProducts(np.ndarray):
    """Lengths that count how many costs of buckets are made of them."""

    number = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        result = getattr(ufunc, method)(*(np.asarray(part) for part in inputs), **kwargs)
        if ufunc is np.multiply:
            CountedProducts.number += result.size
        return result


def count_costs(distinct, min_rows, num_buckets):
    CountedProducts.number = 0
    for _ in best_partitions(distinct.view(CountedProducts), np.ones_like(distinct), min_rows, num_buckets):
        pass
    return CountedProducts.number


@settings(max_examples=examples(60))
@given(st.integers(2, 3000), st.integers(1, 12), st.floats(0.0, 3.0), st.floats(0.0, 0.9))
def test_a_minimum_of_rows_costs_no_evaluations(size, num_buckets, exponent, share):
    # Where a budget holds many short rows, few partitions are possible at their end of the lengths.
    distinct = np.arange(1, size + 1)
    min_rows = (share * size / distinct**exponent).astype(np.int64)
    bound = size + (num_buckets - 1) * (int(np.log2(size)) + 1) * 2 * size
    assert count_costs(distinct, np.zeros_like(distinct), num_buckets) <= bound
    assert count_costs(distinct, min_rows, num_buckets) <= bound


@settings(max_examples=examples(100))
@given(length_arrays(), st.sampled_from([1, 10_000, 2**20]))
def test_lengths_are_counted_as_numpy_does(lengths, factor):
    for ours, theirs in zip(
        count_lengths(lengths * factor), np.unique(lengths * factor, return_counts=True), strict=True
    ):
        assert np.array_equal(ours, theirs)


@settings(max_examples=50)
@given(length_arrays(max_size=200, max_length=300), st.integers(2, 40))
def test_another_bucket_never_adds_padding(lengths, num_buckets):
    fewer = padded_timesteps(optimal_bucket_boundaries(lengths, num_buckets - 1), lengths)
    assert padded_timesteps(optimal_bucket_boundaries(lengths, num_buckets), lengths) <= fewer


@pytest.mark.parametrize(
    ("lengths", "num_buckets", "boundaries"),
    [
        ([5], 1, []),
        ([5, 5, 5], 4, []),
        ([1, 2, 3], 3, [2, 3]),
        ([1, 2, 3], 99, [2, 3]),
        ([2, 2, 3, 9, 10, 30], 1, []),
        ([2, 2, 3, 9, 10, 30], 2, [11]),
        ([2, 2, 3, 9, 10, 30], 3, [4, 11]),
        ([30, 2, 9, 3, 10, 2], 3, [4, 11]),
        # Many short rows: it pays to leave the long ones together.
        ([1] * 100 + [2] * 100 + [50, 60], 3, [2, 3]),
        ([1, 2**31 - 1], 2, [2]),
    ],
)
def test_boundaries_by_hand(lengths, num_buckets, boundaries):
    assert optimal_bucket_boundaries(lengths, num_buckets) == boundaries


def test_many_distinct_lengths_and_buckets():
    lengths = np.arange(1, 5001)
    boundaries = optimal_bucket_boundaries(lengths, 5000)
    assert boundaries == list(range(2, 5001))
    even = optimal_bucket_boundaries(lengths, 10)
    assert padded_timesteps(even, lengths) <= padded_timesteps(range(501, 5001, 500), lengths)
