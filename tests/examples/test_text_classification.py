"""examples/text_classification.py, run as a user would, with a tiny model on tiny corpora."""

import random
import re
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES

SUBJECTS = {"kitchen": ["salt", "pan", "oven", "recipe"], "harbour": ["ship", "rope", "anchor", "tide"]}

WITHOUT_SUBJECT = ["the", "of", "and", "a", "to", "in", "is", "it"]


def write_corpus(path: Path, num_texts: int, seed: int) -> None:
    """Two words in three say nothing about the label; one text in four is of the harbour."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_texts):
            label = rng.choice(["kitchen", "kitchen", "kitchen", "harbour"])
            words = [rng.choice([*SUBJECTS[label], *(WITHOUT_SUBJECT)]) for _ in range(rng.randint(5, 40))]
            file.write(f"{label}\t{' '.join(words)}.\n")


def accuracies(output: str) -> tuple[float, float]:
    """Of the model, and of always answering the most frequent class."""
    found = re.search(r"mean test accuracy ([\d.]+).*\nalways answering \w[\w ]*: ([\d.]+)", output)
    assert found, output
    return float(found[1]), float(found[2])


@pytest.mark.fit
def test_it_learns_from_a_file_and_is_tested_on_another(tmp_path: Path, run_example):
    write_corpus(tmp_path / "train.tsv", 400, seed=0)
    write_corpus(tmp_path / "test.tsv", 100, seed=1)
    output = run_example("text_classification", "--train train.tsv --test test.tsv --units 16 --epochs 8 --seeds 0 1")
    assert "400 texts to train on, 100 to test on, 2 classes" in output
    assert output.count("s an epoch") == 2
    accuracy, majority = accuracies(output)
    assert 0.6 < majority < 0.9
    assert accuracy > majority + 0.1
    assert 0.6 < float(re.search(r"padding efficiency ([\d.]+)", output)[1]) <= 1


def test_one_file_is_split(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import text_classification

    write_corpus(tmp_path / "texts.tsv", 60, seed=0)
    parts = text_classification.load_corpora(tmp_path / "texts.tsv", None, per_package=0)
    assert [len(texts) for texts, _ in parts] == [54, 6]
    assert [len(labels) for _, labels in parts] == [54, 6]
    received = [(label, *tokens) for texts, labels in parts for tokens, label in zip(texts, labels, strict=True)]
    texts, labels = text_classification.read_tsv(tmp_path / "texts.tsv")
    assert sorted(received) == sorted((label, *tokens) for tokens, label in zip(texts, labels, strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\tone\nno tab here\n", "received 'no tab here' in non-empty line 2"), ("\n", "is empty")],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, run_example, content: str, message: str):
    (tmp_path / "texts.tsv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        run_example("text_classification", "--train texts.tsv")
    # Python prints a text that is given to `SystemExit`, and exits with 1.
    assert message in stopped.value.code
    assert "\n" not in stopped.value.code


@pytest.mark.fit  # it parses hundreds of files
def test_without_a_file_it_reads_the_functions_on_this_machine(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import text_classification

    monkeypatch.setattr(text_classification, "run", lambda *arguments: arguments)
    *corpora, _, _, _ = text_classification.main(["--per-package", "100"])
    for texts, labels in corpora:
        assert len(texts) == len(labels)
        assert sorted(set(labels)) == sorted(text_classification.PACKAGES)
