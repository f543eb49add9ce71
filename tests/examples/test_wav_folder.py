"""examples/wav_folder.py, run as a user would: on the recordings that it writes, and on a folder with a broken one."""

import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES

pytestmark = pytest.mark.slow


def run(folder: Path, options: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "wav_folder.py"), *options.split()]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_learns_the_same_from_recordings_and_from_saved_spectrograms(tmp_path: Path):
    results = [run(tmp_path), run(tmp_path, "--save spectrograms"), run(tmp_path, "--save spectrograms")]
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr
    assert len(list(tmp_path.glob("output/recordings/*/*.wav"))) == 300
    lines = [re.findall(r"accuracy: [\d.]+ - loss: [\d.]+|^test accuracy.*", result.stdout, re.M) for result in results]
    assert lines[0] == lines[1] == lines[2]
    accuracy = re.fullmatch(r"test accuracy ([\d.]+), 60 recordings of 3 classes", lines[0][-1])
    assert accuracy, lines[0]
    assert float(accuracy[1]) > 0.9


def test_a_broken_recording_is_named(tmp_path: Path):
    assert run(tmp_path, "--num-files 30 --epochs 1").returncode == 0
    with wave.open(str(tmp_path / "output" / "recordings" / "rises" / "9999.wav"), "wb") as file:
        file.setparams((1, 1, 8000, 4000, "NONE", ""))
        file.writeframes(bytes(4000))
    result = run(tmp_path, "--epochs 1")
    assert result.returncode != 0
    failure = r"LoadError: `load` failed at row \d+ with ValueError: .*9999\.wav has 8 bits a sample"
    assert re.search(failure, result.stderr), result.stderr
