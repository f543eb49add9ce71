"""How much padding each way of batching leaves on given lengths, and which call to make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_bucketing.checks import check_integer, check_lengths, count_of, show_typed
from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import StoredSequences
from keras_bucketing.padding.stats import PaddedTimesteps, PaddingStats
from keras_bucketing.padding.text_table import Share, ShownInNotebooks, format_table, table_as_html, text_as_html
from keras_bucketing.planning.boundaries import optimal_bucket_boundaries
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import BatchSizing, Buckets, Level
from keras_bucketing.planning.cuts import BatchRules
from keras_bucketing.planning.forecast import BATCHMATE_EPOCHS, Labels, ShuffledBatches
from keras_bucketing.planning.outliers import Outliers, find_outliers

_NUM_BUCKETS = (4, 8, 16)
# Below it, what the batches lose in randomness outweighs the saved timesteps.
MIN_SAVED = 0.05
# The limit on the variance of labels, as a multiple of that of random batches: 1.4 times their deviation.
MAX_LABEL_IMBALANCE = 2.0
_SHARE_OF_REACHABLE = 0.9  # with outliers, the plain call is recommended if it reaches this share of the best one
DEFAULT_BATCH_SIZE = 32
_LESS_MEMORY = 0.5  # a budget is recommended if it limits batches to this share or less


@dataclasses.dataclass(frozen=True)
class PaddingStrategy(PaddedTimesteps):
    """The cost of one way of batching.

    Attributes:
        name: Str.
        boundaries: Tuple of ints, bucket boundaries as in `bucket_by_sequence_length`; empty without buckets.
        num_batches: Int.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Float, sum over the batches of rows x padded length; for random batches an expectation.
        largest_batch: Int, the maximum number of timesteps in a batch, which has to fit into memory.

    Example:
        >>> strategy = padding_report([1, 1, 2, 9], batch_size=2).strategies[0]
        >>> strategy.name, strategy.total_timesteps, strategy.largest_batch
        ('everything to the longest', 36, 18)
    """

    name: str
    boundaries: tuple[int, ...]
    num_batches: int
    real_timesteps: int
    total_timesteps: float
    largest_batch: int


@dataclasses.dataclass(frozen=True)
class PaddingReport:
    """Ways of batching side by side, and which call to make; prints as a table and a few sentences.

    The table marks the recommended way. Notebooks show the report at the end of a cell; `plot()` draws it.

    Attributes:
        num_sequences: Int.
        shortest: Int, in timesteps.
        median: Float, in timesteps.
        longest: Int, in timesteps.
        batch_size: Int, rows.
        strategies: Tuple of `PaddingStrategy`, the first of which pads everything to the longest.
        recommendation: `PaddingRecommendation`, the call to make and what it achieves.
        outliers: Tuple of ints, at most one sequence in a hundred, which cost more than a third of the padded timesteps
            of the recommended epochs; the longest first.

    Example:
        >>> report = padding_report([1, 1, 2, 9], batch_size=2)
        >>> report.num_sequences, report.shortest, report.longest, len(report.strategies) > 2
        (4, 1, 9, True)
    """

    num_sequences: int
    shortest: int
    median: float
    longest: int
    batch_size: int
    strategies: tuple[PaddingStrategy, ...]
    recommendation: PaddingRecommendation
    outliers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self._head()}\n\n{format_table(*self._table())}\n\n{self.recommendation}"

    def _repr_html_(self) -> str:
        head, recommendation = text_as_html(self._head()), text_as_html(str(self.recommendation))
        return f"{head}{table_as_html(*self._table())}{recommendation}"

    def plot(self, ax: Any = None) -> Any:
        """Draws a bar for each way of batching: the real timesteps of an epoch, and the padding.

        Args:
            ax: A Matplotlib axes. Defaults to None: a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: If Matplotlib is missing; the extra `plot` installs it.
        """
        from keras_bucketing.padding.pictures import plot_strategies

        ways, recommended = self._ways()
        return plot_strategies(ways, recommended, ax=ax)

    def _head(self) -> str:
        return (
            f"{self.num_sequences} sequences of {self.shortest} to {self.longest} timesteps, median {self.median:g}, "
            f"{self.strategies[0].real_timesteps} in all; batches of {self.batch_size} rows"
        )

    def _ways(self) -> tuple[list[tuple[str, PaddingStrategy | RecommendedCall]], int]:
        """The strategies and the recommended call by name, and the index of the recommended one."""
        ways: list[tuple[str, PaddingStrategy | RecommendedCall]] = [(way.name, way) for way in self.strategies]
        call = self.recommendation.call
        if not self.recommendation.worth_it:
            return ways, 1  # random batches
        return [*ways, (f"recommended: {count_of(call.num_buckets, 'bucket')}", call)], len(ways)

    def _table(self) -> tuple[list[str], list[list[object]], int]:
        padded = self.strategies[0].total_timesteps
        ways, recommended = self._ways()
        rows: list[list[object]] = [
            [
                name,
                way.num_batches,
                round(way.total_timesteps),
                Share(way.padding_efficiency),
                f"{padded / way.total_timesteps:.2f} x",
                way.largest_batch,
            ]
            for name, way in ways
        ]
        return ["strategy", "batches", "timesteps", "efficiency", "saved", "max batch"], rows, recommended

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, lists and dicts."""
        strategies = tuple(strategy.to_dict() for strategy in self.strategies)
        return {**vars(self), "strategies": strategies, "recommendation": self.recommendation.to_dict()}


def padding_report(lengths: Any, batch_size: int | None = None, y: ArrayLike | None = None) -> PaddingReport:
    """Reports how much padding each way of batching leaves on sequences of these lengths, and recommends a call.

    Pass lengths, sequences or a dataset. Only the lengths are used.

    - *everything to the longest*: `pad_sequences` on the whole data.
    - *random batches*: random rows, each batch padded to its own longest. The figure is the exact expectation over all
      shuffles, not a sample.
    - *quantile* and *minimum-padding buckets*: batches from k buckets, padded to the longest length that the bucket
      allows. Rows that do not fill a batch go into the next longer bucket. These are exactly the figures of
      `BucketedSequence(pad_to_bucket_boundary=True)`; without that option it pads less.
    - *timestep budget*: the same with `max_timesteps_per_batch`, which fits as many rows into a batch as possible. The
      budget is `batch_size` sequences of mean length, or the longest sequence if that is more.

    The recommendation says whether bucketing is worth it and what it costs: with how many different sequences a
    sequence shares a batch, and, given `y`, how much the labels of a batch differ from all labels. If lengths tell much
    about labels, it suggests fewer buckets. It pads each batch to its own longest, so its figures are better than those
    of the table.

    Args:
        lengths: Ints `(num_sequences,)`, the timesteps of each sequence, at least 1. Or the sequences, in every form
            that `BucketedSequence` takes for `x`; if a row has several, its longest counts. Or a `BucketedSequence`,
            without the sequences that it dropped as empty.
        batch_size: Int, rows per batch. Defaults to None: that of the dataset, if all its buckets have the same, else
            32.
        y: Labels `(num_sequences,)`: integers, booleans and strings are classes, floats are values; or numbers
            `(num_sequences, num_columns)`. Defaults to None.

    Returns:
        A `PaddingReport`: print it. Its `recommendation` has the call and the figures as data.

    Raises:
        TypeError: If `lengths` holds neither integers nor sequences, or is a dataset that does not know its lengths; if
            `batch_size` is not an integer, or `y` holds neither numbers nor strings.
        ValueError: If `lengths` is empty, not whole, below 1 or a padded array; if `batch_size` is below 1, or if `y`
            does not have one label for each length.

    Example:
        >>> report = padding_report([1, 1, 2, 9], batch_size=2)
        >>> for strategy in report.strategies[:2]:
        ...     print(strategy.name, round(strategy.padding_efficiency, 4))
        everything to the longest 0.3611
        random batches 0.6094
        >>> call = padding_report([3, 4, 5, 90, 95, 100] * 10, batch_size=10).recommendation.call
        >>> print(call, round(call.padding_efficiency, 2))
        BucketedSequence(x, y, batch_size=10) 0.97

        The sequences themselves, of 2 and 1 timesteps:

        >>> padding_report([[7, 8], [9]]).longest
        2
    """
    lengths, usual_batch_size = _lengths_and_batch_size(lengths)
    batch_size = usual_batch_size if batch_size is None else check_integer("batch_size", batch_size)
    order = np.argsort(lengths, kind="stable")
    labels = None if y is None else check_labels(y, lengths.size).in_order(order)
    lengths = lengths[order]
    budget = max(batch_size * int(lengths.sum()) // lengths.size, int(lengths[-1]))
    by_rows, by_budget = BatchSizing(batch_size, None, None, multiple=1), BatchSizing(None, None, budget, multiple=1)
    quantile, optimal = (
        _distinct([find(lengths, number) for number in _NUM_BUCKETS])
        for find in (_quantile_boundaries, optimal_bucket_boundaries)
    )
    strategies = [  # a single bucket holds all rows
        _strategy("everything to the longest", lengths, [], by_rows),
        _strategy("random batches", lengths, [], by_rows, pad_to_bucket_boundary=False),
        *(
            _strategy(f"{kind} {len(boundaries) + 1} buckets", lengths, boundaries, sizing)
            for kind, choices, sizing in (
                ("quantile", quantile, by_rows),
                ("minimum-padding", optimal, by_rows),
                (f"{budget}-timestep budget,", optimal, by_budget),
            )
            for boundaries in choices
        ),
    ]
    outliers = _outliers(lengths, batch_size)
    has_outliers = outliers is not None
    recommendation = _recommend(lengths, batch_size, budget, strategies[1].total_timesteps, labels, has_outliers)
    if outliers is not None:
        named = str(outliers._replace(name="lengths", rows=order[outliers.rows]))
        recommendation = dataclasses.replace(recommendation, reasons=(*recommendation.reasons, named))
    return PaddingReport(
        num_sequences=lengths.size,
        shortest=int(lengths[0]),
        median=float(np.median(lengths)),
        longest=int(lengths[-1]),
        batch_size=batch_size,
        strategies=tuple(strategies),
        recommendation=recommendation,
        outliers=() if outliers is None else tuple(order[outliers.rows].tolist()),
    )


def _lengths_and_batch_size(given: Any) -> tuple[Lengths, int]:
    """The lengths in the argument of `padding_report`, and its default batch size."""
    if isinstance(given, tf.data.Dataset):
        lengths = getattr(given, "lengths", None)
        if lengths is None:
            raise TypeError(
                f"This dataset does not know the lengths of its sequences. Expected a BucketedSequence, lengths or "
                f"sequences, received {show_typed(given)}. BucketedSequence.from_dataset(dataset) reads it once; "
                "PaddingStatsCallback(monitor_padding(dataset)) counts what it pads while a model trains."
            )
        sizes = set(given.bucket_batch_sizes)
        return check_lengths(lengths[lengths > 0]), sizes.pop() if len(sizes) == 1 else DEFAULT_BATCH_SIZE
    if isinstance(given, StoredSequences):
        return check_lengths(given.lengths), DEFAULT_BATCH_SIZE
    if _holds_sequences(given):
        return check_lengths(collect_inputs(given, None, None, copy=False).lengths.longest), DEFAULT_BATCH_SIZE
    return check_lengths(given), DEFAULT_BATCH_SIZE


def _holds_sequences(given: Any) -> bool:
    """Whether the argument holds sequences, not lengths; arrays of numbers go to `check_lengths`."""
    if isinstance(given, dict):
        return True
    if isinstance(given, np.ndarray) and given.dtype != object and type(given) is np.ndarray:
        return False
    try:
        first = next(iter(given))
    except (TypeError, StopIteration):
        return isinstance(given, tf.RaggedTensor)
    if isinstance(first, (str, bytes)):
        return False
    return hasattr(first, "__len__") if not hasattr(first, "shape") else len(first.shape) > 0


def summarize_buckets(buckets: Buckets, stats: PaddingStats, outliers: Outliers | None = None) -> str:
    """The buckets as a text table, with the padding of one epoch; if there are several leaves, of each leaf too.

    Nested buckets have a column of lengths for each of their two leaves. A note below names outliers.
    """
    padded = {bucket.bucket: bucket for bucket in stats.buckets}
    levels = buckets.levels or (Level("lengths", np.array([1, *buckets.boundaries]), buckets.upper_lengths),)
    rows: list[list[object]] = []
    for bucket, (count, size) in enumerate(zip(buckets.counts, buckets.batch_sizes, strict=True)):
        batches = padded[bucket].num_batches if bucket in padded else 0
        efficiency = f"{padded[bucket].padding_efficiency:.3f}" if batches else "-"
        ranges = ((level.lower_lengths[bucket], level.upper_lengths[bucket]) for level in levels)
        rows.append([*(f"{lower} - {max(upper, lower)}" for lower, upper in ranges), count, size, batches, efficiency])
    none = [""] * (len(levels) - 1)
    rows.append(["all", *none, stats.num_sequences, "", stats.num_batches, f"{stats.padding_efficiency:.3f}"])
    rows += [[leaf.name, *none, "", "", "", f"{leaf.padding_efficiency:.3f}"] for leaf in stats.leaves]
    names = [level.name for level in levels]
    table = format_table([*names, "sequences", "rows a batch", "batches", "padding efficiency"], rows)
    return table if outliers is None else f"{table}\n\n{outliers}"


def _strategy(
    name: str, lengths: Lengths, boundaries: list[int], sizing: BatchSizing, pad_to_bucket_boundary: bool = True
) -> PaddingStrategy:
    buckets = choose_buckets(lengths, sizing, boundaries, pad_to_bucket_boundary=pad_to_bucket_boundary)
    rules = BatchRules(pad_to_bucket_boundary=pad_to_bucket_boundary)
    batches = ShuffledBatches.from_buckets(lengths, buckets, rules)
    return PaddingStrategy(
        name=name,
        boundaries=tuple(boundaries),
        num_batches=batches.num_batches,
        real_timesteps=int(lengths.sum()),
        total_timesteps=batches.padded_timesteps,
        largest_batch=batches.largest_batch,
    )


def check_labels(y: object, num_sequences: int) -> Labels:
    """Converts the `y` of `padding_report`: classes or values, one for each sequence."""
    try:
        array = np.asarray(y)
    except ValueError:  # of uneven shape
        array = np.array(None)
    if array.dtype.kind not in "biufUS":
        raise TypeError(
            "`y` must be one number or string per sequence. Received a list of uneven shape or other objects "
            f"({type(y).__name__}). Labels of each timestep do not say how uneven batches are: leave them out."
        )
    if array.ndim not in (1, 2) or len(array) != num_sequences or (array.ndim == 2 and array.dtype.kind in "US"):
        raise ValueError(
            f"`y` must have one label for each length. Expected shape ({num_sequences},), or ({num_sequences}, "
            f"num_columns) of numbers, received {array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array).reshape(num_sequences, -1).all(axis=1)))
        raise ValueError(f"`y` must be finite. Received {array[at]} at y[{at}]. Leave that sequence out.")
    if array.ndim == 1 and array.dtype.kind != "f":
        classes, row_classes = np.unique(array, return_inverse=True)
        return Labels(row_classes, len(classes))
    return Labels(array.reshape(num_sequences, -1).astype(float), 0)


def _quantile_boundaries(lengths: Lengths, num_buckets: int) -> list[int]:
    """Boundaries that put about the same number of rows into each bucket."""
    uppers = lengths[np.arange(1, num_buckets) * lengths.size // num_buckets]
    return sorted({int(upper) + 1 for upper in uppers if upper < lengths[-1]})


def _distinct(choices: list[list[int]]) -> list[list[int]]:
    """The choices that have buckets, without repetitions: few distinct lengths give the same ones several times."""
    return [choice for index, choice in enumerate(choices) if choice and choice not in choices[:index]]


@dataclasses.dataclass(frozen=True)
class RecommendedCall(PaddedTimesteps):
    """A call of `BucketedSequence`, and the expected figures of its epochs.

    Attributes:
        options: Dict, the keyword arguments.
        boundaries: Tuple of ints, the bucket boundaries that it chooses.
        num_batches: Int, per epoch.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Float, the exact expectation of the sum over the batches of rows x padded length.
        largest_batch: Int, the maximum number of timesteps in a batch.
        distinct_batchmates: Float, how many different sequences a sequence shares a batch with in ten epochs.
        label_imbalance: Float, how far the labels of the batches are from those of all sequences, in squared distance,
            as a multiple of that of random batches; None without labels.

    Example:
        >>> call = padding_report([3, 4, 5, 90, 95, 100] * 10, batch_size=10).recommendation.call
        >>> call.options, call.num_buckets, call.num_batches
        ({'batch_size': 10}, 3, 6)
    """

    options: dict[str, Any]
    boundaries: tuple[int, ...]
    num_batches: int
    real_timesteps: int
    total_timesteps: float
    largest_batch: int
    distinct_batchmates: float
    label_imbalance: float | None

    @property
    def num_buckets(self) -> int:
        """Int."""
        return len(self.boundaries) + 1

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, lists and dicts."""
        return {**super().to_dict(), "options": dict(self.options), "num_buckets": self.num_buckets}

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"BucketedSequence(x, y, {options})"


@dataclasses.dataclass(frozen=True)
class PaddingRecommendation(ShownInNotebooks):
    """Whether bucketing is worth it, and which call to make.

    Attributes:
        worth_it: Bool, whether bucketing saves at least 5 % of the timesteps of random batches.
        call: `RecommendedCall`, the one to make; with a single bucket if bucketing is not worth it.
        within_budget: `RecommendedCall` with a budget of timesteps per batch, for when memory is short; None if it
            would not halve the largest batch.
        with_even_labels: `RecommendedCall` with fewer buckets and more even labels, for when lengths tell much about
            labels; None if the imbalance of `call` is at most 2, or without labels.
        random_timesteps: Float, the timesteps of an epoch of random batches.
        longest_timesteps: Int, those of an epoch padded to the longest sequence.
        random_distinct_batchmates: Float, the `distinct_batchmates` of random batches.
        reasons: Tuple of strings: what the call achieves, or why bucketing is not worth it.

    Example:
        >>> padding_report([7] * 10, batch_size=2).recommendation.reasons
        ('All sequences have 7 timesteps, so nothing is padded.',)
    """

    worth_it: bool
    call: RecommendedCall
    within_budget: RecommendedCall | None
    with_even_labels: RecommendedCall | None
    random_timesteps: float
    longest_timesteps: int
    random_distinct_batchmates: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        head = "Recommended:" if self.worth_it else "Bucketing is not worth it here. Random batches are this call:"
        blocks = [_block(head, self.call, self.reasons)]
        if self.within_budget is not None:
            head = f"If batches of {self.call.largest_batch} timesteps do not fit into memory:"
            blocks.append(_block(head, self.within_budget, [_figures(self.within_budget)]))
        if self.with_even_labels is not None:
            head = "If accuracy suffers from uneven labels:"
            blocks.append(_block(head, self.with_even_labels, [_figures(self.with_even_labels)]))
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, lists and dicts."""
        return {
            name: figure.to_dict() if isinstance(figure, RecommendedCall) else figure
            for name, figure in vars(self).items()
        }


def _outliers(lengths: Lengths, batch_size: int) -> Outliers | None:
    """The outliers among increasing lengths, in the epochs of the plain call."""
    buckets = choose_buckets(lengths, BatchSizing(batch_size, None, None, multiple=1))

    def padded_if_cut(length: int) -> float:
        return ShuffledBatches.from_buckets(np.minimum(lengths, length), buckets, BatchRules()).padded_timesteps

    return find_outliers(lengths, padded_if_cut)


def _recommend(
    lengths: Lengths,
    batch_size: int,
    budget: int,
    random_timesteps: float,
    labels: Labels | None,
    has_outliers: bool,
) -> PaddingRecommendation:
    """Chooses the call for increasing lengths with labels in the same order."""
    single = _try_call({"batch_size": batch_size, "num_buckets": 1}, lengths, labels)
    automatic = _try_call({"batch_size": batch_size}, lengths, labels)
    if has_outliers:
        budgeted = {"batch_size": batch_size, "max_timesteps_per_batch": budget}
        kept = {"batch_size": batch_size, "num_buckets": 8, "remainder": "keep"}
        calls = [automatic, _try_call(budgeted, lengths, labels), _try_call(kept, lengths, labels)]
        enough = _SHARE_OF_REACHABLE * max(call.padding_efficiency for call in calls)
        automatic = next(call for call in calls if call.padding_efficiency >= enough)
    worth_it = bool(automatic.total_timesteps <= (1 - MIN_SAVED) * random_timesteps)
    bounded = _try_call({"max_timesteps_per_batch": budget}, lengths, labels)
    saves_memory = bounded.largest_batch <= _LESS_MEMORY * automatic.largest_batch
    recommendation = PaddingRecommendation(
        worth_it=worth_it,
        call=automatic if worth_it else single,
        within_budget=bounded if worth_it and saves_memory else None,
        with_even_labels=_with_even_labels(automatic, lengths, labels) if worth_it else None,
        random_timesteps=random_timesteps,
        longest_timesteps=int(lengths[-1]) * lengths.size,
        random_distinct_batchmates=single.distinct_batchmates,
        reasons=(),
    )
    reasons = tuple(_why(recommendation)) if worth_it else (_why_not(single, automatic, lengths),)
    return dataclasses.replace(recommendation, reasons=reasons)


def _try_call(options: dict[str, Any], lengths: Lengths, labels: Labels | None) -> RecommendedCall:
    sizing = BatchSizing(options.get("batch_size"), None, options.get("max_timesteps_per_batch"), multiple=1)
    rules = BatchRules(options.get("remainder", "spill"))
    buckets = choose_buckets(lengths, sizing, num_buckets=options.get("num_buckets"), remainder=rules.remainder)
    batches = ShuffledBatches.from_buckets(lengths, buckets, rules)
    return RecommendedCall(
        options=options,
        boundaries=tuple(buckets.boundaries),
        num_batches=batches.num_batches,
        real_timesteps=int(lengths.sum()),
        total_timesteps=batches.padded_timesteps,
        largest_batch=batches.largest_batch,
        distinct_batchmates=batches.distinct_batchmates(),
        label_imbalance=None if labels is None else batches.label_imbalance(labels),
    )


def _with_even_labels(automatic: RecommendedCall, lengths: Lengths, labels: Labels | None) -> RecommendedCall | None:
    """The call with the most buckets, at least two, whose labels are even enough; None if the automatic ones are."""
    if automatic.label_imbalance is None or automatic.label_imbalance <= MAX_LABEL_IMBALANCE:
        return None
    fewer = None
    for num_buckets in range(automatic.num_buckets - 1, 1, -1):
        fewer = _try_call({**automatic.options, "num_buckets": num_buckets}, lengths, labels)
        if fewer.label_imbalance <= MAX_LABEL_IMBALANCE:  # type: ignore[operator]
            break
    return fewer


def _why(recommendation: PaddingRecommendation) -> Iterator[str]:
    call = recommendation.call
    yield (
        f"{count_of(call.num_batches, 'batch', 'batches')} an epoch, from {count_of(call.num_buckets, 'bucket')}"
        f"{'.' if 'num_buckets' in call.options else ': the automatic number.'}"
    )
    yield (
        f"Padding efficiency {call.padding_efficiency:.3f}. Random batches have "
        f"{recommendation.random_timesteps / call.total_timesteps:.2f} x as many timesteps, everything padded to the "
        f"longest {recommendation.longest_timesteps / call.total_timesteps:.2f} x."
    )
    yield (
        f"In {BATCHMATE_EPOCHS} epochs a sequence shares a batch with {call.distinct_batchmates:.0f} different "
        f"sequences; in random batches, with {recommendation.random_distinct_batchmates:.0f}."
    )
    if call.label_imbalance is not None:
        yield (
            f"Label imbalance {call.label_imbalance:.2f}: how far the labels of a batch are from those of all "
            "sequences, in squared distance, where random batches have 1."
        )


def _why_not(single: RecommendedCall, bucketed: RecommendedCall, lengths: Lengths) -> str:
    if lengths[0] == lengths[-1]:
        return f"All sequences have {count_of(int(lengths[0]), 'timestep')}, so nothing is padded."
    random = f"Random batches, each padded to its own longest, have padding efficiency {single.padding_efficiency:.3f}"
    if bucketed.num_buckets > 1:
        saved = 1 - bucketed.total_timesteps / single.total_timesteps
        return (
            f"{random}. {bucketed.num_buckets} buckets would reach {bucketed.padding_efficiency:.3f} and save "
            f"{saved:.1%} of the timesteps: below {MIN_SAVED:.0%}, not worth batches that are less random."
        )
    if lengths.size < 2 * single.options["batch_size"]:
        return f"{random}. {count_of(lengths.size, 'sequence')} are too few for two buckets of full batches."
    return f"{random}: the lengths differ too little for buckets to save much."


def _block(head: str, call: RecommendedCall, points: Iterable[str]) -> str:
    return "\n".join([head, "", f"    {call}", "", *(f"- {point}" for point in points)])


def _figures(call: RecommendedCall) -> str:
    labels = "" if call.label_imbalance is None else f", label imbalance {call.label_imbalance:.2f}"
    return (
        f"{count_of(call.num_batches, 'batch', 'batches')} an epoch of up to {call.largest_batch} timesteps, padding "
        f"efficiency {call.padding_efficiency:.3f}, a batch shared with {call.distinct_batchmates:.0f} different "
        f"sequences{labels}."
    )
