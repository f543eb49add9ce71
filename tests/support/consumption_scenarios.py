"""Ways of feeding a model, each with an independent count of what the model received.

Run by callbacks/test_padding_stats.py, in its own process for TensorFlow, and as a script for the other backends and
for distribution strategies:

    KERAS_BACKEND=jax python -m tests.support.consumption_scenarios default bucketed monitored_right
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from tests.support.models import eager_models

NUM_SEQUENCES = 83
BATCH_SIZE = 8
JAX_LENGTHS = [6, 14, 60]


class CountReceived(keras.layers.Layer):
    """Passes token ids on and counts the rows, the timesteps and the real timesteps that arrive."""

    def build(self, input_shape):
        self.received = [
            keras.Variable(
                np.zeros((), "int32"),
                dtype="int32",
                trainable=False,
                aggregation="sum",
                synchronization="on_read",
                name=f"received_{index}",
            )
            for index in range(3)
        ]

    def call(self, x):
        rows, time = keras.ops.shape(x)[0], keras.ops.shape(x)[1]
        real = keras.ops.sum(keras.ops.cast(x != 0, "int32"))
        for variable, count in zip(self.received, (rows, rows * time, real), strict=True):
            variable.assign_add(keras.ops.cast(count, "int32"))
        return x


class Oracle(keras.callbacks.Callback):
    """Reads the counting layer where an epoch, an evaluation and a prediction begin and end.

    Attributes:
        epochs: List of pairs: what an epoch trained on, and what it validated on or None.
        evaluate: List of what each evaluation that is no validation received.
        predict: List of what each prediction received.
        nested: Bool, set by whoever evaluates or predicts inside a hook of `fit`: no part of the epoch.
    """

    def __init__(self):
        super().__init__()
        self.epochs, self.evaluate, self.predict = [], [], []
        self.nested = False

    @property
    def train(self):
        return [train for train, _ in self.epochs]

    @property
    def val(self):
        return [validation for _, validation in self.epochs if validation is not None]

    def _count(self):
        layer = next(layer for layer in self.model.layers if isinstance(layer, CountReceived))
        return np.array([int(keras.ops.sum(variable)) for variable in layer.received])

    def set_params(self, params):
        super().set_params(params)
        if not self.nested:
            self.in_epoch, self.under_way = False, []

    def on_epoch_begin(self, epoch, logs=None):
        self.before, self.middle, self.validation = self._count(), None, None
        self.in_epoch, self.under_way = True, []

    def on_test_begin(self, logs=None):
        if self.in_epoch and not self.nested:
            self.middle = self._count()
        self.on_predict_begin()

    def on_predict_begin(self, logs=None):
        self.under_way.append(self._count())

    def on_test_end(self, logs=None):
        received = self._end()
        if self.in_epoch and not self.nested:
            self.validation = received
        else:
            self.evaluate.append(received)

    def on_predict_end(self, logs=None):
        self.predict.append(self._end())

    def _end(self):
        received = self._count() - self.under_way.pop()
        if self.nested:  # no part of whatever goes on around it
            self.under_way = [before + received for before in self.under_way]
            if self.in_epoch:
                self.before = self.before + received
                self.middle = None if self.middle is None else self.middle + received
        return tuple(received)

    def on_epoch_end(self, epoch, logs=None):
        after = self._count() if self.middle is None else self.middle
        self.epochs.append((tuple(after - self.before), self.validation))
        self.in_epoch = False


class StopAtStep(keras.callbacks.Callback):
    def __init__(self, epoch: int, step: int):
        super().__init__()
        self.at = (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            self.model.stop_training = True


def make_sequences(seed: int = 0, count: int = NUM_SEQUENCES) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2, 0.8, count).astype(int), 1, 60)
    if keras.backend.backend() == "jax":  # which compiles each shape anew
        lengths = np.array(JAX_LENGTHS)[np.searchsorted(JAX_LENGTHS, lengths)]
    return [rng.integers(1, 20, length) for length in lengths], rng.integers(0, 3, count)


def pad(sequences: list[np.ndarray], padding: str = "post") -> np.ndarray:
    return keras.utils.pad_sequences(sequences, padding=padding)


class RandomBatches(keras.utils.PyDataset):
    """Batches that are each padded to their own longest."""

    def __init__(self, seed: int, count: int = NUM_SEQUENCES, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y = make_sequences(seed, count)

    def __len__(self):
        return math.ceil(len(self.x) / BATCH_SIZE)

    def __getitem__(self, index):
        rows = slice(index * BATCH_SIZE, (index + 1) * BATCH_SIZE)
        return pad(self.x[rows]), self.y[rows]


def bucketed(seed: int, **options: Any) -> BucketedSequence:
    return BucketedSequence(*make_sequences(seed), batch_size=BATCH_SIZE, num_buckets=3, seed=seed, **options)


def padded_batches(seed: int, padding: str = "post") -> tf.data.Dataset:
    x, y = make_sequences(seed)
    return tf.data.Dataset.from_tensor_slices((pad(x, padding), y)).shuffle(99).batch(BATCH_SIZE).prefetch(2)


DATASETS: dict[str, Callable[[int], Any]] = {
    "bucketed": bucketed,
    "bucketed_to_boundary": lambda seed: bucketed(seed, pad_to_bucket_boundary=True, remainder="keep"),
    "monitored_bucketed": lambda seed: monitor_padding(bucketed(seed).prefetch(1)),
    "monitored_right": lambda seed: monitor_padding(padded_batches(seed)),
    "monitored_left": lambda seed: monitor_padding(padded_batches(seed, "pre")),
    "monitored_unknown": lambda seed: monitor_padding(padded_batches(seed).filter(lambda x, y: True)),
    "monitored_repeat": lambda seed: monitor_padding(bucketed(seed).repeat().prefetch(3)),
    "py_dataset": lambda seed: monitor_padding(RandomBatches(seed)),
    "py_dataset_threads": lambda seed: monitor_padding(RandomBatches(seed, workers=3)),
}

# For two replicas: Keras averages them over one batch to build the model, so that halves of different sizes fail
# (keras/src/backend/tensorflow/trainer.py, `get_data`).
PAIRED_DATASETS: dict[str, Callable[[int], Any]] = {
    "bucketed": lambda seed: bucketed(seed, batch_size_multiple=2),
    "monitored_right": lambda seed: monitor_padding(padded_batches(seed).take(10)),
    "monitored_repeat": lambda seed: monitor_padding(bucketed(seed, remainder="drop").repeat().prefetch(3)),
    "py_dataset": lambda seed: monitor_padding(RandomBatches(seed, count=80)),
}


@functools.cache
def model_for(steps_per_execution: int) -> keras.Model:
    """One compiled model for many scenarios: tracing it takes longer than they do."""
    return make_model(steps_per_execution)


def make_model(steps_per_execution: int) -> keras.Model:
    model = keras.Sequential(
        [
            keras.layers.Input((None,), dtype="int32"),
            CountReceived(),
            keras.layers.Embedding(20, 2),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        "sgd",
        loss,
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() == "jax",
        steps_per_execution=steps_per_execution,
    )
    return model


@contextlib.contextmanager
def out_of_data_allowed() -> Iterator[None]:
    """Keras warns where an epoch is cut at the end of a pass, which some scenarios are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ran out of data.*")
        yield


# A scenario trains, evaluates or predicts. Arguments: the model, the training dataset, the validation dataset, and
# the keyword arguments of fit that hold the callbacks.


def plain(model, train, val, fit):
    model.fit(train, epochs=2, **fit)


def fewer_steps(model, train, val, fit):
    model.fit(train, epochs=4, steps_per_epoch=4, **fit)


def more_steps(model, train, val, fit):
    model.fit(train, epochs=2, steps_per_epoch=14, **fit)


def validated(model, train, val, fit):
    model.fit(train, epochs=4, initial_epoch=1, validation_data=val, validation_freq=2, **fit)


def validated_in_steps(model, train, val, fit):
    model.fit(train, epochs=2, steps_per_epoch=3, validation_data=val, validation_steps=2, **fit)


def validated_on_itself(model, train, val, fit):
    model.fit(train, epochs=4, steps_per_epoch=4, validation_data=train, **fit)


def stopped_early(model, train, val, fit):
    fit = {**fit, "callbacks": [*fit["callbacks"], StopAtStep(epoch=1, step=5)]}
    model.fit(train, epochs=4, **fit)


def fitted_twice(model, train, val, fit):
    model.fit(train, epochs=2, steps_per_epoch=4, **fit)
    model.fit(train, epochs=2, **fit)


def evaluated(model, train, val, fit):
    fit.pop("shuffle")
    model.evaluate(train, **fit)
    model.evaluate(val, steps=4, **fit)
    model.predict(train, **fit)
    model.predict(val, steps=4, **fit)
    model.predict(train, **fit)


def weighted(model, train, val, fit):
    model.fit(train, epochs=2, class_weight={0: 1.0, 1: 2.0, 2: 3.0}, validation_data=val, **fit)


def taken(model, train, val, fit):
    model.fit(train.take(7), epochs=2, validation_data=val.take(5), **fit)


def taken_in_steps(model, train, val, fit):
    model.fit(train.take(7), epochs=4, steps_per_epoch=3, **fit)


def taken_evaluated(model, train, val, fit):
    fit.pop("shuffle")
    model.evaluate(train.take(7), **fit)
    model.predict(val.take(5), **fit)


def mapped_and_prefetched(model, train, val, fit):
    dataset = train.map(lambda *batch: batch, num_parallel_calls=2).prefetch(5)
    model.fit(dataset, epochs=2, steps_per_epoch=4, validation_data=val.prefetch(5), **fit)


def sought(model, train, val, fit):
    train.seek(epoch=3, batch=4)
    model.fit(train, epochs=2, **fit)


def shuffled_by_keras(model, train, val, fit):
    fit["shuffle"] = True
    model.fit(train, epochs=4, steps_per_epoch=4, **fit)


def repeated(model, train, val, fit):
    model.fit(train, epochs=4, steps_per_epoch=7, **fit)


ANY = (plain, fewer_steps, more_steps, validated, validated_in_steps, stopped_early, fitted_twice, evaluated, weighted)
OF_TF_DATASETS = (validated_on_itself, taken, taken_in_steps, taken_evaluated, mapped_and_prefetched)


def all_cases() -> list[tuple[str, Callable[..., None], int]]:
    """Kind of dataset, scenario and steps_per_execution, for everything that goes together.

    What a monitor reads off the batches does not depend on the backend, but on the scenario what reaches the model.
    How passes are counted does not depend on where batches are padded: of those kinds one scenario is enough.
    """
    backend = keras.backend.backend()
    steps = (1,) if backend == "torch" else (1, 3)  # torch refuses to run several steps at once
    cases = []
    for kind_at, kind in enumerate(DATASETS):
        if kind == "monitored_repeat":
            scenarios: tuple[Callable[..., None], ...] = (repeated,)
        elif kind == "py_dataset":
            scenarios = (*ANY, shuffled_by_keras)
        elif kind in ("bucketed_to_boundary", "monitored_left", "py_dataset_threads"):
            scenarios = (validated,)
        elif kind == "bucketed":
            scenarios = (*ANY, *OF_TF_DATASETS, sought)
        elif kind == "monitored_right" and backend == "tensorflow":
            scenarios = (*ANY, *OF_TF_DATASETS)
        else:
            scenarios = (fewer_steps, validated, evaluated, taken)
        if kind == "bucketed":
            cases += [(kind, scenario, number) for scenario in scenarios for number in steps]
        else:  # how the steps are counted is the same for each of these kinds: they take turns
            cases += [(kind, scenario, steps[at % len(steps)]) for at, scenario in enumerate(scenarios, kind_at)]
    return cases


def mirrored_cases() -> list[tuple[str, Callable[..., None], int]]:
    """What goes together under a MirroredStrategy, where several steps at once fail in Keras itself (keras#19246).

    The strategy decides when Keras begins passes and reads ahead, around a validation above all. The number of steps,
    class weights and the place where the dataset stands are no different with it.
    """
    # With a validation on itself there are fewer steps as well, and a second `fit` begins as the first one does.
    of_bucketed = (validated, validated_in_steps, validated_on_itself, stopped_early, evaluated)
    of_every_kind = (validated, repeated)
    return [
        (kind, scenario, steps_per_execution)
        for kind, scenario, steps_per_execution in all_cases()
        if steps_per_execution == 1
        and kind in PAIRED_DATASETS
        and scenario in (of_bucketed if kind == "bucketed" else of_every_kind)
    ]


def run(
    kind: str,
    scenario: Callable[..., None],
    steps_per_execution: int,
    datasets: dict[str, Callable[[int], Any]] = DATASETS,
) -> None:
    """Raises AssertionError unless the callback and the counting layer agree in every figure of every epoch."""
    train, val = (_made_once(datasets[kind], seed) for seed in (1, 2))
    model = model_for(steps_per_execution)
    callback, oracle = PaddingStatsCallback(train, val), Oracle()
    with out_of_data_allowed():
        scenario(model, train, val, {"callbacks": [oracle, callback], "verbose": 0, "shuffle": False})
    counted = {
        "train": [_figures(stats) for stats in callback.history],
        "val": [_figures(stats) for stats in callback.val_history if stats is not None],
        "evaluate": [_figures(stats) for stats in callback.evaluate_history],
        "predict": [_figures(stats) for stats in callback.predict_history],
    }
    received = {name: [tuple(map(int, figures)) for figures in getattr(oracle, name)] for name in counted}
    assert counted == received, f"{kind} {scenario.__name__} {steps_per_execution}\n{counted=}\n{received=}"
    assert sum(map(len, received.values())) > 0, "nothing was counted"


@functools.cache
def _made_once(make: Callable[[int], Any], seed: int) -> Any:
    """One dataset for all scenarios, which take it up wherever the ones before have left it, as a notebook does."""
    return make(seed)


def _figures(stats):
    return (stats.num_sequences, stats.total_timesteps, stats.real_timesteps)


class NotesItsThread(keras.callbacks.Callback):
    async_safe = True

    def __init__(self):
        super().__init__()
        self.in_main_thread = set()

    def on_train_batch_end(self, batch, logs=None):
        self.in_main_thread.add(threading.current_thread() is threading.main_thread())


def threads_of_hooks(dataset: Any, *callbacks: keras.callbacks.Callback) -> set[bool]:
    """Whether Keras calls on_train_batch_end in the main thread when these callbacks take part."""
    notes = NotesItsThread()
    model_for(1).fit(dataset, callbacks=[*callbacks, notes], verbose=0, shuffle=False)
    return notes.in_main_thread


def main(strategy: str, *kinds: str) -> None:
    warnings.simplefilter("error", UserWarning)
    if strategy == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        scope: Any = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
        cases, datasets = mirrored_cases(), PAIRED_DATASETS
    else:
        scope, cases, datasets = contextlib.nullcontext, all_cases(), DATASETS
    if keras.backend.backend() != "tensorflow":
        dataset = bucketed(1)
        assert threads_of_hooks(dataset, PaddingStatsCallback(dataset)) == {False}
    cases = [case for case in cases if not kinds or case[0] in kinds]
    # Traced, this failed once on the oldest versions, in a busy minute; run eagerly, two replicas are fed alike. Passes
    # begin with tf.data's autotuner here: without it, TensorFlow reads passes that are no more, and crashes.
    with eager_models() if strategy == "mirrored" else contextlib.nullcontext():
        failures = [failure for case in cases if (failure := _failure(case, datasets, scope))]
    print(f"{len(cases) - len(failures)} of {len(cases)} agree", *failures, sep="\n")
    sys.exit(bool(failures or not cases))


def _failure(case: tuple[str, Callable[..., None], int], datasets: dict[str, Callable[[int], Any]], scope: Any) -> str:
    try:
        with scope():
            run(*case, datasets)
    except Exception as error:
        return f"{case} {type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
