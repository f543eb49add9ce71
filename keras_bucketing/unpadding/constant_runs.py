"""Runs of one and the same timestep at the ends or the beginnings of rows, which look like padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import show

# A single repeated timestep is a coincidence; so are runs in a row out of twenty, or of a value that occurs all over.
_MIN_RUN = 2
_MIN_SHARE_OF_ROWS = 0.1
_MIN_SHARE_OF_VALUE = 0.75


@dataclass(frozen=True)
class ConstantRuns:
    """What rows that end (or begin) in a run of one and the same timestep have in common.

    Attributes:
        at_end: Whether the runs are at the rows' ends.
        value: Array `features`, the timestep.
        num_rows: Int, all rows but those that are constant throughout, which say nothing.
        num_runs: Int, the rows with a run of at least two timesteps.
        shortest: Int, the shortest run.
        longest: Int, the longest run.
        timesteps: Int, the timesteps of all runs.
        all_timesteps: Int, all timesteps that hold this value, in these rows.
    """

    at_end: bool
    value: np.ndarray
    num_rows: int
    num_runs: int
    shortest: int
    longest: int
    timesteps: int
    all_timesteps: int

    @property
    def looks_like_padding(self) -> bool:
        """Whether enough rows have a run, of differing lengths, of a timestep that hardly occurs elsewhere.

        Enough are two, and a tenth of the rows; three in four timesteps of that value must lie in the runs. Padding
        does so, while plateaus and frequent values are spread over the rows.
        """
        return (
            self.num_runs >= max(2, _MIN_SHARE_OF_ROWS * self.num_rows)
            and self.longest > self.shortest
            and self.timesteps >= _MIN_SHARE_OF_VALUE * self.all_timesteps
        )

    def describe(self) -> str:
        """What was found, for a warning."""
        return (
            f"{self.num_runs} of {self.num_rows} rows {'end' if self.at_end else 'begin'} in {self.shortest} to "
            f"{self.longest} timesteps of {show(self.value.tolist())}"
        )


def runs_like_padding(batches: Sequence[tf.Tensor]) -> ConstantRuns | None:
    """The runs at the ends or at the beginnings of the rows of some batches that look like padding, or None."""
    for at_end in (True, False):
        counted = [count_runs(batch, at_end) for batch in batches if batch.shape.num_elements()]
        runs = add_up_runs([(counts.numpy(), value.numpy()) for counts, value in counted], at_end)
        if runs is not None and runs.looks_like_padding:
            return runs
    return None


def add_up_runs(parts: Iterable[tuple[np.ndarray, np.ndarray]], at_end: bool) -> ConstantRuns | None:
    """Adds up what `count_runs` found in several batches, for the value with the most runs; None if none has a run."""
    num_rows = 0
    counts_by_value: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
    for counts, value in parts:
        num_rows += int(counts[0])
        if counts[1]:
            counts_by_value.setdefault(str(value.tolist()), (value, []))[1].append(counts)
    if not counts_by_value:
        return None
    value, found = max(counts_by_value.values(), key=lambda entry: sum(counts[1] for counts in entry[1]))
    table = np.stack(found)
    _, num_runs, _, _, timesteps, all_timesteps = map(int, table.sum(axis=0))
    shortest, longest = int(table[:, 2].min()), int(table[:, 3].max())
    return ConstantRuns(at_end, value, num_rows, num_runs, shortest, longest, timesteps, all_timesteps)


def count_runs(batch: tf.Tensor, at_end: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Counts the runs of one timestep, that of the longest run, in a batch `(num_rows, time, *features)`.

    Returns int64 `(6,)`, the numbers of `ConstantRuns` in their order, and the timestep, flat.
    """
    shape = tf.shape(batch)
    num_rows, time = shape[0], shape[1]
    flat = tf.reshape(batch, [num_rows, time, -1])
    if not at_end:
        flat = tf.reverse(flat, [1])
    run = _run_at_end(_equal(flat, flat[:, -1:]))
    is_mixed = run < time
    value = flat[tf.argmax(tf.where(is_mixed, run, 0)), -1]
    holds_value = tf.logical_and(_equal(flat, value), is_mixed[:, tf.newaxis])
    runs = _run_at_end(holds_value)
    runs = tf.boolean_mask(runs, runs >= _MIN_RUN)
    counts = [
        tf.math.count_nonzero(is_mixed),
        tf.size(runs),
        tf.reduce_min(tf.concat([runs, [time]], 0)),
        tf.reduce_max(tf.concat([runs, [0]], 0)),
        tf.reduce_sum(runs),
        tf.math.count_nonzero(holds_value),
    ]
    return tf.stack([tf.cast(count, tf.int64) for count in counts]), value


def _run_at_end(holds: tf.Tensor) -> tf.Tensor:
    """Int32 `(num_rows,)`: how many of the last timesteps hold."""
    time = tf.shape(holds)[1]
    last_without = tf.reduce_max(tf.where(holds, -1, tf.range(time)), axis=1)
    return time - 1 - last_without


def _equal(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Bool `(num_rows, time)`: whether all features are equal; NaN equals NaN."""
    equal = tf.equal(left, right)
    if left.dtype.is_floating:
        equal = tf.logical_or(equal, tf.logical_and(tf.math.is_nan(left), tf.math.is_nan(right)))
    return tf.reduce_all(equal, axis=2)
