"""examples/ctc_keypad.py: the loss of a sequence does not depend on what it is padded to."""

import keras
import numpy as np
import pytest

from tests.support.paths import EXAMPLES


@pytest.fixture
def ctc_keypad(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import ctc_keypad

    return ctc_keypad


@pytest.mark.fit
def test_the_loss_is_that_of_padded_data(ctc_keypad, capsys):
    bucketed, padded = ctc_keypad.main(["--quick"])
    assert bucketed == pytest.approx(padded, rel=1e-5)
    assert "every key right" in capsys.readouterr().out


def test_without_lengths_the_loss_grows_with_the_padding(ctc_keypad):
    """What the docstring says of `keras.losses.CTC`: where it fails, Keras has changed."""
    logits = np.random.default_rng(0).normal(size=(1, 9, 5)).astype("float32")
    labels = np.array([[1, 2]])
    further = np.pad(logits, ((0, 0), (0, 20), (0, 0)))
    with_lengths = [
        float(keras.ops.ctc_loss(labels, padded, np.array([2]), np.array([9]))[0]) for padded in (logits, further)
    ]
    without = [float(keras.losses.CTC()(labels, padded)) for padded in (logits, further)]
    assert with_lengths == pytest.approx([with_lengths[0]] * 2)
    assert without[0] == pytest.approx(with_lengths[0])
    assert without[1] > without[0] + 10


def test_the_sound_has_the_two_tones_of_each_key(ctc_keypad):
    """Every key alone: the loudest low and the loudest high frequency tell which it is."""
    rng = np.random.default_rng(0)
    for key in range(len(ctc_keypad.KEYS)):
        frames = ctc_keypad.dial(np.array([key]), rng)
        loudest = frames[frames.sum(axis=1).argmax()]
        assert (loudest[:4].argmax(), loudest[4:].argmax()) == divmod(key, 4)


def test_keys_are_classes_above_the_blank(ctc_keypad):
    frames, classes = ctc_keypad.make_data(50, seed=0)
    assert {call.shape[1] for call in frames} == {8}
    assert 1 <= min(map(min, classes)) <= max(map(max, classes)) <= 16
    repeats = [int((np.diff(keys) == 0).sum()) for keys in classes]
    # CTC needs a frame for each label, and one between equal ones.
    assert all(len(call) >= len(keys) + more for call, keys, more in zip(frames, classes, repeats, strict=True))
