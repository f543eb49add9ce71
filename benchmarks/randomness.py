"""How random bucketed batches are, on real lengths, next to what chance alone would give.

Grouping by length makes batches less random than a plain shuffle. Three figures say by how much:

- neighbors: the correlation of padded length between a batch and the next one. 0 if the order of batches is random.
- repeated pairs: how many pairs of sequences share a batch in both of two epochs. Fewer buckets, or larger ones, mean
  fewer.
- label imbalance: how far the labels of a batch are from those of all the data, as a multiple of what random batches
  have. 1 if lengths say nothing about labels.

"in fair buckets" is what a perfect shuffle inside the same buckets gives on average; "in random batches" what one of
all sequences does. Batches have 32 rows.

A stream mixes the rows of its buffer only: the same figures by the size of the buffer, for a source that yields the
sequences module by module, in the same order in every epoch, and for one that shuffles all of them before.

    python -m benchmarks.randomness
"""

from __future__ import annotations

import ast
import itertools
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.tables import Record, Table
from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream
from keras_bucketing.planning.epoch_plan import EpochPlan


class LabeledLengths(NamedTuple):
    """The lengths of real sequences, int64 `(num_sequences,)` in timesteps, and their labels, ints of that shape."""

    lengths: np.ndarray
    labels: np.ndarray


def standard_library_functions(num_modules: int = 40) -> LabeledLengths:
    """The functions of Python's largest single-file modules: how many words long, and from which module."""
    files = sorted(
        Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda path: (-path.stat().st_size, path.name)
    )
    lengths, labels = [], []
    for label, path in enumerate(files[:num_modules]):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths.append(sum(len(line.split()) for line in lines[node.lineno - 1 : node.end_lineno]))
                labels.append(label)
    return LabeledLengths(np.array(lengths), np.array(labels))


def japanese_vowels() -> LabeledLengths:
    """The recordings of the UCI Japanese Vowels data, both splits: 7 to 29 timesteps, 9 speakers."""
    from sktime.datasets import load_japanese_vowels

    x, speakers = load_japanese_vowels(return_X_y=True)
    return LabeledLengths(
        np.array([len(row.iloc[0]) for _, row in x.iterrows()]), np.unique(speakers, return_inverse=True)[1]
    )


def make_dataset(lengths: np.ndarray, **options: object) -> BucketedSequence:
    """A dataset of sequences with these lengths; what they hold does not matter here."""
    return BucketedSequence.from_row_splits(np.zeros(lengths.sum(), np.int8), np.cumsum([0, *lengths]), **options)


def batch_of_each_row(plan: EpochPlan, num_rows: int) -> np.ndarray:
    """Int array `(num_rows,)`: the batch a row is in, -1 if it was left out."""
    batches = np.full(num_rows, -1)
    batches[plan.rows] = np.repeat(np.arange(len(plan)), np.diff(plan.batch_splits))
    return batches


def neighbor_correlation(plan: EpochPlan) -> float:
    """The correlation of padded length between a batch and the next one."""
    deviations = plan.padded_lengths - plan.padded_lengths.mean()
    return float((deviations[:-1] * deviations[1:]).sum() / (deviations**2).sum())


def count_repeated_pairs(plan: EpochPlan, other: EpochPlan, num_rows: int) -> int:
    """How many pairs of rows share a batch in both epochs."""
    together = np.stack([batch_of_each_row(plan, num_rows), batch_of_each_row(other, num_rows)])
    counts = np.unique(together[:, (together >= 0).all(axis=0)], axis=1, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def batch_buckets(plan: EpochPlan, row_buckets: np.ndarray) -> np.ndarray:
    """Int array `(num_batches, num_buckets)`: how many rows of each bucket a batch has; the same in every epoch."""
    composition = np.zeros((len(plan), row_buckets.max() + 1), np.int64)
    np.add.at(composition, (batch_of_each_row(plan, len(row_buckets))[plan.rows], row_buckets[plan.rows]), 1)
    return composition


def expected_repeated_pairs(composition: np.ndarray, bucket_rows: np.ndarray) -> float:
    """What `count_repeated_pairs` is on average if rows are shuffled evenly inside their buckets.

    Two rows of a bucket of n share one of its batches, with c rows of it each, with probability p = sum c (c - 1) /
    (n (n - 1)); rows of two buckets with p = sum c d / (n m). In two independent epochs: p squared, for each pair.
    """
    shared = (composition.T @ composition).astype(float)
    np.fill_diagonal(shared, (composition * (composition - 1)).sum(axis=0) / 2)
    pairs = np.outer(bucket_rows, bucket_rows).astype(float)
    np.fill_diagonal(pairs, bucket_rows * (bucket_rows - 1) / 2)
    shared, pairs = shared[np.triu_indices(len(pairs))], pairs[np.triu_indices(len(pairs))]
    return float((shared[pairs > 0] ** 2 / pairs[pairs > 0]).sum())


def label_imbalance(plan: EpochPlan, labels: np.ndarray) -> float:
    """How far the labels of the batches are from those of all rows, as a multiple of what random batches have."""
    counts = batch_buckets(plan, labels)
    return float(_squared_distance(counts, labels) / _random_distance(counts.sum(axis=1), labels))


def expected_label_imbalance(composition: np.ndarray, row_buckets: np.ndarray, labels: np.ndarray) -> float:
    """What `label_imbalance` is on average if rows are shuffled evenly inside their buckets.

    The labels of c rows out of a bucket of n are hypergeometric: mean c p, variance c p (1 - p) (n - c) / (n - 1).
    """
    table = np.zeros((row_buckets.max() + 1, labels.max() + 1))
    np.add.at(table, (row_buckets, labels), 1)
    rows = table.sum(axis=1, keepdims=True)
    shares = table / np.maximum(rows, 1)
    spread = composition * (rows.T - composition) / np.maximum(rows.T - 1, 1)
    variance = spread @ (shares * (1 - shares))
    distance = _squared_distance(composition @ shares, labels) + variance.sum()
    return float(distance / _random_distance(composition.sum(axis=1), labels))


def _squared_distance(counts: np.ndarray, labels: np.ndarray) -> float:
    shares = np.bincount(labels) / len(labels)
    return float(((counts - counts.sum(axis=1, keepdims=True) * shares) ** 2).sum())


def _random_distance(sizes: np.ndarray, labels: np.ndarray) -> float:
    shares = np.bincount(labels) / len(labels)
    return float((sizes * (len(labels) - sizes)).sum() / (len(labels) - 1) * (shares * (1 - shares)).sum())


def measure(data: LabeledLengths, num_epochs: int, **options: object) -> dict[str, float]:
    """The figures of one dataset with one choice of buckets, averaged over epochs."""
    lengths, labels = data
    dataset = make_dataset(lengths, seed=0, **options)
    row_buckets = np.searchsorted(dataset.bucket_boundaries, lengths, side="right")
    plans = [dataset.epoch_plan(epoch) for epoch in range(num_epochs)]
    composition = batch_buckets(plans[0], row_buckets)
    sizes = composition.sum(axis=1, keepdims=True)
    return {
        "buckets": len(dataset.bucket_batch_sizes),
        "padding_efficiency": sum(
            map(dataset.padding_stats, range(1, num_epochs)), start=dataset.padding_stats(0)
        ).padding_efficiency,
        "neighbors": float(np.mean([neighbor_correlation(plan) for plan in plans])),
        "neighbors_expected": -1 / len(plans[0]),
        "repeated_pairs": float(
            np.mean([count_repeated_pairs(*pair, len(lengths)) for pair in itertools.pairwise(plans)])
        ),
        "repeated_pairs_expected": expected_repeated_pairs(composition, np.bincount(row_buckets)),
        "repeated_pairs_random": expected_repeated_pairs(sizes, np.array([len(lengths)])),
        "imbalance": float(np.mean([label_imbalance(plan, labels) for plan in plans])),
        "imbalance_expected": expected_label_imbalance(composition, row_buckets, labels),
    }


def measure_buffer(data: LabeledLengths, num_epochs: int, buffer_size: int, is_shuffled: bool) -> dict[str, Any]:
    """The figures of a stream of one dataset, averaged over epochs."""
    lengths, labels = data
    random = np.random.default_rng(0)

    def rows() -> Iterator[tuple[np.ndarray, int]]:
        for row in random.permutation(len(lengths)) if is_shuffled else range(len(lengths)):
            yield np.zeros(lengths[row], np.int8), row

    stream = BucketedStream(rows, batch_size=32, buffer_size=buffer_size, seed=0)
    plans = [_plan_of([(x.shape[1], y.numpy()) for x, y in stream], epoch) for epoch in range(num_epochs)]
    sizes = np.diff(plans[0].batch_splits)[:, np.newaxis]
    num_padded = [int((np.diff(plan.batch_splits) * plan.padded_lengths).sum()) for plan in plans]
    repeated = [count_repeated_pairs(*pair, len(lengths)) for pair in itertools.pairwise(plans)]
    return {
        "buffer_size": buffer_size,
        "is_shuffled": is_shuffled,
        "padding_efficiency": num_epochs * float(lengths.sum()) / sum(num_padded),
        "neighbors": float(np.mean([neighbor_correlation(plan) for plan in plans])),
        "repeated_pairs": float(np.mean(repeated)),
        "repeated_pairs_random": expected_repeated_pairs(sizes, np.array([len(lengths)])),
        "imbalance": float(np.mean([label_imbalance(plan, labels) for plan in plans])),
    }


def _plan_of(batches: list[tuple[int, np.ndarray]], epoch: int) -> EpochPlan:
    """The plan behind batches that were read: the padded length and the rows of each."""
    padded_lengths, rows = zip(*batches, strict=True)
    splits = np.cumsum([0, *map(len, rows)])
    none = np.zeros(0, np.int64)
    return EpochPlan(epoch, np.concatenate(rows), splits, np.array(padded_lengths), none, none)


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    num_epochs, num_modules, sizes = (2, 8, (256,)) if arguments.quick else (40, 40, (256, 1024, 4096))
    functions = standard_library_functions(num_modules)
    results = {}
    for name, data in (
        ("functions of the standard library, label: module", functions),
        ("Japanese Vowels, label: speaker", japanese_vowels()),
    ):
        choices: tuple[dict[str, int], ...] = ({"num_buckets": 1}, {"num_buckets": 4}, {"num_buckets": 16}, {})
        results[name] = [measure(data, num_epochs, **options) for options in choices]
    buffers = [
        measure_buffer(functions, num_epochs, size, is_shuffled) for is_shuffled in (False, True) for size in sizes
    ]
    measured = {"epochs": num_epochs, "results": results, "buffers": buffers}
    harness.publish(arguments.output, "randomness", measured, tables)
    harness.write_picture(arguments.output, "randomness", lambda axes: draw(axes, results), panels=2)


def tables(record: Record) -> list[Table]:
    """One line a choice of buckets, the automatic one last."""
    header = ["sequences", "buckets", "padding efficiency", "neighbors", "repeated pairs", "in fair buckets"]
    rows = [
        [
            name,
            f"{row['buckets']} (automatic)" if row is choices[-1] else str(row["buckets"]),
            f"{row['padding_efficiency']:.3f}",
            f"{row['neighbors']:.3f}",
            *(
                f"{row[figure] / row['repeated_pairs_random']:.1f} x"
                for figure in ("repeated_pairs", "repeated_pairs_expected")
            ),
            *(f"{row[figure]:.2f} x" for figure in ("imbalance", "imbalance_expected")),
        ]
        for name, choices in record["results"].items()
        for row in choices
    ]
    title = f"batches of {record['epochs']} epochs; x: as multiples of random batches"
    made = [Table("randomness", title, [*header, "label imbalance", "in fair buckets"], rows)]
    if "buffers" in record:
        made.append(_table_of_buffers(record))
    return made


def _table_of_buffers(record: Record) -> Table:
    rows = [
        [
            "shuffled" if row["is_shuffled"] else "module by module",
            f"{row['buffer_size']:,}",
            f"{row['padding_efficiency']:.3f}",
            f"{row['neighbors']:.3f}",
            f"{row['repeated_pairs'] / row['repeated_pairs_random']:.1f} x",
            f"{row['imbalance']:.2f} x",
        ]
        for row in record["buffers"]
    ]
    title = f"streams of the functions of the standard library, {record['epochs']} epochs"
    header = ["source", "buffer, rows", "padding efficiency", "neighbors", "repeated pairs", "label imbalance"]
    return Table("randomness_buffers", title, header, rows)


def draw(axes: Any, results: dict[str, list[dict[str, float]]]) -> None:
    """Repeated pairs and label imbalance against the number of buckets."""
    for axis, figure, label in (
        (axes[0], "repeated_pairs", "repeated pairs / in random batches"),
        (axes[1], "imbalance", "label imbalance / of random batches"),
    ):
        for (name, choices), marker in zip(results.items(), "os", strict=True):
            rows = sorted(choices, key=lambda row: row["buckets"])
            buckets = [row["buckets"] for row in rows]
            scale = [row["repeated_pairs_random"] if figure == "repeated_pairs" else 1 for row in rows]
            measured = [row[figure] / by for row, by in zip(rows, scale, strict=True)]
            expected = [row[f"{figure}_expected"] / by for row, by in zip(rows, scale, strict=True)]
            shade = "0.1" if marker == "o" else "0.55"
            axis.loglog(buckets, expected, "--", color=shade, linewidth=1, base=2)
            axis.loglog(buckets, measured, marker, color=shade, label=name, base=2)
        axis.axhline(1, color="0.7", linewidth=0.8)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set(xlabel="buckets", ylabel=label)
    axes[0].legend(frameon=False, title="dots: measured; dashes: a fair shuffle inside the buckets", title_fontsize=8)


if __name__ == "__main__":
    main()
