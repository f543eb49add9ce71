"""What version 0.2.0 has saved can still be used: models, folders, caches, states and backups.

`tests/fixtures/v0_2_0/make.py` has written the files once, and they stay as they are.
"""

import json
import shutil

import keras
import numpy as np
import pytest

from keras_bucketing import load_sequences
from tests.fixtures.v0_2_0 import cases


def read(name):
    """The entries of a JSON file that `make.py` has written."""
    return json.loads((cases.HERE / name).read_text(encoding="utf-8"))


def check_state(dataset, expected):
    """Loads a state, and compares the batches that follow."""
    dataset.load_state_dict(expected["state"])
    received = cases.following(dataset)
    assert received["rows"] == expected["rows"]
    assert received["digests"] == expected["digests"]


@pytest.mark.fit
@pytest.mark.parametrize("name", cases.MODELS)
def test_models(name):
    case, expected = cases.MODELS[name], read("models.json")[name]
    model = keras.saving.load_model(cases.HERE / "models" / f"{name}.keras")
    np.testing.assert_allclose(cases.predictions(model, case.inputs), expected["predictions"], atol=1e-5)
    if case.labels is not None:  # the file holds the optimizer, too
        assert cases.train(model, case) == pytest.approx(expected["next_loss"], abs=1e-5)
        np.testing.assert_allclose(cases.predictions(model, case.inputs), expected["next_predictions"], atol=1e-5)


@pytest.mark.parametrize("name", cases.FOLDERS)
def test_folders(name):
    assert cases.contents(load_sequences(cases.HERE / "sequences" / name)) == read("sequences.json")[name]


@pytest.mark.parametrize("name", cases.CACHES)
def test_caches_are_used_without_reading_their_source(name, tmp_path):
    def unread():
        raise AssertionError("the source was read")

    folder = shutil.copytree(cases.HERE / "caches" / name, tmp_path / name)
    check_state(cases.from_cache(name, folder, unread), read("caches.json")[name])


@pytest.mark.parametrize("name", cases.DATASETS)
def test_states_are_followed_by_the_same_batches(name):
    check_state(cases.DATASETS[name](), read("states.json")[name])


def resume(folder, save_freq):
    """Goes on with a run that was interrupted in its second epoch, from other initial weights."""
    run = cases.TrainingRun(seed=1)
    assert run.fit(folder, save_freq) == [1, 2]
    for weights, expected in zip(run.weights(), read("backups.json")["weights"], strict=True):
        np.testing.assert_allclose(weights, expected, atol=1e-5)


@pytest.mark.fit
@pytest.mark.parametrize("name", cases.BACKUPS)
def test_backups_end_with_the_weights_of_the_uninterrupted_run(name, tmp_path):
    resume(shutil.copytree(cases.HERE / "backups" / name, tmp_path / name), cases.BACKUPS[name])


# What pytest.warns did not wait for it passes on as a warning of its own, and not of Keras' (see pyproject.toml).
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.fit
def test_the_backup_before_a_damaged_one(tmp_path):
    folder = shutil.copytree(cases.HERE / "backups" / "inside_epoch", tmp_path / "backup")
    newest = max(folder.iterdir())
    for file in newest.glob("*.h5"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="backup_dir"):
        resume(folder, cases.BACKUPS["inside_epoch"])
