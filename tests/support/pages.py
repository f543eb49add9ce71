"""Pages of Markdown: their Python blocks, headings and links, and the data that a page takes for the reader's own."""

import re
import wave
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

# <!-- needs: datasets --> before the blocks of a section says which library they need; it holds to the next heading.
# <!-- given: x, y, model --> before a block names what readers have already; `given` makes them up.
_BLOCK = re.compile(
    r"^```python\n(.*?)^```|^<!-- needs: (\w+) -->$|^<!-- given: ([^\n]*) -->$|^#+ ", flags=re.DOTALL | re.MULTILINE
)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A Python block: the line it is on, its code, the library and the names that it needs."""

    line: int
    code: str
    library: str | None
    given: list[str]


def python_blocks(text: str) -> list[Block]:
    """The Python blocks of a page, in their order."""
    blocks: list[Block] = []
    library, names = None, []
    for found in _BLOCK.finditer(text):
        code, needed, given = found.groups()
        if code is not None:
            blocks.append(Block(text.count("\n", 0, found.start(1)), code, library, names))
            names = []
        elif given is not None:
            names = given.split(", ")
        else:
            library = needed
    return blocks


def run(path: str, blocks: list[Block]) -> dict[str, object]:
    """Runs blocks in one go, as somebody would type them; returns the names that they leave."""
    names: dict[str, object] = {}
    for block in blocks:
        names |= {name: value for name, value in make_given(block.given).items() if value is not None}
        exec(compile("\n" * block.line + block.code, path, "exec"), names)  # errors show the page's line
    return names


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
