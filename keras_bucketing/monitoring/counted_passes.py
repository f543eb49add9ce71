"""The figures of what has passed through a dataset, in the words of its public methods."""

from __future__ import annotations

from abc import abstractmethod

from keras_bucketing.monitoring.pass_log import PassLog
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition


class CountedPasses:
    """Counts the batches of its passes. Subclasses have a log, and say which pass is the newest."""

    _log: PassLog

    @abstractmethod
    def _newest_pass(self) -> PassPosition:
        """The newest pass."""

    def _before_figures(self) -> None:
        """Warns, or raises, where the figures that are asked for cannot be right."""

    def newest_pass(self) -> PassPosition:
        """The newest pass that has yielded a batch, for a custom training loop; `fit` does not need it.

        An iterator becomes a pass when its first batch is read. A prefetch, `.prefetch()` on top or that of Keras,
        reads it as soon as the iterator is made.

        Returns:
            A `PassPosition`, a named tuple. Its `number` counts the passes from 1 on (0 before the first). `epoch` is
            the epoch that the pass reads, which is `number - 1` except after `seek` or `load_state_dict`.
            `first_batch` is the batch of that epoch with which the pass began: 0, with the same exception.

        Example:
            >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 0], [5, 6]]).batch(1)
            >>> monitored = keras_bucketing.monitor_padding(dataset)
            >>> monitored.newest_pass().number
            0
            >>> batches = list(monitored)
            >>> monitored.newest_pass()
            PassPosition(number=1, epoch=0, first_batch=0)
        """
        newest = self._newest_pass()
        self._log.expect_questions(newest.number + 1)
        return newest

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The padding of some batches of a pass, for a custom training loop; `fit` has `PaddingStatsCallback`.

        Ask in the order of the batches: those before `start` may be forgotten. At least the newest two passes are
        remembered. If `newest_pass` was called before or during a pass, its batches are kept one by one from then on.
        Otherwise at least the newest 1,024 are, and of a long pass those before them only as one sum, which counts with
        `start=0`.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.

        Returns:
            The `PaddingStats` of these batches, over every entry of `x` that holds sequences.

        Raises:
            ValueError: If they begin or end within batches that are not kept one by one any more; of padded batches, if
                it is not certain where their rows end.

        Example:
            A training loop counts the batches that it consumes, whatever was prefetched:

            >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0], [1, 2, 3]]).batch(1)
            >>> monitored = keras_bucketing.monitor_padding(dataset)
            >>> for step, batch in enumerate(monitored.prefetch(3)):
            ...     if step == 1:
            ...         break
            >>> stats = monitored.pass_stats(monitored.newest_pass(), start=0, stop=step + 1)
            >>> stats.num_batches, stats.real_timesteps, stats.total_timesteps
            (2, 3, 6)
        """
        self._before_figures()
        return self._log.pass_stats(position, start, stop)


class MonitoredPasses(CountedPasses):
    """Counts the batches of its passes, and whether these are finished."""

    def padding_stats(self) -> PaddingStats:
        """The padding of the last finished pass, that is, one whose last batch was yielded.

        A pass that is left early is not finished, and an endless dataset has no finished pass: use `pass_stats`. Where
        the number of batches is unknown, e.g. of a generator, a pass is finished when a batch after the last one is
        asked for. A `.prefetch()` on top finishes a pass when it has read all of it.

        Returns:
            A `PaddingStats`, which is empty before the first pass is finished.

        Example:
            >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0]]).batch(1)
            >>> monitored = keras_bucketing.monitor_padding(dataset)
            >>> for epoch in range(2):
            ...     for batch in monitored:
            ...         pass  # a training step
            ...     print(monitored.padding_stats().padding_efficiency)
            0.5
            0.5
        """
        self._before_figures()
        return self._log.finished_stats()
