"""How many rows a batch has; and shards: every process takes its rows out of the same batches."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.pipeline.gather import BatchGatherer
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import Buckets, Shard, check_shard, check_sizing, rows_within_budget
from keras_bucketing.planning.epoch_plan import Cut
from tests.support.default_layer import examples
from tests.support.planning import cut_or_reject, make_buckets, make_planner, plan
from tests.support.strategies import (
    boundary_lists,
    bucket_options,
    length_arrays,
    random_sequences,
    remainders,
    seeds,
)


def sizing(batch_size=None, bucket_batch_sizes=None, max_timesteps=None, multiple=1, num_shards=1, quadratic=None):
    return check_sizing(batch_size, bucket_batch_sizes, max_timesteps, multiple, num_shards, quadratic)


@settings(max_examples=examples(200))
@given(length_arrays(), boundary_lists())
def test_upper_lengths_and_the_longest_rows_are_those_of_a_plain_loop(lengths, boundaries):
    buckets = Buckets.from_lengths(lengths, boundaries)
    longest = [max(lengths[buckets.row_buckets == bucket], default=0) for bucket in range(len(boundaries) + 1)]
    assert buckets.longest(lengths).tolist() == longest
    assert buckets.upper_lengths.tolist() == [*(boundary - 1 for boundary in boundaries), lengths.max()]
    assert all(np.array(longest[:-1]) <= buckets.upper_lengths[:-1])
    assert buckets.counts.sum() == len(lengths)


# OpenNMT-tf's tests/data_test.py: 512 timesteps at upper lengths 3, 6, 9, 12.
@pytest.mark.parametrize(("multiple", "sizes"), [(1, [170, 85, 56, 42]), (8, [168, 80, 56, 40])])
def test_batch_sizes_of_opennmt(multiple, sizes):
    assert rows_within_budget([3, 6, 9, 12], 512, multiple).tolist() == sizes
    options = {"bucket_boundaries": [4, 7, 10], "max_timesteps_per_batch": 512, "batch_size_multiple": multiple}
    buckets, _ = make_buckets(np.array([3, 6, 9, 12]), options)
    assert buckets.batch_sizes == sizes


@pytest.mark.parametrize(("multiple", "sizes"), [(1, [60, 60, 56, 42]), (8, [56, 56, 56, 40])])
def test_next_to_a_budget_the_batch_size_is_the_most_rows(multiple, sizes):
    cap = 60 // multiple * multiple
    rows = sizing(cap, max_timesteps=512, multiple=multiple).rows_at(np.array([3, 6, 9, 12]))
    assert rows.tolist() == sizes


@settings(max_examples=examples(200))
@given(
    st.lists(st.integers(1, 2**31 - 1) | st.integers(1, 100), min_size=1, max_size=5),
    st.integers(1, 2**63 - 1) | st.integers(1, 10_000),
    st.integers(1, 8),
    st.none() | st.integers(1, 2**63 - 1) | st.integers(1, 1000),
)
def test_a_budget_holds_the_most_rows_by_exact_fractions(lengths, budget, multiple, quadratic):
    rows = rows_within_budget(lengths, budget, multiple, quadratic)
    sized = sizing(max_timesteps=budget, multiple=multiple, quadratic=quadratic)
    assert rows.dtype == np.int64
    assert rows.tolist() == sized.rows_at(np.array(lengths)).tolist()
    for length, number in zip(lengths, rows.tolist(), strict=True):
        row = length + (Fraction(length**2, quadratic) if quadratic else 0)
        assert number % multiple == 0
        assert number * row <= budget < (number + multiple) * row
        assert (number > 0) == (length <= sized.longest_in_budget) == (sized.budget_for(length) <= budget)
        assert sized.budget_for(length) - 1 < multiple * row <= sized.budget_for(length)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"quadratic": 100},
            ValueError,
            (
                "`quadratic_length` says what a row counts in a budget. Expected max_timesteps_per_batch next to it, "
                "received quadratic_length=100 alone. Pass max_timesteps_per_batch, or leave it out."
            ),
        ),
        ({"quadratic": 100, "batch_size": 4}, ValueError, "Expected max_timesteps_per_batch next to it"),
        ({"quadratic": 0, "max_timesteps": 9}, ValueError, "`quadratic_length` is too small. Expected an int >= 1"),
        ({"quadratic": 1.5, "max_timesteps": 9}, TypeError, "`quadratic_length` must be an integer."),
        (
            {"bucket_batch_sizes": [4, 2], "max_timesteps": 9},
            ValueError,
            (
                "`bucket_batch_sizes` has the rows of every bucket, so no other size may be given with it. Received "
                "max_timesteps_per_batch=9 as well. Leave one of them out."
            ),
        ),
        ({"batch_size": 0}, ValueError, "`batch_size` is too small. Expected an int >= 1, received 0."),
        (
            {"batch_size": 1.5},
            TypeError,
            "`batch_size` must be an integer. Expected an int >= 1, received 1.5 (float).",
        ),
        (
            {"batch_size": 6, "multiple": 4},
            ValueError,
            (
                "`batch_size` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of 4, "
                "received 6. Use 4 or 8."
            ),
        ),
        ({"batch_size": 3, "multiple": 2, "num_shards": 2}, ValueError, "Expected a multiple of 4, received 3. Use 4."),
        ({"bucket_batch_sizes": []}, ValueError, "`bucket_batch_sizes` is empty. Expected one size for each bucket."),
        ({"bucket_batch_sizes": [4, 0]}, ValueError, "`bucket_batch_sizes[1]` is too small."),
        ({"bucket_batch_sizes": [4, 3], "multiple": 2}, ValueError, "`bucket_batch_sizes[1]` must be a multiple"),
        (
            {"bucket_batch_sizes": 4},
            TypeError,
            "`bucket_batch_sizes` must be a flat list of integers. Received 4 (int).",
        ),
        ({"bucket_batch_sizes": "44"}, TypeError, "`bucket_batch_sizes` must be a flat list of integers."),
        ({"max_timesteps": 0}, ValueError, "`max_timesteps_per_batch` is too small."),
        ({"max_timesteps": "9"}, TypeError, "`max_timesteps_per_batch` must be an integer."),
        ({"multiple": 0}, ValueError, "`batch_size_multiple` is too small."),
    ],
)
def test_wrong_sizes_are_refused(arguments, error, text):
    with pytest.raises(error) as raised:
        sizing(**arguments)
    assert text in str(raised.value)


@settings(max_examples=12)
@given(st.data(), st.integers(1, 8))
def test_shards_together_are_the_unsharded_epoch(data, num_shards):
    lengths = data.draw(length_arrays(min_size=3 * num_shards))
    options = data.draw(bucket_options(num_shards=num_shards, multiples=(1,)))
    planner = make_planner(lengths, options, num_shards=num_shards)
    epoch, seed = data.draw(seeds()), data.draw(seeds())
    whole = plan(planner, epoch, seed)
    shards = [plan(planner, epoch, seed, Shard(num_shards, index)) for index in range(num_shards)]
    for shard in shards:
        assert len(shard) == len(whole)
        assert np.array_equal(shard.padded_lengths, whole.padded_lengths)
        assert np.array_equal(shard.buckets, whole.buckets)
        assert np.array_equal(shard.left_out, whole.left_out)
        assert np.array_equal(np.diff(shard.batch_splits) * num_shards, np.diff(whole.batch_splits))
    for batch, rows in enumerate(whole):
        assert sorted(np.concatenate([shard[batch] for shard in shards])) == sorted(rows)
        assert all(np.array_equal(shard[batch], rows[index::num_shards]) for index, shard in enumerate(shards))


@settings(max_examples=25)
@given(length_arrays(min_size=8, max_size=8), st.integers(1, 4), st.sampled_from([0, 25]), seeds())
def test_all_shards_pad_to_the_longest_row_of_the_whole_batch(lengths, num_shards, padded_to, seed):
    x = random_sequences(lengths, seed=seed)
    y = [sequence[:, np.newaxis] for sequence in x]
    inputs = collect_inputs({"a": x, "b": [sequence[::2] for sequence in x]}, y, None)
    rows = tf.constant(np.random.default_rng(seed).permutation(8), tf.int32)
    cut = Cut(*map(tf.constant, ([0], [8 // num_shards * num_shards], [padded_to, padded_to])))

    def gather(shard):
        return BatchGatherer(inputs, 0, 0, {}, True, padded_to > 0, shard)(rows, cut)

    whole = tf.nest.flatten(gather(Shard(1, 0)))
    for index in range(num_shards):
        for part, all_rows in zip(tf.nest.flatten(gather(Shard(num_shards, index))), whole, strict=True):
            assert np.array_equal(part, all_rows[index::num_shards])


def test_two_processes_see_halves_of_the_same_batches():
    x = random_sequences([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9], "int32")
    halves = [BucketedSequence(x, batch_size=4, seed=5, num_shards=2, shard_index=index) for index in (0, 1)]
    whole = BucketedSequence(x, batch_size=4, seed=5, batch_size_multiple=2)
    for first, second, batch in zip(*halves, whole, strict=True):
        assert np.array_equal(first, batch[0::2])
        assert np.array_equal(second, batch[1::2])
    assert [len(half) for half in halves] == [3, 3]
    assert halves[0].epoch_plan(0).left_out.size == 1


@pytest.mark.parametrize(
    ("num_shards", "index", "needs_seed", "error", "text"),
    [
        (2, 2, False, ValueError, "`shard_index` is out of range. Expected an int below num_shards=2, received 2."),
        (0, 0, False, ValueError, "`num_shards` is too small. Expected an int >= 1, received 0."),
        (2, -1, False, ValueError, "`shard_index` is too small. Expected an int >= 0, received -1."),
        (2.0, 0, False, TypeError, "`num_shards` must be an integer."),
        (2, 0, True, ValueError, "`seed` must be given for num_shards=2 with shuffle=True"),
    ],
)
def test_wrong_shards_are_refused(num_shards, index, needs_seed, error, text):
    with pytest.raises(error) as raised:
        check_shard(num_shards, index, needs_seed)
    assert text in str(raised.value)


@settings(max_examples=examples(100))
@given(length_arrays(), st.integers(1, 8), remainders())
def test_every_batch_divides_among_the_shards(lengths, num_shards, remainder):
    buckets = choose_buckets(lengths, check_sizing(None, None, None, 1, num_shards), num_buckets=3)
    cuts = cut_or_reject(buckets, remainder, num_shards)
    assert not ((cuts.stops - cuts.starts) % num_shards).any()
