"""Interrupted runs under Keras' other backends, and a sample of real processes that are killed."""

import pytest

from tests.support.processes import run_on_backend

# Trains with another callback that reads the same data in one of its hooks, is interrupted, goes on, and compares with
# the run that was not interrupted.
TRAIN = """
import sys, tempfile
import keras, numpy as np
from keras_bucketing import BackupAndRestoreSequence, BucketedSequence

x = [np.random.default_rng(row).normal(size=(3, 1)).astype("float32") for row in range(16)]
dataset = BucketedSequence(x, np.arange(16, dtype="float32"), batch_size=4, seed=1)
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [keras.Input((3, 1)), keras.layers.Flatten(), keras.layers.Dropout(0.3, seed=1), keras.layers.Dense(1)]
)
model.compile("adam", "mse")
model.optimizer.build(model.trainable_variables)
variables = [*model.variables, *model.optimizer.variables]
initial = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]  # not a view

class Reader(keras.callbacks.Callback):
    def __init__(self, hook, interrupt_at):
        super().__init__()
        self.hook, self.steps_left = hook, interrupt_at
    def read(self, hook):
        if hook == self.hook:
            next(iter(dataset))
    def on_train_begin(self, logs=None):
        self.read("train_begin")
    def on_epoch_begin(self, epoch, logs=None):
        self.read("epoch_begin")
    def on_train_batch_begin(self, batch, logs=None):
        self.read("batch_begin")
    def on_train_batch_end(self, batch, logs=None):
        self.read("batch_end")
        self.steps_left -= 1
        if self.steps_left == 0:
            raise KeyboardInterrupt
    def on_epoch_end(self, epoch, logs=None):
        self.read("epoch_end")

def run(folder, hook, backup_is_first, interrupt_at=0):
    for variable, value in zip(variables, initial):
        variable.assign(value)
    dataset.seek(0)
    callbacks = [BackupAndRestoreSequence(dataset, folder, save_freq=1), Reader(hook, interrupt_at)]
    try:
        history = model.fit(dataset, validation_data=dataset, epochs=3, verbose=0, shuffle=False,
                            callbacks=callbacks if backup_is_first else callbacks[::-1])
    except KeyboardInterrupt:
        return None
    return history.epoch, [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

with tempfile.TemporaryDirectory() as folder:
    run(f"{folder}/first", "", True)  # in the first fit() of a process Keras reads a batch to build the metrics
    for hook in ("train_begin", "epoch_begin", "batch_begin", "batch_end", "epoch_end"):
        epochs, whole = run(f"{folder}/whole", hook, True)
        assert epochs == [0, 1, 2]
        for backup_is_first in (True, False):
            interrupt_at = 5 if hook == "epoch_end" else 7  # after the end of an epoch, and inside of one
            assert run(f"{folder}/cut", hook, backup_is_first, interrupt_at) is None
            epochs, resumed = run(f"{folder}/cut", hook, backup_is_first)
            assert epochs == [1, 2], (hook, backup_is_first, epochs)
            assert all((one == other).all() for one, other in zip(whole, resumed)), (hook, backup_is_first)
print("resumed with", keras.backend.backend())
"""


@pytest.mark.fit
@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_run_goes_on_under_another_backend(backend: str):
    assert run_on_backend(backend, "-c", TRAIN).split() == ["resumed", "with", backend]
