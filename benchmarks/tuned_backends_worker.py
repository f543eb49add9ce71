"""One backend of tuned_backends.py: `python -m benchmarks.tuned_backends_worker SEQUENCES LONGEST SEEDS KIND ...`."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import keras
import numpy as np

from keras_bucketing import BucketedSequence, tune_batch_sizes

NOW, TUNED = "as it was", "proposed"
BATCH_SIZE, VOCABULARY_SIZE, WIDTH, NUM_HEADS = 16, 1000, 32, 4
MEAN_SHARE, SIGMA = 0.2, 0.7  # of the longest; of the logarithm
TIMED_SECONDS, TIMED_EPOCHS = 1.0, (2, 6)  # so long, but so many epochs at least and at most


def run(num_sequences: str, longest: str, seeds: str, *kinds: str) -> dict[str, Any]:
    """Tunes and times each model once a seed: between two rounds of a model lie those of the others."""
    rng = np.random.default_rng(0)
    median = np.log(MEAN_SHARE * int(longest)) - SIGMA**2 / 2
    lengths = np.clip(rng.lognormal(median, SIGMA, int(num_sequences)).astype(int), 1, int(longest))
    x = [rng.integers(1, VOCABULARY_SIZE, length) for length in lengths]
    y = rng.integers(0, 2, len(x))
    models = {kind: MeasuredModel(kind, x, y) for kind in kinds}
    rounds = [{kind: model.measure(seed) for kind, model in models.items()} for seed in range(int(seeds))]
    return {kind: [each[kind] for each in rounds] for kind in kinds}


class MeasuredModel:
    """A model, which is traced and compiled once, with the data it trains on."""

    def __init__(self, kind: str, x: list[np.ndarray], y: np.ndarray):
        self._kind, self._x, self._y = kind, x, y
        self._model = make_model(kind)
        on_jax = keras.backend.backend() == "jax"
        self._common = {"pad_to_bucket_boundary": True} if on_jax else {}
        self._now = {"batch_size": BATCH_SIZE, **({"num_buckets": 4} if on_jax else {})}
        self._num_epochs = TIMED_EPOCHS[0]
        epoch = np.median(self._epochs(self._dataset(0, self._now)))
        self._num_epochs = int(np.clip(math.ceil(TIMED_SECONDS / epoch), *TIMED_EPOCHS))

    def measure(self, seed: int) -> dict[str, Any]:
        """One round: epochs as it was, the tuner, epochs of its proposal, epochs as it was.

        What is predicted lies in time between what is measured: a machine that gets slower or faster does so for both.
        """
        now = self._dataset(seed, self._now)
        before = self._epochs(now)
        begin = time.perf_counter()
        tuned = tune_batch_sizes(self._model, now, measure_xla=False, verbose=0)
        tuning_seconds = time.perf_counter() - begin
        proposed = self._epochs(self._dataset(seed, tuned.options))
        after = self._epochs(now)
        name = f"{keras.backend.backend()}, {self._kind}, seed {seed}"
        print(f"\n{name}\n\n{tuned}\n\n{before}\n{proposed}\n{after}", file=sys.stderr, flush=True)
        return {
            "seconds": {NOW: float(np.median(before + after)), TUNED: float(np.median(proposed))},
            "epochs": {NOW: [before, after], TUNED: proposed},
            "predicted": {NOW: tuned.current.seconds, TUNED: tuned.proposed.seconds},
            "stays": tuned.reason is not None,
            "reason": tuned.reason,
            "tuning_seconds": tuning_seconds,
            "quadratic_length": tuned.quadratic_length,
            "epoch_seconds": tuned.epoch_seconds,
            "slowdown": tuned.slowdown,
            "options": tuned.options,
            "steps": [vars(step) for step in tuned.steps],
        }

    def _dataset(self, seed: int, options: dict[str, Any]) -> BucketedSequence:
        return BucketedSequence(self._x, self._y, seed=seed, **self._common, **options)

    def _epochs(self, dataset: BucketedSequence) -> list[float]:
        """The seconds of some epochs, after one that traces and compiles."""
        clock = EpochClock()
        dataset.seek(0)
        self._model.fit(dataset, epochs=1 + self._num_epochs, shuffle=False, verbose=0, callbacks=[clock])
        return clock.seconds


def make_model(kind: str) -> keras.Model:
    """A compiled model from token ids to one number."""
    keras.utils.set_random_seed(0)
    token_ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY_SIZE, WIDTH, mask_zero=kind != "convolution")(token_ids)
    if kind == "LSTM":
        x = keras.layers.LSTM(64)(x)
    elif kind == "bidirectional LSTM":
        x = keras.layers.Bidirectional(keras.layers.LSTM(64))(x)
    elif kind == "convolution":
        x = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(64, 5, padding="same", activation="relu")(x))
    else:
        for _ in range(2):
            x = encoder_block(x)
        x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(token_ids, keras.layers.Dense(1)(x))
    xla = {} if keras.backend.backend() == "jax" else {"jit_compile": False}
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True), **xla)
    return model


def encoder_block(x: Any) -> Any:
    """Attention and two dense layers, each normalized beforehand and added to what came in."""
    normalized = keras.layers.LayerNormalization()(x)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(NUM_HEADS, WIDTH // NUM_HEADS)(normalized, normalized)])
    hidden = keras.layers.Dense(4 * WIDTH, activation="gelu")(keras.layers.LayerNormalization()(x))
    return keras.layers.Add()([x, keras.layers.Dense(WIDTH)(hidden)])


class EpochClock(keras.callbacks.Callback):
    """The seconds of the epochs of a training but the first, each from the end of the one before."""

    def on_train_begin(self, logs: Any = None) -> None:
        """No epoch has ended."""
        self._ends: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes the time."""
        self._ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Floats, of these epochs."""
        seconds: list[float] = np.diff(self._ends).tolist()
        return seconds


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
