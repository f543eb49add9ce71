"""What the pictures share: colors that color-blind readers tell apart, and how batches are drawn.

The background is white and opaque, so that the pictures are readable on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

REAL = "#10395e"
PADDING = "#d6d6d6"
# Three of Okabe and Ito's colors (https://jfly.uni-koeln.de/color/), for the buckets.
BUCKETS = ["#0072b2", "#e69f00", "#009e73"]
_SETTINGS = {"font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 11, "axes.titlelocation": "left"}


@contextmanager
def page_style() -> Iterator[None]:
    """Draws with Matplotlib's own settings and those of the pictures, and leaves the reader's as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def make_axes(num_panels: int, height: float) -> tuple[Any, Any]:
    """Makes panels below one another, as wide as a page, `height` inches each."""
    figure = Figure(figsize=(7.2, num_panels * height), layout="constrained")
    axes = figure.subplots(num_panels, 1, sharex=True)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", length=0, labelbottom=False)
    return figure, axes


def draw_batches(
    axis: Any, batches: Sequence[np.ndarray], padded_lengths: Sequence[int], colors: Sequence[Any], gap: float
) -> None:
    """Draws each batch as a box, its rows filled as far as they are real.

    Args:
        axis: A Matplotlib axes.
        batches: The lengths of each batch's rows, int arrays `(rows,)`, in timesteps.
        padded_lengths: Ints, one a batch, in timesteps.
        colors: Of the real timesteps of each batch: a color, or one for each row.
        gap: Float, between two batches, in rows.
    """
    start = 0.0
    for lengths, padded_length, color in zip(batches, padded_lengths, colors, strict=True):
        places = start + np.arange(len(lengths))
        axis.bar(start, padded_length, len(lengths), align="edge", color=PADDING)
        axis.bar(places, lengths, 1, align="edge", color=color, edgecolor="white", linewidth=0.3)
        start += len(lengths) + gap


def save(figure: Any, path: Path) -> None:
    """Writes a PNG that is the same, byte for byte, whenever it is drawn with the same version of Matplotlib."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white", metadata={"Software": None})
