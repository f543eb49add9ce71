"""One contender of larger_than_memory.py in a process of its own, so that its memory and its mapped pages are its own.

With a number of batches, reads that many from a cold cache; without one, looks at construction and memory.

    python -m benchmarks.larger_than_memory_worker 'BucketedSequence, mapped' FOLDER [COLD_BATCHES]
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mapped_contenders import LIBRARIES, openers
from keras_bucketing import BucketedSequence


def run(name: str, folder: str, cold_batches: str | None = None) -> dict[str, float] | float:
    """Measures what the command line asks for."""
    return measure(name, Path(folder)) if cold_batches is None else cold_rate(name, Path(folder), int(cold_batches))


def measure(name: str, folder: Path) -> dict[str, float]:
    """Opens the data, reads some batches, and looks at the memory that is neither the libraries' nor the file's."""
    opener = started_opener(name)
    before = own_bytes()
    with PeakWatch() as watch:
        begin = time.perf_counter()
        source = opener(folder)
        constructed = time.perf_counter()
    batches = iter(source)
    next(batches)
    first = time.perf_counter()
    for _ in islice(batches, 50):
        pass
    return {
        "construction_seconds": constructed - begin,
        "first_batch_seconds": first - constructed,
        "megabytes": (own_bytes() - before) / 1e6,
        "peak_megabytes": (watch.peak - before) / 1e6,
    }


def cold_rate(name: str, folder: Path, num_batches: int) -> float:
    """Sequences a second from the second batch on, of files that nobody had read or mapped before."""
    opener = started_opener(name)
    empty_cache(folder)
    batches = iter(opener(folder))
    next(batches)
    return rate_of(batches, num_batches)


def started_opener(name: str) -> Callable[[Path], Iterable[Any]]:
    """How to open, when TensorFlow and the contender's library have been loaded and have started."""
    opener = openers()[name]
    for _ in BucketedSequence([[1, 2, 3], [4]] * 64, np.zeros(128, np.int32), seed=0):
        pass
    if name in LIBRARIES:
        importlib.import_module(LIBRARIES[name])
    return opener


def rate_of(batches: Iterator[Any], num_batches: int) -> float:
    """Sequences a second over the next batches."""
    begin = time.perf_counter()
    rows = [len(labels) for _, labels in islice(batches, num_batches)]
    seconds = time.perf_counter() - begin
    if len(rows) < num_batches:
        raise ValueError(f"{num_batches} batches were to be read, and only {len(rows)} were left.")
    return sum(rows) / seconds


def empty_cache(folder: Path) -> None:
    """Takes the files of a folder out of the page cache, but for the pages that a process has mapped and read."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)  # what is not written yet stays
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


class PeakWatch:
    """Looks every few milliseconds how much memory the process has."""

    def __enter__(self) -> PeakWatch:
        self.peak, self._done = own_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, own_bytes())

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, own_bytes())


def own_bytes() -> int:
    """The memory of this process that belongs to no file (proc(5), RssAnon)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
