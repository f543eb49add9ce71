"""CountedDataset: what a dataset must answer, so that the padding of what a model consumes can be counted."""

from __future__ import annotations

from typing import NoReturn, Protocol, runtime_checkable

from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition


@runtime_checkable
class CountedDataset(Protocol):
    """A dataset that says which pass over it is the newest, and what any batches of a pass padded.

    `BucketedSequence` knows that from its plan, what `monitor_padding` returns reads it off the batches.
    """

    def __len__(self) -> int:
        """Batches of a whole pass; raises TypeError where nobody knows."""

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What was padded in the batches `start` to `stop - 1` of that pass, as far as it has them."""


def refuse_uncounted(name: str, dataset: object) -> NoReturn:
    """Refuses what cannot tell its padding."""
    raise TypeError(
        f"`{name}` cannot tell its padding. Expected a BucketedSequence or what monitor_padding() returned, or padded "
        f"arrays, received {type(dataset).__name__}. Wrap it, {name} = monitor_padding({name}), and give the result to "
        "both `fit` and PaddingStatsCallback; if it is made of a BucketedSequence, pass that."
    )
