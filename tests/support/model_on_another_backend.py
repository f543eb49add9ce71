"""Run by test_model_backends.py in a process of its own, with KERAS_BACKEND set: loads models that TensorFlow saved.

Arguments: a directory with NAME.keras, NAME.npz (inputs) and NAME.npy (TensorFlow's outputs).
"""

import pathlib
import sys
import warnings

import keras
import numpy as np

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier

FILLERS = {"vectors": np.nan, "token-ids": -7}


def with_more_padding(inputs, filler):
    sequences = inputs["sequences"].copy()
    for row, length in zip(sequences, inputs["lengths"], strict=True):
        row[length:] = filler
    widths = [(0, 0), (0, 2), *[(0, 0)] * (sequences.ndim - 2)]
    return {"sequences": np.pad(sequences, widths, constant_values=filler), "lengths": inputs["lengths"]}


def check_outputs(model, inputs, expected, filler):
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(with_more_padding(inputs, filler), verbose=0), expected, atol=1e-5)


def check_gradients(path, inputs, filler):
    """One step of SGD moves the weights equally, however much padding there is."""
    weights = []
    row = {key: value[1:2] for key, value in inputs.items()}
    alone = {"sequences": row["sequences"][:, : row["lengths"][0]], "lengths": row["lengths"]}
    for batch in (alone, with_more_padding(row, filler)):
        model = keras.saving.load_model(path, compile=False)
        model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
        before = model.get_weights()
        model.train_on_batch(batch, np.array([2]))
        assert max(np.abs(new - old).max() for new, old in zip(model.get_weights(), before, strict=True)) > 0.01
        weights.append(model.get_weights())
    for padded, unpadded in zip(*weights, strict=True):
        np.testing.assert_allclose(padded, unpadded, atol=1e-5)


class CountsTraces(MaskedLSTMClassifier):
    """JAX traces, and so compiles, the training step once per shape of batch."""

    traces = 0

    def train_step(self, *args, **kwargs):
        self.traces += 1
        return super().train_step(*args, **kwargs)


def check_compilations():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(length, 2)).astype("float32") for length in rng.integers(1, 20, size=90)]
    dataset = BucketedSequence(
        x, np.zeros(90), batch_size=8, bucket_boundaries=[5, 10], pad_to_bucket_boundary=True, include_lengths=True
    )
    model = CountsTraces(2, 2)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(dataset, epochs=3, shuffle=False, verbose=0)
    assert 1 <= model.traces <= 3 + 1, f"{model.traces} compilations for 3 buckets"


def main(directory):
    warnings.simplefilter("error")
    # keras/src/backend/tensorflow/core.py and tensor conversions elsewhere: __array__ without NumPy 2's `copy`.
    warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
    for path in sorted(pathlib.Path(directory).glob("*.keras")):
        inputs, filler = dict(np.load(path.with_suffix(".npz"))), FILLERS[path.stem]
        check_outputs(keras.saving.load_model(path), inputs, np.load(path.with_suffix(".npy")), filler)
        check_gradients(path, inputs, filler)
    if keras.config.backend() == "jax":
        check_compilations()
    print(keras.config.backend(), "done")


if __name__ == "__main__":
    main(sys.argv[1])
