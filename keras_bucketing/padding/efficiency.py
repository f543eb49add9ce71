"""The one definition of padding efficiency in this package."""

from __future__ import annotations

import math


def padding_efficiency(real_timesteps: float, total_timesteps: float) -> float:
    """The share of real timesteps.

    Args:
        real_timesteps: Sum of the sequences' lengths, in timesteps.
        total_timesteps: Sum over the batches of rows x padded length, in timesteps.

    Returns:
        A float between 0 and 1; `nan` where there are no timesteps at all.

    Example:
        >>> padding_efficiency(30, 40)
        0.75
    """
    return real_timesteps / total_timesteps if total_timesteps else math.nan
