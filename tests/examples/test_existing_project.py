"""examples/existing_project.py, run as a user would, on fewer functions."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import EXAMPLES


@pytest.mark.fit
def test_it_shows_both_efficiencies_and_both_times(run_example):
    output = run_example("existing_project", "--quick --epochs 1")
    last = re.search(r"padding efficiency (\d\.\d+) -> (\d\.\d+), epoch [\d.]+ s -> [\d.]+ s \([\d.]+ x\)", output)
    before, after = map(float, last.groups())
    assert before < 0.5 * after
    assert len(re.findall(r"^test accuracy 0\.\d+$", output, re.MULTILINE)) == 2
    majority = float(re.search(r"answering always the most frequent package: (0\.\d+)", output)[1])
    assert 0.3 < majority < 0.9
    # The same sequences in both runs: the monitor and the dataset agree on what is real.
    real = re.findall(r"^(\d+) real of \d+ timesteps", output, re.MULTILINE)
    assert len(real) == 2
    assert real[0] == real[1]


@pytest.mark.fit  # it parses hundreds of files
def test_the_corpus_is_real_and_heavy_tailed(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import functions_corpus

    train, test = functions_corpus.load_functions(80)
    for part in (train, test):
        assert set(part.labels.tolist()) == {0, 1, 2}
        assert len(part.tokens) == len(part.labels)
    assert len(train.labels) > 2 * len(test.labels)
    lengths = [len(tokens) for tokens in train.tokens]
    assert max(lengths) > 5 * sorted(lengths)[len(lengths) // 2]
    words = {token for tokens in train.tokens for token in tokens}
    assert {"def", "return", "<indent>"} <= words
    assert not {"np", "numpy", "keras"} & words
    again, _ = functions_corpus.load_functions(80)
    assert again.tokens == train.tokens
