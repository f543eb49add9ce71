"""Stages that users put on top, `dataset.map(augment, num_parallel_calls=...)`, with and without tf.data's autotuner.

A BucketedSequence turns tf.data's autotuner and rewriting off, and that holds for all that is built upon it. Then
`tf.data.AUTOTUNE` is a fixed number of parallel calls, as many as there are processors, at most 16. Here stages are
read with these options, and with the autotuner and the rewriting turned on again by `with_options`: a light one that
replaces some token ids, and a heavy one that sorts numbers for milliseconds a batch, in one thread. Token ids of
lognormal length (mean 75, median 55, at most 1000 timesteps), 32 rows a batch, read to the end by a Python loop, in
turns.

    python -m benchmarks.user_stages
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from benchmarks import harness
from benchmarks.pipeline import lengths_of
from benchmarks.sequences import token_sequences
from benchmarks.tables import Record, Table, spread
from keras_bucketing import BucketedSequence

BATCH_SIZE = 32
SORTED = 40_000  # numbers that the heavy stage sorts
AS_IT_IS, TUNED = "as it is", "autotuner on again"
CALLS = {"AUTOTUNE": tf.data.AUTOTUNE, "2": 2, "one at a time": None}


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    num_sequences, rounds = (200, 2) if arguments.quick else (9_600, 7)
    sequences = token_sequences(lengths_of(num_sequences))
    dataset = BucketedSequence.from_row_splits(
        sequences.values, sequences.row_splits, sequences.labels, batch_size=BATCH_SIZE, seed=0
    )
    results = {name: measure(dataset, stage, rounds) for name, stage in {"light": light, "heavy": heavy}.items()}
    record = {"num_batches": dataset.num_batches, "results": results}
    harness.publish(arguments.output, "user_stages", record, tables)
    harness.write_picture(
        arguments.output, "user_stages", lambda axes: draw(axes, results), panels=len(results), height=2.8
    )


def light(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Replaces a tenth of the token ids by 1, as word dropout does."""
    return tf.where((tf.random.uniform(tf.shape(x)) < 0.1) & (x > 0), tf.ones_like(x), x), y


def heavy(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The same, and some milliseconds of work in one thread: sorting random numbers."""
    x, y = light(x, y)
    least = tf.sort(tf.random.uniform([SORTED]))[0]
    return x + tf.cast(least, x.dtype), y


def measure(dataset: BucketedSequence, stage: Callable[..., Any], rounds: int) -> dict[str, dict[str, harness.Spread]]:
    """Seconds of a pass for each number of calls, with both kinds of options."""
    mapped = {name: dataset.map(stage, num_parallel_calls=calls) for name, calls in CALLS.items()}
    figures = harness.interleave(
        {
            f"{name}, {options}": timer(of if options == AS_IT_IS else with_autotuner(of))
            for name, of in mapped.items()
            for options in (AS_IT_IS, TUNED)
        },
        rounds,
    )
    return {
        name: {
            AS_IT_IS: harness.spread_of(figures[f"{name}, {AS_IT_IS}"]),
            TUNED: harness.spread_of(figures[f"{name}, {TUNED}"]),
        }
        for name in CALLS
    }


def with_autotuner(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turns on again what a BucketedSequence turned off."""
    options = tf.data.Options()
    options.autotune.enabled = True
    options.experimental_optimization.apply_default_optimizations = True
    return dataset.with_options(options)


def timer(dataset: tf.data.Dataset) -> Callable[[], float]:
    """A function that reads a whole pass and returns the seconds."""

    def seconds() -> float:
        begin = time.perf_counter()
        for _ in dataset:
            pass
        return time.perf_counter() - begin

    return seconds


def tables(record: Record) -> list[Table]:
    """One line a stage and a number of calls."""
    return [
        Table(
            "user_stages",
            f"a pass over {record['num_batches']:,} batches, in seconds",
            ["stage", "num_parallel_calls", "default options", TUNED, f"default / {TUNED}"],
            [
                [
                    *(stage, calls, spread(row[AS_IT_IS]), spread(row[TUNED])),
                    f"{row[AS_IT_IS][0] / row[TUNED][0]:.2f}",
                ]
                for stage, rows in record["results"].items()
                for calls, row in rows.items()
            ],
            note="Median (quartiles).",
        )
    ]


def draw(axes: Any, results: dict[str, dict[str, dict[str, harness.Spread]]]) -> None:
    """Bars of the seconds, one panel a stage."""
    for axis, (stage, rows) in zip(axes, results.items(), strict=True):
        bars = {f"{calls}, {options}": row[options] for calls, row in rows.items() for options in (AS_IT_IS, TUNED)}
        harness.draw_bars(axis, bars, "seconds a pass", "AUTOTUNE, as", "{:,.3g}")
        axis.set_title(f"{stage} stage", loc="left")


if __name__ == "__main__":
    main()
