"""What tuned batches must keep to. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_bucketing.planning.automatic_buckets import MOST_BUCKETS
from keras_bucketing.tuning.step_costs import StepCosts


@dataclass(frozen=True)
class SizeBounds:
    """What the batches must keep to.

    Attributes:
        min_updates: Int, the least number of batches an epoch.
        min_rows: Int, the least rows of a batch that is not the last one.
        max_rows: Int, the most rows of a batch.
        max_timesteps_per_batch: Int, the most cells of a batch, or None.
        max_step_seconds: Float, the longest that a step may take, or None.
        max_buckets: Int, the most buckets.
        min_batch_mates: Float, how many other sequences a sequence must at least share a batch with in ten epochs.
    """

    min_updates: int
    min_rows: int
    max_rows: int
    max_timesteps_per_batch: int | None = None
    max_step_seconds: float | None = None
    max_buckets: int = MOST_BUCKETS
    min_batch_mates: float = 0.0

    def most_rows(self, lengths: np.ndarray, costs: StepCosts, multiple: int) -> np.ndarray:
        """The most rows at each padded length, multiples of `multiple`: 0 where not even that many keep the bounds."""
        rows = np.full(len(lengths), float(self.max_rows))
        if self.max_timesteps_per_batch is not None:
            rows = np.minimum(rows, self.max_timesteps_per_batch // lengths)
        if self.max_step_seconds is not None:
            left = self.max_step_seconds - costs.seconds(0, lengths)
            for_one = costs.per_cell * lengths
            fitting = np.divide(left, for_one, out=np.full(len(lengths), np.inf), where=for_one > 0)
            rows = np.minimum(rows, np.where(left >= 0, fitting, 0))
        whole: np.ndarray = rows.astype(np.int64) // multiple * multiple
        return whole
