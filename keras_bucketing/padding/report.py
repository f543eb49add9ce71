"""What each way of batching would waste on given lengths, before any code is changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_bucketing.checks import check_integer, check_lengths
from keras_bucketing.padding.efficiency import padding_efficiency
from keras_bucketing.padding.labels import check_labels
from keras_bucketing.padding.recommendation import PaddingRecommendation, recommend
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.padding.text_table import format_table
from keras_bucketing.planning.batch_cuts import cut_batches
from keras_bucketing.planning.boundaries import optimal_bucket_boundaries
from keras_bucketing.planning.buckets import Buckets, choose_buckets
from keras_bucketing.planning.sizing import BatchSizing

_NUM_BUCKETS = (4, 8, 16)


@dataclasses.dataclass(frozen=True)
class PaddingStrategy:
    """What one way of batching would cost.

    Attributes:
        name: Str.
        boundaries: Tuple of ints, bucket boundaries as in `bucket_by_sequence_length`; empty without buckets.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Float, sum over the batches of rows x padded length; for random batches an expectation.
        largest_batch: Int, the most timesteps that a batch may have: what has to fit into memory.
    """

    name: str
    boundaries: tuple[int, ...]
    num_batches: int
    real_timesteps: int
    total_timesteps: float
    largest_batch: int

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)


@dataclasses.dataclass(frozen=True)
class PaddingReport:
    """The strategies side by side, and which call to make; prints as a table and a few sentences.

    Attributes:
        num_sequences: Int.
        shortest: Int, in timesteps.
        median: Float, in timesteps.
        longest: Int, in timesteps.
        batch_size: Int, rows.
        strategies: Tuple of `PaddingStrategy`, the first of which pads everything to the longest.
        recommendation: `PaddingRecommendation`, the call to make and what comes of it.
    """

    num_sequences: int
    shortest: int
    median: float
    longest: int
    batch_size: int
    strategies: tuple[PaddingStrategy, ...]
    recommendation: PaddingRecommendation

    def __str__(self) -> str:
        padded = self.strategies[0].total_timesteps
        rows = [
            (
                strategy.name,
                strategy.num_batches,
                round(strategy.total_timesteps),
                strategy.padding_efficiency,
                f"{padded / strategy.total_timesteps:.2f} x",
                strategy.largest_batch,
            )
            for strategy in self.strategies
        ]
        header = ["strategy", "batches", "timesteps", "efficiency", "saved", "largest batch"]
        return (
            f"{self.num_sequences} sequences of {self.shortest} to {self.longest} timesteps, median {self.median:g}, "
            f"{self.strategies[0].real_timesteps} in all; batches of {self.batch_size} rows\n\n"
            f"{format_table(header, rows)}\n\n{self.recommendation}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, lists and dicts."""
        figures = dataclasses.asdict(self)
        for strategy, of_strategy in zip(self.strategies, figures["strategies"], strict=True):
            of_strategy["padding_efficiency"] = strategy.padding_efficiency
        return figures | {"recommendation": self.recommendation.to_dict()}


def padding_report(lengths: Any, batch_size: int = 32, y: Any = None) -> PaddingReport:
    """Reports how much padding each way of batching leaves on sequences of these lengths, and recommends a call.

    - *everything to the longest*: `pad_sequences` on the whole data.
    - *random batches*: rows drawn at random, each batch padded to its own longest. The exact expectation over all
      shuffles, not a sample.
    - *quantile* and *minimum-padding buckets*: batches from k buckets, padded to the longest length that the bucket
      allows; what does not fill a batch goes into the next longer bucket. To the last timestep what
      `BucketedSequence(pad_to_bucket_boundary=True)` does; without that option it pads less.
    - *timestep budget*: the same with as many rows in a batch as fit, `max_timesteps_per_batch`. The budget is
      `batch_size` sequences of mean length, or the longest sequence if that is more.

    The recommendation says whether bucketing is worth it, and what it costs: how many different sequences a sequence
    meets in its batches, and with `y` how far the labels of a batch stray from those of all. It pads each batch to its
    own longest, so its figures are better than those of the table. Lengths that tell much about labels make batches
    uneven: then it takes fewer buckets.

    Args:
        lengths: Integers of shape `(num_sequences,)`, the timesteps of each sequence, at least 1.
        batch_size: Int, rows in a batch. Defaults to 32.
        y: Labels `(num_sequences,)`: integers, booleans and strings are classes, floats are values; or numbers
            `(num_sequences, num_columns)`. Defaults to None.

    Returns:
        A `PaddingReport`: print it. `recommendation` has the call and its figures as data.

    Raises:
        TypeError: If `lengths` or `batch_size` are not integers, or `y` neither numbers nor strings.
        ValueError: If `lengths` is empty, not flat, not whole or below 1, `batch_size` below 1, or if `y` has not one
            label for each length.

    Example:
        >>> report = padding_report([1, 1, 2, 9], batch_size=2)
        >>> for strategy in report.strategies[:2]:
        ...     print(strategy.name, round(strategy.padding_efficiency, 4))
        everything to the longest 0.3611
        random batches 0.6094
        >>> call = padding_report([3, 4, 5, 90, 95, 100] * 10, batch_size=10).recommendation.call
        >>> print(call, round(call.padding_efficiency, 2))
        BucketedSequence(x, y, batch_size=10) 0.97
    """
    lengths = check_lengths(lengths)
    batch_size = check_integer("batch_size", batch_size)
    order = np.argsort(lengths, kind="stable")
    labels = None if y is None else check_labels(y, lengths.size).in_order(order)
    lengths = lengths[order]
    sizing = BatchSizing(batch_size, None, None, multiple=1)
    budget = max(batch_size * int(lengths.sum()) // lengths.size, int(lengths[-1]))
    strategies = _without_buckets(lengths, batch_size)
    optimal = [optimal_bucket_boundaries(lengths, count) for count in _NUM_BUCKETS]
    for kind, choices in (
        ("quantile", [_quantile_boundaries(lengths, count) for count in _NUM_BUCKETS]),
        ("minimum-padding", optimal),
    ):
        strategies += [_with_buckets(kind, lengths, boundaries, sizing) for boundaries in _distinct(choices)]
    within_budget = BatchSizing(None, None, budget, multiple=1)
    strategies += [
        _with_buckets(f"{budget}-timestep budget,", lengths, boundaries, within_budget)
        for boundaries in _distinct(optimal)
    ]
    return PaddingReport(
        num_sequences=lengths.size,
        shortest=int(lengths[0]),
        median=float(np.median(lengths)),
        longest=int(lengths[-1]),
        batch_size=batch_size,
        strategies=tuple(strategies),
        recommendation=recommend(lengths, batch_size, budget, strategies[1].total_timesteps, labels),
    )


def summarize_buckets(buckets: Buckets, stats: PaddingStats) -> str:
    """The buckets as a text table, with the padding of one epoch; where there are several leaves, of each as well."""
    padded = {bucket.bucket: bucket for bucket in stats.buckets}
    longest = [*(boundary - 1 for boundary in buckets.boundaries), int(buckets.upper_lengths[-1])]
    rows = []
    for bucket, (upper, count, size) in enumerate(zip(longest, buckets.counts, buckets.batch_sizes, strict=True)):
        lower = 1 if bucket == 0 else buckets.boundaries[bucket - 1]
        batches = padded[bucket].num_batches if bucket in padded else 0
        efficiency = f"{padded[bucket].padding_efficiency:.3f}" if batches else "-"
        rows.append([f"{lower} - {max(upper, lower)}", int(count), size, batches, efficiency])
    rows.append(["all", stats.num_sequences, "", stats.num_batches, f"{stats.padding_efficiency:.3f}"])
    rows += [[leaf.name, "", "", "", f"{leaf.padding_efficiency:.3f}"] for leaf in stats.leaves]
    return format_table(["lengths", "sequences", "rows a batch", "batches", "padding efficiency"], rows)


def _without_buckets(lengths: np.ndarray, batch_size: int) -> list[PaddingStrategy]:
    longest = int(lengths[-1])
    splits = np.append(np.arange(0, lengths.size, batch_size), lengths.size)
    padded = PaddingStats.from_batches(lengths, splits, np.full(splits.size - 1, longest))
    largest = min(batch_size, lengths.size) * longest
    return [
        PaddingStrategy(name, (), padded.num_batches, padded.real_timesteps, timesteps, largest)
        for name, timesteps in (
            ("everything to the longest", padded.total_timesteps),
            ("random batches", padded.random_batches_timesteps),
        )
    ]


def _with_buckets(kind: str, lengths: np.ndarray, boundaries: list[int], sizing: BatchSizing) -> PaddingStrategy:
    buckets = choose_buckets(lengths, sizing, boundaries, pad_to_bucket_boundary=True)
    cuts = cut_batches(buckets, remainder="spill", multiple=1)
    padded_lengths = buckets.upper_lengths[cuts.buckets]
    stats = PaddingStats.from_batches(lengths, np.append(cuts.starts, lengths.size), padded_lengths)
    largest = int(((cuts.stops - cuts.starts) * padded_lengths).max())
    name = f"{kind} {len(boundaries) + 1} buckets"
    return PaddingStrategy(
        name, tuple(boundaries), stats.num_batches, stats.real_timesteps, stats.total_timesteps, largest
    )


def _quantile_boundaries(lengths: np.ndarray, num_buckets: int) -> list[int]:
    """Boundaries that put about the same number of rows into each bucket."""
    uppers = lengths[np.arange(1, num_buckets) * lengths.size // num_buckets]
    return sorted({int(upper) + 1 for upper in uppers if upper < lengths[-1]})


def _distinct(choices: list[list[int]]) -> list[list[int]]:
    """The choices that have buckets at all, each once: few distinct lengths give the same ones several times."""
    return [choice for index, choice in enumerate(choices) if choice and choice not in choices[:index]]
