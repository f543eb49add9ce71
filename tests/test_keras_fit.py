"""Existing models, `fit`, `evaluate` and `predict`, as they are used today."""

import warnings

import keras
import numpy as np
import pytest

from keras_bucketing.bucketed_sequence import BucketedSequence
from tests.support.models import token_model, vector_model
from tests.support.processes import run_python

NUM_ROWS = 30
LENGTHS = np.random.default_rng(0).integers(2, 12, NUM_ROWS)
IDS = [np.random.default_rng(row).integers(1, 20, length) for row, length in enumerate(LENGTHS)]
VECTORS = [np.random.default_rng(row).random((length, 3)) for row, length in enumerate(LENGTHS)]
LABELS = np.arange(NUM_ROWS) % 2


def make(x=IDS, y=LABELS, weights=None, **options):
    return BucketedSequence(x, y, weights, **{"batch_size": 8, "seed": 1, **options})


@pytest.fixture
def model():
    return token_model()


class CountSteps(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.declared, self.seen = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.declared.append(self.params["steps"])
        self.seen.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.seen[-1] += 1


@pytest.mark.fit
@pytest.mark.parametrize(("model", "x"), [(token_model, IDS), (vector_model, VECTORS)])
def test_a_sequential_model_trains_unchanged_with_the_right_number_of_steps_from_the_first_epoch(model, x):
    steps, dataset = CountSteps(), make(x)
    history = model().fit(dataset, epochs=3, callbacks=[steps], verbose=0)
    assert len(dataset) == 4
    assert steps.declared == steps.seen == [4, 4, 4]
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.fit
def test_the_progress_bar_shows_the_steps_from_the_first_epoch(capsys, model):
    model.fit(make(), epochs=2, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "/step" in line] == ["4/4", "4/4"]


@pytest.mark.fit
def test_class_weight_weighs_the_rows(model):
    loss = model.fit(make(), class_weight={0: 0.0, 1: 0.0}, verbose=0).history["loss"]
    assert loss == [0.0]


@pytest.mark.fit
def test_sample_weights_weigh_the_rows(model):
    assert model.fit(make(weights=np.zeros(NUM_ROWS)), verbose=0).history["loss"] == [0.0]


@pytest.mark.fit
def test_fewer_steps_than_batches_go_on_where_they_stopped(model):
    steps, dataset = CountSteps(), make()
    model.fit(dataset, epochs=2, steps_per_epoch=2, callbacks=[steps], verbose=0)
    assert steps.seen == [2, 2]
    assert dataset.newest_pass() == (1, 0, 0)


@pytest.mark.fit
def test_more_steps_than_batches_need_repeat(model):
    steps = CountSteps()
    model.fit(make().repeat(), epochs=2, steps_per_epoch=6, callbacks=[steps], verbose=0)
    assert steps.seen == [6, 6]
    steps = CountSteps()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(make(), steps_per_epoch=6, callbacks=[steps], verbose=0)
    assert steps.seen == [4]
    assert any("ran out of data" in str(warning.message) for warning in caught)  # Keras' own, and true


@pytest.mark.fit
def test_validation_data_is_read_whole_each_epoch(model):
    validation = make(shuffle=False)
    history = model.fit(make(), validation_data=validation, epochs=2, verbose=0)
    assert len(history.history["val_loss"]) == 2
    assert validation.newest_pass().number == 2


@pytest.mark.fit
def test_evaluating_equals_that_of_one_row_at_a_time(model):
    evaluated = model.evaluate(make(), verbose=0, return_dict=True)
    alone = np.array([model.predict_on_batch(row[np.newaxis])[0, 0] for row in IDS], float)
    assert evaluated["accuracy"] == pytest.approx(((alone > 0.5) == LABELS).mean(), abs=1e-6)
    assert evaluated["loss"] == pytest.approx(-np.log(np.where(LABELS, alone, 1 - alone)).mean(), rel=1e-5)


@pytest.mark.fit
def test_predictions_equal_those_of_one_row_at_a_time(model):
    dataset = BucketedSequence(IDS, batch_size=8, seed=1)
    predictions = dataset.restore_order(model.predict(dataset, verbose=0))
    alone = np.concatenate([model.predict_on_batch(row[np.newaxis]) for row in IDS])
    np.testing.assert_allclose(predictions, alone, rtol=1e-5)


@pytest.mark.fit
def test_padded_timesteps_of_labels_do_not_count():
    tags = [row % 3 for row in IDS]
    layers = [keras.layers.Embedding(20, 4, mask_zero=True), keras.layers.LSTM(4, return_sequences=True)]
    model = keras.Sequential([*layers, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile("adam", loss, weighted_metrics=["accuracy"])
    one_batch = make(y=tags, batch_size=NUM_ROWS)
    evaluated = model.evaluate(one_batch, verbose=0, return_dict=True)
    logits = [model.predict_on_batch(row[np.newaxis])[0] for row in IDS]
    correct = np.concatenate([np.argmax(row, axis=-1) == tag for row, tag in zip(logits, tags, strict=True)])
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert evaluated["accuracy"] == pytest.approx(correct.mean(), abs=1e-6)
    assert evaluated["loss"] == pytest.approx(float(exact(np.concatenate(tags), np.concatenate(logits))), rel=1e-5)
    assert np.isfinite(model.fit(make(y=tags), epochs=2, verbose=0).history["loss"]).all()


@pytest.mark.fit
def test_dict_inputs_and_outputs_find_their_names():
    text, other = keras.Input((None,), name="text"), keras.Input((None, 3), name="audio")
    number = keras.Input((1,), name="number")
    parts = [keras.layers.Embedding(20, 4, mask_zero=True)(text), keras.layers.Masking()(other)]
    joined = keras.layers.concatenate([*(keras.layers.LSTM(3)(part) for part in parts), number])
    dense = {"class": keras.layers.Dense(1, "sigmoid", name="class"), "age": keras.layers.Dense(1, name="age")}
    outputs = {name: layer(joined) for name, layer in dense.items()}
    model = keras.Model({"text": text, "audio": other, "number": number}, outputs)
    model.compile("adam", {"class": "binary_crossentropy", "age": "mse"})
    x = {"text": IDS, "audio": [row[::2] for row in VECTORS], "number": np.ones((NUM_ROWS, 1))}
    dataset = make(x, {"class": LABELS, "age": np.arange(NUM_ROWS) / 10}, np.ones(NUM_ROWS))
    history = model.fit(dataset, epochs=2, verbose=0).history
    assert {"loss", "class_loss", "age_loss"} <= set(history)
    predictions = dataset.restore_order(model.predict(dataset, verbose=0))
    assert predictions["age"].shape == (NUM_ROWS, 1)


@pytest.mark.fit
def test_several_steps_in_one_execution():
    layers = [keras.layers.Embedding(20, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse", steps_per_execution=3)
    dataset = make()
    model.fit(dataset, epochs=2, verbose=0)
    assert dataset.newest_pass().number == 2


MIRRORED = """
import keras, numpy as np, tensorflow as tf
from keras_bucketing.bucketed_sequence import BucketedSequence

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = [np.full(1 + row % 9, row % 5 + 1) for row in range(26)]
y = np.arange(26) % 2
with strategy.scope():
    dataset = BucketedSequence(x, y, batch_size=8, batch_size_multiple=2, seed=1)
    layers = [keras.layers.Embedding(6, 4, mask_zero=True), keras.layers.LSTM(4), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
distributed = strategy.experimental_distribute_dataset(dataset)
for epoch in range(2):
    halves = [strategy.experimental_local_results(labels) for _, labels in distributed]
    plan = dataset.epoch_plan(epoch)
    assert len(halves) == len(plan) == 4, (len(halves), len(plan))
    shapes = [[len(half) for half in batch] for batch in halves]
    assert all(first == second > 0 for first, second in shapes), shapes
    assert [np.concatenate(batch).tolist() for batch in halves] == [y[rows].tolist() for rows in plan]
history = model.fit(dataset, epochs=3, verbose=0).history
assert np.isfinite(history["loss"]).all(), history
# Two passes above, three epochs, and the one batch that Keras reads to build the model under a strategy.
assert dataset.newest_pass().number == 6, dataset.newest_pass()
print("trained on", strategy.num_replicas_in_sync)
"""


@pytest.mark.fit
def test_replicas_get_equal_halves_of_every_batch():
    assert run_python("-c", MIRRORED, check=True).stdout.split() == ["trained", "on", "2"]
