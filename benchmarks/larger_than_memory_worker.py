"""One contender of larger_than_memory.py in a process of its own, so that its memory is its own.

python -m benchmarks.larger_than_memory_worker 'BucketedSequence, mapped' FOLDER
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.mapped_contenders import LIBRARIES, openers
from keras_bucketing import BucketedSequence


def main() -> None:
    """Measures what the command line asks for, and prints it as JSON."""
    name, folder = sys.argv[1:]
    print(json.dumps(measure(name, Path(folder))))


def measure(name: str, folder: Path) -> dict[str, float]:
    """Opens the data, reads some batches, and looks at the memory that is neither the libraries' nor the file's."""
    opener = openers()[name]
    for _ in BucketedSequence([[1, 2, 3], [4]] * 64, np.zeros(128, np.int32), seed=0):  # loads and starts TensorFlow
        pass
    if name in LIBRARIES:
        importlib.import_module(LIBRARIES[name])
    before = own_bytes()
    with PeakWatch() as watch:
        begin = time.perf_counter()
        source = opener(folder)
        constructed = time.perf_counter()
    batches = iter(source)
    next(batches)
    first = time.perf_counter()
    for _, _ in zip(range(50), batches, strict=False):
        pass
    return {
        "construction_seconds": constructed - begin,
        "first_batch_seconds": first - constructed,
        "megabytes": (own_bytes() - before) / 1e6,
        "peak_megabytes": (watch.peak - before) / 1e6,
    }


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
    main()
