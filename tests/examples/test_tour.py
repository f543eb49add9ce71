"""examples/tour.ipynb, executed as a Jupyter kernel does it, and what is stored of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import notebooks
from tests.support.paths import EXAMPLES

NOTEBOOK = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
CELLS = notebooks.code_cells(NOTEBOOK)

CHECKS = """
directly = np.concatenate([model(recording[np.newaxis]).numpy() for recording in x_test[:10]])
np.testing.assert_allclose(predictions[:10], directly, atol=1e-5)
np.testing.assert_allclose(loaded(first), exported.serve(first), atol=1e-6)
assert accuracy > 0.8, accuracy
assert history.history["padding_efficiency"][-1] > 0.75, history.history
longest = len(x_train) * max(map(len, x_train))
assert sum(map(len, x_train)) < 0.3 * longest
"""


@pytest.mark.fit
def test_it_shows_what_is_stored_and_ends_with_a_model_that_padding_does_not_change(tmp_path: Path):
    for library in ("nbclient", "ipykernel"):
        pytest.importorskip(library, reason=f"needs {library}: pip install keras-bucketing[test]")
    checks = {"cell_type": "code", "id": "checks", "metadata": {}, "source": CHECKS}
    notebook = {**NOTEBOOK, "cells": [*NOTEBOOK["cells"], {**checks, "execution_count": None, "outputs": []}]}
    executed = notebooks.execute(notebook, tmp_path)[:-1]
    command = "python -m tests.support.notebooks examples/tour.ipynb"
    for cell, run in zip(CELLS, executed, strict=True):
        assert notebooks.is_same(cell["outputs"], run["outputs"]), (
            f"{cell['id']} shows something else than is stored. `{command}` stores it. It shows:\n"
            f"{notebooks.shown(run['outputs'])}"
        )


def test_what_is_stored_is_what_a_reader_wants_to_see():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert all(output.get("name", "stdout") == "stdout" for output in outputs), "log lines are stored"
    kinds = {kind for cell in CELLS for kind in notebooks.shown(cell["outputs"])}
    assert kinds == {"printed", "text/html", "image/png"}
    printed = "".join(notebooks.shown(cell["outputs"]).get("printed", "") for cell in CELLS)
    assert "accuracy on 120 other recordings" in printed
    assert not re.search(r"\d(ms|us|s)\b|/home/|/tmp/|/work/|/root/", printed), (
        "a time or a path of one machine is stored"
    )


def test_it_names_no_address_as_the_project_has_none_yet():
    assert "http" not in "".join(line for cell in NOTEBOOK["cells"] for line in cell["source"])
