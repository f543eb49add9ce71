"""Minimum-padding boundaries against a search through all choices."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.boundaries import automatic_bucket_boundaries, optimal_bucket_boundaries
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


def has_room(boundaries, lengths, min_rows):
    """Whether each bucket has the rows that a bucket with its longest length needs."""
    buckets = split_by(boundaries, lengths)
    return all(len(bucket) >= min(min_rows(bucket.max()), len(lengths)) for bucket in buckets)


@settings(max_examples=300)
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


@settings(max_examples=300)
@given(
    length_arrays(max_size=16, max_length=9),
    st.lists(st.integers(1, 8), min_size=9, max_size=9).map(lambda rows: sorted(rows, reverse=True)),
)
def test_automatic_boundaries_are_the_fewest_that_reach_95_percent_with_full_buckets(lengths, rows_by_length):
    def min_rows(upper):
        return np.array(rows_by_length)[np.asarray(upper) - 1]

    best = []
    for num_buckets in range(1, len(np.unique(lengths)) + 1):
        choices = [choice for choice in every_choice(lengths, num_buckets) if has_room(choice, lengths, min_rows)]
        if not choices:
            break
        best = min(choices, key=lambda choice: padded_timesteps(choice, lengths))
        if lengths.sum() >= 0.95 * padded_timesteps(best, lengths):
            break
    boundaries = automatic_bucket_boundaries(lengths, min_rows)
    assert len(boundaries) == len(best)
    assert padded_timesteps(boundaries, lengths) == padded_timesteps(best, lengths)
    assert not boundaries or has_room(boundaries, lengths, min_rows)


def test_automatic_boundaries_stop_at_32_buckets():
    # 64 lengths, 15 % apart, with equally many timesteps each: two of them in a bucket reach 93 %.
    distinct = (10 * 1.15 ** np.arange(64)).astype(np.int64)
    lengths = np.repeat(distinct, distinct[-1] // distinct)
    assert len(automatic_bucket_boundaries(lengths, np.ones_like)) + 1 == 32


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
