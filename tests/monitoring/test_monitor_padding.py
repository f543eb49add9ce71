from __future__ import annotations

import functools
import math
import warnings
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from keras_bucketing.unpadding.graph import row_lengths
from tests.support import default_layer
from tests.support.default_layer import examples


def stats_of_pass(monitored, stop=10**4):
    return monitored.pass_stats(monitored.newest_pass(), 0, stop)


class OneBatch(keras.utils.PyDataset):
    """A batch that is measured by the rules of a `tf.data.Dataset`, but needs no graph, which takes longer to trace."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.x


def stats_of_batch(x, *arguments, **options):
    monitored = monitor_padding(OneBatch(x), *arguments, **options)
    monitored[0]
    return stats_of_pass(monitored)


def sequences(count=50, seed=0, features=()):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 9, (length, *features)) for length in rng.integers(1, 30, count)]


def test_batches_pass_through_unchanged():
    elements = ({"a": np.arange(24).reshape(6, 4), "b": np.ones((6, 2))}, np.arange(6), np.ones(6))
    dataset = tf.data.Dataset.from_tensor_slices(elements).batch(4)
    monitored = monitor_padding(dataset, sequences="a")
    assert monitored.element_spec == dataset.element_spec
    assert len(monitored) == monitored.num_batches == 2
    for ours, theirs in zip(monitored, dataset, strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(("repeats", "expected"), [(1, 3), (None, None)])
def test_number_of_batches(repeats, expected):
    dataset = tf.data.Dataset.from_tensor_slices(np.ones((6, 2))).batch(2).repeat(repeats)
    assert monitor_padding(dataset).num_batches == expected
    assert monitor_padding(dataset).cardinality() == dataset.cardinality()
    assert monitor_padding(dataset.filter(lambda x: True)).num_batches is None


# A BucketedSequence behind monitor_padding: the same figures as the direct way.


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({}, (3,)),
        ({"num_buckets": 4, "batch_size": 8}, ()),
        ({"num_buckets": 4, "batch_size": 8, "pad_to_bucket_boundary": True, "remainder": "keep"}, ()),
        ({"num_buckets": 3, "max_timesteps_per_batch": 90}, ()),
        ({"num_buckets": 3, "batch_size": 8, "include_lengths": True}, (3,)),
    ],
)
def test_figures_are_those_of_the_dataset_itself(options, features):
    dataset = BucketedSequence(sequences(features=features), np.arange(50), seed=1, **options)
    monitored = monitor_padding(dataset.prefetch(2), bucket_boundaries=dataset.bucket_boundaries)
    for epoch in range(2):
        assert sum(1 for _ in monitored) == len(dataset)
        expected = dataset.padding_stats(epoch)
        found = stats_of_pass(monitored)
        if "max_timesteps_per_batch" in options:  # a batch of spilled rows alone may look like one of their own bucket
            found = replace(found, buckets=expected.buckets)
        assert found == expected


def test_what_can_tell_its_padding_comes_back_as_it_is():
    dataset = BucketedSequence(sequences())
    assert monitor_padding(dataset) is dataset
    monitored = monitor_padding(dataset.repeat())
    assert monitor_padding(monitored) is monitored


def test_repetition_is_one_long_pass():
    dataset = BucketedSequence(sequences(), batch_size=8, num_buckets=3, seed=1)
    monitored = monitor_padding(dataset.repeat(2), bucket_boundaries=dataset.bucket_boundaries)
    assert sum(1 for _ in monitored) == 2 * len(dataset)
    first, number = monitored.newest_pass(), len(dataset)
    assert first.number == 1
    assert monitored.pass_stats(first, 0, number) == dataset.padding_stats(0)
    assert monitored.pass_stats(first, number, 2 * number) == dataset.padding_stats(1)


def test_several_ragged_leaves_count_each_for_itself():
    x = {"a": sequences(seed=1), "b": sequences(seed=2, features=(2,)), "c": np.ones((50, 7))}
    dataset = BucketedSequence(x, batch_size=8, num_buckets=3, seed=1)
    monitored = monitor_padding(dataset.prefetch(2), bucket_boundaries=dataset.bucket_boundaries)
    assert sum(1 for _ in monitored) == len(dataset)
    assert stats_of_pass(monitored) == dataset.padding_stats(0)


@st.composite
def several_entries(draw):
    """Lengths of two or three leaves with as many rows each, and a batch size."""
    rows = draw(st.integers(1, 12))
    lengths = st.lists(st.integers(1, 9), min_size=rows, max_size=rows)
    keys = "abc" if default_layer.is_run else draw(st.sampled_from(["ab", "abc"]))  # each is traced once
    return {key: draw(lengths) for key in keys}, draw(st.integers(1, 5))


@functools.cache
def monitored_batches(keys):
    """A monitored dataset and the list that it reads from: traced once, whatever the batches."""
    batches = []
    spec = {key: tf.TensorSpec([None, None], tf.int64) for key in keys}
    return monitor_padding(tf.data.Dataset.from_generator(lambda: batches, output_signature=spec)), batches


@settings(max_examples=examples(15))
@given(several_entries(), st.booleans())
def test_figures_of_several_entries_are_those_of_plain_loops(drawn, padded_left):
    lengths, size = drawn
    rows = len(lengths["a"])
    expected = dict.fromkeys((f"x['{key}']" for key in lengths), (0, 0))
    monitored, batches = monitored_batches("".join(lengths))
    batches.clear()
    for start in range(0, rows, size):
        batch = {}
        for key, of_entry in lengths.items():
            part = of_entry[start : start + size]
            real, total = expected[f"x['{key}']"]
            expected[f"x['{key}']"] = (real + sum(part), total + len(part) * max(part))
            is_real = np.arange(max(part)) < np.array(part)[:, np.newaxis]
            batch[key] = is_real[:, ::-1].astype(int) if padded_left else is_real.astype(int)
        batches.append(batch)
    list(monitored)
    stats = stats_of_pass(monitored)
    assert {leaf.name: (leaf.real_timesteps, leaf.total_timesteps) for leaf in stats.leaves} == expected
    assert stats.real_timesteps == sum(real for real, _ in expected.values())
    assert stats.total_timesteps == sum(total for _, total in expected.values())


# Lengths, read off the batch.


@st.composite
def padded_batches(draw, *, features):
    """Sequences that neither begin nor end with padding but may hold it inside, as (padded, lengths)."""
    real = st.integers(1, 3)
    anything = st.integers(0, 3)
    inner = st.lists(anything, max_size=4)
    rows = draw(st.lists(st.tuples(real, inner, st.booleans(), real), min_size=1, max_size=5))
    rows = [[first, *middle, last] if longer else [first] for first, middle, longer, last in rows]
    time = max(map(len, rows)) + draw(st.integers(0, 3))
    padded = np.zeros((len(rows), time, *features), np.int32)
    for index, row in enumerate(rows):
        padded[index, : len(row), ...] = np.reshape(row, (-1, *(1 for _ in features)))
    return padded, np.array([len(row) for row in rows])


@pytest.mark.parametrize("features", [(), (2,), (2, 3)])
@settings(max_examples=examples(100))
@given(data=st.data())
def test_lengths_of_padded_rows(features, data):
    padded, lengths = data.draw(padded_batches(features=features))
    found, padded_lengths = row_lengths(padded, [()], 0)
    np.testing.assert_array_equal(found, [lengths])
    assert padded_lengths == [padded.shape[1]]
    left_padded = np.zeros_like(padded)
    for row, source, length in zip(left_padded, padded, lengths, strict=True):
        row[padded.shape[1] - length :] = source[:length]
    np.testing.assert_array_equal(row_lengths(left_padded, [()], 0)[0], [lengths])


@pytest.mark.parametrize(
    ("x", "mask_value", "lengths"),
    [
        ([[0, 0, 0], [1, 0, 0]], 0, [1, 1]),  # a row is never all padding
        ([[1.0, -1.0, -1.0], [0.0, 0.0, -1.0]], -1, [1, 2]),
        ([[1.0, math.nan], [math.nan, math.nan]], math.nan, [1, 1]),
        ([["a", "b"], ["c", ""]], 0, [2, 1]),
        ([["a", "b"], ["c", "[PAD]"]], "[PAD]", [2, 1]),
        ([[True, True], [True, False]], 0, [2, 1]),
        ([[[0.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]], 0.0, [1, 2]),  # all features, or it is no padding
        (np.array([[1.0, -999.1], [1.0, 2.0]]), -999.1, [1, 2]),  # float64, which float32 does not hold exactly
        (np.array([[1.0, -999.1], [1.0, 2.0]], np.float16), -999.1, [1, 2]),
    ],
)
def test_lengths_by_hand(x, mask_value, lengths):
    found, _ = row_lengths(tf.constant(x), [()], mask_value)
    assert found.numpy().tolist() == [lengths]
    traced = tf.function(lambda tensor: row_lengths(tensor, [()], mask_value)[0], autograph=False)
    assert traced(tf.constant(x)).numpy().tolist() == [lengths]


@pytest.mark.parametrize(
    ("x", "mask_value", "real"),
    [
        ([[1.0, math.nan], [math.nan, math.nan]], math.nan, 2),
        ([["a", "b"], ["c", "[PAD]"]], "[PAD]", 3),
        (np.array([[1.0, -999.1], [1.0, 2.0]]), -999.1, 3),
        (np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0]], np.float16), 0, 3),
    ],
)
def test_real_timesteps_by_hand(x, mask_value, real):
    assert stats_of_batch(tf.constant(x), mask_value).real_timesteps == real


@pytest.mark.parametrize(
    ("x", "padding", "lengths"),
    [
        ([[1, 2, 0, 0], [0, 3, 0, 0], [4, 0, 5, 6]], "post", [2, 2, 4]),  # a genuine 0 at the beginning
        ([[0, 0, 1, 2], [0, 0, 0, 3], [4, 0, 5, 0]], "pre", [2, 1, 4]),
        ([[1, 0, 0], [0, 0, 2]], "post", [1, 3]),
    ],
)
def test_an_end_that_is_not_certain_is_asked_for(x, padding, lengths):
    with pytest.raises(ValueError, match="`padding` must be given, since `x` may be padded at either end"):
        stats_of_batch(np.array(x))
    assert stats_of_batch(np.array(x), padding=padding).real_timesteps == sum(lengths)


def test_an_end_that_is_not_certain_in_a_pipeline_is_asked_for():
    monitored = monitor_padding(tf.data.Dataset.from_tensors(np.array([[1, 0, 0], [0, 0, 2]])))
    list(monitored)
    with pytest.raises(ValueError, match="`padding` must be given, since `x` may be padded at either end"):
        stats_of_pass(monitored)


def test_lengths_that_are_given_are_believed():
    x = {"sequences": np.zeros((3, 5), np.int32), "lengths": np.array([5, 1, 2])}
    monitored = monitor_padding(tf.data.Dataset.from_tensor_slices(x).batch(3))
    list(monitored)
    assert stats_of_pass(monitored).real_timesteps == 8


@pytest.mark.parametrize(
    ("lengths", "real"),
    [
        (np.array([5, 9, 0]), 5 + 5 + 1),  # kept within the batch, and a row is never all padding
        (np.array([5.0, 1.0, 2.0]), 3),  # floats are some feature of that name
        (np.array([[5], [1], [2]]), 3),
    ],
)
def test_lengths_that_cannot_be_are_not_believed(lengths, real):
    x = {"sequences": np.zeros((3, 5), np.int32), "lengths": lengths}
    assert stats_of_batch(x, sequences="sequences").real_timesteps == real


SEGMENTS = np.array([[1, 0, 0, 0], [1, 1, 1, 0]])  # zeros of its own


@pytest.mark.parametrize(
    ("x", "real"),
    [
        ({"a": SEGMENTS, "b": SEGMENTS, "b_lengths": np.array([2, 4])}, {"a": 1 + 3, "b": 2 + 4}),
        ({"a": SEGMENTS, "b": SEGMENTS, "lengths": np.array([2, 4])}, {"a": 2 + 4, "b": 2 + 4}),
        ({"a": SEGMENTS, "b": SEGMENTS, "lengths": np.array([2, 4]), "a_lengths": np.array([1, 1])}, {"a": 2, "b": 6}),
        (
            {"token_ids": SEGMENTS, "segment_ids": SEGMENTS * 0, "padding_mask": SEGMENTS.astype(bool)},
            {"token_ids": 4, "segment_ids": 4},
        ),
        (
            {
                "encoder_token_ids": SEGMENTS,
                "encoder_padding_mask": np.array([[True, True, False, False], [True] * 4]),
                "decoder_token_ids": SEGMENTS,
                "decoder_padding_mask": SEGMENTS.astype(bool),
            },
            {"encoder_token_ids": 6, "decoder_token_ids": 4},
        ),
    ],
)
def test_batches_may_tell_the_lengths_of_each_entry(x, real):
    leaves = stats_of_batch(x).leaves
    assert {leaf.name: leaf.real_timesteps for leaf in leaves} == {f"x['{key}']": count for key, count in real.items()}


def test_lengths_of_the_longest_are_not_those_of_a_shorter_entry():
    x = {"a": np.array([[1, 0, 0, 0], [1, 1, 1, 0]]), "b": np.array([[1, 0], [1, 1]]), "lengths": np.array([2, 4])}
    leaves = stats_of_batch(x, sequences=["a", "b"]).leaves
    assert [leaf.real_timesteps for leaf in leaves] == [2 + 4, 1 + 2]


def test_masks_are_counted_where_nothing_else_has_a_time_axis():
    assert stats_of_batch({"padding_mask": SEGMENTS.astype(bool)}).real_timesteps == 4


def test_time_axes_of_unknown_size_count_before_features():
    dataset = tf.data.Dataset.from_tensor_slices({"tokens": np.tri(3, 5), "features": np.ones((3, 20))})
    dataset = dataset.padded_batch(3, {"tokens": (None,), "features": (20,)})
    cut = dataset.map(lambda x: {**x, "tokens": tf.boolean_mask(x["tokens"], x["tokens"][2] > 0, axis=1)})
    monitored = monitor_padding(cut)
    list(monitored)
    assert stats_of_pass(monitored).total_timesteps == 9
    assert stats_of_pass(monitored).real_timesteps == 1 + 2 + 3


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones(4), {}, "No entry of the batches' x has a time axis"),
        ((np.ones((4, 5)), np.ones((4, 20))), {}, r"not clear.*sequences=0"),
        ({"a": np.ones((4, 5))}, {"sequences": "b"}, r"names no entry.*\['a'\], or several in a list, received 'b'"),
        ({"a": np.ones((4, 5))}, {"sequences": ["a", "b"]}, r"names no entry.*received 'b'"),
        ({"a": np.ones((4, 5))}, {"sequences": []}, r"names no entry.*received \[\]"),
        (
            {"a": np.ones(4), "b": np.ones((4, 5))},
            {"sequences": ["a", "b"]},
            "An entry of `sequences` has no time axis",
        ),
        ({"a": np.ones(4)}, {"sequences": "a"}, "No entry of the batches' x has a time axis"),
        (np.ones((4, 5), int), {"mask_value": 0.5}, r"Expected one of dtype int64, received 0\.5"),
        (np.ones((4, 5), int), {"mask_value": math.nan}, "Expected one of dtype int64, received nan"),
        (np.ones((4, 5), np.uint8), {"mask_value": -1}, "Expected one of dtype uint8, received -1"),
        (np.ones((4, 5), bool), {"mask_value": 2}, "Expected one of dtype bool, received 2"),
        (np.ones((4, 5)), {"bucket_boundaries": [9, 3]}, "`bucket_boundaries` must increase"),
    ],
)
def test_unclear_batches_are_refused(x, options, message):
    elements = (x, np.ones(4))  # a tuple alone would be x and y
    with pytest.raises(ValueError, match=message):
        monitor_padding(tf.data.Dataset.from_tensor_slices(elements).batch(2), **options)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((4, 5)), {"mask_value": None}, r"`mask_value` must be a number.*float64. Received None"),
        (np.ones((4, 5), int), {"mask_value": ""}, "`mask_value` must be a number"),
        (np.full((4, 5), "a"), {"mask_value": 3}, "`mask_value` must be a string where the sequences are strings"),
        (np.ones((4, 5)), {"bucket_boundaries": 5}, "`bucket_boundaries` must be a flat list of integers"),
        (np.ones((4, 5), complex), {}, "x must hold numbers or strings. Received the dtype complex128"),
    ],
)
def test_padding_of_another_kind_is_refused(x, options, message):
    with pytest.raises(TypeError, match=message):
        monitor_padding(tf.data.Dataset.from_tensor_slices((x, np.ones(4))).batch(2), **options)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((4, 5), complex), TypeError, "Received the dtype complex128. Convert it to numbers first"),
        (np.zeros((4, 5), "datetime64[s]"), TypeError, r"Received the dtype datetime64\[s\]"),
        (np.zeros((4, 5), [("a", "i4")]), TypeError, "must hold numbers or strings"),
        (tf.ragged.constant([[1], [2, 3]]), ValueError, "No entry of the batches' x has a time axis"),
        (tf.sparse.from_dense([[1, 0], [2, 3]]), ValueError, "No entry of the batches' x has a time axis"),
    ],
)
def test_what_is_no_padded_array_is_refused_in_batches_of_python(x, error, message):
    with pytest.raises(error, match=message):
        next(monitor_padding(iter([x])))


def test_batches_of_python_may_change_their_dtype():
    batches = [np.array([[1, 2, 0]]), np.array([[0.5, 0, 0]]), np.array([[True, False, False]])]
    monitored = monitor_padding(iter(batches))
    assert list(monitored) == batches
    assert monitored.padding_stats().real_timesteps == 2 + 1 + 1
    with pytest.raises(ValueError, match="`x` must hold strings in all batches, or numbers in all"):
        list(monitor_padding(iter([batches[0], np.array([["a"]])])))


@pytest.mark.parametrize("dataset", [np.ones((3, 4)), [1, 2], None])
def test_only_datasets_can_be_monitored(dataset):
    with pytest.raises(TypeError, match=r"Expected a tf\.data\.Dataset or a keras\.utils\.PyDataset"):
        monitor_padding(dataset)


# Passes and the log.


def fixed_batches(count):
    return tf.data.Dataset.range(count).map(lambda i: tf.reshape(tf.range(1, 5, dtype=tf.int64), (2, 2)) * (i + 1))


def test_an_iterator_that_is_not_read_is_no_pass():
    monitored = monitor_padding(fixed_batches(3))
    iterators = [iter(monitored) for _ in range(3)]
    assert monitored.newest_pass().number == 0
    next(iterators[1])
    assert monitored.newest_pass().number == 1
    next(iterators[0])
    assert monitored.newest_pass().number == 2


def test_passes_side_by_side_have_their_own_logs():
    monitored = monitor_padding(fixed_batches(4))
    first = iter(monitored)
    next(first)
    of_first = monitored.newest_pass()
    list(monitored)
    of_second = monitored.newest_pass()
    list(first)
    assert monitored.pass_stats(of_second, 1, 4).num_batches == 3
    assert monitored.pass_stats(of_first, 0, 9).num_batches == 4


def test_the_same_batches_can_be_asked_for_again_until_others_are():
    monitored = monitor_padding(fixed_batches(4))
    list(monitored)
    position = monitored.newest_pass()
    assert [monitored.pass_stats(position, 0, stop).num_batches for stop in (3, 2, 4)] == [3, 2, 4]
    assert monitored.pass_stats(position, 3, 4).num_batches == 1
    assert monitored.pass_stats(position, 0, 4).num_batches == 1
    assert monitored.pass_stats(position, 5, 5) == PaddingStats()


def test_a_log_that_nobody_reads_stays_small(monkeypatch):
    monkeypatch.setattr("keras_bucketing.monitoring.pass_log.KEPT_BATCHES", 10)
    monitored = monitor_padding(fixed_batches(4))
    for _ in range(8):
        list(monitored)
    keys, _ = monitored._log._table.export()
    assert keys.shape[0] <= 10 + 4
    assert stats_of_pass(monitored).num_batches == 4


def test_an_endless_pass_that_is_not_asked_about_keeps_its_newest_batches_and_a_sum(monkeypatch):
    monkeypatch.setattr("keras_bucketing.monitoring.pass_log.KEPT_BATCHES", 10)
    monitored = monitor_padding(fixed_batches(4).repeat())
    # What is added up is settled at the 61st batch and at the 71st, and not by how many are prefetched.
    list(monitored.take(65))
    assert int(monitored._log._table.size()) <= 2 * 10 + 2  # those prefetched as well
    asked = monitored.newest_pass()
    assert monitored.pass_stats(asked, 0, 65).num_batches == 65
    assert monitored.pass_stats(asked, 55, 65).num_batches == 10
    with pytest.raises(ValueError, match=r"50 batches of this pass have been added up.*received 45 and 65"):
        monitored.pass_stats(asked, 45, 65)
    list(monitored.take(60))  # in the pass after it, somebody may ask about any
    assert monitored.pass_stats(monitored.newest_pass(), 1, 60).num_batches == 59


@pytest.mark.parametrize("asks", [False, True])
def test_a_pass_of_unknown_length_is_added_up(monkeypatch, asks):
    monkeypatch.setattr("keras_bucketing.monitoring.pass_log.KEPT_BATCHES", 3)
    batches = fixed_batches(4).repeat(5)
    whole = monitor_padding(batches)
    list(whole)
    monitored = monitor_padding(batches.filter(lambda batch: True))  # of a number that nobody knows
    monitored.padding_stats()  # asks about no pass
    if asks:
        monitored.newest_pass()
    for count, _ in enumerate(monitored):
        assert int(monitored._log._table.size()) <= 2 * 3 + 2  # those prefetched as well
        if asks and count % 4 == 3:
            assert monitored.pass_stats(PassPosition(1, 0, 0), count - 3, count + 1).num_batches == 4
            assert len(monitored._log._remembered[1]) <= 2 * 3
    found, expected = monitored.padding_stats(), whole.padding_stats()
    assert found.num_batches == expected.num_batches == 20
    assert (found.real_timesteps, found.total_timesteps) == (expected.real_timesteps, expected.total_timesteps)


@pytest.mark.fit
def test_what_was_prefetched_does_not_count():
    monitored = monitor_padding(fixed_batches(40))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = PaddingStatsCallback(monitored)
    pairs = monitored.map(lambda x: (tf.cast(x, tf.float32), tf.ones((2, 1)))).prefetch(30)
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(pairs, steps_per_epoch=13, epochs=4, callbacks=[callback], verbose=0, shuffle=False)
    assert [stats.num_batches for stats in callback.history] == [13, 13, 13, 1]


def test_the_pass_before_the_newest_is_kept_even_if_too_much_is_unread(monkeypatch):
    monkeypatch.setattr("keras_bucketing.monitoring.pass_log.KEPT_BATCHES", 3)
    monitored = monitor_padding(fixed_batches(4))
    list(monitored)
    of_first = monitored.newest_pass()
    next(iter(monitored))
    assert monitored.pass_stats(of_first, 0, 4).num_batches == 4


# keras.utils.PyDataset.


class Batches(keras.utils.PyDataset):
    """Batch i holds i + 1 real timesteps in two rows padded to 20."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        x = np.zeros((2, 20), np.float32)
        x[0, : index + 1] = 1
        return x, np.ones((2, 1), np.float32)


def fit_py_dataset(dataset, **arguments):
    monitored = monitor_padding(dataset)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = PaddingStatsCallback(monitored)
    model.fit(monitored, callbacks=[callback], verbose=0, **arguments)
    return [(stats.num_batches, stats.real_timesteps) for stats in callback.history]


def test_py_dataset_as_it_is():
    monitored = monitor_padding(Batches(3))
    assert len(monitored) == monitored.num_batches == 3
    np.testing.assert_array_equal(monitored[2][0], Batches(3)[2][0])
    assert monitored.workers == 1


@pytest.mark.fit
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_py_dataset_in_whole_epochs(workers):
    # 1 + 2 + ... + 6 in the first rows, and one for each row that is all padding
    assert fit_py_dataset(Batches(6, workers=workers), epochs=3) == [(6, 21 + 6)] * 3


class Translations(Batches):
    """Batches of a source and a target, padded to other lengths each time."""

    def __getitem__(self, index):
        return {"source": np.ones((2, index + 1)), "target": np.eye(2, 2 * index + 2)}, np.ones((2, 1))


def test_py_dataset_with_several_entries():
    monitored = monitor_padding(Translations(3), sequences=["source", "target"], padding="post")
    for index in range(3):
        monitored[index]
    stats = stats_of_pass(monitored)
    figures = [(leaf.name, leaf.real_timesteps, leaf.total_timesteps) for leaf in stats.leaves]
    assert figures == [("x['source']", 12, 12), ("x['target']", 9, 24)]
    assert stats.shapes == ((2, 1, 2), (2, 2, 4), (2, 3, 6))


@pytest.mark.fit
def test_endless_py_dataset():
    with pytest.raises(TypeError, match="endless"):
        len(monitor_padding(Batches(None)))
    history = fit_py_dataset(Batches(None), epochs=2, steps_per_epoch=3, shuffle=False)
    assert history == [(3, 1 + 2 + 3 + 3), (3, 4 + 5 + 6 + 3)]


@pytest.mark.fit
def test_py_dataset_with_threads_says_when_figures_are_not_exact():
    with pytest.warns(UserWarning, match="Use workers=1 for exact figures"):
        fit_py_dataset(Batches(12, workers=3), epochs=1, steps_per_epoch=4)


def test_py_dataset_with_processes_is_refused():
    with pytest.raises(ValueError, match=r"use_multiprocessing=True.*Set `dataset.use_multiprocessing = False`"):
        monitor_padding(Batches(3, workers=2, use_multiprocessing=True))


class Reshuffled(Batches):
    """Counts the calls that a PyDataset gets between its epochs."""

    def __init__(self, count):
        super().__init__(count, max_queue_size=7)
        self.begun = self.ended = 0

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


@pytest.mark.fit
def test_py_dataset_is_told_of_its_epochs():
    calls = []
    for wrap in (lambda dataset: dataset, monitor_padding):
        dataset = Reshuffled(3)
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        assert wrap(dataset).max_queue_size == 7
        model.fit(wrap(dataset), epochs=3, verbose=0)
        calls.append((dataset.begun, dataset.ended))
    assert calls[0] == calls[1]
    assert min(calls[0]) >= 2


@pytest.mark.fit
def test_py_dataset_that_trains_and_validates():
    monitored = monitor_padding(Batches(6))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = PaddingStatsCallback(monitored, monitored)
    model.fit(monitored, validation_data=monitored, epochs=2, callbacks=[callback], verbose=0)
    figures = [(stats.num_batches, stats.real_timesteps) for stats in [*callback.history, *callback.val_history]]
    assert figures == [(6, 21 + 6)] * 4


@pytest.mark.fit
@pytest.mark.parametrize(("count", "steps", "steps_per_execution"), [(9, 3, 1), (11, 7, 3)])
def test_a_validation_on_the_same_py_dataset_between_two_parts_of_a_pass_is_warned_of(
    count, steps, steps_per_execution
):
    # Of the 11 batches, the second epoch has two, which are read before it begins: no hook comes after its first step.
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    arguments = {"epochs": 3, "steps_per_epoch": steps, "shuffle": False, "verbose": 0, "validation_freq": 2}
    monitored = monitor_padding(Batches(count))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(
            monitored, validation_data=monitored, callbacks=[PaddingStatsCallback(monitored, monitored)], **arguments
        )
    assert any("figures may be wrong" in str(warning.message) for warning in caught)


@pytest.mark.fit
def test_a_validation_on_another_py_dataset_leaves_the_figures_exact():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    arguments = {"epochs": 2, "steps_per_epoch": 3, "shuffle": False, "verbose": 0}
    trained, validated = monitor_padding(Batches(6)), monitor_padding(Batches(6))  # as the warning says
    callback = PaddingStatsCallback(trained, validated)
    model.fit(trained, validation_data=validated, callbacks=[callback], **arguments)
    assert [stats.real_timesteps for stats in callback.history] == [1 + 2 + 3 + 3, 4 + 5 + 6 + 3]


@pytest.mark.parametrize("source", ["tf.data", "generator"])
def test_finished_passes_count_leaves_that_are_padded_alike_by_the_longer_one(source):
    batch = {"ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]), "segments": np.array([[0, 1, 0, 0], [0, 0, 0, 0]])}
    dataset = tf.data.Dataset.from_tensors(batch) if source == "tf.data" else (each for each in [batch])
    monitored = monitor_padding(dataset)
    list(monitored)
    assert monitored.padding_stats().real_timesteps == 2 * (3 + 2)
