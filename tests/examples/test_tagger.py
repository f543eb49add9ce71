"""examples/tagger.py: its figures are those of a plain loop over timesteps, in buckets and padded."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.paths import EXAMPLES


@pytest.fixture
def tagger(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import tagger

    return tagger


@pytest.mark.fit
def test_the_loss_and_the_accuracy_of_timesteps_are_those_of_padded_data(tagger, capsys):
    bucketed, padded = tagger.main(["--quick"])
    assert bucketed["loss"] == pytest.approx(padded["loss"], rel=1e-4)
    assert bucketed["timestep_accuracy"] == pytest.approx(padded["timestep_accuracy"], abs=1e-3)
    # Keras' own counts rows in buckets and timesteps where all are padded to one length. Where this fails, Keras has
    # changed, and the docstring of the example has to.
    assert abs(bucketed["accuracy"] - padded["accuracy"]) > 0.01
    assert padded["accuracy"] == pytest.approx(padded["timestep_accuracy"], abs=1e-3)
    assert "timestep_accuracy: 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "words", "marks"),
    [
        (["f", "(", "x", ")"], ["f", "x"], ["(", ")"]),
        (["return", "x", "+", "<number>", "<newline>"], ["return", "x", "<number>", "<newline>"], ["none", "other"]),
        (["(", "x", ")", ":"], ["x"], [")"]),
    ],
)
def test_the_mark_behind_a_word_is_its_label(tagger, tokens, words, marks):
    received_words, labels = tagger.split_marks(tokens)
    assert received_words == words
    assert [tagger.MARKS[label] for label in labels] == [*marks, *["none"] * (len(words) - len(marks))]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_accuracy_counts_timesteps_whatever_the_batches(tagger, rows, padding):
    metric = tagger.TimestepAccuracy()
    for right in rows:  # one row a batch, each padded a little further than its end
        time = len(right) + padding
        labels = np.zeros((1, time), int)
        predictions = np.zeros((1, time, 2), "float32")
        predictions[0, np.arange(len(right)), np.where(right, 0, 1)] = 1
        metric.update_state(labels, predictions, (np.arange(time) < len(right))[None].astype("float32"))
    assert float(metric.result()) == pytest.approx(np.mean(np.concatenate(rows)), abs=1e-6)
