"""Outliers, a few sequences that cost a large share of every epoch: finding them, naming them, and the remedies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.bucket_choice import MAX_OUTLIER_SHARE
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import BatchCuts, BatchRules
from keras_bucketing.planning.epoch_plan import EpochPlan

LARGE_SHARE = 1 / 3  # of an epoch's padded timesteps
_MAX_NAMED = 3


class OutlierWarning(UserWarning):
    """A few sequences cost more than a third of the padded timesteps of every epoch; see docs/buckets-and-sizes.md.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", OutlierWarning)  # if this is intended
    """


class Outliers(NamedTuple):
    """At most one in a hundred sequences, which cost more than a third of an epoch's padded timesteps.

    Attributes:
        name: Str, the leaf of the sequences, e.g. `x` or `y`.
        rows: Int array `(num_outliers,)`, their rows, the longest first.
        lengths: Int array `(num_outliers,)`, in timesteps.
        next_length: Int, the length of the longest other sequence, in timesteps.
        share: Float, the share of the padded timesteps that an epoch would save if they were cut to that length.
        is_label: Bool, whether they are labels of their own length.
    """

    name: str
    rows: RowIndices
    lengths: Lengths
    next_length: int
    share: float
    is_label: bool = False

    def of_distinct_rows(self, rows: RowIndices) -> Outliers:
        """The same outliers, given as positions in these rows, some of which are repeated."""
        given = rows[self.rows]
        first = np.sort(np.unique(given, return_index=True)[1])
        return self._replace(rows=given[first], lengths=self.lengths[first])

    def __str__(self) -> str:
        named = [
            f"{self.name}[{row}] ({length} timesteps)" for row, length in zip(self.rows, self.lengths, strict=True)
        ]
        more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
        cut = "" if self.is_label else f"Cut them with maxlen={self.next_length}, leave"
        return (
            f"{len(named)} of the sequences cost{'s' if len(named) == 1 else ''} {self.share:.0%} of an epoch's padded "
            f"timesteps: {', '.join(named[:_MAX_NAMED])}{more}; all others have at most {self.next_length}. "
            f"{cut or 'Leave'} them out, limit their batches with max_timesteps_per_batch={int(self.lengths[0])}, or "
            f"give them a separate batch with a boundary at {self.next_length + 1}."
        )


def find_outliers(lengths: Lengths, padded_if_cut: Callable[[int], float], name: str = "x") -> Outliers | None:
    """Finds the smallest number of the longest rows, at most one in a hundred, that cost more than a third of an epoch.

    Args:
        lengths: Int array `(num_rows,)`.
        padded_if_cut: Function from a length to the padded timesteps of an epoch whose sequences are cut to it.
        name: Str, the leaf of the sequences.
    """
    most = int(len(lengths) * MAX_OUTLIER_SHARE)
    if not most:
        return None
    longest = np.argpartition(lengths, -most - 1)[-most - 1 :]
    longest = longest[np.lexsort((longest, -lengths[longest]))]
    padded = padded_if_cut(int(lengths[longest[0]]))

    def share(number: int) -> float:
        return 1 - padded_if_cut(int(lengths[longest[number]])) / padded

    if share(most) <= LARGE_SHARE:
        return None
    # The share grows with the number: by bisection.
    too_few, enough = 0, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if share(middle) > LARGE_SHARE else (middle, enough)
    rows, following = longest[:enough], int(lengths[longest[enough]])
    return Outliers(name, rows, lengths[rows], following, share(enough))


def may_have_outliers(leaves: Sequence[LeafLengths], buckets: Buckets, cuts: BatchCuts) -> bool:
    """Whether there may be outliers in some leaf, by a bound that needs no plan."""
    real = sum(int(leaf.lengths.sum()) for leaf in leaves)
    most = int(len(buckets.row_buckets) * MAX_OUTLIER_SHARE)
    if not most:
        return False
    rows = np.bincount(cuts.buckets, cuts.stops - cuts.starts, minlength=len(buckets.counts))
    for leaf in leaves:
        following = np.partition(leaf.lengths, -most - 1)[-most - 1]
        # Rows that spill come from shorter buckets, but their labels may be longer.
        longest = np.maximum.accumulate(buckets.longest(leaf.lengths))
        if rows @ np.maximum(longest - following, 0) > LARGE_SHARE * real:
            return True
    return False


def outliers_of_plan(
    plan: EpochPlan, leaves: Sequence[LeafLengths], buckets: Buckets, rules: BatchRules
) -> Outliers | None:
    """The outliers of the leaf in which they cost the most, in an epoch like this one."""
    sizes = np.diff(plan.batch_splits)
    total = sum(float(sizes @ padded) for padded in plan.leaf_padded_lengths.values())
    found: list[Outliers] = []
    for leaf in leaves:
        padded = plan.leaf_padded_lengths[leaf.name]
        others = total - float(sizes @ padded)

        def padded_if_cut(
            length: int,
            padded: Lengths = padded,
            others: float = others,
            is_label: bool = leaf.is_label,
            name: str = leaf.name,
        ) -> float:
            if not is_label:  # what a sequence of that length would be padded to all the same
                length = max(length, rules.min_length)
                if rules.pad_to_bucket_boundary:
                    length = buckets.padded_to_boundary(name, length)
            return others + float(sizes @ np.minimum(padded, length))

        outliers = find_outliers(leaf.lengths, padded_if_cut, leaf.name)
        if outliers is not None:
            found.append(outliers._replace(is_label=leaf.is_label))
    return max(found, key=lambda outliers: outliers.share, default=None)
