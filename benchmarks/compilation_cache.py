"""Starting the same training once more: what a cache of compiled programs on disk saves, with XLA and with JAX.

The training is that of training.py, padded to the boundary of eight buckets: each of at most nine shapes is compiled in
the first epoch. Each start is a process of its own: without a cache, with an empty one, and with the one that the start
before has filled. A JAX cache keeps programs that took at least a second to compile; here it keeps all. Measured are
the seconds from the start of the process to the end of the first epoch, and those of the second epoch, which compiles
nothing.

    python -m benchmarks.compilation_cache
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Spread
from benchmarks.tables import Record, Table, significant
from benchmarks.training_process import TrainingProcess

BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow, XLA"}
WITHOUT, EMPTY, FILLED = "no cache", "empty cache", "filled cache"
FULL = {"num_sequences": 1_600, "longest": 2_500, "num_buckets": 8}
QUICK = {"num_sequences": 64, "longest": 20, "num_buckets": 1}


def main() -> None:
    """Trains, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    settings, starts = (QUICK, [EMPTY]) if arguments.quick else (FULL, [WITHOUT, EMPTY, FILLED])
    backends = list(BACKENDS)
    if importlib.util.find_spec("jax") is None:
        print("without JAX: it is not installed")
        backends.remove("jax")
    results = {backend: measure(backend, settings, starts) for backend in backends[: 1 if arguments.quick else None]}
    harness.publish(arguments.output, "compilation_cache", {**settings, "results": results}, tables)
    harness.write_picture(
        arguments.output, "compilation_cache", lambda axes: draw(axes, results), panels=len(results), height=2
    )


def environment_of(backend: str, cache: str | None) -> dict[str, str]:
    """The environment variables that choose the backend and turn its cache on."""
    if cache is None:
        return {"KERAS_BACKEND": backend}
    if backend == "jax":
        return {
            "KERAS_BACKEND": backend,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return {"KERAS_BACKEND": backend, "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={cache}"}


def measure(backend: str, settings: dict[str, int], starts: list[str]) -> dict[str, dict[str, float]]:
    """Seconds of each start, and the bytes that the cache holds after it."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for start in starts:
            process = TrainingProcess(settings, environment_of(backend, None if start == WITHOUT else folder))
            first, _ = process.train_epoch()
            second, _ = process.train_epoch()
            process.close()
            results[start] = {
                "to_first_epoch": process.start_seconds + first,
                "second_epoch": second,
                "cache_bytes": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()),
            }
            print(f"{BACKENDS[backend]}, {start}: {results[start]['to_first_epoch']:.1f} s", flush=True)
    return results


def tables(record: Record) -> list[Table]:
    """One line a backend and a start."""
    return [
        Table(
            "compilation_cache",
            "seconds of a start",
            ["backend", "cache", "to the end of the first epoch, s", "second epoch, s", "cache, MB"],
            [
                [
                    BACKENDS[backend],
                    start,
                    significant(row["to_first_epoch"]),
                    significant(row["second_epoch"]),
                    f"{row['cache_bytes'] / 1e6:.1f}",
                ]
                for backend, rows in record["results"].items()
                for start, row in rows.items()
            ],
        )
    ]


def draw(axes: Any, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Bars of the seconds to the end of the first epoch, one panel a backend."""
    for axis, (backend, rows) in zip(axes, results.items(), strict=True):
        bars = {start: Spread(*[row["to_first_epoch"]] * 3) for start, row in rows.items()}
        harness.draw_bars(axis, bars, "seconds to the end of the first epoch", FILLED, "{:,.3g}")
        axis.set_title(BACKENDS[backend], loc="left")


if __name__ == "__main__":
    main()
