"""examples/augmented_stream.py: what augmentation does to lengths, and the run that compares."""

import numpy as np
import pytest

from tests.support.paths import EXAMPLES


@pytest.fixture
def augmented_stream(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import augmented_stream

    return augmented_stream


@pytest.mark.fit
def test_it_runs_and_pads_less_by_the_lengths_after(augmented_stream, capsys):
    before, after, accuracy = augmented_stream.main(["--quick"])
    assert before < 0.6 < 0.75 < after
    assert 0 <= accuracy <= 1
    assert f"by those after: {after:.3f}" in capsys.readouterr().out


def test_an_augmented_drawing_is_a_part_of_it_at_another_speed(augmented_stream):
    drawing = np.stack([np.arange(100.0), -np.arange(100.0)], axis=1)
    for seed in range(20):
        augmented = augmented_stream.augment(drawing, np.random.default_rng(seed))
        assert 40 <= len(augmented) <= 200
        assert augmented.dtype == np.float32
        assert 0 <= augmented[0, 0] < 20
        assert augmented[-1, 0] == 99
        np.testing.assert_allclose(np.diff(augmented[:, 0]), np.diff(augmented[:, 0])[0], rtol=1e-3)
        np.testing.assert_allclose(augmented[:, 1], -augmented[:, 0])


def test_rows_are_augmented_again_in_every_epoch(augmented_stream):
    drawings, directions = augmented_stream.draw_spirals(10, seed=1)
    rows = augmented_stream.AugmentedRows(drawings, directions, seed=2)
    first, second = ([len(drawing) for drawing, _ in rows] for _ in range(2))
    assert sorted(first) != sorted(second)
    assert sorted(direction for _, direction in rows) == sorted(directions)
