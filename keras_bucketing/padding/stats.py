"""What was padded, as numbers that can be added and printed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from keras_bucketing.data.row_splits import row_splits_of
from keras_bucketing.padding.text_table import format_table
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.planning.forecast import expected_random_timesteps

# The one definition of padding efficiency in this package.


def padding_efficiency(real_timesteps: float, total_timesteps: float) -> float:
    """The share of real timesteps.

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


# What was padded in each bucket.


@dataclasses.dataclass(frozen=True)
class BucketPaddingStats:
    """What was padded in the batches of one bucket.

    Attributes:
        bucket: Int, which bucket, counted from the shortest.
        longest: Int, the longest padded length among its batches, in timesteps.
        num_sequences: Int, rows in its batches. Rows that spilled into it from shorter buckets count here.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths, of all leaves.
        total_timesteps: Int, sum over the batches of rows x padded length, of all leaves.

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


def stats_of_buckets(
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


def bucket_table(buckets: tuple[BucketPaddingStats, ...]) -> str:
    """A line for each bucket."""
    header = ["bucket", "padded to", "sequences", "batches", "real", "timesteps", "efficiency"]
    rows = [(*dataclasses.astuple(stats), stats.padding_efficiency) for stats in buckets]
    return format_table(header, rows)


# What was padded in each leaf, where a row has several sequences.


@dataclasses.dataclass(frozen=True)
class LeafPaddingStats:
    """What was padded in one of several leaves, such as the source and the target of a translation.

    Attributes:
        name: Str, e.g. `x['source']`.
        longest: Int, its longest sequence, in timesteps.
        real_timesteps: Int, sum of its lengths.
        total_timesteps: Int, sum over the batches of rows x its padded length.

    Example:
        >>> LeafPaddingStats("x['source']", 10, 45, 60).padding_efficiency
        0.75
    """

    name: str
    longest: int
    real_timesteps: int
    total_timesteps: int

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    def __add__(self, other: LeafPaddingStats) -> LeafPaddingStats:
        return LeafPaddingStats(
            self.name,
            max(self.longest, other.longest),
            self.real_timesteps + other.real_timesteps,
            self.total_timesteps + other.total_timesteps,
        )


def leaf_table(leaves: tuple[LeafPaddingStats, ...]) -> str:
    """A line for each leaf."""
    rows = [(*dataclasses.astuple(stats), stats.padding_efficiency) for stats in leaves]
    return format_table(["leaf", "longest", "real", "timesteps", "efficiency"], rows)


@dataclasses.dataclass(frozen=True)
class PaddingStats:
    """What was padded in a number of batches.

    Every ragged leaf counts: where a row has several sequences, such as a source and a target, and where labels have
    lengths of their own, each is padded on its own, and the figures are the sums over all of them. Labels for each
    timestep are padded like the sequences that they label and do not count again.

    Two of them add up to the statistics of all their batches, and so does `sum()`; `PaddingStats()` is no
    batch. Add only statistics with the same buckets and leaves: figures per bucket are matched by the bucket's index,
    those per leaf by its name.

    Attributes:
        num_sequences: Int, rows in the batches.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Int, sum over the batches of rows x padded length: what the model computes.
        longest: Int, the longest sequence of any leaf, in timesteps.
        left_out: Int, rows that the pass leaves out (`remainder="drop"`, shards).
        random_batches_timesteps: Float, what these sequences would have cost in batches of the same sizes
            filled at random and padded to their longest row. The exact expectation, without sampling.
        buckets: Tuple of `BucketPaddingStats`, the shortest first; empty where no buckets are known.
        shapes: Tuple of the distinct `(rows, padded length)`, or `(rows, padded length of each leaf)`, sorted.
        leaves: Tuple of `LeafPaddingStats`, one for each ragged leaf where there are several; else empty.
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
    shapes: tuple[tuple[int, ...], ...] = ()
    leaves: tuple[LeafPaddingStats, ...] = ()
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
        """Counts the padding of batches that have one sequence a row.

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
        return cls.from_leaves({"x": lengths}, batch_splits, {"x": padded_lengths}, buckets, left_out)

    @classmethod
    def from_leaves(
        cls,
        lengths: Mapping[str, np.ndarray],
        batch_splits: np.ndarray,
        padded_lengths: Mapping[str, np.ndarray],
        buckets: np.ndarray | None = None,
        left_out: int = 0,
    ) -> PaddingStats:
        """Counts the padding of batches that have one sequence a row in each of several leaves.

        Args:
            lengths: Dict from a leaf's name to its lengths, as in `from_batches`.
            batch_splits: As in `from_batches`.
            padded_lengths: Dict from a leaf's name to its padded lengths, as in `from_batches`.
            buckets: As in `from_batches`.
            left_out: As in `from_batches`.

        Returns:
            A `PaddingStats`.

        Raises:
            ValueError: If the arrays do not belong together.

        Example:
            >>> import numpy as np
            >>> stats = PaddingStats.from_leaves(
            ...     lengths={"source": np.array([2, 3]), "target": np.array([9, 1])},
            ...     batch_splits=np.array([0, 2]),
            ...     padded_lengths={"source": np.array([3]), "target": np.array([9])},
            ... )
            >>> {leaf.name: round(leaf.padding_efficiency, 3) for leaf in stats.leaves}
            {'source': 0.833, 'target': 0.556}
            >>> stats.real_timesteps, stats.total_timesteps
            (15, 24)
        """
        batch_splits = np.asarray(batch_splits, np.int64)
        rows = np.diff(batch_splits)
        real, total = np.zeros((2, rows.size), np.int64)
        longest_padded = np.zeros(rows.size, np.int64)
        shapes, leaves, random_timesteps = [rows.tolist()], [], 0.0
        for name, lengths_of_leaf in lengths.items():
            leaf, padded = np.asarray(lengths_of_leaf, np.int64), np.asarray(padded_lengths[name], np.int64)
            if batch_splits.size != padded.size + 1 or batch_splits[-1] - batch_splits[0] != leaf.size:
                raise ValueError(
                    "`batch_splits` must hold one entry more than there are batches, up to the number of rows. "
                    f"Received {leaf.size} lengths, {padded.size} padded lengths and {batch_splits.size} splits."
                )
            real_of_leaf = np.diff(row_splits_of(leaf)[batch_splits - batch_splits[0]])
            real += real_of_leaf
            total += rows * padded
            longest_padded = np.maximum(longest_padded, padded)
            shapes.append(padded.tolist())
            random_timesteps += expected_random_timesteps(leaf, rows)
            figures = int(leaf.max(initial=0)), int(real_of_leaf.sum()), int((rows * padded).sum())
            leaves.append(LeafPaddingStats(name, *figures))
        return cls(
            num_sequences=int(rows.sum()),
            num_batches=rows.size,
            real_timesteps=int(real.sum()),
            total_timesteps=int(total.sum()),
            longest=max(leaf.longest for leaf in leaves),
            left_out=int(left_out),
            random_batches_timesteps=random_timesteps,
            buckets=() if buckets is None else stats_of_buckets(buckets, rows, real, total, longest_padded),
            shapes=tuple(sorted(set(zip(*shapes, strict=True)))),
            leaves=tuple(leaves) if len(leaves) > 1 else (),
        )

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps; `nan` of nothing."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    @property
    def padding_ratio(self) -> float:
        """Float, 1 - padding efficiency, which is the share of the timesteps that is padding."""
        return 1.0 - self.padding_efficiency

    @property
    def pad_to_longest_timesteps(self) -> int:
        """Int, what padding all of these sequences to the longest, of each leaf, would have cost, in timesteps."""
        return self.num_sequences * (sum(leaf.longest for leaf in self.leaves) or self.longest)

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
        by_bucket = _sums(
            {stats.bucket: stats for stats in self.buckets}, {stats.bucket: stats for stats in other.buckets}
        )
        by_leaf = _sums({stats.name: stats for stats in self.leaves}, {stats.name: stats for stats in other.leaves})
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
            leaves=tuple(by_leaf.values()),
            seconds=self.seconds + other.seconds,
        )

    def __radd__(self, other: Any) -> PaddingStats:
        # sum() starts from the integer 0.
        return self if other == 0 else NotImplemented

    def __str__(self) -> str:
        longest = "" if self.leaves else f" ({self.longest})"
        saved = (
            f"{self.speedup_over_longest:.2f} x fewer than padded to the longest{longest}, "
            f"{self.speedup_over_random:.2f} x fewer than random batches"
        )
        text = (
            f"{self.num_sequences} sequences in {self.num_batches} batches of {len(self.shapes)} shapes"
            f"{f', {self.left_out} left out' if self.left_out else ''}\n"
            f"{self.real_timesteps} real of {self.total_timesteps} timesteps: "
            f"padding efficiency {self.padding_efficiency:.4f}\n{saved}"
        )
        tables = [leaf_table(self.leaves)] if self.leaves else []
        tables += [bucket_table(self.buckets)] if self.buckets else []
        return "\n".join([text, *tables])

    def to_dict(self) -> dict[str, Any]:
        """All figures, the calculated ones included, as numbers, lists and dicts; `None` stands for `nan`."""
        figures = dataclasses.asdict(self)
        figures["shapes"] = [list(shape) for shape in self.shapes]
        for name, parts in (("buckets", self.buckets), ("leaves", self.leaves)):
            figures[name] = [
                {**dataclasses.asdict(part), "padding_efficiency": _none_if_nan(part.padding_efficiency)}
                for part in parts
            ]
        for name in _CALCULATED:
            figures[name] = _none_if_nan(getattr(self, name))
        return figures

    def to_json(self) -> str:
        """The same as `to_dict()`, as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)


def padding_of_plan(
    plan: EpochPlan, lengths: Mapping[str, np.ndarray], start: int = 0, stop: int | None = None
) -> PaddingStats:
    """What the batches `start` to `stop - 1` of an epoch pad; all of them unless told otherwise.

    Rows that are left out belong to whole epochs only.

    Args:
        plan: The epoch.
        lengths: Dict from the name of each leaf to an int array, the timesteps of the rows that the plan's indices
            mean.
        start: Int, the first batch. Defaults to 0.
        stop: Int, one after the last batch. Defaults to None: all that there are.
    """
    stop = len(plan) if stop is None else min(stop, len(plan))
    splits = plan.batch_splits[start : stop + 1]
    is_whole = start == 0 and stop == len(plan)
    rows = plan.rows[splits[0] : splits[-1]]
    return PaddingStats.from_leaves(
        {name: of_leaf[rows] for name, of_leaf in lengths.items()},
        splits,
        {name: padded[start:stop] for name, padded in plan.leaf_padded_lengths.items()},
        buckets=plan.buckets[start:stop],
        left_out=len(plan.left_out) if is_whole else 0,
    )


_Part = TypeVar("_Part", BucketPaddingStats, LeafPaddingStats)
_Key = TypeVar("_Key", int, str)


def _sums(mine: dict[_Key, _Part], others: dict[_Key, _Part]) -> dict[_Key, _Part]:
    """The parts of both, those with one key added up."""
    return {**mine, **{key: mine[key] + part if key in mine else part for key, part in others.items()}}


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
