"""Notebooks: run by a Jupyter kernel, stored with what their cells show, and compared with it.

`python -m tests.support.notebooks examples/tour.ipynb` runs a notebook and stores what has changed. Stored are texts as
a terminal shows them in the end, tables and pictures, but no log lines.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.pages import as_shown, is_same_output

Cell = dict[str, Any]


def execute(notebook: dict[str, Any], folder: Path) -> list[Cell]:
    """Runs a notebook in a folder; returns its cells of code, with what they show as it is stored.

    Raises:
        RuntimeError: If a cell raises; it quotes the error.
    """
    (folder / "notebook.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from nbclient.cli import main; main()", "--output=executed", "notebook.ipynb"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"The notebook ended with {result.returncode}.\n{result.stdout}{result.stderr}")
    executed = json.loads((folder / "executed.ipynb").read_text(encoding="utf-8"))
    return [{**cell, "outputs": _stored(cell["outputs"])} for cell in code_cells(executed)]


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    """The cells that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(outputs: list[dict[str, Any]]) -> dict[str, str]:
    """What a cell shows: for each kind, such as printed text and "text/html", all of it."""
    parts: dict[str, str] = {}
    for output in outputs:
        for kind, content in {"printed": output.get("text", []), **output.get("data", {})}.items():
            if content:
                parts[kind] = parts.get(kind, "") + "".join(content)
    return parts


def is_same(stored: list[dict[str, Any]], executed: list[dict[str, Any]]) -> bool:
    """Whether two cells show the same, but for times, the last digits, and what is on pictures."""
    first, second = shown(stored), shown(executed)
    return first.keys() == second.keys() and all(
        kind.startswith("image/") or is_same_output(first[kind], second[kind]) for kind in first
    )


def write_outputs(path: Path) -> bool:
    """Runs a notebook and stores what its cells show where that has changed; returns whether it has."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(notebook, Path(folder))
    changed = False
    for number, (cell, run) in enumerate(zip(code_cells(notebook), executed, strict=True), start=1):
        if not is_same(cell["outputs"], run["outputs"]) or cell["execution_count"] != number:
            cell.update(outputs=run["outputs"], execution_count=number)
            changed = True
    if changed:
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed


def _stored(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs without log lines: a text printed in pieces is one, and a table needs no text beside it."""
    stored: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] != "stdout":
                continue
            text = "".join(output["text"])
            if stored and stored[-1]["output_type"] == "stream":
                text = "".join(stored.pop()["text"]) + text
            lines = as_shown(text).splitlines(keepends=True)
            stored.append({"name": "stdout", "output_type": "stream", "text": lines})
        else:
            data = {kind: _lines(content) for kind, content in output["data"].items()}
            if len(data) > 1:
                data.pop("text/plain", None)
            stored.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return stored


def _lines(content: str | list[str]) -> list[str]:
    return "".join(content).splitlines(keepends=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {'written' if write_outputs(Path(name)) else 'unchanged'}")
