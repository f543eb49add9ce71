"""What `tune_batch_sizes` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_bucketing.padding.text_table import format_table
from keras_bucketing.tuning.epoch_forecast import EpochForecast
from keras_bucketing.tuning.step_costs import StepCosts


@dataclass(frozen=True)
class MeasuredStep:
    """A training step at one shape.

    Attributes:
        rows: Int.
        padded_length: Int, in timesteps.
        seconds: Float, the median of the measurements.
        predicted_seconds: Float, what the fitted costs say.
    """

    rows: int
    padded_length: int
    seconds: float
    predicted_seconds: float


@dataclass(frozen=True)
class TunedBatchSizes:
    """Boundaries and sizes for shorter epochs, and the measurements that they follow from.

    Attributes:
        bucket_boundaries: List of ints, for `BucketedSequence`.
        bucket_batch_sizes: List of ints, for `BucketedSequence`.
        steps: Tuple of `MeasuredStep`, the fewest timesteps first.
        costs: `StepCosts`, fitted to them.
        current: `EpochForecast` of the dataset as it is: `seconds`, `num_updates`, `largest_batch`.
        proposed: `EpochForecast` with these boundaries and sizes.
        too_large: Int, the timesteps of the smallest measured batch that did not fit into memory; None if all did.
    """

    bucket_boundaries: list[int]
    bucket_batch_sizes: list[int]
    steps: tuple[MeasuredStep, ...]
    costs: StepCosts
    current: EpochForecast
    proposed: EpochForecast
    too_large: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Dict, the keyword arguments of `BucketedSequence`, in the place of other sizes and boundaries."""
        return {"bucket_boundaries": self.bucket_boundaries, "bucket_batch_sizes": self.bucket_batch_sizes}

    @property
    def speedup(self) -> float:
        """Float, how many times faster an epoch is predicted to be."""
        return self.current.seconds / self.proposed.seconds

    def __str__(self) -> str:
        steps = [
            [step.rows, step.padded_length, _milliseconds(step.seconds), _milliseconds(step.predicted_seconds)]
            for step in self.steps
        ]
        epochs = [
            [name, f"{forecast.seconds:.3g}", forecast.num_updates, forecast.largest_batch]
            for name, forecast in (("now", self.current), ("proposed", self.proposed))
        ]
        costs = self.costs
        sentence = (
            f"A step takes {_milliseconds(costs.overhead)} ms + {costs.per_timestep * 1e6:.3g} us a timestep + "
            f"{costs.per_cell * 1e6:.3g} us a row and timestep."
        )
        if self.too_large is not None:
            sentence += f" A batch of {self.too_large} timesteps does not fit into memory."
        return "\n\n".join(
            [
                format_table(["rows", "padded length", "measured ms", "predicted ms"], steps),
                sentence,
                format_table(["epoch", "predicted s", "updates", "timesteps of the largest batch"], epochs),
                "\n".join(f"{name}={value}" for name, value in self.options.items()),
            ]
        )


def measured_steps(
    rows: np.ndarray, padded_lengths: np.ndarray, seconds: np.ndarray, costs: StepCosts
) -> tuple[MeasuredStep, ...]:
    """One entry for each measured batch; arrays `(num_measured,)`."""
    columns = (rows, padded_lengths, seconds, costs.seconds(rows, padded_lengths))
    return tuple(MeasuredStep(*step) for step in zip(*(column.tolist() for column in columns), strict=True))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"
