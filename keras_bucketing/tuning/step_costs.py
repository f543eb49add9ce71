"""What a training step costs: an overhead, each timestep, and each cell (rows x padded length). NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np


@dataclass(frozen=True)
class StepCosts:
    """The parts of a step's time; none is negative.

    Attributes:
        overhead: Float, seconds a step, whatever its shape.
        per_timestep: Float, seconds a timestep of the padded length, whatever the rows: what a recurrent layer pays for
            doing one timestep after the other.
        per_cell: Float, seconds a cell.
    """

    overhead: float
    per_timestep: float
    per_cell: float

    def seconds(self, rows: Any, padded_lengths: Any) -> Any:
        """Seconds of steps of these shapes.

        Args:
            rows: Int or array, the rows of each batch.
            padded_lengths: Int, float or array, in timesteps; a mean gives the mean of the seconds.

        Example:
            >>> StepCosts(overhead=0.5, per_timestep=0.25, per_cell=0.125).seconds(rows=2, padded_lengths=4)
            2.5
        """
        return self.overhead + (self.per_timestep + self.per_cell * rows) * padded_lengths


def fit_step_costs(rows: np.ndarray, padded_lengths: np.ndarray, seconds: np.ndarray) -> StepCosts:
    """Finds the costs whose relative errors are the smallest, in least squares.

    Relative, because a short step that is 1 ms off matters as much as a long one that is 100 ms off: an epoch has more
    of the short ones.

    Args:
        rows: Int array `(num_steps,)`.
        padded_lengths: Int array `(num_steps,)`, in timesteps.
        seconds: Float array `(num_steps,)`, positive.

    Example:
        >>> costs = StepCosts(overhead=0.5, per_timestep=0.25, per_cell=0.125)
        >>> rows, lengths = np.array([1, 2, 4, 4]), np.array([8, 2, 2, 8])
        >>> fitted = fit_step_costs(rows, lengths, costs.seconds(rows, lengths))
        >>> [round(cost, 6) for cost in (fitted.overhead, fitted.per_timestep, fitted.per_cell)]
        [0.5, 0.25, 0.125]
    """
    parts = np.stack([np.ones(len(seconds)), padded_lengths, rows * padded_lengths], axis=1) / seconds[:, np.newaxis]
    scale = parts.max(axis=0)
    parts = parts / scale
    best, least = np.zeros(3), float(len(seconds))  # no cost at all: every relative error is 1
    # Where a cost would be negative, the best without negative ones has some of them at 0: with three, all ways to
    # leave some out are quickly tried.
    for number in (1, 2, 3):
        for kept in map(list, combinations(range(3), number)):
            found = np.linalg.lstsq(parts[:, kept], np.ones(len(seconds)), rcond=None)[0]
            error = float(((parts[:, kept] @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(3), error
                best[kept] = found
    return StepCosts(*(best / scale).tolist())
