"""Rows with two sequences, a source and a target: padding efficiency over both, by the way to form batches.

Both sequences of a row are in one batch, and each is padded to the longest of its kind there. The ways:

- random: rows in random order;
- longest of the two: a BucketedSequence, `num_buckets=n`;
- nested: a BucketedSequence, `num_buckets=(n, m)`; of all the ways to make the number of buckets a product of two, the
  best;
- automatic: a BucketedSequence that is told nothing; how many buckets it takes is in the note;
- sorted: by the longer of the two, as a BucketedSequence with `shuffle=False`.

Batches are padded to their own longest, not to the longest of the bucket; they have 32 rows, the pairs 64. Lengths are
drawn as those of translations, the target a lognormal multiple of the source, more and less alike; as lognormal pairs
(median 20, a standard deviation of .58 in the logarithm) that are correlated so much; or real: the functions of
Python's standard library in tokens, and their documentation in words.

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
from keras_bucketing.data.rows import LeafLengths, RowLengths
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import BatchSizing, Buckets
from keras_bucketing.planning.cuts import cut_batches
from keras_bucketing.planning.epoch_plan import EpochPlanner

NUM_BUCKETS = [4, 8, 16, 32, 64, 144]
RANDOM, OURS, NESTED, AUTOMATIC, SORTED = "random", "longest of the two", "nested", "automatic", "sorted"
STYLES = {  # marker and line
    RANDOM: ("", ":"),
    OURS: ("o", "-"),
    NESTED: ("s", "--"),
    AUTOMATIC: ("", (0, (1, 1))),
    SORTED: ("", "-."),
}


class Pairs(NamedTuple):
    """Int64 arrays `(num_rows,)`, in timesteps, and the rows of a batch."""

    source: np.ndarray
    target: np.ndarray
    batch_size: int = 32

    @property
    def lengths(self) -> RowLengths:
        """The lengths as a dataset has them."""
        return RowLengths((LeafLengths("source", self.source), LeafLengths("target", self.target)))


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
        **{
            f"pairs, correlation {correlation}": correlated_pairs(1_000 if quick else 25_000, correlation)
            for correlation in (0, 0.5, 0.9)
        },
        "functions and their documentation": functions_and_documentation(20 if quick else None),
    }


def drawn_pairs(num_rows: int, spread: float) -> Pairs:
    """Draws sources of lognormal length, mean 26 and median 20, and targets that are lognormal multiples of them."""
    source = lognormal_lengths(num_rows, mean=26, median=20, longest=250)
    factors = np.random.default_rng(1).lognormal(0, spread, num_rows)
    return Pairs(source, np.clip(np.rint(source * factors), 1, 250).astype(np.int64))


def correlated_pairs(num_rows: int, correlation: float) -> Pairs:
    """Draws two lognormal lengths a row whose logarithms are correlated."""
    first, other = np.random.default_rng(0).normal(size=(2, num_rows))
    other = correlation * first + np.sqrt(1 - correlation**2) * other
    lengths = (np.maximum(np.rint(20 * np.exp(0.58 * normal)), 1).astype(np.int64) for normal in (first, other))
    return Pairs(*lengths, batch_size=64)


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
    longest = pairs.lengths.longest
    shuffled = efficiency(pairs, np.random.default_rng(0).permutation(len(longest)))
    in_order = efficiency(pairs, np.argsort(longest, kind="stable"))
    return {
        RANDOM: dict.fromkeys(num_buckets, shuffled),
        OURS: {count: bucketed_efficiency(pairs, buckets_of(pairs, count)) for count in num_buckets},
        NESTED: {count: best_nested_efficiency(pairs, count) for count in num_buckets},
        AUTOMATIC: dict.fromkeys(num_buckets, bucketed_efficiency(pairs, buckets_of(pairs, None))),
        SORTED: dict.fromkeys(num_buckets, in_order),
    }


def buckets_of(pairs: Pairs, num_buckets: object) -> Buckets:
    """The buckets of a BucketedSequence of rows with these two lengths."""
    sizing = BatchSizing(pairs.batch_size, None, None, multiple=1)
    return choose_buckets(pairs.lengths.longest, sizing, num_buckets=num_buckets, leaves=pairs.lengths.leaves)


def bucketed_efficiency(pairs: Pairs, buckets: Buckets) -> float:
    """What the first epoch of a BucketedSequence with these buckets makes of such rows."""
    cuts = cut_batches(buckets, "spill", 1)
    plan = EpochPlanner(pairs.lengths, buckets, cuts, pad_to_bucket_boundary=False, shuffle=True).plan(0, 0)
    return efficiency(pairs, plan.rows, plan.batch_splits[:-1])


def best_nested_efficiency(pairs: Pairs, num_buckets: int) -> float:
    """The best of all ways to have `num_buckets` buckets, some of one sequence and some of the other in each."""
    outer_counts = [count for count in range(1, num_buckets + 1) if num_buckets % count == 0]
    choices = (buckets_of(pairs, (count, num_buckets // count)) for count in outer_counts)
    return max(bucketed_efficiency(pairs, buckets) for buckets in choices)


def efficiency(pairs: Pairs, order: np.ndarray, starts: np.ndarray | None = None) -> float:
    """Real timesteps over all timesteps of both sequences, where batches are cut from the rows in this order."""
    starts = np.arange(0, len(order), pairs.batch_size) if starts is None else starts
    rows = np.diff([*starts, len(order)])
    lengths = (pairs.source, pairs.target)
    padded = sum((np.maximum.reduceat(of_leaf[order], starts) * rows).sum() for of_leaf in lengths)
    return float(sum(of_leaf.sum() for of_leaf in lengths) / padded)


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
                f"{name}: {of['rows']:,} rows, medians of {of['source']:g} and {of['target']:g} timesteps, "
                f"{of['buckets']}."
                for name, of in record["lengths"].items()
            ),
        )
    ]


def figures(record: Record) -> dict[str, str]:
    """What the pages quote in their text: pairs of unrelated lengths."""
    by_way = record["efficiency"]["pairs, correlation 0"]
    return {
        "automatic": f"{next(iter(by_way[AUTOMATIC].values())):.2f}",
        "one_length": f"{max(by_way[OURS].values()):.2f}",
    }


def describe(pairs: Pairs) -> dict[str, float | str]:
    """How many rows there are, how long they are, and how many buckets the automatic choice takes."""
    buckets = buckets_of(pairs, None)
    kind = "nested buckets" if buckets.levels else "buckets"
    medians = {leaf.name: float(np.median(leaf.lengths)) for leaf in pairs.lengths.leaves}
    return {"rows": len(pairs.source), **medians, "buckets": f"{len(buckets.batch_sizes)} {kind}"}


if __name__ == "__main__":
    main()
