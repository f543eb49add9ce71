"""CountedDataset: what a dataset must answer, so that its padding can be counted."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.pass_counter import PassPosition


@runtime_checkable
class CountedDataset(Protocol):
    """What a dataset must answer, so that its consumption can be followed."""

    def __len__(self) -> int:
        """Batches of a whole pass; raises TypeError where nobody knows."""

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What was padded in the batches `start` to `stop - 1` of that pass, as far as it has them."""
