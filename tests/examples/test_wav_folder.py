"""examples/wav_folder.py, run as a user would: on the recordings that it writes, and on a folder with a broken one."""

import re
import wave
from pathlib import Path

import pytest
import tensorflow as tf


@pytest.mark.fit
def test_it_learns_the_same_from_recordings_and_from_saved_spectrograms(tmp_path: Path, run_example):
    outputs = [
        run_example("wav_folder", "--num-files 240"),
        run_example("wav_folder", "--save spectrograms --epochs 1"),
    ]
    saved = [path for path in tmp_path.glob("spectrograms/**/*") if path.is_file()]
    written = [path.stat().st_mtime_ns for path in saved]
    again = run_example("wav_folder", "--save spectrograms --epochs 1")
    assert written
    assert [path.stat().st_mtime_ns for path in saved] == written
    assert len(list(tmp_path.glob("output/recordings/*/*.wav"))) == 240
    lines, *lines_of_saved = (
        re.findall(r"accuracy: [\d.]+ - loss: [\d.]+|^test accuracy.*", output, re.M) for output in (*outputs, again)
    )
    assert lines_of_saved[0] == lines_of_saved[1]
    assert lines_of_saved[0][0] == lines[0]
    accuracy = re.fullmatch(r"test accuracy ([\d.]+), 48 recordings of 3 classes", lines[-1])
    assert accuracy, lines
    assert float(accuracy[1]) > 0.9


@pytest.mark.fit
def test_a_broken_recording_is_named(tmp_path: Path, run_example):
    import wav_folder

    wav_folder.write_whistles(tmp_path / "whistles", num_files=30)
    with wave.open(str(tmp_path / "whistles" / "rises" / "9999.wav"), "wb") as file:
        file.setparams((1, 1, 8000, 4000, "NONE", ""))
        file.writeframes(bytes(4000))
    failure = r"LoadError: `load` failed at row \d+ with ValueError: .*9999\.wav has 8 bits a sample"
    with pytest.raises(tf.errors.InvalidArgumentError, match=failure):
        run_example("wav_folder", "--folder whistles --epochs 1")
