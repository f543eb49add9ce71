import json
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_bucketing import BackupAndRestoreSequence, BucketedSequence

# Trains, appending to a file which batch each step saw and what the weights add up to. Kills itself with SIGKILL, which
# no Python code can catch, after the step it is told to.
TRAIN = """
import os, signal, sys
import keras, numpy as np
from keras_bucketing import BackupAndRestoreSequence, BucketedSequence

folder, record, kill_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
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

model = keras.Sequential([keras.Input((None, 1)), keras.layers.LSTM(3), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=[Labels()])
backup = BackupAndRestoreSequence(dataset, folder, save_freq=4)
model.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[backup, Record()])
"""


def train(folder: Path, record: Path, kill_after: int = 0) -> subprocess.CompletedProcess[str]:
    script = folder.parent / "train.py"
    script.write_text(TRAIN)
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script), str(folder), str(record), str(kill_after)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_very_batches_and_weights_of_the_uninterrupted_one(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", tmp_path / "whole.txt").returncode == 0
    whole = (tmp_path / "whole.txt").read_text().splitlines()
    assert len(whole) == 3 * 15

    assert train(tmp_path / "cut", tmp_path / "first.txt", kill_after=22).returncode == -signal.SIGKILL
    backup = json.loads(next((tmp_path / "cut").glob("backup-*/sequence_state.json")).read_text())
    assert (backup["dataset"]["epoch"], backup["dataset"]["batch"]) == (1, 4), "the newest backup is of mid-epoch"
    second = train(tmp_path / "cut", tmp_path / "second.txt")
    assert second.returncode == 0, second.stderr

    first, resumed = ((tmp_path / name).read_text().splitlines() for name in ("first.txt", "second.txt"))
    assert first == whole[:22]
    assert resumed == whole[15 + 4 :]
    assert not (tmp_path / "cut").exists(), "a finished run leaves no backup"


def small_dataset(**options) -> BucketedSequence:
    return BucketedSequence(
        [np.ones((length, 1)) for length in range(1, 9)], np.zeros(8), batch_size=2, **{"seed": 1, **options}
    )


def small_model() -> keras.Model:
    model = keras.Sequential([keras.Input((None, 1)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
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


def test_the_shortened_epoch_ends_without_a_warning_and_the_next_ones_are_whole(tmp_path: Path) -> None:
    interrupt(small_dataset(), tmp_path / "backup", after_steps=3)
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


@pytest.mark.parametrize("save_freq", [1, 2, 3, 4])
def test_a_run_killed_in_validation_goes_on_like_the_uninterrupted_one(tmp_path: Path, save_freq: int) -> None:
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


def test_another_callback_can_still_stop_training_in_the_shortened_epoch(tmp_path: Path) -> None:
    interrupt(small_dataset(), tmp_path / "backup", after_steps=3)
    dataset = small_dataset()
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", True))
    history = small_model().fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[stop, backup])
    assert history.epoch == [0]


def test_a_seed_that_was_drawn_is_taken_over(tmp_path: Path) -> None:
    first = small_dataset(seed=None)
    interrupt(first, tmp_path / "backup", after_steps=2)
    second = small_dataset(seed=None)
    backup = BackupAndRestoreSequence(second, tmp_path / "backup")
    small_model().fit(second, epochs=1, verbose=0, shuffle=False, callbacks=[backup])
    assert second.seed == first.seed


def test_the_backup_of_other_data_is_refused(tmp_path: Path) -> None:
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    other = small_dataset(remainder="keep", num_buckets=2)
    with pytest.raises(ValueError, match="belongs to another dataset"):
        small_model().fit(
            other, epochs=1, verbose=0, shuffle=False, callbacks=[BackupAndRestoreSequence(other, tmp_path / "backup")]
        )


def test_a_process_killed_while_writing_leaves_the_backup_before(tmp_path: Path) -> None:
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    (tmp_path / "backup" / "backup-99").mkdir()  # began, never published
    dataset = small_dataset()
    history = small_model().fit(
        dataset,
        epochs=1,
        verbose=0,
        shuffle=False,
        callbacks=[BackupAndRestoreSequence(dataset, tmp_path / "backup")],
    )
    assert history.epoch == [0]


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    dataset = small_dataset()
    with pytest.raises(TypeError, match=r"`dataset` must be a BucketedSequence\. Received _PrefetchDataset"):
        BackupAndRestoreSequence(dataset.prefetch(1), tmp_path)
    with pytest.raises(TypeError, match=r'`save_freq` must be an integer.*Pass "epoch"'):
        BackupAndRestoreSequence(dataset, tmp_path, save_freq="batch")
    with pytest.raises(ValueError, match="`save_freq` is too small"):
        BackupAndRestoreSequence(dataset, tmp_path, save_freq=0)


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
def test_epochs_that_could_not_be_resumed_are_refused(tmp_path: Path, change, options: dict, text: str) -> None:
    dataset = small_dataset()
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    with pytest.raises(ValueError, match=text):
        small_model().fit(change(dataset), epochs=2, verbose=0, shuffle=False, callbacks=[backup], **options)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    dataset = small_dataset()
    model = keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"a model that is not built\. Build it"):
        model.fit(dataset, verbose=0, shuffle=False, callbacks=[BackupAndRestoreSequence(dataset, tmp_path / "backup")])


@pytest.mark.parametrize("damage", ["", "[]", '{"backup": "backup-7"}'])
def test_a_damaged_backup_says_where_it_is(tmp_path: Path, damage: str) -> None:
    interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
    (tmp_path / "backup" / "latest.json").write_text(damage)
    with pytest.raises(ValueError, match=r"The backup in `backup_dir` is damaged: .*json.*Delete .* to start over"):
        interrupt(small_dataset(), tmp_path / "backup", after_steps=2)
