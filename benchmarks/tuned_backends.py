"""What `tune_batch_sizes` predicts of an epoch against what the epoch takes, on TensorFlow, JAX and PyTorch.

Embedding(32) in front of an LSTM(64), of the same in both directions, of a Conv1D(64), or of a Transformer encoder of
two blocks with four heads, on 400 sequences whose lengths are lognormal with mean 40, cut at 200, for batches of 16
rows. Each backend has a process of its own. A round has a seed of the order, and a model trains in it on the dataset as
it was, is tuned, and trains on the proposal and on the dataset as it was: each of them an epoch that does not count,
and as many more as take a second, two to six. What is predicted is compared with what is measured in the same round,
and between two rounds of a model lie those of all others, so that no one moment decides. On JAX the batches are padded
to the boundaries of their buckets, at first four. XLA is not measured on TensorFlow.

    python -m benchmarks.tuned_backends
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks import harness
from benchmarks.harness import spread_of
from benchmarks.tables import Record, Table, spread
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
        for kind, rounds in of_backend.items():
            others = [each for each in rounds if not each["stays"]]
            rows.append(
                [
                    f"{BACKENDS[backend]}, {kind}",
                    spread(spread_of([each["seconds"][NOW] for each in rounds])),
                    _shares(rounds, "predicted", NOW, "seconds", NOW),
                    f"{len(others)} of {len(rounds)}",
                    _shares(others, "predicted", TUNED, "seconds", TUNED),
                    _shares(others, "seconds", NOW, "seconds", TUNED),
                ]
            )
    heads = ["backend and model", "seconds an epoch", "predicted / measured"]
    more_heads = ["other sizes proposed", "predicted / measured", "times faster"]
    return [Table("tuned_backends", "an epoch as it was, and as proposed", [*heads, *more_heads], rows)]


def _shares(rounds: list[dict[str, Any]], above: str, of: str, below: str, by: str) -> str:
    """The median of a share over the rounds, with its quartiles; nothing without rounds."""
    if not rounds:
        return ""
    dividends, divisors = [each[above][of] for each in rounds], [each[below][by] for each in rounds]
    median, lower, upper = harness.ratios_within_rounds(dividends, divisors)
    return f"{median:.2f} ({lower:.2f} - {upper:.2f})"


def draw(axes: Any, results: dict[str, Any]) -> None:
    """Bars of the seconds of an epoch, one panel a backend."""
    for axis, (backend, of_backend) in zip(axes, results.items(), strict=True):
        bars = {
            f"{kind}, {name}": spread_of([each["seconds"][name] for each in rounds])
            for kind, rounds in of_backend.items()
            for name in (NOW, TUNED)
        }
        harness.draw_bars(axis, bars, "seconds per epoch", "", "{:,.3g}")
        axis.set_title(BACKENDS[backend], loc="left")


if __name__ == "__main__":
    main()
