"""The choice of the buckets: given boundaries, or those of minimum padding, and an automatic number of them.

Minimum padding puts every row into its own bucket. Real batches do not: rows that do not fill a batch spill into the
next longer one, and on a heavy tail this takes back what many buckets gain. So each number of buckets is judged by the
padding that is left after its batches are cut.

Buckets with at least a batch of rows make the most random batches, and are taken if they come close to the best. With
"spill", if they do not, buckets of fewer rows are tried as well. NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import check_integer, show
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.boundaries import (
    Counts,
    best_partitions,
    boundaries_after,
    boundaries_of_counts,
    count_lengths,
    is_nested,
    optimal_bucket_boundaries,
)
from keras_bucketing.planning.bucket_arguments import check_bucket_arguments, check_nested_number, is_one_number
from keras_bucketing.planning.buckets import BatchSizing, Buckets
from keras_bucketing.planning.cuts import (
    BatchRules,
    BatchSpans,
    batch_spans,
    longest_within,
    passage_of,
    spans_of,
)
from keras_bucketing.planning.draws import Sampling, count_weights, expected_draws, typical_lengths
from keras_bucketing.planning.forecast import LengthTable, ShuffledBatches
from keras_bucketing.planning.nested_buckets import (
    DrawnEpoch,
    first_outlier_bucket,
    nested_candidates,
    optimal_nested_boundaries,
    padded_at_least,
    two_levels,
)

MAX_BUCKETS = 32
# Enough: beyond it another bucket buys little and makes the batches less random.
ENOUGH_EFFICIENCY = 0.95
# Where that cannot be reached: this share of the best that can. On long tails it costs about 2 % more timesteps for
# a fifth to a third fewer repeated pairs (`python -m benchmarks.automatic_buckets`).
SHARE_OF_BEST = 0.975
# Buckets of a batch of rows at least stay where they reach this share of what smaller ones reach as well.
SHARE_OF_SMALLER = 0.965
# Of nested buckets, at most as many as batches, the fewest that are this close to the best.
SHARE_OF_NESTED = 0.99
# A few rows are kept apart from those that would spill into their bucket where that saves so much of the timesteps.
SAVED_APART = 0.1
MAX_OUTLIER_SHARE = 0.01  # of the rows
_MIN_ROWS = 100  # for smaller buckets: of fewer rows, each batch is much like any other
_MORE_BATCHES = 1.05  # that smaller buckets may make
_MAX_POINTS = 256  # of an expectation, to compare choices by; within 1e-4 of the exact one
# Nested buckets are many: of fewer batches, each would hold a single one, in every epoch the same.
_MIN_BATCHES_TO_NEST = 32
# With one shape a bucket, each has to save so much of the timesteps: compiling a shape takes XLA 2 to 3 seconds, which
# is that share of a training of four minutes.
SAVED_BY_A_SHAPE = 0.01


def choose_buckets(
    lengths: Lengths,
    sizing: BatchSizing,
    bucket_boundaries: object = None,
    num_buckets: object = None,
    pad_to_bucket_boundary: bool = False,
    kept: Counts | None = None,
    minlen: int = 1,
    remainder: str = "spill",
    leaves: Sequence[LeafLengths] = (),
    sampling: Sampling | None = None,
    levels: Sequence[str] = (),
) -> Buckets:
    """Finds the buckets, from given boundaries or with minimum padding.

    Args:
        lengths: Int64 array `(num_rows,)`, timesteps.
        sizing: The checked sizes.
        bucket_boundaries: Ints or None, as the user gave them.
        num_buckets: Int or None, as the user gave it.
        pad_to_bucket_boundary: Whether batches are padded to the longest allowed length, which a budget then counts.
        kept: Int array `(num_rows,)` or None: the index of each row in error messages.
        minlen: Int, the minimum padded length. No bucket ends below it unless the user gives such boundaries, and a
            budget counts it.
        remainder: What happens to rows that do not fill a batch of their bucket; the automatic number depends on it.
        leaves: The leaves, if there are several. A budget counts the longest of them; nested buckets use two.
        sampling: How often these rows are drawn; None if each is read once.
        levels: The names of the outer and the inner leaf of nested buckets; empty to find them.
    """
    given = check_bucket_arguments(bucket_boundaries, num_buckets, sizing, takes_nested=True)
    rules = BatchRules(remainder, sizing.multiple, pad_to_bucket_boundary, minlen)
    rows = _Rows(lengths, leaves, kept, sizing, rules, sampling, levels)
    number = None if is_one_number(num_buckets) else check_nested_number(num_buckets)
    if is_nested(given):
        return rows.with_sizes(Buckets.nested(*_two_levels(rows, "bucket_boundaries"), given))
    if number is not None:
        outer, inner = _two_levels(rows, "num_buckets")
        padded = padded_at_least(outer, minlen), padded_at_least(inner, minlen)
        found = optimal_nested_boundaries(*padded, number, None if sampling is None else sampling.weights)
        return rows.with_sizes(Buckets.nested(outer, inner, found))
    if given is None:
        boundaries = _find_boundaries(np.maximum(lengths, minlen), sizing, num_buckets, rules, sampling)
    else:
        boundaries = given
    buckets = rows.with_sizes(Buckets.from_lengths(lengths, boundaries))
    if given is None and num_buckets is None and sizing.bucket_batch_sizes is None:
        return _nested_if_better(rows, buckets)
    return buckets


@dataclass(frozen=True)
class _Rows:
    """The rows to choose buckets for, and how their batches are sized and cut; as in `choose_buckets`."""

    lengths: Lengths
    leaves: Sequence[LeafLengths]
    kept: Counts | None
    sizing: BatchSizing
    rules: BatchRules
    sampling: Sampling | None = None
    level_names: Sequence[str] = ()

    @cached_property
    def drawn(self) -> DrawnEpoch:
        """An epoch with which buckets of several leaves are judged."""
        return DrawnEpoch.of(self.leaves, self.rules.min_length)

    def with_sizes(self, buckets: Buckets) -> Buckets:
        """The same buckets with their batch sizes, and with outliers apart."""
        sizing, rules = self.sizing, self.rules
        if self.sampling is not None:
            draws = self.sampling.rounded_draws(buckets.row_buckets, len(buckets.upper_lengths), sizing.multiple)
            buckets = replace(buckets, draws=draws)
        if sizing.bucket_batch_sizes is not None:
            if len(sizing.bucket_batch_sizes) != len(buckets.upper_lengths):  # too few distinct lengths for as many
                raise ValueError(
                    "`bucket_batch_sizes` must have one entry for each bucket. Expected "
                    f"{len(buckets.upper_lengths)} for the boundaries {show(buckets.boundaries)}, received "
                    f"{len(sizing.bucket_batch_sizes)}."
                )
            return self._keep_outliers_apart(replace(buckets, batch_sizes=sizing.bucket_batch_sizes))
        padded_lengths = buckets.upper_lengths
        if not rules.pad_to_bucket_boundary:  # then a batch is no longer than the longest row of its bucket
            padded_lengths = np.where(buckets.counts > 0, buckets.longest(self.lengths), padded_lengths)
        padded_lengths = np.maximum(padded_lengths, rules.min_length)
        if sizing.max_timesteps_per_batch is not None:
            _check_budget(buckets, padded_lengths, self.lengths, sizing, self.kept, rules.min_length)
            for leaf in self.leaves:
                if leaf.is_label:
                    _check_labels_budget(leaf, sizing, self.kept)
            sized = self._keep_outliers_apart(self._with_budget(buckets, padded_lengths))
            if sized.apart is None:
                return sized
            return self._with_budget(replace(buckets, apart=sized.apart), padded_lengths)  # other rows spill further
        sizes = np.maximum(sizing.rows_at(padded_lengths), sizing.multiple).tolist()
        return self._keep_outliers_apart(replace(buckets, batch_sizes=sizes))

    def _with_budget(self, buckets: Buckets, padded_lengths: Lengths) -> Buckets:
        """The rows that fit into a budget: of a bucket's own, and of batches into which shorter buckets have spilled.

        Rows that spill are not longer than those of the bucket in the leaf that decides it, but may be in all others.
        """

        def rows_at(lengths: Lengths) -> Counts:
            return np.maximum(self.sizing.rows_at(lengths), self.sizing.multiple)

        others = [buckets.longest(leaf.lengths) for leaf in self.leaves if leaf.is_label or buckets.levels]
        if not others:
            return replace(buckets, batch_sizes=rows_at(padded_lengths).tolist())
        longest = np.maximum.reduce([padded_lengths, *others])
        sizes = rows_at(longest)
        spilled = np.where(buckets.counts > 0, longest, 0)
        order, last = passage_of(buckets, self.rules.remainder)
        in_order, mixed = buckets.counts[order], sizes
        filled, row_ends = np.flatnonzero(in_order), np.cumsum(in_order)
        are_mixed = not buckets.levels  # as if all batches of a bucket held such rows, so that they have one size
        # Which rows spill into a bucket depends on how those of the shorter ones are cut: each turn settles one bucket
        # more, as a rule nearly all.
        while True:
            sizes = mixed if are_mixed else sizes
            sized = replace(buckets, batch_sizes=sizes.tolist(), mixed_sizes=mixed.tolist())
            begins = spans_of(sized, self.rules.remainder, self.rules.multiple).begins[order[filled]]
            first = np.minimum(np.searchsorted(row_ends, begins, side="right"), filled)
            settled = mixed.copy()
            settled[order[filled]] = rows_at(longest_within(spilled[order], first, last[filled]))
            if np.array_equal(settled, mixed):
                return replace(sized, mixed_sizes=None if np.array_equal(mixed, sizes) else mixed.tolist())
            mixed = settled

    def _keep_outliers_apart(self, buckets: Buckets) -> Buckets:
        if self.sampling is not None and buckets.draws is not None:
            expected = expected_draws(self.sampling.weights, buckets.row_buckets, buckets.draws)
            epoch_lengths = typical_lengths(self.lengths, expected)
            return buckets if buckets.levels else keep_outliers_apart(buckets, self.lengths, self.rules, epoch_lengths)
        if not buckets.levels:
            return keep_outliers_apart(buckets, self.lengths, self.rules)
        apart = first_outlier_bucket(buckets, self.drawn, self.rules, MAX_OUTLIER_SHARE, SAVED_APART)
        return replace(buckets, apart=apart)


def _two_levels(rows: _Rows, argument: str) -> tuple[LeafLengths, LeafLengths]:
    levels = two_levels(rows.leaves, rows.level_names)
    if levels is None:
        raise ValueError(
            f"`{argument}` of nested buckets needs rows with two lengths: several sequences in `x`, or labels of their "
            "own length. Received rows with a single one. Pass "
            f"{'one int' if argument == 'num_buckets' else 'a flat list'}."
        )
    return levels


def _nested_if_better(rows: _Rows, buckets: Buckets) -> Buckets:
    """These buckets, or nested ones if rows of several lengths are padded less in them."""
    levels = two_levels(rows.leaves, rows.level_names)
    if (
        levels is None
        or rows.sampling is not None
        or rows.rules.remainder != "spill"
        or rows.rules.pad_to_bucket_boundary
    ):
        return buckets
    outer, inner = levels
    if np.array_equal(outer.lengths, inner.lengths):
        return buckets
    num_batches = int(spans_of(buckets, rows.rules.remainder, rows.rules.multiple).num_batches.sum())
    if num_batches < _MIN_BATCHES_TO_NEST:
        return buckets
    now = rows.drawn.timesteps(buckets, rows.rules).efficiency
    if now >= ENOUGH_EFFICIENCY:
        return buckets
    most = optimal_bucket_boundaries(np.maximum(rows.lengths, rows.rules.min_length), MAX_BUCKETS)
    of_most = rows.with_sizes(Buckets.from_lengths(rows.lengths, most))
    now = max(now, rows.drawn.timesteps(of_most, rows.rules).efficiency)
    max_batches = _MORE_BATCHES * num_batches + 1
    found: list[tuple[Buckets, float]] = []
    padded = padded_at_least(outer, rows.rules.min_length), padded_at_least(inner, rows.rules.min_length)
    for boundaries in nested_candidates(*padded, num_batches):
        nested = rows.with_sizes(Buckets.nested(outer, inner, boundaries))
        epoch = rows.drawn.timesteps(nested, rows.rules)
        if epoch.num_batches <= max_batches:
            found.append((nested, epoch.efficiency))
    best = max((efficiency for _, efficiency in found), default=0.0)
    if now >= SHARE_OF_BEST * best:
        return buckets
    enough = min(ENOUGH_EFFICIENCY, SHARE_OF_NESTED * best)
    return min((choice for choice, efficiency in found if efficiency >= enough), key=lambda choice: len(choice.counts))


def _find_boundaries(
    lengths: Lengths, sizing: BatchSizing, num_buckets: object, rules: BatchRules, sampling: Sampling | None
) -> list[int]:
    if sizing.bucket_batch_sizes is not None:
        wanted = len(sizing.bucket_batch_sizes)
        distinct = len(np.unique(lengths))
        if distinct < wanted:
            raise ValueError(
                f"`bucket_batch_sizes` has more entries than there are distinct lengths. Expected at most {distinct}, "
                f"received {wanted}. Pass fewer sizes."
            )
        num_buckets = wanted
    if num_buckets is not None:
        counts = count_lengths(lengths) if sampling is None else count_weights(lengths, sampling.weights)
        return boundaries_of_counts(*counts, check_integer("num_buckets", num_buckets))
    if sampling is not None:
        shares = sampling.weights / np.cumsum(sampling.weights)[-1]
        lengths = typical_lengths(lengths, shares * sampling.num_draws)
    return automatic_bucket_boundaries(lengths, sizing.rows_at, rules)


def _check_budget(
    buckets: Buckets,
    padded_lengths: Lengths,
    lengths: Lengths,
    sizing: BatchSizing,
    kept: Counts | None,
    minlen: int,
) -> None:
    """Refuses a budget that cannot hold one row (or `multiple` rows) of some bucket, padded to `padded_lengths`."""
    too_long = np.flatnonzero((buckets.counts > 0) & (padded_lengths > sizing.longest_in_budget))
    if not too_long.size:
        return
    bucket = int(too_long[-1])
    row = int(np.argmax(np.where(buckets.row_buckets == bucket, lengths, -1)))
    needed = int(padded_lengths[bucket])
    padded = f", padded to {needed}" if needed > lengths[row] else ""
    fix = f", or cut long sequences with maxlen={sizing.longest_in_budget}" if sizing.longest_in_budget else ""
    if padded:
        fix = ", or lower minlen" if needed == minlen else ", or lower that bucket's boundary"
    at = f"x[{row if kept is None else kept[row]}]{padded}"
    raise ValueError(_too_small_a_budget(sizing, needed, int(lengths[row]), at, fix))


def _check_labels_budget(leaf: LeafLengths, sizing: BatchSizing, kept: Counts | None) -> None:
    """Refuses a budget that cannot hold the longest labels of their own length."""
    row = int(np.argmax(leaf.lengths))
    longest = int(leaf.lengths[row])
    if longest > sizing.longest_in_budget:
        at = f"{leaf.name}[{row if kept is None else kept[row]}]"
        raise ValueError(_too_small_a_budget(sizing, longest, longest, at, ", or leave that row out"))


def _too_small_a_budget(sizing: BatchSizing, padded: int, length: int, at: str, fix: str) -> str:
    square = "" if sizing.quadratic_length is None else f", {padded} + {padded}^2 / {sizing.quadratic_length} each"
    return (
        f"`max_timesteps_per_batch` must hold at least {sizing.multiple} row{'s' if sizing.multiple > 1 else ''} of "
        f"every sequence. Expected at least {sizing.budget_for(padded)} for the {length} timesteps of {at}{square}, "
        f"received {sizing.max_timesteps_per_batch}. Raise the budget{fix}."
    )


def keep_outliers_apart(
    buckets: Buckets, lengths: Lengths, rules: BatchRules, epoch_lengths: Lengths | None = None
) -> Buckets:
    """Finds out whether a few of the longest rows cost so much that no others may spill into their buckets.

    Then one more bucket ends in a partial batch, the same in every epoch. `epoch_lengths` are the lengths of the rows
    of an epoch, if it draws them by weights.
    """
    longest = np.maximum(buckets.longest(lengths), rules.min_length)
    if rules.pad_to_bucket_boundary:
        longest = np.maximum(longest, buckets.upper_lengths)
    partition = _Partition(buckets.counts, np.array(buckets.batch_sizes), longest)
    lengths = lengths if epoch_lengths is None else epoch_lengths
    if not partition.outlier_buckets(rules, int(lengths.sum())):
        return buckets
    table = LengthTable.from_counts(*count_lengths(np.maximum(lengths, rules.min_length)), _MAX_POINTS)
    return replace(buckets, apart=partition.judge(table, rules).apart)


class _Judged(NamedTuple):
    """A partition that has been cut: its forecast, and the first bucket that nothing spills into."""

    efficiency: float
    batches: ShuffledBatches
    apart: int | None


class _Partition(NamedTuple):
    """Buckets as int arrays `(num_buckets,)`: their rows, the rows of a batch, and the longest padded length."""

    counts: Counts
    batch_sizes: Counts
    longest: Lengths

    def cut(self, rules: BatchRules, apart: int | None = None) -> BatchSpans:
        """The rows that the batches of each bucket take."""
        return batch_spans(self.counts, self.batch_sizes, rules.remainder, rules.multiple, apart)

    def outlier_buckets(self, rules: BatchRules, real_timesteps: int) -> list[int]:
        """The first buckets whose rows are few enough to be outliers, if others spill into them and may cost much."""
        ends = np.cumsum(self.counts)
        is_few = ends[-1] - (ends - self.counts) <= MAX_OUTLIER_SHARE * ends[-1]
        if rules.remainder != "spill" or not (is_few & (self.counts > 0)).any():
            return []
        spilled = (ends - self.counts) - self.cut(rules).begins
        costs = spilled * self.longest[-1] > SAVED_APART * real_timesteps
        return np.flatnonzero(is_few & costs & (self.counts > 0) & (ends > self.counts)).tolist()

    def judge(self, table: LengthTable, rules: BatchRules) -> _Judged:
        """Cuts the rows of these lengths, and keeps outliers apart if that saves enough."""
        real = int(table.timesteps_up_to[-1])
        lengths = None if rules.pad_to_bucket_boundary else table

        def judge(apart: int | None) -> _Judged:
            batches = ShuffledBatches(self.cut(rules, apart), self.counts, self.longest, lengths)
            # Of the rows that are left out nothing is known but their mean length. Rounded, for processors round the
            # last digits of logarithms in different ways, and all processes must choose the same.
            share = real * int(batches.spans.rows.sum()) / int(self.counts.sum())
            return _Judged(round(share / max(batches.padded_timesteps, 1), 6), batches, apart)

        best = judge(None)
        outliers = self.outlier_buckets(rules, real)
        if outliers:
            apart = min(outliers, key=lambda bucket: int(self.cut(rules, bucket).rows @ self.longest))
            alone = judge(apart)
            if best.efficiency <= (1 - SAVED_APART) * alone.efficiency:
                return alone
        return best


def automatic_bucket_boundaries(
    lengths: Lengths, batch_rows: Callable[[Lengths], Counts], rules: BatchRules
) -> list[int]:
    """Finds the smallest number of minimum-padding buckets that come close to the best.

    With "spill", if buckets with at least a batch of rows do clearly worse than smaller ones, it takes the most random
    of those that come close, or the fewest where each bucket is a shape to compile.

    Args:
        lengths: Int64 array of shape `(num_sequences,)`.
        batch_rows: Function from longest lengths, shape `(num_distinct,)`, to the rows of a batch of a bucket that ends
            there. It must not grow with the length.
        rules: How batches are cut. If they are padded to the boundary, each bucket is a shape to compile, and must save
            1 % of the timesteps.

    Returns:
        List of boundaries, as of `optimal_bucket_boundaries`. At most 32 buckets, and one bucket if the data are too
        few for two.
    """
    distinct, counts = count_lengths(lengths)
    sizes = np.maximum(batch_rows(distinct), rules.multiple)
    max_buckets = min(MAX_BUCKETS, len(distinct))
    rows_before = np.concatenate([[0], np.cumsum(counts)])
    timesteps_before = np.concatenate([[0], np.cumsum(counts * distinct)])

    def partition_of(ends: list[int]) -> _Partition:
        last = np.array(ends) - 1
        return _Partition(np.diff(rows_before[[0, *ends]]), sizes[last], distinct[last])

    choices: list[list[int]] = []
    efficiencies: list[float] = []
    for ends, _ in best_partitions(distinct, counts, np.minimum(sizes, lengths.size), max_buckets):
        partition = partition_of(ends)
        spans = partition.cut(rules)
        padded = ShuffledBatches(spans, partition.counts, partition.longest).padded_timesteps
        # Rows that are left out are any of their bucket if it drops them, else any of all.
        if rules.remainder == "drop":
            real = float(spans.rows @ (np.diff(timesteps_before[[0, *ends]]) / partition.counts))
        else:
            real = float(timesteps_before[-1] * spans.rows.sum() / lengths.size)
        choices.append(ends)
        efficiencies.append(real / padded if padded else 0.0)
    number = _choose_number(np.array(efficiencies), rules.pad_to_bucket_boundary)
    ends = choices[number]
    may_be_smaller = rules.remainder == "spill" and lengths.size >= _MIN_ROWS
    if may_be_smaller and efficiencies[number] < ENOUGH_EFFICIENCY:
        ends = _with_smaller_buckets(distinct, counts, choices, number, sizes, rules)
    return boundaries_after(distinct, ends)


def _with_smaller_buckets(
    distinct: Lengths, counts: Counts, choices: list[list[int]], usual: int, sizes: Counts, rules: BatchRules
) -> list[int]:
    """The ends of the usual choice, or of a better one whose buckets may have fewer rows than a batch.

    Args:
        distinct: Int64 array `(num_distinct,)`.
        counts: Int array `(num_distinct,)`, the rows of each length.
        choices: Ends of partitions whose buckets have at least a batch of rows.
        usual: Int, the one to choose unless smaller buckets are better.
        sizes: Int array `(num_distinct,)`, the rows of a batch of a bucket that ends there.
        rules: How batches are cut, with "spill".
    """
    table = LengthTable.from_counts(distinct, counts, _MAX_POINTS)
    rows_before = np.concatenate([[0], table.rows_up_to])

    def judge(ends: list[int]) -> _Judged:
        last = np.array(ends) - 1
        return _Partition(np.diff(rows_before[[0, *ends]]), sizes[last], distinct[last]).judge(table, rules)

    now = judge(choices[usual])
    if now.efficiency >= ENOUGH_EFFICIENCY:
        return choices[usual]
    # With a budget, longer buckets make smaller batches: one bucket of all rows would have the least padding.
    max_batches = max(_MORE_BATCHES * now.batches.num_batches, now.batches.num_batches + 1)

    def candidates(partitions: Iterable[list[int]]) -> list[tuple[list[int], _Judged]]:
        judged = ((ends, judge(ends)) for ends in partitions)
        return [(ends, choice) for ends, choice in judged if choice.batches.num_batches <= max_batches]

    found = candidates(ends for ends, _ in best_partitions(distinct, counts, np.zeros_like(counts), MAX_BUCKETS))
    best = max((choice.efficiency for _, choice in found), default=0.0)
    if now.efficiency >= SHARE_OF_SMALLER * best:
        return choices[usual]
    if rules.pad_to_bucket_boundary:
        ends, choice = found[_choose_number(np.array([choice.efficiency for _, choice in found]), few_shapes=True)]
        return choices[usual] if now.efficiency >= SHARE_OF_SMALLER * choice.efficiency else ends
    # Of what is good enough, the most random.
    enough = min(ENOUGH_EFFICIENCY, SHARE_OF_BEST * best)
    good = [(ends, choice.batches) for ends, choice in found + candidates(choices) if choice.efficiency >= enough]
    return max(good, key=lambda choice: round(choice[1].distinct_batchmates(), 3))[0]


def _choose_number(efficiencies: NDArray[np.float64], few_shapes: bool) -> int:
    """The first number of buckets, counted from 0, close enough to the best; fewer if shapes are expensive."""
    enough = min(ENOUGH_EFFICIENCY, SHARE_OF_BEST * float(efficiencies.max()))
    number = int(np.argmax(efficiencies >= enough))
    if few_shapes:
        worth = efficiencies * (1 - SAVED_BY_A_SHAPE) ** np.arange(len(efficiencies))
        number = int(np.argmax(worth[: number + 1]))
    return number
