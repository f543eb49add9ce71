"""The recommended call does what is printed of it when it is made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.padding.report import padding_report
from tests.support.strategies import length_arrays


def lognormal_lengths(count, spread=0.9):
    return np.clip(np.random.default_rng(3).lognormal(3, spread, count).astype(int), 1, 300)


def make(call, lengths):
    """The dataset of the printed call."""
    x = [np.zeros(length, np.int8) for length in lengths]
    return eval(str(call).replace(")", ", seed=7)"), {"BucketedSequence": BucketedSequence, "x": x, "y": None})


def alternatives(recommendation):
    calls = (recommendation.call, recommendation.within_budget, recommendation.with_even_labels)
    return [call for call in calls if call is not None]


@pytest.mark.parametrize("count", [40, 700])
@pytest.mark.parametrize("batch_size", [8, 32])
def test_the_recommended_calls_reach_the_printed_efficiency(count, batch_size):
    lengths = lognormal_lengths(count)
    labels = lengths > np.median(lengths)
    for call in alternatives(padding_report(lengths, batch_size, labels).recommendation):
        dataset = make(call, lengths)
        assert tuple(dataset.bucket_boundaries) == call.boundaries
        assert dataset.num_batches == call.num_batches
        assert len(dataset.bucket_batch_sizes) == call.num_buckets
        epochs = [dataset.padding_stats(epoch) for epoch in range(30)]
        totals = [stats.total_timesteps for stats in epochs]
        # An expectation over shuffles: five standard errors, which one seed in two million exceeds.
        assert abs(np.mean(totals) - call.total_timesteps) <= 5 * np.std(totals, ddof=1) / np.sqrt(30) + 1e-6
        assert max(rows * padded for stats in epochs for rows, padded in stats.shapes) <= call.largest_batch
        assert epochs[0].real_timesteps == call.real_timesteps


@settings(max_examples=100, deadline=None)
@given(length_arrays(max_size=60), st.integers(1, 12), st.booleans())
def test_every_recommendation_is_consistent(lengths, batch_size, labeled):
    labels = lengths % 3 if labeled else None
    report = padding_report(lengths, batch_size, labels)
    recommendation = report.recommendation
    call = recommendation.call
    assert recommendation.random_timesteps == report.strategies[1].total_timesteps
    assert recommendation.longest_timesteps == report.strategies[0].total_timesteps
    assert recommendation.worth_it == (call.total_timesteps <= 0.95 * recommendation.random_timesteps)
    if not recommendation.worth_it:
        assert call.total_timesteps == pytest.approx(recommendation.random_timesteps)
        assert call.num_buckets == 1
        assert alternatives(recommendation) == [call]
    for each in alternatives(recommendation):
        assert 0 < each.padding_efficiency <= 1 + 1e-9
        assert 0 <= each.batch_mates <= len(lengths) - 1 + 1e-9
        assert (each.label_imbalance is None) == (labels is None)
        assert str(each) in str(report)
    if recommendation.within_budget is not None:
        assert recommendation.within_budget.largest_batch <= 0.5 * call.largest_batch


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ([80] * 500, "All sequences have 80 timesteps, so nothing is padded."),
        ([1], "All sequences have 1 timestep, so"),
        ([98, 99, 100] * 100, "padding efficiency 0.990: the lengths differ too little for buckets to save much."),
        ([3, 50, 7, 20], "padding efficiency 0.400. 4 sequences are too few for two buckets of full batches."),
    ],
)
def test_says_why_bucketing_is_not_worth_it(lengths, reason):
    report = padding_report(lengths)
    assert not report.recommendation.worth_it
    assert str(report.recommendation.call) == "BucketedSequence(x, y, batch_size=32, num_buckets=1)"
    assert reason in str(report)
    assert "Bucketing is not worth it here." in str(report)


def test_says_what_buckets_would_save_where_that_is_little():
    report = padding_report(list(range(80, 101)) * 20, batch_size=2)
    single = report.recommendation.call
    assert single.num_buckets == 1
    assert "have padding efficiency 0.963. 3 buckets would reach 0.987 and save 2.5% of the timesteps" in str(report)


def test_lengths_that_tell_the_labels_ask_for_fewer_buckets():
    lengths = lognormal_lengths(3000)
    recommendation = padding_report(lengths, y=np.digitize(lengths, [10, 20, 40, 80])).recommendation
    even = recommendation.with_even_labels
    assert recommendation.call.label_imbalance > 2
    assert 2 <= even.num_buckets < recommendation.call.num_buckets
    assert even.label_imbalance < recommendation.call.label_imbalance
    assert even.batch_mates > recommendation.call.batch_mates
    assert f"If accuracy suffers from uneven labels:\n\n    {even}" in str(recommendation)
    random_labels = np.random.default_rng(0).integers(0, 4, 3000)
    recommendation = padding_report(lengths, y=random_labels).recommendation
    assert recommendation.with_even_labels is None
    assert recommendation.call.label_imbalance == pytest.approx(1, abs=0.1)
    assert "Label imbalance" in str(recommendation)


def test_labels_belong_to_the_lengths_in_any_order():
    lengths = lognormal_lengths(500)
    labels = lengths % 5
    order = np.random.default_rng(0).permutation(500)
    of_both = [padding_report(lengths[rows], 16, labels[rows]).to_dict() for rows in (np.arange(500), order)]
    assert of_both[0] == of_both[1]
