"""One leaf of variable-length rows: what goes in comes out bit for bit."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.data.convert import as_rows
from keras_bucketing.data.rows import rows_from_memory, rows_from_ranges, rows_from_row_splits
from tests.support.default_layer import examples
from tests.support.rows import rows_of
from tests.support.strategies import lengths_lists, random_sequences, seeds, sequence_lists

with_empty_rows = lengths_lists(min_length=0)


def assert_same_rows(ragged, sequences):
    assert len(ragged) == len(sequences)
    for row, sequence in zip(rows_of(ragged), sequences, strict=True):
        assert row.dtype == sequence.dtype
        assert row.shape == sequence.shape
        assert row.tobytes() == sequence.tobytes()


@settings(max_examples=examples(100))
@given(sequence_lists(lengths=with_empty_rows))
def test_rows_come_back_bit_for_bit(sequences):
    ragged = as_rows(sequences, "x")
    assert_same_rows(ragged, sequences)
    assert np.array_equal(ragged.lengths, [len(sequence) for sequence in sequences])
    assert_same_rows(ragged.materialize(), sequences)


@settings(max_examples=examples(100))
@given(sequence_lists(lengths=with_empty_rows))
def test_row_splits_give_the_same_rows(sequences):
    splits = np.cumsum([0, *map(len, sequences)])
    assert_same_rows(rows_from_row_splits(np.concatenate(sequences), splits.astype(np.int32)), sequences)


@settings(max_examples=examples(200))
@given(with_empty_rows, st.integers(1, 25), st.sampled_from(["post", "pre"]), seeds())
def test_truncating_keeps_what_pad_sequences_keeps(lengths, maxlen, truncating, seed):
    sequences = random_sequences(lengths, seed=seed)
    truncated = as_rows(sequences, "x").truncate(maxlen, truncating)
    padded = keras.utils.pad_sequences(sequences, maxlen, "int64", padding="post", truncating=truncating)
    kept = [row[: min(length, maxlen)] for row, length in zip(padded, lengths, strict=True)]
    assert_same_rows(truncated, kept)


@settings(max_examples=examples(100))
@given(sequence_lists(lengths=with_empty_rows), st.data())
def test_selecting_keeps_the_rows_that_are_marked(sequences, data):
    marks = st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences))
    keep = np.array(data.draw(marks))
    kept = [sequence for sequence, mark in zip(sequences, keep, strict=True) if mark]
    if kept:
        assert_same_rows(as_rows(sequences, "x").select(keep), kept)


@settings(max_examples=examples(100))
@given(sequence_lists(lengths=with_empty_rows))
def test_filling_lets_only_empty_rows_count_as_one_timestep(sequences):
    filled = as_rows(sequences, "x").fill_empty()
    assert_same_rows(filled, sequences)
    assert filled.lengths.tolist() == [max(len(sequence), 1) for sequence in sequences]


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=12), seeds())
def test_a_copy_holds_the_used_timesteps_once_whatever_the_order_and_the_gaps(ranges, seed):
    values = random_sequences([38], "float64", (2,), seed)[0]
    starts, sizes = np.array(ranges).T
    with np.errstate(all="ignore"):
        expected = [values[start : start + size].astype(np.float32) for start, size in ranges]
        pairs = np.stack([starts, starts + sizes], axis=1)
        settled = rows_from_row_splits(values, pairs).materialize()
    assert_same_rows(settled, expected)
    used = np.unique(np.concatenate([np.arange(start, start + size) for start, size in ranges]))
    assert len(settled.values) == len(used)


@settings(max_examples=examples(60))
@given(sequence_lists(lengths=with_empty_rows), st.integers(1, 10), st.sampled_from(["post", "pre"]), st.data())
def test_nothing_but_settling_copies_values(sequences, maxlen, truncating, data):
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences))))
    values, splits = np.concatenate(sequences), np.cumsum([0, *map(len, sequences)])
    ragged = rows_from_row_splits(values, splits)
    changed = ragged.truncate(maxlen, truncating).select(keep).fill_empty()
    assert changed.values is values
    assert as_rows(changed, "x", copy=False).materialize().values is values
    assert as_rows(changed, "x").materialize().values is not values


def test_a_list_of_arrays_is_copied_only_once():
    ragged = as_rows([np.arange(100), np.arange(50)], "x")
    assert ragged.owned
    assert ragged.materialize() is ragged


def test_what_was_cut_from_a_list_of_arrays_does_not_stay_in_memory():
    assert len(as_rows([np.arange(100), np.arange(50)], "x").truncate(10, "pre").materialize().values) == 20


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u8"])
def test_the_byte_order_of_the_input_does_not_matter(byte_order, dtype):
    values = np.arange(5).astype(byte_order + dtype)
    for ragged in (rows_from_row_splits(values, [0, 2, 5]), as_rows([values[:2], values[2:]], "x")):
        assert ragged.dtype.isnative
        assert ragged.materialize().values.dtype == ragged.dtype
        assert np.array_equal(ragged.materialize().values, np.arange(5))


@pytest.mark.parametrize(
    ("values", "row_splits", "error", "text"),
    [
        ([1, 2], [1, 2], ValueError, "`row_splits` must start at 0. Received row_splits[0] = 1."),
        ([1, 2], [0, 2, 1, 2], ValueError, "`row_splits` must not decrease. Received row_splits[2] = 1 after 2."),
        ([1, 2], [0, 1, 3], ValueError, "Expected 2 as in `values`, received row_splits[2] = 3."),
        ([1, 2], [0, 3, 4], ValueError, "Expected 2 as in `values`, received row_splits[1] = 3."),
        ([1, 2], [0, 1], ValueError, "Expected 2 as in `values`, received row_splits[1] = 1."),
        (
            [1, 2],
            [0],
            ValueError,
            "at least two; or the shape (num_sequences, 2), a start and a stop for each. Received shape (1,).",
        ),
        ([1, 2], [[0, 1, 2]], ValueError, "a start and a stop for each. Received shape (1, 3)."),
        ([1, 2], np.zeros((0, 2), int), ValueError, "a start and a stop for each. Received shape (0, 2)."),
        ([1, 2], [[0, 1], [1, 3]], ValueError, "Expected 0 <= start <= stop <= 2 as in `values`, received [1, 3] at r"),
        ([1, 2], [[-1, 1]], ValueError, "received [-1, 1] at row_splits[0]."),
        ([1, 2], [[2, 1]], ValueError, "received [2, 1] at row_splits[0]."),
        ([1, 2], [0.0, 2.0], TypeError, "`row_splits` must be integers. Received dtype float64."),
        ([1, 2], ["0", "2"], TypeError, "`row_splits` must be integers. Received dtype <U1."),
        (
            [1, 2],
            [[0], 2],
            ValueError,
            "`row_splits` must be one regular array. Received a nested list of uneven shape.",
        ),
        (7, [0, 1], ValueError, "`values` must be an array of timesteps. Received the scalar 7."),
        (
            ["a", "b"],
            [0, 2],
            TypeError,
            "`values` must hold numbers. Expected a bool, int or float dtype, received <U1.",
        ),
        (
            [[1], [1, 2]],
            [0, 2],
            ValueError,
            "`values` must be one regular array. Received a nested list of uneven shape.",
        ),
    ],
)
def test_wrong_row_splits_are_refused(values, row_splits, error, text):
    with pytest.raises(error) as raised:
        rows_from_row_splits(values, row_splits)
    assert text in str(raised.value)


def test_row_splits_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match="row_splits"):
        rows_from_row_splits([1], np.array([0, 2**64 - 1], np.uint64))


def test_a_ragged_passes_through_unchanged():
    ragged = rows_from_row_splits(np.arange(3), [0, 1, 3])
    assert as_rows(ragged, "x") is ragged


ranges = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=8)


@given(ranges, seeds())
def test_rows_anywhere_in_values_come_in_their_order(ranges, seed):
    values = np.random.default_rng(seed).integers(0, 99, 30)
    expected = [values[start : start + size] for start, size in ranges]
    rows = rows_from_ranges(values, *np.array(ranges, np.int64).T)
    flat_values, splits = rows.concatenated()
    assert [row.tolist() for row in rows] == [row.tolist() for row in expected]
    assert [rows.row(index).tolist() for index in range(len(rows))] == [row.tolist() for row in expected]
    assert [row.tolist() for row in np.split(flat_values, splits[1:-1])] == [row.tolist() for row in expected]
    assert splits[0] == 0
    assert splits[-1] == len(flat_values)
    of_one_length = rows_from_ranges(values, rows.starts, np.full(len(rows), 9))
    assert of_one_length.as_array().tolist() == [values[start : start + 9].tolist() for start, _ in ranges]


@given(ranges, st.integers(0, 1), st.none() | st.integers(0, 9), st.integers(0, 3), st.data())
def test_tensors_say_where_the_same_rows_lie(ranges, min_length, limit, first, data):
    starts, sizes = np.array(ranges, np.int64).T
    rows = replace(rows_from_ranges(np.zeros(30, np.int32), starts, sizes), min_length=min_length)
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    tensors = rows.as_tensors(tf.constant)
    assert tensors.lengths(tf.constant(asked, tf.int32)).numpy().tolist() == rows.lengths[asked].tolist()
    limits = [ranges[row][1] if limit is None else min(limit, ranges[row][1]) for row in asked]
    expected = [
        list(range(first + starts[row], first + starts[row] + size)) for row, size in zip(asked, limits, strict=True)
    ]
    assert tensors.timesteps(tf.constant(asked, tf.int32), first, limit).to_list() == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 3), min_size=1, max_size=3)), min_size=1), seeds())
def test_pieces_of_one_memory_are_found_where_they_lie(pieces, seed):
    """Pieces of rows that follow one another, with gaps between the pieces, which come in any order."""
    memory = np.random.default_rng(seed).integers(0, 99, 400)
    order = np.random.default_rng(seed).permutation(len(pieces))
    ends = np.cumsum([gap + sum(sizes) for gap, sizes in pieces])
    arrays = [memory[end - sum(sizes) : end] for end, (_, sizes) in zip(ends, pieces, strict=True)]
    sizes = [np.array(pieces[at][1]) for at in order]
    rows = rows_from_memory(
        memory.view(np.uint8),
        np.array([arrays[at].ctypes.data for at in order]),
        np.array([len(arrays[at]) for at in order]),
        memory.dtype,
        (),
        np.array(list(map(len, sizes))),
        np.concatenate(sizes),
    )
    if rows is None:
        assert not any(map(len, arrays))
    else:
        assert np.shares_memory(rows.values, memory)
        assert [row.tolist() for row in rows] == [
            arrays[at][start : start + size].tolist()
            for at, lengths in zip(order, sizes, strict=True)
            for start, size in zip(lengths.cumsum() - lengths, lengths, strict=True)
        ]
