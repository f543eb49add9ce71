"""The progress of a training in a terminal: recorded in a real one, and drawn from that record."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

RECORD = Path(__file__).with_name("progress.txt")
CALL = "model.fit(dataset, epochs=3, callbacks=[PaddingStatsCallback(dataset)])"
_COLUMNS = 86  # those of the longest line, and two


def train() -> None:
    """What is recorded: an LSTM on sequences of different lengths, three epochs."""
    import keras
    import numpy as np

    from benchmarks.lengths import lognormal_lengths
    from keras_bucketing import BucketedSequence, PaddingStatsCallback, SequenceMasking

    keras.utils.set_random_seed(0)
    lengths = lognormal_lengths(1280, mean=60, median=45, longest=300)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, len(lengths))
    x = [rng.normal(label, 2.0, (length, 4)) for label, length in zip(y, lengths, strict=True)]
    dataset = BucketedSequence(x, y, batch_size=32, seed=0)
    model = keras.Sequential([SequenceMasking(), keras.layers.LSTM(16), keras.layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy")
    model.fit(dataset, epochs=3, shuffle=False, callbacks=[PaddingStatsCallback(dataset)])


def record(path: Path = RECORD) -> None:
    """Trains in a terminal of its own and writes what it showed when the last epoch was half done."""
    import pty  # a terminal; not on Windows

    output = bytearray()

    def read(descriptor: int) -> bytes:
        output.extend(data := os.read(descriptor, 1024))
        return data

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    pty.spawn([sys.executable, "-c", "from docs.pictures.progress import train; train()"], read)
    path.write_text("\n".join(shown_lines(output.decode())) + "\n", encoding="utf-8")


def shown_lines(output: str) -> list[str]:
    """The lines of a terminal in the middle of the last epoch, with their escape sequences for colors.

    Args:
        output: Str, all that was written. Keras goes back to the start of the line and writes it again at each step.
    """
    states = [re.split(r"[\b\r]+", line) for line in output.replace("\r\n", "\n").split("\n")]
    states = [[state for state in line if state.strip()] for line in states]
    first = next(index for index, line in enumerate(states) if line and line[0].startswith("Epoch 1/"))
    lines = [line for line in states[first:] if line]
    *earlier, last = lines
    return [line[-1].rstrip() for line in earlier] + [last[len(last) // 2].rstrip()]


def draw_progress(path: Path) -> None:
    """Draws the record as SVG, in the colors of a dark terminal, which pages of any background show well."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in RECORD.read_text(encoding="utf-8").splitlines():
        console.print(Text.from_ansi(line))
    console.print()  # rich clips the last line by a path that it does not define
    picture = console.export_svg(title=CALL, unique_id="progress")
    # The reader's own fonts do, nothing is fetched from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", picture, flags=re.DOTALL)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture.replace("Fira Code, monospace", "monospace"), encoding="utf-8")
