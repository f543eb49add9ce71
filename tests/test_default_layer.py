"""The default layer keeps its law: this file is in it, and what it leaves out fails here."""

import multiprocessing
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.support import default_layer, processes


def model():
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


ROWS = np.ones((1, 1))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: model().fit(ROWS, ROWS), r"calls fit\(\)"),
        (lambda: model().evaluate(ROWS, ROWS), r"calls evaluate\(\)"),
        (lambda: model().predict(ROWS), r"calls predict\(\)"),
        (lambda: model().train_on_batch(ROWS, ROWS), r"calls train_on_batch\(\)"),
        (lambda: model().test_on_batch(ROWS, ROWS), r"calls test_on_batch\(\)"),
        (lambda: model().predict_on_batch(ROWS), r"calls predict_on_batch\(\)"),
        (lambda: subprocess.run([sys.executable, "-c", ""], check=True), "starts a process"),
        (lambda: multiprocessing.Process(target=print).start(), "starts a process"),
        (lambda: processes.start_python("-c", ""), "starts a process"),
    ],
)
def test_what_takes_long_fails_without_the_mark(call, what):
    with pytest.raises(pytest.fail.Exception, match=rf"{what}.*@pytest\.mark\.fit"):
        call()


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_smoke_test_calls_fit_as_often_as_it_is_marked_with(monkeypatch, calls):
    monkeypatch.setattr(keras.Model, "fit", lambda self: self)
    item = SimpleNamespace(get_closest_marker=lambda name: pytest.mark.smoke("name", fits=1).mark)
    counted = default_layer.fits_counted(item)
    counted.__enter__()
    for _ in range(calls):
        model().fit()
    if calls == 1:
        counted.__exit__(None, None, None)
    else:
        with pytest.raises(AssertionError, match="how often"):
            counted.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("example", "trains"),
    [
        ("history = model.fit(dataset, verbose=0)", True),
        ("tuned = keras_bucketing.tune_batch_sizes(model, dataset)", True),
        ("dataset.restore_order(model.predict(dataset))", True),
        ("model(x).shape", False),
        ("fit_hooks.begin(model)", False),
    ],
)
def test_docstrings_are_marked_by_what_they_call(example, trains):
    assert bool(default_layer.TRAINS.search(example)) == trains
