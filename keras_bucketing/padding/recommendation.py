"""The call to make for given lengths, and what comes of it: padding, memory, company and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_bucketing.padding.efficiency import padding_efficiency
from keras_bucketing.padding.labels import Labels
from keras_bucketing.padding.shuffled_batches import ShuffledBatches
from keras_bucketing.planning.batch_cuts import cut_batches
from keras_bucketing.planning.buckets import choose_buckets
from keras_bucketing.planning.sizing import BatchSizing

EPOCHS_OF_MATES = 10  # as long as people train
# Below it the batches lose more randomness than they save timesteps.
LEAST_SAVED = 0.05
# Labels may stray so much further than those of random batches, in variance: 1.4 times as far.
MOST_LABEL_IMBALANCE = 2.0
_LESS_MEMORY = 0.5  # a budget is worth a line where it bounds batches to this share or less


@dataclasses.dataclass(frozen=True)
class RecommendedCall:
    """A call of `BucketedSequence`, and what its epochs are like on average.

    Attributes:
        options: Dict, the keyword arguments.
        boundaries: Tuple of ints, the bucket boundaries that it chooses.
        num_batches: Int, of an epoch.
        real_timesteps: Int, sum of the lengths.
        total_timesteps: Float, the exact expectation of the sum over the batches of rows x padded length.
        largest_batch: Int, the most timesteps that a batch may have.
        batch_mates: Float, how many other sequences a sequence shares a batch with in ten epochs.
        label_imbalance: Float, how far the labels of the batches are from those of all sequences, in squared distance,
            as a multiple of what random batches have; None without labels.
    """

    options: dict[str, int]
    boundaries: tuple[int, ...]
    num_batches: int
    real_timesteps: int
    total_timesteps: float
    largest_batch: int
    batch_mates: float
    label_imbalance: float | None

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    @property
    def num_buckets(self) -> int:
        """Int."""
        return len(self.boundaries) + 1

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"BucketedSequence(x, y, {options})"


@dataclasses.dataclass(frozen=True)
class PaddingRecommendation:
    """Whether batches of similar length are worth it, and how to get them.

    Attributes:
        worth_it: Bool, whether bucketing saves at least 5 % of the timesteps of random batches.
        call: `RecommendedCall`, the one to make; where bucketing is not worth it, with a single bucket.
        within_budget: `RecommendedCall` with a bound on the timesteps of a batch, for when memory is short; None where
            it would not halve the largest batch.
        with_even_labels: `RecommendedCall` with fewer buckets, whose batches have more even labels, for when lengths
            tell much about labels; None where the imbalance of `call` is 2 at most, or without labels.
        random_timesteps: Float, the timesteps of an epoch of random batches.
        longest_timesteps: Int, those of an epoch padded to the longest sequence.
        random_batch_mates: Float, how many other sequences a sequence meets in ten epochs of random batches.
        reasons: Tuple of strings: what comes of the call, or why bucketing is not worth it.
    """

    worth_it: bool
    call: RecommendedCall
    within_budget: RecommendedCall | None
    with_even_labels: RecommendedCall | None
    random_timesteps: float
    longest_timesteps: int
    random_batch_mates: float
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
        figures = dataclasses.asdict(self)
        for name in ("call", "within_budget", "with_even_labels"):
            call = getattr(self, name)
            if call is not None:
                figures[name] |= {"padding_efficiency": call.padding_efficiency, "num_buckets": call.num_buckets}
        return figures


def recommend(
    lengths: np.ndarray, batch_size: int, budget: int, random_timesteps: float, labels: Labels | None
) -> PaddingRecommendation:
    """Chooses the call.

    Args:
        lengths: Int64 array `(num_sequences,)`, increasing, in timesteps.
        batch_size: Int, rows in a batch.
        budget: Int, what the batches of a budget hold, in timesteps.
        random_timesteps: Float, the timesteps of an epoch of random batches.
        labels: One a sequence, in the same order, or None.
    """
    single = _try_call({"batch_size": batch_size, "num_buckets": 1}, lengths, labels)
    automatic = _try_call({"batch_size": batch_size}, lengths, labels)
    worth_it = bool(automatic.total_timesteps <= (1 - LEAST_SAVED) * random_timesteps)
    bounded = _try_call({"max_timesteps_per_batch": budget}, lengths, labels)
    saves_memory = bounded.largest_batch <= _LESS_MEMORY * automatic.largest_batch
    recommendation = PaddingRecommendation(
        worth_it=worth_it,
        call=automatic if worth_it else single,
        within_budget=bounded if worth_it and saves_memory else None,
        with_even_labels=_with_even_labels(automatic, lengths, labels) if worth_it else None,
        random_timesteps=random_timesteps,
        longest_timesteps=int(lengths[-1]) * lengths.size,
        random_batch_mates=single.batch_mates,
        reasons=(),
    )
    reasons = tuple(_why(recommendation)) if worth_it else (_why_not(single, automatic, lengths),)
    return dataclasses.replace(recommendation, reasons=reasons)


def _try_call(options: dict[str, int], lengths: np.ndarray, labels: Labels | None) -> RecommendedCall:
    sizing = BatchSizing(options.get("batch_size"), None, options.get("max_timesteps_per_batch"), multiple=1)
    buckets = choose_buckets(lengths, sizing, num_buckets=options.get("num_buckets"))
    cuts = cut_batches(buckets, remainder="spill", multiple=1)
    batches = ShuffledBatches.from_cuts(buckets.counts, cuts)
    return RecommendedCall(
        options=options,
        boundaries=tuple(buckets.boundaries),
        num_batches=len(cuts.buckets),
        real_timesteps=int(lengths.sum()),
        total_timesteps=batches.expected_timesteps(lengths),
        largest_batch=int(((cuts.stops - cuts.starts) * buckets.upper_lengths[cuts.buckets]).max()),
        batch_mates=batches.expected_batch_mates(EPOCHS_OF_MATES),
        label_imbalance=None if labels is None else batches.expected_label_imbalance(labels),
    )


def _with_even_labels(automatic: RecommendedCall, lengths: np.ndarray, labels: Labels | None) -> RecommendedCall | None:
    """The call with the most buckets, two at least, whose labels are even enough; None if the automatic ones are."""
    if automatic.label_imbalance is None or automatic.label_imbalance <= MOST_LABEL_IMBALANCE:
        return None
    fewer = None
    for num_buckets in range(automatic.num_buckets - 1, 1, -1):
        fewer = _try_call({**automatic.options, "num_buckets": num_buckets}, lengths, labels)
        if fewer.label_imbalance <= MOST_LABEL_IMBALANCE:  # type: ignore[operator]
            break
    return fewer


def _why(recommendation: PaddingRecommendation) -> Iterator[str]:
    call = recommendation.call
    yield (
        f"{_count(call.num_batches, 'batch', 'batches')} an epoch, from {_count(call.num_buckets, 'bucket')}: the "
        "automatic number, none with fewer rows than a batch."
    )
    yield (
        f"Padding efficiency {call.padding_efficiency:.3f}: "
        f"{recommendation.random_timesteps / call.total_timesteps:.2f} x fewer timesteps than random batches, "
        f"{recommendation.longest_timesteps / call.total_timesteps:.2f} x fewer than padding everything to the longest."
    )
    yield (
        f"In {EPOCHS_OF_MATES} epochs a sequence meets {call.batch_mates:.0f} different sequences in its batches; in "
        f"random batches it would meet {recommendation.random_batch_mates:.0f}."
    )
    if call.label_imbalance is not None:
        yield (
            f"Label imbalance {call.label_imbalance:.2f}: how far the labels of a batch are from those of all "
            "sequences, in squared distance, where random batches have 1."
        )


def _why_not(single: RecommendedCall, bucketed: RecommendedCall, lengths: np.ndarray) -> str:
    if lengths[0] == lengths[-1]:
        return f"All sequences have {_count(int(lengths[0]), 'timestep')}, so nothing is padded."
    random = f"Random batches, each padded to its own longest, have padding efficiency {single.padding_efficiency:.3f}"
    if bucketed.num_buckets > 1:
        saved = 1 - bucketed.total_timesteps / single.total_timesteps
        return (
            f"{random}. {bucketed.num_buckets} buckets would reach {bucketed.padding_efficiency:.3f} and save "
            f"{saved:.1%} of the timesteps: below {LEAST_SAVED:.0%}, not worth batches that are less random."
        )
    if lengths.size < 2 * single.options["batch_size"]:
        return f"{random}. {_count(lengths.size, 'sequence')} are too few for two buckets of full batches."
    return f"{random}: the lengths differ too little for buckets to save much."


def _block(head: str, call: RecommendedCall, points: Iterable[str]) -> str:
    return "\n".join([head, "", f"    {call}", "", *(f"- {point}" for point in points)])


def _figures(call: RecommendedCall) -> str:
    labels = "" if call.label_imbalance is None else f", label imbalance {call.label_imbalance:.2f}"
    return (
        f"{_count(call.num_batches, 'batch', 'batches')} an epoch of up to {call.largest_batch} timesteps, padding "
        f"efficiency {call.padding_efficiency:.3f}, {call.batch_mates:.0f} different sequences met{labels}."
    )


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
