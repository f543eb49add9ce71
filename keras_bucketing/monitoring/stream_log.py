"""StreamLog: what each batch of a stream padded, and the sum of the oldest batches of a pass without questions."""

from __future__ import annotations

import threading

from keras_bucketing.monitoring.batch_log import stats_of_entries
from keras_bucketing.monitoring.graph_log import BatchLog, key_of
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition

# Of a pass that has not been asked about, this many batches at least are kept one by one, and as many again and those
# of a window at most. Prefetching is not so far ahead of a model.
KEPT_BATCHES = 1024
_KEPT_PASSES = 2


class StreamLog(BatchLog):
    """A log whose memory does not grow with the length of a pass, unless the pass is asked about.

    Args:
        names: What statistics call the leaves of a batch.
        bucket_boundaries: Optional list of ints, to tell the bucket of a batch from its padded length; may be replaced.
    """

    def __init__(self, names: list[str], bucket_boundaries: list[int] | None):
        super().__init__(names, bucket_boundaries, is_endless=True)
        self._last_expected = 0
        self._lock = threading.Lock()  # of what follows
        self._sums: dict[int, tuple[int, PaddingStats]] = {}  # by pass: how many batches were added up, and to what

    def expect_questions(self, newest_pass: int) -> None:
        """Keeps all further batches of that pass and of the next one."""
        self._last_expected = newest_pass + 1

    def add_up(self, number: int, num_batches: int) -> None:
        """Adds up the oldest batches of a pass of which about `num_batches` have been written."""
        with self._lock:
            num_added, total = self._sum_of(number)
            if number <= self._last_expected or num_batches - num_added < 2 * KEPT_BATCHES:
                return
            stop = num_batches - KEPT_BATCHES
            entries = self._take(range(key_of(number, num_added), key_of(number, stop)))
            added = stats_of_entries(list(entries.values()), self._names, self.bucket_boundaries)
            self._sums[number] = stop, total + added
            for old in sorted(self._sums)[:-_KEPT_PASSES]:
                del self._sums[old]

    def pass_stats(
        self, position: PassPosition, start: int, stop: int, owners: list[int] | None = None
    ) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded, as far as they were delivered.

        Raises:
            ValueError: If batches have been added up, and only some of them are asked for.
        """
        with self._lock:
            num_added, total = self._sum_of(position.number)
            if start >= num_added:
                return super().pass_stats(position, start, stop, owners)
            if start > 0 or stop < num_added:
                raise ValueError(
                    f"The first {num_added:,} batches of this pass have been added up to save memory. "
                    f"Expected `start` 0 and `stop` at least {num_added}, or `start` at least {num_added}, received "
                    f"{start} and {stop}. Call newest_pass() before the pass begins: then each batch is kept."
                )
            return total + super().pass_stats(position, num_added, stop, owners)

    def _sum_of(self, number: int) -> tuple[int, PaddingStats]:
        return self._sums.get(number, (0, PaddingStats()))
