"""Input pipelines alone: sequences per second of each, and how that changes with the number of sequences.

Sequences have lognormal lengths (mean 75, median 55, at most 1000 timesteps). Everybody is read by the same Python
loop, whose cost for each batch, the "empty loop", is the ceiling: with few rows a batch it decides, so there are
several sizes. `bucket_by_sequence_length` gets ten buckets picked by hand, BucketedSequence chooses its own. The
contenders other than BucketedSequence are slow, so they read a random sample of the sequences: the rate is what counts.
contenders.py shows how each is set up. One `BucketedStream` reads the rows of `bucket_by_sequence_length`, another one
those that `from_generator` buckets by hand; streams.py measures the processor time and the memory of both.

    python -m benchmarks.pipeline
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.contenders import (
    bucket_by_sequence_length,
    bucketed_stream,
    bucketed_stream_of_generator,
    from_generator,
    py_dataset,
    ready_batches,
    shuffled_padded_batch,
)
from benchmarks.harness import Spread
from benchmarks.lengths import lognormal_lengths
from benchmarks.sequences import Sequences, token_sequences, vector_sequences
from benchmarks.tables import Record, Table, significant, times
from keras_bucketing import BucketedSequence

BATCH_SIZE = 32  # of the table that shows how the rates change with the number of sequences
HEADLINES = [("ids", 32), ("ids", 128), ("ids", 512), ("12 floats", 128)]
MAKE = {"ids": token_sequences, "12 floats": vector_sequences}
BOUNDARIES = [20, 40, 60, 80, 100, 150, 200, 300, 500]
OURS, CEILING, RIVAL = "`BucketedSequence`", "the empty loop", "`bucket_by_sequence_length`"


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    quick = arguments.quick
    num_sequences, sample, rounds = (300, 150, 1) if quick else (50_000, 10_000, 5)
    lengths = lengths_of(num_sequences)
    results: dict[str, Any] = {}
    for kind, batch_size in HEADLINES[1::2] if quick else HEADLINES:
        figures = harness.interleave(contenders(MAKE[kind](lengths), sample, batch_size), rounds)
        name = f"{kind}, {batch_size} rows"
        results[name] = summarize(figures)

    sizes = [500, 1_000] if quick else [10_000, 30_000, 100_000, 300_000, 1_000_000]
    growth = {size: measure_growth(size, sample, 1 if quick else 3) for size in sizes}
    settings = {"boundaries_of_rival": BOUNDARIES, "sample": sample, "num_sequences": num_sequences}
    measured = {"headlines": results, "growth": growth}
    harness.publish(arguments.output, "pipeline", {**settings, **measured}, tables)
    harness.write_picture(
        arguments.output, "pipeline", lambda axes: draw(axes, results, growth), panels=1 + len(results), height=3.2
    )


def tables(record: Record) -> list[Table]:
    """The rates, with their multiples of the rival's in the same column, and how they change with the size."""
    headlines, growth = record["headlines"], record["growth"]
    pipelines, sizes = list(next(iter(headlines.values()))), list(growth)
    return [
        Table(
            "pipeline",
            f"{record['num_sequences']:,} sequences: thousand sequences per second, x {RIVAL}",
            ["pipeline", *headlines],
            [[name, *(_rate_and_ratio(rates, name) for rates in headlines.values())] for name in pipelines],
            note="Medians.",
        ),
        Table(
            "pipeline_growth",
            f"token ids, {BATCH_SIZE} rows a batch, thousand sequences per second by number of sequences",
            ["pipeline", *(f"{int(size):,}" for size in sizes)],
            [[name, *(significant(growth[size][name][0] / 1000) for size in sizes)] for name in growth[sizes[0]]],
            note=f"All but {OURS} and the ceiling: steady rate over at most {record['sample']:,} sequences, from the "
            "first batch on.",
        ),
    ]


def figures(record: Record) -> dict[str, str]:
    """What the pages quote in their text."""
    rates = record["headlines"]["ids, 128 rows"]
    return {"times_bucket_by_sequence_length": f"{_times_rival(rates, OURS):.0f}"}


def _rate_and_ratio(rates: Record, name: str) -> str:
    rate = significant(rates[name]["sequences_per_second"][0] / 1000)
    return rate if name == RIVAL else f"{rate}, {times(_times_rival(rates, name))}"


def _times_rival(rates: Record, name: str) -> float:
    return float(rates[name]["sequences_per_second"][0] / rates[RIVAL]["sequences_per_second"][0])


def lengths_of(num_sequences: int) -> np.ndarray:
    """The lengths of the headline."""
    return lognormal_lengths(num_sequences, mean=75, median=55, longest=1000)


def contenders(sequences: Sequences, sample: int, batch_size: int) -> dict[str, Callable[[], float]]:
    """Everybody, ready to be read in a whole pass."""
    few = sequences.first(sample)
    sizes = [batch_size] * (len(BOUNDARIES) + 1)
    ours, ceiling = ours_and_ceiling(sequences, batch_size)
    datasets = {
        CEILING: (ceiling, sequences),
        OURS: (ours, sequences),
        "`BucketedStream`, tf.data rows": (bucketed_stream(few, batch_size), few),
        "`BucketedStream`, generator": (bucketed_stream_of_generator(few, batch_size), few),
        "`from_generator`, NumPy": (from_generator(few, batch_size), few),
        "`PyDataset`, `pad_sequences`": (py_dataset(few, batch_size), few),
        "shuffled `padded_batch`": (shuffled_padded_batch(few, batch_size), few),
        RIVAL: (bucket_by_sequence_length(few, sizes, BOUNDARIES), few),
    }
    return {name: _whole_pass(dataset, len(read.labels)) for name, (dataset, read) in datasets.items()}


def ours_and_ceiling(sequences: Sequences, batch_size: int) -> tuple[BucketedSequence, tf.data.Dataset]:
    """BucketedSequence, and the empty loop over as many batches of its mean size."""
    ours = BucketedSequence.from_row_splits(
        sequences.values, sequences.row_splits, sequences.labels, batch_size=batch_size, seed=0
    )
    stats = ours.padding_stats()
    length = round(stats.total_timesteps / stats.num_sequences)
    return ours, ready_batches(sequences, batch_size, length, ours.num_batches)


def measure_growth(num_sequences: int, most: int, rounds: int) -> dict[str, Spread]:
    """Rates with this many sequences of token ids; the slow ones are cut off after `most` sequences."""
    sequences = token_sequences(lengths_of(num_sequences))
    ours, ceiling = ours_and_ceiling(sequences, BATCH_SIZE)
    sizes = [BATCH_SIZE] * (len(BOUNDARIES) + 1)
    figures = harness.interleave(
        {
            CEILING: _whole_pass(ceiling, num_sequences),
            OURS: _whole_pass(ours, num_sequences),
            "`from_generator`, NumPy": _steady_rate(from_generator(sequences, BATCH_SIZE), most),
            "shuffled `padded_batch`": _steady_rate(shuffled_padded_batch(sequences, BATCH_SIZE), most),
            RIVAL: _steady_rate(bucket_by_sequence_length(sequences, sizes, BOUNDARIES), most),
        },
        rounds,
        warm_up=num_sequences <= 100_000,
    )
    return {name: harness.spread_of(rates) for name, rates in figures.items()}


def summarize(figures: dict[str, list[float]]) -> dict[str, Any]:
    """The rates of everybody at one size of batches; ratios are formed within a round."""
    return {
        name: {
            "sequences_per_second": harness.spread_of(rates),
            "times_rival": harness.ratios_within_rounds(rates, figures[RIVAL]),
            "share_of_ceiling": harness.ratios_within_rounds(rates, figures[CEILING]),
        }
        for name, rates in figures.items()
    }


def draw(axes: Any, results: dict[str, dict[str, Any]], growth: dict[int, dict[str, Spread]]) -> None:
    """Bars of the rates, and lines of how they change with the number of sequences."""
    for axis, (title, rows) in zip(axes, results.items(), strict=False):
        rates = {name: row["sequences_per_second"] for name, row in rows.items()}
        thousands = {name: Spread(*(figure / 1000 for figure in rate)) for name, rate in rates.items()}
        harness.draw_bars(axis, thousands, "thousand sequences per second", OURS, "{:,.0f}")
        axis.set_title(title, loc="left")
    axis = axes[-1]
    for (name, line), marker in zip(_lines(growth).items(), "v^sDo", strict=True):
        style = {"color": "0.15", "linewidth": 2} if name == OURS else {"color": "0.5"}
        axis.loglog(list(growth), line, marker=marker, label=name, **style)
    axis.set(xlabel="sequences in the dataset", ylabel="sequences per second")
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    axis.set_title(f"the rate as the data grows, {BATCH_SIZE} rows a batch", loc="left")


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
    """The rate behind the first batch, when the shuffle buffer is full; it favors whoever starts slowly."""

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
