"""Padding efficiency of five ways to choose bucket boundaries, and how long the minimum-padding ones take to find.

Every sequence is padded to the longest of its bucket, as with `pad_to_bucket_boundary=True`. The ways:

- minimum padding: `optimal_bucket_boundaries`;
- quantile: as many sequences in each bucket;
- equal width: boundaries at equal distances;
- geometric: each boundary the same factor above the one before;
- equal total duration: as many timesteps in each bucket (lhotse's DynamicBucketingSampler).

Two equal boundaries leave one bucket less; nobody gets another one for it. The data comes with sktime and Python, or
is drawn from heavy-tailed distributions.

    python -m benchmarks.padding
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.lengths import functions_of_standard_library, lognormal_lengths, pareto_lengths, sktime_lengths
from benchmarks.tables import Record, Table, spread
from keras_bucketing import optimal_bucket_boundaries

OURS = "minimum padding"
NUM_BUCKETS = [2, 4, 8, 16, 32]


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    quick = arguments.quick
    data = distributions(quick)
    num_buckets = [2, 8] if quick else NUM_BUCKETS
    efficiencies = {name: measure_efficiency(lengths, num_buckets) for name, lengths in data.items()}
    sizes = [100, 1_000] if quick else [100, 1_000, 10_000, 100_000]
    results = {
        "lengths": {name: describe(lengths) for name, lengths in data.items()},
        "efficiency": efficiencies,
        "seconds_to_find": measure_time(sizes, num_buckets=8, rounds=2 if quick else 5),
    }
    harness.publish(arguments.output, "padding", results, tables)
    harness.write_picture(
        arguments.output,
        "padding",
        lambda axes: harness.draw_efficiencies(axes, efficiencies, STYLES, OURS),
        panels=len(data),
        columns=3,
        height=2.6,
    )


def tables(record: Record) -> list[Table]:
    """The efficiencies by number of buckets for each distribution, those with eight buckets, the seconds to find."""
    efficiency, lengths = record["efficiency"], record["lengths"]
    return [
        *(
            Table(
                f"padding_{number}",
                f"{name}: {lengths[name]['sequences']:,} sequences of {_range(lengths[name])} timesteps, "
                f"median {lengths[name]['median']:g}; padding efficiency by number of buckets",
                ["boundaries", *by_method[OURS]],
                [[method, *map(_share, figures.values())] for method, figures in by_method.items()],
            )
            for number, (name, by_method) in enumerate(efficiency.items(), start=1)
        ),
        Table(
            "padding",
            "padding efficiency of 8 buckets",
            ["lengths", *METHODS],
            [
                [f"{name}, {_range(lengths[name])}", *(_share(by_method[method]["8"]) for method in METHODS)]
                for name, by_method in efficiency.items()
            ],
        ),
        Table(
            "padding_seconds",
            "seconds to find 8 minimum-padding boundaries",
            ["distinct lengths", "seconds"],
            [[f"{int(size):,}", spread(seconds)] for size, seconds in record["seconds_to_find"].items()],
            note="Median (quartiles).",
        ),
    ]


def describe(lengths: np.ndarray) -> dict[str, Any]:
    """How many there are, and between what."""
    return {
        "sequences": len(lengths),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
        "median": float(np.median(lengths)),
    }


def _range(lengths: Record) -> str:
    return f"{lengths['shortest']:,} to {lengths['longest']:,}"


def _share(share: float) -> str:
    return f"{share:.3f}"


def distributions(quick: bool) -> dict[str, np.ndarray]:
    """The lengths, by name."""
    synthetic = 500 if quick else 100_000
    data = {
        "Japanese Vowels": sktime_lengths("JapaneseVowels"),
        "PLAID": sktime_lengths("PLAID"),
        "standard library functions": functions_of_standard_library(20 if quick else None),
        "lognormal, as IMDB": lognormal_lengths(synthetic, mean=235, median=174, longest=2_500),
        "lognormal, wide": lognormal_lengths(synthetic, mean=300, median=75, longest=20_000),
        "Pareto": pareto_lengths(synthetic, shape=1.2, shortest=10, longest=20_000),
    }
    return {name: lengths for name, lengths in data.items() if lengths is not None}


def quantile(lengths: np.ndarray, num_buckets: int) -> np.ndarray:
    """As many sequences in each bucket."""
    return np.quantile(lengths, np.arange(1, num_buckets) / num_buckets)


def equal_width(lengths: np.ndarray, num_buckets: int) -> np.ndarray:
    """Boundaries at equal distances."""
    return np.linspace(lengths.min(), lengths.max(), num_buckets + 1)[1:-1]


def geometric(lengths: np.ndarray, num_buckets: int) -> np.ndarray:
    """Each boundary the same factor above the one before."""
    return np.geomspace(lengths.min(), lengths.max(), num_buckets + 1)[1:-1]


def equal_total_duration(lengths: np.ndarray, num_buckets: int) -> np.ndarray:
    """As many timesteps in each bucket."""
    ordered = np.sort(lengths)
    timesteps = np.cumsum(ordered)
    return ordered[np.searchsorted(timesteps, timesteps[-1] * np.arange(1, num_buckets) / num_buckets)]


STYLES = {  # marker and line
    OURS: ("o", "-"),
    "quantile": ("v", ":"),
    "equal width": ("s", "--"),
    "geometric": ("D", "-."),
    "equal total duration": ("^", "-"),
}
METHODS: dict[str, Callable[[np.ndarray, int], Any]] = {
    OURS: optimal_bucket_boundaries,
    "quantile": quantile,
    "equal width": equal_width,
    "geometric": geometric,
    "equal total duration": equal_total_duration,
}


def padding_efficiency(lengths: np.ndarray, boundaries: Any) -> float:
    """Real timesteps over all timesteps, every sequence padded to the longest of its bucket."""
    buckets = np.searchsorted(np.unique(np.ceil(boundaries)), lengths, side="right")
    longest = np.zeros(buckets.max() + 1, np.int64)
    np.maximum.at(longest, buckets, lengths)
    return float(lengths.sum() / longest[buckets].sum())


def measure_efficiency(lengths: np.ndarray, num_buckets: list[int]) -> dict[str, dict[int, float]]:
    """The padding efficiency of each way with each number of buckets."""
    return {
        name: {count: padding_efficiency(lengths, find(lengths, count)) for count in num_buckets}
        for name, find in METHODS.items()
    }


def measure_time(sizes: list[int], num_buckets: int, rounds: int) -> dict[int, harness.Spread]:
    """Seconds to find boundaries among so many distinct lengths, each occurring up to nine times."""
    random = np.random.default_rng(0)

    def timer(size: int) -> Callable[[], float]:
        lengths = np.repeat(np.arange(1, size + 1), random.integers(1, 10, size))

        def seconds() -> float:
            begin = time.perf_counter()
            optimal_bucket_boundaries(lengths, num_buckets)
            return time.perf_counter() - begin

        return seconds

    figures = harness.interleave({str(size): timer(size) for size in sizes}, rounds)
    return {size: harness.spread_of(figures[str(size)]) for size in sizes}


if __name__ == "__main__":
    main()
