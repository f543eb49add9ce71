"""The README is executed: its Python blocks in one go, as somebody would type them, its links and commands checked."""

import re
import wave
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks.lengths import lognormal_lengths
from keras_bucketing import BucketedSequence, padding_report
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_five_lines_at_the_top_run():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, 70)
    model = keras.Sequential([keras.layers.Masking(), keras.layers.LSTM(4), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    names = {"x": [rng.normal(size=(n, 2)) for n in lengths], "y": rng.integers(0, 2, 70), "model": model}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    assert names["predictions"].shape == (70, 2)


def write_recordings(folder: Path) -> None:
    """What the guide takes for the reader's own data."""
    for index in range(8):
        path = folder / ("yes" if index % 2 else "no") / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(index).integers(-99, 99, 1600 + 333 * index, np.int16).tobytes())


@pytest.mark.slow
def test_the_guide_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_recordings(tmp_path / "recordings")
    names: dict[str, object] = {}
    for block in BLOCKS[1:]:
        exec(compile(block, "README.md", "exec"), names)
        if "from_loader" in block:
            dataset = names["dataset"]
            assert isinstance(dataset, BucketedSequence)
            assert sum(len(classes) for _, classes in dataset) == 8


def test_the_shares_of_real_timesteps_at_the_top():
    lengths = lognormal_lengths(25_000, mean=235, median=174, longest=2_500)
    longest, random = padding_report(lengths).strategies[:2]
    dataset = BucketedSequence.from_row_splits(np.zeros(lengths.sum(), np.int8), np.cumsum([0, *lengths]), seed=0)
    shares = [longest.padding_efficiency, random.padding_efficiency, dataset.padding_stats().padding_efficiency]
    found = re.search(r"(\d+) %\nand (\d+) % of the timesteps are real.* together: (\d+) %", README)
    assert found, "the sentence has changed"
    assert [round(100 * share) for share in shares] == [int(share) for share in found.groups()]


def test_every_link_into_the_repository_leads_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_commands_do_all_the_set_up(name: str):
    command = re.search(rf"<!-- {name} command -->\n```bash\n(.*?)```", README, flags=re.DOTALL)
    assert command, f"the README has no {name} command"
    assert "python3 -m venv" in command[1]
    assert "pip install" in command[1]


def test_scripts_that_the_readme_names_exist():
    scripts = set(re.findall(r"\b(?:examples|benchmarks)/\w+\.py\b", README))
    assert scripts
    assert [script for script in sorted(scripts) if not (ROOT / script).exists()] == []
