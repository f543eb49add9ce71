"""What TensorFlow saved gives the same outputs on JAX and on torch, and padding reaches nothing there either."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_bucketing import MaskedLSTMClassifier
from tests.support.paths import SUPPORT

SCRIPT = SUPPORT / "model_on_another_backend.py"

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
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs the `backends` extra: {backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), str(saved_by_tensorflow)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == f"{backend} done"
