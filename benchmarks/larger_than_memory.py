"""Sequences in a file: construction, memory, and reading with a warm and a cold cache, beside other libraries.

Sequences are vectors of 16 float32 of lognormal length (mean 75, median 55, at most 1000 timesteps), in one file whose
size is printed. Warm: all of it is in the page cache, and everybody is read by the same Python loop in one process, in
turns, with 32 rows a batch. Construction, the first batch, memory and the cold cache are measured in processes of their
own (larger_than_memory_worker.py). Cold: the cache is emptied (posix_fadvise, which only Linux has) before a process
opens the files, as pages that somebody has mapped would stay, and the first tenth of an epoch is read; the disk's own
cache stays as it is. Memory is what is the process' own: pages of the file, which the system takes back when it needs
them, do not count. mapped_contenders.py shows how each is set up.

    python -m benchmarks.larger_than_memory
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import harness, larger_than_memory_worker
from benchmarks.harness import Spread
from benchmarks.lengths import lognormal_lengths
from benchmarks.mapped_contenders import BATCH_SIZE, IN_MEMORY, SHARED, openers, write_files
from benchmarks.sequences import vector_sequences
from benchmarks.tables import Record, Table, median, significant


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    num_sequences, warm, cold, rounds = (400, 4, 2, 1) if arguments.quick else (100_000, 800, 300, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = lognormal_lengths(num_sequences, mean=75, median=55, longest=1000)
        write_files(folder, vector_sequences(lengths, features=16))
        results = measure(folder, warm, cold, rounds, measure_in_this_process=arguments.quick)
        megabytes = (folder / "values.npy").stat().st_size / 1e6
    record = {"sequences": num_sequences, "megabytes": megabytes, "results": results}
    harness.publish(arguments.output, "larger_than_memory", record, tables)
    harness.write_picture(arguments.output, "larger_than_memory", lambda axes: draw(axes, results), panels=2)


def tables(record: Record) -> list[Table]:
    """One line a way to read."""
    results = record["results"]
    return [
        Table(
            "larger_than_memory",
            f"{record['sequences']:,} sequences, {record['megabytes']:,.0f} MB, {BATCH_SIZE} rows a batch",
            [
                *("read by", "construction, s", "first batch, s", "memory, MB", "peak, MB"),
                *("sequences/s, warm", "x in memory", "sequences/s, cold"),
            ],
            [
                [
                    name,
                    significant(row["construction_seconds"]),
                    significant(row["first_batch_seconds"]),
                    *(f"{row[figure]:,.0f}" for figure in ("megabytes", "peak_megabytes")),
                    median(row["warm"]),
                    f"{row['warm'][0] / results[IN_MEMORY]['warm'][0]:.2f}",
                    "-" if row["cold"] is None else median(row["cold"]),
                ]
                for name, row in results.items()
            ],
            note="Medians. Memory without that of Python and the libraries.",
        )
    ]


def measure(
    folder: Path, warm: int, cold: int, rounds: int, measure_in_this_process: bool
) -> dict[str, dict[str, Any]]:
    """All figures of everybody: `warm` and `cold` are how many batches to read."""
    names = openers()
    on_disk = [name for name in names if name not in (IN_MEMORY, SHARED) and hasattr(os, "posix_fadvise")]

    # Before this process opens, and maps, the files.
    work = functools.partial(harness.run_worker, "larger_than_memory_worker", in_this_process=measure_in_this_process)
    workers = {name: work(name, str(folder)) for name in names}
    cold_runs = {name: functools.partial(work, name, str(folder), str(cold)) for name in on_disk}
    cold_rates = harness.interleave(cold_runs, rounds, warm_up=False)
    sources = {name: opener(folder) for name, opener in names.items()}
    rates = harness.interleave({name: _rate(source, warm) for name, source in sources.items()}, rounds)
    return {
        name: {
            **workers[name],
            "warm": harness.spread_of(rates[name]),
            "of_in_memory": harness.ratios_within_rounds(rates[name], rates[IN_MEMORY]),
            "cold": harness.spread_of(cold_rates[name]) if name in on_disk else None,
        }
        for name in names
    }


def draw(axes: Any, results: dict[str, dict[str, Any]]) -> None:
    """Bars of the rates, warm and cold."""
    for axis, kind in zip(axes, ("warm", "cold"), strict=True):
        rates = {name: row[kind] for name, row in results.items() if row[kind] is not None}
        thousands = {name: Spread(*(figure / 1000 for figure in rate)) for name, rate in rates.items()}
        if thousands:
            harness.draw_bars(axis, thousands, "thousand sequences per second", "BucketedSequence", "{:,.1f}")
        axis.set_title(f"{kind} cache", loc="left")


def _rate(source: Iterable[Any], num_batches: int) -> Callable[[], float]:
    """Sequences a second from the second batch on: the first one waits for threads and processes to start."""

    def rate() -> float:
        batches = iter(source)
        next(batches)
        return larger_than_memory_worker.rate_of(batches, num_batches)

    return rate


if __name__ == "__main__":
    main()
