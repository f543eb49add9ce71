"""How many buckets, where nobody says: by the padding that is left once the batches are really cut.

Minimum padding puts every row into its own bucket. Real batches do not: what does not fill a batch spills into the next
longer one, and on a heavy tail that takes back what many buckets gain. So each number of buckets is judged by its cuts.
NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_bucketing.planning.batch_spans import batch_spans
from keras_bucketing.planning.boundaries import best_partitions, boundaries_after, count_lengths

MOST_BUCKETS = 32
# Enough: beyond it another bucket buys little and makes the batches less random.
ENOUGH_EFFICIENCY = 0.95
# Where that cannot be reached: this share of the best that can. On long tails it costs about 2 % more timesteps for
# a fifth to a third fewer repeated meetings (`python -m benchmarks.automatic_buckets`).
SHARE_OF_BEST = 0.975
# With one shape a bucket, each has to save so much of the timesteps: compiling a shape takes XLA 2 to 3 seconds, which
# is that share of a training of four minutes.
SAVED_BY_A_SHAPE = 0.01


def automatic_bucket_boundaries(
    lengths: np.ndarray,
    batch_rows: Callable[[np.ndarray], np.ndarray],
    remainder: str = "spill",
    multiple: int = 1,
    few_shapes: bool = False,
) -> list[int]:
    """Finds as few minimum-padding buckets as come close to the best, none smaller than its batch.

    Args:
        lengths: Int64 array of shape `(num_sequences,)`.
        batch_rows: Function from longest lengths, shape `(num_distinct,)`, to the rows of a batch of a bucket that ends
            there. It must not grow with the length.
        remainder: What becomes of rows that do not fill a batch of their bucket; see `cut_batches`.
        multiple: Int. Every batch has a multiple of it.
        few_shapes: Whether each bucket is a shape to compile, so that it has to save 1 % of the timesteps.

    Returns:
        List of boundaries, as of `optimal_bucket_boundaries`. At most 32 buckets, and one bucket where the data is too
        small for two.
    """
    distinct, counts = count_lengths(lengths)
    rows = np.maximum(batch_rows(distinct), multiple)
    rows_before = np.concatenate([[0], np.cumsum(counts)])
    timesteps_before = np.concatenate([[0], np.cumsum(counts * distinct)])
    partitions: list[list[int]] = []
    efficiencies: list[float] = []
    most = min(MOST_BUCKETS, len(distinct))
    for ends, _ in best_partitions(distinct, counts, np.minimum(rows, lengths.size), most):
        last = np.array(ends) - 1
        in_bucket, timesteps = np.diff(rows_before[[0, *ends]]), np.diff(timesteps_before[[0, *ends]])
        begins, stops = batch_spans(in_bucket, rows[last].tolist(), remainder, multiple)
        taken = stops - begins
        # Rows that are left out are any of their bucket if it drops them, else any of all.
        real = taken @ (timesteps / in_bucket) if remainder == "drop" else timesteps.sum() * taken.sum() / lengths.size
        padded = int(taken @ distinct[last])
        partitions.append(ends)
        efficiencies.append(real / padded if padded else 0.0)
    return boundaries_after(distinct, partitions[_fewest(np.array(efficiencies), few_shapes)])


def _fewest(efficiencies: np.ndarray, few_shapes: bool) -> int:
    """The first number of buckets, counted from 0, that is close enough to the best; fewer if shapes are dear."""
    enough = min(ENOUGH_EFFICIENCY, SHARE_OF_BEST * float(efficiencies.max()))
    fewest = int(np.argmax(efficiencies >= enough))
    if few_shapes:
        worth = efficiencies * (1 - SAVED_BY_A_SHAPE) ** np.arange(len(efficiencies))
        fewest = int(np.argmax(worth[: fewest + 1]))
    return fewest
