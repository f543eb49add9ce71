"""CountedDataset: the interface of datasets whose consumed padding can be counted."""

from __future__ import annotations

from typing import NoReturn, Protocol, runtime_checkable

from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition


@runtime_checkable
class CountedDataset(Protocol):
    """A dataset that knows its newest pass, and the padding of any batches of a pass.

    `BucketedSequence` knows it from its plan; the result of `monitor_padding` reads it off the batches.
    """

    def __len__(self) -> int:
        """The number of batches of a whole pass; raises TypeError if it is unknown."""

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The padding of the batches `start` to `stop - 1` of that pass, as far as it has them."""


def refuse_uncounted(name: str, dataset: object) -> NoReturn:
    """Refuses a dataset that does not know its padding."""
    raise TypeError(
        f"`{name}` cannot tell its padding. Expected a BucketedSequence or what monitor_padding() returned, or padded "
        f"arrays, received {type(dataset).__name__}. Wrap it, {name} = monitor_padding({name}), and give the result to "
        "both `fit` and PaddingStatsCallback; if it is made from a BucketedSequence, pass that."
    )
