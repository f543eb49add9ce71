"""`fit` under Keras' other backends, a process for each."""

import pytest

from tests.support.processes import run_on_backend

TRAIN = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message="`shuffle=True` was passed")  # Keras' remark on its own default
# On PyTorch Keras maps outputs to NumPy by `convert_to_numpy`, and its variables do not know the `copy` of NumPy 2.
warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
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


# An endless stream, whose epochs `steps_per_epoch` cuts out of one pass, and one with an end.
STREAMS = """
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message="`shuffle=True` was passed")
warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
import itertools
import keras, numpy as np
from keras_bucketing import BucketedStream, PaddingStatsCallback

def endless():
    for row in itertools.count():
        yield np.full((3, 5, 5)[row % 3], row % 20), row % 2

def rows():
    return itertools.islice(endless(), 18)

def fit(stream, **arguments):
    layers = [keras.layers.Embedding(20, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    callback = PaddingStatsCallback(stream)
    losses = model.fit(stream, verbose=0, callbacks=[callback], **arguments).history["loss"]
    assert np.isfinite(losses).all(), losses
    return callback.history

options = {"batch_size": 8, "buffer_size": 32, "seed": 1}
stream = BucketedStream(endless, **options)
history = fit(stream, steps_per_epoch=5, epochs=3)
assert [stats.num_sequences for stats in history] == [40, 40, 40], history
assert stream.newest_pass() == (1, 0, 0), stream.newest_pass()  # one pass, although Keras may have read to build

warnings.filterwarnings("ignore", message="Your input ran out of data")  # of unknown length, in the first epoch
stream = BucketedStream(rows, **options)
history = fit(stream, epochs=2)
assert [stats.num_sequences for stats in history] == [18, 18], history
assert stream.newest_pass() == (2, 1, 0), stream.newest_pass()
print("streams on", keras.backend.backend())
"""


# `fit` begins with epoch 0 although Keras reads a batch to build the model, and where it does not, as
# docs/troubleshooting.md says.
FIRST_EPOCH = """
import itertools, warnings
warnings.simplefilter("error")
import keras, numpy as np
from keras_bucketing import BucketedSequence, PaddingStatsCallback

x, y = [np.full(length, row + 1) for row, length in enumerate([3, 5, 5] * 6)], np.arange(18) % 2

def make(**options):
    return BucketedSequence(x, y, **{"batch_size": 8, "seed": 1, **options})

def model():
    layers = [keras.layers.Embedding(20, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    unbuilt = keras.Sequential(layers)
    unbuilt.compile("sgd", "mse", metrics=["mae"])
    return unbuilt

def fit(dataset, *, on_top=lambda dataset: dataset, **arguments):
    callback = PaddingStatsCallback(dataset)
    model().fit(on_top(dataset), verbose=0, shuffle=False, callbacks=[callback], **arguments)
    return callback.history

dataset = make()
assert fit(dataset, epochs=2) == [dataset.padding_stats(0), dataset.padding_stats(1)]
assert dataset.newest_pass() == (2, 1, 0)
assert fit(dataset, epochs=1) == [dataset.padding_stats(2)]  # a second model, built again

dataset = make()
dataset.seek(3, 1)  # Keras' building read leaves it alone
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*ran out of data")
    (stats,) = fit(dataset)
assert dataset.newest_pass() == (1, 3, 1)
assert stats == dataset.pass_stats(dataset.newest_pass(), 0, 2)

dataset = make()
model().evaluate(dataset, verbose=0)
assert dataset.newest_pass() == (1, 0, 0)

dataset = make()
iterator = iter(dataset)
first = next(iterator)
model().fit(dataset, verbose=0, shuffle=False)
rows = [labels.shape[0] for _, labels in itertools.chain([first], iterator)]
assert sum(rows) == 18 and dataset.newest_pass() == (2, 1, 0)

dataset = make()
fit(dataset, steps_per_epoch=1)
fit(dataset, steps_per_epoch=1)
assert dataset.newest_pass() == (2, 1, 0)  # a pass of one batch is one

for arguments in ({"class_weight": {0: 1.0, 1: 2.0}}, {"on_top": lambda dataset: dataset.map(lambda x, y: (x, y))}):
    dataset = make()
    assert fit(dataset, **arguments) == [dataset.padding_stats(1)], arguments
print("began with", keras.backend.backend())
"""


@pytest.mark.fit
@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_model_begins_with_epoch_0_trains_and_predicts_on_another_backend(backend):
    # One process for all: to start it takes as long as either.
    printed = run_on_backend(backend, "-c", FIRST_EPOCH + TRAIN + STREAMS).splitlines()
    assert printed == [f"began with {backend}", f"trained with {backend}", f"streams on {backend}"]
