"""From ten thousand to ten million sequences: construction time, memory and the wait for the first batch of an epoch.

Each line is measured in a fresh process (scale_worker.py), on Linux. Sequences are int32 token ids of lognormal length
(mean 75, at most 1000 timesteps); those of the ten million have 1 to 20 timesteps. Memory is counted from before the
data was made: the steady state with the caller's arrays gone and some epochs begun, what of it is in use once the C
library has returned the memory that was freed, and the peak during construction with the caller's arrays. All are also
given as multiples of the flat values, after 40 bytes a sequence are taken off: what row splits, lengths, buckets and
labels may take.

    python -m benchmarks.scale
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.tables import Record, Table, median, significant

BYTES_PER_SEQUENCE = 40
TEN_MILLION = {"sequences": 10_000_000, "source": "row splits", "lengths": "uniform", "batch_size": 1024}


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    if arguments.quick:
        sizes, most_arrays, last, rounds = [200], 400, {**TEN_MILLION, "sequences": 2_000}, 1
    else:
        sizes, most_arrays, last, rounds = [10_000, 100_000, 1_000_000], 1_000_000, TEN_MILLION, 3
    defaults = {"source": "row splits", "lengths": "lognormal", "batch_size": 32, "epochs": 5, "whole_pass": False}
    jobs = [{**defaults, "sequences": size} for size in sizes]
    jobs.append({**defaults, "sequences": most_arrays, "source": "list of arrays"})
    jobs.append({**defaults, **last, "whole_pass": True})

    measured: list[list[dict[str, Any]]] = [[] for _ in jobs]
    for number in range(rounds):
        for job, records in zip(jobs, measured, strict=True):
            if number == 0 or job is not jobs[-1]:
                records.append(harness.run_worker("scale_worker", json.dumps(job), in_this_process=arguments.quick))
    results = [summarize(records) for records in measured]
    harness.publish(arguments.output, "scale", {"results": results, "measurements": measured}, tables)
    harness.write_picture(arguments.output, "scale", lambda axes: draw(axes, results), panels=2)


def tables(record: Record) -> list[Table]:
    """One line a job; memory as a multiple of the values' own."""
    results = record["results"]
    return [
        Table(
            "scale",
            "BucketedSequence by number of sequences",
            [
                *(
                    "sequences",
                    "from",
                    "construction, s",
                    "values, MB",
                    "steady state",
                    "of it in use",
                    "peak while constructing",
                ),
                *("first batch of an epoch, s", "slowest, s"),
            ],
            [
                [
                    f"{row['sequences']:,}",
                    row["source"],
                    median(row["construction_seconds"]),
                    significant(row["value_bytes"] / 1e6),
                    *(f"{row[f'{name}_ratio']:.2f} x" for name in ("steady", "held", "peak")),
                    median(row["first_batch_seconds"]),
                    significant(row["slowest_first_batch_seconds"]),
                ]
                for row in results
            ],
            note=f"Memory: multiples of the values, less {BYTES_PER_SEQUENCE} bytes a sequence. Medians over processes "
            f"and epochs. The last line: {results[-1]['sequences_per_second']:,.0f} sequences/s over an epoch.",
        )
    ]


def summarize(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the processes that measured the same."""
    first = records[0]
    latencies = [seconds for record in records for seconds in record["first_batch_seconds"]]
    beside = BYTES_PER_SEQUENCE * first["sequences"]
    row = {name: first[name] for name in ("sequences", "source", "value_bytes", "sequences_per_second")}
    for name in ("steady", "held", "peak"):
        row[f"{name}_bytes"] = float(np.median([record[f"{name}_bytes"] for record in records]))
        row[f"{name}_ratio"] = (row[f"{name}_bytes"] - beside) / first["value_bytes"]
    return {
        **row,
        "construction_seconds": harness.spread_of([record["construction_seconds"] for record in records]),
        "first_batch_seconds": harness.spread_of(latencies),
        "slowest_first_batch_seconds": max(latencies),
    }


def draw(axes: Any, results: list[dict[str, Any]]) -> None:
    """Seconds and memory over the number of sequences."""
    rows = [row for row in results if row["source"] == "row splits"]
    sequences = [row["sequences"] for row in rows]
    for name, marker, label in (
        ("construction_seconds", "o", "construction from row splits"),
        ("first_batch_seconds", "s", "first batch of an epoch"),
    ):
        shade = "0.1" if marker == "o" else "0.5"
        axes[0].loglog(sequences, [row[name].median for row in rows], marker=marker, color=shade, label=label)
    axes[0].set(xlabel="sequences", ylabel="seconds")
    axes[0].legend(frameon=False)
    for name, marker, shade in (("peak", "^", "0.5"), ("steady", "o", "0.1"), ("value", "x", "0.7")):
        label = {"peak": "peak while constructing", "steady": "steady state", "value": "the flat values"}[name]
        megabytes = [row[f"{name}_bytes"] / 1e6 for row in rows]
        axes[1].loglog(sequences, megabytes, marker=marker, color=shade, label=label)
    axes[1].set(xlabel="sequences", ylabel="megabytes")
    axes[1].legend(frameon=False)


if __name__ == "__main__":
    main()
