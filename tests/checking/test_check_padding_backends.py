"""check_padding on JAX and PyTorch."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.paths import SUPPORT

SCRIPT = SUPPORT / "padding_on_another_backend.py"
SOME = [
    "a residual with +",
    "a residual with + in a subclassed model",
    "Normalization before the masking",
    "keras.ops",
    "go_backwards",
    "a convolution",
    "GlobalMaxPooling1D",
    "no mask at all",
    "the mean of the loss",
    "a padding_mask that nobody asks for",
    "an encoder and a decoder",
    "a Transformer",
]


@pytest.mark.backends
@pytest.mark.fit
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_leaks_are_named_and_cured(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs the `backends` extra: {backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *SOME]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == f"{backend} done", run.stdout
