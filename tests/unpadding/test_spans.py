"""Where rows stop: spans, masks and runs say the same of one array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.unpadding.spans import SIDES, lengths_of_mask, runs_outside_of, span_of_lengths
from tests.support.strategies import lengths_lists

sides = st.sampled_from(SIDES)


@given(lengths_lists(min_length=0, max_length=9), st.integers(0, 3), sides)
def test_a_span_says_which_timesteps_are_real(lengths, beyond, side):
    time = max(lengths) + beyond
    span = span_of_lengths(np.array(lengths), time, side)
    expected = [[True] * length + [False] * (time - length) for length in lengths]
    assert span.is_real.tolist() == (expected if side == "post" else [row[::-1] for row in expected])
    assert span.lengths.tolist() == lengths


@given(lengths_lists(min_length=0, max_length=9), st.integers(1, 3), sides)
def test_lengths_masks_and_runs_are_inverse_to_one_another(lengths, beyond, side):
    time = max(lengths) + beyond
    span = span_of_lengths(np.array(lengths), time, side)
    found, found_side = lengths_of_mask(span.is_real, "mask")
    assert found.tolist() == lengths
    assert found_side == (side if any(lengths) else None)
    assert (time - runs_outside_of(span.is_real)[side]).tolist() == lengths


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 0, 1]], r"`mask` must be True in one run.*at mask\[0\]: \[1, 0, 1\]"),
        ([[1, 0], [0, 1]], "padding at the end of row 0 and at the beginning of row 1"),
    ],
)
def test_masks_that_are_no_lengths_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        lengths_of_mask(np.array(mask, bool), "mask")
