"""examples/mirrored_devices.py: two devices learn what one would."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier, PaddingStatsCallback
from tests.support.paths import EXAMPLES
from tests.support.processes import run_python

SEQUENCES = 203  # no multiple of two: one row an epoch is left out
EPOCHS = 2


def run_on_two_devices(folder: Path) -> dict:
    command = [str(EXAMPLES / "mirrored_devices.py"), "--cpu-devices", "2", "--units", "4"]
    command += ["--sequences", str(SEQUENCES), "--epochs", str(EPOCHS), "--json", str(folder / "figures.json")]
    assert "2 devices, 16 rows each; 1 rows left out" in run_python(*command, check=True).stdout
    return json.loads((folder / "figures.json").read_text())


@pytest.mark.fit
def test_losses_and_statistics_are_those_of_one_device(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from resume_training import make_waves

    received = run_on_two_devices(tmp_path)

    keras.utils.set_random_seed(1)
    x, y = make_waves(SEQUENCES, seed=1)
    dataset = BucketedSequence(x, y, batch_size=32, batch_size_multiple=2, seed=1)
    model = MaskedLSTMClassifier(num_classes=2, units=4)
    model.compile("adam", "sparse_categorical_crossentropy")
    callback = PaddingStatsCallback(dataset)
    dataset.seek(epoch=1)  # under a strategy Keras reads a batch of a pass of its own to build the model
    history = model.fit(dataset, epochs=EPOCHS, callbacks=[callback], shuffle=False, verbose=0).history

    np.testing.assert_allclose(received["loss"], history["loss"], rtol=1e-5)
    expected = callback.to_dict()
    for part in (*received["epochs"], *expected["epochs"]):
        for measured in ("seconds", "real_timesteps_per_second"):
            assert part["train"].pop(measured) > 0
    assert received["epochs"] == expected["epochs"]
