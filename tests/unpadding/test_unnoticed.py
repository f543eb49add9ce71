"""Runs of one timestep at the rows' ends or beginnings, against a plain loop; and what is taken for padding."""

import threading
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from keras_bucketing.unpadding.constant_runs import ConstantRuns, add_up_runs, count_runs, runs_like_padding
from keras_bucketing.unpadding.evidence import COUNTS
from keras_bucketing.unpadding.graph import MeasuredRows
from keras_bucketing.unpadding.unnoticed import UnnoticedPaddingCheck
from tests.support.default_layer import examples
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


def find_runs(*batches):
    return runs_like_padding([tf.constant(batch) for batch in batches])


def test_large_arrays_are_counted_in_parts():
    padded = np.where(np.arange(12) < np.arange(40)[:, np.newaxis] % 12, np.arange(480).reshape(40, 12) + 10, -3)
    whole = find_runs(padded)
    assert find_runs(*(padded[at : at + 8] for at in range(0, 40, 8))) == whole
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


# Padding that `mask_value` does not show: monitor_padding says so, once, at the caller's line.


def padded(value=0.0, at_end=True, features=(), count=64, seed=0, time=20):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(count, time, *features)).astype("float32")
    is_real = np.arange(time) < rng.integers(1, time, count)[:, np.newaxis]
    array[~(is_real if at_end else is_real[:, ::-1])] = value
    return array


class Batches(keras.utils.PyDataset):
    """Batches of rows of an array, or of each array in a dict."""

    def __init__(self, x, size=8, **options):
        super().__init__(**options)
        self.x, self.size = x, size

    def __len__(self):
        return len(keras.tree.flatten(self.x)[0]) // self.size

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        batch = keras.tree.map_structure(lambda array: array[rows], self.x)
        return batch, np.zeros(self.size, np.float32)


def dataset_of(x, size=8):
    rows = len(keras.tree.flatten(x)[0])
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(rows, np.float32))).batch(size)


def read(monitored):
    """One pass, and its figures."""
    batches = [monitored[i] for i in range(len(monitored))] if isinstance(monitored, keras.utils.PyDataset) else None
    batches = list(monitored) if batches is None else batches
    return monitored.pass_stats(monitored.newest_pass(), 0, len(batches))


TOKENS = np.where(padded(0.0) == 0, 1, np.random.default_rng(0).integers(5, 99, (64, 20)))
WORDS = np.where(padded(0.0) == 0, "[PAD]", np.random.default_rng(0).integers(5, 99, (64, 20)).astype(str))


ALARMS = {
    "floats": (
        padded(-1.0),
        ["`x` are equally long by mask_value=0", "end in 2 to 19 timesteps of [-1.0]", "Pass mask_value=-1.0."],
    ),
    "at the beginning": (padded(0.1, at_end=False), ["rows begin in 2 to 19", "Pass mask_value=0.10000000149011612."]),
    "features": (
        padded([0.5, 1.5], features=(2,)),
        ["of [0.5, 1.5]", "its features differ", 'a dict `x` as "lengths"'],
    ),
    "tokens": (TOKENS, ["Pass mask_value=1."]),
    "a token 0 at the beginning of all": (np.insert(TOKENS, 0, 0, axis=1), ["Pass mask_value=1."]),
    "a dict": ({"a": padded(0.0), "b": TOKENS}, ["`x['b']`", "Pass mask_value=1."]),
    "nan": (padded(np.nan), ['Pass mask_value=float("nan").']),
}
QUICK = ["a dict"]  # of the datasets, which are traced; a PyDataset is not


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, Batches) for name in ALARMS),
        *(pytest.param(name, dataset_of, marks=[] if name in QUICK else pytest.mark.fit) for name in ALARMS),
    ],
)
def test_unnoticed_padding_is_pointed_out_once(name, make):
    x, texts = ALARMS[name]
    monitored = monitor_padding(make(x), mask_value=0)
    with pytest.warns(UserWarning, match="looks like padding") as caught:
        first = read(monitored)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert all(text in message for text in texts), message
    assert len(message) < 1000
    assert caught[0].filename == __file__
    assert read(monitored) == first  # no second warning: it would be an error


def test_strings_too():
    with pytest.warns(UserWarning, match=r"Pass mask_value='\[PAD\]'\."):
        read(monitor_padding(Batches(WORDS), ""))
    assert read(monitor_padding(Batches(WORDS), "[PAD]")).padding_efficiency < 0.7


@pytest.mark.fit
@pytest.mark.parametrize("make", [dataset_of, Batches])
def test_fit_is_told_at_its_line(make):
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    monitored = monitor_padding(make(padded(-1.0)))
    callback = PaddingStatsCallback(monitored)
    with pytest.warns(UserWarning, match="looks like padding") as caught:
        model.fit(monitored, epochs=2, verbose=0, shuffle=False, callbacks=[callback])
    assert [warning.filename for warning in caught] == [__file__]
    assert [stats.padding_efficiency for stats in callback.history] == [1, 1]


@settings(max_examples=examples(15))
@given(st.sampled_from(["right value", "floats", "tokens", "last"]), st.sampled_from([3, 9]), st.booleans(), seeds())
def test_other_data_raise_no_alarm(kind, size, at_end, seed):
    rng = np.random.default_rng(seed)
    x = {
        "right value": lambda: padded(0.0, at_end, seed=seed, count=27),
        "floats": lambda: rng.normal(size=(27, 6, 2)),
        "tokens": lambda: rng.integers(1, 1000, (27, 6)),
        "last": lambda: np.insert(rng.integers(5, 1000, (27, 6)), 6 if at_end else 0, 3, axis=1),
    }[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stats = read(monitor_padding(Batches(x, size)))
    assert (stats.padding_efficiency == 1) == (kind != "right value")


def test_lengths_that_are_given_raise_no_alarm():
    x = {"tokens": TOKENS, "lengths": (TOKENS != 1).sum(axis=1)}
    assert read(monitor_padding(Batches(x), sequences="tokens")).padding_efficiency < 0.7


def test_only_the_first_batches_are_looked_at(monkeypatch):
    monkeypatch.setattr("keras_bucketing.unpadding.unnoticed._MAX_BATCHES", 2)
    full = np.random.default_rng(0).normal(size=(60, 20)).astype("float32")
    monitored = monitor_padding(dataset_of(np.concatenate([full[:16], padded(-1.0)])))
    assert read(monitored).padding_efficiency == 1
    assert int(monitored._padding_check._samples.size()) == 2


def test_batches_without_rows_or_timesteps_pass():
    assert read(monitor_padding(dataset_of(np.ones((3, 5))).map(lambda x, y: (x[:0], y[:0])))).num_sequences == 0
    assert read(monitor_padding(dataset_of(np.zeros((3, 0))))).num_sequences == 3


def test_samples_may_be_looked_at_while_a_batch_is_being_kept(monkeypatch):
    """As when Keras reads ahead in another thread. What belongs to a sample is written late, one after the other."""
    table = tf.lookup.experimental.MutableHashTable
    insert, may_write, has_written, num_late = table.insert, threading.Semaphore(0), threading.Semaphore(0), 0
    leaves = list(tf.unstack(tf.random.stateless_normal([2, 8, 20], seed=[0, 1])))
    lengths = tf.stack([tf.fill([8], 20), tf.range(3, 11)])
    check = UnnoticedPaddingCheck(0)

    def write(to, keys, values, name=None):
        nonlocal num_late
        if values.dtype != tf.string or to is check._samples:
            return insert(to, keys, values, name)
        num_late += 1
        with tf.control_dependencies([tf.py_function(lambda: may_write.acquire(timeout=10), [], tf.bool)]):
            written = insert(to, keys, values, name)
        with tf.control_dependencies([written]):
            return tf.py_function(lambda: has_written.release() is None, [], tf.bool).op

    monkeypatch.setattr(table, "insert", write)

    @tf.function(autograph=False)
    def keep_a_batch():
        counts = tf.zeros([2, COUNTS], tf.int64)
        measured = MeasuredRows(lengths, tf.constant([20, 20]), counts, {1: tf.sequence_mask(lengths[1], 20)})
        return check.sample(1, 0, leaves, measured)

    keeping = threading.Thread(target=keep_a_batch.get_concrete_function(), daemon=True)
    keeping.start()
    for _ in range(num_late):
        time.sleep(0.1)  # for a sample that does not wait for them
        check.warn_once(["x", "y"], [tf.float32, tf.float32])
        may_write.release()
        assert has_written.acquire(timeout=10)
    keeping.join()
    check.warn_once(["x", "y"], [tf.float32, tf.float32])
    assert num_late == 3  # the padding of each leaf, and a mask of one
