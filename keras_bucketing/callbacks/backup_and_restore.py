"""BackupAndRestoreSequence: an interrupted training run continues with the same batches."""

from __future__ import annotations

import gc
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream
from keras_bucketing.callbacks.backup_files import BackupFiles, is_local
from keras_bucketing.callbacks.backup_store import WEIGHTS_FILE, BackupStore, State
from keras_bucketing.callbacks.fit_hooks import (
    Logs,
    PreemptionSignal,
    RunAfterCallbacks,
    call_while_alive,
    copy_callback,
    set_first_epoch,
)
from keras_bucketing.callbacks.training_pass import TrainingPass
from keras_bucketing.checks import check_flag, check_integer, show, show_typed

# Keras reads a dataset's length once per fit() and asks a shorter pass for one batch too many. It survives that with a
# warning, but the aborted step has already counted the optimizer's iterations up
# (keras/src/backend/tensorflow/trainer.py), and so changed Adam's next steps. Stopping the epoch in time avoids both;
# any true value stops it.
_END_OF_SHORTER_EPOCH = "end of the epoch that a restart has shortened"


class BackupAndRestoreSequence(keras.callbacks.Callback):
    """Backs up model, optimizer, epoch and the position in the data, and restores them when `fit` begins.

    `keras.callbacks.BackupAndRestore` restores weights and epoch, but begins an interrupted epoch again, with other
    batches. With this callback, a restarted run reads the same rows as an uninterrupted one, even if others read the
    dataset meanwhile (validation, `evaluate` in a callback), and ends with the same weights. A backup is one directory
    with sizes and checksums, published in one atomic step: if the process is killed while it writes, the earlier
    backups remain, and a damaged backup is not restored. The two newest backups are kept; if the newest is damaged, a
    warning says so and the one before it is restored. See docs/how-it-works/resume.md.

    Each epoch must be a pass over the data: `steps_per_epoch`, `take` and `repeat` are refused. If a restart, or a
    callback that stops `fit`, interrupts a pass, the next `fit` continues the same epoch with its remaining batches.
    The metrics of that epoch cover only these, and other callbacks lose their states, such as the patience of
    `EarlyStopping`. The random states of layers are restored, but not PyTorch's own generator, which Keras uses there
    for a `Dropout` without a `seed`.

    A directory belongs to one call of `fit`. In a program with several, give each its own, and all but the last one
    `delete_checkpoint=False`, so that a restart skips finished ones. A copy of the callback, as tuners make for each
    trial, shares the dataset. In one process, `fit` refuses a directory that a copy has used, or another callback that
    still exists and whose `fit` has ended, so that no trial continues with the weights of another one. A new process
    resumes, and so does a new callback after an interruption.

    Args:
        dataset: The `BucketedSequence` of `fit`, even if `map` or `prefetch` wraps it there. Or a `BucketedStream` of
            known length, whose source yields the same rows again in the same epoch: a restart reads it from its
            beginning, and skips what was consumed.
        backup_dir: Path of a directory for this training run, local or on a file system that `tf.io.gfile` knows
            ("gs://bucket/run", as a string). Other files in it are not touched.
        save_freq: "epoch", or an int: also back up after that many batches, at the next end of a group of
            `steps_per_execution` batches. False: only before preemption. Defaults to "epoch".
        delete_checkpoint: Bool, whether to delete the backups when `fit` ends. Defaults to True.
        is_chief: Bool, whether this process keeps what it writes. With several hosts, all of them need this callback,
            and one is the chief, with a directory that all of them can read, since separate backups could be of
            different steps. More or fewer hosts may continue: see `BucketedSequence.load_state_dict`. Defaults to True.
        save_before_preemption: Bool, whether SIGTERM, which clouds send before they take a machine away, makes a backup
            after the next batch (or after a running validation) and ends the process with exit code 143. A handler that
            the program had installed is called in between. For `fit` in the main thread, on one host. Defaults to
            False.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `dataset` is a stream of unknown length, `backup_dir` is empty or not a directory, or `save_freq`
            out of range. When `fit` begins: if the model is not built, an epoch is not a pass over the data, another
            callback of this process, or a copy, has used the directory, all backups are damaged, or the backup is that
            of another model or of other data or options. In the first epoch: if `fit` reads another dataset.

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
        dataset: BucketedSequence | BucketedStream,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
        is_chief: bool = True,
        save_before_preemption: bool = False,
    ):
        super().__init__()
        if not isinstance(dataset, (BucketedSequence, BucketedStream)):
            raise TypeError(
                f"`dataset` must be a BucketedSequence or BucketedStream. Received {type(dataset).__name__}. Hold on "
                "to it and pass it here, even if fit() gets a dataset that was made from it."
            )
        if dataset.num_batches is None:
            # After a restart, Keras would take the rest of an epoch for the length of all the others.
            raise ValueError(
                "`dataset` must know how many batches a pass has. Received a BucketedStream of unknown length. Give it "
                "a source with a length and batches of batch_size rows, or save stream.state_dict(epoch, batch) "
                "yourself, and continue with stream.load_state_dict(state)."
            )
        self._delete_checkpoint = check_flag("delete_checkpoint", delete_checkpoint)
        self._is_chief = check_flag("is_chief", is_chief)
        self._save_before_preemption = check_flag("save_before_preemption", save_before_preemption)
        if self._save_before_preemption and not self._is_chief:
            raise ValueError(
                "`save_before_preemption` must be False with several hosts: all of them would have to save after the "
                "same batch. Received True with is_chief=False. Use save_freq."
            )
        self._save_freq = _check_save_freq(save_freq, self._save_before_preemption)
        self._files = BackupFiles()
        self._directory = _check_directory(backup_dir)
        self._store = BackupStore(self._directory, self._files)
        self._store.check()
        self._copies = _Copies()
        self._dataset = dataset
        self._pass = TrainingPass(dataset)
        self._after_callbacks: RunAfterCallbacks
        self._preemption: PreemptionSignal | None = None
        self._first_epoch: int | None = None
        self._epoch = 0
        self._steps = 0
        self._saved_steps = 0
        self._next_pass: State = {}
        self._has_finished = False

    def __deepcopy__(self, memo: dict[int, Any]) -> BackupAndRestoreSequence:
        """An untrained callback with the same dataset and directory: tuners copy callbacks."""
        new = BackupAndRestoreSequence(
            self._dataset,
            self._directory,
            self._save_freq,
            self._delete_checkpoint,
            self._is_chief,
            self._save_before_preemption,
        )
        own = {**vars(new), "_copies": self._copies, "_after_callbacks": None}
        copied: BackupAndRestoreSequence = copy_callback(self, memo, own)
        return copied

    def on_train_begin(self, logs: Logs = None) -> None:
        """Restores the newest backup, if there is one."""
        self._check_fit()
        _claim_directory(self, self._directory, self._is_chief, self._copies)
        self._has_finished = False
        if self._is_chief:
            self._store.prepare()
        self._pass = TrainingPass(self._dataset)
        self._restore()
        self._run_after_callbacks()
        if self._save_before_preemption:
            self._preemption = PreemptionSignal(self.model)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts counting the epoch's batches."""
        if self._first_epoch is not None:
            self._check_first_epoch(epoch)
            self._first_epoch = None
            set_first_epoch(self.model, 0)  # or the next call of fit() would begin with it as well
        self._epoch, self._steps, self._saved_steps = epoch, 0, 0
        if not self._after_callbacks.is_installed:  # a list of callbacks without a History behind this one
            self._pass.mark_before_read()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts the batch, and ends a pass that a restart has shortened."""
        self._pass.confirm_read()
        self._steps = batch + 1
        # A request to stop is not overwritten, and one that comes later overwrites this.
        if self._pass.first_batch and self._is_whole and not self.model.stop_training:
            self.model.stop_training = _END_OF_SHORTER_EPOCH
        if not self._after_callbacks.is_installed:
            self._save_inside_epoch()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Lets Keras continue after a pass that a restart has shortened."""
        self._pass.confirm_read()
        if self.model.stop_training is _END_OF_SHORTER_EPOCH:  # and not True, which another callback has set since
            self.model.stop_training = False
        if not self._after_callbacks.is_installed:
            self._save_end_of_epoch()

    def on_train_end(self, logs: Logs = None) -> None:
        """Deletes the backups, unless `delete_checkpoint` is False."""
        self._has_finished = True
        if self._first_epoch is not None:  # all epochs were trained before the restart
            self._first_epoch = None
            set_first_epoch(self.model, 0)
        self._after_callbacks.remove()
        if self._preemption is not None:
            self._preemption.stop()
        if self._is_chief and self._delete_checkpoint:
            self._store.delete()

    def _restore(self) -> None:
        """Restores the newest backup completely, or not at all."""
        backup = self._store.newest()
        self._first_epoch = None if backup is None else backup.state["keras_epoch"]
        if backup is not None:
            _check_model_state(self.model, backup.state["model"])
            self._pass.restore(backup.state["dataset"])
            with self._files.local_copy(backup.weights) as path:
                _restore_model(self.model, path, backup.state["model"])
        # Without a backup, too: a fit() that was interrupted before its first epoch may have left its epoch behind.
        set_first_epoch(self.model, self._first_epoch or 0)

    def _run_after_callbacks(self) -> None:
        """Follows the pass of `fit`, and saves after all callbacks have handled a batch or an epoch."""
        hooks: dict[str, Callable[..., None]] = {
            "on_train_begin": self._after_train_begin,
            "on_epoch_begin": self._after_epoch_begin,
            "on_train_batch_begin": self._after_batch_begin,
            "on_train_batch_end": self._save_inside_epoch,
            "on_epoch_end": self._save_end_of_epoch,
        }
        # The History of a model that is still there after an interruption must not keep this callback.
        weak_hooks = {name: call_while_alive(hook) for name, hook in hooks.items()}
        self._after_callbacks = RunAfterCallbacks(self.model, weak_hooks)

    def _after_train_begin(self, logs: Logs = None) -> None:
        self._pass.restore_position()

    def _after_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._pass.restore_position()
        if _reads_before_first_step():
            self._pass.mark_before_read()

    def _after_batch_begin(self, step: int, logs: Logs = None) -> None:
        if step == 0 and not _reads_before_first_step():
            self._pass.mark_before_read()

    def _save_inside_epoch(self, step: int = 0, logs: Logs = None) -> None:
        """Backs up every `save_freq` batches; the end of a pass is backed up as that of its epoch."""
        # If a callback stops here, a validation on the same dataset takes the next pass before the epoch's end is
        # saved.
        self._next_pass = self._dataset.state_dict()
        is_due = type(self._save_freq) is int and self._steps - self._saved_steps >= self._save_freq
        if self._is_whole or not (is_due or self._is_preempted):
            return
        self._saved_steps = self._steps
        self._save(self._epoch, self._pass.state_inside(self._next_batch, self._next_pass))
        self._leave_if_preempted()

    def _save_end_of_epoch(self, epoch: int = 0, logs: Logs = None) -> None:
        """Backs up the end of an epoch, or the position where a callback has stopped `fit`."""
        if self._is_whole:
            state, next_epoch = self._pass.state(), self._epoch + 1
        else:
            self._check_stopped()
            state, next_epoch = self._pass.state_inside(self._next_batch, self._next_pass), self._epoch
        if self._save_freq or self._is_preempted:
            self._save(next_epoch, state)
        self._leave_if_preempted()

    def _check_fit(self) -> None:
        """Refuses a `fit` that could not be resumed, before training."""
        if not self.model.built:
            raise ValueError(
                "BackupAndRestoreSequence restores weights when fit() begins, so the model must have some by then. "
                "Received a model that is not built. Build it, e.g. model.build((None, None, features)), or call it "
                "on a batch."
            )
        steps, num_batches = (self.params or {}).get("steps"), self._dataset.num_batches
        if steps != num_batches:
            raise ValueError(
                "BackupAndRestoreSequence needs epochs that are passes over the data. Expected "
                f"{num_batches} steps an epoch, received {'an unknown number' if steps is None else steps} "
                "(steps_per_epoch, take, repeat or filter). Leave that out; to back up more often than once a pass, "
                "use save_freq."
            )

    def _check_first_epoch(self, epoch: int) -> None:
        if epoch != self._first_epoch:
            raise ValueError(
                f"The backup in `backup_dir` continues with epoch {self._first_epoch}, but fit() begins with {epoch}. "
                "Pass the `initial_epoch` that the interrupted run had, or another `backup_dir`."
            )

    def _check_stopped(self) -> None:
        if not self.model.stop_training:
            raise ValueError(
                "BackupAndRestoreSequence needs epochs that are passes over the data. Expected "
                f"{self._dataset.num_batches} batches, but fit() found only {self._next_batch}. Give it the whole "
                "dataset."
            )

    @property
    def _next_batch(self) -> int:
        return self._pass.next_batch(self._steps)

    @property
    def _is_whole(self) -> bool:
        return self._next_batch == self._dataset.num_batches

    @property
    def _is_preempted(self) -> bool:
        return self._preemption is not None and self._preemption.received

    def _leave_if_preempted(self) -> None:
        if self._preemption is not None and self._preemption.received:
            self._preemption.leave()

    def _save(self, keras_epoch: int, dataset_state: State) -> None:
        if self._is_chief:
            state = {"keras_epoch": keras_epoch, "dataset": dataset_state, "model": _model_state(self.model)}
            self._store.write(lambda path: self.model.save_weights(path, overwrite=True), state)
            return
        # Keras saves with collective operations (with JAX, keras/src/saving/saving_lib.py makes a variable on all
        # hosts), so that a chief who saved alone would wait for ever.
        with tempfile.TemporaryDirectory() as nowhere:
            _model_state(self.model)
            self.model.save_weights(f"{nowhere}/{WEIGHTS_FILE}", overwrite=True)


def _reads_before_first_step() -> bool:
    # keras/src/backend/torch/trainer.py reads a batch before on_train_batch_begin, the other two after it.
    return bool(keras.backend.backend() == "torch")


def _check_save_freq(save_freq: object, saves_before_preemption: bool) -> str | int:
    if isinstance(save_freq, str) and save_freq == "epoch":
        return save_freq
    if save_freq is False and saves_before_preemption:
        return False
    fix = 'Pass "epoch" or a number of batches; False goes with save_before_preemption=True.'
    return check_integer("save_freq", save_freq, fix=fix)


def _check_directory(backup_dir: str | os.PathLike[str]) -> str:
    fix = "Pass the path of a directory for this training run."
    try:
        directory = os.fspath(backup_dir)
    except TypeError:
        directory = None
    if not isinstance(directory, str):
        raise TypeError(f"`backup_dir` must be a path. Received {show_typed(backup_dir)}. {fix}")
    if not directory.strip():
        raise ValueError(f"`backup_dir` is empty. Received {show(directory)}; is a variable not set? {fix}")
    if not isinstance(backup_dir, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:[\\/](?![\\/])", directory):
        raise ValueError(
            f"`backup_dir` has lost a slash of its scheme. Received {show_typed(backup_dir)}. Pass remote paths as "
            'strings, e.g. "gs://bucket/run".'
        )
    return directory.removeprefix("file://").rstrip("/") or "/"


# The owner of each directory: one callback per process, or the next trial of a tuner would continue with the weights of
# the last one.


class _Copies:
    """State shared by a callback and its copies."""


class _Owner(NamedTuple):
    """The callback whose `fit` used a directory last, without keeping it alive, and its copies."""

    callback: weakref.ref[BackupAndRestoreSequence]
    copies: _Copies
    process: int

    @property
    def has_finished(self) -> bool:
        """Whether the callback still exists, and its `fit` has ended."""
        callback = self.callback()
        return callback is not None and callback._has_finished


_owners: dict[tuple[str, bool], _Owner] = {}  # by the directory, and whether it is the chief that uses it
_owners_lock = threading.Lock()


def _claim_directory(callback: BackupAndRestoreSequence, directory: str, is_chief: bool, copies: _Copies) -> None:
    """Notes that this callback uses a directory.

    A callback that no longer exists or was interrupted leaves its directory to the next one, unless they are copies: so
    an interrupted notebook cell can be run again, and continues.

    Raises:
        ValueError: If another callback has used it in this process.
    """
    key = (os.path.realpath(directory) if is_local(directory) else directory, is_chief)
    with _owners_lock:
        owner = _owners.get(key)
        if owner is not None and owner.process == os.getpid() and owner.callback() is not callback:
            if owner.copies is not copies and owner.has_finished:
                gc.collect()  # fit() leaves cycles behind, of the model and its callbacks
            if owner.copies is copies or owner.has_finished:
                raise ValueError(
                    f"`backup_dir` belongs to another {type(callback).__name__} of this process, or to a copy of this "
                    f"one, whose run would go on here. Received {show(directory)}. Give each fit() a directory of its "
                    "own, as each trial of a tuner; to continue that run, pass the same callback, or restart the "
                    "program."
                )
        _owners[key] = _Owner(weakref.ref(callback), copies, os.getpid())


# What a backup holds of the model: its weights in a file, and a state that the file has no place for.


def _model_state(model: keras.Model) -> State:
    """The state that the weights file lacks: the random states of dropout, and a description of the weights."""
    return {
        "variables": _describe_variables(model),
        "random_states": [keras.ops.convert_to_numpy(state).tolist() for state in _random_states(model)],
    }


def _check_model_state(model: keras.Model, state: State) -> None:
    """Refuses the state of another model or optimizer, which Keras would load in part, or skip with a warning.

    Raises:
        ValueError: If number, shapes or dtypes of the variables differ.
    """
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    expected, received = _describe_variables(model), state["variables"]
    if len(expected) != len(received):
        difference = f"Expected {len(expected)} variables, received {len(received)}"
    elif expected != received:
        at = next(i for i, pair in enumerate(zip(expected, received, strict=True)) if pair[0] != pair[1])
        difference = f"Expected {expected[at]} as variable {at}, received {received[at]}"
    elif len(_random_states(model)) != len(state["random_states"]):
        difference = f"Expected {len(_random_states(model))} random states, received {len(state['random_states'])}"
    else:
        return
    raise ValueError(
        f"The backup in `backup_dir` belongs to another model or optimizer. {difference}. Build and compile the model "
        "as before, or pass another `backup_dir`."
    )


def _restore_model(model: keras.Model, weights_path: str, state: State) -> None:
    """Loads weights and random states; call it after `_check_model_state`."""
    model.load_weights(weights_path)
    for variable, value in zip(_random_states(model), state["random_states"], strict=True):
        variable.assign(np.asarray(value, dtype=keras.ops.convert_to_numpy(variable).dtype))


def _describe_variables(model: keras.Model) -> list[str]:
    variables = [*model.weights, *(model.optimizer.variables if model.optimizer is not None else ())]
    return [f"{variable.dtype} {tuple(variable.shape)}" for variable in variables]


def _random_states(model: keras.Model) -> list[keras.Variable]:
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]
