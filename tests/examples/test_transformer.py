"""examples/transformer.py: padding reaches neither the outputs nor the loss."""

import keras
import numpy as np
import pytest

from keras_bucketing import BucketedSequence, check_padding
from tests.support.models import eager_models
from tests.support.paths import EXAMPLES

TEXTS = [np.arange(1, length + 1) for length in (2, 9, 5, 14)]


@pytest.fixture
def transformer(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import transformer

    return transformer


@pytest.mark.fit
def test_the_loss_is_that_of_padded_data(transformer, capsys):
    with eager_models():
        bucketed, padded = transformer.main(["--quick"])
    assert bucketed == pytest.approx(padded, rel=1e-4)
    assert "Padding does not reach the outputs" in capsys.readouterr().out


@pytest.mark.fit
def test_a_residual_with_plus_instead_would_leak(transformer, monkeypatch):
    """What the docstring says of `+`: where it fails, Keras has changed."""
    dataset = BucketedSequence(TEXTS, np.arange(4) % 2, batch_size=4)
    assert check_padding(transformer.make_model(20, width=8, num_blocks=1), dataset)
    monkeypatch.setattr(keras.layers, "Add", lambda: sum)
    check = check_padding(transformer.make_model(20, width=8, num_blocks=1), dataset)
    assert not check
    assert "keras.layers.Add()" in str(check)


def test_positions_are_those_of_the_paper(transformer):
    positions = np.array(transformer.AddPositions()(np.zeros((1, 7, 6), "float32")))[0]
    for position in range(7):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert positions[position, pair] == pytest.approx(np.sin(angle), abs=1e-5)
            assert positions[position, 3 + pair] == pytest.approx(np.cos(angle), abs=1e-5)
