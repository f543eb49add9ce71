"""The law of the default layer: a test that is not marked `fit` trains no model and starts no process.

`pytest` runs what is not marked, `pytest -m ""` everything. The tests of tests/test_smoke.py may train: each is marked
with how often it calls `fit`.
"""

import contextlib
import multiprocessing.process
import re
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.support import processes

is_run = False  # conftest.py sets it before it collects
MODEL_CALLS = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")
# The examples of docstrings cannot be marked by hand: they are by what they call.
TRAINS = re.compile(rf"\.(?:{'|'.join(MODEL_CALLS)})\(|\btune_batch_sizes\(")


def examples(number: int) -> int:
    """How many examples a property draws: a quarter of them in the default layer."""
    return -(-number // 4) if is_run else number


def mark_docstrings(items: list[pytest.Item]) -> None:
    """Marks the docstrings whose examples train."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and any(TRAINS.search(each.source) for each in item.dtest.examples):
            item.add_marker(pytest.mark.fit)


@contextlib.contextmanager
def enforced(item: pytest.Item) -> Iterator[None]:
    """Fails a test, or a fixture of it, that trains or starts a process without being marked."""
    import keras  # not at the top, as in conftest.py
    import numpy.testing  # noqa: F401  NumPy 1.26 starts lscpu as it is imported (numpy/testing/_private/utils.py)

    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("fit"):
            patch.setattr(subprocess.Popen, "__init__", _refuse("starts a process"))
            patch.setattr(multiprocessing.process.BaseProcess, "start", _refuse("starts a process"))
            patch.setattr(processes.ForkedPython, "__init__", _refuse("starts a process"))
            for name in () if item.get_closest_marker("smoke") else MODEL_CALLS:
                patch.setattr(keras.Model, name, _refuse(f"calls {name}() of a model"))
        yield


@contextlib.contextmanager
def fits_counted(item: pytest.Item) -> Iterator[None]:
    """Fails a smoke test that calls `fit` more or less often than it is marked with."""
    marker = item.get_closest_marker("smoke")
    if marker is None:
        yield
        return
    import keras

    fits: list[keras.Model] = []
    fit = keras.Model.fit

    def counted(self: keras.Model, *arguments: object, **options: object) -> object:
        fits.append(self)
        return fit(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", counted)
        yield
    assert len(fits) == marker.kwargs["fits"], "the marker says how often a smoke test calls fit()"


def _refuse(what: str) -> Callable[..., None]:
    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail(
            f"A test of the default layer {what}. Mark it with @pytest.mark.fit, or show the same without "
            '(CONTRIBUTING.md, "The layers of the suite").'
        )

    return refuse
