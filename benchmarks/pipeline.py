"""Input pipelines alone: sequences per second of each, and how that changes with the number of sequences.

Sequences have lognormal lengths (mean 75, median 55, at most 1000 timesteps); batches have 32 rows. Everybody is read
by the same Python loop. `bucket_by_sequence_length` gets ten buckets picked by hand, BucketedSequence chooses its own.
The contenders other than BucketedSequence are slow, so they read a random sample of the sequences: the rate is what
counts. contenders.py shows how each is set up.

    python benchmarks/pipeline.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import tensorflow as tf
from contenders import (
    bucket_by_sequence_length,
    from_generator,
    py_dataset,
    ready_batches,
    shuffled_padded_batch,
)
from harness import Spread
from lengths import lognormal_lengths
from sequences import Sequences, token_sequences, vector_sequences

from keras_bucketing import BucketedSequence

BATCH_SIZE = 32
BOUNDARIES = [20, 40, 60, 80, 100, 150, 200, 300, 500]
OURS, CEILING, RIVAL = "BucketedSequence", "empty tf.data loop", "bucket_by_sequence_length"


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    quick = arguments.quick
    num_sequences, sample, rounds = (600, 300, 2) if quick else (50_000, 10_000, 7)
    lengths = lengths_of(num_sequences)
    results: dict[str, Any] = {}
    for kind, make in {"token ids": token_sequences, "12 float features": vector_sequences}.items():
        figures = harness.interleave(contenders(make(lengths), sample), rounds)
        results[kind] = show(f"{kind}, {num_sequences:,} sequences", figures)

    sizes = [500, 1_000] if quick else [10_000, 30_000, 100_000, 300_000, 1_000_000]
    growth = {size: measure_growth(size, sample, 2 if quick else 3) for size in sizes}
    names = list(growth[sizes[0]])
    harness.report(
        "token ids, thousand sequences per second by number of sequences",
        ["sequences", *names],
        [[f"{size:,}", *(round(growth[size][name].median / 1000, 1) for name in names)] for size in sizes],
        note=f"All but {OURS} and the ceiling: steady rate over at most {sample:,} sequences, from the first batch on.",
    )
    harness.write_json(
        arguments.output,
        "pipeline",
        {"batch_size": BATCH_SIZE, "boundaries_of_rival": BOUNDARIES, "sample": sample, **results, "growth": growth},
    )
    harness.write_picture(
        arguments.output, "pipeline", lambda axes: draw(axes, results["token ids"], growth), panels=2, height=4
    )


def lengths_of(num_sequences: int) -> np.ndarray:
    """The lengths of the headline."""
    return lognormal_lengths(num_sequences, mean=75, median=55, longest=1000)


def contenders(sequences: Sequences, sample: int) -> dict[str, Callable[[], float]]:
    """Everybody, ready to be read in a whole pass."""
    few = sequences.first(sample)
    sizes = [BATCH_SIZE] * (len(BOUNDARIES) + 1)
    ours, ceiling = ours_and_ceiling(sequences)
    datasets = {
        CEILING: (ceiling, sequences),
        OURS: (ours, sequences),
        "from_generator, NumPy": (from_generator(few, BATCH_SIZE), few),
        "PyDataset, pad_sequences": (py_dataset(few, BATCH_SIZE), few),
        "shuffled padded_batch": (shuffled_padded_batch(few, BATCH_SIZE), few),
        RIVAL: (bucket_by_sequence_length(few, sizes, BOUNDARIES), few),
    }
    return {name: _whole_pass(dataset, len(read.labels)) for name, (dataset, read) in datasets.items()}


def ours_and_ceiling(sequences: Sequences) -> tuple[BucketedSequence, tf.data.Dataset]:
    """BucketedSequence, and the empty loop over as many batches of its mean size."""
    ours = BucketedSequence.from_row_splits(
        sequences.values, sequences.row_splits, sequences.labels, batch_size=BATCH_SIZE, seed=0
    )
    stats = ours.padding_stats()
    length = round(stats.total_timesteps / stats.num_sequences)
    return ours, ready_batches(sequences, BATCH_SIZE, length, ours.num_batches)


def measure_growth(num_sequences: int, most: int, rounds: int) -> dict[str, Spread]:
    """Rates with this many sequences of token ids; the slow ones are cut off after `most` sequences."""
    sequences = token_sequences(lengths_of(num_sequences))
    ours, ceiling = ours_and_ceiling(sequences)
    sizes = [BATCH_SIZE] * (len(BOUNDARIES) + 1)
    figures = harness.interleave(
        {
            CEILING: _whole_pass(ceiling, num_sequences),
            OURS: _whole_pass(ours, num_sequences),
            "from_generator, NumPy": _steady_rate(from_generator(sequences, BATCH_SIZE), most),
            "shuffled padded_batch": _steady_rate(shuffled_padded_batch(sequences, BATCH_SIZE), most),
            RIVAL: _steady_rate(bucket_by_sequence_length(sequences, sizes, BOUNDARIES), most),
        },
        rounds,
        warm_up=num_sequences <= 100_000,
    )
    return {name: harness.spread_of(rates) for name, rates in figures.items()}


def show(title: str, figures: dict[str, list[float]]) -> dict[str, Any]:
    """Prints one table of rates and ratios, and returns it for the JSON."""
    rows = {
        name: {
            "sequences_per_second": harness.spread_of(rates),
            "times_rival": harness.ratios_within_rounds(rates, figures[RIVAL]),
            "share_of_ceiling": harness.ratios_within_rounds(rates, figures[CEILING]),
        }
        for name, rates in figures.items()
    }
    harness.report(
        title,
        ["pipeline", "sequences/s", f"times {RIVAL}", "share of the empty loop"],
        [[name, *row.values()] for name, row in rows.items()],
        note="Median (quartiles); ratios are formed within a round.",
    )
    return rows


def draw(axes: Any, headline: dict[str, Any], growth: dict[int, dict[str, Spread]]) -> None:
    """Bars of the rates, and lines of how they change with the number of sequences."""
    rates = {name: row["sequences_per_second"] for name, row in headline.items()}
    thousands = {name: Spread(*(figure / 1000 for figure in rate)) for name, rate in rates.items()}
    harness.draw_bars(axes[0], thousands, "thousand sequences per second", OURS, "{:,.1f}")
    axes[0].set_title("token ids", loc="left")
    for (name, line), marker in zip(_lines(growth).items(), "v^sDo", strict=True):
        style = {"color": "0.15", "linewidth": 2} if name == OURS else {"color": "0.5"}
        axes[1].loglog(list(growth), line, marker=marker, label=name, **style)
    axes[1].set(xlabel="sequences in the data set", ylabel="sequences per second")
    axes[1].figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    axes[1].set_title("the rate as the data grows", loc="left")


def _lines(growth: dict[int, dict[str, Spread]]) -> dict[str, list[float]]:
    names = next(iter(growth.values()))
    return {name: [rates[name].median for rates in growth.values()] for name in names}


def _whole_pass(dataset: tf.data.Dataset, num_sequences: int) -> Callable[[], float]:
    def rate() -> float:
        begin = time.perf_counter()
        for _ in dataset:
            pass
        return num_sequences / (time.perf_counter() - begin)

    return rate


def _steady_rate(dataset: tf.data.Dataset, most: int) -> Callable[[], float]:
    """The rate behind the first batch, when the shuffle buffer is full; it favours whoever starts slowly."""

    def rate() -> float:
        batches = iter(dataset)
        next(batches)
        begin = time.perf_counter()
        num_batches = 0
        for _ in batches:
            num_batches += 1
            if num_batches * BATCH_SIZE >= most:
                break
        return num_batches * BATCH_SIZE / (time.perf_counter() - begin)

    return rate


if __name__ == "__main__":
    main()
