"""Predictions that are there already, back in the order of the input."""

import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.predicting.output_lengths import Sequences
from keras_bucketing.predicting.restore_order import restore_order
from tests.support.default_layer import examples
from tests.support.rows import assert_same_rows


def plan_of(rows, *padded, batch_size=2):
    """A plan of batches of that size, whose sequences are padded to those lengths, or to 9."""
    rows, none = np.array(rows, np.int64), np.array([], np.int64)
    splits = np.append(np.arange(0, len(rows), batch_size), len(rows))
    padded = [np.array(lengths) for lengths in padded] or [np.full(len(splits) - 1, 9)]
    leaves = {f"x['{index}']": lengths for index, lengths in enumerate(padded)}
    return EpochPlan(0, rows, splits, padded[0], np.zeros(len(splits) - 1, int), none, leaves)


def sequences_of(*lengths):
    lengths = [np.array(of_sequence) for of_sequence in lengths]
    paths = [(str(index),) for index in range(len(lengths))] if len(lengths) > 1 else [()]
    return Sequences(paths, paths, lengths, np.max(lengths, axis=0), 0.0)


@settings(max_examples=examples(200))
@given(st.integers(1, 30).flatmap(lambda n: st.permutations(range(n))))
def test_restoring_undoes_the_order_of_the_plan(order):
    given = np.random.default_rng(0).random((len(order), 2))
    restored = restore_order(given[order], plan_of(order), sequences_of(np.ones(len(order), int)))
    assert np.array_equal(restored, given)


@settings(max_examples=examples(60))
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_outputs_of_each_timestep_are_lists_of_cut_rows_whatever_the_data(lengths, batch_size, random, is_padded_alike):
    """With one batch or several, of equal padded lengths or not, ragged or dense."""
    order = random.sample(range(len(lengths)), len(lengths))
    first, second = (np.array(of_sequence) for of_sequence in zip(*lengths, strict=True))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    padded = [7 if is_padded_alike else int(second[rows].max()) for rows in batches]
    rows = [np.arange(length * 2).reshape(length, 2) + 100 * row for row, length in enumerate(second)]
    padded_rows = [
        np.pad(rows[row], [(0, size - len(rows[row])), (0, 0)], constant_values=-1)
        for size, batch in zip(padded, batches, strict=True)
        for row in batch
    ]
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(padded_rows), list(map(len, padded_rows)))
    plan = plan_of(order, [8] * len(batches), padded, batch_size=batch_size)
    sequences = sequences_of(first, second)
    if len(set(padded)) == 1:  # Keras joins them to an array
        dense = np.stack(padded_rows)
        for lengths in ("1", ("1",), second, second.tolist()):
            assert_same_rows(restore_order(dense, plan, sequences, lengths), rows)
        assert isinstance(restore_order(dense, plan, sequences, False), np.ndarray)
        with pytest.raises(ValueError, match=r"so it could hold one value per timestep\. Pass `lengths`"):
            restore_order(dense, plan, sequences)
    for lengths in (None, "1", second):
        assert_same_rows(restore_order(ragged, plan, sequences, lengths), rows)


def test_structures_of_outputs_keep_their_form():
    outputs = {"a": np.array([10, 20]), "b": [np.array([[1], [2]]), tf.constant([3, 4])]}
    restored = restore_order(outputs, plan_of([1, 0]), sequences_of([1, 1]))
    assert restored["a"].tolist() == [20, 10]
    assert restored["b"][0].tolist() == [[2], [1]]
    assert restored["b"][1].tolist() == [4, 3]
    restored = restore_order(outputs, plan_of([1, 0]), sequences_of([1, 1]), {"a": None, "b": [[1, 0], False]})
    assert_same_rows(restored["b"][0], [[2], np.zeros(0)])
    assert restored["b"][1].tolist() == [4, 3]


def test_rows_of_several_ragged_axes():
    scores = [np.ones((2, 3)), np.zeros((1, 3)), np.full((3, 3), 2)]
    ragged = tf.ragged.constant([rows.tolist() for rows in scores])
    restored = restore_order(ragged, plan_of([0, 2, 1]), sequences_of([2, 3, 1]))
    assert_same_rows(restored, [scores[0], scores[2], scores[1]])


THREE = [0, 1, 2]
RAGGED = tf.RaggedTensor.from_row_lengths(np.arange(7), [2, 2, 3])


@pytest.mark.parametrize(
    ("outputs", "rows", "lengths", "error", "text"),
    [
        (
            np.zeros(2),
            [0, 2],
            None,
            ValueError,
            "1 of 3 rows were not yielded, the first of them x[1]. For",
        ),
        (np.zeros(2), THREE, None, ValueError, "one row for each sequence. Expected 3, received 2."),
        (np.float32(1), THREE, None, ValueError, "Expected 3, received 0."),
        ([1, 2, 3], THREE, None, TypeError, "must be an array, or a dict or list of arrays. Received int."),
        ({"a": None}, THREE, None, TypeError, "Received NoneType. Pass what model.predict(dataset) returned."),
        (RAGGED, THREE, [2, 3, 1], ValueError, "`outputs` is shorter than its row. Expected at least 3 timesteps for"),
        (RAGGED, THREE, False, ValueError, "`outputs` is a RaggedTensor, so it holds no values of a row."),
        (
            np.ones((3, 2)),
            THREE,
            [2, 3, 1],
            ValueError,
            "Expected at least 3 timesteps for row 1 of the input",
        ),
        (
            np.ones(3),
            THREE,
            [2, 3, 1],
            ValueError,
            "no time axis. Expected shape (num_sequences, time, ...)",
        ),
        (np.ones((3, 9, 2)), THREE, None, ValueError, "all batches are padded to as many timesteps"),
        ({"a": np.ones((3, 9))}, THREE, None, ValueError, "`outputs['a']` has 9 in its second axis"),
        (np.ones(3), THREE, True, TypeError, "`lengths` must not be True."),
        (np.ones(3), THREE, "a", ValueError, "`lengths` names no sequence of x. Expected ints, received 'a' (str)."),
        (np.ones(3), THREE, [1, 2], ValueError, "Expected shape (3,), received (2,)."),
        ([np.ones(3)], THREE, {"a": None}, ValueError, "Expected a list of 1, received a dict with the keys ['a']."),
    ],
)
def test_what_cannot_be_restored_is_refused(outputs, rows, lengths, error, text):
    with pytest.raises(error) as raised:
        restore_order(outputs, plan_of(rows), sequences_of([2, 1, 3]), lengths)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("lengths", "padded", "text"),
    [
        (([2, 1, 3], [1, 2, 3]), ([2, 3], [2, 3]), "`outputs` could follow several sequences of x"),
        (([2, 1, 3], [1, 2, 2]), ([4, 3], [2, 4]), "`outputs` could follow none of the sequences of x"),
        (([2, 2, 4],), ([2, 4],), "`outputs` is shorter than its row. Expected at least 4 timesteps for row 2"),
        (
            ([1, 1, 2],),
            ([1, 2],),
            "`outputs` is longer than its rows are padded. Expected at most 1 timesteps",
        ),
    ],
)
def test_a_ragged_output_of_unknown_lengths_is_refused(lengths, padded, text):
    with pytest.raises(ValueError, match=re.escape(text) + ".*Pass the lengths of its rows as `lengths`"):
        restore_order(RAGGED, plan_of(THREE, *padded), sequences_of(*lengths))
    restored = restore_order(RAGGED, plan_of(THREE, *padded), sequences_of(*lengths), [1, 2, 3])
    assert_same_rows(restored, [[0], [2, 3], [4, 5, 6]])


# Whose predictions they are.


X = [np.full(1 + row % 5, row) for row in range(17)]


def make(**options):
    return BucketedSequence(X, **{"batch_size": 2, "seed": 1, **options})


def first_timesteps(batches):
    return np.concatenate([batch.numpy()[:, 0] for batch in batches])


def test_an_array_that_is_as_long_as_some_batches_holds_values_of_a_row():
    dataset = make(shuffle=False)
    five = np.tile(first_timesteps(dataset)[:, np.newaxis], 5)
    assert dataset.restore_order(five)[:, 4].tolist() == list(range(17))
    alike = BucketedSequence([[1, 2], [3]] * 3, batch_size=2, bucket_boundaries=[5], pad_to_bucket_boundary=True)
    list(alike)
    with pytest.raises(ValueError, match=r"has 4 in its second axis"):
        alike.restore_order(np.zeros((6, 4)))


READS = {
    "nothing": lambda dataset: None,
    "a batch": lambda dataset: next(iter(dataset)),
    "all but the last batch": lambda dataset: list(zip(range(len(dataset) - 1), dataset, strict=False)),
    "a batch by get_next": lambda dataset: iter(dataset).get_next(),
    "a pass, then a batch": lambda dataset: [list(dataset), next(iter(dataset))],
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_shuffled_pass_that_was_not_read_to_its_end_is_refused(read, shuffle):
    dataset = make(shuffle=shuffle)
    outputs = first_timesteps(dataset) if read != "nothing" else np.zeros(17)
    if read == "nothing":
        dataset = make(shuffle=shuffle)
    READS[read](dataset)
    if not shuffle:
        dataset.restore_order(outputs)
        return
    with pytest.raises(ValueError, match="its newest pass was not read to its end"):
        dataset.restore_order(outputs)


ENDS = {
    "all": lambda dataset: first_timesteps(dataset),
    "as many as there are": lambda dataset: first_timesteps(
        batch for _, batch in zip(range(len(dataset)), dataset, strict=False)
    ),
    "mapped": lambda dataset: first_timesteps(dataset.map(lambda x: x, num_parallel_calls=2).prefetch(3)),
    "one pass inside of another": lambda dataset: [
        next(iterator := iter(dataset)),
        first_timesteps(dataset),
        list(iterator),
    ][1],
    "after a part": lambda dataset: [list(dataset.take(2)), first_timesteps(dataset)][1],
    "repeated": lambda dataset: first_timesteps(dataset.repeat(2))[17:],
}


@pytest.mark.parametrize("read", ENDS)
def test_a_pass_is_read_when_its_last_batch_was_handed_out(read):
    dataset = make()
    dataset.seek(3)
    for _ in range(2):
        assert dataset.restore_order(ENDS[read](dataset)).tolist() == list(range(17))


def test_an_iterator_that_is_held_counts_up_to_its_last_batch():
    dataset = make()
    iterator = iter(dataset)
    outputs = first_timesteps(next(iterator) for _ in range(len(dataset)))  # without the end of the iterator
    assert dataset.restore_order(outputs).tolist() == list(range(17))
