"""What batches filled at random would cost, without drawing one."""

from __future__ import annotations

import math

import numpy as np

from keras_bucketing.planning.boundaries import count_lengths

_log_factorial = np.vectorize(lambda number: math.lgamma(number + 1.0), otypes=[np.float64])


def expected_random_timesteps(lengths: np.ndarray, batch_rows: np.ndarray) -> float:
    """Expects the timesteps of random batches that are padded to their longest row.

    The longest of m rows drawn without replacement from n is at most `l` with the hypergeometric probability
    `C(rows not longer than l, m) / C(n, m)`, which gives its expectation exactly.

    Args:
        lengths: Int array of shape `(num_sequences,)`, at least 0, in timesteps.
        batch_rows: Int array of shape `(num_batches,)`, how many of these sequences each batch takes.

    Returns:
        Float, the expected sum over the batches of rows x longest row, in timesteps.

    Example:
        Two of the lengths 1, 1, 4: the longest is 1 with probability 1/3 and 4 with 2/3, so 3 on average.

        >>> import numpy as np
        >>> round(expected_random_timesteps(np.array([1, 1, 4]), np.array([2])), 9)
        6.0
    """
    if lengths.size == 0:
        return 0.0
    distinct, counts = count_lengths(lengths)
    rows_up_to = np.cumsum(counts)
    log_factorial_up_to = _log_factorial(rows_up_to)
    sizes, num_batches = np.unique(batch_rows[batch_rows > 0], return_counts=True)
    timesteps = 0.0
    for size, batches in zip(sizes.tolist(), num_batches.tolist(), strict=True):
        enough = rows_up_to >= size  # fewer rows than the batch takes cannot hold all of it
        log_ways = log_factorial_up_to[enough] - _log_factorial(rows_up_to[enough] - size)
        at_most = np.exp(log_ways - log_ways[-1])
        longest = float(distinct[enough] @ np.diff(at_most, prepend=0.0))
        timesteps += batches * size * longest
    return timesteps
