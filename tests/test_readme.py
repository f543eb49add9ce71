"""The README is executed: its Python blocks in one go, as somebody would type them, its links and commands checked."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lengths import lognormal_lengths
from keras_bucketing import BucketedSequence, padding_report
from tests.support.pages import dead_links, links, python_blocks, run
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(README)


def test_it_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.smoke(fits=1)
def test_its_blocks_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = run("README.md", BLOCKS)
    assert names["predictions"].shape == (len(names["x"]), 2)


def test_the_shares_of_real_timesteps():
    lengths = lognormal_lengths(25_000, mean=235, median=174, longest=2_500)
    longest, random = padding_report(lengths).strategies[:2]
    dataset = BucketedSequence.from_row_splits(np.zeros(lengths.sum(), np.int8), np.cumsum([0, *lengths]), seed=0)
    shares = [longest.padding_efficiency, random.padding_efficiency, dataset.padding_stats().padding_efficiency]
    found = dict(re.findall(r"^\| ([^|]+) \| <!--[^>]+-->(\d+)<!-- end --> % \|", README, flags=re.MULTILINE))
    rows = ["everything padded to the longest", "shuffled `padded_batch`", "`BucketedSequence`"]
    assert [round(100 * share) for share in shares] == [int(found[row]) for row in rows]


def test_every_link_into_the_repository_leads_somewhere():
    assert len(links(README)) > 10
    assert dead_links(ROOT / "README.md") == []


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
