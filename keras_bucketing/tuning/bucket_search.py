"""The buckets whose batches take the least time, by dynamic programming over the lengths. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NEVER = np.inf


@dataclass(frozen=True)
class Stretches:
    """Lengths that a bucket may end at, increasing, each with what lies between it and the one before.

    Attributes:
        lengths: Int64 array `(num_stretches,)`, in timesteps.
        rows_up_to: Int64 array `(num_stretches + 1,)`: how many rows are not longer; 0 at its beginning.
        least: Int64 array `(num_stretches,)`: the least rows of a batch that ends there.
        most: Int64 array `(num_stretches,)`: the most rows of such a batch.
        step: Float array `(num_stretches,)`: seconds of such a batch, apart from its rows.
        row: Float array `(num_stretches,)`: seconds of each row in such a batch.
    """

    lengths: np.ndarray
    rows_up_to: np.ndarray
    least: np.ndarray
    most: np.ndarray
    step: np.ndarray
    row: np.ndarray


def best_buckets(stretches: Stretches, num_short: int, price: float, min_batches: int) -> list[int] | None:
    """Finds the ends (exclusive, of stretches) of the buckets that take the least time.

    Buckets that end among the `num_short` shortest stretches make as many batches as they can, since the epoch needs
    them; the others make as few. A batch is worth what the longest of the short ones costs: that is what another one of
    them would cost instead.

    Args:
        stretches: Where buckets may end.
        num_short: Int, from 0 to the number of stretches.
        price: Float, the seconds that each bucket must save.
        min_batches: Int, the least batches of a bucket. One batch alone is the same in every epoch.

    Returns:
        List of ints, the last of them the number of stretches; None where no buckets have enough rows.
    """
    size = len(stretches.lengths)
    worth = stretches.step[num_short - 1] if num_short else 0.0
    best = np.full(size + 1, _NEVER)
    best[0] = 0.0
    start = np.zeros(size + 1, np.int64)
    for end in range(1, size + 1):
        last = end - 1
        rows = stretches.rows_up_to[end] - stretches.rows_up_to[:end]  # of the buckets from each stretch up to this one
        fewest = np.maximum(-(-rows // stretches.most[last]), min_batches)
        most = rows // stretches.least[last]
        batches = most if end <= num_short else fewest
        cost = best[:end] + batches * (stretches.step[last] - worth) + rows * stretches.row[last] + price
        cost[most < fewest] = _NEVER
        start[end] = int(np.argmin(cost))
        best[end] = cost[start[end]]
    if best[size] == _NEVER:
        return None
    ends = [size]
    while start[ends[-1]]:
        ends.append(int(start[ends[-1]]))
    return ends[::-1]
