"""Which pass over a dataset `fit` reads, even if others read the dataset meanwhile, and its position.

Passes look alike, but `fit` begins its own at a known moment: right after all callbacks' `on_train_batch_begin(0)`,
under PyTorch right after all callbacks' `on_epoch_begin`. The first pass that begins after that moment belongs to
`fit`, and begins at the position of the dataset at that moment.

    other callbacks' hooks     mark_before_read()     fit reads its first batch     other hooks     confirm_read()
"""

from __future__ import annotations

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream
from keras_bucketing.callbacks.backup_store import State
from keras_bucketing.pipeline.passes import NextPosition


class TrainingPass:
    """The pass of the current Keras epoch, and the positions from which a backup continues it.

    Args:
        dataset: The dataset that `fit` reads.

    Attributes:
        epoch: Int, the epoch of the dataset that the pass reads.
        first_batch: Int, the batch with which it began; above 0 in a pass that a restart has shortened.
    """

    def __init__(self, dataset: BucketedSequence | BucketedStream):
        self.epoch = 0
        self.first_batch = 0
        self._dataset = dataset
        self._passes_before = 0
        self._is_confirmed = False
        # After a restart: where the first pass begins if that is inside of an epoch, and where the next whole one does.
        self._shortened: NextPosition | None = None
        self._next: NextPosition | None = None

    def state(self) -> State:
        """The state between two epochs."""
        position = self._dataset.state_dict()
        return {"position": position, "next": position}

    def state_inside(self, next_batch: int, next_pass: State) -> State:
        """The state within an epoch, whose batches before `next_batch` are consumed.

        `next_pass` is the state of the dataset, the beginning of the pass after this one.
        """
        return {"position": self._dataset.state_dict(self.epoch, next_batch), "next": next_pass}

    def restore(self, state: State) -> None:
        """Makes `fit` continue at a saved position.

        Raises:
            ValueError: If the state is that of other data or options.
        """
        self._dataset.load_state_dict(state["position"])
        position = self._next_position()
        self._dataset.load_state_dict(state["next"])
        self._next = self._next_position()
        self._shortened = position if state["position"] != state["next"] else None

    def restore_position(self) -> None:
        """Undoes the reads of other callbacks since the restore.

        Call it after all `on_train_begin`, and after all `on_epoch_begin`, which the uninterrupted run calls here only
        if the pass is a whole one.
        """
        if self._next is not None:
            self._dataset.seek(*self._next)
        if self._shortened is None:
            self._next = None

    def mark_before_read(self) -> None:
        """Call it right before `fit` reads: the next pass that begins belongs to `fit`."""
        if self._shortened is not None:
            self._next = self._next_position()
            self._dataset.seek(*self._shortened)
        self.epoch, self.first_batch = self._next_position()
        self._passes_before = self._dataset.newest_pass().number
        self._is_confirmed = False

    def confirm_read(self) -> None:
        """Call it after the first batch was consumed, at the latest before the next `mark_before_read`.

        Raises:
            ValueError: If `fit` has not read the dataset.
        """
        if self._is_confirmed:
            return
        passes_of_others = self._dataset.newest_pass().number - self._passes_before - 1
        if passes_of_others < 0:
            raise ValueError(
                "`dataset` was not read by fit() in this epoch, so there is no position to back up. Give "
                "BackupAndRestoreSequence the BucketedSequence that fit() gets, or that its dataset is made of without "
                "cache()."
            )
        self._is_confirmed = True
        if self._shortened is not None and self._next is not None:
            # The pass after a shortened one begins where the uninterrupted run's would, unless others have begun some.
            self._dataset.seek(self._next.epoch + passes_of_others, 0 if passes_of_others else self._next.first_batch)
        self._shortened = self._next = None

    def next_batch(self, steps: int) -> int:
        """The batch of the epoch that comes after a number of steps; the last group of steps may be short."""
        next_batch = self.first_batch + steps
        num_batches = self._dataset.num_batches
        return next_batch if num_batches is None else min(next_batch, num_batches)

    def _next_position(self) -> NextPosition:
        return NextPosition(self._dataset.epoch, self._dataset.next_first_batch)
