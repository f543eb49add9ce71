"""Rows with two sequences, a source and a target: padding efficiency over both, by the way to form batches.

Both sequences of a row are in one batch, and each is padded to the longest of its kind there. The ways:

- random: rows in random order;
- longest of the two: a BucketedSequence, with so many buckets;
- nested: buckets of the source, and in each of them buckets of the target, minimum padding in both; of all the ways to
  make the number of buckets a product of the two, the best;
- sorted: by the longer of the two, as a BucketedSequence with `shuffle=False`.

32 rows a batch, which are padded to their own longest, not to the longest of the bucket. Lengths are drawn as those of
translations, the target a lognormal multiple of the source, more and less alike; or real: the functions of Python's
standard library in tokens, and their documentation in words.

    python -m benchmarks.two_lengths
"""

from __future__ import annotations

import ast
import io
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.lengths import lognormal_lengths
from benchmarks.tables import Record, Table
from keras_bucketing import BucketedSequence, optimal_bucket_boundaries

BATCH_SIZE = 32
NUM_BUCKETS = [4, 8, 16, 32, 64]
RANDOM, OURS, NESTED, SORTED = "random", "longest of the two", "nested", "sorted"
STYLES = {RANDOM: ("", ":"), OURS: ("o", "-"), NESTED: ("s", "--"), SORTED: ("", "-.")}  # marker and line


class Pairs(NamedTuple):
    """Int64 arrays `(num_rows,)`, in timesteps."""

    source: np.ndarray
    target: np.ndarray


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    num_buckets = [4, 8] if arguments.quick else NUM_BUCKETS
    data = make_pairs(arguments.quick)
    results = {name: measure(pairs, num_buckets) for name, pairs in data.items()}
    lengths = {name: describe(pairs) for name, pairs in data.items()}
    harness.publish(arguments.output, "two_lengths", {"lengths": lengths, "efficiency": results}, tables)
    harness.write_picture(
        arguments.output,
        "two_lengths",
        lambda axes: harness.draw_efficiencies(axes, results, STYLES, OURS),
        panels=len(data),
        columns=3,
        height=3,
    )


def make_pairs(quick: bool) -> dict[str, Pairs]:
    """The lengths, by name."""
    size = 500 if quick else 50_000
    return {
        "translations": drawn_pairs(size, spread=0.25),
        "translations, less alike": drawn_pairs(size, spread=0.6),
        "functions and their documentation": functions_and_documentation(20 if quick else None),
    }


def drawn_pairs(num_rows: int, spread: float) -> Pairs:
    """Draws sources of lognormal length, mean 26 and median 20, and targets that are lognormal multiples of them."""
    source = lognormal_lengths(num_rows, mean=26, median=20, longest=250)
    factors = np.random.default_rng(1).lognormal(0, spread, num_rows)
    return Pairs(source, np.clip(np.rint(source * factors), 1, 250).astype(np.int64))


def functions_and_documentation(max_files: int | None = None) -> Pairs:
    """The documented functions of Python's standard library: tokens of the whole function, words of its documentation.

    Args:
        max_files: Int, how many files to read at most. Defaults to None: all.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    files = [path for path in sorted(library.rglob("*.py")) if not left_out & set(path.relative_to(library).parts)]
    found = [pair for path in files[:max_files] for pair in _documented(path.read_bytes())]
    return Pairs(*np.array(found, np.int64).reshape(-1, 2).T)


def _documented(source: bytes) -> Iterator[tuple[int, int]]:
    try:
        tree = ast.parse(source)
        lines = np.array([token.start[0] for token in tokenize.tokenize(io.BytesIO(source).readline)])
    except (SyntaxError, ValueError, tokenize.TokenError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            words = len((ast.get_docstring(node) or "").split())
            if words:
                first, after = np.searchsorted(lines, [node.lineno, node.end_lineno + 1])
                yield after - first, words


def measure(pairs: Pairs, num_buckets: list[int]) -> dict[str, dict[int, float]]:
    """The padding efficiency of each way with each number of buckets; the same for all where there are none."""
    longest = np.maximum(pairs.source, pairs.target)
    shuffled = efficiency(pairs, np.random.default_rng(0).permutation(len(longest)))
    in_order = efficiency(pairs, np.argsort(longest, kind="stable"))
    return {
        RANDOM: dict.fromkeys(num_buckets, shuffled),
        OURS: {count: bucketed_efficiency(pairs, count) for count in num_buckets},
        NESTED: {count: best_nested_efficiency(pairs, count) for count in num_buckets},
        SORTED: dict.fromkeys(num_buckets, in_order),
    }


def bucketed_efficiency(pairs: Pairs, num_buckets: int) -> float:
    """What a BucketedSequence makes of rows with these two lengths."""
    x = {name: [np.zeros(length, np.int8) for length in lengths] for name, lengths in pairs._asdict().items()}
    dataset = BucketedSequence(x, batch_size=BATCH_SIZE, num_buckets=num_buckets, seed=0)
    return dataset.padding_stats().padding_efficiency


def best_nested_efficiency(pairs: Pairs, num_buckets: int) -> float:
    """The best of all ways to have `num_buckets` buckets, some of the source and some of the target in each."""
    source_counts = [count for count in range(1, num_buckets + 1) if num_buckets % count == 0]
    return max(
        efficiency(pairs, shuffled_in(nested_buckets(pairs, count, num_buckets // count))) for count in source_counts
    )


def nested_buckets(pairs: Pairs, num_source: int, num_target: int) -> np.ndarray:
    """Int array `(num_rows,)`: buckets of the source, and in each of them those of the target."""
    outer = np.searchsorted(optimal_bucket_boundaries(pairs.source, num_source), pairs.source, side="right")
    inner = np.zeros_like(outer)
    for bucket in np.unique(outer):
        rows = outer == bucket
        boundaries = optimal_bucket_boundaries(pairs.target[rows], num_target)
        inner[rows] = np.searchsorted(boundaries, pairs.target[rows], side="right")
    # Every other bucket of the source in falling order of the target: a batch across two of them holds neighbors.
    inner = np.where(outer % 2 == 0, inner, num_target - 1 - inner)
    return outer * num_target + inner


def shuffled_in(buckets: np.ndarray) -> np.ndarray:
    """The rows in the order of their buckets, shuffled inside of each."""
    return np.lexsort([np.random.default_rng(0).random(len(buckets)), buckets])


def efficiency(pairs: Pairs, order: np.ndarray) -> float:
    """Real timesteps over all timesteps of both sequences, where batches are cut from the rows in this order."""
    starts = np.arange(0, len(order), BATCH_SIZE)
    rows = np.diff([*starts, len(order)])
    padded = sum((np.maximum.reduceat(lengths[order], starts) * rows).sum() for lengths in pairs)
    return float(sum(lengths.sum() for lengths in pairs) / padded)


def tables(record: Record) -> list[Table]:
    """One table: a line a pair and a way, a column a number of buckets."""
    efficiency = record["efficiency"]
    num_buckets = list(next(iter(efficiency.values()))[OURS])
    return [
        Table(
            "two_lengths",
            "padding efficiency over both sequences, by number of buckets",
            ["lengths", "batches", *num_buckets],
            [
                [name, way, *(f"{figure:.3f}" for figure in figures.values())]
                for name, by_way in efficiency.items()
                for way, figures in by_way.items()
            ],
            note=" ".join(
                f"{name}: {of['rows']:,} rows, medians of {of['source']:g} and {of['target']:g} timesteps."
                for name, of in record["lengths"].items()
            ),
        )
    ]


def describe(pairs: Pairs) -> dict[str, float]:
    """How many rows there are, and how long they are."""
    return {"rows": len(pairs.source), **{name: float(np.median(lengths)) for name, lengths in pairs._asdict().items()}}


if __name__ == "__main__":
    main()
