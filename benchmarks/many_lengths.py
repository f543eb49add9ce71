"""How long it takes to choose buckets where nearly every length is another one, as of raw audio counted in samples.

Lognormal lengths (median five seconds of 16,000 samples), processor time of the choice of buckets alone. Each way to
size batches is compared with `batch_size=32` on the same lengths in the same round; a budget is said in rows of mean
length. The heavy tail is the same with a few recordings of hours.

    python -m benchmarks.many_lengths
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.tables import Record, Table, median, times
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import BatchSizing

BATCH_SIZE = 32
BY_ROWS = f"`batch_size={BATCH_SIZE}`"
BUDGETS = [8, 32, 256, 2048]
HEAVY_TAIL = f"{BY_ROWS}, heavy tail"


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    sizes, rounds = ([500, 1_000], 2) if arguments.quick else ([20_000, 200_000], 3)
    results = {size: summarize(harness.interleave(contenders(audio_lengths(size)), rounds)) for size in sizes}
    harness.publish(arguments.output, "many_lengths", {"rounds": rounds, "results": results}, tables)
    harness.write_picture(arguments.output, "many_lengths", lambda axes: draw(axes, results), panels=len(results))


def tables(record: Record) -> list[Table]:
    """The times, with their multiples of those of a batch size in the same column."""
    results = record["results"]
    return [
        Table(
            "many_lengths",
            f"seconds of processor time to choose buckets, x {BY_ROWS}, by number of sequences",
            ["batches", *(f"{int(size):,}" for size in results)],
            [
                [
                    name,
                    *(f"{median(rows[name]['seconds'])}, {times(rows[name]['ratio'][0])}" for rows in results.values()),
                ]
                for name in next(iter(results.values()))
            ],
            note=f"Medians over {record['rounds']} rounds; ratios are formed within a round.",
        )
    ]


def audio_lengths(num_sequences: int, seed: int = 0) -> np.ndarray:
    """Lognormal lengths in samples."""
    lengths = np.random.default_rng(seed).lognormal(np.log(80_000), 0.7, num_sequences)
    return np.maximum(np.rint(lengths), 1).astype(np.int64)


def contenders(lengths: np.ndarray) -> dict[str, Callable[[], float]]:
    """Functions that choose buckets and return the seconds it took."""
    by_rows = BatchSizing(BATCH_SIZE, None, None, multiple=1)
    budgets = {rows: max(int(rows * lengths.mean()), int(lengths.max())) for rows in BUDGETS}
    tail = lengths.copy()
    tail[: max(len(lengths) // 1000, 1)] *= 1000
    return {
        BY_ROWS: timer(lengths, by_rows),
        **{
            f"budget of {rows} rows": timer(lengths, BatchSizing(None, None, most, 1)) for rows, most in budgets.items()
        },
        HEAVY_TAIL: timer(tail, by_rows),
    }


def timer(lengths: np.ndarray, sizing: BatchSizing) -> Callable[[], float]:
    """A function that chooses buckets and returns the seconds of processor time that it takes."""

    def seconds() -> float:
        begin = time.process_time()
        choose_buckets(lengths, sizing)
        return time.process_time() - begin

    return seconds


def summarize(figures: dict[str, list[float]]) -> dict[str, Any]:
    """The times with one number of sequences."""
    return {
        name: {
            "seconds": harness.spread_of(seconds),
            "ratio": harness.ratios_within_rounds(seconds, figures[BY_ROWS]),
        }
        for name, seconds in figures.items()
    }


def draw(axes: Any, results: dict[int, dict[str, Any]]) -> None:
    """Bars of the times, one panel a number of sequences."""
    for axis, (num_sequences, rows) in zip(axes, results.items(), strict=True):
        harness.draw_bars(axis, {name: row["seconds"] for name, row in rows.items()}, "seconds", BY_ROWS)
        axis.set_title(f"{num_sequences:,} sequences", loc="left")


if __name__ == "__main__":
    main()
