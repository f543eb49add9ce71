"""examples/encoder_decoder.py: the loss of a batch does not depend on what its rows are padded to."""

import numpy as np
import pytest

from tests.support.paths import EXAMPLES


@pytest.fixture
def encoder_decoder(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import encoder_decoder

    return encoder_decoder


@pytest.mark.fit
def test_the_loss_is_that_of_padded_data(encoder_decoder, capsys):
    bucketed, padded = encoder_decoder.main(["--quick"])
    assert bucketed == pytest.approx(padded, rel=1e-5)
    assert bucketed < np.log(len(encoder_decoder.WORDS))  # less than that of guessing
    assert "every word right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (40, "forty"),
        (101, "one hundred one"),
        (7012, "seven thousand twelve"),
        (90_000_021_600, "ninety billion twenty one thousand six hundred"),
        (999_999, "nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_numbers_are_read_aloud(encoder_decoder, number, words):
    assert " ".join(encoder_decoder.read_aloud(number)) == words


def test_the_decoder_reads_the_words_so_far(encoder_decoder):
    x, y = encoder_decoder.make_data(50, seed=3)
    for source, decoder_input, answer in zip(x["source"], x["decoder_input"], y, strict=True):
        number = int("".join(str(digit - 1) for digit in source))
        words = [encoder_decoder.WORDS[index] for index in answer]
        assert words == [*encoder_decoder.read_aloud(number), "<end>"]
        assert [encoder_decoder.WORDS[index] for index in decoder_input] == ["<start>", *words[:-1]]
