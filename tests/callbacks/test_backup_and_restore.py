"""BackupAndRestoreSequence in real calls of `fit`: restarts, refusals, SIGTERM, and a process that is killed."""

import os
import signal
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_bucketing import BackupAndRestoreSequence, BucketedSequence
from keras_bucketing.callbacks import backup_and_restore
from keras_bucketing.callbacks.backup_files import BackupFiles
from keras_bucketing.callbacks.backup_store import RECORD_FILE, WEIGHTS_FILE, BackupStore
from tests.support.directories import contents_of
from tests.support.processes import run_python

# Trains, appending to a file which batch each step saw and what the weights add up to. Kills itself with SIGKILL, which
# no Python code can catch, after the step it is told to, or before it flushes a file for the n-th time.
TRAIN = """
import os, signal, sys, warnings
import keras, numpy as np
from keras_bucketing import BackupAndRestoreSequence, BucketedSequence
from keras_bucketing.callbacks import backup_and_restore
from keras_bucketing.callbacks.backup_files import BackupFiles

warnings.simplefilter("error", UserWarning)
folder, record, kill_after, kill_in_flush = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
keras.utils.set_random_seed(1)
rng = np.random.default_rng(1)
x = [rng.normal(size=(length, 1)) for length in rng.integers(5, 40, 120)]
dataset = BucketedSequence(x, np.arange(120, dtype="float32"), seed=1, batch_size=8)

class Labels(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="labels")
        self.sum_of_squares = self.add_weight(shape=(), initializer="zeros")
    def update_state(self, y_true, y_pred, sample_weight=None):
        self.sum_of_squares.assign(keras.ops.sum(keras.ops.square(y_true)))
    def result(self):
        return self.sum_of_squares

class Record(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        weights = sum(np.abs(weight).sum() for weight in self.model.get_weights())
        with open(record, "a") as file:
            file.write(f"{logs['labels']:.0f} {weights!r}\\n")
        self.steps += 1
        if self.steps == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

class KilledFiles(BackupFiles):
    flushes = 0
    def flush(self, path):
        KilledFiles.flushes += 1
        if self.flushes == kill_in_flush:
            os.kill(os.getpid(), signal.SIGKILL)
        super().flush(path)

backup_and_restore.BackupFiles = KilledFiles
pooling = keras.layers.GlobalAveragePooling1D()
model = keras.Sequential([keras.Input((None, 1)), keras.layers.Dense(3, "tanh"), pooling, keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=[Labels()])
backup = BackupAndRestoreSequence(dataset, folder, save_freq=4)
model.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[backup, Record()])
"""


def train(folder: Path) -> list[str]:
    """Trains to the end, in this process, and returns what was recorded."""
    record = folder.parent / "record.txt"
    record.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", str(folder), str(record), "0", "0"])
        patch.setattr(backup_and_restore, "BackupFiles", BackupFiles)  # as it was, when the script is done
        exec(compile(TRAIN, "train.py", "exec"), {})
    return record.read_text().splitlines()


def train_until_killed(folder: Path, kill_after: int = 0, kill_in_flush: int = 0) -> list[str]:
    """Trains in a process that kills itself, and returns what it recorded before."""
    record = folder.parent / "record.txt"
    record.unlink(missing_ok=True)
    arguments = [str(folder), str(record), str(kill_after), str(kill_in_flush)]
    killed = run_python("-c", TRAIN, *arguments)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return record.read_text().splitlines() if record.exists() else []


@pytest.mark.fit
def test_a_killed_run_goes_on_with_the_very_batches_and_weights_of_the_uninterrupted_one(tmp_path: Path):
    whole = train(tmp_path / "whole")
    assert len(whole) == 3 * 15

    assert train_until_killed(tmp_path / "cut", kill_after=22) == whole[:22]
    position = BackupStore(str(tmp_path / "cut")).newest().state["dataset"]["position"]
    assert (position["epoch"], position["batch"]) == (1, 4), "the newest backup is of mid-epoch"
    assert train(tmp_path / "cut") == whole[15 + 4 :]
    assert not (tmp_path / "cut").exists(), "a finished run leaves no backup"

    for kill_in_flush in (11, 15):  # of the fourth backup the weights, of the fifth the record
        train_until_killed(tmp_path / "cut", kill_in_flush=kill_in_flush)
    resumed = train(tmp_path / "cut")
    assert 0 < len(resumed) < len(whole)
    assert resumed == whole[len(whole) - len(resumed) :]


def small_dataset(**options) -> BucketedSequence:
    return BucketedSequence(
        [np.ones((length, 1)) for length in range(1, 9)], np.zeros(8), batch_size=2, **{"seed": 1, **options}
    )


def small_model() -> keras.Model:
    """Runs eagerly: to trace it takes longer than the few steps that it trains."""
    model = keras.Sequential([keras.Input((None, 1)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


class StopTraining(keras.callbacks.Callback):
    def __init__(self, after_steps: int):
        super().__init__()
        self.steps_left = after_steps

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        self.steps_left -= 1
        if not self.steps_left:
            raise KeyboardInterrupt


def interrupt(dataset: BucketedSequence, folder: Path, after_steps: int, **fit_options) -> None:
    backup = BackupAndRestoreSequence(dataset, folder, save_freq=1)
    with pytest.raises(KeyboardInterrupt):
        small_model().fit(
            dataset, epochs=3, verbose=0, shuffle=False, callbacks=[backup, StopTraining(after_steps)], **fit_options
        )


@pytest.mark.fit
def test_the_shortened_epoch_ends_without_a_warning_and_the_next_ones_are_whole(tmp_path: Path):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=4)
    dataset = small_dataset()
    steps_per_epoch = []

    class CountSteps(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs=None) -> None:
            steps_per_epoch.append(0)

        def on_train_batch_end(self, batch: int, logs=None) -> None:
            steps_per_epoch[-1] += 1

    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup", save_freq=1)
    history = small_model().fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[backup, CountSteps()])
    assert steps_per_epoch == [1, 4, 4]
    assert history.epoch == [0, 1, 2]


@pytest.mark.fit
@pytest.mark.parametrize("save_freq", [3, 4])  # the newest backup is of mid-epoch, or of the last of its four batches
def test_a_run_killed_in_validation_goes_on_like_the_uninterrupted_one(tmp_path: Path, save_freq: int):
    class Interrupt(keras.callbacks.Callback):
        epochs_left = 2

        def on_test_begin(self, logs=None) -> None:
            self.epochs_left -= 1
            if not self.epochs_left:
                raise KeyboardInterrupt

    def fit(folder: str, *callbacks: keras.callbacks.Callback) -> tuple[keras.Model, BucketedSequence]:
        keras.utils.set_random_seed(0)
        dataset, model = small_dataset(), small_model()
        backup = BackupAndRestoreSequence(dataset, tmp_path / folder, save_freq=save_freq)
        model.fit(dataset, validation_data=small_dataset(), epochs=3, verbose=0, callbacks=[backup, *callbacks])
        return model, dataset

    whole, _ = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("cut", Interrupt())
    resumed, dataset = fit("cut")
    assert dataset.newest_pass().epoch == 2
    for weights, expected in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.fit
def test_another_callback_can_still_stop_training_in_the_shortened_epoch(tmp_path: Path):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=3)
    dataset = small_dataset()
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", True))
    history = small_model().fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[stop, backup])
    assert history.epoch == [0]


@pytest.mark.fit
def test_a_seed_that_was_drawn_is_taken_over(tmp_path: Path):
    first = small_dataset(seed=None)
    interrupt(first, tmp_path / "backup", after_steps=2)
    second = small_dataset(seed=None)
    backup = BackupAndRestoreSequence(second, tmp_path / "backup")
    small_model().fit(second, epochs=1, verbose=0, shuffle=False, callbacks=[backup])
    assert second.seed == first.seed


@pytest.mark.fit
def test_the_backup_of_other_data_is_refused(tmp_path: Path):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    other = small_dataset(remainder="keep", num_buckets=2)
    with pytest.raises(ValueError, match="belongs to another dataset"):
        small_model().fit(
            other, epochs=1, verbose=0, shuffle=False, callbacks=[BackupAndRestoreSequence(other, tmp_path / "backup")]
        )


@pytest.mark.fit
def test_a_process_killed_while_writing_leaves_the_backup_before(tmp_path: Path):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    (tmp_path / "backup" / "backup-00000099").mkdir()  # began, never published
    dataset = small_dataset()
    history = small_model().fit(
        dataset,
        epochs=1,
        verbose=0,
        shuffle=False,
        callbacks=[BackupAndRestoreSequence(dataset, tmp_path / "backup")],
    )
    assert history.epoch == [0]


def test_bad_arguments_are_refused(tmp_path: Path):
    dataset = small_dataset()
    with pytest.raises(TypeError, match=r"BucketedSequence or BucketedStream\. Received _PrefetchDataset"):
        BackupAndRestoreSequence(dataset.prefetch(1), tmp_path)
    with pytest.raises(TypeError, match=r'`save_freq` must be an integer.*Pass "epoch"'):
        BackupAndRestoreSequence(dataset, tmp_path, save_freq="batch")
    with pytest.raises(ValueError, match="`save_freq` is too small"):
        BackupAndRestoreSequence(dataset, tmp_path, save_freq=0)


@pytest.mark.fit
@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        (lambda dataset: dataset, {"steps_per_epoch": 2}, "Expected 4 steps an epoch, received 2"),
        (lambda dataset: dataset.take(3), {}, "Expected 4 steps an epoch, received 3"),
        (lambda dataset: dataset.repeat(), {"steps_per_epoch": 8}, "Expected 4 steps an epoch, received 8"),
        (lambda dataset: dataset.cache(), {}, "`dataset` was not read by fit"),
        (lambda dataset: small_dataset(seed=2), {}, "`dataset` was not read by fit"),
    ],
)
def test_epochs_that_could_not_be_resumed_are_refused(tmp_path: Path, change, options: dict, text: str):
    dataset = small_dataset()
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    with pytest.raises(ValueError, match=text):
        small_model().fit(change(dataset), epochs=2, verbose=0, shuffle=False, callbacks=[backup], **options)


@pytest.mark.fit
def test_a_model_without_weights_is_refused(tmp_path: Path):
    dataset = small_dataset()
    model = keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"a model that is not built\. Build it"):
        model.fit(dataset, verbose=0, shuffle=False, callbacks=[BackupAndRestoreSequence(dataset, tmp_path / "backup")])


def fit(
    dataset: BucketedSequence, folder, *callbacks, model=None, epochs: int = 3, **options
) -> keras.callbacks.History:
    backup = BackupAndRestoreSequence(dataset, folder, **options)
    return (model or small_model()).fit(
        dataset, epochs=epochs, verbose=0, shuffle=False, callbacks=[*callbacks, backup]
    )


@pytest.mark.parametrize("missing", ["", "  "])
def test_an_empty_name_is_refused(missing: str):
    with pytest.raises(ValueError, match=r"`backup_dir` is empty.*is a variable not set"):
        BackupAndRestoreSequence(small_dataset(), missing)


@pytest.mark.parametrize("missing", [None, 3, b"backup"])
def test_what_is_no_name_is_refused(missing):
    with pytest.raises(TypeError, match=r"`backup_dir` must be a path. Received"):
        BackupAndRestoreSequence(small_dataset(), missing)


@pytest.mark.fit
def test_nothing_of_others_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a.txt", "work/b.txt", "work/backup/c.txt", "work/backup/backup-00000000/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = contents_of(tmp_path)
    monkeypatch.chdir(tmp_path / "work")
    for folder in ("backup", ".", tmp_path / "work"):
        fit(small_dataset(), folder, save_freq=1)
        assert contents_of(tmp_path) == before


@pytest.mark.fit
def test_the_next_fit_trains_what_it_says(tmp_path: Path):
    dataset, model = small_dataset(), small_model()
    interrupt(small_dataset(), tmp_path / "backup", after_steps=7)
    assert fit(dataset, tmp_path / "backup", model=model).epoch == [1, 2]
    assert model.fit(dataset, epochs=2, verbose=0, shuffle=False).epoch == [0, 1]
    assert model.fit(dataset, epochs=5, initial_epoch=3, verbose=0, shuffle=False).epoch == [3, 4]


@pytest.mark.fit
def test_a_fit_that_has_nothing_left_to_train_leaves_the_next_one_alone(tmp_path: Path):
    model = small_model()
    fit(small_dataset(), tmp_path / "backup", delete_checkpoint=False)
    assert fit(small_dataset(), tmp_path / "backup", model=model, delete_checkpoint=False).epoch == []
    assert model.fit(small_dataset(), epochs=1, verbose=0, shuffle=False).epoch == [0]


@pytest.mark.fit
def test_an_error_before_the_first_epoch_leaves_the_next_fit_alone(tmp_path: Path):
    class Fail(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs=None) -> None:
            raise RuntimeError

    model = small_model()
    interrupt(small_dataset(), tmp_path / "backup", after_steps=7)
    with pytest.raises(RuntimeError):
        fit(small_dataset(), tmp_path / "backup", Fail(), model=model)
    assert fit(small_dataset(), tmp_path / "another", model=model).epoch == [0, 1, 2]


# What pytest.warns did not wait for it passes on as a warning of its own, and not of Keras' (see pyproject.toml).
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.fit
@pytest.mark.parametrize("name", [WEIGHTS_FILE, RECORD_FILE])
def test_half_a_backup_is_not_restored(tmp_path: Path, name: str):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=6)
    newest, before = sorted((tmp_path / "backup").iterdir(), reverse=True)
    (newest / name).unlink()
    with pytest.warns(UserWarning, match=f"{newest.name}/{name} is missing. Training continues from .*{before.name}"):
        assert fit(small_dataset(), tmp_path / "backup", epochs=2, delete_checkpoint=False).epoch == [1]
    for backup in (tmp_path / "backup").iterdir():
        (backup / name).write_bytes((backup / name).read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=rf"is damaged, and there is no other: .*{name}.*delete the directory to start over"
    ):
        fit(small_dataset(), tmp_path / "backup")


@pytest.mark.parametrize("folder", ["nowhere://bucket/run", Path("gs://bucket/run")])
def test_file_systems_out_of_reach_are_refused(folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"`backup_dir` (cannot be reached|has lost a slash)"):
        BackupAndRestoreSequence(small_dataset(), folder)
    assert not list(tmp_path.iterdir())


@pytest.mark.fit
def test_a_remote_directory_restores_alike():
    folder = "ram://test_backup_and_restore/run"
    interrupt(small_dataset(), folder, after_steps=7)
    model = small_model()
    assert fit(small_dataset(), folder, model=model, save_freq=1).epoch == [1, 2]
    assert model.optimizer.iterations.numpy() == 12
    assert BackupStore(folder).newest() is None


@pytest.mark.fit
def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`backup_dir` must be a directory.*which is a file"):
        BackupAndRestoreSequence(small_dataset(), tmp_path / "file")
    backup = BackupAndRestoreSequence(small_dataset(), tmp_path / "later")
    (tmp_path / "later").write_text("")
    with pytest.raises(ValueError, match="`backup_dir` must be a directory"):
        small_model().fit(small_dataset(), verbose=0, shuffle=False, callbacks=[backup])
    with pytest.raises(ValueError, match="`backup_dir` cannot be written to"):
        fit(small_dataset(), tmp_path / "file" / "below")


class StopAt(keras.callbacks.Callback):
    """Asks Keras to stop after a step of the process."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        self.step -= 1
        if self.step == 0:
            self.model.stop_training = True


@pytest.mark.fit
@pytest.mark.parametrize("backup_is_first", [True, False])
def test_a_request_to_stop_at_the_end_of_a_shortened_epoch_is_heard(tmp_path: Path, backup_is_first: bool):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=4)  # one batch is left
    dataset = small_dataset()
    callbacks = [BackupAndRestoreSequence(dataset, tmp_path / "backup"), StopAt(1)]
    history = small_model().fit(
        dataset, epochs=3, verbose=0, shuffle=False, callbacks=callbacks if backup_is_first else callbacks[::-1]
    )
    assert history.epoch == [0]


@pytest.mark.fit
def test_an_epoch_that_was_stopped_inside_goes_on_as_the_same_epoch(tmp_path: Path):
    dataset = small_dataset()
    assert fit(dataset, tmp_path / "backup", StopAt(6), delete_checkpoint=False).epoch == [0, 1]
    steps: list[int] = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    count_in_order = StopAt(0)  # keeps Keras from calling the other one from another thread
    assert fit(small_dataset(), tmp_path / "backup", count, count_in_order).epoch == [1, 2]
    assert steps == [0, 1, 0, 1, 2, 3]


@pytest.mark.fit
def test_another_initial_epoch_is_refused(tmp_path: Path):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    dataset = small_dataset()
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    with pytest.raises(ValueError, match=r"continues with epoch 0, but fit.* begins with 2. Pass the `initial_epoch`"):
        small_model().fit(dataset, epochs=3, initial_epoch=2, verbose=0, shuffle=False, callbacks=[backup])


@pytest.mark.fit
def test_the_backup_of_another_model_is_refused(tmp_path: Path):
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    model = small_model()
    model.compile("adam", "mse", run_eagerly=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"belongs to another model or optimizer. Expected 8 variables, received 4"):
        fit(small_dataset(), tmp_path / "backup", model=model)
    for weights, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.fit
def test_a_history_of_the_callers_before_it_changes_nothing(tmp_path: Path):
    whole = small_model()
    initial = whole.get_weights()
    fit(small_dataset(), tmp_path / "whole", model=whole)
    model = small_model()
    model.set_weights(initial)
    stop = StopTraining(6)
    with pytest.raises(KeyboardInterrupt):
        fit(small_dataset(), tmp_path / "backup", keras.callbacks.History(), stop, model=model, save_freq=1)
    model = small_model()
    assert fit(small_dataset(), tmp_path / "backup", keras.callbacks.History(), model=model).epoch == [1, 2]
    for weights, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.fit
def test_data_that_end_early_are_refused(tmp_path: Path):
    dataset = small_dataset()
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    with pytest.raises(ValueError, match="Expected 4 steps an epoch, received an unknown number"):
        small_model().fit(dataset.filter(lambda *_: True), verbose=0, shuffle=False, callbacks=[backup])


# SIGTERM.


class SendSignal(keras.callbacks.Callback):
    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        self.step -= 1
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def received_signals():
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    handler = signal.getsignal(signal.SIGTERM)
    yield received
    assert signal.getsignal(signal.SIGTERM) == handler, "the handler is put back"
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.fit
@pytest.mark.parametrize(("step", "position"), [(6, (1, 2)), (8, (2, 0))])
def test_sigterm_saves_at_the_next_batch_and_leaves(tmp_path: Path, received_signals, step: int, position):
    options = {"save_freq": False, "save_before_preemption": True}
    with pytest.raises(SystemExit) as ended:
        fit(small_dataset(), tmp_path / "backup", SendSignal(step), **options)
    assert (ended.value.code, received_signals) == (143, [signal.SIGTERM])
    backup = BackupStore(str(tmp_path / "backup")).newest()
    saved = backup.state["dataset"]["position"]
    assert (saved["epoch"], saved["batch"]) == position
    assert fit(small_dataset(), tmp_path / "backup", **options).epoch == [1, 2][step == 8 :]
    assert received_signals == [signal.SIGTERM]


@pytest.mark.fit
def test_sigterm_after_a_fit_that_failed_goes_to_the_handler_before(tmp_path: Path, received_signals):
    with pytest.raises(KeyboardInterrupt):
        fit(small_dataset(), tmp_path / "backup", StopTraining(2), save_before_preemption=True)
    os.kill(os.getpid(), signal.SIGTERM)
    assert received_signals == [signal.SIGTERM]


@pytest.mark.fit
def test_a_second_sigterm_is_passed_on_at_once(tmp_path: Path, received_signals):
    counts = []

    class Twice(SendSignal):
        def on_train_batch_end(self, batch: int, logs=None) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                counts.append(len(received_signals))

    with pytest.raises(SystemExit):
        fit(small_dataset(), tmp_path / "backup", Twice(0), save_before_preemption=True)
    assert counts == [0, 1]


@pytest.mark.fit
def test_sigterm_needs_the_main_thread_and_the_chief(tmp_path: Path):
    errors: list[ValueError] = []

    def train() -> None:
        try:
            fit(small_dataset(), tmp_path / "backup", save_before_preemption=True)
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert "needs fit() to run in the main thread" in str(errors[0])
    with pytest.raises(ValueError, match="must be False with several hosts"):
        BackupAndRestoreSequence(small_dataset(), tmp_path, save_before_preemption=True, is_chief=False)
    with pytest.raises(TypeError, match="False goes with save_before_preemption=True"):
        BackupAndRestoreSequence(small_dataset(), tmp_path, save_freq=False)
