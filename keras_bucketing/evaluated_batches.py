"""What one evaluation or prediction consumed, of whichever data set it turns out to read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

from keras_bucketing.callbacks.consumed_batches import ConsumedBatches, CountedDataset
from keras_bucketing.padding.stats import PaddingStats


class EvaluatedBatches:
    """Follows all data sets that may be evaluated: which of them is shows only when one of them begins a pass.

    Args:
        datasets: The candidates; where several have begun a pass, the first of them counts.
    """

    def __init__(self, datasets: Iterable[CountedDataset]):
        self._candidates = [ConsumedBatches(dataset) for dataset in datasets]
        for candidate in self._candidates:
            candidate.begin()
        self._began = time.perf_counter()

    def begin_step(self, step: int) -> None:
        """Notes that Keras is about to run the batches from `step` on."""
        for candidate in self._candidates:
            candidate.begin_step(step)

    def end_step(self, step: int) -> None:
        """Notes that Keras has run the batches up to `step`; thread-safe."""
        for candidate in self._candidates:
            candidate.end_step(step)

    def padding_stats(self, count_rows: Callable[[], int | None], expected_steps: int | None) -> PaddingStats | None:
        """What was padded, and how long it took; None if none of the data sets was read.

        Args:
            count_rows: As of `ConsumedBatches.consumed`.
            expected_steps: As of `ConsumedBatches.consumed`.
        """
        seconds = time.perf_counter() - self._began
        for candidate in self._candidates:
            consumed = candidate.consumed(count_rows, expected_steps)
            if consumed is not None:
                return dataclasses.replace(candidate.dataset.pass_stats(*consumed), seconds=seconds)
        return None
