"""Construction alone: the time until a dataset can be iterated over, beside tf.data's own bucketing of the same data.

Token ids of lognormal length (mean 75, median 55, at most 1000 timesteps), 32 rows a batch. `bucket_by_sequence_length`
gets ten buckets picked by hand, with a shuffle in front and a prefetch behind; BucketedSequence gets the same ones, or
chooses its own. The first BucketedSequence of a process traces what the later ones share.

Pairs of such lengths that have nothing to do with each other, 64 rows a batch: the same ten buckets by the longer of
the two, beside what BucketedSequence chooses, which is nested buckets.

    python -m benchmarks.construction
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import harness
from benchmarks.contenders import bucket_by_sequence_length
from benchmarks.lengths import lognormal_lengths
from benchmarks.sequences import Sequences, token_sequences
from benchmarks.tables import Record, Table, median, times
from keras_bucketing import BucketedSequence
from keras_bucketing.pipeline import stream

BATCH_SIZE, PAIRS_BATCH_SIZE = 32, 64
BOUNDARIES = [20, 40, 60, 80, 100, 150, 200, 300, 500]
RIVAL = "`bucket_by_sequence_length`"
SAME, CHOSEN, FIRST = (
    f"`BucketedSequence`, {how}" for how in ("the same boundaries", "chosen boundaries", "the first of a process")
)

GIVEN, NESTED = "pairs, the same boundaries", "pairs, chosen boundaries"


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    sizes, rounds = ([100, 200], 2) if arguments.quick else ([1_000, 10_000, 100_000], 21)
    results = {}
    for num_sequences in sizes:
        sequences, others = (sequences_of(num_sequences, seed) for seed in (0, 1))
        results[num_sequences] = {
            **summarize(harness.interleave(contenders(sequences), rounds), RIVAL),
            **summarize(harness.interleave(contenders_on_pairs(sequences, others), rounds), GIVEN),
        }
    harness.publish(arguments.output, "construction", {"rounds": rounds, "results": results}, tables)
    harness.write_picture(arguments.output, "construction", lambda axes: draw(axes, results), panels=len(results))


def tables(record: Record) -> list[Table]:
    """The times, with their multiples of the rival's in the same column."""
    results = record["results"]
    return [
        Table(
            "construction",
            f"milliseconds of processor time, x {RIVAL}, by number of sequences",
            ["dataset", *(f"{int(size):,}" for size in results)],
            _lines(results, [RIVAL, SAME, CHOSEN, FIRST]),
            note=f"Medians over {record['rounds']} rounds; ratios are formed within a round.",
        ),
        Table(
            "construction_of_pairs",
            "the same for pairs, x the same boundaries",
            ["dataset", *(f"{int(size):,}" for size in results)],
            _lines(results, [GIVEN, NESTED]),
        ),
    ]


def _lines(results: Record, names: list[str]) -> list[list[str]]:
    return [[name, *(_cell(rows[name]) for rows in results.values())] for name in names]


def _cell(row: Record) -> str:
    return f"{median(row['milliseconds'])}, {times(row['times'][0])}"


def sequences_of(num_sequences: int, seed: int) -> Sequences:
    """The sequences of one seed."""
    return token_sequences(lognormal_lengths(num_sequences, mean=75, median=55, longest=1000, seed=seed), seed=seed)


def contenders_on_pairs(first: Sequences, second: Sequences) -> dict[str, Callable[[], float]]:
    """The same for rows with two sequences."""
    x = (first.ragged, second.ragged)

    def bucketed(**options: Any) -> BucketedSequence:
        return BucketedSequence(x, first.labels, batch_size=PAIRS_BATCH_SIZE, **options)

    def same() -> BucketedSequence:
        return bucketed(bucket_boundaries=BOUNDARIES)

    return {GIVEN: timer(same, prepare=same), NESTED: timer(bucketed, prepare=bucketed)}


def contenders(sequences: Sequences) -> dict[str, Callable[[], float]]:
    """Functions that make a dataset and return the milliseconds it took."""

    def bucketed(**options: Any) -> BucketedSequence:
        return BucketedSequence.from_row_splits(
            sequences.values, sequences.row_splits, sequences.labels, batch_size=BATCH_SIZE, **options
        )

    def same() -> BucketedSequence:
        return bucketed(bucket_boundaries=BOUNDARIES)

    sizes = [BATCH_SIZE] * (len(BOUNDARIES) + 1)
    return {
        RIVAL: timer(lambda: bucket_by_sequence_length(sequences, sizes, BOUNDARIES)),
        SAME: timer(same, prepare=same),
        CHOSEN: timer(bucketed, prepare=bucketed),
        FIRST: timer(same, prepare=stream.traced_passes.cache_clear),
    }


def timer(make: Callable[[], Any], prepare: Callable[[], Any] = lambda: None) -> Callable[[], float]:
    """A function that calls both and returns the milliseconds of processor time that the first takes."""

    def milliseconds() -> float:
        prepare()
        begin = time.process_time()
        make()
        return (time.process_time() - begin) * 1e3

    return milliseconds


def summarize(figures: dict[str, list[float]], rival: str) -> dict[str, Any]:
    """The times of everybody with one number of sequences, and how many times those of the rival they are."""
    return {
        name: {
            "milliseconds": harness.spread_of(of),
            "times": harness.ratios_within_rounds(of, figures[rival]),
        }
        for name, of in figures.items()
    }


def draw(axes: Any, results: dict[int, dict[str, Any]]) -> None:
    """Bars of the times, one panel a number of sequences."""
    for axis, (num_sequences, rows) in zip(axes, results.items(), strict=True):
        bars = {name.replace(", ", ",\n", 1): row["milliseconds"] for name, row in rows.items()}
        harness.draw_bars(axis, bars, "milliseconds", "`BucketedSequence`")
        axis.set_title(f"{num_sequences:,} sequences", loc="left")


if __name__ == "__main__":
    main()
