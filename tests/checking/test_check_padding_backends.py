"""check_padding on JAX and PyTorch."""

import pytest

from tests.support.paths import SUPPORT
from tests.support.processes import run_on_backend

SCRIPT = str(SUPPORT / "padding_on_another_backend.py")
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
    printed = run_on_backend(backend, SCRIPT, *SOME)
    assert printed.splitlines()[-1] == f"{backend} done", printed
