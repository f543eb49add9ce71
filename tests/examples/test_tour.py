"""examples/tour.ipynb, executed as a Jupyter kernel does it, and what is stored of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES
from tests.support.processes import run_python

NOTEBOOK = EXAMPLES / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]

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
def test_it_runs_from_top_to_bottom_and_ends_with_a_model_that_padding_does_not_change(tmp_path: Path):
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install keras-bucketing[test]")
    code = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
    cells = tmp_path / "cells.json"
    cells.write_text(json.dumps([*code, CHECKS]), encoding="utf-8")
    environment = {"IPYTHONDIR": str(tmp_path)}
    printed = run_python("-c", RUN, str(cells), cwd=tmp_path, environment=environment, check=True).stdout
    assert re.search("^shown: .*image/png", printed, re.MULTILINE), "the picture of the buckets is missing"
    assert "everything to the longest" in printed


def test_it_is_stored_without_outputs():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]


def test_it_names_no_address_as_the_project_has_none_yet():
    assert "http" not in NOTEBOOK.read_text(encoding="utf-8")
