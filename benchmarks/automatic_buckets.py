"""The automatic number of buckets, next to the rule of before, over many length distributions.

Before: the fewest buckets whose minimum padding is at least 95 % efficient, at most 32. Now: see `num_buckets` of
`BucketedSequence`. Batches have 32 rows, or with a budget 32 times the mean length. All figures are exact expectations
over the shuffles:

- efficiency: real timesteps / all timesteps, each batch padded to its own longest sequence; where shapes are compiled,
  to the longest of its bucket.
- repeated pairs: how many pairs of sequences share a batch in both of two epochs, as a multiple of random batches.
- batchmates: with how many different sequences a sequence shares a batch in ten epochs; about 300 in random batches.
- of the best: the efficiency now, as a share of the best that 1 to 32 buckets reach with at most 5 % more batches.
  (Under a budget long buckets have small batches: one bucket of all rows, in batches of one row each, pads nothing.)
- labels: how far the labels of a batch are from those of all sequences, in squared distance, as a multiple of random
  batches. Where the data have no labels, four classes of which the length tells one in two.

    python -m benchmarks.automatic_buckets
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import harness, padding, randomness
from benchmarks.randomness import LabeledLengths
from benchmarks.tables import Record, Table
from keras_bucketing.padding.report import check_labels
from keras_bucketing.planning.boundaries import best_partitions, boundaries_after, count_lengths
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import BatchSizing
from keras_bucketing.planning.cuts import BatchRules
from keras_bucketing.planning.forecast import ShuffledBatches

BATCH_SIZE = 32
WAYS = ("32 rows", "budget", "one shape a bucket")


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    data = distributions(arguments.quick)
    results = {way: {name: measure(labeled, way) for name, labeled in data.items()} for way in WAYS}
    harness.publish(arguments.output, "automatic_buckets", {"batch_size": BATCH_SIZE, "results": results}, tables)
    harness.write_picture(arguments.output, "automatic_buckets", lambda axes: draw(axes, results), panels=len(WAYS))


def tables(record: Record) -> list[Table]:
    """One table a way to size batches, one line a distribution; each cell has the figure of before and of now."""
    formats = {
        "buckets": ("buckets", "{}"),
        "efficiency": ("padding efficiency", "{:.3f}"),
        "repeated_pairs": ("repeated pairs", "{:.1f} x"),
        "batchmates": ("batchmates", "{:.0f}"),
        "labels": ("label imbalance", "{:.2f} x"),
    }
    return [
        Table(
            "automatic_buckets" if way == WAYS[0] else f"automatic_buckets_{number}",
            f"{way}: before -> now",
            ["lengths", "sequences", *(head for head, _ in formats.values()), "of the best"],
            [
                [
                    name,
                    f"{figures['sequences']:,}",
                    *(
                        f"{form.format(figures['before'][key])} -> {form.format(figures['now'][key])}"
                        for key, (_, form) in formats.items()
                    ),
                    f"{figures['now']['efficiency'] / figures['best']:.3f}",
                ]
                for name, figures in by_name.items()
            ],
        )
        for number, (way, by_name) in enumerate(record["results"].items(), start=1)
    ]


def distributions(quick: bool) -> dict[str, LabeledLengths]:
    """Lengths with labels, by name."""
    random = np.random.default_rng(0)
    scale = 20 if quick else 1
    data = {name: with_labels(lengths) for name, lengths in padding.distributions(quick).items()}
    data["functions by module"] = randomness.standard_library_functions()
    if "Japanese Vowels" in data:
        data["Japanese Vowels"] = randomness.japanese_vowels()
    short, long = random.normal(30, 8, 3000 // scale), random.normal(400, 60, 1000 // scale)
    drawn = {
        "uniform": random.uniform(1, 500, 5000 // scale),
        "uniform, few": random.uniform(1, 500, 500 // scale),
        "normal": random.normal(200, 30, 5000 // scale),
        "exponential": random.exponential(100, 10_000 // scale),
        "geometric": random.geometric(1 / 20, 20_000 // scale),
        "short and long": np.concatenate([short, long]),
        "cut at 512": np.minimum(random.lognormal(np.log(150), 1, 50_000 // scale), 512),
        "one outlier": np.append(random.uniform(10, 60, 2000 // scale), 5000),
        "Cauchy": np.minimum(50 * np.abs(random.standard_cauchy(5000 // scale)), 10**6),
        "log-logistic": 60 * (1 / random.random(20_000 // scale) - 1) ** (-1 / 1.5),
        "Weibull, heavy": 40 * random.weibull(0.4, 3000 // scale),
    }
    data |= {name: with_labels(np.maximum(np.rint(x), 1).astype(np.int64)) for name, x in drawn.items()}
    return dict(list(data.items())[::8]) if quick else data


def with_labels(lengths: np.ndarray) -> LabeledLengths:
    """Four classes: of half of the sequences the quarter of the lengths that it is in, of the others any."""
    random = np.random.default_rng(1)
    quarters = np.argsort(np.argsort(lengths, kind="stable")) * 4 // len(lengths)
    labels = np.where(random.random(len(lengths)) < 0.5, quarters, random.integers(0, 4, len(lengths)))
    return LabeledLengths(lengths, labels)


def boundaries_before(lengths: np.ndarray, sizing: BatchSizing) -> list[int]:
    """The automatic boundaries of before: 95 % of minimum padding, whatever the cuts make of it."""
    distinct, counts = count_lengths(lengths)
    min_rows = np.minimum(np.maximum(sizing.rows_at(distinct), 1), lengths.size)
    best = [len(distinct)]
    for ends, padded in best_partitions(distinct, counts, min_rows, min(32, len(distinct))):
        best = ends
        if lengths.sum() >= 0.95 * padded:
            break
    return boundaries_after(distinct, best)


def measure(data: LabeledLengths, way: str) -> dict[str, Any]:
    """The figures of one distribution, with the buckets of before and of now."""
    order = np.argsort(data.lengths, kind="stable")
    lengths, labels = data.lengths[order], check_labels(data.labels, len(order)).in_order(order)
    budget = max(BATCH_SIZE * int(lengths.sum()) // len(lengths), int(lengths[-1]))
    sizing = BatchSizing(None, None, budget, 1) if way == "budget" else BatchSizing(BATCH_SIZE, None, None, 1)
    one_shape = way == "one shape a bucket"
    figures: dict[str, Any] = {"sequences": len(lengths)}
    rules = BatchRules(pad_to_bucket_boundary=one_shape)
    for rule, boundaries in (("before", boundaries_before(lengths, sizing)), ("now", None)):
        buckets = choose_buckets(lengths, sizing, boundaries, pad_to_bucket_boundary=one_shape)
        batches = ShuffledBatches.from_buckets(lengths, buckets, rules)
        kinds, whole = batches.kinds, np.array([len(lengths)])
        composition = np.repeat(kinds.rows, kinds.numbers, axis=0)
        repeated_pairs, random_repeated_pairs = (
            randomness.expected_repeated_pairs(rows, bucket_rows)
            for rows, bucket_rows in ((composition, buckets.counts), (composition.sum(axis=1, keepdims=True), whole))
        )
        figures[rule] = {
            "buckets": len(buckets.batch_sizes),
            "batches": batches.num_batches,
            "efficiency": float(lengths.sum() / batches.padded_timesteps),
            "repeated_pairs": repeated_pairs / random_repeated_pairs,
            "batchmates": batches.distinct_batchmates(10),
            "labels": batches.label_imbalance(labels),
        }
    figures["best"] = figures["now"]["efficiency"]
    for number in range(1, 33):
        buckets = choose_buckets(lengths, sizing, num_buckets=number, pad_to_bucket_boundary=one_shape)
        batches = ShuffledBatches.from_buckets(lengths, buckets, rules)
        if batches.num_batches <= 1.05 * figures["now"]["batches"] + 1:
            figures["best"] = max(figures["best"], float(lengths.sum() / batches.padded_timesteps))
    return figures


def draw(axes: Any, results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """One panel a way: an arrow a distribution, from before to now, in efficiency over buckets."""
    for axis, (way, by_name) in zip(axes, results.items(), strict=True):
        for figures in by_name.values():
            points = [(figures[rule]["buckets"], figures[rule]["efficiency"]) for rule in ("before", "now")]
            axis.annotate("", xy=points[1], xytext=points[0], arrowprops={"arrowstyle": "->", "color": "0.5"})
            axis.plot(*points[0], "o", color="0.7", markersize=4)
            axis.plot(*points[1], "o", color="0.1", markersize=4)
        axis.set(xlim=(0, 33), ylim=(0, 1.02), xlabel="buckets", ylabel="padding efficiency")
        axis.set_title(way, loc="left")


if __name__ == "__main__":
    main()
