"""examples/tour.ipynb, executed by a Jupyter kernel, and what is stored of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import EXAMPLES

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


@pytest.mark.fit
def test_it_runs_from_top_to_bottom_and_ends_with_a_model_that_padding_does_not_change(tmp_path: Path):
    for library in ("nbclient", "ipykernel"):
        pytest.importorskip(library, reason=f"needs {library}: pip install keras-bucketing[test]")
    checks = {"cell_type": "code", "id": "checks", "metadata": {}, "source": CHECKS}
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    notebook["cells"].append({**checks, "execution_count": None, "outputs": []})
    (tmp_path / "tour.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from nbclient.cli import main; main()", "--output=executed", "tour.ipynb"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    executed = json.loads((tmp_path / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "the picture of the buckets is missing"
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "everything to the longest" in printed


def test_it_is_stored_without_outputs():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]


def test_it_names_no_address_as_the_project_has_none_yet():
    assert "http" not in NOTEBOOK.read_text(encoding="utf-8")
