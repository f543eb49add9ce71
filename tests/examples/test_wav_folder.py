"""examples/wav_folder.py, run as a user would: on the recordings that it writes, and on a folder with a broken one."""

import re
import wave
from pathlib import Path

import pytest


@pytest.mark.slow
def test_it_learns_the_same_from_recordings_and_from_saved_spectrograms(tmp_path: Path, run_example):
    outputs = [run_example("wav_folder", options) for options in ("", *["--save spectrograms"] * 2)]
    assert len(list(tmp_path.glob("output/recordings/*/*.wav"))) == 300
    lines = [re.findall(r"accuracy: [\d.]+ - loss: [\d.]+|^test accuracy.*", output, re.M) for output in outputs]
    assert lines[0] == lines[1] == lines[2]
    accuracy = re.fullmatch(r"test accuracy ([\d.]+), 60 recordings of 3 classes", lines[0][-1])
    assert accuracy, lines[0]
    assert float(accuracy[1]) > 0.9


def test_a_broken_recording_is_named(tmp_path: Path, run_example):
    run_example("wav_folder", "--num-files 30 --epochs 1")
    with wave.open(str(tmp_path / "output" / "recordings" / "rises" / "9999.wav"), "wb") as file:
        file.setparams((1, 1, 8000, 4000, "NONE", ""))
        file.writeframes(bytes(4000))
    failure = r"LoadError: `load` failed at row \d+ with ValueError: .*9999\.wav has 8 bits a sample"
    with pytest.raises(Exception, match=failure):
        run_example("wav_folder", "--epochs 1")
