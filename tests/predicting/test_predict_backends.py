"""dataset.predict with Keras models, on every backend."""

import pytest

from tests.support.paths import SUPPORT
from tests.support.processes import run_on_backend

SCRIPT = str(SUPPORT / "predictions_on_another_backend.py")


@pytest.mark.fit
@pytest.mark.parametrize(
    "backend", ["tensorflow", *(pytest.param(name, marks=pytest.mark.backends) for name in ("jax", "torch"))]
)
def test_every_row_has_the_prediction_that_it_has_alone(backend):
    assert run_on_backend(backend, SCRIPT).splitlines()[-1] == f"{backend} done"
