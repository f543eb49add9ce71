"""What a training step costs with and without PaddingStatsCallback and monitor_padding.

    python benchmarks/callback_cost.py

One model is as small as can be, so that a cost shows; the other has an LSTM, as models have that padding matters to.
Epochs with and without are interleaved, and the medians of their times compared.
"""

import argparse
import functools
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing import BucketedSequence, PaddingStatsCallback, monitor_padding

BATCH_SIZE = 32


def make_data(num_sequences: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of lognormal lengths, mean 75, at most 300."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.9, 0.9, num_sequences).astype(int), 1, 300)
    return [rng.integers(1, 1000, length) for length in lengths], rng.integers(0, 2, num_sequences)


def make_model(pooling: keras.layers.Layer) -> keras.Model:
    """Embeds, pools and classifies."""
    model = keras.Sequential([keras.layers.Embedding(1000, 16), pooling, keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def seconds_per_step(model: keras.Model, dataset: tf.data.Dataset, callbacks: list[keras.callbacks.Callback]) -> float:
    """One epoch's time, divided by its steps."""
    began = time.perf_counter()
    model.fit(dataset, callbacks=callbacks, verbose=0, shuffle=False)
    return (time.perf_counter() - began) / len(dataset)


def compare(
    name: str, pooling: keras.layers.Layer, without: tf.data.Dataset, with_it: tf.data.Dataset, repeats: int
) -> float:
    """Prints both medians; returns their ratio."""
    model = make_model(pooling)
    callback = PaddingStatsCallback(with_it)
    for dataset in (without, with_it):
        seconds_per_step(model, dataset, [])  # traces the model
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        order = (0, 1) if repeat % 2 else (1, 0)
        for which in order:
            dataset, callbacks = ((without, []), (with_it, [callback]))[which]
            times[which].append(seconds_per_step(model, dataset, callbacks))
    medians = [statistics.median(of) * 1e6 for of in times]
    ratio = medians[1] / medians[0]
    print(f"{name:44}{medians[0]:8.0f} us a step without, {medians[1]:8.0f} us with, ratio {ratio:.3f}")
    return ratio


def main() -> None:
    """Measures the callback on a BucketedSequence, and callback and monitor on padded arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-sequences", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    x, y = make_data(options.num_sequences)
    bucketed = BucketedSequence(x, y, batch_size=BATCH_SIZE, seed=0)
    padded = tf.data.Dataset.from_tensor_slices((keras.utils.pad_sequences(x), y)).batch(BATCH_SIZE).prefetch(2)
    monitored = monitor_padding(padded)
    for name, make_pooling in (
        ("mean", keras.layers.GlobalAveragePooling1D),
        ("LSTM", functools.partial(keras.layers.LSTM, 16)),
    ):
        compare(f"{name}, BucketedSequence", make_pooling(), bucketed, bucketed, options.repeats)
        compare(f"{name}, padded arrays with monitor_padding", make_pooling(), padded, monitored, options.repeats)


if __name__ == "__main__":
    main()
