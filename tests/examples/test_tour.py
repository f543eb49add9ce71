"""examples/tour.ipynb, executed as a Jupyter kernel does it, and what is stored of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import notebooks
from tests.support.paths import EXAMPLES
from tests.support.processes import run_python

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


# As the kernel does it: IPython runs cell by cell, and matplotlib draws into the outputs. But IPython does so here in a
# process that has imported TensorFlow already.
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import activate_matplotlib
from IPython.utils.capture import capture_output
from matplotlib_inline.backend_inline import configure_inline_support

INLINE = "module://matplotlib_inline.backend_inline"
shell = InteractiveShell.instance()
activate_matplotlib(INLINE)
configure_inline_support(shell, INLINE)
for cell in json.load(open(sys.argv[1], encoding="utf-8")):
    with capture_output() as captured:
        result = shell.run_cell(cell)
    sys.stdout.write(captured.stdout)
    result.raise_error()
    for output in captured.outputs:
        print("shown:", *output.data)
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
