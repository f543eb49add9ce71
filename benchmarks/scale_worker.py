"""One measurement of scale.py, in a process of its own, so that its memory is its own.

python -m benchmarks.scale_worker '{"sequences": 10000, "source": "row splits", ...}'
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lengths import lognormal_lengths
from keras_bucketing import BucketedSequence


def run(job: str) -> dict[str, Any]:
    """Measures what the command line asks for."""
    return measure(**json.loads(job))


def measure(
    sequences: int, source: str, lengths: str, batch_size: int, epochs: int, whole_pass: bool
) -> dict[str, Any]:
    """Constructs, begins some epochs, and possibly reads one to its end.

    Args:
        sequences: Int, how many.
        source: "row splits" or "list of arrays".
        lengths: "lognormal" (mean 75, median 55, at most 1000) or "uniform" (1 to 20).
        batch_size: Int, rows.
        epochs: Int, how many epochs to begin.
        whole_pass: Whether to read one more epoch to its end.
    """
    warm_up()
    before = resident_bytes()
    drawn = (
        lognormal_lengths(sequences, mean=75, median=55, longest=1000)
        if lengths == "lognormal"
        else np.random.default_rng(0).integers(1, 21, sequences)
    )
    splits = np.concatenate([[0], np.cumsum(drawn)])
    values = np.random.default_rng(0).integers(1, 20_000, splits[-1], dtype=np.int32)
    labels = np.zeros(sequences, np.int32)
    del drawn
    arrays = np.split(values, splits[1:-1]) if source == "list of arrays" else None

    gc.collect()
    reset_peak()
    begin = time.perf_counter()
    if arrays is not None:
        dataset = BucketedSequence(arrays, labels, batch_size=batch_size, seed=0)
    else:
        dataset = BucketedSequence.from_row_splits(values, splits, labels, batch_size=batch_size, seed=0)
    seconds = time.perf_counter() - begin
    peak = peak_bytes() - before

    num_bytes = values.nbytes
    del values, splits, labels, arrays
    latencies = [first_batch_seconds(dataset) for _ in range(epochs)]
    gc.collect()
    steady = resident_bytes() - before
    give_back_free_memory()
    held = resident_bytes() - before
    return {
        "sequences": sequences,
        "source": source,
        "lengths": lengths,
        "batch_size": batch_size,
        "value_bytes": num_bytes,
        "construction_seconds": seconds,
        "peak_bytes": peak,
        "steady_bytes": steady,
        "held_bytes": held,
        "first_batch_seconds": latencies,
        "sequences_per_second": whole_pass_rate(dataset) if whole_pass else None,
    }


def warm_up() -> None:
    """Loads and starts what a first dataset loads and starts: none of it grows with the data."""
    small = BucketedSequence([[1, 2, 3], [4]] * 64, np.zeros(128, np.int32), seed=0)
    for _ in small:
        pass


def first_batch_seconds(dataset: BucketedSequence) -> float:
    """From asking for an epoch to its first batch."""
    begin = time.perf_counter()
    next(iter(dataset))
    return time.perf_counter() - begin


def whole_pass_rate(dataset: BucketedSequence) -> float:
    """Sequences per second over a whole epoch."""
    begin = time.perf_counter()
    for _ in dataset:
        pass
    return dataset.num_sequences / (time.perf_counter() - begin)


def resident_bytes() -> int:
    """The memory of this process now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory that this process had since `reset_peak`."""
    return _status("VmHWM")


def give_back_free_memory() -> None:
    """Lets the C library return to the system what it keeps of freed memory (malloc_trim(3))."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> None:
    """Starts to watch for the peak (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
