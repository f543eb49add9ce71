"""The model of training.py, its data, and what trains it with `fit`, in the process of training.py or in another."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import keras

from benchmarks.labeled_tokens import VOCABULARY_SIZE, labeled_token_sequences, quantile_lengths
from benchmarks.sequences import Sequences
from keras_bucketing import BucketedSequence

BATCH_SIZE = 32
LEARNING_RATE = 0.005
GRADIENT_NORM = 1.0  # at most; without a bound, an epoch in five undoes what the one before had learned


class Trainee(Protocol):
    """Something that trains for one epoch at a time."""

    def train_epoch(self) -> tuple[float, int]:
        """Trains for one epoch; returns the seconds and the number of updates."""

    def accuracy(self) -> float | None:
        """The accuracy on the validation sequences; None of who trains on a part of them only."""


def train_and_validation(num_sequences: int, longest: int) -> tuple[Sequences, Sequences]:
    """What to train on, and a quarter as many sequences to measure the accuracy on."""
    mean = longest * 235 / 2_500
    lengths = [quantile_lengths(size, mean, mean * 174 / 235, longest) for size in (num_sequences, num_sequences // 4)]
    train, validation = (labeled_token_sequences(lengths[seed], seed=seed) for seed in (0, 1))
    return train, validation


def bucketed(sequences: Sequences, **options: Any) -> BucketedSequence:
    """A BucketedSequence of these sequences."""
    return BucketedSequence.from_row_splits(sequences.values, sequences.row_splits, sequences.labels, seed=0, **options)


def make_model(jit_compile: bool) -> keras.Model:
    """The model, with the same initial weights every time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Embedding(VOCABULARY_SIZE, 32, mask_zero=True),
            keras.layers.LSTM(64),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=GRADIENT_NORM),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
        jit_compile=jit_compile,
    )
    model.build((None, None))
    return model


class KerasTrainee:
    """Trains the model with `fit`; the accuracy comes from one other model, traced once for all.

    With a `share`, it trains on one batch in so many, and its epoch takes so many times as long.
    """

    def __init__(
        self,
        dataset: Any,
        evaluator: keras.Model,
        validation: BucketedSequence,
        jit_compile: bool,
        share: int = 1,
        make: Callable[[bool], keras.Model] = make_model,
    ):
        self._scale = 1.0
        if share > 1:
            few = max(1, len(dataset) // share)
            dataset, self._scale = dataset.take(few), len(dataset) / few
        self._dataset, self._evaluator, self._validation = dataset, evaluator, validation
        self._model = make(jit_compile)
        # Tracing is not part of an epoch: two batches, then back to the beginning.
        optimizer = self._model.optimizer
        optimizer.build(self._model.trainable_variables)
        variables = [*self._model.weights, *optimizer.variables]
        initial = [keras.ops.convert_to_numpy(variable) for variable in variables]
        self._model.fit(dataset.take(2), shuffle=False, verbose=0)
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)

    def train_epoch(self) -> tuple[float, int]:
        """Trains for one epoch; returns the seconds and the number of updates."""
        before = int(self._model.optimizer.iterations.numpy())
        begin = time.perf_counter()
        self._model.fit(self._dataset, shuffle=False, verbose=0)
        seconds = time.perf_counter() - begin
        updates = int(self._model.optimizer.iterations.numpy()) - before
        return seconds * self._scale, round(updates * self._scale)

    def accuracy(self) -> float | None:
        """The accuracy on the validation sequences; None of who trains on a part of them only."""
        if self._scale > 1:
            return None
        self._evaluator.set_weights(self._model.get_weights())
        return float(self._evaluator.evaluate(self._validation, verbose=0, return_dict=True)["binary_accuracy"])
