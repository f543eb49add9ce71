"""Streams: BucketedStream beside `bucket_by_sequence_length` on one and the same source, read once by each of them.

The source is a `tf.data.Dataset` of rows, which stays in graph, or a generator function, which tf.data reads with
`from_generator`. Neither is shuffled before: the stream mixes the rows of its buffer, `bucket_by_sequence_length` none.
Then the memory of a process that reads a source without end.

    python -m benchmarks.streams
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.lengths import lognormal_lengths
from benchmarks.scale_worker import resident_bytes
from benchmarks.sequences import Sequences, token_sequences
from benchmarks.tables import Record, Table, spread
from keras_bucketing import BucketedStream

BATCH_SIZE, BUFFER_SIZE = 32, 4096
BOUNDARIES = [100, 200, 300, 400]  # as one would choose them for reviews
STREAM, RIVAL = "`BucketedStream`", "`bucket_by_sequence_length`"


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    measured = measure_streams(*((200, 1) if arguments.quick else (25_000, 5)))
    measured["memory"] = measure_memory(640 if arguments.quick else 1_000_000, in_this_process=arguments.quick)
    harness.publish(arguments.output, "streams", measured, tables)
    harness.write_picture(arguments.output, "streams", lambda axes: draw(axes, measured["memory"]))


def tables(record: Record) -> list[Table]:
    """What reading costs, and the memory."""
    return [streams_table(record), memory_table(record)]


def measure_streams(num_sequences: int, rounds: int) -> dict[str, Any]:
    """Processor seconds of a pass, and how many padded timesteps are real, by source and by who reads it."""
    lengths = lognormal_lengths(num_sequences, mean=235, median=174, longest=2500)  # as those of IMDB's reviews
    sequences = token_sequences(lengths)
    results: dict[str, Any] = {}
    for name, (source, rows) in sources(sequences).items():
        # A buffer of few rows, where the benchmark only shows that it runs.
        stream = BucketedStream(source, batch_size=BATCH_SIZE, buffer_size=min(BUFFER_SIZE, num_sequences), seed=0)
        datasets = {STREAM: stream, RIVAL: bucket_rows(rows)}
        seconds = harness.interleave({each: _processor_time(of) for each, of in datasets.items()}, rounds)
        results[name] = {
            each: {
                "seconds": harness.spread_of(seconds[each]),
                "times_rival": harness.ratios_within_rounds(seconds[each], seconds[RIVAL]),
                "padding_efficiency": padding_efficiency(of, int(lengths.sum())),
            }
            for each, of in datasets.items()
        }
    return {"num_sequences": num_sequences, "batch_size": BATCH_SIZE, "buffer_size": BUFFER_SIZE, "sources": results}


def measure_memory(num_rows: int, in_this_process: bool = False) -> dict[str, dict[str, float]]:
    """Megabytes that a process has in memory after so many rows of a source without end, by source."""
    return {
        source: harness.run_worker("streams", source, str(num_rows), in_this_process=in_this_process)
        for source in ENDLESS
    }


def run(source: str, num_rows: str) -> dict[str, float]:
    """Reads that many rows in one pass, as `fit(steps_per_epoch=...)` does; in a process of its own."""
    points = {int(num_rows) * part // 100 // BATCH_SIZE * BATCH_SIZE for part in (5, 10, 25, 50, 75, 100)}
    stream = BucketedStream(ENDLESS[source](), batch_size=BATCH_SIZE, buffer_size=min(BUFFER_SIZE, int(num_rows)))
    megabytes = {}
    for number, _ in enumerate(stream.take(max(points) // BATCH_SIZE), 1):
        if number * BATCH_SIZE in points:
            megabytes[str(number * BATCH_SIZE)] = resident_bytes() / 2**20
    return megabytes


def endless_rows() -> Callable[[], Iterator[tuple[np.ndarray, int]]]:
    """Rows of random lengths without end, from Python."""

    def generate() -> Iterator[tuple[np.ndarray, int]]:
        random = np.random.default_rng(0)
        for row in itertools.count():
            yield np.ones(random.integers(5, 200), np.int32), row % 2

    return generate


def endless_dataset() -> tf.data.Dataset:
    """Rows of random lengths without end, in graph."""

    def row(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.ones([5 + number % 195], tf.int32), number % 2

    return tf.data.Dataset.random(seed=0).map(row)


ENDLESS: dict[str, Callable[[], Any]] = {"generator function": endless_rows, "tf.data rows": endless_dataset}


def sources(sequences: Sequences) -> dict[str, tuple[Any, tf.data.Dataset]]:
    """What the stream takes, and the same rows as a `tf.data.Dataset`."""
    ragged_rows = tf.data.Dataset.from_tensor_slices((sequences.ragged, sequences.labels))
    # A slice of a RaggedTensor is a ragged element of rank 0; the map function's result is a plain tensor.
    rows = ragged_rows.map(lambda x, y: (x, y), num_parallel_calls=tf.data.AUTOTUNE)
    arrays = sequences.arrays

    def generate() -> Iterator[tuple[np.ndarray, Any]]:
        yield from zip(arrays, sequences.labels, strict=True)

    signature = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32))
    generated = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return {"tf.data rows": (rows, rows), "generator function": (generate, generated)}


def bucket_rows(rows: tf.data.Dataset) -> tf.data.Dataset:
    """tf.data's own bucketing."""
    bucketed = rows.bucket_by_sequence_length(
        lambda x, y: tf.shape(x)[0],
        bucket_boundaries=BOUNDARIES,
        bucket_batch_sizes=[BATCH_SIZE] * (len(BOUNDARIES) + 1),
    )
    return bucketed.prefetch(tf.data.AUTOTUNE)


def padding_efficiency(dataset: tf.data.Dataset, num_real: int) -> float:
    """Real over padded timesteps of a pass."""
    return num_real / sum(int(np.prod(x.shape)) for x, _ in dataset)


def _processor_time(dataset: tf.data.Dataset) -> Callable[[], float]:
    def seconds() -> float:
        begin = time.process_time()
        for _ in dataset:
            pass
        return time.process_time() - begin

    return seconds


def streams_table(record: Record) -> Table:
    """One line for each source and reader."""
    rows = [
        [source, name, spread(row["seconds"]), spread(row["times_rival"]), f"{row['padding_efficiency']:.3f}"]
        for source, readers in record["sources"].items()
        for name, row in readers.items()
    ]
    return Table(
        "streams",
        f"{record['num_sequences']:,} rows as long as IMDB's reviews, {record['batch_size']} rows a batch, a buffer of "
        f"{record['buffer_size']:,}",
        ["source", "pipeline", "processor time, s", f"x {RIVAL}", "padding efficiency"],
        rows,
    )


def memory_table(record: Record) -> Table:
    """One line for each source, one column for each number of rows."""
    points = list(next(iter(record["memory"].values())))
    return Table(
        "streams_memory",
        f"a source without end, {record['batch_size']} rows a batch, a buffer of {record['buffer_size']:,}: resident "
        "memory in MB after so many rows",
        ["source", *(f"{int(point):,}" for point in points)],
        [[source, *(f"{megabytes[point]:.0f}" for point in points)] for source, megabytes in record["memory"].items()],
    )


def draw(axes: list[Any], memory: dict[str, dict[str, float]]) -> None:
    """The memory by the number of rows that were read, a line for each source."""
    for source, megabytes in memory.items():
        axes[0].plot([int(point) for point in megabytes], list(megabytes.values()), marker="o", label=source)
    axes[0].set(xlabel="rows read of a source without end", ylabel="resident memory, MB", ylim=(0, None))
    axes[0].legend()


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ENDLESS:
        print(json.dumps(run(*sys.argv[1:])))
    else:
        main()
