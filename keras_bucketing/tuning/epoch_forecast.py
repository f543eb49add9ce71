"""How long an epoch of given buckets and sizes takes, and how many updates it makes. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_bucketing.padding.recommendation import EPOCHS_OF_MATES
from keras_bucketing.padding.shuffled_batches import ShuffledBatches
from keras_bucketing.planning.batch_cuts import cut_batches
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.tuning.step_costs import StepCosts


@dataclass(frozen=True)
class BatchRules:
    """What a dataset says about its batches besides boundaries and sizes; as of `BucketedSequence`."""

    remainder: str = "spill"
    multiple: int = 1
    pad_to_bucket_boundary: bool = False


@dataclass(frozen=True)
class EpochForecast:
    """What an epoch comes to.

    Attributes:
        seconds: Float, the expectation over the shuffles of the sum of the steps.
        num_updates: Int, the batches.
        largest_batch: Int, the most timesteps that a batch may have, padding included.
        batch_mates: Float, how many other sequences a sequence shares a batch with in ten epochs, as in
            `padding_report`.
    """

    seconds: float
    num_updates: int
    largest_batch: int
    batch_mates: float


def forecast_epoch(
    lengths: np.ndarray, boundaries: list[int], batch_sizes: list[int], costs: StepCosts, rules: BatchRules
) -> EpochForecast:
    """Cuts an epoch as the planner does, and adds its steps up.

    Args:
        lengths: Int64 array `(num_sequences,)`, increasing, in timesteps: what each row is padded to at least.
        boundaries: Ints, as of `BucketedSequence`.
        batch_sizes: Ints, rows, one for each bucket: multiples of that of the rules.
        costs: What a step costs.
        rules: How the batches are cut and padded.
    """
    row_buckets = np.searchsorted(boundaries, lengths, side="right")
    upper_lengths = np.array([*(boundary - 1 for boundary in boundaries), lengths[-1]], np.int64)
    buckets = Buckets(boundaries, batch_sizes, upper_lengths, row_buckets)
    cuts = cut_batches(buckets, rules.remainder, rules.multiple)
    batches = ShuffledBatches.from_cuts(buckets.counts, cuts)
    rows = cuts.stops - cuts.starts
    if rules.pad_to_bucket_boundary:
        longest = upper_lengths[cuts.buckets]
        seconds = float(costs.seconds(rows, longest).sum())
    else:
        longest = lengths[np.cumsum(buckets.counts)[cuts.buckets] - 1]
        of_kind = costs.seconds(batches.rows.sum(axis=1), batches.expected_longest(lengths))
        seconds = float(batches.numbers @ of_kind)
    mates = batches.expected_batch_mates(EPOCHS_OF_MATES)
    return EpochForecast(seconds, len(rows), int((rows * longest).max()), mates)
