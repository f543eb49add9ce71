"""The tuner measures real steps, and the model and the dataset are as if it had never been called."""

import math
import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, EpochForecast, MeasuredStep, TunedBatchSizes, tune_batch_sizes
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.tuning import measure
from keras_bucketing.tuning.choose import SizeBounds, StepCosts, fit_memory_costs
from keras_bucketing.tuning.measure import DeviceMemory, ProbeBatch, StepTimes, probe_batches
from tests.support.default_layer import examples
from tests.support.processes import run_on_backend

# The function of this name hides its module.
MODULE = "keras_bucketing.tuning.tune_batch_sizes"

NUM_SEQUENCES = 60
QUICKLY = {"repeats": 1, "min_rows": 6, "max_rows": 6, "measure_xla": False, "verbose": 0}  # four shapes, not twelve


def make_dataset(**options):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 13, NUM_SEQUENCES)
    x = [rng.normal(size=(length, 2)) for length in lengths]
    return BucketedSequence(x, rng.normal(size=NUM_SEQUENCES), seed=1, **{"batch_size": 6, **options})


class Subclassed(keras.Model):
    """Is built by its first call, and draws random numbers in it."""

    def __init__(self):
        super().__init__()
        self.dropout, self.rnn, self.dense = (
            keras.layers.GaussianNoise(0.1),
            keras.layers.SimpleRNN(3),
            keras.layers.Dense(1),
        )

    def call(self, x, training=False):
        return self.dense(self.rnn(self.dropout(x, training=training)))


def dropout_layers():
    return [
        keras.layers.Dropout(0.5),
        keras.layers.SimpleRNN(3, dropout=0.2, recurrent_dropout=0.2),
        keras.layers.Dense(1),
    ]


def normalized_layers():
    return [
        keras.layers.Dense(4),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalMaxPooling1D(),
        keras.layers.Dense(1),
    ]


SUBCLASSED = "subclassed, noise, a schedule"
MODELS = {
    "not built, dropout, metrics, several steps at once": (
        lambda: keras.Sequential(dropout_layers()),
        {"optimizer": "adam", "metrics": ["mae"], "weighted_metrics": ["mse"], "steps_per_execution": 3},
    ),
    "normalization, momentum, averages, eager": (
        lambda: keras.Sequential([keras.Input((None, 2)), *normalized_layers()]),
        {"optimizer": keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0, use_ema=True), "run_eagerly": True},
    ),
    SUBCLASSED: (
        Subclassed,
        {"optimizer": keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5))},
    ),
}


def make_model(name):
    make, options = MODELS[name]
    keras.utils.set_random_seed(0)
    model = make()
    options = dict(options)
    if not isinstance(options["optimizer"], str):  # an optimizer belongs to one model
        options["optimizer"] = type(options["optimizer"]).from_config(options["optimizer"].get_config())
    model.compile(loss="mse", **options)
    return model


def all_values(model):
    variables = [*model.variables, *model.optimizer.variables, *(v for m in model.metrics for v in m.variables)]
    return [tf.convert_to_tensor(variable.value).numpy() for variable in variables]


def random_states():
    return random.getstate(), np.random.get_state()  # noqa: NPY002


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.fit
@pytest.mark.parametrize("name", MODELS)
def test_training_goes_on_as_if_nothing_had_happened(name):
    trained = []
    for tunes in (False, True):
        model, dataset = make_model(name), make_dataset()
        for epochs in (0, 1):
            if epochs:
                model.fit(dataset, verbose=0, shuffle=False)
            if tunes:
                dataset.seek(epochs + 1, 2)
                state, drawn, history = dataset.state_dict(), random_states(), getattr(model, "history", None)
                values, model.stop_training = all_values(model), True
                functions = model.train_function, model.jit_compile
                tune_batch_sizes(model, dataset, **QUICKLY)
                assert functions[0] in (None, model.train_function)
                assert model.jit_compile == functions[1]
                if not epochs:  # nothing is counted yet
                    values = all_values(model)
                    model.reset_metrics()
                assert_same(all_values(model), values)
                assert dataset.state_dict() == state
                assert str(random_states()) == str(drawn)
                assert getattr(model, "history", None) is history
                assert model.stop_training
            dataset.seek(epochs)
        logs = model.fit(dataset, verbose=0, shuffle=False).history
        trained.append([*all_values(model), *logs.values()])
    assert_same(trained[1], trained[0])


class Failing(keras.layers.Layer):
    """Draws random numbers and passes on what it gets, except for training on what is too large: then it raises."""

    def __init__(self, error, most_cells):
        super().__init__()
        self.error, self.most_cells = error, most_cells

    def note(self, cells):
        pass

    def call(self, x, training=False):
        _ = random.random(), np.random.random()  # noqa: NPY002
        self.note(x.shape[0] * x.shape[1])
        if training and x.shape[0] * x.shape[1] > self.most_cells:
            raise self.error
        return x


def failing_model(error, most_cells=60):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([Failing(error, most_cells), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    return model


@pytest.mark.fit
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")])
def test_an_error_leaves_no_trace_either(error):
    model, dataset = failing_model(error, most_cells=30), make_dataset()
    model(np.zeros((1, 1, 2)))
    model.optimizer.build(model.trainable_variables)
    before, state, drawn = all_values(model), dataset.state_dict(), random_states()
    with pytest.raises(type(error)):
        tune_batch_sizes(model, dataset, **QUICKLY)
    assert_same(all_values(model)[: len(before)], before)
    assert dataset.state_dict() == state
    assert str(random_states()) == str(drawn)
    assert not hasattr(model, "history")


@pytest.mark.fit
def test_batches_stay_below_those_that_do_not_fit_into_memory(capsys):
    most = 60
    model = failing_model(tf.errors.ResourceExhaustedError(None, None, "no memory"), most)
    tuned = tune_batch_sizes(model, make_dataset(), repeats=1, verbose=2)
    assert capsys.readouterr().out.count("step") == 2  # the second time without what is too large
    assert tuned.too_large > most
    assert max(step.rows * step.padded_length for step in tuned.steps) <= most
    assert tuned.proposed.largest_batch <= most
    assert f"{tuned.too_large} timesteps does not fit" in str(tuned)


@pytest.mark.fit
def test_sequences_that_do_not_fit_into_memory_are_named():
    model = failing_model(tf.errors.ResourceExhaustedError(None, None, "no memory"), 11)
    with pytest.raises(
        ValueError, match=r"The longest sequence does not fit into memory\. Expected room for 12 timesteps"
    ):
        tune_batch_sizes(model, make_dataset(), repeats=1, verbose=0)


@pytest.mark.fit
def test_no_memory_for_the_smallest_batch_is_told_as_tensorflow_does():
    model = failing_model(tf.errors.ResourceExhaustedError(None, None, "no memory"), 1)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        tune_batch_sizes(model, make_dataset(), repeats=1, verbose=0)


@pytest.mark.fit
def test_what_would_not_fit_into_memory_is_never_tried(monkeypatch):
    limit = 9_000.0
    model = failing_model(AssertionError("this would fail on a GPU"), most_cells=80)
    held = []
    monkeypatch.setattr(Failing, "note", lambda self, cells: held.append(1_000.0 + 100 * cells), raising=False)
    memory = DeviceMemory(limit / measure._USABLE_MEMORY, lambda: held[-1], lambda: held.append(0.0))
    monkeypatch.setattr(measure, "device_memory", lambda: memory)
    # The dataset as it is has batches of 96 timesteps, so that it is not trained on either.
    tuned = tune_batch_sizes(model, make_dataset(batch_size=8), repeats=1, verbose=0)
    assert max(held) <= limit
    assert tuned.too_large > 80 >= max(step.rows * step.padded_length for step in tuned.steps)
    # Where these few times, noisy as they are, show a square of the length, the budget counts it.
    quadratic_length = tuned.quadratic_length or math.inf
    of_ends = [tuned.max_timesteps_per_batch / (1 + length / quadratic_length) for length in (1, 12)]
    assert 79 <= max(of_ends) <= 80
    assert tuned.proposed.largest_batch <= 80
    assert all(step.peak_bytes == 1_000 + 100 * step.rows * step.padded_length for step in tuned.steps)
    assert "max_timesteps_per_batch may be up to" in str(tuned)
    assert "memory, MB" in str(tuned)
    assert tuned.compiled is None  # eager


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to")])
def test_errors_that_say_that_memory_is_short(error):
    assert measure._is_out_of_memory(error)
    assert not measure._is_out_of_memory(RuntimeError("no kernel"))


def test_steps_are_timed_after_a_first_round(monkeypatch):
    """The first step of a batch may hold its compilation; one call of the hooks stands for several steps."""
    model, dataset = make_model(next(iter(MODELS))), make_dataset()
    model.build((None, None, 2))
    probes = probe_batches(np.sort(dataset.lengths), 6, 6)

    def train(model, dataset, batches, meter):
        meter.seconds[:] = [15.0 if number < len(probes) else 6.0 for number in range(len(batches))]
        meter.peak_bytes[:] = [np.nan] * len(probes)

    monkeypatch.setattr(measure, "_train", train)
    times = measure.time_steps(model, dataset, probes, repeats=1, measures_epoch=False)
    assert times.seconds.tolist() == [2.0] * len(probes)
    assert times.compile_seconds == 3.0


def test_corners_are_few_rows_and_many_short_and_long():
    probes = [ProbeBatch(np.arange(rows), length) for length in (2, 5, 9) for rows in (1, 3, 8)]
    corners = [(len(probes[index].rows), probes[index].padded_length) for index in measure.corner_batches(probes)]
    assert corners == [(1, 2), (8, 2), (3, 5), (1, 9), (8, 9)]


def faked_times(probes, seconds, **others):
    nothing = np.full(len(probes), np.nan)
    return StepTimes(probes, np.asarray(seconds, float), np.asarray(seconds, float), nothing, **others)


@pytest.fixture
def fake_steps(monkeypatch):
    """Returns a function that says what every step takes from then on, given rows and padded lengths."""

    def fake(seconds, **others):
        def time_steps(model, dataset, probes, repeats, verbose, **options):
            rows, lengths = shapes_of(probes)
            return replace(faked_times(probes, seconds(rows, lengths)), **others)

        monkeypatch.setattr(f"{MODULE}.time_steps", time_steps)

    return fake


@pytest.fixture
def any_costs(fake_steps):
    """As if the steps had taken any times."""
    fake_steps(lambda rows, lengths: np.random.default_rng(int(rows @ lengths)).lognormal(0, 2, len(rows)))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.fit) for seed in range(1, 4))])
@pytest.mark.parametrize(
    "sizing",
    [
        {"batch_size": 1},
        {"bucket_boundaries": [10], "bucket_batch_sizes": [1, 20]},  # outside of the default bounds of a proposal
        {"max_timesteps_per_batch": 20},
    ],
)
def test_what_no_costs_explain_changes_nothing(any_costs, sizing, seed):
    lengths = np.random.default_rng(seed).geometric(0.1, 50)
    if "max_timesteps_per_batch" in sizing:
        lengths = np.minimum(lengths, 20)
    dataset = BucketedSequence([np.zeros((length, 2)) for length in lengths], np.zeros(50), seed=0, **sizing)
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset)
    worst = max(tuned.steps, key=lambda step: step.error)
    assert worst.error > 0.3
    assert f"misses the step of {worst.rows} rows x {worst.padded_length} timesteps" in tuned.reason
    assert tuned.reason in str(tuned)
    assert (tuned.bucket_boundaries, tuned.bucket_batch_sizes) == (
        dataset.bucket_boundaries,
        dataset.bucket_batch_sizes,
    )
    assert tuned.proposed == tuned.current
    assert tuned.quadratic_length is None


def long_tail(num_sequences=600, longest=1500):
    lengths = np.random.default_rng(0).lognormal(5, 0.9, num_sequences).astype(int) + 1
    x = [np.zeros((length, 1), np.float32) for length in np.minimum(lengths, longest)]
    return BucketedSequence(x, np.zeros(num_sequences), batch_size=16, seed=0)


# As measured: an LSTM, MultiHeadAttention(4, 16) and a convolution on two cores.
RECURRENT, ATTENTION, DENSE = (
    StepCosts(2e-3, 7e-5, 1e-6),
    StepCosts(5.6e-3, 0.0, 1.5e-6, 3.4e-8),
    StepCosts(1e-3, 0.0, 1e-6),
)


@pytest.mark.parametrize(
    ("costs", "noise", "gains"),
    [
        (RECURRENT, 0.05, True),
        *(pytest.param(*case, marks=pytest.mark.fit) for case in [(RECURRENT, 0.0, True), (DENSE, 0.1, False)]),
        pytest.param(ATTENTION, 0.05, False, marks=pytest.mark.fit),
    ],
)
def test_the_epoch_is_what_was_predicted_and_no_slower(fake_steps, costs, noise, gains):
    rng = np.random.default_rng(0)
    fake_steps(lambda rows, lengths: costs.seconds(rows, lengths) * np.exp(noise * rng.normal(size=len(rows))))
    dataset = long_tail()
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset, measure_xla=False)

    def seconds(dataset):
        plans = [dataset.epoch_plan(epoch) for epoch in range(3)]
        return np.mean([costs.seconds(np.diff(plan.batch_splits), plan.padded_lengths).sum() for plan in plans])

    now, proposed = (
        seconds(dataset),
        seconds(dataset.subset(range(len(dataset.lengths)), batch_size=None, **tuned.options)),
    )
    assert tuned.current.seconds == pytest.approx(now, rel=0.03 + 2 * noise)
    assert tuned.proposed.seconds == pytest.approx(proposed, rel=0.03 + 2 * noise)
    assert proposed <= (0.85 if gains else 1.0) * now
    assert (tuned.reason is None) == gains
    assert (tuned.quadratic_length is None) == (costs.per_squared_length == 0)
    if tuned.quadratic_length:
        assert tuned.quadratic_length == pytest.approx(44, rel=0.5)
        assert f"quadratic_length={tuned.quadratic_length}" in str(tuned)


def test_forecasts_hold_what_an_epoch_takes_besides_its_steps(fake_steps):
    seconds = []
    for others in ({}, {"slowdown": 2.0, "epoch_seconds": 0.5}):
        fake_steps(RECURRENT.seconds, **others)
        tuned = tune_batch_sizes(make_model(SUBCLASSED), make_dataset(), measure_xla=False)
        seconds.append(np.array([tuned.current.seconds, tuned.proposed.seconds]))
    np.testing.assert_allclose(seconds[1], 2 * seconds[0] + 0.5)


@pytest.fixture
def fake_memory(fake_steps, monkeypatch):
    """Returns a function that says what memory a step of one padded timestep takes from then on, of 1,100 bytes."""

    def fake(peak_bytes):
        def fit(rows, lengths, peaks, limit):
            return fit_memory_costs(rows, lengths, peak_bytes(rows * lengths), 1_100.0)

        fake_steps(RECURRENT.seconds)
        monkeypatch.setattr(f"{MODULE}.fit_memory_costs", fit)

    return fake


def test_the_longest_sequence_must_fit_into_the_measured_memory(fake_memory):
    fake_memory(lambda timesteps: 100.0 * timesteps)
    with pytest.raises(ValueError, match=r"Expected room for 12 timesteps, but the largest batch that fits has 11\."):
        tune_batch_sizes(make_model(SUBCLASSED), make_dataset(), measure_xla=False)


def test_memory_that_does_not_grow_with_the_batch_bounds_nothing(fake_memory):
    fake_memory(lambda timesteps: 1_000.0 - 0.1 * timesteps)  # none of its parts is negative
    tuned = tune_batch_sizes(make_model(SUBCLASSED), make_dataset(), measure_xla=False)
    assert tuned.max_timesteps_per_batch is None


def shapes_of(probes):
    return np.array([(len(probe.rows), probe.padded_length) for probe in probes]).T


def test_more_updates_may_have_fewer_batchmates():
    now, bounds = EpochForecast(1.0, 10, 99, 90.0), SizeBounds(30, 1, 9)
    batchmates = sys.modules[MODULE]._batchmates
    assert batchmates(now, bounds) == 30.0
    assert batchmates(now, replace(bounds, min_updates=5)) == 90.0


def test_epochs_of_compiling_pay_against_the_proposal():
    now, then, compiled = (EpochForecast(seconds, 9, 99, 9.0) for seconds in (9.0, 5.0, 3.0))
    tuned = TunedBatchSizes(
        [], [9], (), DENSE, now, then, compile_seconds=1.5, num_shapes=3, compiled=compiled, compiled_options={}
    )
    assert tuned.compiled_pays_after == 3


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.fit), {"num_buckets": (4, 3)}])
def test_epochs_of_rows_with_several_sequences_are_what_was_predicted(monkeypatch, options):
    """The costs are those of the longest sequence; what the other one costs is in the slowdown of the epoch."""
    rng = np.random.default_rng(0)
    both = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 600)
    a, b = np.minimum(np.exp(4 + 0.6 * both.T).astype(int) + 1, 400)
    x = {key: [np.zeros(length, np.int8) for length in lengths] for key, lengths in (("a", a), ("b", b))}

    def seconds_of(dataset):
        plan = dataset.epoch_plan(0)
        return sum(RECURRENT.seconds(np.diff(plan.batch_splits), each) for each in plan.leaf_padded_lengths.values())

    def time_steps(model, dataset, probes, repeats, verbose, **options):
        rows, plan = shapes_of(probes)[0], dataset.epoch_plan(0)
        padded = [np.array([lengths[probe.rows].max() for probe in probes]) for lengths in (a, b)]
        seconds = sum(RECURRENT.seconds(rows, each) for each in padded)
        times = faked_times(probes, seconds)
        expected = times.costs.seconds(np.diff(plan.batch_splits), plan.padded_lengths)
        return replace(times, slowdown=float(seconds_of(dataset).sum() / expected.sum()))

    monkeypatch.setattr(f"{MODULE}.time_steps", time_steps)
    dataset = BucketedSequence(x, np.zeros(600), batch_size=16, seed=0, **options)
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset, measure_xla=False)
    assert tuned.reason is None
    proposed = BucketedSequence(x, np.zeros(600), seed=0, **tuned.options)
    now, then = seconds_of(dataset).sum(), seconds_of(proposed).sum()
    assert tuned.current.seconds == pytest.approx(now, rel=0.03)
    assert tuned.proposed.seconds == pytest.approx(then, rel=0.05)
    assert then < now


@pytest.mark.parametrize(
    ("error", "proposed", "reason"),
    [
        (0.1, 0.8, None),
        (0.1, 0.88, "predicted to save 12.0% of an epoch, less than the error of such a prediction, 12.2%"),
        (0.0, 1.0, "no other sizes within the bounds are predicted to be faster"),
        (0.1, None, "no other sizes within the bounds are predicted to be faster"),
        (0.31, 0.1, "misses the step of 2 rows x 3 timesteps by 31%, more than 30%"),
        (-0.31, 0.1, "misses the step of 2 rows x 3 timesteps by 31%, more than 30%"),
    ],
)
def test_why_what_there_is_stays(error, proposed, reason):
    steps = tuple(MeasuredStep(2, 3, 1.0, 1.0 + error) for _ in range(12))
    now = EpochForecast(1.0, 9, 99, 9.0)
    best = None if proposed is None else (Buckets.from_lengths(np.array([3]), [], [2]), replace(now, seconds=proposed))
    found = sys.modules[MODULE]._reason_to_stay(steps, now, best)
    assert found is None if reason is None else reason in found


@pytest.mark.fit
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_xla_pays_where_it_saves_more_than_compiling_takes(monkeypatch, factor):
    times_of = []

    def time_steps(model, dataset, probes, repeats, verbose, measures_epoch=True):
        assert measures_epoch != bool(model.jit_compile)
        rows, lengths = shapes_of(probes)
        times_of.append((model.jit_compile, model.train_function))
        seconds = DENSE.seconds(rows, lengths) * (factor if model.jit_compile else 1)
        unknown, first = np.full(len(rows), np.nan), seconds + 3.0 * model.jit_compile
        return StepTimes(probes, seconds, first, unknown, epoch_seconds=100.0 * measures_epoch)

    monkeypatch.setattr(f"{MODULE}.time_steps", time_steps)
    model, dataset = make_model(SUBCLASSED), long_tail(120, longest=200)
    model.jit_compile, model.train_function = False, "what fit has made"
    tuned = tune_batch_sizes(model, dataset)
    assert times_of == [(False, "what fit has made"), (True, None)]
    assert (model.jit_compile, model.train_function) == times_of[0]
    assert tuned.compile_seconds == pytest.approx(3.0)
    assert 1 < tuned.num_shapes == len(tuned.compiled_options["bucket_batch_sizes"]) + 1 <= 9
    assert tuned.compiled.num_updates >= dataset.num_batches
    assert tuned.compiled.seconds > 100.0  # an epoch begins and ends as without XLA
    if factor > 1:
        assert tuned.compiled_pays_after is None
        assert "XLA would not pay" in str(tuned)
    else:
        epochs = 3.0 * tuned.num_shapes / (tuned.proposed.seconds - tuned.compiled.seconds)
        assert tuned.compiled_pays_after == int(np.ceil(epochs))
        assert f"XLA would pay after {tuned.compiled_pays_after} epochs" in str(tuned)
        proposed = dataset.subset(range(len(dataset.lengths)), batch_size=None, **tuned.compiled_options)
        plan = proposed.epoch_plan(0)
        assert len(set(zip(np.diff(plan.batch_splits), plan.padded_lengths, strict=True))) <= tuned.num_shapes


@pytest.mark.fit
@pytest.mark.parametrize("fails", [False, True])
def test_xla_is_tried_and_leaves_no_trace(fails, monkeypatch):
    all_times = []

    def time_steps(*arguments, **options):
        all_times.append(measure.time_steps(*arguments, **options))
        return all_times[-1]

    monkeypatch.setattr(f"{MODULE}.time_steps", time_steps)

    class OneWeight(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            x = tf.strings.to_number(tf.strings.as_string(x)) if fails else x  # XLA knows no strings
            return self.dense(tf.reduce_sum(x, axis=1))

    model, dataset = OneWeight(), make_dataset()
    model.compile("sgd", "mse", jit_compile=False)
    model._initial_epoch = 3  # as `BackupAndRestore` leaves a model that it has restored
    tune_batch_sizes(model, dataset, repeats=1, verbose=0)
    assert len(all_times) == (1 if fails else 2)
    assert fails or all_times[1].compile_seconds > 3 * all_times[1].seconds.max()
    assert all_times[0].epoch_seconds > 0
    assert not model.jit_compile
    values = all_values(model)
    model._initial_epoch = 0
    model.fit(dataset, verbose=0, shuffle=False)
    assert len(all_values(model)) == len(values)


ON_ANOTHER_BACKEND = """
import keras, numpy as np, random, threading
from keras_bucketing import BucketedSequence, tune_batch_sizes
from keras_bucketing.tuning.measure import _EpochMeter

step_ends, threads = _EpochMeter.on_train_batch_end, set()

def on_train_batch_end(self, batch, logs=None):
    threads.add(threading.current_thread())
    step_ends(self, batch, logs)

_EpochMeter.on_train_batch_end = on_train_batch_end
rng = np.random.default_rng(0)
x = [rng.normal(size=(length, 2)).astype("float32") for length in rng.integers(1, 5, 24)]
on_torch = keras.backend.backend() == "torch"

def states(model, dataset):
    drawn = [random.getstate(), np.random.get_state(), dataset.state_dict()]
    if on_torch:
        import torch
        drawn += [torch.get_rng_state().tolist(), [module.training for module in model.modules()]]
    return str(drawn)

def trained(tunes):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.GRU(2, dropout=0.2, seed=2)]
    model = keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    dataset = BucketedSequence(x, np.arange(24) % 2, batch_size=6, seed=1, pad_to_bucket_boundary=True, num_buckets=2)
    model.build((None, None, 2))
    logs = []
    for epoch in range(2):
        if tunes:
            before = states(model, dataset)
            tuned = tune_batch_sizes(model, dataset, repeats=1, min_rows=6, max_rows=6, verbose=0)
            assert states(model, dataset) == before
            assert tuned.compiled is None and tuned.max_timesteps_per_batch is None
            assert (tuned.compile_seconds > 0) == ("Compiling a shape takes" in str(tuned)) == (not on_torch)
            assert len(tuned.steps) == 4 and tuned.proposed.num_updates >= dataset.num_batches
            assert not on_torch or all(parameter.grad is None for parameter in model.parameters()) or epoch
        dataset.seek(epoch)
        logs += model.fit(dataset, verbose=0, shuffle=False).history.values()
    return [*map(np.asarray, logs), *(np.array(keras.ops.convert_to_numpy(v.value)) for v in model.variables)]

for one, other in zip(trained(False), trained(True), strict=True):
    np.testing.assert_array_equal(one, other)
assert threads and threading.main_thread() not in threads  # `fit` goes ahead of its steps, as it does for a user
print("as if nothing had happened")
"""


@pytest.mark.backends
@pytest.mark.fit
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_goes_on_as_if_nothing_had_happened_on_another_backend(backend):
    assert "as if nothing had happened" in run_on_backend(backend, "-c", ON_ANOTHER_BACKEND)


def test_more_updates_than_now(recurrent_costs):
    dataset = make_dataset()
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset, min_updates=3 * dataset.num_batches)
    assert tuned.proposed.num_updates >= 3 * dataset.num_batches


def test_what_there_is_may_break_the_bounds_that_were_asked_for(recurrent_costs):
    dataset = make_dataset()
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset, min_updates=1, max_rows=4)
    assert max(tuned.bucket_batch_sizes) <= 4 < max(dataset.bucket_batch_sizes)


@pytest.fixture
def recurrent_costs(monkeypatch):
    """As if each step had taken 1 ms a timestep, on any machine; returns the batches that would have been measured."""
    measured = []

    def time_steps(model, dataset, probes, repeats, verbose, **options):
        rows = [probe.rows for probe in probes]
        measured.extend(rows)
        longest = np.array([max(dataset.lengths[of_probe].max(), dataset._batch_rules.min_length) for of_probe in rows])
        assert longest.tolist() == [probe.padded_length for probe in probes]
        return faked_times(probes, 0.001 * longest)

    monkeypatch.setattr(f"{MODULE}.time_steps", time_steps)
    return measured


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": None, "max_timesteps_per_batch": 60},
        {"pad_to_bucket_boundary": True, "num_buckets": 2},
        {"batch_size_multiple": 2},
        {"remainder": "drop"},
        {"num_shards": 3, "shard_index": 1},
        {"shuffle": False},
        {"minlen": 4},
    ],
)
def test_the_proposal_makes_the_dataset_that_was_forecast(recurrent_costs, options):
    dataset = make_dataset(**options)
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset)
    assert tuned.costs.per_timestep == pytest.approx(0.001)
    for sizing in ("batch_size", "max_timesteps_per_batch", "num_buckets"):
        options = {**options, sizing: None}
    proposed = make_dataset(**options, **tuned.options)
    assert proposed.num_batches == tuned.proposed.num_updates >= dataset.num_batches
    assert tuned.proposed.distinct_batchmates >= tuned.current.distinct_batchmates
    assert tuned.speedup >= 1
    if "pad_to_bucket_boundary" in options:  # each bucket is a shape to compile
        assert len(tuned.bucket_batch_sizes) <= len(dataset.bucket_batch_sizes)
    plan = proposed.epoch_plan(0)
    rows = np.diff(plan.batch_splits) * options.get("num_shards", 1)
    assert (rows * plan.padded_lengths).max() <= tuned.proposed.largest_batch


def make_pairs(longest=13, **options):
    rng = np.random.default_rng(0)
    x = {key: [np.zeros(length) for length in rng.integers(1, most, 120)] for key, most in (("a", 25), ("b", longest))}
    return BucketedSequence(x, np.zeros(120), seed=1, **{"batch_size": 6, "num_buckets": (3, 2), **options})


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": None, "max_timesteps_per_batch": 90},
        *(
            pytest.param(options, marks=pytest.mark.fit)
            for options in (
                {},
                {"pad_to_bucket_boundary": True},
                {"remainder": "keep"},
                {"num_shards": 2, "shard_index": 1},
                {"sampling_weights": np.arange(120) % 4},
                {"minlen": 9, "shuffle": False},
            )
        ),
    ],
)
def test_nested_buckets_stay_nested(recurrent_costs, options):
    dataset = make_pairs(**options)
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset)
    for rows in recurrent_costs:  # of one bucket, as far as it has enough
        buckets = dataset._buckets.row_buckets[np.searchsorted(planned_rows(dataset), rows)]
        assert np.ptp(buckets) == 0 or np.bincount(buckets)[buckets[-1]] < len(rows)
    assert tuned.bucket_boundaries == dataset.bucket_boundaries
    if tuned.reason is None:
        assert tuned.speedup > 1
        assert tuned.proposed.distinct_batchmates >= tuned.current.distinct_batchmates
    proposed = make_pairs(**{**options, "batch_size": None, "num_buckets": None, **fresh(options), **tuned.options})
    assert proposed.num_batches == tuned.proposed.num_updates >= dataset.num_batches
    if tuned.reason is not None:
        assert proposed.state_dict() == dataset.state_dict()


def test_what_stays_keeps_its_budget(any_costs):
    dataset = make_pairs(25, batch_size=None, max_timesteps_per_batch=90)
    assert dataset._buckets.mixed_sizes is not None  # no sizes of buckets say that
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset, verbose=0)
    assert tuned.options == {"bucket_boundaries": dataset.bucket_boundaries, "max_timesteps_per_batch": 90}
    proposed = make_pairs(25, batch_size=None, num_buckets=None, **tuned.options)
    assert proposed.state_dict() == dataset.state_dict()


def test_what_is_proposed_in_place_of_a_budget_are_sizes(recurrent_costs):
    dataset = make_pairs(25, batch_size=None, max_timesteps_per_batch=90)
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset, verbose=0)
    assert tuned.reason is None
    assert tuned.options["bucket_batch_sizes"] == tuned.bucket_batch_sizes


def planned_rows(dataset):
    return np.arange(120) if dataset._sampling is None else dataset._sampling.rows


def fresh(options):
    return {"max_timesteps_per_batch": None} if "max_timesteps_per_batch" in options else {}


def test_the_result_prints_as_a_table(recurrent_costs):
    tuned = tune_batch_sizes(make_model(SUBCLASSED), make_dataset(), min_updates=5)
    lines = str(tuned).splitlines()
    assert lines[0].split() == ["rows", "padded", "length", "measured", "ms", "predicted", "ms"]
    assert lines[1].split()[-2:] == [f"{1000 * tuned.steps[0].seconds:.3g}"] * 2
    assert "A step takes" in str(tuned)
    assert lines[-1] == f"bucket_batch_sizes={tuned.bucket_batch_sizes}"


def test_dropped_rows_are_not_measured(recurrent_costs):
    x = [np.zeros((length, 2)) for length in [0, 3, 0, 4, 5, 1, 0, 2, 2, 7]]
    dataset = BucketedSequence(x, np.zeros(10), batch_size=2, on_empty="drop", seed=0)
    tune_batch_sizes(make_model(SUBCLASSED), dataset)
    assert not {0, 2, 6} & {row for rows in recurrent_costs for row in rows.tolist()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"minlen": 20, "include_lengths": True},
        {"num_shards": 2, "shard_index": 1},
        {"on_empty": "drop"},
    ],
)
def test_batches_of_rows_are_those_of_a_pass(options):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(length, 2)) for length in [3, 1, 4, 1, 5, 9, 2, 6]]
    if "on_empty" in options:
        x[3] = x[3][:0]
    y = [rng.normal(size=len(sequence)) for sequence in x]
    dataset = BucketedSequence(x, y, batch_size=4, seed=0, **options)
    if "num_shards" in options:
        whole = BucketedSequence(x, y, batch_size=4, seed=0, batch_size_multiple=2)
        rows = list(whole.epoch_plan(0))
    else:
        rows = list(dataset.epoch_plan(0))
    state = dataset.state_dict()
    chosen = dataset._batches_of_rows(rows)
    assert chosen.element_spec == dataset.element_spec
    found = list(chosen)
    assert dataset.state_dict() == state
    assert len(found) == dataset.num_batches
    for one, other in zip(found, dataset, strict=True):
        assert_same(tf.nest.flatten(one), tf.nest.flatten(other))


@pytest.fixture(scope="module")
def model_and_dataset():
    return {"model": make_model(SUBCLASSED), "dataset": make_dataset()}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": "model"}, TypeError, "`model` must be a keras.Model. Received 'model' (str)."),
        ({"model": keras.Sequential([keras.layers.Dense(1)])}, ValueError, "`model` must be compiled"),
        ({"dataset": make_dataset().take(2)}, TypeError, "`dataset` must be a BucketedSequence."),
        ({"min_updates": 0}, ValueError, "`min_updates` is too small"),
        ({"min_updates": 61}, ValueError, "`min_updates` cannot be reached. Expected fewer than 61"),
        ({"min_rows": 2.5}, TypeError, "`min_rows` must be an integer"),
        ({"min_rows": 8, "max_rows": 4}, ValueError, "`min_rows` must not exceed `max_rows`. Expected at most 4"),
        ({"min_rows": 61}, ValueError, "`min_rows` must not exceed the 60 sequences"),
        (
            {"dataset": make_dataset(batch_size=7, batch_size_multiple=7), "min_rows": 63},
            ValueError,
            "`min_rows` must not exceed the 56 sequences",
        ),
        ({"max_rows": "many"}, TypeError, "`max_rows` must be an integer"),
        ({"max_timesteps_per_batch": 11}, ValueError, "A batch has at least 1 row of the longest sequence."),
        (
            {"dataset": make_dataset(batch_size_multiple=2), "max_timesteps_per_batch": 23},
            ValueError,
            "A batch has at least 2 rows of the longest sequence.",
        ),
        ({"max_step_seconds": 0}, ValueError, "`max_step_seconds` must be positive. Received 0."),
        ({"max_step_seconds": "1"}, TypeError, "`max_step_seconds` must be a number"),
        ({"max_step_seconds": 0.001}, ValueError, "`max_step_seconds` is too short for 1 row of the longest sequence."),
        ({"repeats": 0}, ValueError, "`repeats` is too small"),
        ({"measure_xla": 1}, TypeError, "`measure_xla` must be a boolean"),
        ({"verbose": 3}, ValueError, "0 is silent, 1 and 'auto' show a progress bar."),
        ({"verbose": "loud"}, TypeError, "`verbose` must be an integer"),
        (
            {"dataset": make_dataset(batch_size_multiple=2), "min_rows": 3},
            ValueError,
            "`min_rows` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of 2, received 3.",
        ),
    ],
)
def test_arguments_that_cannot_be(recurrent_costs, model_and_dataset, change, error, text):
    with pytest.raises(error) as caught:
        tune_batch_sizes(**{**model_and_dataset, **change})
    assert text in str(caught.value)


def test_backends_that_do_not_train_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "openvino")
    with pytest.raises(ValueError, match="Expected the backend tensorflow, jax or torch, received openvino"):
        tune_batch_sizes(make_model(SUBCLASSED), make_dataset())


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.floats(0.5, 2), min_size=2, max_size=9),
    st.integers(1, 5),
    st.floats(0.5, 3),
    st.floats(0, 5),
    st.floats(0, 100),
)
def test_an_epoch_takes_more_than_its_steps(steps_of_epoch, num_epochs, slowdown, extra, max_seconds):
    size, expected = len(steps_of_epoch), [np.array(steps_of_epoch)] * num_epochs
    clock, model = [0.0], SimpleNamespace(stop_training=False)
    meter = measure._EpochMeter(expected, max_seconds, lambda: clock[0])
    meter.set_model(model)
    steps = 0
    for of_epoch in expected:
        clock[0] += extra / 3  # between two epochs
        meter.on_epoch_begin(0)
        for step in of_epoch:
            # The first steps compile and fill caches, the others do not.
            clock[0] += slowdown * step + 100 * (steps < 1)
            steps += 1
            meter.on_train_batch_end(0)
            if model.stop_training:
                break
        clock[0] += extra * 2 / 3
        meter.on_epoch_end(0)
        if model.stop_training:
            break
    assert model.stop_training
    assert steps <= max(max_seconds / np.concatenate(expected).mean(), 8)
    whole = steps // size
    if whole > 2:
        total = meter.slowdown * expected[0].sum() + meter.epoch_seconds
        assert total == pytest.approx(slowdown * expected[0].sum() + extra)
    elif steps - len(meter._times) >= 3:
        assert meter.slowdown == pytest.approx(slowdown)


def test_the_first_quarter_of_the_epochs_is_not_counted():
    clock, meter = [0.0], measure._EpochMeter([np.ones(9)] * 8, 1000.0, lambda: clock[0])
    meter.set_model(SimpleNamespace(stop_training=False))
    for extra in (90.0, 80.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        meter.on_epoch_begin(0)
        clock[0] += extra
        for step in range(9):
            clock[0] += 1
            meter.on_train_batch_end(step)
        meter.on_epoch_end(0)
    assert meter.epoch_seconds == pytest.approx(3.5)


@pytest.mark.parametrize("repeats", [1, 3])
def test_small_batches_are_timed_more_often(repeats):
    probes = probe_batches(np.arange(1, 101), 2, 32)
    order = measure._order([probe.padded_timesteps for probe in probes], repeats)
    assert order[: len(probes)] == list(range(len(probes)))
    times = np.bincount(order[len(probes) :])
    assert (np.diff(times) <= 0).all()
    assert times[-1] == repeats
    assert times[0] == 4 * repeats


def test_a_peak_that_only_rises_is_known_where_it_rises():
    peaks = iter([5.0, 5.0, 5.0, 7.0])
    memory = DeviceMemory(None, lambda: next(peaks))
    memory.begin_step()
    assert np.isnan(memory.peak_of_step())
    memory.begin_step()
    assert memory.peak_of_step() == 7.0
