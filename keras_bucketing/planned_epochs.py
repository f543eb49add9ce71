"""The epochs of a data set, as one shard sees them: which rows of the input each batch has, and what it pads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from keras_bucketing.planning.epoch_plan import EpochPlan, EpochPlanner
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.planning.sizing import Shard


@dataclass(frozen=True)
class PlannedEpochs:
    """Plans and statistics, for any epoch and seed.

    Attributes:
        planner: Plans the epochs.
        lengths: Int32 array `(num_sequences,)`, timesteps of the rows that are used.
        shard: Which rows of each batch are this data set's.
        kept: Int array `(num_sequences,)`, where each row stood in the input; None where none was dropped.
        num_given: Int, the rows of the input.
    """

    planner: EpochPlanner
    lengths: np.ndarray
    shard: Shard
    kept: np.ndarray | None
    num_given: int

    @property
    def given_lengths(self) -> np.ndarray:
        """Int32 array `(num_given,)`: the timesteps of the input's rows, 0 for those that were dropped."""
        lengths = np.zeros(self.num_given, np.int32)
        lengths[slice(None) if self.kept is None else self.kept] = self.lengths
        return lengths

    @property
    def num_batches(self) -> int:
        """The batches of every epoch."""
        return self.planner.num_batches

    def plan(self, epoch: int, seed: int) -> EpochPlan:
        """The batches of an epoch, as indices into the input."""
        plan = self._plan_of_used_rows(epoch, seed)
        if self.kept is None:
            return plan
        dropped = np.setdiff1d(np.arange(self.num_given), self.kept, assume_unique=True)
        left_out = np.union1d(self.kept[plan.left_out], dropped)
        return replace(plan, rows=self.kept[plan.rows], left_out=left_out)

    def padding_stats(self, epoch: int, seed: int, start: int = 0, stop: int | None = None) -> PaddingStats:
        """What the batches `start` to `stop - 1` of an epoch pad; all of them unless told otherwise.

        Rows that are left out belong to whole epochs only.
        """
        plan = self._plan_of_used_rows(epoch, seed)
        stop = len(plan) if stop is None else min(stop, len(plan))
        splits = plan.batch_splits[start : stop + 1]
        is_whole = start == 0 and stop == len(plan)
        return PaddingStats.from_batches(
            self.lengths[plan.rows[splits[0] : splits[-1]]],
            splits - splits[0],
            plan.padded_lengths[start:stop],
            buckets=plan.buckets[start:stop],
            left_out=len(plan.left_out) + self.num_given - len(self.lengths) if is_whole else 0,
        )

    def _plan_of_used_rows(self, epoch: int, seed: int) -> EpochPlan:
        return self.planner.plan(epoch, seed, self.shard)
