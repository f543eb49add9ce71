"""The training of training.py in a process of its own, where Keras' backend or the environment must be another one.

Keras chooses its backend when it is imported. `TrainingProcess` starts the process, which trains one epoch for each
line that it reads, so that it can take turns with others.

    KERAS_BACKEND=jax python -m benchmarks.training_process '{"num_sequences": 120, "longest": 120, "num_buckets": 8}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


class TrainingProcess:
    """A trainee in another process: compiled, and padded to the bucket's boundary.

    Args:
        settings: "num_sequences", "longest" and "num_buckets", as ints.
        environment: Environment variables of the process, next to those of this one, e.g. `KERAS_BACKEND`.

    Attributes:
        start_seconds: Float: from the start of the process until it could train, two batches included.
    """

    def __init__(self, settings: Mapping[str, int], environment: Mapping[str, str]):
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training_process", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, **environment},
        )
        self._answer()
        self.start_seconds = time.perf_counter() - begin
        self._accuracy = 0.0

    def train_epoch(self) -> tuple[float, int]:
        """Trains for one epoch; returns the seconds and the number of updates."""
        _pipe(self._process.stdin).write("epoch\n")
        _pipe(self._process.stdin).flush()
        record = self._answer()
        self._accuracy = record["accuracy"]
        return record["seconds"], record["updates"]

    def accuracy(self) -> float:
        """The accuracy on the validation sequences after the epoch."""
        return self._accuracy

    def close(self) -> None:
        """Ends the process."""
        _pipe(self._process.stdin).close()
        self._process.wait()
        _pipe(self._process.stdout).close()

    def _answer(self) -> dict[str, Any]:
        for line in _pipe(self._process.stdout):
            if line.startswith("{"):  # not what libraries print
                record: dict[str, Any] = json.loads(line)
                return record
        raise RuntimeError(f"The training process ended early, with exit code {self._process.wait()}.")


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("The process was started without a pipe.")
    return stream


def main() -> None:
    """Trains one epoch for each line of standard input, and prints a line of JSON after it."""
    from benchmarks import trainees  # and Keras, in this process only

    settings = json.loads(sys.argv[1])
    train, validation = trainees.train_and_validation(settings["num_sequences"], settings["longest"])
    trainee = trainees.KerasTrainee(
        trainees.bucketed(
            train, batch_size=trainees.BATCH_SIZE, pad_to_bucket_boundary=True, num_buckets=settings["num_buckets"]
        ),
        trainees.make_model(jit_compile=True),
        trainees.bucketed(validation, batch_size=128, shuffle=False),
        jit_compile=True,
    )
    print("{}", flush=True)
    for _ in sys.stdin:
        seconds, updates = trainee.train_epoch()
        print(json.dumps({"seconds": seconds, "updates": updates, "accuracy": trainee.accuracy()}), flush=True)


if __name__ == "__main__":
    main()
