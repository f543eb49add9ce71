"""What was padded, as numbers that can be added and printed."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from keras_bucketing.inputs.row_splits import row_splits_of
from keras_bucketing.padding.random_batches import expected_random_timesteps
from keras_bucketing.padding.text_table import format_table
from keras_bucketing.planning.epoch_plan import EpochPlan


def padding_efficiency(real_timesteps: float, total_timesteps: float) -> float:
    """The share of real timesteps: the one definition of padding efficiency in this package.

    Args:
        real_timesteps: Sum of the sequences' lengths, in timesteps.
        total_timesteps: Sum over the batches of rows x padded length, in timesteps.

    Returns:
        A float between 0 and 1; `nan` where there are no timesteps at all.

    Example:
    >>> padding_efficiency(30, 40)
    0.75
    """
    return real_timesteps / total_timesteps if total_timesteps else math.nan


@dataclasses.dataclass(frozen=True)
class BucketPaddingStats:
    """What was padded in the batches of one bucket.

    Attributes:
        bucket: Int, which bucket, counted from the shortest.
        longest: Int, the longest padded length among its batches, in timesteps.
        num_sequences: Int, rows in its batches. Rows that spilled into it from shorter buckets count here.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Int, sum over the batches of rows x padded length.

    Example:
    >>> BucketPaddingStats(0, 10, 6, 2, 45, 60).padding_efficiency
    0.75
    """

    bucket: int
    longest: int
    num_sequences: int
    num_batches: int
    real_timesteps: int
    total_timesteps: int

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    def __add__(self, other: BucketPaddingStats) -> BucketPaddingStats:
        return BucketPaddingStats(
            self.bucket,
            max(self.longest, other.longest),
            self.num_sequences + other.num_sequences,
            self.num_batches + other.num_batches,
            self.real_timesteps + other.real_timesteps,
            self.total_timesteps + other.total_timesteps,
        )


@dataclasses.dataclass(frozen=True)
class PaddingStats:
    """What was padded in a number of batches.

    Two of them add up to the statistics of all their batches, and so does `sum()`; `PaddingStats()` is no
    batch. Add only statistics with the same buckets: figures per bucket are matched by the bucket's index.

    Attributes:
        num_sequences: Int, rows in the batches.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Int, sum over the batches of rows x padded length: what the model computes.
        longest: Int, the longest sequence, in timesteps.
        left_out: Int, rows that the pass leaves out (`remainder="drop"`, shards).
        random_batches_timesteps: Float, what these sequences would have cost in batches of the same sizes
            filled at random and padded to their longest row. The exact expectation, without sampling.
        buckets: Tuple of `BucketPaddingStats`, the shortest first; empty where no buckets are known.
        shapes: Tuple of the distinct `(rows, padded length)`, sorted.
        seconds: Float, how long the epoch took, where that was measured, otherwise 0. Not compared by `==`.

    Example:
    >>> import numpy as np
    >>> stats = PaddingStats.from_batches(
    ...     lengths=np.array([2, 3, 9, 10]),
    ...     batch_splits=np.array([0, 2, 4]),
    ...     padded_lengths=np.array([3, 10]),
    ... )
    >>> stats.real_timesteps, stats.total_timesteps
    (24, 26)
    >>> round(stats.padding_efficiency, 3)
    0.923
    >>> (stats + stats).num_batches
    4
    """

    num_sequences: int = 0
    num_batches: int = 0
    real_timesteps: int = 0
    total_timesteps: int = 0
    longest: int = 0
    left_out: int = 0
    random_batches_timesteps: float = 0.0
    buckets: tuple[BucketPaddingStats, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ()
    seconds: float = dataclasses.field(default=0.0, compare=False)

    @classmethod
    def from_batches(
        cls,
        lengths: np.ndarray,
        batch_splits: np.ndarray,
        padded_lengths: np.ndarray,
        buckets: np.ndarray | None = None,
        left_out: int = 0,
    ) -> PaddingStats:
        """Counts the padding of batches.

        Args:
            lengths: Int array of shape `(num_sequences,)`, the timesteps of each row, batch after batch.
            batch_splits: Int array of shape `(num_batches + 1,)`; batch i holds the rows `batch_splits[i]` to
                `batch_splits[i + 1] - 1`.
            padded_lengths: Int array of shape `(num_batches,)`, in timesteps.
            buckets: Optional int array of shape `(num_batches,)`, the index of each batch's bucket.
            left_out: Int, rows that are in no batch.

        Returns:
            A `PaddingStats`.

        Raises:
            ValueError: If the arrays do not belong together.
        """
        lengths = np.asarray(lengths, np.int64)
        batch_splits = np.asarray(batch_splits, np.int64)
        padded_lengths = np.asarray(padded_lengths, np.int64)
        if batch_splits.size != padded_lengths.size + 1 or batch_splits[-1] - batch_splits[0] != lengths.size:
            raise ValueError(
                "`batch_splits` must hold one entry more than there are batches, up to the number of rows. Received "
                f"{lengths.size} lengths, {padded_lengths.size} padded lengths and {batch_splits.size} splits."
            )
        rows = np.diff(batch_splits)
        real = np.diff(row_splits_of(lengths)[batch_splits - batch_splits[0]])
        total = rows * padded_lengths
        per_bucket = () if buckets is None else _sum_per_bucket(buckets, rows, real, total, padded_lengths)
        return cls(
            num_sequences=lengths.size,
            num_batches=rows.size,
            real_timesteps=int(real.sum()),
            total_timesteps=int(total.sum()),
            longest=int(lengths.max(initial=0)),
            left_out=int(left_out),
            random_batches_timesteps=expected_random_timesteps(lengths, rows),
            buckets=per_bucket,
            shapes=tuple(sorted(set(zip(rows.tolist(), padded_lengths.tolist(), strict=True)))),
        )

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps; `nan` of nothing."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    @property
    def padding_ratio(self) -> float:
        """Float, 1 - padding efficiency: the share of the timesteps that is padding."""
        return 1.0 - self.padding_efficiency

    @property
    def pad_to_longest_timesteps(self) -> int:
        """Int, what padding all of these sequences to the longest of them would have cost, in timesteps."""
        return self.num_sequences * self.longest

    @property
    def speedup_over_longest(self) -> float:
        """Float, how many times fewer timesteps these batches have than padding everything to the longest."""
        return self.pad_to_longest_timesteps / self.total_timesteps if self.total_timesteps else math.nan

    @property
    def speedup_over_random(self) -> float:
        """Float, how many times fewer timesteps these batches have than batches filled at random."""
        return self.random_batches_timesteps / self.total_timesteps if self.total_timesteps else math.nan

    @property
    def real_timesteps_per_second(self) -> float:
        """Float, real timesteps per second; `nan` where nobody measured the time."""
        return self.real_timesteps / self.seconds if self.seconds else math.nan

    def __add__(self, other: Any) -> PaddingStats:
        if not isinstance(other, PaddingStats):
            return NotImplemented
        by_bucket = {stats.bucket: stats for stats in self.buckets}
        for stats in other.buckets:
            mine = by_bucket.get(stats.bucket)
            by_bucket[stats.bucket] = stats if mine is None else mine + stats
        return PaddingStats(
            num_sequences=self.num_sequences + other.num_sequences,
            num_batches=self.num_batches + other.num_batches,
            real_timesteps=self.real_timesteps + other.real_timesteps,
            total_timesteps=self.total_timesteps + other.total_timesteps,
            longest=max(self.longest, other.longest),
            left_out=self.left_out + other.left_out,
            random_batches_timesteps=self.random_batches_timesteps + other.random_batches_timesteps,
            buckets=tuple(by_bucket[bucket] for bucket in sorted(by_bucket)),
            shapes=tuple(sorted({*self.shapes, *other.shapes})),
            seconds=self.seconds + other.seconds,
        )

    def __radd__(self, other: Any) -> PaddingStats:
        # sum() starts from the integer 0.
        return self if other == 0 else NotImplemented

    def __str__(self) -> str:
        saved = (
            f"{self.speedup_over_longest:.2f} x fewer than padded to the longest ({self.longest}), "
            f"{self.speedup_over_random:.2f} x fewer than random batches"
        )
        text = (
            f"{self.num_sequences} sequences in {self.num_batches} batches of {len(self.shapes)} shapes"
            f"{f', {self.left_out} left out' if self.left_out else ''}\n"
            f"{self.real_timesteps} real of {self.total_timesteps} timesteps: "
            f"padding efficiency {self.padding_efficiency:.4f}\n{saved}"
        )
        return f"{text}\n{_bucket_table(self.buckets)}" if self.buckets else text

    def to_dict(self) -> dict[str, Any]:
        """All figures, the calculated ones included, as numbers, lists and dicts; `None` stands for `nan`."""
        figures = dataclasses.asdict(self)
        figures["shapes"] = [list(shape) for shape in self.shapes]
        figures["buckets"] = [
            {**dataclasses.asdict(stats), "padding_efficiency": _none_if_nan(stats.padding_efficiency)}
            for stats in self.buckets
        ]
        for name in _CALCULATED:
            figures[name] = _none_if_nan(getattr(self, name))
        return figures

    def to_json(self) -> str:
        """The same as `to_dict()`, as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)


def padding_of_plan(plan: EpochPlan, lengths: np.ndarray, start: int = 0, stop: int | None = None) -> PaddingStats:
    """What the batches `start` to `stop - 1` of an epoch pad; all of them unless told otherwise.

    Rows that are left out belong to whole epochs only.

    Args:
        plan: The epoch.
        lengths: Int array, the timesteps of the rows that the plan's indices mean.
        start: Int, the first batch. Defaults to 0.
        stop: Int, one after the last batch. Defaults to None: all that there are.
    """
    stop = len(plan) if stop is None else min(stop, len(plan))
    splits = plan.batch_splits[start : stop + 1]
    is_whole = start == 0 and stop == len(plan)
    return PaddingStats.from_batches(
        lengths[plan.rows[splits[0] : splits[-1]]],
        splits,
        plan.padded_lengths[start:stop],
        buckets=plan.buckets[start:stop],
        left_out=len(plan.left_out) if is_whole else 0,
    )


def _sum_per_bucket(
    buckets: np.ndarray, rows: np.ndarray, real: np.ndarray, total: np.ndarray, padded_lengths: np.ndarray
) -> tuple[BucketPaddingStats, ...]:
    """Adds the batches of each bucket up.

    Args:
        buckets: Int array of shape `(num_batches,)`, the index of each batch's bucket.
        rows: Int array of shape `(num_batches,)`.
        real: Int array of shape `(num_batches,)`, real timesteps.
        total: Int array of shape `(num_batches,)`, real and padded timesteps.
        padded_lengths: Int array of shape `(num_batches,)`, in timesteps.

    Returns:
        A tuple of `BucketPaddingStats`, one for each bucket that has a batch, the shortest first.
    """
    indices, position = np.unique(buckets, return_inverse=True)
    figures = np.zeros((4, indices.size), np.int64)
    for figure, of_batch in zip(figures, (rows, np.ones_like(rows), real, total), strict=True):
        np.add.at(figure, position, of_batch)
    longest = np.zeros(indices.size, np.int64)
    np.maximum.at(longest, position, padded_lengths)
    columns = np.stack([indices, longest, *figures], axis=1).tolist()
    return tuple(BucketPaddingStats(*column) for column in columns)


def _bucket_table(buckets: tuple[BucketPaddingStats, ...]) -> str:
    header = ["bucket", "padded to", "sequences", "batches", "real", "timesteps", "efficiency"]
    rows = [(*dataclasses.astuple(stats), stats.padding_efficiency) for stats in buckets]
    return format_table(header, rows)


def _none_if_nan(figure: float) -> float | None:
    return None if math.isnan(figure) else figure


_CALCULATED = (
    "padding_efficiency",
    "padding_ratio",
    "pad_to_longest_timesteps",
    "speedup_over_longest",
    "speedup_over_random",
    "real_timesteps_per_second",
)
