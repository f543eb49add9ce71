"""Costs from steps whose costs are known; sizes that keep to their bounds, against all others of small data."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence
from keras_bucketing.planning.buckets import Buckets, rows_within_budget
from keras_bucketing.planning.cuts import BatchRules, cut_batches
from keras_bucketing.tuning import choose as size_choice
from keras_bucketing.tuning.choose import (
    ATTENTION_SHOWS,
    MemoryCosts,
    SizeBounds,
    StepCosts,
    best_buckets,
    choose_sizes,
    fit_memory_costs,
    fit_step_costs,
    forecast_epoch,
    forecast_error,
)
from keras_bucketing.tuning.measure import probe_batches
from tests.support.default_layer import examples
from tests.support.planning import make_buckets
from tests.support.strategies import length_arrays, remainders, seeds

TOKENS = tf.TensorSpec((None,), tf.int32)


def costs():
    return st.builds(StepCosts, *(st.sampled_from([0.0, 0.1, 1.0, 7.0]) for _ in range(4)))


def memories():
    parts = [st.just(0.0) | st.floats(most / 1000, most) for most in (1e3, 10, 1)]
    return st.builds(MemoryCosts, st.floats(1e3, 1e5), *parts)


def sorted_lengths(max_size=120):
    return length_arrays(min_size=4, max_size=max_size, max_length=60).map(np.sort)


@st.composite
def bounds_for(draw, lengths, multiple=1):
    most_groups = len(lengths) // multiple
    least = draw(st.integers(1, min(4, most_groups))) * multiple
    most = draw(st.integers(least // multiple, min(20, most_groups))) * multiple
    timesteps = draw(st.none() | st.integers(multiple * int(lengths[-1]), 20 * multiple * int(lengths[-1])))
    updates = draw(st.integers(1, max(len(lengths) // least // 2, 1)))
    seconds = draw(st.none() | st.floats(50, 5000))
    batchmates = draw(st.sampled_from([0.0, 0.5, 0.9])) * min(9 * most, len(lengths) - 1)
    memory = draw(st.none() | memories())
    if memory is not None:
        rows = st.floats(1.001, 20).map(lambda number: number * multiple)  # of the longest sequence
        memory = replace(memory, limit=float(memory.peak_bytes(draw(rows), int(lengths[-1]))))
    return SizeBounds(updates, least, most, timesteps, seconds, draw(st.integers(1, 8)), batchmates, memory)


@settings(max_examples=examples(60))
@given(st.data(), sorted_lengths(), costs(), remainders(), st.sampled_from([1, 2, 3]), st.booleans())
def test_keeps_to_the_bounds(data, lengths, costs, remainder, multiple, to_boundary):
    bounds = data.draw(bounds_for(lengths, multiple))
    rules = BatchRules(remainder, multiple, to_boundary)
    found = choose_sizes(lengths, costs, bounds, rules)
    assume(found is not None)
    choice, forecast = found
    options = {"bucket_boundaries": choice.boundaries, "bucket_batch_sizes": choice.batch_sizes}
    buckets, _ = make_buckets(lengths, {**options, "batch_size_multiple": multiple})
    cuts = cut_batches(buckets, remainder, multiple)
    rows = cuts.stops - cuts.starts
    longest = np.searchsorted(lengths, buckets.upper_lengths, side="right") - 1  # the last row of each bucket
    padded_lengths = (buckets.upper_lengths if to_boundary else lengths[longest])[cuts.buckets]
    assert forecast == forecast_epoch(lengths, buckets, costs, rules)
    assert len(rows) == forecast.num_updates >= bounds.min_updates
    assert forecast.distinct_batchmates >= bounds.min_batchmates
    assert len(choice.batch_sizes) == len(choice.boundaries) + 1 <= bounds.max_buckets
    assert rows.max() <= max(choice.batch_sizes) <= bounds.max_rows
    if len(buckets.counts) > 1:  # a bucket of one batch would have the same batch in every epoch
        assert (buckets.counts > np.array(choice.batch_sizes)).all()
    assert (rows * padded_lengths).max() == forecast.largest_batch
    if bounds.max_timesteps_per_batch is not None:
        assert forecast.largest_batch <= bounds.max_timesteps_per_batch
    if bounds.max_step_seconds is not None:
        assert costs.seconds(rows, padded_lengths).max() <= bounds.max_step_seconds * (1 + 1e-9)
    if bounds.memory is not None:
        assert bounds.memory.peak_bytes(rows, padded_lengths).max() <= bounds.memory.limit * (1 + 1e-9)
    if bounds.max_timesteps_per_batch is bounds.max_step_seconds is bounds.memory is None:
        assert min(choice.batch_sizes) >= bounds.min_rows


@settings(max_examples=examples(200))
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.integers(1, 50), min_size=4, max_size=4, unique=True).map(sorted),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 60),
)
def test_no_other_sizes_make_as_many_updates_in_less_time(in_bucket, overheads, least, wider, min_updates):
    in_bucket = np.array(in_bucket)
    overheads = np.array(overheads[: len(in_bucket)])  # of a batch of each bucket, apart from its rows
    sizes = range(least, least + wider + 1)
    rules = BatchRules("keep")
    found = size_choice._sizes(
        in_bucket, np.full(len(in_bucket), sizes[0]), np.full(len(in_bucket), sizes[-1]), min_updates, rules
    )
    every = np.array(list(itertools.product(sizes, repeat=len(in_bucket))))
    batches = -(-in_bucket // every)
    if found is None:
        assert batches.sum(axis=1).max() < min_updates
        return
    ours = -(-in_bucket // np.array(found))
    assert ours.sum() >= min_updates
    as_many = batches.sum(axis=1) >= ours.sum()
    assert ours @ overheads == (batches[as_many] @ overheads).min()
    # One size less would be too few rows: no bucket but one lies between.
    assert sum(sizes[0] < size < sizes[-1] for size in found) <= 1


@example(np.repeat([1, 2], 3), StepCosts(0.0, 0.0, 1.0), 1, 1, 0, 5.0, 1)  # a second bucket is not worth its penalty
@settings(max_examples=examples(200))
@given(
    length_arrays(max_size=14, max_length=9).map(np.sort),
    costs(),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 9),
    st.sampled_from([0.0, 0.5, 5.0]),
    st.integers(1, 3),
)
def test_no_other_boundaries_cost_less(lengths, costs, least, wider, num_short, penalty, min_batches):
    bounds = SizeBounds(1, least, least + wider)
    candidates = size_choice._candidate_ends(lengths, costs, bounds, multiple=1)
    size = len(candidates.lengths)
    num_short = min(num_short, size)
    worth = candidates.batch_seconds[num_short - 1] if num_short else 0

    def cost(ends):
        total = 0.0
        for first, end in itertools.pairwise([0, *ends]):
            rows = int(candidates.rows_up_to[end] - candidates.rows_up_to[first])
            fewest, most = max(math.ceil(rows / bounds.max_rows), min_batches), rows // bounds.min_rows
            if most < fewest:
                return np.inf
            batches = most if end <= num_short else fewest
            total += (
                batches * (candidates.batch_seconds[end - 1] - worth) + rows * candidates.row_seconds[end - 1] + penalty
            )
        return total

    every = [[*cut, size] for number in range(size) for cut in itertools.combinations(range(1, size), number)]
    found = best_buckets(candidates, num_short, penalty, min_batches)
    least_cost = min(map(cost, every))
    if found is None:
        assert least_cost == np.inf
    else:
        assert cost(found) == pytest.approx(least_cost)


def test_long_sequences_come_in_large_batches_where_timesteps_cost():
    lengths, costs = np.repeat(np.arange(1, 101), 20), StepCosts(1.0, 1.0, 0.01)
    rules = BatchRules()
    choice, forecast = choose_sizes(lengths, costs, SizeBounds(min_updates=100, min_rows=5, max_rows=80), rules)
    sizes = choice.batch_sizes
    assert forecast.num_updates >= 100
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (5, 80)
    now = forecast_epoch(lengths, Buckets.from_lengths(lengths, [], [20]), costs, rules)
    assert forecast.seconds < 0.6 * now.seconds


@settings(max_examples=examples(8))
@given(
    sorted_lengths(max_size=60),
    st.lists(st.integers(1, 60), max_size=3, unique=True).map(sorted),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    remainders(),
    st.booleans(),
)
def test_the_forecast_is_the_mean_of_many_epochs(lengths, boundaries, sizes, remainder, to_boundary):
    sizes = sizes[: len(boundaries) + 1]
    counts = np.bincount(np.searchsorted(boundaries, lengths, side="right"), minlength=len(sizes))
    assume(remainder != "drop" or (counts >= sizes).any())
    dataset = BucketedSequence.from_loader(
        lambda row: None,
        lengths,
        output_signature=TOKENS,
        bucket_boundaries=boundaries,
        bucket_batch_sizes=sizes,
        remainder=remainder,
        pad_to_bucket_boundary=to_boundary,
        seed=0,
    )
    costs = StepCosts(3.0, 0.5, 0.25, 0.03)
    buckets = Buckets.from_lengths(lengths, boundaries, sizes)
    forecast = forecast_epoch(lengths, buckets, costs, BatchRules(remainder, 1, to_boundary))
    plans = [dataset.epoch_plan(epoch) for epoch in range(60)]
    seconds = [costs.seconds(np.diff(plan.batch_splits), plan.padded_lengths).sum() for plan in plans]
    # The mean of 60 draws is within six of its standard errors, but for the smallest spreads.
    assert abs(np.mean(seconds) - forecast.seconds) <= 6 * np.std(seconds) / np.sqrt(60) + 0.02 * forecast.seconds


@settings(max_examples=examples(200))
@given(st.data(), sorted_lengths(), st.sampled_from([1, 2, 3]))
def test_probes_are_batches_that_could_be_proposed(data, lengths, multiple):
    bounds = data.draw(bounds_for(lengths, multiple))
    probes = probe_batches(lengths, bounds.min_rows, bounds.max_rows, multiple, bounds.max_timesteps_per_batch)
    assert [probe.padded_timesteps for probe in probes] == sorted(probe.padded_timesteps for probe in probes)
    for probe in probes:
        assert lengths[probe.rows].max() == probe.padded_length
        assert len(set(probe.rows.tolist())) == len(probe.rows) <= bounds.max_rows
        assert len(probe.rows) % multiple == 0
        assert bounds.max_timesteps_per_batch is None or probe.padded_timesteps <= bounds.max_timesteps_per_batch
    if bounds.max_timesteps_per_batch is None:
        assert max(probe.padded_timesteps for probe in probes) == bounds.max_rows * lengths[-1]


@settings(max_examples=examples(50))
@given(sorted_lengths(), costs(), st.lists(st.integers(1, 60), max_size=3, unique=True).map(sorted))
def test_the_forecast_of_batches_of_one_row_is_exact(lengths, costs, boundaries):
    buckets = Buckets.from_lengths(lengths, boundaries, [1] * (len(boundaries) + 1))
    forecast = forecast_epoch(lengths, buckets, costs, BatchRules())
    assert forecast.seconds == pytest.approx(costs.seconds(1, lengths).sum())


# Costs that are fitted to steps.

ROWS, LENGTHS = (grid.ravel() for grid in np.meshgrid([8, 32, 128], [20, 100, 500, 2500]))
PARTS = {
    "overhead": 1,
    "per_timestep": LENGTHS,
    "per_padded_timestep": ROWS * LENGTHS,
    "per_squared_length": ROWS * LENGTHS**2,
}


def realistic_costs():
    """Costs of which some are 0, others within three orders of magnitude."""
    return st.builds(StepCosts, *(st.just(0.0) | st.floats(cost / 1000, cost) for cost in (1e-1, 1e-3, 1e-5, 1e-8)))


def relative_errors(of, seconds):
    return of.seconds(ROWS, LENGTHS) / seconds - 1


@settings(max_examples=examples(300))
@given(realistic_costs())
def test_finds_the_costs_that_made_the_seconds(of):
    seconds = of.seconds(ROWS, LENGTHS)
    assume(seconds.all())
    found = fit_step_costs(ROWS, LENGTHS, seconds)
    assert np.abs(relative_errors(found, seconds)).max() < 1e-8
    # A cost is found as exactly as it shows in the seconds.
    for name, share in PARTS.items():
        assert np.abs((getattr(found, name) - getattr(of, name)) * share / seconds).max() < 1e-5


@settings(max_examples=examples(100))
@given(realistic_costs(), seeds())
def test_no_other_costs_fit_better(of, seed):
    random = np.random.default_rng(seed)
    seconds = (of.seconds(ROWS, LENGTHS) + 1e-4) * random.lognormal(0, 0.3, len(ROWS))
    found = fit_step_costs(ROWS, LENGTHS, seconds)
    least = (relative_errors(found, seconds) ** 2).sum()
    costs = np.array([getattr(found, name) for name in PARTS])
    assert costs.min() >= 0
    typical = np.array([np.median(seconds / share) for share in PARTS.values()])
    for _ in range(50):
        step = random.normal(size=len(PARTS)) * typical * 10.0 ** -random.integers(0, 5)
        other = StepCosts(*np.maximum(costs + step, 0))
        assert (relative_errors(other, seconds) ** 2).sum() >= least * (1 - 1e-9)


@pytest.mark.parametrize(
    ("seconds", "costs"),
    [
        (2.0 * np.ones(4), StepCosts(2.0, 0.0, 0.0)),
        (np.array([1.0, 2.0, 1.0, 2.0]), StepCosts(0.0, 0.1, 0.0)),
        (np.array([3.0, 6.0, 5.0, 10.0]), StepCosts(0.0, 0.1, 0.2)),
        (np.array([1.0, 4.0, 2.0, 8.0]), StepCosts(0.0, 0.0, 0.0, 0.01)),
        (np.array([2.0, 4.0, 1.0, 2.0]), StepCosts(0.0, 0.12, 0.0)),  # more rows, less time: no negative cost
    ],
)
def test_costs_by_hand(seconds, costs):
    found = fit_step_costs(np.array([1, 1, 2, 2]), np.array([10, 20, 10, 20]), seconds)
    for name in PARTS:
        assert getattr(found, name) == pytest.approx(getattr(costs, name), abs=1e-9)


@settings(max_examples=examples(30))
@given(realistic_costs(), st.floats(0.02, 0.2), seeds())
def test_the_error_of_a_forecast_is_that_of_the_noise(of, noise, seed):
    assume(of.seconds(ROWS, LENGTHS).all())
    random = np.random.default_rng(seed)
    errors = []
    for _ in range(20):
        seconds = of.seconds(ROWS, LENGTHS) * np.exp(noise * random.normal(size=len(ROWS)))
        errors.append(forecast_error(np.abs(relative_errors(fit_step_costs(ROWS, LENGTHS, seconds), seconds)).tolist()))
    assert 0.6 * noise < np.mean(errors) < 1.6 * noise


@settings(max_examples=examples(200))
@given(realistic_costs(), st.integers(1, 5000))
def test_quadratic_length_counts_rows_as_what_they_cost(costs, longest):
    quadratic = costs.quadratic_length(longest)
    squared = costs.per_squared_length * longest**2
    total = costs.row_seconds(longest)
    if quadratic is None:
        assert squared <= ATTENTION_SHOWS * total
        return
    assert squared >= ATTENTION_SHOWS * total * (1 - 1e-9)
    lengths = np.arange(1, longest + 1)
    counted = lengths + lengths**2 / quadratic
    ratio = costs.row_seconds(lengths) / counted
    # Of 1 and more, it is rounded by half a timestep at most.
    assert (
        ratio.max() / ratio.min()
        <= 1 + 0.5 / min(quadratic - 0.5, costs.per_padded_timestep / costs.per_squared_length or 1e-9) + 1e-9
    )


@settings(max_examples=examples(150))
@given(memories(), st.integers(1, 300), st.integers(0, 300), st.none() | st.integers(1, 100), st.sampled_from([1, 2]))
def test_a_budget_is_the_largest_whose_batches_fit(memory, shortest, wider, quadratic, multiple):
    lengths = np.arange(shortest, shortest + wider + 1)
    budget = memory.max_timesteps(lengths, quadratic)
    if budget is None:
        assert np.isinf(memory.max_rows(lengths)).any()
        return
    rows = rows_within_budget(lengths, budget, multiple, quadratic)
    assert (memory.peak_bytes(rows, lengths) <= memory.limit * (1 + 1e-9) + memory.base * (rows == 0)).all()
    counted = lengths + (lengths**2 / quadratic if quadratic else 0)
    assert (memory.peak_bytes((budget + 1) / counted, lengths) > memory.limit * (1 - 1e-9)).any()


@settings(max_examples=examples(200))
@given(memories(), st.sets(st.integers(0, 11), max_size=9))
def test_finds_the_memory_of_steps(of, unknown):
    peaks = of.peak_bytes(ROWS, LENGTHS).astype(float)
    assume((peaks > 0).all())
    peaks[list(unknown)] = np.nan
    assert fit_memory_costs(ROWS, LENGTHS, peaks, None) is None
    found = fit_memory_costs(ROWS, LENGTHS, peaks, of.limit)
    known = ~np.isnan(peaks)
    np.testing.assert_allclose(found.peak_bytes(ROWS, LENGTHS)[known], peaks[known], rtol=1e-6)
    if len(unknown) == 9:
        peaks[np.flatnonzero(known)[0]] = np.nan
        assert fit_memory_costs(ROWS, LENGTHS, peaks, of.limit) is None


def test_memory_that_follows_no_law_is_not_planned_with():
    peaks = np.where(ROWS == 8, 1e3, 1e9)
    assert fit_memory_costs(ROWS, LENGTHS, peaks, 1e9) is None
