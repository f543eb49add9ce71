"""`fit` under Keras' other backends, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest

TRAIN = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message="`shuffle=True` was passed")  # Keras' remark on its own default
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", module="(jax|torch|keras|tensorflow).*")
import keras, numpy as np
from keras_bucketing.bucketed_sequence import BucketedSequence

lengths = np.array([3, 5, 5] * 6)  # few shapes: JAX compiles each
x = [np.random.default_rng(row).integers(1, 20, length) for row, length in enumerate(lengths)]
y = np.arange(18) % 2

class CountSteps(keras.callbacks.Callback):
    declared, seen = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.declared.append(self.params["steps"])
        self.seen.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.seen[-1] += 1

model = keras.Sequential([keras.layers.Embedding(20, 4, mask_zero=True), keras.layers.LSTM(4), keras.layers.Dense(1)])
model.compile("adam", "mse")
dataset = BucketedSequence(x, y, batch_size=8, seed=1)
history = model.fit(dataset, validation_data=dataset, epochs=3, verbose=0, callbacks=[CountSteps()]).history
assert np.isfinite(history["loss"] + history["val_loss"]).all(), history
assert CountSteps.declared == CountSteps.seen == [3, 3, 3], (CountSteps.declared, CountSteps.seen)
predictions = BucketedSequence(x, batch_size=8, seed=2)
restored = predictions.restore_order(model.predict(predictions, verbose=0))
alone = np.concatenate([np.asarray(model.predict_on_batch(row[np.newaxis])) for row in x])
np.testing.assert_allclose(restored, alone, rtol=1e-4, atol=1e-6)
print("trained with", keras.backend.backend())
"""


@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_model_trains_and_predicts_on_another_backend(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install 'keras-bucketing[backends]'")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": ".", "TF_CPP_MIN_LOG_LEVEL": "2"}
    finished = subprocess.run(
        [sys.executable, "-c", TRAIN], capture_output=True, text=True, check=False, env=environment
    )
    assert finished.stdout.split() == ["trained", "with", backend], finished.stderr[-3000:]
