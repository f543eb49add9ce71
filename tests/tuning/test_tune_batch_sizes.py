"""The tuner measures real steps, and the model and the dataset are as if it had never been called."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing import BucketedSequence, tune_batch_sizes
from keras_bucketing.tuning.measure import StepTimes

# The function of this name hides its module.
MODULE = "keras_bucketing.tuning.tune_batch_sizes"

NUM_SEQUENCES = 60


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
                tune_batch_sizes(model, dataset, repeats=1)
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

    def call(self, x, training=False):
        _ = random.random(), np.random.random()  # noqa: NPY002
        if training and x.shape[0] * x.shape[1] > self.most_cells:
            raise self.error
        return x


def failing_model(error, most_cells=60):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([Failing(error, most_cells), keras.layers.SimpleRNN(3), keras.layers.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    return model


@pytest.mark.fit
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")])
def test_an_error_leaves_no_trace_either(error):
    model, dataset = failing_model(error), make_dataset()
    model(np.zeros((1, 1, 2)))
    model.optimizer.build(model.trainable_variables)
    before, state, drawn = all_values(model), dataset.state_dict(), random_states()
    with pytest.raises(type(error)):
        tune_batch_sizes(model, dataset, repeats=1)
    assert_same(all_values(model)[: len(before)], before)
    assert dataset.state_dict() == state
    assert str(random_states()) == str(drawn)
    assert not hasattr(model, "history")


@pytest.mark.fit
def test_batches_stay_below_those_that_do_not_fit_into_memory():
    most = 60
    model = failing_model(tf.errors.ResourceExhaustedError(None, None, "no memory"), most)
    tuned = tune_batch_sizes(model, make_dataset(), repeats=1)
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
        tune_batch_sizes(model, make_dataset(), repeats=1)


@pytest.mark.fit
def test_no_memory_for_the_smallest_batch_is_told_as_tensorflow_does():
    model = failing_model(tf.errors.ResourceExhaustedError(None, None, "no memory"), 1)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        tune_batch_sizes(model, make_dataset(), repeats=1)


@pytest.fixture
def any_costs(monkeypatch):
    """As if the steps had taken any times."""

    def time_steps(model, dataset, batches, padded_timesteps, repeats):
        return StepTimes(np.random.default_rng(sum(padded_timesteps)).lognormal(0, 2, len(batches)), None)

    monkeypatch.setattr(f"{MODULE}.time_steps", time_steps)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.fit) for seed in range(1, 4))])
@pytest.mark.parametrize("sizing", [{"batch_size": 1}, {"batch_size": 9}, {"max_timesteps_per_batch": 20}])
def test_the_proposal_is_never_predicted_to_be_slower(any_costs, sizing, seed):
    lengths = np.random.default_rng(seed).geometric(0.1, 50)
    if "max_timesteps_per_batch" in sizing:
        lengths = np.minimum(lengths, 20)
    dataset = BucketedSequence([np.zeros((length, 2)) for length in lengths], np.zeros(50), seed=0, **sizing)
    tuned = tune_batch_sizes(make_model(SUBCLASSED), dataset)
    assert tuned.speedup >= 1
    assert tuned.proposed.num_updates >= dataset.num_batches
    assert tuned.proposed.distinct_batchmates >= tuned.current.distinct_batchmates


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

    def time_steps(model, dataset, batches, padded_timesteps, repeats):
        measured.extend(batches)
        longest = np.array([max(dataset.lengths[rows].max(), dataset._batch_rules.min_length) for rows in batches])
        sizes = np.array([len(rows) for rows in batches])
        assert (sizes * longest).tolist() == padded_timesteps
        return StepTimes(0.001 * longest, None)

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
    plan = proposed.epoch_plan(0)
    rows = np.diff(plan.batch_splits) * options.get("num_shards", 1)
    assert (rows * plan.padded_lengths).max() <= tuned.proposed.largest_batch


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
        ({"max_rows": "many"}, TypeError, "`max_rows` must be an integer"),
        ({"max_timesteps_per_batch": 11}, ValueError, "A batch has at least 1 row of the longest sequence."),
        ({"max_step_seconds": 0}, ValueError, "`max_step_seconds` must be positive. Received 0."),
        ({"max_step_seconds": "1"}, TypeError, "`max_step_seconds` must be a number"),
        ({"max_step_seconds": 0.001}, ValueError, "`max_step_seconds` is too short for 1 row of the longest sequence."),
        ({"repeats": 0}, ValueError, "`repeats` is too small"),
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


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Received the backend jax"):
        tune_batch_sizes(make_model(SUBCLASSED), make_dataset())
