"""The choice of the buckets: given boundaries, or those of minimum padding, and how many where nobody says.

Minimum padding puts every row into its own bucket. Real batches do not: what does not fill a batch spills into the next
longer one, and on a heavy tail that takes back what many buckets gain. So each number of buckets is judged by the
padding that is left once its batches are really cut.

Buckets that have a batch of rows each make the most random batches, and are taken where they come close to the best.
With "spill" rows travel on anyway, so where they do not, buckets of fewer rows are tried as well. NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import check_integer
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import LeafLengths
from keras_bucketing.planning.boundaries import (
    Counts,
    best_partitions,
    boundaries_after,
    boundaries_of_counts,
    check_boundaries,
    count_lengths,
)
from keras_bucketing.planning.buckets import BatchSizing, Buckets
from keras_bucketing.planning.cuts import BatchRules, BatchSpans, batch_spans
from keras_bucketing.planning.draws import Sampling, count_weights, expected_draws, typical_lengths
from keras_bucketing.planning.forecast import LengthTable, ShuffledBatches

MAX_BUCKETS = 32
# Enough: beyond it another bucket buys little and makes the batches less random.
ENOUGH_EFFICIENCY = 0.95
# Where that cannot be reached: this share of the best that can. On long tails it costs about 2 % more timesteps for
# a fifth to a third fewer repeated pairs (`python -m benchmarks.automatic_buckets`).
SHARE_OF_BEST = 0.975
# Buckets of a batch of rows at least stay where they reach this share of what smaller ones reach as well.
SHARE_OF_SMALLER = 0.965
# A few rows are kept apart from those that would spill into their bucket where that saves so much of the timesteps.
SAVED_APART = 0.1
MAX_OUTLIER_SHARE = 0.01  # of the rows
_MIN_ROWS = 100  # for smaller buckets: of fewer rows, each batch is much like any other
_MORE_BATCHES = 1.05  # that smaller buckets may make
_MAX_POINTS = 256  # of an expectation, to compare choices by; within 1e-4 of the exact one
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
    labels: Sequence[LeafLengths] = (),
    sampling: Sampling | None = None,
) -> Buckets:
    """Finds the buckets, from given boundaries or as those of minimum padding.

    Args:
        lengths: Int64 array `(num_rows,)`, timesteps.
        sizing: The checked sizes.
        bucket_boundaries: Ints or None, as the user gave them.
        num_buckets: Int or None, as the user gave it.
        pad_to_bucket_boundary: Whether batches are padded to the longest allowed length, so that this is what a budget
            holds.
        kept: Int array `(num_rows,)` or None: what an error message calls each row.
        minlen: Int, the length that every batch is padded to at least, so that no bucket ends below it unless the user
            says so, and that is what a budget holds.
        remainder: What becomes of rows that do not fill a batch of their bucket; the automatic number depends on it.
        labels: Labels of their own length, each `(num_rows,)`: they choose no bucket, but a budget holds them as well.
        sampling: How often these rows are drawn; None where each is read once.
    """
    given = check_bucket_arguments(bucket_boundaries, num_buckets, sizing)
    rules = BatchRules(remainder, sizing.multiple, pad_to_bucket_boundary, minlen)
    if given is not None:
        boundaries = given
    else:
        boundaries = _find_boundaries(np.maximum(lengths, minlen), sizing, num_buckets, rules, sampling)
    buckets = Buckets.from_lengths(lengths, boundaries)
    epoch_lengths = None
    if sampling is not None:
        draws = sampling.rounded_draws(buckets.row_buckets, len(buckets.upper_lengths), sizing.multiple)
        buckets = replace(buckets, draws=draws)
        epoch_lengths = typical_lengths(lengths, expected_draws(sampling.weights, buckets.row_buckets, draws))
    if sizing.bucket_batch_sizes is not None:
        buckets = replace(buckets, batch_sizes=sizing.bucket_batch_sizes)
        return keep_outliers_apart(buckets, lengths, rules, epoch_lengths)
    padded_lengths = buckets.upper_lengths
    if not pad_to_bucket_boundary:  # then a batch is no longer than the longest row of its bucket
        padded_lengths = np.where(buckets.counts > 0, buckets.longest(lengths), padded_lengths)
    padded_lengths = np.maximum(padded_lengths, minlen)
    if sizing.max_timesteps_per_batch is not None:
        _check_budget(buckets, padded_lengths, lengths, sizing, kept, minlen)
        for leaf in labels:
            _check_labels_budget(leaf, sizing, kept)
        if labels:
            padded_lengths = _with_labels(buckets, padded_lengths, labels, sizing, rules)
    sizes = np.maximum(sizing.rows_at(padded_lengths), sizing.multiple).tolist()
    return keep_outliers_apart(replace(buckets, batch_sizes=sizes), lengths, rules, epoch_lengths)


def _with_labels(
    buckets: Buckets, padded_lengths: Lengths, labels: Sequence[LeafLengths], sizing: BatchSizing, rules: BatchRules
) -> Lengths:
    """The longest `(num_buckets,)` that any leaf of a batch is padded to, labels of spilled rows included.

    Which rows spill into a bucket depends on the sizes of the shorter ones, so these come first.
    """
    longest_labels = np.maximum.reduce([buckets.longest(leaf.lengths) for leaf in labels])
    ends = np.cumsum(buckets.counts)
    padded = padded_lengths.copy()
    for bucket in np.flatnonzero(buckets.counts).tolist():
        sizes = np.maximum(sizing.rows_at(padded), sizing.multiple)
        begin = batch_spans(buckets.counts, sizes, rules.remainder, rules.multiple).begins[bucket]
        lowest = int(np.searchsorted(ends, begin, side="right"))
        padded[bucket] = max(int(padded[bucket]), int(longest_labels[lowest : bucket + 1].max(initial=0)))
    return padded


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


def check_bucket_arguments(bucket_boundaries: object, num_buckets: object, sizing: BatchSizing) -> list[int] | None:
    """Returns the boundaries, None where they are to be found; refuses what does not fit together on any data."""
    number = None if num_buckets is None else check_integer("num_buckets", num_buckets)
    boundaries = None if bucket_boundaries is None else check_boundaries(bucket_boundaries)
    sizes = sizing.bucket_batch_sizes
    if boundaries is not None and number not in (None, len(boundaries) + 1):
        raise ValueError(
            f"`num_buckets` must match `bucket_boundaries`. Expected {len(boundaries) + 1}, one more than there are "
            f"boundaries, received {number}. Leave one of the two out."
        )
    if sizes is not None and boundaries is not None and len(sizes) != len(boundaries) + 1:
        raise ValueError(
            f"`bucket_batch_sizes` must have one entry for each bucket. Expected {len(boundaries) + 1} for the "
            f"boundaries {_shorten(boundaries)}, received {len(sizes)}. Pass one size more than there are boundaries."
        )
    if sizes is not None and number not in (None, len(sizes)):
        raise ValueError(
            f"`num_buckets` must match `bucket_batch_sizes`. Expected {len(sizes)}, one for each size, received "
            f"{number}. Leave `num_buckets` out."
        )
    return boundaries


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


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 10 else f"[{values[0]}, {values[1]}, ..., {values[-1]}]"


def keep_outliers_apart(
    buckets: Buckets, lengths: Lengths, rules: BatchRules, epoch_lengths: Lengths | None = None
) -> Buckets:
    """Finds out whether a few of the longest rows cost so much that no others may spill into their buckets.

    One bucket more then ends in a partial batch, the same in every epoch. `epoch_lengths` are those of the rows of an
    epoch, where it draws them by weights.
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
    """A partition that has been cut: what its epochs are like, and which bucket nothing spills into."""

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
        """The first buckets of so few rows that these may be outliers, if others spill into them and may cost much."""
        ends = np.cumsum(self.counts)
        is_few = ends[-1] - (ends - self.counts) <= MAX_OUTLIER_SHARE * ends[-1]
        if rules.remainder != "spill" or not (is_few & (self.counts > 0)).any():
            return []
        spilled = (ends - self.counts) - self.cut(rules).begins
        costs = spilled * self.longest[-1] > SAVED_APART * real_timesteps
        return np.flatnonzero(is_few & costs & (self.counts > 0) & (ends > self.counts)).tolist()

    def judge(self, table: LengthTable, rules: BatchRules) -> _Judged:
        """Cuts the rows of these lengths, and keeps outliers apart where that saves enough."""
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
    """Finds as few minimum-padding buckets as come close to the best.

    With "spill", where buckets that have a batch of rows each stay behind what smaller ones reach, the most random of
    those that come close.

    Args:
        lengths: Int64 array of shape `(num_sequences,)`.
        batch_rows: Function from longest lengths, shape `(num_distinct,)`, to the rows of a batch of a bucket that ends
            there. It must not grow with the length.
        rules: How batches are cut. If they are padded to the boundary, each bucket is a shape to compile, so that it
            has to save 1 % of the timesteps.

    Returns:
        List of boundaries, as of `optimal_bucket_boundaries`. At most 32 buckets, and one bucket where the data is too
        small for two.
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
    may_be_smaller = rules.remainder == "spill" and not rules.pad_to_bucket_boundary and lengths.size >= _MIN_ROWS
    if may_be_smaller and efficiencies[number] < ENOUGH_EFFICIENCY:
        ends = _with_smaller_buckets(distinct, counts, choices, number, sizes, rules)
    return boundaries_after(distinct, ends)


def _with_smaller_buckets(
    distinct: Lengths, counts: Counts, choices: list[list[int]], usual: int, sizes: Counts, rules: BatchRules
) -> list[int]:
    """The ends of the usual choice, or of what is better where buckets may have fewer rows than a batch.

    Args:
        distinct: Int64 array `(num_distinct,)`.
        counts: Int array `(num_distinct,)`, the rows of each length.
        choices: Ends of partitions whose buckets have a batch of rows each.
        usual: Int, which of them is chosen unless smaller buckets are better.
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
