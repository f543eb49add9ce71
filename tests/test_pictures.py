"""The pictures of the documentation: drawn anew, the same each time, and as true as what they show."""

from __future__ import annotations

import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import ROOT

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install keras-bucketing[test]")
pytest.importorskip("rich", reason="needs rich: pip install keras-bucketing[test]")
from docs.pictures import draw, progress, strategies

PICTURES = ROOT / "docs" / "pictures"
LARGEST = 150_000  # bytes, so that pages load fast


@pytest.mark.fit
def test_the_command_draws_the_pictures_that_are_stored_twice_the_same(tmp_path: Path):
    for folder in ("first", "second"):
        draw.main(["--output", str(tmp_path / folder)])
    stored = {path.name for path in PICTURES.iterdir() if path.suffix in {".png", ".svg"}}
    assert stored == set(draw.PICTURES) == {path.name for path in (tmp_path / "first").iterdir()}
    for name in stored:
        drawn = (tmp_path / "first" / name).read_bytes()
        assert drawn == (tmp_path / "second" / name).read_bytes(), name
        assert max(len(drawn), (PICTURES / name).stat().st_size) < LARGEST, name


def test_the_five_strategies_pad_the_same_sequences_less_and_less():
    epochs = strategies.epochs()
    everything, *others = epochs.values()
    lengths = np.concatenate(everything.batches)
    assert everything.padding_efficiency == lengths.sum() / (lengths.size * lengths.max())
    for name, epoch in epochs.items():
        assert sorted(np.concatenate(epoch.batches)) == sorted(lengths), name
        for batch, padded_length in zip(epoch.batches, epoch.padded_lengths, strict=True):
            assert batch.max() <= padded_length, name
    in_order, random, by_sequence_length, bucketed = (epoch.padding_efficiency for epoch in others)
    assert everything.padding_efficiency < min(in_order, random)
    assert max(in_order, random) < by_sequence_length < bucketed


def test_the_terminal_shows_what_was_recorded_and_fetches_nothing():
    picture = (PICTURES / "progress.svg").read_text(encoding="utf-8")
    shown = "".join(xml.etree.ElementTree.fromstring(picture).itertext()).replace("\N{NO-BREAK SPACE}", " ")
    recorded = re.sub(r"\x1b\[\d*m", "", progress.RECORD.read_text(encoding="utf-8"))
    for words in re.findall(r"Epoch \d/\d|\d+/\d+|loss: [\d.]+|padding_efficiency: [\d.]+", recorded):
        assert words in shown, words
    assert re.findall(r"https?://(?!www\.w3\.org/)", picture) == []


def test_a_recording_stops_in_the_middle_of_the_last_epoch():
    output = "noise\r\nEpoch 1/2\r\n\r1/2 a\b\b\b\r2/2 b \r\nEpoch 2/2\r\n\r1/4 c\b\b\r2/4 d\b\b\r3/4 e\b\b\r4/4 f\r\n"
    assert progress.shown_lines(output) == ["Epoch 1/2", "2/2 b", "Epoch 2/2", "3/4 e"]
