"""What `tune_batch_sizes` predicts of an epoch against what the epoch takes, on TensorFlow, JAX and PyTorch.

Embedding(32) in front of an LSTM(64), of the same in both directions, of a Conv1D(64), or of a Transformer encoder of
two blocks with four heads, on 400 sequences whose lengths are lognormal with mean 40, cut at 200. Each backend has a
process of its own, in which each model is tuned once, for batches of 16 rows; then the dataset as it was and the
proposal train it in turns, with one seed of the order after the other: three epochs each, of which the last two count.
On JAX both are padded to the boundaries of their buckets, at first four. XLA is not measured on TensorFlow.

    python -m benchmarks.tuned_backends
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks import harness
from benchmarks.harness import spread_of
from benchmarks.tables import Record, Table, significant, spread
from benchmarks.tuned_backends_worker import NOW, TUNED

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
KINDS = ["LSTM", "bidirectional LSTM", "convolution", "Transformer"]


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    backends = list(BACKENDS)[:1] if arguments.quick else list(BACKENDS)
    results = {backend: measure(backend, arguments.quick) for backend in backends}
    harness.publish(arguments.output, "tuned_backends", {"results": results}, tables)
    harness.write_picture(
        arguments.output, "tuned_backends", lambda axes: draw(axes, results), panels=len(results), height=5
    )


def measure(backend: str, quick: bool) -> dict[str, Any]:
    """The figures of each model on a backend, from a process of its own."""
    os.environ["KERAS_BACKEND"] = backend
    sizes = ["60", "40", "1"] if quick else ["400", "200", "5"]
    kinds = KINDS[2:3] if quick else KINDS
    figures = harness.run_worker("tuned_backends_worker", *sizes, *kinds, in_this_process=quick)
    print(f"{BACKENDS[backend]}: {len(figures)} models", flush=True)
    return dict(figures)


def tables(record: Record) -> list[Table]:
    """One line a backend and a model."""
    rows = []
    for backend, of_backend in record["results"].items():
        for kind, figures in of_backend.items():
            now, tuned = (spread_of(figures["seconds"][name]) for name in (NOW, TUNED))
            predicted = figures["predicted"]
            rows.append(
                [
                    f"{BACKENDS[backend]}, {kind}",
                    spread(now),
                    significant(predicted[NOW]),
                    _miss(predicted[NOW], now.median),
                    "as it was" if figures["stays"] else spread(tuned),
                    "" if figures["stays"] else significant(predicted[TUNED]),
                    "" if figures["stays"] else _miss(predicted[TUNED], tuned.median),
                    "" if figures["stays"] else f"{now.median / tuned.median:.2f} x",
                ]
            )
    return [
        Table(
            "tuned_backends",
            "seconds an epoch",
            [
                "backend and model",
                "as it was",
                "predicted",
                "misses by",
                "proposed",
                "predicted",
                "misses by",
                "faster",
            ],
            rows,
        )
    ]


def _miss(predicted: float, measured: float) -> str:
    return f"{predicted / measured - 1:+.0%}"


def draw(axes: Any, results: dict[str, Any]) -> None:
    """Bars of the seconds of an epoch, one panel a backend."""
    for axis, (backend, of_backend) in zip(axes, results.items(), strict=True):
        bars = {
            f"{kind}, {name}": spread_of(seconds)
            for kind, figures in of_backend.items()
            for name, seconds in figures["seconds"].items()
        }
        harness.draw_bars(axis, bars, "seconds per epoch", "", "{:,.3g}")
        axis.set_title(BACKENDS[backend], loc="left")


if __name__ == "__main__":
    main()
