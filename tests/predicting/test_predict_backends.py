"""dataset.predict with Keras models, on every backend."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.paths import SUPPORT

SCRIPT = SUPPORT / "predictions_on_another_backend.py"


@pytest.mark.fit
@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(name, marks=pytest.mark.backends) for name in ("jax", "torch"))]
)
def test_every_row_has_the_prediction_that_it_has_alone(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs the `backends` extra: {backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == f"{backend} done", run.stdout
