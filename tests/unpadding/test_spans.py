"""Where rows stop: spans, masks and runs say the same of one array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.unpadding import spans
from keras_bucketing.unpadding.sides import _holds_the_same
from keras_bucketing.unpadding.spans import (
    SIDES,
    extent_of,
    lengths_of_mask,
    padding_of,
    real_timesteps,
    span_of_lengths,
)
from tests.support.strategies import lengths_lists, seeds

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
    assert (time - extent_of(span.is_real, lambda block: block).runs[side]).tolist() == lengths


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


@given(st.data(), lengths_lists(min_length=0, max_length=9))
def test_spans_are_alike_if_the_same_timesteps_are_real(data, lengths):
    others = data.draw(st.sampled_from([lengths, [max(length - 1, 0) for length in lengths]]))
    one, other = (
        span_of_lengths(np.array(each), max(lengths) + data.draw(st.integers(0, 1)), data.draw(sides))
        for each in (lengths, others)
    )
    assert one.is_like(other) == (one.is_real.tolist() == other.is_real.tolist())


# Blocks.


@given(st.data(), st.sampled_from([1, 3, 8, 40]))
def test_blocks_change_nothing(data, num_bytes):
    lengths = data.draw(lengths_lists(min_length=0, max_length=9))
    generator = np.random.default_rng(data.draw(seeds()))
    array = generator.integers(0, 3, (len(lengths), max(lengths) + 1, *data.draw(st.sampled_from([(), (2,)]))), np.int8)
    side = data.draw(sides)
    span = span_of_lengths(np.array(lengths), array.shape[1], side)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "BLOCK_BYTES", num_bytes)
        extent = spans.extent_of_data(array, 0)
        real, padding = (np.concatenate(list(parts(array, span))) for parts in (real_timesteps, padding_of))
        is_same = _holds_the_same(array, span.lengths)
    is_real = (array != 0).reshape(*array.shape[:2], -1).any(axis=2)
    for row, first, stop, count in zip(is_real, extent.first, extent.stop, extent.count, strict=True):
        at = np.flatnonzero(row)
        assert (first, stop, count) == ((at[0], at[-1] + 1, len(at)) if len(at) else (0, 0, 0))
    np.testing.assert_array_equal(real, array[span.is_real])
    np.testing.assert_array_equal(padding, array[~span.is_real])
    ends = (np.array_equal(row[:length], row[len(row) - length :]) for row, length in zip(array, lengths, strict=True))
    assert is_same == all(ends)
