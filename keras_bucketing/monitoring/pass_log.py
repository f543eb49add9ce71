"""What is remembered of passes: their newest batches one by one, and the oldest of a long pass as one sum."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition

LogEntry = NDArray[np.int32]  # (num_leaves, 1 + rows): the padded length of each leaf and the lengths of its rows

# A dataset that is read without a callback would fill its log for ever. This many entries are a few megabytes and far
# more than the batches which can be waiting to be read.
KEPT_BATCHES = 65536
KEPT_PASSES = 4
_ADDED_AT_ONCE = 1024  # for a few hundredths of a second


class PassLog(ABC):
    """The entries of the newest passes; thread-safe. Subclasses say where entries are.

    Passes are numbered from 1. In a long pass that is not asked about, the oldest batches are added up, so that memory
    does not grow with the length of a pass. In one that is, those before the last question are.

    Args:
        num_kept: Int, so many of the newest batches of a pass at least are kept one by one, and not many more. Defaults
            to None: `KEPT_BATCHES`.
    """

    def __init__(self, num_kept: int | None = None):
        self._num_kept = KEPT_BATCHES if num_kept is None else num_kept
        self._added_at_once = min(self._num_kept, _ADDED_AT_ONCE)
        self._lock = threading.RLock()  # of what follows, and of entries
        self._newest_asked = 0
        self._sums: dict[int, tuple[int, PaddingStats]] = {}  # by pass: how many batches were added up, and to what

    def expect_questions(self, number: int) -> None:
        """Keeps all further batches of passes up to that one, since their figures may be asked for."""
        with self._lock:
            self._newest_asked = max(self._newest_asked, number)

    def add_up(self, number: int, num_batches: int) -> None:
        """Adds up the oldest batches of a pass of which about `num_batches` have been noted, if they are too many."""
        with self._lock:
            is_long = num_batches - self._sum_of(number)[0] >= self._num_kept + self._added_at_once
            if number > self._newest_asked and is_long:
                self._add_up_before(number, num_batches - self._num_kept)

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The padding of the batches `start` to `stop - 1` of a pass, as far as they were noted.

        Raises:
            ValueError: If batches have been added up, and only some of them are asked for.
        """
        number = position.number
        with self._lock:
            self.expect_questions(number)
            num_added, total = self._sum_of(number)
            if start < min(stop, num_added) and (start > 0 or stop < num_added):
                raise ValueError(
                    f"The first {num_added:,} batches of this pass have been added up to save memory. "
                    f"Expected `start` 0 and `stop` at least {num_added}, or `start` at least {num_added}, received "
                    f"{start} and {stop}. Ask in the order of the batches, and call newest_pass() before the pass "
                    "begins: then each batch is kept."
                )
            entries = self._read(number, max(start, num_added), stop)
            if self._num_remembered(number) > 2 * self._num_kept:
                self._add_up_before(number, start)
            stats = self._stats(entries)
            return total + stats if start < min(stop, num_added) else stats

    @abstractmethod
    def finished_stats(self) -> PaddingStats:
        """The figures of the pass that was finished last; those of no batch before the first."""

    def _add_up_before(self, number: int, stop: int) -> None:
        num_added, total = self._sum_of(number)
        if stop > num_added:
            self._sums[number] = stop, total + self._stats(self._take(number, num_added, stop))
            self._sums = self._newest_of(self._sums)

    def _sum_of(self, number: int) -> tuple[int, PaddingStats]:
        """How many batches of a pass have been added up, and to what."""
        return self._sums.get(number, (0, PaddingStats()))

    def _newest_of(self, of_passes: dict[int, Any]) -> dict[int, Any]:
        """What belongs to the newest passes."""
        newest = sorted(of_passes)[-KEPT_PASSES:]
        return {number: of_passes[number] for number in newest}

    @abstractmethod
    def _stats(self, entries: list[LogEntry]) -> PaddingStats:
        """Figures of entries."""

    @abstractmethod
    def _read(self, number: int, start: int, stop: int) -> list[LogEntry]:
        """The entries of the batches `start` to `stop - 1` of a pass, as far as it has them."""

    @abstractmethod
    def _take(self, number: int, start: int, stop: int) -> list[LogEntry]:
        """The same, which are forgotten."""

    @abstractmethod
    def _num_remembered(self, number: int) -> int:
        """How many entries of a pass are kept that have been asked for."""
