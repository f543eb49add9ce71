"""A data set whose batches are planned from lengths: what there is to know about it, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.pipeline.batch_gather import BatchGatherer
from keras_bucketing.pipeline.batch_stream import batch_stream
from keras_bucketing.planning.buckets import Buckets, summarize_buckets
from keras_bucketing.checks import check_integer
from keras_bucketing.pipeline.dataset_state import check_state, fingerprint, make_state
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.pass_counter import PassCounter, PassPosition
from keras_bucketing.planned_epochs import PlannedEpochs
from keras_bucketing.pipeline.restore_order import restore_order


class PlannedDataset(tf.data.Dataset):
    """The part of `BucketedSequence` behind its door: everything is checked, and the batches are planned.

    Args:
        epochs: The plans.
        buckets: The buckets that the batches were cut from.
        gatherer: Holds the data.
        seed: Int.
        seed_was_given: Whether a loaded state may not replace the seed.
        options: What, besides the data, decides which batches come; it goes into the fingerprint of a state.
    """

    def __init__(
        self,
        epochs: PlannedEpochs,
        buckets: Buckets,
        gatherer: BatchGatherer,
        seed: int,
        seed_was_given: bool,
        options: Mapping[str, Any],
    ):
        self._epochs, self._buckets, self._gatherer = epochs, buckets, gatherer
        self._seed_was_given, self._plan_options = seed_was_given, options
        self._fingerprint: str | None = None
        self._counter = PassCounter(seed)
        self._batches = batch_stream(self._counter, epochs.planner, gatherer)
        super().__init__(tf.data.experimental.to_variant(self._batches))

    # What tf.data asks of a subclass.

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._batches]

    @property
    def element_spec(self) -> Any:
        """The structure, shapes and dtypes of a batch, as `tf.TensorSpec`s."""
        return self._batches.element_spec

    def __reduce__(self) -> Any:
        raise TypeError(
            f"A {type(self).__name__} cannot be pickled or copied: its data live in TensorFlow's memory. Make it anew "
            "from the same data and options, and carry its position over with state_dict() and load_state_dict()."
        )

    # What there is to know about it.

    @property
    def num_batches(self) -> int:
        """The batches of every epoch."""
        return self._epochs.num_batches

    @property
    def num_sequences(self) -> int:
        """The sequences of every epoch, on all shards, before any are left out of the last batch."""
        return len(self._epochs.lengths)

    @property
    def lengths(self) -> np.ndarray:
        """Int array `(len(x),)`: timesteps, in the order of the input; 0 for a row that was dropped as empty."""
        return self._epochs.given_lengths

    @property
    def bucket_boundaries(self) -> list[int]:
        """Bucket i holds `boundaries[i - 1] <= length < boundaries[i]`."""
        return list(self._buckets.boundaries)

    @property
    def bucket_batch_sizes(self) -> list[int]:
        """The rows of a full batch, for each bucket, of all shards together."""
        return list(self._buckets.batch_sizes)

    @property
    def epoch(self) -> int:
        """The epoch that the next pass reads; it goes up when a pass yields its first batch."""
        return self._counter.next_position[0]

    @property
    def next_first_batch(self) -> int:
        """The batch that the next pass begins with: 0 unless `seek` or `load_state_dict` said otherwise."""
        return self._counter.next_position[1]

    @property
    def seed(self) -> int:
        """The seed of the order."""
        return self._counter.seed

    def epoch_plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch, as row indices into the input: exactly what that epoch yields.

        Args:
            epoch: Int, at least 0.

        Raises:
            TypeError: If `epoch` is not an integer.
            ValueError: If it is negative.

        Example:
        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False)
        >>> [rows.tolist() for rows in dataset.epoch_plan(0)]
        [[1, 2], [0]]
        """
        return self._epochs.plan(check_integer("epoch", epoch, minimum=0), self.seed)

    def padding_stats(self, epoch: int = 0) -> PaddingStats:
        """What an epoch pads, on this shard.

        Args:
            epoch: Int, at least 0. Defaults to 0.

        Example:
        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False)
        >>> dataset.padding_stats().real_timesteps, dataset.padding_stats().total_timesteps
        (6, 7)
        """
        return self._epochs.padding_stats(check_integer("epoch", epoch, minimum=0), self.seed)

    def newest_pass(self) -> PassPosition:
        """The newest pass that has yielded a batch: its number, its epoch, and the batch it began with."""
        return self._counter.newest_pass()

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What some batches of a pass padded.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch.
        """
        first = position.first_batch
        return self._epochs.padding_stats(position.epoch, self.seed, first + start, first + stop)

    def summary(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints the buckets as a table: lengths, sequences, rows a batch, and the padding of epoch 0.

        Args:
            print_fn: Function that takes the text. Defaults to `print`.

        Example:
        >>> keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False).summary()
        lengths  sequences  rows a batch  batches  padding efficiency
        1 - 3            3             2        2               0.857
        all              3                      2               0.857
        """
        (print_fn or print)(summarize_buckets(self._buckets, self.padding_stats()))

    def plot(self, ax: Any = None) -> Any:
        """Draws the histogram of the lengths with the buckets and the padding that each one leaves.

        Args:
            ax: A Matplotlib axes. Defaults to None: a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: If Matplotlib is missing; `pip install 'keras-bucketing[plot]'` brings it.
        """
        from keras_bucketing.padding.pictures import plot_buckets

        lengths, stats = self._epochs.lengths, self.padding_stats()
        return plot_buckets(lengths, self.bucket_boundaries, self.bucket_batch_sizes, stats, ax=ax)

    # Where it stands.

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Lets the next pass begin there, without producing what comes before.

        That pass ends with its epoch, so it is shorter by `batch` batches; the passes after it are whole again.

        Args:
            epoch: Int, at least 0.
            batch: Int, from 0 to `num_batches`, which is the start of the next epoch. Defaults to 0.

        Raises:
            TypeError: If one of them is not an integer.
            ValueError: If one of them is out of range.

        Example:
        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=1, shuffle=False)
        >>> dataset.seek(epoch=3, batch=2)
        >>> [batch.numpy().tolist() for batch in dataset], dataset.epoch
        ([[[1, 2, 3]]], 4)
        """
        self._counter.seek(*self._check_position(epoch, batch))

    def state_dict(self, epoch: int | None = None, batch: int = 0) -> dict[str, Any]:
        """The position and what identifies the data set, as a small dictionary for JSON.

        Prefetching runs ahead of whoever consumes the batches, so in the middle of an epoch only the consumer knows the
        position: pass it. `BackupAndRestoreSequence` does so.

        Args:
            epoch: Int, the epoch of the next batch to consume. Defaults to None: where the next pass begins.
            batch: Int, the next batch of that epoch. Defaults to 0.

        Raises:
            TypeError: If one of them is not an integer.
            ValueError: If one of them is out of range.
        """
        if epoch is None:
            epoch, batch = self._counter.next_position
        return make_state(*self._check_position(epoch, batch), self.seed, self._data_fingerprint())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next pass begin where `state_dict` said; takes over its seed where none was given.

        Args:
            state: What `state_dict` returned, on a data set of the same data and options.

        Raises:
            ValueError: If it is no such state, or that of other data or options.
        """
        epoch, batch, seed = check_state(state, self._data_fingerprint(), self.seed, self._seed_was_given)
        self._counter.seek(*self._check_position(epoch, batch), seed)

    def restore_order(self, outputs: Any) -> Any:
        """Puts predictions back into the order of the input.

        It undoes the order of the newest pass, so call it right after `predict`.

        Args:
            outputs: What `model.predict(dataset)` returned: an array `(num_sequences, ...)`, or a dict or list of them.
                A `tf.RaggedTensor` (predictions for each timestep, which the TensorFlow backend returns) is cut to the
                real timesteps.

        Returns:
            The same structure, with row i belonging to `x[i]`.

        Raises:
            TypeError: If `outputs` holds something other than arrays.
            ValueError: If there is not one row for each sequence, or the epoch leaves rows out.

        Example:
        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], shuffle=False)
        >>> dataset.restore_order(np.array([[10.0], [20.0], [30.0]])).tolist()
        [[30.0], [10.0], [20.0]]
        """
        plan = self.epoch_plan(self.newest_pass().epoch)
        return restore_order(outputs, plan, self._epochs.num_given, self._epochs.lengths)

    def _check_position(self, epoch: Any, batch: Any) -> tuple[int, int]:
        epoch, batch = check_integer("epoch", epoch, minimum=0), check_integer("batch", batch, minimum=0)
        if batch > self.num_batches:
            raise ValueError(
                f"`batch` is out of range. Expected 0 to {self.num_batches}, the batches of an epoch, received {batch}."
            )
        return (epoch + 1, 0) if batch == self.num_batches else (epoch, batch)

    def _data_fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self._gatherer.tensors, self._plan_options)
        return self._fingerprint
