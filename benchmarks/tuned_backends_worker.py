"""One backend of tuned_backends.py: `python -m benchmarks.tuned_backends_worker SEQUENCES LONGEST SEEDS KIND ...`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from keras_bucketing import BucketedSequence, tune_batch_sizes

NOW, TUNED = "as it was", "proposed"
BATCH_SIZE, VOCABULARY_SIZE, WIDTH, NUM_HEADS = 16, 1000, 32, 4
MEAN_SHARE, SIGMA = 0.2, 0.7  # of the longest; of the logarithm
TIMED_EPOCHS = 2


def run(num_sequences: str, longest: str, seeds: str, *kinds: str) -> dict[str, Any]:
    """Tunes and times each model."""
    rng = np.random.default_rng(0)
    median = np.log(MEAN_SHARE * int(longest)) - SIGMA**2 / 2
    lengths = np.clip(rng.lognormal(median, SIGMA, int(num_sequences)).astype(int), 1, int(longest))
    x = [rng.integers(1, VOCABULARY_SIZE, length) for length in lengths]
    y = rng.integers(0, 2, len(x))
    return {kind: measure(kind, x, y, int(seeds)) for kind in kinds}


def measure(kind: str, x: list[np.ndarray], y: np.ndarray, num_seeds: int) -> dict[str, Any]:
    """Tunes a model once, and times both datasets in turns, with one seed after the other."""
    model = make_model(kind)
    common = {"pad_to_bucket_boundary": True} if keras.backend.backend() == "jax" else {}
    now = {"batch_size": BATCH_SIZE, **({"num_buckets": 4} if common else {})}
    dataset = BucketedSequence(x, y, seed=0, **common, **now)
    begin = time.perf_counter()
    tuned = tune_batch_sizes(model, dataset, measure_xla=False, verbose=0)
    tuning_seconds = time.perf_counter() - begin
    print(f"\n{keras.backend.backend()}, {kind}\n\n{tuned}", file=sys.stderr, flush=True)

    def epochs_of(options: dict[str, Any]) -> Callable[[], float]:
        seeds = iter([0, *range(num_seeds)])  # the first round traces and compiles

        def mean_seconds() -> float:
            clock = EpochClock()
            of_seed = BucketedSequence(x, y, seed=next(seeds), **common, **options)
            model.fit(of_seed, epochs=1 + TIMED_EPOCHS, shuffle=False, verbose=0, callbacks=[clock])
            return clock.mean_seconds

        return mean_seconds

    contenders = {NOW: epochs_of(now), TUNED: epochs_of(tuned.options)}
    seconds = harness.interleave(contenders, num_seeds)
    print(seconds, file=sys.stderr, flush=True)
    return {
        "seconds": seconds,
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
    def mean_seconds(self) -> float:
        """Float, of these epochs."""
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
