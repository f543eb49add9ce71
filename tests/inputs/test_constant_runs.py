"""Runs of one timestep at the rows' ends or beginnings, against a plain loop; and what is taken for padding."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.inputs import constant_runs
from keras_bucketing.inputs.constant_runs import ConstantRuns, add_up_runs, count_runs, find_runs
from tests.support.strategies import DTYPES, seeds


def same(left, right):
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def run_by_loop(row, value, at_end):
    steps = row[::-1] if at_end else row
    return next((index for index, step in enumerate(steps) if not same(step, value)), len(row))


def count_by_loop(batch, value, at_end):
    """The numbers of `count_runs` for the timestep that it chose."""
    ends = [row[-1] if at_end else row[0] for row in batch]
    mixed = [row for row, end in zip(batch, ends, strict=True) if run_by_loop(row, end, at_end) < len(row)]
    runs = [run for row in mixed if (run := run_by_loop(row, value, at_end)) >= 2]
    holding = sum(same(step, value) for row in mixed for step in row)
    longest_of_any = max((run_by_loop(row, row[-1] if at_end else row[0], at_end) for row in mixed), default=0)
    return [len(mixed), len(runs), min(runs, default=batch.shape[1]), max(runs, default=0), sum(runs), holding], (
        longest_of_any
    )


@given(
    st.integers(1, 8),
    st.integers(1, 6),
    st.sampled_from([(), (2,), (2, 1)]),
    st.sampled_from([*DTYPES, "float64", "nan"]),
    st.booleans(),
    seeds(),
)
def test_runs_are_counted_as_by_a_loop(num_rows, time, features, dtype, at_end, seed):
    batch = np.random.default_rng(seed).integers(0, 2, (num_rows, time, *features))
    batch = np.where(batch, np.nan, 1.0) if dtype == "nan" else batch.astype(dtype)
    counts, value = (tensor.numpy() for tensor in count_runs(tf.constant(batch), at_end))
    expected, longest = count_by_loop(batch, value.reshape(features), at_end)
    assert counts.tolist() == expected
    if longest >= 2:
        assert counts[3] == longest  # the timestep of the longest run was chosen


def test_several_batches_add_up():
    batches = [[[1, 2, 0, 0], [3, 4, 5, 6]], [[7, 0, 0, 0], [8, 9, 9, 1]], [[7, 7, 7, 5], [1, 2, 4, 4]], [[2, 2, 2, 2]]]
    parts = [[tensor.numpy() for tensor in count_runs(tf.constant(batch), True)] for batch in batches]
    assert add_up_runs(parts, True) == ConstantRuns(True, np.array([0]), 6, 2, 2, 3, 5, 5)
    assert add_up_runs(parts[3:], True) is None
    assert add_up_runs([], True) is None


def test_large_arrays_are_counted_in_parts(monkeypatch):
    padded = np.where(np.arange(12) < np.arange(40)[:, np.newaxis] % 12, np.arange(480).reshape(40, 12) + 10, -3)
    whole = find_runs(padded)
    monkeypatch.setattr(constant_runs, "_MOST_CELLS", 100)
    assert find_runs(padded) == whole
    assert whole.looks_like_padding


@pytest.mark.parametrize(
    ("rows", "at_end"),
    [
        ([[1, 2, 9, 9], [3, 9, 9, 9]], True),
        ([[9, 9, 1, 2], [9, 9, 9, 3]], False),
        ([[1, 2, 9, 9], [3, 9, 9, 9], [9, 9, 9, 9], [1, 2, 3, 4]], True),
        ([[1, 2, 9, 9], [3, 9, 9, 9], *([[1, 2, 3, 4]] * 18)], True),
        ([[1, 2, 9, 9], [3, 9, 9, 9], *([[1, 2, 3, 4]] * 19)], None),  # fewer than a tenth of the rows
        ([[1, 2, 3, 9], [3, 4, 5, 9]], None),  # a last timestep that all share
        ([[1, 2, 9, 9], [3, 4, 9, 9]], None),  # of one length
        ([[1, 2, 9, 9], [3, 8, 8, 8]], None),  # of several values
        ([[1, 2, 9, 9]], None),
        ([[9, 9, 9, 9], [9, 9, 9, 9]], None),  # rows that are constant throughout say nothing
        ([[9, 1, 9, 9, 9], [9, 2, 1, 9, 9]], None),  # a value that is everywhere
        (np.zeros((3, 0)), None),
        (np.zeros((0, 3)), None),
    ],
)
def test_what_looks_like_padding(rows, at_end):
    found = find_runs(np.array(rows))
    assert (found and found.at_end) == at_end
