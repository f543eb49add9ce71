"""Padded batches back to real timesteps: the side that is found, masks, lengths, and leaves that are padded alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.unpadding.batches import BatchOptions, PaddedGroup, Span, group_padded_leaves
from tests.support.default_layer import examples
from tests.support.strategies import lengths_lists, seeds
from tests.support.streams import pad

X, MASK, COUNTS = ("x",), ("m",), ("n",)


def spans_of(group, batches, **options):
    """The real timesteps of batches that are read one after the other, as lists of (start, stop)."""
    spans, row = [], 0
    for batch in batches:
        span = group.span(batch, BatchOptions(**options), row)
        spans += list(zip(span.start.tolist(), span.stop.tolist(), strict=True))
        row += len(span.start)
    return spans


@settings(max_examples=examples(80))
@given(lengths_lists(min_length=0), st.sampled_from(["post", "pre"]), st.sampled_from([0, -1, float("nan")]), seeds())
def test_the_padded_end_is_found(lengths, padding, mask_value, seed):
    generator = np.random.default_rng(seed)
    rows = [generator.uniform(1, 2, (length, 2)) for length in lengths]
    time = max(lengths)
    group = PaddedGroup([X])
    batches = [{X: pad(rows[at : at + 3], padding, mask_value, time)} for at in range(0, len(rows), 3)]
    expected = [(0, length) if padding == "post" or not length else (time - length, time) for length in lengths]
    found = [
        (start, stop) if stop > start else (0, 0) for start, stop in spans_of(group, batches, mask_value=mask_value)
    ]
    assert found == expected


def test_padding_inside_a_sequence_is_data():
    assert spans_of(PaddedGroup([X]), [{X: np.array([[1, 0, 2, 0], [1, 1, 1, 1]])}]) == [(0, 3), (0, 4)]


def test_a_timestep_is_padding_where_all_features_are():
    assert spans_of(PaddedGroup([X]), [{X: np.array([[[0, 1], [0, 0]]])}]) == [(0, 1)]


@pytest.mark.parametrize("split", [False, True])
def test_rows_that_begin_and_rows_that_end_with_it_are_refused(split):
    x = np.array([[1, 2, 0], [0, 1, 2]])
    batches = [{X: x[:1]}, {X: x[1:]}] if split else [{X: x}]
    with pytest.raises(
        ValueError, match=r"Which end of `x` is padded is not certain: row 0 ends .* row 1 begins.*padding="
    ):
        spans_of(PaddedGroup([X]), batches)
    assert spans_of(PaddedGroup([X]), batches, padding="post") == [(0, 2), (0, 3)]
    assert spans_of(PaddedGroup([X]), batches, padding="pre") == [(0, 3), (1, 3)]


def test_a_mask_tells_all():
    mask = np.array([[1, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0]])
    assert spans_of(PaddedGroup([X, MASK], mask=MASK), [{X: mask * 0, MASK: mask}]) == [(0, 2), (1, 3), (1, 2), (0, 0)]


def test_a_mask_with_a_hole_is_refused():
    batch = {MASK: np.array([[1, 1, 1], [1, 0, 1]], bool)}
    with pytest.raises(ValueError, match=r"`m` must be true on one run of timesteps.*a hole in row 6"):
        PaddedGroup([MASK], mask=MASK).span(batch, BatchOptions(), 5)


@pytest.mark.parametrize(
    ("x", "options", "expected"),
    [
        ([[1, 0, 9], [1, 2, 3]], {}, [(0, 2), (0, 3)]),  # the 0 is data, the 9 is padding
        ([[9, 1, 0], [1, 2, 3]], {}, [(0, 2), (0, 3)]),
        ([[0, 0, 5], [0, 1, 2]], {"padding": "pre"}, [(1, 3), (0, 3)]),
    ],
)
def test_lengths_tell_the_end(x, options, expected):
    group = PaddedGroup([X], lengths=COUNTS)
    assert spans_of(group, [{X: np.array(x), COUNTS: np.array([2, 3])}], **options) == expected


def test_lengths_find_padding_in_front():
    batch = {X: np.array([[0, 0, 5, 6], [0, 0, 0, 7], [1, 2, 3, 4]]), COUNTS: np.array([2, 1, 4])}
    assert spans_of(PaddedGroup([X], lengths=COUNTS), [batch]) == [(2, 4), (3, 4), (0, 4)]


@pytest.mark.parametrize(
    ("x", "lengths", "text"),
    [
        ([[1, 2]], [3], r"`n` must not exceed the padded length\. Expected at most 2, received 3 in row 7"),
        ([[1, 2]], [-1], "received -1 in row 7"),
        ([[1, 2, 3, 4], [4, 3, 2, 1]], [2, 2], r"padded at neither end.*padding='post' or padding='pre'"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(x, lengths, text):
    with pytest.raises(ValueError, match=text):
        PaddedGroup([X], lengths=COUNTS).span({X: np.array(x), COUNTS: np.array(lengths)}, BatchOptions(), 7)


def groups_of(batch, counts=()):
    arrays = {("x", key): np.array(value) for key, value in batch.items()}
    padded = [path for path, array in arrays.items() if array.ndim > 1]
    groups = group_padded_leaves(padded, {("x", key) for key in counts}, [arrays], 0)
    return sorted(
        (sorted(key for _, key in group.paths), (group.mask or group.lengths or ("x", ""))[1]) for group in groups
    )


IDS = [[5, 6, 7], [5, 0, 0]]


@pytest.mark.parametrize(
    ("batch", "counts", "expected"),
    [
        # A segment id of 0 is no padding.
        ({"ids": IDS, "segments": [[0, 0, 1], [0, 0, 0]]}, (), [(["ids", "segments"], "")]),
        # Neither of a source and its translation is always the longer one.
        ({"source": IDS, "target": [[5, 0, 0], [5, 6, 0]]}, (), [(["source"], ""), (["target"], "")]),
        ({"source": IDS, "target": [[5, 6], [5, 0]]}, (), [(["source"], ""), (["target"], "")]),
        (
            {"token_ids": IDS, "padding_mask": [[1, 1, 1], [1, 0, 0]]},
            (),
            [(["padding_mask", "token_ids"], "padding_mask")],
        ),
        (
            {
                "encoder_token_ids": IDS,
                "encoder_padding_mask": [[1, 1, 1], [1, 0, 0]],
                "decoder_token_ids": IDS,
                "decoder_padding_mask": [[1, 1, 1], [1, 1, 0]],
            },
            (),
            [
                (["decoder_padding_mask", "decoder_token_ids"], "decoder_padding_mask"),
                (["encoder_padding_mask", "encoder_token_ids"], "encoder_padding_mask"),
            ],
        ),
        ({"sequences": IDS, "lengths": [3, 2]}, ("lengths",), [(["sequences"], "lengths")]),
        ({"sequences": IDS, "lengths": [3.5, 2]}, (), [(["sequences"], "")]),
        (
            {"a": IDS, "b": IDS, "lengths": [3, 2], "a_lengths": [3, 2], "b_lengths": [3, 1]},
            ("lengths", "a_lengths", "b_lengths"),
            [(["a"], "a_lengths"), (["b"], "b_lengths")],
        ),
    ],
)
def test_which_leaves_are_padded_alike(batch, counts, expected):
    assert groups_of(batch, counts) == expected


@pytest.mark.parametrize(
    ("array", "constant"),
    [([[1, 2, 9], [3, 9, 9]], True), ([[1, 2, 9], [3, 9, 8]], False), ([[1, 2, np.nan], [3, np.nan, np.nan]], True)],
)
def test_padding_is_one_constant(array, constant):
    assert Span(np.array([0, 0]), np.array([2, 1]), 3).leaves_a_constant(np.array(array)) is constant
