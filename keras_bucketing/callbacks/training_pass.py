"""Which pass over a dataset `fit` reads, whoever else reads the dataset meanwhile, and where it stands.

Passes look alike, but `fit` begins its own at a moment that is known: right after all callbacks'
`on_train_batch_begin(0)`, under PyTorch right after all callbacks' `on_epoch_begin`. The first pass that begins after
that moment is the one of `fit`, and it begins where the dataset stood then.

    other callbacks' hooks     expect()     fit reads its first batch     other callbacks' hooks     begin()
"""

from __future__ import annotations

from typing import Any

from keras_bucketing.bucketed_sequence import BucketedSequence


class TrainingPass:
    """The pass of the current Keras epoch, and the positions that a backup needs to go on like it.

    Args:
        dataset: The dataset that `fit` reads.

    Attributes:
        epoch: Int, the epoch of the dataset that the pass reads.
        first_batch: Int, the batch it began with; above 0 in a pass that a restart has shortened.
    """

    def __init__(self, dataset: BucketedSequence):
        self.epoch = 0
        self.first_batch = 0
        self._dataset = dataset
        self._passes_before = 0
        self._has_begun = False
        # After a restart: where the first pass begins if that is inside of an epoch, and where the next whole one does.
        self._shortened: tuple[int, int] | None = None
        self._next: tuple[int, int] | None = None

    def state(self) -> dict[str, Any]:
        """The state between two epochs."""
        position = self._dataset.state_dict()
        return {"position": position, "next": position}

    def state_inside(self, next_batch: int, next_pass: dict[str, Any]) -> dict[str, Any]:
        """The state inside of an epoch, of which the batches before `next_batch` are consumed.

        Args:
            next_batch: Int, counted from the beginning of the epoch.
            next_pass: State of the dataset, where the pass after this one begins.
        """
        return {"position": self._dataset.state_dict(self.epoch, next_batch), "next": next_pass}

    def restore(self, state: dict[str, Any]) -> None:
        """Lets `fit` go on where a state says.

        Raises:
            ValueError: If the state is that of other data or options.
        """
        self._dataset.load_state_dict(state["position"])
        position = self._dataset.epoch, self._dataset.next_first_batch
        self._dataset.load_state_dict(state["next"])
        self._next = self._dataset.epoch, self._dataset.next_first_batch
        self._shortened = position if state["position"] != state["next"] else None

    def settle(self) -> None:
        """Undoes what other callbacks have read since the restore.

        To be called after all `on_train_begin`, and after all `on_epoch_begin`, which the uninterrupted run calls here
        only if the pass is a whole one.
        """
        if self._next is not None:
            self._dataset.seek(*self._next)
        if self._shortened is None:
            self._next = None

    def expect(self) -> None:
        """To be called right before `fit` reads: the next pass that begins is the one of `fit`."""
        if self._shortened is not None:
            self._next = self._dataset.epoch, self._dataset.next_first_batch
            self._dataset.seek(*self._shortened)
        self.epoch, self.first_batch = self._dataset.epoch, self._dataset.next_first_batch
        self._passes_before = self._dataset.newest_pass().number
        self._has_begun = False

    def begin(self) -> None:
        """To be called after the first batch was consumed, at the latest before `fit` expects the next pass.

        Raises:
            ValueError: If `fit` has not read the dataset.
        """
        if self._has_begun:
            return
        passes_of_others = self._dataset.newest_pass().number - self._passes_before - 1
        if passes_of_others < 0:
            raise ValueError(
                "`dataset` was not read by fit() in this epoch, so there is no position to back up. Give "
                "BackupAndRestoreSequence the BucketedSequence that fit() gets, or that its dataset is made of without "
                "cache()."
            )
        self._has_begun = True
        if self._shortened is not None and self._next is not None:
            epoch, batch = self._next
            self._dataset.seek(epoch + passes_of_others, 0 if passes_of_others else batch)
        self._shortened = self._next = None

    def next_batch(self, steps: int) -> int:
        """The batch of the epoch that comes after so many steps; the last group of steps may be short."""
        return min(self.first_batch + steps, self._dataset.num_batches)
