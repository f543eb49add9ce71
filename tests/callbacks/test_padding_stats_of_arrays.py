"""PaddingStatsCallback on padded arrays, as `fit` takes them."""

from __future__ import annotations

import copy
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from tests.support.default_layer import examples
from tests.support.models import token_model

LENGTHS = np.array([3, 1, 5, 2, 4, 5, 1, 2])


def padded(lengths=LENGTHS, value=0, side="post", features=()):
    """Token ids from 2 on, or vectors of them."""
    x = np.full((len(lengths), max(lengths) + 1, *features), value)
    for row, length in zip(x, lengths, strict=True):
        row[slice(length) if side == "post" else slice(len(row) - length, None)] = 2
    return x


def counted(x, **options):
    return PaddingStatsCallback(x, **options).dataset.stats


@pytest.mark.parametrize("mask_value", [[0, 0, 1], np.array([0, 0, 1])])
def test_padding_may_be_a_symbol(mask_value):
    x = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 0, 1]]])
    assert counted(x, mask_value=mask_value).real_timesteps == 3


@settings(max_examples=examples(80))
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=8),
    st.sampled_from([0, 1, -1]),
    st.sampled_from(["post", "pre"]),
    st.sampled_from([(), (2,)]),
    st.sampled_from([np.asarray, tf.constant]),
)
def test_arrays_have_the_figures_of_plain_loops_and_of_monitor_padding(lengths, value, side, features, convert):
    x = convert(padded(lengths, value, side, features))
    stats = counted(x, mask_value=value)
    assert (stats.num_sequences, stats.num_batches) == (len(lengths), 1)
    assert (stats.real_timesteps, stats.total_timesteps) == (sum(lengths), len(lengths) * (max(lengths) + 1))
    monitored = monitor_padding(iter([(x,)]), value)
    list(monitored)
    assert monitored.padding_stats() == stats


@pytest.mark.parametrize(
    ("x", "options", "leaves"),
    [
        ([padded(), padded()], {}, {"x[0]": 23, "x[1]": 23}),
        ((padded(), np.ones(8)), {"sequences": 0}, {}),
        ({"ids": padded(), "lengths": LENGTHS - 1 + (LENGTHS == 1)}, {}, {}),
        ({"token_ids": padded(), "padding_mask": padded() > 0}, {}, {}),
        ({"a": {"b": padded()}, "c": (padded(), np.ones(8))}, {}, {"x['a']['b']": 23, "x['c'][0]": 23}),
    ],
)
def test_structures_of_arrays(x, options, leaves):
    stats = counted(x, **options)
    assert {leaf.name: leaf.real_timesteps for leaf in stats.leaves} == leaves
    if isinstance(x, dict) and "lengths" in x:
        assert stats.real_timesteps == x["lengths"].sum()
    elif not leaves:
        assert stats.real_timesteps == 23


def test_strings_nan_and_buckets():
    words = np.array([["a", "b", "[PAD]"], ["c", "[PAD]", "[PAD]"]])
    assert counted(words, mask_value="[PAD]").real_timesteps == 3
    assert counted(np.where(padded() == 0, np.nan, 1.0), mask_value=math.nan).real_timesteps == 23
    assert counted(padded(), bucket_boundaries=[4]).buckets[0].bucket == 1


def test_symbol_padding_that_was_not_told_is_warned_of():
    with pytest.warns(UserWarning, match=r"looks like padding. Pass mask_value=1\."):
        PaddingStatsCallback(padded(value=1))


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        ([padded(), np.ones((3, 6))], {}, ValueError, r"one first dimension in all, received.*\(8, 6\), \(3, 6\)"),
        (np.zeros((0, 4)), {}, ValueError, "has no rows"),
        (np.ones(4), {}, ValueError, "has a time axis"),
        (tf.ragged.constant([[1], [2, 3]]), {}, ValueError, "received a RaggedTensor"),
        (padded(), {"mask_value": 0.5}, ValueError, "Expected one of dtype int64"),
        (padded(), {"mask_value": "a"}, TypeError, "`mask_value` must be a number"),
        (padded(), {"sequences": "a"}, ValueError, "names no entry"),
        ([[1, 2], [3]], {}, TypeError, r"`dataset` cannot tell its padding\..*or padded arrays, received list"),
        ({}, {}, TypeError, "received dict"),
        (BucketedSequence([[1], [2, 3]]), {"mask_value": 1}, ValueError, "`mask_value` is for padded arrays"),
        (BucketedSequence([[1], [2, 3]]), {"sequences": "a"}, ValueError, "`sequences` is for padded arrays"),
        (BucketedSequence([[1], [2, 3]]), {"padding": "pre"}, ValueError, "`padding` is for padded arrays"),
        (np.array([[1, 0], [0, 1]]), {}, ValueError, "`padding` must be given"),
        (padded(), {"padding": "left"}, ValueError, "`padding` is unknown"),
    ],
)
def test_what_cannot_be_counted_is_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        PaddingStatsCallback(x, **options)


def test_the_padded_end_of_arrays_can_be_said():
    x = np.array([[1, 0, 0], [0, 1, 1]])
    found = {side: PaddingStatsCallback(x, padding=side).dataset.stats.real_timesteps for side in ("post", "pre")}
    assert found == {"post": 1 + 3, "pre": 3 + 2}


def test_a_copy_counts_the_same_arrays():
    callback = PaddingStatsCallback(padded(), (padded([2, 4]), np.ones(2)), mask_value=0)
    copied = copy.deepcopy(callback)
    assert copied.dataset is callback.dataset
    assert copied.validation_data.stats.real_timesteps == 6


def fit(callback, x, **arguments):
    y = np.ones(len(x))
    arguments = {"batch_size": 3, "epochs": 2, "verbose": 0, **arguments}
    return token_model().fit(x, y, callbacks=[callback], **arguments)


@pytest.mark.fit
def test_an_epoch_of_fit_counts_all_rows():
    x, x_val = padded(), padded([1, 5])
    callback = PaddingStatsCallback(x, (x_val, np.ones(2)))
    history = fit(callback, x, validation_data=(x_val, np.ones(2)))
    assert callback.history == [callback.dataset.stats] * 2
    assert callback.val_history == [callback.validation_data.stats] * 2
    assert history.history["padding_efficiency"] == [23 / 48] * 2
    assert history.history["val_padding_efficiency"] == [6 / 12] * 2
    assert callback.history[0].seconds > 0
    texts = []
    callback.report(texts.append)
    assert "validation_split" not in texts[0]


@pytest.mark.fit
@pytest.mark.parametrize("arguments", [{"validation_split": 0.25, "epochs": 1}, {"steps_per_epoch": 2, "epochs": 1}])
def test_parts_of_x_count_as_all_of_it_and_the_report_says_so(arguments, capsys):
    x = padded()
    callback = PaddingStatsCallback(x, verbose=1)
    history = fit(callback, x, **arguments)
    assert history.history["padding_efficiency"] == [23 / 48]
    assert callback.val_history == [None]
    texts = []
    callback.report(texts.append)
    told = "all 8 rows of x, while an epoch trained on 6 of them"
    assert told in texts[0]
    assert told in capsys.readouterr().out


@pytest.mark.fit
def test_an_evaluation_counts_where_it_reads_as_many_rows():
    x, x_val = padded(), padded([1, 5])
    callback = PaddingStatsCallback(x, (x_val, np.ones(2)))
    model = token_model()
    model.evaluate(x, np.ones(8), callbacks=[callback], verbose=0)
    model.evaluate(x_val, np.ones(2), callbacks=[callback], verbose=0)
    model.evaluate(x[:3], np.ones(3), callbacks=[callback], verbose=0)
    model.predict(x, callbacks=[callback], verbose=0)
    assert callback.evaluate_history == [callback.dataset.stats, callback.validation_data.stats]
    assert callback.predict_history == [callback.dataset.stats]


@pytest.mark.fit
def test_a_validation_dataset_beside_arrays():
    x = padded()
    validation = BucketedSequence([[2, 2], [3]], [1, 1], shuffle=False)
    callback = PaddingStatsCallback(x, validation)
    fit(callback, x, validation_data=validation)
    assert callback.history == [callback.dataset.stats] * 2
    assert callback.val_history == [validation.padding_stats(0)] * 2


def test_the_same_object_trains_and_validates():
    x = padded()
    callback = PaddingStatsCallback(x, x)
    assert callback.validation_data is callback.dataset
    assert keras.tree.flatten(callback.dataset.stats.num_sequences) == [8]
