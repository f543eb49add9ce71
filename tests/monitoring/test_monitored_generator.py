"""Python generators, functions and iterables: what they yield comes through untouched, and is counted."""

from __future__ import annotations

import itertools
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from keras_bucketing.padding.stats import PaddingStats
from tests.support.default_layer import examples

ROW_LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=3)


def make_batch(lengths, padding=0, extra=0):
    """A batch `(x, y)` of token ids from 2 on, of rows of these lengths."""
    x = np.full((len(lengths), max(lengths) + extra), padding)
    for row, length in zip(x, lengths, strict=True):
        row[:length] = 2
    return x, np.ones((len(lengths), 1))


def figures(stats):
    return stats.num_batches, stats.num_sequences, stats.real_timesteps, stats.total_timesteps


def counted(lengths):
    """The same by plain loops over the lengths of batches."""
    rows, real = sum(map(len, lengths)), sum(map(sum, lengths))
    return len(lengths), rows, real, sum(len(batch) * max(batch) for batch in lengths)


class Loader:
    """An iterable that begins again with each loop, as a torch.utils.data.DataLoader."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


KINDS = {
    "generator": lambda batches: (batch for batch in batches),
    "iterator": iter,
    "function": lambda batches: lambda: (batch for batch in batches),
    "loader": Loader,
    "py_dataset": Batches,
}
AGAIN = ["function", "loader", "py_dataset"]


@settings(max_examples=examples(60))
@given(st.lists(ROW_LENGTHS, min_size=1, max_size=5), st.sampled_from(list(KINDS)), st.sampled_from([0, 1]))
def test_one_pass_has_the_figures_of_plain_loops_and_the_very_batches(lengths, kind, padding):
    batches = [make_batch(batch, padding) for batch in lengths]
    monitored = monitor_padding(KINDS[kind](batches), padding)
    assert monitored.padding_stats() == PaddingStats()
    assert all(ours is theirs for ours, theirs in zip(monitored, batches, strict=True))
    assert figures(monitored.padding_stats()) == counted(lengths)
    assert monitored.pass_stats(monitored.newest_pass(), 0, 99) == monitored.padding_stats()


@settings(max_examples=examples(60))
@given(st.lists(ROW_LENGTHS, min_size=1, max_size=4), st.sampled_from(AGAIN), st.lists(st.integers(1, 5), max_size=6))
def test_only_finished_passes_count(lengths, kind, stops):
    batches = [make_batch(batch) for batch in lengths]
    monitored = monitor_padding(KINDS[kind](batches))
    expected = (0, 0, 0, 0)
    for number, stop in enumerate(stops, start=1):
        read = list(itertools.islice(monitored, stop))
        assert len(read) == min(stop, len(lengths))
        assert monitored.newest_pass().number == number
        # A PyDataset says how long it is; an iterator ends where it is asked for more than it has.
        is_finished = stop > len(lengths) or (kind == "py_dataset" and stop == len(lengths))
        expected = counted(lengths) if is_finished else expected
        assert figures(monitored.padding_stats()) == expected
        assert figures(monitored.pass_stats(monitored.newest_pass(), 0, stop)) == counted(lengths[:stop])


@pytest.mark.parametrize("kind", AGAIN)
def test_two_passes_at_once_are_two(kind):
    lengths = [[1, 4], [3], [2, 2]]
    monitored = monitor_padding(KINDS[kind]([make_batch(batch) for batch in lengths]))
    first, second = iter(monitored), iter(monitored)
    next(first)
    of_first = monitored.newest_pass()
    list(second)
    assert figures(monitored.padding_stats()) == counted(lengths)
    assert figures(monitored.pass_stats(of_first, 0, 9)) == counted(lengths[:1])
    next(first)
    assert figures(monitored.pass_stats(of_first, 0, 9)) == counted(lengths[:2])
    assert monitored.newest_pass().number == 2


def test_a_generator_goes_on_where_it_was_left_and_is_one_pass():
    lengths = [[1, 4], [3], [2, 2]]
    monitored = monitor_padding(make_batch(batch) for batch in lengths)
    next(monitored)
    for _ in monitored:
        break
    assert monitored.padding_stats() == PaddingStats()
    assert len(list(monitored)) == 1
    assert list(monitored) == []
    assert figures(monitored.padding_stats()) == counted(lengths)
    assert monitored.newest_pass().number == 1


def test_what_a_generator_can_do_it_still_does():
    closed = []

    def batches():
        received = None
        try:
            while True:
                received = yield make_batch([received or 1])
        finally:
            closed.append(True)

    monitored = monitor_padding(batches())
    assert isinstance(monitored, types.GeneratorType)
    assert bool(monitored)
    next(monitored)
    assert monitored.send(3)[0].shape == (1, 3)
    assert figures(monitored.pass_stats(monitored.newest_pass(), 0, 9)) == (2, 2, 4, 4)
    with pytest.raises(KeyError):
        monitored.throw(KeyError("x"))
    monitored.close()
    assert closed == [True]


def test_masks_lengths_and_nested_inputs_are_read():
    x = {"encoder": {"ids": np.ones((2, 4)), "padding_mask": np.tri(2, 4)}, "static": np.ones(2)}
    monitored = monitor_padding(iter([(x, np.ones(2))]), sequences="encoder")
    list(monitored)
    assert monitored.padding_stats().leaves[0].name == "x['encoder']['ids']"
    assert monitored.padding_stats().leaves[0].real_timesteps == 1 + 2
    monitored = monitor_padding(iter([({"ids": np.ones((2, 4)), "lengths": np.array([2, 3])}, np.ones(2))]))
    list(monitored)
    assert monitored.padding_stats().real_timesteps == 5


def test_a_guess_that_later_batches_contradict_raises():
    batches = [{"ids": np.ones((2, size)), "features": np.ones((2, 5))} for size in (5, 7)]
    monitored = monitor_padding(iter(batches))
    next(monitored)
    with pytest.raises(ValueError, match=r"not clear.*sequences="):
        next(monitored)
    assert len(list(monitor_padding(iter(batches), sequences="ids"))) == 2


def test_symbol_padding_that_was_not_told_is_warned_of():
    batches = [make_batch([2, 5, 3], padding=1, extra=2) for _ in range(4)]
    monitored = monitor_padding(iter(batches))
    list(monitored)
    with pytest.warns(UserWarning, match=r"looks like padding. Pass mask_value=1\."):
        monitored.padding_stats()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda size: iter([]), r"callable without arguments.*missing a required argument: 'size'"),
        (np.ones, "callable without arguments"),
        ({"a": 1}, "received dict"),
        (Loader, "received type"),
        ("text", "received str"),
        (3, "received int"),
    ],
)
def test_what_makes_no_batches_is_refused(source, message):
    with pytest.raises(TypeError, match=message):
        monitor_padding(source)


def test_a_function_that_returns_no_iterator_is_refused_when_it_does():
    with pytest.raises(TypeError, match=r"must return an iterator.*returns ndarray"):
        list(monitor_padding(lambda: np.ones((2, 3))))


def test_a_tf_dataset_of_either_cardinality_counts_finished_passes_only():
    dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0], [1, 2, 3]]).batch(1)
    for each in (dataset, dataset.filter(lambda x: True)):
        monitored = monitor_padding(each)
        assert len(list(itertools.islice(monitored, 2))) == 2
        assert monitored.padding_stats() == PaddingStats()
        first = iter(monitored)
        next(first)
        list(monitored)
        assert figures(monitored.padding_stats()) == (3, 3, 6, 9)
        assert figures(monitored.pass_stats(monitored.newest_pass(), 1, 2)) == (1, 1, 1, 3)
        list(itertools.islice(monitored, 1))
        assert figures(monitored.padding_stats()) == (3, 3, 6, 9)


# Keras takes two batches out and begins each of its passes with them.


class Received(keras.callbacks.Callback):
    """What the model itself has counted, epoch by epoch."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.epochs, self.before = layer, [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.layer.counts.numpy()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(tuple((self.layer.counts.numpy() - self.before).tolist()))


class Count(keras.layers.Layer):
    """Counts batches, rows, real timesteps and all timesteps."""

    def build(self, shape):
        self.counts = tf.Variable(np.zeros(4, np.int64), trainable=False)

    def call(self, x):
        shape = tf.cast(tf.shape(x), tf.int64)
        real = tf.math.count_nonzero(x)
        self.counts.assign_add(tf.stack([tf.constant(1, tf.int64), shape[0], real, shape[0] * shape[1]]))
        return tf.cast(tf.reduce_sum(x, 1, keepdims=True), tf.float32)


def fit(make, steps_per_execution=1, **arguments):
    """The figures of the callback, and those of the model."""
    layer = Count()
    model = keras.Sequential([keras.Input((None,), dtype="int32"), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution, jit_compile=False)
    monitored = make()
    callback, received = PaddingStatsCallback(monitored), Received(layer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ran out of data")
        model.fit(monitored, callbacks=[received, callback], shuffle=False, verbose=0, **arguments)
    return [figures(stats) for stats in callback.history], received.epochs, monitored


LENGTHS = [[1], [4, 2], [3, 3, 1], [5], [2, 6], [1, 1], [7]]


@pytest.mark.fit
@pytest.mark.parametrize("kind", ["generator", "function"])
@pytest.mark.parametrize(("steps", "epochs"), [(2, 2), (3, 4), (1, 9), (4, 3), (7, 3), (9, 3), (None, 3)])
def test_fit_has_the_figures_of_what_the_model_received(kind, steps, epochs):
    batches = [make_batch(lengths) for lengths in LENGTHS]
    counted_by_callback, received, _ = fit(
        lambda: monitor_padding(KINDS[kind](batches)), steps_per_epoch=steps, epochs=epochs
    )
    assert counted_by_callback == received


@pytest.mark.fit
def test_fit_on_an_endless_generator_in_groups_of_steps():
    batches = [make_batch(lengths) for lengths in LENGTHS]
    counted_by_callback, received, _ = fit(
        lambda: monitor_padding(itertools.cycle(batches)), steps_per_execution=2, steps_per_epoch=4, epochs=3
    )
    assert [rows[1:] for rows in counted_by_callback] == [rows[1:] for rows in received]


# What Keras does with a generator, in functions of these names: https://github.com/keras-team/keras, class
# `GeneratorDataAdapter`. Its threads may do so at any time.
OF_KERAS: dict = {"__name__": "keras.trainers", "itertools": itertools}
exec(  # in functions that belong to Keras by their globals
    """
def peek_and_restore(generator):
    batches = list(itertools.islice(generator, 2))
    return lambda: itertools.chain(batches, generator)

def read_ahead(generator):
    return next(iter(generator))

def read(batches):
    return list(batches)
""",
    OF_KERAS,
)


def test_reading_ahead_for_a_call_that_has_ended_takes_nothing_from_the_next():
    batches = [make_batch(lengths) for lengths in LENGTHS]
    ahead = []

    def source():
        for index, batch in enumerate(batches):
            if index == 1 and len(makers) == 2:  # Keras takes the first batches out again
                ahead.append(OF_KERAS["read_ahead"](monitored))
            yield batch

    makers = []
    monitored = monitor_padding(lambda: makers.append(source()) or makers[-1])
    earlier = OF_KERAS["peek_and_restore"](monitored)
    assert len(OF_KERAS["read"](earlier())) == len(batches)
    later = OF_KERAS["peek_and_restore"](monitored)
    assert ahead[0] is batches[2]  # what follows the two that the earlier call has taken out
    assert all(ours is theirs for ours, theirs in zip(OF_KERAS["read"](later()), batches, strict=True))
    assert figures(monitored.padding_stats()) == counted(LENGTHS)


@pytest.mark.fit
def test_training_and_validation_on_generators_of_their_own():
    layer = Count()
    model = keras.Sequential([keras.Input((None,), dtype="int32"), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    batches = [make_batch(lengths) for lengths in LENGTHS]
    train = monitor_padding(itertools.cycle(batches))
    validation = monitor_padding(itertools.cycle(batches))
    callback = PaddingStatsCallback(train, validation)
    arguments = {"steps_per_epoch": 3, "validation_steps": 2, "epochs": 2, "verbose": 0, "shuffle": False}
    model.fit(train, validation_data=validation, callbacks=[callback], **arguments)
    assert [figures(stats) for stats in callback.history] == [counted(LENGTHS[:3]), counted(LENGTHS[3:6])]
    assert [figures(stats) for stats in callback.val_history] == [counted(LENGTHS[:2])] * 2
    # Neither what is read ahead for the calls that have ended counts, nor what another call read without the callback.
    model.evaluate(train, steps=2, verbose=0)

    def other():
        for batch in batches:
            OF_KERAS["read_ahead"](validation)
            OF_KERAS["read_ahead"](train)
            yield batch

    model.evaluate(monitor_padding(other), steps=2, callbacks=[callback], verbose=0)
    assert callback.evaluate_history == []
    model.evaluate(validation, steps=2, callbacks=[callback], verbose=0)
    assert [figures(stats)[0] for stats in callback.evaluate_history] == [2]


@pytest.mark.fit
def test_a_generator_that_fit_does_not_read_is_warned_of():
    batches = [make_batch(lengths) for lengths in LENGTHS]
    model = keras.Sequential([keras.Input((None,), dtype="int32"), Count(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    callback = PaddingStatsCallback(monitor_padding(iter(batches)))
    with pytest.warns(UserWarning, match="no batch of `dataset` was read"):
        model.fit((batch for batch in batches), steps_per_epoch=2, callbacks=[callback], verbose=0, shuffle=False)
