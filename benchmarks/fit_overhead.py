"""What reading adds to `fit`: steps of a model that costs nothing, against the same `fit` on one ready batch.

The model has one number and learns the mean of the labels from it, so that a step is what Keras and TensorFlow spend
around a model, and the time that the pipeline takes from them on the same processors. Token ids of lognormal length
(mean 75, median 55, at most 1000 timesteps), about as many batches an epoch whatever their rows. The ready batch has
the mean padded length, and comes again and again. The empty map is the least that a pipeline with a function costs: two
parallel calls of one that returns the ready batch, with the options and the prefetching of ours.
`bucket_by_sequence_length` is slow and reads a sample of the sequences. All take turns.

    python -m benchmarks.fit_overhead
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks import harness
from benchmarks.contenders import bucket_by_sequence_length
from benchmarks.pipeline import BOUNDARIES, OURS, RIVAL, lengths_of, ours_and_ceiling
from benchmarks.sequences import token_sequences
from benchmarks.tables import Record, Table, spread

READY, EMPTY = "one ready batch", "an empty map"
BATCH_SIZES = [32, 128, 512]


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    quick = arguments.quick
    # bucket_by_sequence_length has no known length, and Keras warns after every epoch.
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    num_batches, sample, rounds = (8, 64, 2) if quick else (1_500, 6_400, 7)
    results = {
        batch_size: measure(batch_size, num_batches, max(sample, 4 * batch_size), rounds)
        for batch_size in (BATCH_SIZES[:2] if quick else BATCH_SIZES)
    }
    settings = {"num_batches": num_batches, "rounds": rounds}
    harness.publish(arguments.output, "fit_overhead", {**settings, "results": results}, tables)
    harness.write_picture(
        arguments.output, "fit_overhead", lambda axes: draw(axes, results), panels=len(results), height=2.4
    )


class OneNumber(keras.Model):
    """Predicts the mean of all labels, whatever the sequences."""

    def __init__(self):
        super().__init__()
        self.number = self.add_weight(shape=(), initializer="zeros", name="number")

    def call(self, x: Any) -> Any:
        """The number, for the whole batch."""
        return self.number

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The squared distance to the mean of the labels."""
        return keras.ops.square(y_pred - keras.ops.mean(keras.ops.cast(y, "float32")))


def measure(batch_size: int, num_batches: int, sample: int, rounds: int) -> dict[str, dict[str, harness.Spread]]:
    """Microseconds of a step on each dataset."""
    sequences = token_sequences(lengths_of(batch_size * num_batches))
    ours, ready = ours_and_ceiling(sequences, batch_size)
    rival = bucket_by_sequence_length(sequences.first(sample), [batch_size] * (len(BOUNDARIES) + 1), BOUNDARIES)
    empty = empty_map(ready, ours.options())
    model = OneNumber()
    model.compile("sgd", jit_compile=False)
    figures = harness.interleave(
        {
            name: timer(model, dataset)
            for name, dataset in {READY: ready, EMPTY: empty, OURS: ours, RIVAL: rival}.items()
        },
        rounds,
    )
    return {name: {"microseconds": harness.spread_of(of)} for name, of in figures.items()}


def empty_map(ready: tf.data.Dataset, options: tf.data.Options) -> tf.data.Dataset:
    """As many batches as `ready` has, each returned by a function that does nothing else."""
    x, y = next(iter(ready))
    batches = tf.data.Dataset.range(len(ready)).map(lambda _: (tf.identity(x), tf.identity(y)), num_parallel_calls=2)
    return batches.prefetch(8).with_options(options)


def timer(model: keras.Model, dataset: tf.data.Dataset) -> Callable[[], float]:
    """A function that trains for one epoch and returns the microseconds of a step."""

    def microseconds() -> float:
        before = int(model.optimizer.iterations.numpy())
        begin = time.perf_counter()
        model.fit(dataset, verbose=0, shuffle=False)
        seconds = time.perf_counter() - begin
        return seconds / (int(model.optimizer.iterations.numpy()) - before) * 1e6

    return microseconds


def tables(record: Record) -> list[Table]:
    """One line a batch size and a dataset."""
    return [
        Table(
            "fit_overhead",
            "a step of `fit` with a model that costs nothing",
            ["rows a batch", "dataset", "microseconds a step", f"x {READY}"],
            [
                [batch_size, name, spread(row["microseconds"]), f"{_times_ready(rows, name):.2f}"]
                for batch_size, rows in record["results"].items()
                for name, row in rows.items()
            ],
            note=f"Median (quartiles) over {record['rounds']} epochs each; x: times those on the ready batch.",
        )
    ]


def _times_ready(rows: Record, name: str) -> float:
    return float(rows[name]["microseconds"][0] / rows[READY]["microseconds"][0])


def draw(axes: Any, results: dict[int, dict[str, dict[str, harness.Spread]]]) -> None:
    """Bars of the steps' times, one panel a batch size."""
    for axis, (batch_size, rows) in zip(axes, results.items(), strict=True):
        bars = {name: row["microseconds"] for name, row in rows.items()}
        harness.draw_bars(axis, bars, "microseconds a step", OURS)
        axis.set_title(f"{batch_size} rows a batch", loc="left")


if __name__ == "__main__":
    main()
