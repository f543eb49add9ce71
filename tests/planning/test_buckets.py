"""Lengths and sizing options to buckets."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.buckets import choose_buckets
from keras_bucketing.planning.sizing import check_sizing
from tests.support.planning import make_buckets
from tests.support.strategies import boundary_lists, bucket_options, length_arrays


@settings(max_examples=200)
@given(length_arrays(), boundary_lists())
def test_each_row_is_in_the_bucket_whose_boundaries_hold_its_length(lengths, boundaries):
    buckets, _ = make_buckets(lengths, {"bucket_boundaries": boundaries})
    edges = list(itertools.pairwise([0, *boundaries, np.inf]))
    for length, bucket in zip(lengths, buckets.row_buckets, strict=True):
        low, high = edges[bucket]
        assert low <= length < high
    assert buckets.boundaries == boundaries
    assert np.array_equal(buckets.counts, [((lengths >= low) & (lengths < high)).sum() for low, high in edges])


@settings(max_examples=200)
@given(length_arrays(), bucket_options())
def test_every_bucket_has_a_batch_size_of_the_right_multiple(lengths, options):
    buckets, multiple = make_buckets(lengths, options)
    assert len(buckets.batch_sizes) == len(buckets.boundaries) + 1 == len(buckets.upper_lengths)
    assert all(size >= 1 and size % multiple == 0 for size in buckets.batch_sizes)


@settings(max_examples=200)
@given(length_arrays(), st.integers(1, 4), st.integers(0, 300), st.booleans(), st.integers(1, 25))
def test_a_budget_gives_the_most_rows_that_fit(lengths, multiple, extra, pad_to_boundary, minlen):
    budget = multiple * max(int(lengths.max()), minlen) + extra
    options = {"max_timesteps_per_batch": budget, "batch_size_multiple": multiple, "num_buckets": 3, "minlen": minlen}
    buckets, _ = make_buckets(lengths, {**options, "pad_to_bucket_boundary": pad_to_boundary})
    for bucket, size in enumerate(buckets.batch_sizes):
        longest = max(lengths[buckets.row_buckets == bucket].max(), minlen)
        assert size * longest <= budget < (size + multiple) * longest


@settings(max_examples=100)
@given(length_arrays(), st.none() | st.integers(1, 6), st.integers(1, 25))
def test_boundaries_are_chosen_for_the_lengths_that_batches_are_padded_to(lengths, num_buckets, minlen):
    options = {"num_buckets": num_buckets, "batch_size": 2}
    buckets, _ = make_buckets(lengths, options | {"minlen": minlen})
    padded, _ = make_buckets(np.maximum(lengths, minlen), options)
    assert buckets.boundaries == padded.boundaries
    assert np.array_equal(buckets.row_buckets, padded.row_buckets)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [32, 32]),
        ({"batch_size_multiple": 5}, [30, 30]),
        ({"batch_size_multiple": 40}, [40, 40]),
        ({"batch_size": 7}, [7, 7]),
        ({"bucket_batch_sizes": np.array([4, 2])}, [4, 2]),
        # The first bucket's longest row has 2 timesteps, although its boundary allows 9.
        ({"max_timesteps_per_batch": 90}, [45, 9]),
        ({"max_timesteps_per_batch": 90, "pad_to_bucket_boundary": True}, [10, 9]),
    ],
)
def test_batch_sizes_by_hand(options, sizes):
    buckets, _ = make_buckets(np.array([1, 2, 10]), {"bucket_boundaries": [10], **options})
    assert buckets.batch_sizes == sizes


def test_sizes_without_boundaries_choose_one_bucket_for_each_size():
    buckets, _ = make_buckets(np.array([1, 2, 2, 9, 10]), {"bucket_batch_sizes": [4, 2]})
    assert buckets.boundaries == [3]


def test_an_empty_bucket_needs_no_budget():
    buckets, _ = make_buckets(np.array([1, 2]), {"bucket_boundaries": [5, 100], "max_timesteps_per_batch": 10})
    assert buckets.batch_sizes[0] == 5


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"bucket_boundaries": [5, 3]},
            ValueError,
            "`bucket_boundaries` must increase. Received 3 at bucket_boundaries[1] after 5. Sort them",
        ),
        ({"bucket_boundaries": [3, 3]}, ValueError, "Received 3 at bucket_boundaries[1] after 3."),
        (
            {"bucket_boundaries": [0, 3]},
            ValueError,
            "`bucket_boundaries[0]` is too small. Expected an int >= 1, received 0.",
        ),
        ({"bucket_boundaries": [2.5]}, TypeError, "`bucket_boundaries[0]` must be an integer."),
        ({"bucket_boundaries": 5}, TypeError, "`bucket_boundaries` must be a flat list of integers. Received 5 (int)."),
        (
            {"bucket_boundaries": [3], "num_buckets": 3},
            ValueError,
            "Expected 2, one more than there are boundaries, received 3.",
        ),
        ({"num_buckets": 0}, ValueError, "`num_buckets` is too small. Expected an int >= 1, received 0."),
        (
            {"bucket_boundaries": [3], "bucket_batch_sizes": [1, 2, 3]},
            ValueError,
            "`bucket_batch_sizes` must have one entry for each bucket. Expected 2 for the boundaries [3], received 3.",
        ),
        (
            {"num_buckets": 3, "bucket_batch_sizes": [1, 2]},
            ValueError,
            "`num_buckets` must match `bucket_batch_sizes`. Expected 2, one for each size, received 3.",
        ),
        (
            {"bucket_batch_sizes": [1, 2, 3, 4, 5]},
            ValueError,
            "`bucket_batch_sizes` has more entries than there are distinct lengths. Expected at most 4, received 5.",
        ),
        (
            {"max_timesteps_per_batch": 8},
            ValueError,
            (
                "`max_timesteps_per_batch` must hold at least 1 row of every sequence. Expected at least 9 for the "
                "9 timesteps of x[2], received 8. Raise the budget, or cut long sequences with maxlen=8."
            ),
        ),
        (
            {"max_timesteps_per_batch": 20, "batch_size_multiple": 4},
            ValueError,
            (
                "must hold at least 4 rows of every sequence. Expected at least 36 for the 9 timesteps of x[2], "
                "received 20. Raise the budget, or cut long sequences with maxlen=5."
            ),
        ),
        (
            {"max_timesteps_per_batch": 15, "bucket_boundaries": [20], "pad_to_bucket_boundary": True},
            ValueError,
            (
                "Expected at least 19 for the 9 timesteps of x[2], padded to 19, received 15. Raise the budget, or "
                "lower that bucket's boundary."
            ),
        ),
        (
            {"max_timesteps_per_batch": 11, "minlen": 12},
            ValueError,
            "Expected at least 12 for the 9 timesteps of x[2], padded to 12, received 11. Raise the budget, or lower m",
        ),
        (
            {"max_timesteps_per_batch": 3, "batch_size_multiple": 4},
            ValueError,
            "Expected at least 36 for the 9 timesteps of x[2], received 3. Raise the budget.",
        ),
    ],
)
def test_buckets_that_do_not_fit_are_refused(options, error, text):
    with pytest.raises(error) as raised:
        make_buckets(np.array([4, 1, 9, 2]), options)
    assert text in str(raised.value)


def test_an_error_names_rows_as_the_user_counts_them():
    with pytest.raises(ValueError, match=r"9 timesteps of x\[7\]"):
        choose_buckets(np.array([4, 9]), check_sizing(None, None, 8, 1, 1), kept=np.array([3, 7]))
