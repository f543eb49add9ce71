"""Costs from steps whose costs are known, and against other costs where none fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.tuning.measure import StepCosts, fit_step_costs
from tests.support.default_layer import examples
from tests.support.strategies import seeds

ROWS, LENGTHS = (grid.ravel() for grid in np.meshgrid([8, 32, 128], [20, 100, 500, 2500]))


def costs(most=(1e-1, 1e-3, 1e-5)):
    """Costs of which some are 0, others within three orders of magnitude."""
    overhead, per_timestep, per_padded_timestep = (st.just(0.0) | st.floats(cost / 1000, cost) for cost in most)
    return st.builds(StepCosts, overhead, per_timestep, per_padded_timestep)


def relative_errors(of, seconds):
    return of.seconds(ROWS, LENGTHS) / seconds - 1


@settings(max_examples=examples(300))
@given(costs().filter(lambda of: of != StepCosts(0.0, 0.0, 0.0)))
def test_finds_the_costs_that_made_the_seconds(of):
    seconds = of.seconds(ROWS, LENGTHS)
    if not seconds.all():
        return
    found = fit_step_costs(ROWS, LENGTHS, seconds)
    assert np.abs(relative_errors(found, seconds)).max() < 1e-9
    # A cost is found as exactly as it shows in the seconds.
    for name, share in (("overhead", 1), ("per_timestep", LENGTHS), ("per_padded_timestep", ROWS * LENGTHS)):
        assert np.abs((getattr(found, name) - getattr(of, name)) * share / seconds).max() < 1e-6


@settings(max_examples=examples(200))
@given(costs(), seeds())
def test_no_other_costs_fit_better(of, seed):
    random = np.random.default_rng(seed)
    seconds = (of.seconds(ROWS, LENGTHS) + 1e-4) * random.lognormal(0, 0.3, len(ROWS))
    found = fit_step_costs(ROWS, LENGTHS, seconds)
    least = (relative_errors(found, seconds) ** 2).sum()
    parts = (found.overhead, found.per_timestep, found.per_padded_timestep)
    assert min(parts) >= 0
    typical = np.array([np.median(seconds), np.median(seconds / LENGTHS), np.median(seconds / ROWS / LENGTHS)])
    for _ in range(50):
        step = random.normal(size=3) * typical * 10.0 ** -random.integers(0, 5)
        other = StepCosts(*np.maximum(np.array(parts) + step, 0))
        assert (relative_errors(other, seconds) ** 2).sum() >= least * (1 - 1e-9)


@pytest.mark.parametrize(
    ("seconds", "costs"),
    [
        (2.0 * np.ones(4), StepCosts(2.0, 0.0, 0.0)),
        (np.array([1.0, 2.0, 1.0, 2.0]), StepCosts(0.0, 0.1, 0.0)),
        (np.array([3.0, 6.0, 5.0, 10.0]), StepCosts(0.0, 0.1, 0.2)),
        (np.array([2.0, 4.0, 1.0, 2.0]), StepCosts(0.0, 0.12, 0.0)),  # more rows, less time: no negative cost
    ],
)
def test_costs_by_hand(seconds, costs):
    found = fit_step_costs(np.array([1, 1, 2, 2]), np.array([10, 20, 10, 20]), seconds)
    assert np.allclose(
        [found.overhead, found.per_timestep, found.per_padded_timestep],
        [costs.overhead, costs.per_timestep, costs.per_padded_timestep],
        atol=1e-9,
    )
