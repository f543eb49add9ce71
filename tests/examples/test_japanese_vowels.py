"""examples/japanese_vowels.py, run as the README says, with a tiny model."""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support.paths import EXAMPLES

if importlib.util.find_spec("sktime") is None:  # to import it takes a second, of each process that runs tests
    pytest.skip("needs sktime: pip install keras-bucketing[examples]", allow_module_level=True)
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install keras-bucketing[plot]")


@pytest.mark.fit
@pytest.mark.filterwarnings("default")  # those of sktime and pandas are not ours to mend
def test_it_trains_evaluates_and_shows_the_buckets(tmp_path: Path, run_example):
    output = run_example("japanese_vowels", "--quick --seeds 0")
    efficiencies = [float(found) for found in re.findall(r"padding_efficiency: ([\d.]+)", output)]
    assert len(efficiencies) == 2  # one for each epoch of --quick
    assert all(0.85 < efficiency < 1 for efficiency in efficiencies)
    accuracy = float(re.search(r"seed 0: test accuracy ([\d.]+)", output)[1])
    assert accuracy > 0.15  # two epochs teach little, but predictions in a wrong order would be right one time in nine
    assert re.search(r"^all +270 ", output, flags=re.MULTILINE)
    assert "7020 timesteps an epoch" in output  # 270 recordings, the longest of 26 timesteps
    assert "4274 of them are real" in output
    picture = tmp_path / "output" / "japanese_vowels_buckets.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("default")  # those of sktime and pandas are not ours to mend
def test_it_reads_the_real_data_and_predicts_in_their_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import japanese_vowels as example

    x, y = example.load_recordings("train")
    test_x, test_y = example.load_recordings("test")
    assert (len(x), len(test_x)) == (270, 370)
    assert {recording.shape[1] for recording in x + test_x} == {12}
    assert {min(map(len, test_x)), max(map(len, test_x))} == {7, 29}
    assert np.bincount(y).tolist() == [30] * 9
    assert set(test_y) == set(range(9))
    standard = np.concatenate(example.standardize(x, x))
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(standard.std(axis=0), 1)
    folds = example.make_folds(y, example.NUM_FOLDS)
    assert all(np.bincount(folds[y == speaker]).tolist() == [6] * 5 for speaker in range(9))

    class FirstTimestep(keras.Model):
        def predict_on_batch(self, x):
            return np.asarray(x["sequences"])[:, 0, :9]

    predicted = example.predict(FirstTimestep(), test_x)
    np.testing.assert_allclose(predicted, [recording[0, :9] for recording in test_x], rtol=1e-5, atol=1e-8)
