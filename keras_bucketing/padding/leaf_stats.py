"""What was padded in each leaf, where a row has several sequences."""

from __future__ import annotations

import dataclasses

from keras_bucketing.padding.efficiency import padding_efficiency
from keras_bucketing.padding.text_table import format_table


@dataclasses.dataclass(frozen=True)
class LeafPaddingStats:
    """What was padded in one of several leaves, such as the source and the target of a translation.

    Attributes:
        name: Str, e.g. `x['source']`.
        longest: Int, its longest sequence, in timesteps.
        real_timesteps: Int, sum of its lengths.
        total_timesteps: Int, sum over the batches of rows x its padded length.

    Example:
        >>> LeafPaddingStats("x['source']", 10, 45, 60).padding_efficiency
        0.75
    """

    name: str
    longest: int
    real_timesteps: int
    total_timesteps: int

    @property
    def padding_efficiency(self) -> float:
        """Float, real timesteps / all timesteps."""
        return padding_efficiency(self.real_timesteps, self.total_timesteps)

    def __add__(self, other: LeafPaddingStats) -> LeafPaddingStats:
        return LeafPaddingStats(
            self.name,
            max(self.longest, other.longest),
            self.real_timesteps + other.real_timesteps,
            self.total_timesteps + other.total_timesteps,
        )


def leaf_table(leaves: tuple[LeafPaddingStats, ...]) -> str:
    """A line for each leaf."""
    rows = [(*dataclasses.astuple(stats), stats.padding_efficiency) for stats in leaves]
    return format_table(["leaf", "longest", "real", "timesteps", "efficiency"], rows)
