"""Padding as numbers that can be added and printed: of all batches, of each bucket, of each leaf."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from keras_bucketing.data.row_splits import Lengths, row_splits_of
from keras_bucketing.padding.text_table import Share, format_table, table_as_html, text_as_html
from keras_bucketing.planning.boundaries import Counts
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.planning.forecast import expected_random_timesteps


class PaddedTimesteps:
    """A dataclass with these two fields."""

    real_timesteps: int
    total_timesteps: float

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps; `nan` without timesteps."""
        return self.real_timesteps / self.total_timesteps if self.total_timesteps else math.nan

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, lists and dicts; `None` stands for `nan`."""
        return {**vars(self), "padding_efficiency": _none_if_nan(self.padding_efficiency)}


@dataclasses.dataclass(frozen=True)
class _PaddedPart(PaddedTimesteps):
    """The padding of one part of the batches; the first field identifies the part."""

    def __add__(self: _Part, other: _Part) -> _Part:
        return dataclasses.replace(self, **_added(self, other, list(vars(self))[1:]))


@dataclasses.dataclass(frozen=True)
class BucketPaddingStats(_PaddedPart):
    """The padding of the batches of one bucket.

    Attributes:
        bucket: Int, the index of the bucket, the shortest first; nested ones in lexicographic order.
        longest: Int, the longest padded length among its batches, in timesteps.
        num_sequences: Int, the rows of its batches, including rows that spilled into it from shorter buckets.
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


@dataclasses.dataclass(frozen=True)
class LeafPaddingStats(_PaddedPart):
    """The padding of one of several leaves, such as the source or the target of a translation.

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


_Part = TypeVar("_Part", bound=_PaddedPart)


@dataclasses.dataclass(frozen=True)
class PaddingStats(PaddedTimesteps):
    """The padding of a number of batches.

    Every ragged leaf counts. If a row has several sequences, such as a source and a target, or labels of their own
    length, the figures are the sums over all of them. Labels per timestep are padded like their sequences and do not
    count again.

    Statistics can be added with `+` and `sum()`; `PaddingStats()` is the zero. Add only those with the same buckets and
    leaves: buckets are matched by index, leaves by name.

    Attributes:
        num_sequences: Int, rows in the batches.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Int, sum over the batches of rows x padded length, which is what the model computes.
        longest: Int, the longest sequence of any leaf, in timesteps.
        left_out: Int, rows that the pass leaves out (`remainder="drop"`, shards).
        random_batches_timesteps: Float, the timesteps of these sequences in random batches of the same sizes, padded to
            their longest row. The exact expectation, without sampling.
        buckets: Tuple of `BucketPaddingStats`, the shortest first; empty if no buckets are known.
        shapes: Tuple of the distinct `(rows, padded length)`, or `(rows, padded length of each leaf)`, sorted.
        leaves: Tuple of `LeafPaddingStats`, one for each ragged leaf if there are several; else empty.
        seconds: Float, the duration of the epoch if it was measured, else 0. Not compared by `==`.

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
        lengths: Lengths,
        batch_splits: Counts,
        padded_lengths: Lengths,
        buckets: Counts | None = None,
        left_out: int = 0,
    ) -> PaddingStats:
        """Counts the padding of batches that have one sequence per row.

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
        lengths: Mapping[str, Lengths],
        batch_splits: Counts,
        padded_lengths: Mapping[str, Lengths],
        buckets: Counts | None = None,
        left_out: int = 0,
    ) -> PaddingStats:
        """Counts the padding of batches that have one sequence per row in each of several leaves.

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
        for name in lengths:
            leaf, padded = np.asarray(lengths[name], np.int64), np.asarray(padded_lengths[name], np.int64)
            if batch_splits.size != padded.size + 1 or batch_splits[-1] - batch_splits[0] != leaf.size:
                raise ValueError(
                    "`batch_splits` must hold one entry more than there are batches, up to the number of rows. "
                    f"Received {leaf.size} lengths, {padded.size} padded lengths and {batch_splits.size} splits."
                )
            leaf_real = np.diff(row_splits_of(leaf)[batch_splits - batch_splits[0]])
            real += leaf_real
            total += rows * padded
            longest_padded = np.maximum(longest_padded, padded)
            shapes.append(padded.tolist())
            random_timesteps += expected_random_timesteps(leaf, rows)
            figures = int(leaf.max(initial=0)), int(leaf_real.sum()), int((rows * padded).sum())
            leaves.append(LeafPaddingStats(name, *figures))
        return cls(
            num_sequences=int(rows.sum()),
            num_batches=rows.size,
            real_timesteps=int(real.sum()),
            total_timesteps=int(total.sum()),
            longest=max(leaf.longest for leaf in leaves),
            left_out=int(left_out),
            random_batches_timesteps=random_timesteps,
            buckets=() if buckets is None else _bucket_stats(buckets, rows, real, total, longest_padded),
            shapes=tuple(sorted(set(zip(*shapes, strict=True)))),
            leaves=tuple(leaves) if len(leaves) > 1 else (),
        )

    @property
    def padding_ratio(self) -> float:
        """Float, 1 - padding efficiency, the share of timesteps that are padding."""
        return 1.0 - self.padding_efficiency

    @property
    def pad_to_longest_timesteps(self) -> int:
        """Int, the timesteps of all these sequences padded to the longest, of each leaf."""
        return self.num_sequences * (sum(leaf.longest for leaf in self.leaves) or self.longest)

    @property
    def speedup_over_longest(self) -> float:
        """Float, timesteps of everything padded to the longest / those of these batches; below 1 means more."""
        return self.pad_to_longest_timesteps / self.total_timesteps if self.total_timesteps else math.nan

    @property
    def speedup_over_random(self) -> float:
        """Float, timesteps of batches filled at random / those of these batches; below 1 means more."""
        return self.random_batches_timesteps / self.total_timesteps if self.total_timesteps else math.nan

    @property
    def real_timesteps_per_second(self) -> float:
        """Float, real timesteps per second; `nan` if the time was not measured."""
        return self.real_timesteps / self.seconds if self.seconds else math.nan

    def __add__(self, other: object) -> PaddingStats:
        if not isinstance(other, PaddingStats):
            return NotImplemented
        figures = _added(self, other, [name for name in vars(self) if name not in ("buckets", "shapes", "leaves")])
        return PaddingStats(
            **figures,
            buckets=tuple(sorted(_added_parts(self.buckets, other.buckets), key=lambda stats: stats.bucket)),
            shapes=tuple(sorted({*self.shapes, *other.shapes})),
            leaves=_added_parts(self.leaves, other.leaves),
        )

    def __radd__(self, other: object) -> PaddingStats:
        # sum() starts from the integer 0.
        return self if other == 0 else NotImplemented

    def __str__(self) -> str:
        return "\n".join([self._head(), *(format_table(*table) for table in self._tables())])

    def _repr_html_(self) -> str:
        return "".join([text_as_html(self._head()), *(table_as_html(*table) for table in self._tables())])

    def plot(self, ax: Any = None) -> Any:
        """Draws the real timesteps and the padding of each bucket; without buckets, of all batches.

        Args:
            ax: A Matplotlib axes. Defaults to None: a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: If Matplotlib is missing; the extra `plot` installs it.
            ValueError: If these are the figures of no batch.
        """
        from keras_bucketing.padding.pictures import plot_padding_stats

        return plot_padding_stats(self, ax=ax)

    def _head(self) -> str:
        longest = "" if self.leaves else f" ({self.longest})"
        saved = (
            f"padded to the longest{longest}: {self.speedup_over_longest:.2f} x as many timesteps; "
            f"in random batches: {self.speedup_over_random:.2f} x"
        )
        return (
            f"{self.num_sequences} sequences in {self.num_batches} batches of {len(self.shapes)} shapes"
            f"{f', {self.left_out} left out' if self.left_out else ''}\n"
            f"{self.real_timesteps} real of {self.total_timesteps} timesteps: "
            f"padding efficiency {self.padding_efficiency:.4f}\n{saved}"
        )

    def _tables(self) -> list[tuple[list[str], list[list[object]]]]:
        """Header and rows: a line for each leaf, and a line for each bucket."""
        return [
            (
                [*head, "real", "timesteps", "efficiency"],
                [[*vars(part).values(), Share(part.padding_efficiency)] for part in parts],
            )
            for head, parts in (
                (["leaf", "longest"], self.leaves),
                (["bucket", "padded to", "sequences", "batches"], self.buckets),
            )
            if parts
        ]

    def to_dict(self) -> dict[str, Any]:
        """All figures, the calculated ones included, as numbers, lists and dicts; `None` stands for `nan`."""
        return {
            **vars(self),
            "buckets": [bucket.to_dict() for bucket in self.buckets],
            "shapes": [list(shape) for shape in self.shapes],
            "leaves": [leaf.to_dict() for leaf in self.leaves],
            **{name: _none_if_nan(getattr(self, name)) for name in _CALCULATED},
        }

    def to_json(self) -> str:
        """The same as `to_dict()`, as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)


def padding_of_plan(
    plan: EpochPlan, lengths: Mapping[str, Lengths], start: int = 0, stop: int | None = None
) -> PaddingStats:
    """What the batches `start` to `stop - 1` of an epoch pad; all of them unless told otherwise.

    Rows that are left out belong to whole epochs only. `lengths` holds, by the name of each leaf, the timesteps of the
    rows that the plan's indices mean.
    """
    stop = len(plan) if stop is None else min(stop, len(plan))
    splits = plan.batch_splits[start : stop + 1]
    is_whole = start == 0 and stop == len(plan)
    rows = plan.rows[splits[0] : splits[-1]]
    return PaddingStats.from_leaves(
        {name: leaf_lengths[rows] for name, leaf_lengths in lengths.items()},
        splits,
        {name: padded[start:stop] for name, padded in plan.leaf_padded_lengths.items()},
        buckets=plan.buckets[start:stop],
        left_out=len(plan.left_out) if is_whole else 0,
    )


def _bucket_stats(
    buckets: Counts, rows: Counts, real: Lengths, total: Lengths, padded_lengths: Lengths
) -> tuple[BucketPaddingStats, ...]:
    """Adds the batches of each bucket up, arrays `(num_batches,)`; the shortest bucket that has a batch first."""
    indices, position = np.unique(buckets, return_inverse=True)
    sums = np.zeros((4, indices.size), np.int64)
    for figure, batches in zip(sums, (rows, np.ones_like(rows), real, total), strict=True):
        np.add.at(figure, position, batches)
    longest = np.zeros(indices.size, np.int64)
    np.maximum.at(longest, position, padded_lengths)
    return tuple(BucketPaddingStats(*column) for column in np.stack([indices, longest, *sums], axis=1).tolist())


def _added(first: PaddedTimesteps, second: PaddedTimesteps, names: list[str]) -> dict[str, Any]:
    """The figures of these names of both together: sums, but for the longest."""
    return {
        name: (max if name == "longest" else operator.add)(getattr(first, name), getattr(second, name))
        for name in names
    }


def _added_parts(first: tuple[_Part, ...], second: tuple[_Part, ...]) -> tuple[_Part, ...]:
    """The parts of both, those of the same bucket or leaf added up."""
    sums: dict[int | str, _Part] = {}
    for part in (*first, *second):
        key = next(iter(vars(part).values()))
        sums[key] = sums[key] + part if key in sums else part
    return tuple(sums.values())


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
