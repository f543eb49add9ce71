"""Training runs that are interrupted anywhere and restarted, next to the run that nothing has interrupted.

A process is played by one call of `fit`: it begins with the initial model and dataset, and what kills it is an
exception that no code catches. The model notes which rows each training step really got.
"""

import contextlib
import os
import signal
import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_bucketing import BackupAndRestoreSequence, BucketedSequence, BucketedStream
from keras_bucketing.callbacks import backup_and_restore
from tests.support.faulty_files import FaultyFiles, Killed

HOOKS = ("train_begin", "epoch_begin", "batch_begin", "batch_end", "test_begin", "epoch_end")
NUM_BATCHES = 4


class Program(NamedTuple):
    """What the restarted program says, the same every time."""

    save_freq: str | int = 1
    epochs: int = 3
    initial_epoch: int = 0
    steps_per_execution: int = 1
    validates: bool = False  # on the training data
    reads_in: str = ""  # the hook in which another callback reads the training data
    reads_by: str = "evaluate"
    backup_is_first: bool = True


class Interruption(NamedTuple):
    """What happens to a process at the n-th hook, or at the n-th operation on files."""

    kind: str = "none"  # a kind of FaultyFiles, or "kill hook", "stop", "sigterm"
    at: int = 0


NOTHING = Interruption()


class Outcome(NamedTuple):
    """What a process has done."""

    ended: str  # "finished", "killed" or "left"
    rows: list
    epochs: list
    weights: list


class RecordingModel(keras.Sequential):
    """Notes the labels of each training step; runs eagerly."""

    def train_step(self, data):
        self.rows.append(data[1].numpy().tolist())
        return super().train_step(data)


class Interrupter(keras.callbacks.Callback):
    """Reads the training data in one hook, and does what an interruption says."""

    def __init__(self, dataset, program: Program, interruption: Interruption):
        super().__init__()
        self.dataset, self.program, self.interruption = dataset, program, interruption
        self.hooks = 0

    def on_train_begin(self, logs=None):
        self._hook("train_begin")

    def on_epoch_begin(self, epoch, logs=None):
        self._hook("epoch_begin")

    def on_train_batch_begin(self, batch, logs=None):
        self._hook("batch_begin")

    def on_train_batch_end(self, batch, logs=None):
        self._hook("batch_end")

    def on_test_begin(self, logs=None):
        self._hook("test_begin")

    def on_epoch_end(self, epoch, logs=None):
        self._hook("epoch_end")

    def _hook(self, name):
        if name == self.program.reads_in:
            if self.program.reads_by == "next":
                next(iter(self.dataset))
            else:
                getattr(self.model, self.program.reads_by)(self.dataset, verbose=0)
        self.hooks += 1
        if self.hooks - 1 < self.interruption.at or name == "train_begin":
            return
        kind = self.interruption.kind
        if kind == "kill hook":
            raise Killed
        if kind == "stop" and name in ("batch_end", "epoch_end"):
            self.model.stop_training = True
        elif kind == "sigterm":
            self.interruption = NOTHING
            os.kill(os.getpid(), signal.SIGTERM)


def rows_and_labels():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(length, 1)).astype("float32") for length in [1, 2, 2, 3, 3, 3, 5]]
    return x, np.arange(7, dtype="float32")


def make_sequence():
    return BucketedSequence(*rows_and_labels(), batch_size=2, seed=3)


def make_stream():
    """Of windows of four rows, whose boundaries the first pass of a process finds, or a backup brings."""
    return BucketedStream(list(zip(*rows_and_labels(), strict=True)), batch_size=2, buffer_size=4, seed=3)


class World:
    """One dataset and one model, put back to their beginning for every process."""

    def __init__(self, make_dataset=None):
        self._make_dataset = make_dataset  # for those that a process must make again, as it knows nothing of the last
        self.dataset = (make_dataset or make_sequence)()
        assert self.dataset.num_batches == NUM_BATCHES
        keras.utils.set_random_seed(0)
        self.model = RecordingModel(
            [
                keras.Input((None, 1)),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(1),
            ]
        )
        self.model.compile("adam", "mse", run_eagerly=True)
        self.model.optimizer.build(self.model.trainable_variables)
        self._initial = [variable.value.numpy() for variable in self._variables()]
        self._uninterrupted: dict[Program, Outcome] = {}

    def uninterrupted(self, program: Program, folder) -> Outcome:
        """What the program does if nothing happens; the oracle has no backup to restore, but the callback."""
        if program not in self._uninterrupted:
            self._uninterrupted[program] = self.run(program, f"{folder}/uninterrupted-{len(self._uninterrupted)}")
        return self._uninterrupted[program]

    def run(self, program: Program, folder: str, interruption: Interruption = NOTHING) -> Outcome:
        """One process."""
        for variable, value in zip(self._variables(), self._initial, strict=True):
            variable.assign(value)
        if self._make_dataset is not None:
            self.dataset = self._make_dataset()
        self.dataset.seek(0)
        self.model.steps_per_execution = program.steps_per_execution
        self.model.rows = []
        self.model.make_train_function(force=True)
        files = FaultyFiles(
            interruption.at if interruption.kind in ("kill", "power loss", "full disk") else None,
            interruption.kind,
            seed=interruption.at,
        )
        with _files(files):
            backup = BackupAndRestoreSequence(
                self.dataset,
                folder,
                save_freq=program.save_freq,
                delete_checkpoint=False,
                save_before_preemption=interruption.kind == "sigterm",
            )
        other = Interrupter(self.dataset, program, interruption)
        ended, epochs = "", []
        handler = signal.getsignal(signal.SIGTERM)
        try:
            history = self.model.fit(
                self.dataset,
                epochs=program.epochs,
                initial_epoch=program.initial_epoch,
                validation_data=self.dataset if program.validates else None,
                callbacks=[backup, other] if program.backup_is_first else [other, backup],
                verbose=0,
                shuffle=False,
            )
            ended, epochs = "finished", history.epoch
        except SystemExit as error:
            ended = "left" if (interruption.kind, error.code) == ("sigterm", 143) else "wrong"
        except (Killed, OSError, ValueError):
            ended = "killed" if files.failed or interruption.kind == "kill hook" else "wrong"
            if ended == "wrong":
                raise
        finally:
            if ended == "killed":
                signal.signal(signal.SIGTERM, handler)  # the process is gone, and its handler with it
            assert signal.getsignal(signal.SIGTERM) == handler
        assert ended in ("finished", "killed", "left")
        return Outcome(ended, self.model.rows, epochs, self.model.get_weights())

    def _variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]


@contextlib.contextmanager
def _files(files):
    original = backup_and_restore.BackupFiles
    backup_and_restore.BackupFiles = lambda: files
    try:
        yield
    finally:
        backup_and_restore.BackupFiles = original


def check_against(whole: Outcome, received: Outcome, consumed: int) -> int:
    """Compares a process with the uninterrupted run.

    Args:
        whole: What the uninterrupted run did.
        received: What this process did.
        consumed: How many steps all processes before had run in a row.

    Returns:
        How many steps in a row this process and those before it have run.
    """
    if received.ended == "finished" and len(received.rows) <= len(whole.rows):
        start = len(whole.rows) - len(received.rows)
        if (
            received.rows == whole.rows[start:]
            and received.epochs == whole.epochs[len(whole.epochs) - len(received.epochs) :]
        ):
            assert start <= consumed, "steps were left out"
            for weights, expected in zip(received.weights, whole.weights, strict=True):
                np.testing.assert_array_equal(weights, expected)
            return len(whole.rows)
    starts = [start for start in range(consumed + 1) if whole.rows[start : start + len(received.rows)] == received.rows]
    assert starts, "other rows than the uninterrupted run read"
    return max(consumed, starts[-1] + len(received.rows))


def damage_newest(folder: str, seed: int) -> bool:
    """Damages one file of the newest backup, if there is another; returns whether it did."""
    rng = np.random.default_rng(seed)
    whole = (
        [
            path
            for path in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if os.path.exists(f"{path.path}/sequence_backup.record")
        ]
        if os.path.isdir(folder)
        else []
    )
    if len(whole) < 2:
        return False
    path = rng.choice(["sequence_backup.record", "sequence_backup.weights.h5"])
    path = os.path.join(whole[-1].path, path)
    with open(path, "r+b") as file:
        content = bytearray(file.read())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        file.seek(0)
        file.write(content)
    return True


def run_damaged(world: World, program: Program, folder: str) -> Outcome:
    """A process whose newest backup is damaged continues from the one before, and says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = world.run(program, folder)
    assert [w for w in caught if str(w.message).startswith("The newest backup in `backup_dir`")]
    return outcome
