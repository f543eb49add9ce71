"""What TensorFlow saved gives the same outputs on JAX and on torch, and padding reaches nothing there either."""

import numpy as np
import pytest

from keras_bucketing import MaskedLSTMClassifier
from tests.support.paths import SUPPORT
from tests.support.processes import run_on_backend

SCRIPT = str(SUPPORT / "model_on_another_backend.py")

MODELS = {
    "vectors": {"units": 3, "bidirectional": True, "pooling": "attention"},
    "token-ids": {"units": (3, 2), "pooling": "last", "vocabulary_size": 10, "embedding_dim": 3},
}


@pytest.fixture(scope="module")
def saved_by_tensorflow(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    x = {"vectors": rng.normal(size=(3, 5, 2)).astype("float32"), "token-ids": rng.integers(0, 10, size=(3, 5))}
    for name, arguments in MODELS.items():
        inputs = {"sequences": x[name], "lengths": np.array([5, 2, 1], "int32")}
        model = MaskedLSTMClassifier(3, **arguments)
        np.save(directory / f"{name}.npy", model(inputs))
        np.savez(directory / f"{name}.npz", **inputs)
        model.save(directory / f"{name}.keras")
    return directory


@pytest.mark.backends
@pytest.mark.fit
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_outputs_gradients_and_compilations(backend, saved_by_tensorflow):
    assert run_on_backend(backend, SCRIPT, str(saved_by_tensorflow)).splitlines()[-1] == f"{backend} done"
