"""Each public name at work, in as few steps as show it: beside the README, the only training of the default layer.

The guard in tests/support/default_layer.py holds each to the number of calls of `fit` that it is marked with.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bucketing
from keras_bucketing import (
    BackupAndRestoreSequence,
    BucketedSequence,
    BucketedStream,
    BucketPaddingStats,
    EpochForecast,
    EpochPlan,
    KeepMask,
    LeafPaddingStats,
    MaskedLSTMClassifier,
    MeasuredStep,
    MonitoredDataset,
    OutlierWarning,
    PaddingCheck,
    PaddingRecommendation,
    PaddingReport,
    PaddingStats,
    PaddingStatsCallback,
    PaddingStrategy,
    PassPosition,
    RecommendedCall,
    SequenceMasking,
    StepCosts,
    StoredSequences,
    TunedBatchSizes,
    check_padding,
    load_sequences,
    monitor_padding,
    optimal_bucket_boundaries,
    padding_report,
    save_sequences,
    tune_batch_sizes,
)

LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6]
X = [np.random.default_rng(row).normal(size=(length, 2)).astype("float32") for row, length in enumerate(LENGTHS)]
Y = np.arange(8) % 2


def make_dataset(**options):
    return BucketedSequence(X, Y, **{"batch_size": 2, "seed": 1, **options})


def compiled(model):
    """Runs eagerly: to trace a model takes longer than eight rows do."""
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def small_model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Masking(), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, "softmax")]
    return compiled(keras.Sequential([keras.Input((None, 2)), *layers]))


class KillAfter(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


@pytest.mark.smoke("BackupAndRestoreSequence", fits=3)
def test_backup_and_restore_sequence(tmp_path):
    def fit(folder, *callbacks):
        model, dataset = small_model(), make_dataset()
        backup = BackupAndRestoreSequence(dataset, tmp_path / folder, save_freq=1)
        epochs = model.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[backup, *callbacks]).epoch
        return epochs, model.get_weights()

    whole = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("cut", KillAfter(6))
    resumed = fit("cut")
    assert (whole[0], resumed[0]) == ([0, 1, 2], [1, 2])
    for weights, expected in zip(resumed[1], whole[1], strict=True):
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.smoke("BucketedSequence", "EpochPlan", "PassPosition", fits=1)
def test_bucketed_sequence():
    dataset, model = make_dataset(), small_model()
    assert np.isfinite(model.fit(dataset, epochs=2, verbose=0).history["loss"]).all()
    assert isinstance(dataset.newest_pass(), PassPosition)
    assert dataset.newest_pass().number == 2
    assert isinstance(dataset.epoch_plan(0), EpochPlan)
    predictions = dataset.restore_order(model.predict(dataset, verbose=0))
    np.testing.assert_allclose(predictions, [model(row[np.newaxis])[0] for row in X], rtol=1e-5)


@pytest.mark.smoke("BucketedStream", fits=1)
def test_bucketed_stream():
    stream, model = BucketedStream(list(zip(X, Y, strict=True)), batch_size=2, seed=1), small_model()
    callback = PaddingStatsCallback(stream)
    model.fit(stream, verbose=0, callbacks=[callback])
    assert [stats.real_timesteps for stats in callback.history] == [sum(LENGTHS)]
    assert check_padding(model, stream, num_rows=2)


@pytest.mark.smoke("MaskedLSTMClassifier", fits=1)
def test_masked_lstm_classifier():
    model = compiled(MaskedLSTMClassifier(2, 3, pooling="mean"))
    model.fit(make_dataset(include_lengths=True), verbose=0)
    padded = np.pad(X[1], [(0, 3), (0, 0)], constant_values=7)
    with_lengths = {"sequences": padded[np.newaxis], "lengths": np.array([1])}
    np.testing.assert_allclose(model(with_lengths), model(X[1][np.newaxis]), atol=1e-6)


@pytest.mark.smoke("PaddingStats", "BucketPaddingStats", "LeafPaddingStats", fits=0)
def test_padding_stats():
    stats = make_dataset().padding_stats()
    assert isinstance(stats, PaddingStats)
    assert {type(bucket) for bucket in stats.buckets} == {BucketPaddingStats}
    several = BucketedSequence({"a": X, "b": X}, batch_size=2, seed=1).padding_stats()
    assert [type(leaf) for leaf in several.leaves] == [LeafPaddingStats] * 2
    assert stats.real_timesteps == sum(LENGTHS) <= stats.total_timesteps < 8 * max(LENGTHS)


@pytest.mark.smoke("PaddingStatsCallback", fits=1)
def test_padding_stats_callback():
    train, val = make_dataset(), make_dataset(shuffle=False)
    callback = PaddingStatsCallback(train, val)
    history = small_model().fit(train, validation_data=val, epochs=2, verbose=0, callbacks=[callback]).history
    assert callback.history == [train.padding_stats(0), train.padding_stats(1)]
    assert callback.val_history == [val.padding_stats(0)] * 2
    assert history["padding_efficiency"] == [stats.padding_efficiency for stats in callback.history]


@pytest.mark.smoke("SequenceMasking", fits=1)
def test_sequence_masking():
    sequences, lengths = keras.Input((None, 2), name="sequences"), keras.Input((), dtype="int32", name="lengths")
    hidden = keras.layers.SimpleRNN(3)(SequenceMasking()(sequences, lengths=lengths))
    outputs = keras.layers.Dense(2, "softmax")(hidden)
    model = compiled(keras.Model({"sequences": sequences, "lengths": lengths}, outputs))
    dataset = make_dataset(include_lengths=True, shuffle=False)
    model.fit(dataset, verbose=0)
    predictions = dataset.restore_order(model.predict(dataset, verbose=0))
    alone = [model({"sequences": row[np.newaxis], "lengths": np.array([len(row)])})[0] for row in X]
    np.testing.assert_allclose(predictions, alone, rtol=1e-5)


@pytest.mark.smoke("save_sequences", "load_sequences", "StoredSequences", fits=0)
def test_save_sequences_and_load_sequences(tmp_path):
    save_sequences(tmp_path / "saved", zip(X, Y, strict=True))
    x, y = load_sequences(tmp_path / "saved")
    assert isinstance(x, StoredSequences)
    dataset = BucketedSequence(x, y, batch_size=2, seed=1)
    for batch, expected in zip(dataset, make_dataset(), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, expected)


@pytest.mark.smoke("monitor_padding", "MonitoredDataset", fits=1)
def test_monitor_padding():
    padded = np.zeros((8, 9, 2), "float32")
    for row, sequence in zip(padded, X, strict=True):
        row[: len(sequence)] = sequence
    monitored = monitor_padding(tf.data.Dataset.from_tensor_slices((padded, Y)).batch(4))
    assert isinstance(monitored, MonitoredDataset)
    callback = PaddingStatsCallback(monitored)
    small_model().fit(monitored, verbose=0, shuffle=False, callbacks=[callback])
    (stats,) = callback.history
    assert (stats.num_sequences, stats.real_timesteps, stats.total_timesteps) == (8, sum(LENGTHS), 8 * 9)


@pytest.mark.smoke("OutlierWarning", fits=0)
def test_outlier_warning():
    with pytest.warns(OutlierWarning, match=r"x\[200\] \(5000 timesteps\)"):
        BucketedSequence([[1] * length for length in [*range(10, 60)] * 4 + [5000]])


@pytest.mark.smoke("optimal_bucket_boundaries", fits=0)
def test_optimal_bucket_boundaries():
    assert optimal_bucket_boundaries([1, 1, 2, 9, 9], num_buckets=2) == [3]


@pytest.mark.smoke(
    *("padding_report", "PaddingReport", "PaddingStrategy", "PaddingRecommendation", "RecommendedCall"), fits=0
)
def test_padding_report():
    report = padding_report(LENGTHS, batch_size=2)
    assert isinstance(report, PaddingReport)
    assert {type(strategy) for strategy in report.strategies} == {PaddingStrategy}
    longest, random, *_ = report.strategies
    assert longest.total_timesteps == 8 * max(LENGTHS) > random.total_timesteps > sum(LENGTHS)
    assert isinstance(report.recommendation, PaddingRecommendation)
    assert isinstance(report.recommendation.call, RecommendedCall)


@pytest.mark.smoke("tune_batch_sizes", "TunedBatchSizes", "MeasuredStep", "StepCosts", "EpochForecast", fits=2)
def test_tune_batch_sizes():
    dataset = make_dataset()
    tuned = tune_batch_sizes(small_model(), dataset, repeats=1, measure_xla=False, verbose=0)
    assert isinstance(tuned, TunedBatchSizes)
    assert {type(step) for step in tuned.steps} == {MeasuredStep}
    assert isinstance(tuned.costs, StepCosts)
    assert isinstance(tuned.proposed, EpochForecast)
    assert tuned.proposed.num_updates >= dataset.num_batches
    assert make_dataset(batch_size=None, **tuned.options).num_batches == tuned.proposed.num_updates


@pytest.mark.smoke("check_padding", "PaddingCheck", "KeepMask", fits=0)
def test_check_padding_and_keep_mask():
    inputs = keras.Input((None, 2))
    masked, convolution = SequenceMasking()(inputs), keras.layers.Conv1D(2, 2, padding="same")
    kept = compiled(keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(KeepMask(convolution)(masked))))
    lost = compiled(keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(convolution(inputs))))
    checks = [check_padding(model, make_dataset()) for model in (kept, lost)]
    assert {type(check) for check in checks} == {PaddingCheck}
    assert [bool(check) for check in checks] == [True, False]


def test_every_public_name_is_shown_and_so_many_fits_are_called():
    tests = [test for name, test in globals().items() if name.startswith("test_")]
    marks = [mark for test in tests for mark in getattr(test, "pytestmark", ()) if mark.name == "smoke"]
    assert sorted(name for mark in marks for name in mark.args) == sorted(keras_bucketing.__all__)
    assert sum(mark.kwargs["fits"] for mark in marks) == 11
