from __future__ import annotations

import copy
import csv
import json
import re

import keras
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.padding.report import padding_report
from keras_bucketing.pipeline.passes import PassPosition
from tests.support import consumption_scenarios as scenarios
from tests.support.paths import SUPPORT
from tests.support.processes import run_on_backend, run_python

SCRIPT = str(SUPPORT / "consumption_scenarios.py")


@pytest.mark.fit
@pytest.mark.parametrize(
    ("kind", "scenario", "steps_per_execution"),
    [pytest.param(*case, id=f"{case[0]}-{case[1].__name__}-{case[2]}") for case in scenarios.all_cases()],
)
def test_callback_agrees_with_what_the_model_received(kind, scenario, steps_per_execution):
    scenarios.run(kind, scenario, steps_per_execution)


@pytest.mark.fit
@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_callback_agrees_on_another_backend(backend):
    run_on_backend(backend, SCRIPT, "default", "bucketed", "monitored_right", "monitored_repeat", "py_dataset")


@pytest.mark.fit
def test_callback_agrees_under_a_mirrored_strategy_of_two_devices():
    run_python(SCRIPT, "mirrored", check=True)


def fit(dataset, *callbacks, **arguments):
    callback = PaddingStatsCallback(dataset, arguments.get("validation_data"))
    model = scenarios.model_for(1)
    arguments = {"epochs": 2, "verbose": 0, "shuffle": False, **arguments}
    history = model.fit(dataset, callbacks=[callback, *callbacks], **arguments)
    return callback, history


@pytest.mark.fit
def test_a_whole_epoch_has_the_figures_of_the_dataset_and_of_the_report():
    dataset = scenarios.bucketed(1, pad_to_bucket_boundary=True)
    callback, history = fit(dataset)
    assert callback.history == [dataset.padding_stats(0), dataset.padding_stats(1)]
    assert history.history["padding_efficiency"] == [stats.padding_efficiency for stats in callback.history]
    report = padding_report(dataset.lengths, batch_size=scenarios.BATCH_SIZE)
    longest, random = report.strategies[:2]
    assert callback.history[0].pad_to_longest_timesteps == longest.total_timesteps
    assert callback.history[0].random_batches_timesteps == pytest.approx(random.total_timesteps)
    assert callback.history[0].seconds > 0
    assert callback.history[0].real_timesteps_per_second > 0


@pytest.mark.fit
def test_rows_left_out_are_counted():
    dataset = scenarios.bucketed(1, remainder="drop")
    callback, _ = fit(dataset, epochs=1)
    stats = callback.history[0]
    assert stats.left_out == scenarios.NUM_SEQUENCES - stats.num_sequences > 0


class Spy(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(logs))


@pytest.mark.fit
def test_later_callbacks_and_the_progress_bar_see_the_efficiency(tmp_path, capsys):
    train, val = scenarios.bucketed(1), scenarios.bucketed(2)
    spy = Spy()
    callback, history = fit(
        train, spy, keras.callbacks.CSVLogger(tmp_path / "log.csv"), validation_data=val, validation_freq=2, verbose=2
    )
    expected = [stats.padding_efficiency for stats in callback.history]
    assert [logs["padding_efficiency"] for logs in spy.seen] == expected
    assert history.history["padding_efficiency"] == expected
    assert history.history["val_padding_efficiency"] == [val.padding_stats(0).padding_efficiency]
    assert callback.val_history == [None, val.padding_stats(0)]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["padding_efficiency"]) for row in rows] == expected
    assert [row["val_padding_efficiency"] for row in rows] == ["NA", str(val.padding_stats(0).padding_efficiency)]
    assert f"padding_efficiency: {expected[0]:.4f}" in capsys.readouterr().out


@pytest.mark.fit
def test_tensorboard_gets_the_efficiency(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorFlow no longer brings tensorboard along")
    train, val = scenarios.bucketed(1), scenarios.bucketed(2)
    callback, _ = fit(train, keras.callbacks.TensorBoard(tmp_path, write_graph=False), validation_data=val, epochs=1)
    for part, stats in (("train", callback.history[0]), ("validation", callback.val_history[0])):
        (path,) = (tmp_path / part).glob("*")
        tags = {
            value.tag: tf.make_ndarray(value.tensor).item()
            for event in tf.compat.v1.train.summary_iterator(str(path))
            for value in event.summary.value
        }
        assert tags["epoch_padding_efficiency"] == pytest.approx(stats.padding_efficiency)


@pytest.mark.fit
def test_callbacks_earlier_in_the_list_do_not_see_it():
    # Keras hands one dict from callback to callback: if this ever changes, the documentation is wrong.
    train = scenarios.bucketed(1)
    spy, callback = Spy(), PaddingStatsCallback(train)
    scenarios.model_for(1).fit(train, callbacks=[spy, callback], verbose=0, shuffle=False)
    assert "padding_efficiency" not in spy.seen[0]


@pytest.mark.fit
def test_an_evaluation_alone_shows_the_efficiency(capsys):
    dataset = scenarios.bucketed(1)
    callback = PaddingStatsCallback(dataset)
    scenarios.model_for(1).evaluate(dataset, callbacks=[callback], verbose=2)
    efficiency = dataset.padding_stats(0).padding_efficiency
    assert callback.evaluate_history == [dataset.padding_stats(0)]
    assert f"padding_efficiency: {efficiency:.4f}" in capsys.readouterr().out


@pytest.mark.fit
def test_asynchronous_dispatch_is_as_without_the_callback():
    # Keras 3.15 dispatches asynchronously on JAX and torch only: the script of the other backends checks it there.
    dataset = scenarios.bucketed(1)
    assert scenarios.threads_of_hooks(dataset, PaddingStatsCallback(dataset)) == scenarios.threads_of_hooks(dataset)


@pytest.mark.fit
def test_an_interrupted_fit_does_not_disturb_what_comes_after():
    class Interrupts(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    dataset = scenarios.bucketed(1)
    model, callback = scenarios.make_model(1), PaddingStatsCallback(dataset)
    with pytest.raises(KeyboardInterrupt):
        model.fit(dataset, callbacks=[callback, Interrupts()], verbose=0, shuffle=False)
    model.evaluate(dataset, callbacks=[callback], verbose=0)
    model.fit(dataset, callbacks=[callback], verbose=0, shuffle=False)
    assert callback.evaluate_history == [dataset.padding_stats(1)]
    assert callback.history == [dataset.padding_stats(2)]


@pytest.mark.fit
@pytest.mark.parametrize("what", ["evaluate", "predict"])
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_begin"])
@pytest.mark.parametrize("steps", [None, 3])
def test_another_callback_reads_the_same_dataset_before_the_first_step(what, hook, steps):
    dataset = scenarios.bucketed(1)
    model, callback = scenarios.model_for(1), PaddingStatsCallback(dataset)
    reads = keras.callbacks.LambdaCallback()

    def read(number, logs=None):
        if number == 0:  # of the epochs, or of the steps of each epoch
            getattr(model, what)(dataset, callbacks=[callback], verbose=0)

    setattr(reads, hook, read)
    model.fit(dataset, epochs=2, steps_per_epoch=steps, callbacks=[reads, callback], verbose=0, shuffle=False)
    passes_of_others = [0] if hook == "on_epoch_begin" else [0, 2]
    assert getattr(callback, f"{what}_history") == [dataset.padding_stats(epoch) for epoch in passes_of_others]
    if steps is None:
        epochs = [1, 1 + len(passes_of_others)]
        assert callback.history == [dataset.padding_stats(epoch) for epoch in epochs]
    else:
        ours = PassPosition(2, epoch=1, first_batch=0)
        assert callback.history == [dataset.pass_stats(ours, 0, 3), dataset.pass_stats(ours, 3, 6)]


@pytest.mark.fit
def test_a_model_that_does_not_count_rows_is_taken_at_its_steps():
    class Custom(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding, self.dense = keras.layers.Embedding(20, 2), keras.layers.Dense(3)

        def call(self, x):
            return self.dense(keras.ops.mean(self.embedding(x), axis=1))

        @property
        def metrics(self):
            return []

        def train_step(self, data):
            return {"loss": keras.ops.mean(self(data[0]))}

    dataset = scenarios.bucketed(1)
    model, callback = Custom(), PaddingStatsCallback(dataset)
    model.compile("sgd", steps_per_execution=3)
    model.fit(dataset.take(7), callbacks=[callback], verbose=0, shuffle=False)
    assert callback.history[0].num_batches == 7


@pytest.mark.fit
def test_report_and_json():
    train, val = scenarios.bucketed(1), scenarios.bucketed(2)
    callback, _ = fit(train, validation_data=val)
    scenarios.model_for(1).predict(val, callbacks=[callback], verbose=0)
    lines = []
    callback.report(lines.append)
    table = lines[0].splitlines()
    assert [line.split()[0] for line in table[1:6]] == ["epoch", "validation", "epoch", "validation", "predict"]
    assert f"{callback.history[0].padding_efficiency:.4f}" in table[1]
    assert "bucket" in lines[0]
    figures = json.loads(callback.to_json())
    assert figures == callback.to_dict()
    assert figures["epochs"][1]["train"]["padding_efficiency"] == callback.history[1].padding_efficiency
    assert figures["epochs"][1]["validation"]["num_batches"] == len(val)
    assert figures["predict"][0]["num_sequences"] == scenarios.NUM_SEQUENCES


@pytest.mark.fit
@pytest.mark.parametrize("keras_verbose", [0, 1])
def test_verbose_prints_a_line_for_each_epoch_below_its_bar_and_one_at_the_end(keras_verbose, capsys):
    dataset = scenarios.bucketed(1)
    callback = PaddingStatsCallback(dataset, verbose=1)
    scenarios.model_for(1).fit(dataset, epochs=2, callbacks=[callback], verbose=keras_verbose, shuffle=False)
    shown = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)  # colors
    lines = [re.split(r"[\b\r]+", line)[-1].strip() for line in shown.split("\n") if line.strip()]  # as they end
    lines = [line for line in lines if line]
    of_keras = {line for line in lines if " loss: " in line or re.fullmatch(r"Epoch \d/2", line)}
    assert len(of_keras) == (4 if keras_verbose else 0)
    *epochs, last = [line for line in lines if line not in of_keras]
    assert [line.partition(",")[0] for line in epochs] == [
        f"Epoch {number}: padding efficiency {stats.padding_efficiency:.4f}"
        for number, stats in enumerate(callback.history, 1)
    ]
    assert lines.index(epochs[0]) < lines.index(epochs[1]) == len(lines) - 2
    if keras_verbose:
        assert lines.index(epochs[0]) == lines.index("Epoch 2/2") - 1
    both = callback.history[0] + callback.history[1]
    assert last == (
        f"Padding in 2 epochs: {both.real_timesteps} of {both.total_timesteps} timesteps were real "
        f"({both.padding_efficiency:.1%}); padded to the longest, it would have been {both.pad_to_longest_timesteps} "
        f"timesteps, {both.speedup_over_longest:.2f} x as many."
    )


@pytest.mark.parametrize("dataset", [[[1, 2], [3]], tf.data.Dataset.range(3), None])
def test_what_cannot_tell_its_padding_is_refused(dataset):
    with pytest.raises(TypeError, match=r"`dataset` cannot tell its padding.*monitor_padding"):
        PaddingStatsCallback(dataset)
    if dataset is not None:
        with pytest.raises(TypeError, match="`validation_data` cannot tell its padding"):
            PaddingStatsCallback(scenarios.bucketed(1), dataset)


def test_verbose_is_checked():
    with pytest.raises(ValueError, match=r"`verbose` must be 0 or 1\. Received 3"):
        PaddingStatsCallback(scenarios.bucketed(1), verbose=3)


@pytest.mark.fit
def test_a_dataset_that_was_not_read_is_pointed_out():
    read, unread = scenarios.bucketed(1), scenarios.bucketed(2)
    model = scenarios.model_for(1)
    callback = PaddingStatsCallback(unread)
    with pytest.warns(UserWarning, match="no batch of `dataset` was read in training"):
        model.fit(read, callbacks=[callback], verbose=0, shuffle=False)
    assert callback.history == []
    callback = PaddingStatsCallback(read, unread)
    with pytest.warns(UserWarning, match="no batch of `validation_data` was read in validation"):
        model.fit(read, validation_data=scenarios.bucketed(3), callbacks=[callback], verbose=0, shuffle=False)


@pytest.mark.fit
def test_repeat_without_a_monitor_is_pointed_out():
    dataset = scenarios.bucketed(1)
    callback = PaddingStatsCallback(dataset)
    model = scenarios.model_for(1)
    with pytest.warns(UserWarning, match=r"another pass over `dataset` began.*monitor_padding"):
        model.fit(dataset.repeat(), steps_per_epoch=len(dataset) + 2, callbacks=[callback], verbose=0, shuffle=False)


@pytest.mark.fit
def test_one_step_epochs_that_validate_on_the_same_dataset():
    dataset = scenarios.bucketed(1)
    callback, oracle = PaddingStatsCallback(dataset, dataset), scenarios.Oracle()
    scenarios.model_for(1).fit(
        dataset,
        epochs=4,
        steps_per_epoch=1,
        validation_data=dataset,
        callbacks=[oracle, callback],
        verbose=0,
        shuffle=False,
    )
    figures = [(stats.num_sequences, stats.total_timesteps, stats.real_timesteps) for stats in callback.history]
    assert figures == oracle.train


@pytest.mark.fit
def test_another_fit_does_not_go_on_with_the_pass_of_the_one_before():
    dataset = scenarios.bucketed(1)
    callback = PaddingStatsCallback(dataset)
    model = scenarios.model_for(1)
    model.fit(dataset, steps_per_epoch=3, callbacks=[callback], verbose=0, shuffle=False)
    with pytest.warns(UserWarning, match="no batch of `dataset` was read in training"):
        model.fit(scenarios.bucketed(2), steps_per_epoch=3, callbacks=[callback], verbose=0, shuffle=False)
    assert len(callback.history) == 1


@pytest.mark.fit
def test_validation_longer_than_an_epoch_of_training_in_groups_of_batches():
    train, val = scenarios.bucketed(1), scenarios.bucketed(2)
    model = keras.Sequential(
        [keras.layers.Embedding(20, 2), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=3)
    callback = PaddingStatsCallback(train, val)
    model.fit(train, steps_per_epoch=3, validation_data=val, callbacks=[callback], verbose=0, shuffle=False)
    assert callback.val_history[0].num_sequences == scenarios.NUM_SEQUENCES
    assert callback.history[0].num_batches == 3


@pytest.mark.fit
@pytest.mark.parametrize("batch_size", [1, 8])
def test_predictions_of_several_outputs_count_rows_once(batch_size):
    x, _ = scenarios.make_sequences(1)
    dataset = BucketedSequence(x, batch_size=batch_size, seed=1)
    inputs = keras.Input((None,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 2)(inputs))
    outputs = [keras.layers.Dense(1)(pooled)] if batch_size == 1 else [keras.layers.Dense(1)(pooled), pooled]
    model = keras.Model(inputs, outputs)
    model.compile(steps_per_execution=3)
    callback = PaddingStatsCallback(dataset)
    model.predict(dataset.take(7), callbacks=[callback], verbose=0)
    assert callback.predict_history[0].num_batches == 7


@pytest.mark.fit
def test_a_copy_counts_anew_on_the_same_datasets():
    callback, _ = fit(scenarios.bucketed(1))
    copied = copy.deepcopy(callback)
    assert (copied.dataset, copied.history) == (callback.dataset, [])


def test_keras_may_go_on_dispatching_asynchronously():
    assert PaddingStatsCallback.async_safe


@pytest.mark.fit
def test_the_report_shows_each_figure_in_its_column(capsys):
    callback, _ = fit(scenarios.bucketed(1))
    callback.report()
    first = capsys.readouterr().out.splitlines()[1].split()
    stats = callback.history[0]
    figures = f"{stats.real_timesteps} {stats.total_timesteps} {stats.padding_efficiency:.4f}"
    assert figures in " ".join(first)


@pytest.mark.fit
def test_steps_in_groups_do_without_numpys_warning():
    # Warnings are errors here, and Keras' variables do not know the `copy` of NumPy 2.
    dataset = scenarios.bucketed(1)
    callback = PaddingStatsCallback(dataset)
    scenarios.model_for(3).fit(dataset.take(7), callbacks=[callback], verbose=0, shuffle=False)
    assert callback.history[0].num_batches == 7


class Evaluates(keras.callbacks.Callback):
    """Evaluates in the middle of an epoch."""

    def __init__(self, hook, dataset, callbacks):
        super().__init__()
        self.arguments = (dataset, callbacks)
        setattr(self, hook, self.evaluate)

    def evaluate(self, number, logs=None):
        dataset, callbacks = self.arguments
        if number in (1, 2):
            self.model.evaluate(dataset, steps=2, callbacks=callbacks, verbose=0)


@pytest.mark.fit
@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
def test_an_evaluation_in_a_hook_is_one_and_the_epoch_stays_exact(hook, steps_per_execution):
    dataset, val = scenarios.bucketed(1), scenarios.bucketed(2)
    callback = PaddingStatsCallback(dataset, val)
    evaluates = Evaluates(hook, dataset, [callback])
    scenarios.model_for(steps_per_execution).fit(
        dataset.take(7), epochs=3, validation_data=val, callbacks=[evaluates, callback], verbose=0, shuffle=False
    )
    assert [stats.num_batches for stats in callback.history] == [7, 7, 7]
    assert callback.val_history == [val.padding_stats(epoch) for epoch in range(3)]
    assert {stats.num_batches for stats in callback.evaluate_history} == {3 if steps_per_execution == 3 else 2}


@pytest.mark.fit
def test_an_evaluation_in_a_hook_leaves_the_count_of_rows_where_nobody_announced_the_steps():
    # In groups of 3, only the rows of the loss tell 7 batches from 9; the evaluation resets them.
    dataset, val = scenarios.bucketed(1), scenarios.bucketed(2)
    callback = PaddingStatsCallback(dataset, val)
    evaluates = Evaluates("on_train_batch_end", val, [callback])
    with scenarios.out_of_data_allowed():
        scenarios.model_for(3).fit(
            dataset.take(7).filter(lambda *batch: True),
            epochs=2,
            callbacks=[evaluates, callback],
            verbose=0,
            shuffle=False,
        )
    ours = [dataset.pass_stats(PassPosition(1 + epoch, epoch=epoch, first_batch=0), 0, 7) for epoch in range(2)]
    assert callback.history == ours
    assert [stats.num_batches for stats in callback.evaluate_history] == [3, 3]


class Reads(keras.callbacks.Callback):
    def __init__(self, hook, dataset):
        super().__init__()
        self.dataset = dataset
        setattr(self, hook, self.read)

    def read(self, *arguments, **keywords):
        next(iter(self.dataset))


@pytest.mark.fit
def test_reading_at_the_beginning_of_an_epoch_does_not_disturb():
    dataset = scenarios.bucketed(1)
    callback, _ = fit(dataset, Reads("on_epoch_begin", dataset))
    assert callback.history == [dataset.padding_stats(1), dataset.padding_stats(3)]


@pytest.mark.fit
def test_reading_in_the_middle_of_an_epoch_is_pointed_out():
    dataset = scenarios.bucketed(1)
    with pytest.warns(UserWarning, match="another pass over `dataset` began"):
        callback, _ = fit(dataset, Reads("on_train_batch_end", dataset), epochs=1)
    assert callback.history == [dataset.padding_stats(0)]


@pytest.mark.fit
@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_repeat_without_a_monitor_is_pointed_out_in_an_evaluation_too(what):
    dataset = scenarios.bucketed(1)
    callback, call = PaddingStatsCallback(dataset), getattr(scenarios.model_for(1), what)
    with pytest.warns(UserWarning, match=r"another pass over .*monitor_padding"):
        call(dataset.take(3).repeat(2), callbacks=[callback], verbose=0)
