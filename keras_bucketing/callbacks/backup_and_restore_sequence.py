"""BackupAndRestoreSequence: a killed training run goes on with the very batches that it would have seen."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.consumed_batches import ConsumedBatches
from keras_bucketing.checks import check_flag, check_integer
from keras_bucketing.pipeline.pass_counter import PassPosition

_STATE_FILE = "sequence_state.json"
_LATEST_FILE = "latest.json"

# Keras reads a dataset's length once per fit() and asks a shorter pass for one batch too many. It survives that with a
# warning, but the aborted step has already counted the optimizer's iterations up
# (keras/src/backend/tensorflow/trainer.py), and so changed Adam's next steps. Stopping the epoch in time avoids both;
# any true value stops it.
_END_OF_SHORTER_EPOCH = "end of the epoch that a restart has shortened"


class BackupAndRestoreSequence(keras.callbacks.Callback):
    """Backs up model, optimizer, epoch and the position in the data, and restores them when `fit` begins.

    `keras.callbacks.BackupAndRestore` restores weights and epoch, but an epoch that was cut short starts over with
    other batches. This callback lets it write each backup, adds the position of what the model has consumed (not of
    what was prefetched), and publishes both with one atomic rename: a process that is killed while it writes leaves the
    backup before. The first epoch after a restart is as much shorter as it had gone before; its metrics are those of
    the rest. Keras' epochs must be passes over the data: `steps_per_epoch`, `take`, `repeat` and `cache` are refused.

    What Keras keeps outside of the weights is not restored, e.g. the random states of dropout.

    Args:
        dataset: The `BucketedSequence` that `fit` gets, as it is or wrapped by `map` or `prefetch`.
        backup_dir: Path of a directory for this training run alone.
        save_freq: "epoch", or an int: back up after every so many batches as well. Defaults to "epoch".
        delete_checkpoint: Bool, whether to delete the backup when `fit` ends. Defaults to True.
        is_chief: Bool, whether this process keeps what it writes. With several hosts, all of them need this callback
            and one is the chief, with a directory that all of them read: backups of their own could be of different
            steps. Defaults to True.

    Raises:
        TypeError: If `dataset` is not a `BucketedSequence`, or `save_freq` of the wrong kind.
        ValueError: When `fit` begins: if the model is not built, an epoch is not a pass over the data, or the backup is
            damaged or that of other data or options. In the first epoch: if `fit` reads another dataset.

    Example:
    >>> dataset = keras_bucketing.BucketedSequence([[1], [2, 3]], y=[0, 1], batch_size=1, seed=1)
    >>> model = keras_bucketing.MaskedLSTMClassifier(num_classes=2, units=2, vocabulary_size=4, embedding_dim=2)
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> model.build((None, None))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     backup = keras_bucketing.BackupAndRestoreSequence(dataset, f"{folder}/backup", save_freq=1)
    ...     history = model.fit(dataset, epochs=2, callbacks=[backup], verbose=0)
    """

    def __init__(
        self,
        dataset: BucketedSequence,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
        is_chief: bool = True,
    ):
        super().__init__()
        if not isinstance(dataset, BucketedSequence):
            raise TypeError(
                f"`dataset` must be a BucketedSequence. Received {type(dataset).__name__}. Hold on to the "
                "BucketedSequence and pass it here, even if fit() gets a dataset that was made from it."
            )
        if save_freq != "epoch":
            save_freq = check_integer("save_freq", save_freq, fix='Pass "epoch" or a number of batches.')
        self._dataset = dataset
        self._directory = Path(backup_dir)
        self._save_freq = save_freq
        self._delete_checkpoint = check_flag("delete_checkpoint", delete_checkpoint)
        self._is_chief = check_flag("is_chief", is_chief)
        self._batches = ConsumedBatches(dataset)
        self._epoch = 0
        self._step = 0
        self._saved_step = 0
        self._passes_before = 0
        self._shorter_epoch: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Restores the newest backup, if there is one."""
        self._check_fit()
        backup = self._newest_backup()
        if backup is None:
            return
        state = self._read_json(backup / _STATE_FILE)
        self._dataset.load_state_dict(state["dataset"])
        self._shorter_epoch = state["keras_epoch"] if self._dataset.next_first_batch else None
        self._keras_backup(backup).on_train_begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins to follow the epoch's batches."""
        self._epoch, self._step, self._saved_step = epoch, 0, 0
        self._passes_before = self._dataset.newest_pass().number
        self._batches.begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Notes which pass is being read."""
        self._batches.begin_step(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Backs up every `save_freq` batches; the end of a pass is backed up as that of its epoch."""
        self._batches.end_step(batch)
        self._step = batch + 1
        if self._save_freq == "epoch" and self._epoch != self._shorter_epoch:
            return
        position, next_batch = self._position()
        is_end = next_batch >= self._dataset.num_batches
        if self._save_freq != "epoch" and not is_end and self._step - self._saved_step >= int(self._save_freq):
            self._saved_step = self._step
            self._save(self._epoch, position.epoch, next_batch)
        if is_end and self._epoch == self._shorter_epoch:
            self.model.stop_training = _END_OF_SHORTER_EPOCH

    def on_test_begin(self, logs: Any = None) -> None:
        """Notes which pass was read, before a validation begins one."""
        self._batches.locate()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Backs up the end of the epoch."""
        self._shorter_epoch = None
        if self.model.stop_training is _END_OF_SHORTER_EPOCH:  # and not True, which another callback has set since
            self.model.stop_training = False
        position, next_batch = self._position()
        self._save(epoch + 1, position.epoch, next_batch)

    def on_train_end(self, logs: Any = None) -> None:
        """Deletes the backup, unless told otherwise."""
        if self._is_chief and self._delete_checkpoint and self._directory.exists():
            shutil.rmtree(self._directory)

    def _check_fit(self) -> None:
        """Refuses what could not be resumed before anything is trained."""
        if not self.model.built:
            raise ValueError(
                "BackupAndRestoreSequence restores weights when fit() begins, so the model must have some by then. "
                "Received a model that is not built. Build it, e.g. model.build((None, None, features)), or call it "
                "on a batch."
            )
        steps, num_batches = (self.params or {}).get("steps"), self._dataset.num_batches
        if steps is not None and steps != num_batches:
            raise ValueError(
                "BackupAndRestoreSequence needs epochs that are passes over the data. Expected "
                f"{num_batches} steps an epoch, received {steps} (steps_per_epoch, take or repeat). Leave that out; to "
                "back up more often than once a pass, use save_freq."
            )

    def _position(self) -> tuple[PassPosition, int]:
        """The pass that is being read, and the batch of its epoch that comes next."""
        current = self._batches.current()
        if current is None or current[0].number <= self._passes_before:
            raise ValueError(
                "`dataset` was not read by fit() in this epoch, so there is no position to back up. Give "
                "BackupAndRestoreSequence the BucketedSequence that fit() gets, or that its dataset is made of without "
                "cache()."
            )
        position, consumed = current
        return position, position.first_batch + consumed

    def _save(self, keras_epoch: int, epoch: int, batch: int) -> None:
        """Writes a backup into a directory of its own, then makes it the newest by one atomic rename."""
        if not self._is_chief:
            # Keras saves with collective operations (with JAX, keras/src/saving/saving_lib.py makes a variable on all
            # hosts), so that a chief who saved alone would wait for ever.
            with tempfile.TemporaryDirectory() as nowhere:
                self._keras_backup(Path(nowhere)).on_epoch_end(keras_epoch - 1)
            return
        previous = self._newest_backup()
        number = 0 if previous is None else int(previous.name.split("-")[1]) + 1
        backup = self._directory / f"backup-{number}"
        shutil.rmtree(backup, ignore_errors=True)  # what a killed process left
        backup.mkdir(parents=True)
        # BackupAndRestore writes at the end of an epoch that the one after it is the next.
        self._keras_backup(backup).on_epoch_end(keras_epoch - 1)
        content = {"keras_epoch": keras_epoch, "dataset": self._dataset.state_dict(epoch, batch)}
        (backup / _STATE_FILE).write_text(json.dumps(content), encoding="utf-8")
        latest = self._directory / f"{_LATEST_FILE}.new"
        latest.write_text(json.dumps({"backup": backup.name}), encoding="utf-8")
        os.replace(latest, self._directory / _LATEST_FILE)
        if previous is not None:
            shutil.rmtree(previous, ignore_errors=True)

    def _newest_backup(self) -> Path | None:
        latest = self._directory / _LATEST_FILE
        if not latest.exists():
            return None
        return self._directory / str(self._read_json(latest).get("backup"))

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"expected an object, received {type(content).__name__}")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The backup in `backup_dir` is damaged: {path} cannot be read ({error}). Delete {self._directory} to "
                "start over."
            ) from error
        return content

    def _keras_backup(self, directory: Path) -> keras.callbacks.BackupAndRestore:
        """Keras' own callback, which knows how to restore weights and epoch, on one backup's directory."""
        callback = keras.callbacks.BackupAndRestore(str(directory), delete_checkpoint=False)
        callback.set_model(self.model)
        return callback
