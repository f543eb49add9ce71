"""Pages of Markdown: their Python blocks, headings and links, and the data that a page takes for the reader's own.

A page shows what a block prints in a block below it:

    <!-- output -->
    ```text
    what it prints
    ```

A run of the page fails where that has changed. `python -m tests.support.pages docs/guide/PAGE.md ...` writes it.

`<!-- backend: jax -->` at the top of a page says which backend of Keras its blocks need; it is TensorFlow otherwise.
"""

import contextlib
import gc
import importlib.util
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

# <!-- needs: datasets --> before the blocks of a section says which library they need; it holds to the next heading.
# <!-- given: x, y, model --> before a block names what readers have already; `given` makes them up.
_BLOCK = re.compile(
    r"^```python\n(.*?)^```(?:\n+<!-- output -->\n```text\n(.*?)^```)?"
    r"|^<!-- needs: (\w+) -->$|^<!-- given: ([^\n]*) -->$|^#+ ",
    flags=re.DOTALL | re.MULTILINE,
)
_BACKEND = re.compile(r"^<!-- backend: (\w+) -->$", flags=re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A Python block: the line it is on, its code, the library and the names that it needs, and what it prints.

    `place` is where the page shows what it prints, from which character to which.
    """

    line: int
    code: str
    library: str | None
    given: list[str]
    output: str | None = None
    place: tuple[int, int] = (0, 0)


def python_blocks(text: str) -> list[Block]:
    """The Python blocks of a page, in their order."""
    blocks: list[Block] = []
    library, names = None, []
    for found in _BLOCK.finditer(text):
        code, output, needed, given = found.groups()
        if code is not None:
            line = text.count("\n", 0, found.start(1))
            blocks.append(Block(line, code, library, names, output, found.span(2)))
            names = []
        elif given is not None:
            names = given.split(", ")
        else:
            library = needed
    return blocks


def backend_of(text: str) -> str:
    """The backend of Keras that the blocks of a page need."""
    found = _BACKEND.search(text)
    return found[1] if found else "tensorflow"


def blocks_with(library: str | None, blocks: list[Block]) -> list[Block]:
    """The blocks that run in one go: those that need no library, or the first one and those that need this library."""
    first, *others = blocks
    return [first, *(block for block in others if block.library == library)]


def run(path: str, blocks: list[Block], printed: list[str] | None = None) -> dict[str, object]:
    """Runs blocks in one go, as a reader would type them; returns the names that they leave.

    Raises:
        AssertionError: If a block prints something else than the page shows, unless what they print is collected in
            `printed`.
    """
    names: dict[str, object] = {}
    gc.freeze()  # `clear_session` collects garbage, and need not look at the graphs of all tests before
    keras.backend.clear_session()  # names of layers are counted from the beginning
    for block in blocks:
        names |= {name: value for name, value in make_given(block.given).items() if value is not None}
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            exec(compile("\n" * block.line + block.code, path, "exec"), names)  # errors show the page's line
        shown = as_shown(stream.getvalue())
        if printed is not None:
            printed.append(shown)
        elif block.output is not None:
            assert is_same_output(block.output, shown), (
                f"{path}, line {block.line}: the block prints something else than the page shows. "
                f"`python -m tests.support.pages {path}` writes it. It prints:\n{shown}"
            )
    return names


def as_shown(printed: str) -> str:
    """What a terminal shows of it in the end: without colors, each line as it was last written."""
    lines = re.sub(r"\x1b\[\d*m", "", printed).split("\n")
    states = [[state for state in re.split(r"[\b\r]+", line) if state.strip()] for line in lines]
    return "\n".join(state[-1].rstrip() if state else "" for state in states).strip("\n") + "\n"


def is_same_output(first: str, second: str) -> bool:
    """Whether two outputs are the same but for times, rounding errors, columns, and 2 % of numbers with decimals."""
    if _without_decimals(first) != _without_decimals(second):
        return False
    pairs = zip(_DECIMAL.findall(_without_times(first)), _DECIMAL.findall(_without_times(second)), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=0.02, abs_tol=0.02) for one, other in pairs)


_DECIMAL = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?")


def _without_times(text: str) -> str:
    """Without times, and without the rounding errors that `check_padding` measures."""
    text = re.sub(r"(?<=\bat most )(?:0|\d+(?:\.\d+)?e-\d+)(?= )", "TINY", text)
    return re.sub(r"\b\d+(?:\.\d+)?(?:ms|us|s)(?:/step|/epoch)?\b", "TIME", text)


def _without_decimals(text: str) -> list[str]:
    return re.sub(r"#+\.*|\.{3,}", "BAR", _DECIMAL.sub("DECIMAL", _without_times(text))).split()


def write_outputs(path: Path) -> bool:
    """Runs a page and writes what its blocks print where the page shows it; returns whether that has changed."""
    text = path.read_text(encoding="utf-8")
    blocks = python_blocks(text)
    libraries = {block.library for block in blocks if block.library and importlib.util.find_spec(block.library)}
    shown: dict[int, str] = {}
    for library in [None, *sorted(libraries)]:
        together = blocks_with(library, blocks)
        printed: list[str] = []
        with _in_a_new_folder():
            run(str(path), together, printed)
        shown |= dict(zip([block.line for block in together], printed, strict=True))
    updated = text
    for block in reversed(blocks):
        new = shown.get(block.line)
        if block.output is not None and new is not None and not is_same_output(block.output, new):
            begin, end = block.place
            updated = updated[:begin] + new + updated[end:]
    path.write_text(updated, encoding="utf-8")
    return updated != text


@contextlib.contextmanager
def _in_a_new_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # contextlib.chdir is of Python 3.11
        try:
            yield
        finally:
            os.chdir(before)


def make_given(names: list[str]) -> dict[str, object]:
    """What a page takes for the reader's own, made up; of files, in the current directory."""
    if not names:
        return {}
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, 70)
    given = {
        "x": [rng.normal(size=(length, 2)) for length in lengths],
        "y": rng.integers(0, 2, 70),
        "recordings": [rng.normal(size=(length, 12)) for length in lengths],
        "texts": [rng.integers(1, 1000, length) for length in lengths],
        "padded": keras.utils.pad_sequences([rng.integers(1, 1000, length) for length in lengths]),
        "labels": rng.integers(0, 3, 70),
    }
    if "model" in names:
        given["model"] = keras.Sequential([keras.layers.Masking(), keras.layers.LSTM(4), keras.layers.Dense(2)])
        given["model"].compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if "recordings/" in names:
        given["recordings/"] = write_recordings(Path("recordings"))
    return {name: given[name] for name in names}


def write_recordings(folder: Path) -> None:
    """Writes eight wav files in two subfolders."""
    for index in range(8):
        path = folder / ("yes" if index % 2 else "no") / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(index).integers(-99, 99, 1600 + 333 * index, np.int16).tobytes())


def headings(text: str) -> list[str]:
    """The headings of a page, without those that are code."""
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as MyST and repository hosts make them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)}


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures that lead into the repository."""
    found = _LINK.findall(_CODE.sub("`code`", text)) + re.findall(r"^```\{image\} (\S+)$", text, flags=re.MULTILINE)
    return [target for target in found if not re.match(r"https?:|mailto:", target)]


def dead_links(path: Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading of a page."""
    text = path.read_text(encoding="utf-8")
    dead = []
    for link in links(text):
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


def main(names: list[str]) -> None:
    """Writes the outputs of pages, each under the backend of Keras that it needs."""
    for name in names:
        backend = backend_of(Path(name).read_text(encoding="utf-8"))
        if backend != keras.backend.backend():
            command = [sys.executable, "-m", "tests.support.pages", name]
            subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, check=True)
        else:
            print(f"{name}: {'written' if write_outputs(Path(name).resolve()) else 'unchanged'}")


if __name__ == "__main__":
    main(sys.argv[1:])
