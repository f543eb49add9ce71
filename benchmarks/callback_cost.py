"""What a training step costs with PaddingStatsCallback and monitor_padding, as a multiple of the step without.

One model is as small as can be, so that a cost shows; the other has an LSTM, as models have that padding matters to.
Token ids of lognormal length (mean 75, median 50, at most 300 timesteps), 32 rows a batch. Epochs with and without
take turns, and each one's time is divided by that of its round without.

    python -m benchmarks.callback_cost
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks import harness
from benchmarks.lengths import lognormal_lengths
from benchmarks.sequences import Sequences, token_sequences
from benchmarks.tables import Record, Table, median, spread
from keras_bucketing import BucketedSequence, PaddingStatsCallback, monitor_padding

BATCH_SIZE = 32
VOCABULARY_SIZE = 1_000
ROUNDS = 13
WITHOUT = BUCKETED, PADDED = ("`BucketedSequence`", "padded batches")

# The layer between embedding and dense layer, and the number of sequences: as many as take a second or two.
MODELS: dict[str, tuple[Callable[[], keras.layers.Layer], int]] = {
    "mean": (keras.layers.GlobalAveragePooling1D, 10_000),
    "LSTM-64": (lambda: keras.layers.LSTM(64), 1_280),
}


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    rounds = 2 if arguments.quick else ROUNDS
    results = {}
    for name, (make_layer, num_sequences) in list(MODELS.items())[: 1 if arguments.quick else None]:
        lengths = lognormal_lengths(200 if arguments.quick else num_sequences, mean=75, median=50, longest=300)
        results[name] = measure(make_layer, token_sequences(lengths, VOCABULARY_SIZE), rounds)
    harness.publish(arguments.output, "callback_cost", {"rounds": rounds, "results": results}, tables)
    harness.write_picture(arguments.output, "callback_cost", lambda axes: draw(axes, results), panels=len(results))


def tables(record: Record) -> list[Table]:
    """One line a model and a way to feed it."""
    return [
        Table(
            "callback_cost",
            "a training step",
            ["model", "fed by", "microseconds a step", "x the step without"],
            [[model, way, *_cells(way, row)] for model, rows in record["results"].items() for way, row in rows.items()],
            note=f"Median (quartiles) over {record['rounds']} epochs each; ratios are formed within a round.",
        )
    ]


def _cells(way: str, row: Record) -> tuple[str, str]:
    """The time of a step without, or by how much the one with takes longer in the same round."""
    return (median(row["microseconds"]), "") if way in WITHOUT else ("", spread(row["times_without"]))


def measure(make_layer: Callable[[], keras.layers.Layer], sequences: Sequences, rounds: int) -> dict[str, Any]:
    """The step's time for each way to feed the model, against the way without the callback or the monitor."""
    model = make_model(make_layer())
    bucketed = BucketedSequence.from_row_splits(
        sequences.values, sequences.row_splits, sequences.labels, batch_size=BATCH_SIZE, seed=0
    )
    padded = keras.utils.pad_sequences(sequences.arrays, padding="post")
    batches = tf.data.Dataset.from_tensor_slices((padded, sequences.labels)).batch(BATCH_SIZE).prefetch(2)
    monitored = monitor_padding(batches)
    contenders = {
        BUCKETED: timer(model, bucketed, []),
        f"{BUCKETED}, callback": timer(model, bucketed, [PaddingStatsCallback(bucketed)]),
        PADDED: timer(model, batches, []),
        f"{PADDED}, monitor and callback": timer(model, monitored, [PaddingStatsCallback(monitored)]),
    }
    figures = harness.interleave(contenders, rounds)
    without = {name: figures[next(way for way in WITHOUT if name.startswith(way))] for name in figures}
    return {
        name: {
            "microseconds": harness.spread_of(of),
            "times_without": harness.ratios_within_rounds(of, without[name]),
        }
        for name, of in figures.items()
    }


def make_model(layer: keras.layers.Layer) -> keras.Model:
    """Embeds, applies the layer and classifies."""
    model = keras.Sequential([keras.layers.Embedding(VOCABULARY_SIZE, 16), layer, keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def timer(model: keras.Model, dataset: tf.data.Dataset, callbacks: list[keras.callbacks.Callback]) -> Any:
    """A function that trains for one epoch and returns the microseconds of a step."""

    def microseconds() -> float:
        begin = time.perf_counter()
        model.fit(dataset, callbacks=callbacks, verbose=0, shuffle=False)
        return (time.perf_counter() - begin) / len(dataset) * 1e6

    return microseconds


def draw(axes: Any, results: dict[str, dict[str, Any]]) -> None:
    """Bars of the steps' times, one panel a model."""
    for axis, (name, rows) in zip(axes, results.items(), strict=True):
        bars = {way.replace(", ", ",\n", 1): row["microseconds"] for way, row in rows.items()}
        harness.draw_bars(axis, bars, "microseconds a step", BUCKETED)
        axis.set_title(name, loc="left")


if __name__ == "__main__":
    main()
