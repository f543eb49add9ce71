"""Runs an example as its command line would, in the process of the test."""

import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES


@pytest.fixture
def run_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Returns `run(name, options)`, which runs `examples/name.py` in `tmp_path` and returns what it printed."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def run(name: str, options: str = "") -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *shlex.split(options)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run
